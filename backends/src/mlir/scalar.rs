//! Scalar functions and conversions as operations of `arith` and `math`, on scalars or lane by lane.
//!
//! What `arith` leaves undefined (division by zero, shifts by the width, floats beyond the integers) is guarded, so
//! that every function means what [`aic_ir::scalar`] says.

use super::text::{Writer, vector};
use aic_ir::dtype::DType;
use aic_ir::kernel::VType;
use aic_ir::scalar::{Scalar, ScalarFn};

/// Applies a function. `ty` is the operands' type; for `select`, that of the values it chooses from.
pub(crate) fn call(w: &mut Writer, f: ScalarFn, ty: VType, x: &[String]) -> String {
    match f {
        ScalarFn::Select => select(w, ty, &x[0], &x[1], &x[2]),
        _ if ty.dtype.is_float() => float(w, f, ty, x),
        _ if ty.dtype == DType::Bool => boolean(w, f, ty, x),
        _ => integer(w, f, ty, x),
    }
}

/// `op a, b : type`
fn op(w: &mut Writer, ty: VType, name: &str, x: &[&str]) -> String {
    w.value(format!("{name} {} : {}", x.join(", "), vector(ty)))
}

fn select(w: &mut Writer, ty: VType, cond: &str, yes: &str, no: &str) -> String {
    let ty = match ty.lanes {
        1 => vector(ty),
        lanes => format!("vector<{lanes}xi1>, {}", vector(ty)),
    };
    w.value(format!("arith.select {cond}, {yes}, {no} : {ty}"))
}

fn compare(w: &mut Writer, ty: VType, predicate: &str, a: &str, b: &str) -> String {
    let name = if ty.dtype.is_float() { "arith.cmpf" } else { "arith.cmpi" };
    w.value(format!("{name} {predicate}, {a}, {b} : {}", vector(ty)))
}

fn number(w: &mut Writer, ty: VType, value: f64) -> String {
    w.scalar(ty, Scalar::F(value))
}

fn whole(w: &mut Writer, ty: VType, value: i64) -> String {
    w.scalar(ty, Scalar::I(value))
}

fn float(w: &mut Writer, f: ScalarFn, ty: VType, x: &[String]) -> String {
    let a = x[0].as_str();
    let b = x.get(1).map_or("", String::as_str);
    let plain = match f {
        ScalarFn::Add => "arith.addf",
        ScalarFn::Sub => "arith.subf",
        ScalarFn::Mul => "arith.mulf",
        ScalarFn::Div => "arith.divf",
        ScalarFn::Rem => "arith.remf",
        ScalarFn::Min => "arith.minimumf",
        ScalarFn::Max => "arith.maximumf",
        ScalarFn::Neg => "arith.negf",
        ScalarFn::Fma => "math.fma",
        ScalarFn::Pow => "math.powf",
        ScalarFn::Abs => "math.absf",
        ScalarFn::Sqrt => "math.sqrt",
        ScalarFn::Exp => "math.exp",
        ScalarFn::Log => "math.log",
        ScalarFn::Sin => "math.sin",
        ScalarFn::Cos => "math.cos",
        ScalarFn::Tan => "math.tan",
        ScalarFn::Asin => "math.asin",
        ScalarFn::Acos => "math.acos",
        ScalarFn::Atan => "math.atan",
        ScalarFn::Sinh => "math.sinh",
        ScalarFn::Cosh => "math.cosh",
        ScalarFn::Tanh => "math.tanh",
        ScalarFn::Asinh => "math.asinh",
        ScalarFn::Acosh => "math.acosh",
        ScalarFn::Atanh => "math.atanh",
        ScalarFn::Erf => "math.erf",
        ScalarFn::Floor => "math.floor",
        ScalarFn::Ceil => "math.ceil",
        ScalarFn::Round => "math.roundeven",
        ScalarFn::Trunc => "math.trunc",
        ScalarFn::Eq => return compare(w, ty, "oeq", a, b),
        ScalarFn::Ne => return compare(w, ty, "une", a, b),
        ScalarFn::Lt => return compare(w, ty, "olt", a, b),
        ScalarFn::Le => return compare(w, ty, "ole", a, b),
        ScalarFn::Gt => return compare(w, ty, "ogt", a, b),
        ScalarFn::Ge => return compare(w, ty, "oge", a, b),
        ScalarFn::IsNan => return compare(w, ty, "uno", a, a),
        ScalarFn::IsInf => {
            let (abs, inf) = (op(w, ty, "math.absf", &[a]), number(w, ty, f64::INFINITY));
            return compare(w, ty, "oeq", &abs, &inf);
        }
        ScalarFn::Mod => {
            let zero = number(w, ty, 0.0);
            let rest = op(w, ty, "arith.remf", &[a, b]);
            let is_zero = compare(w, ty, "oeq", &rest, &zero);
            return signed_as(w, ty, "olt", "arith.addf", &rest, b, &zero, &is_zero);
        }
        ScalarFn::Sign => {
            let (zero, one) = (number(w, ty, 0.0), number(w, ty, 1.0));
            let sign = op(w, ty, "math.copysign", &[&one, a]);
            let keeps = compare(w, ty, "ueq", a, &zero);
            return select(w, ty, &keeps, a, &sign);
        }
        ScalarFn::Sigmoid => {
            let (one, negative) = (number(w, ty, 1.0), op(w, ty, "arith.negf", &[a]));
            let exp = op(w, ty, "math.exp", &[&negative]);
            let sum = op(w, ty, "arith.addf", &[&one, &exp]);
            return op(w, ty, "arith.divf", &[&one, &sum]);
        }
        ScalarFn::Softplus => {
            let (zero, abs) = (number(w, ty, 0.0), op(w, ty, "math.absf", &[a]));
            let positive = op(w, ty, "arith.maximumf", &[a, &zero]);
            let negative = op(w, ty, "arith.negf", &[&abs]);
            let exp = op(w, ty, "math.exp", &[&negative]);
            let log = op(w, ty, "math.log1p", &[&exp]);
            return op(w, ty, "arith.addf", &[&positive, &log]);
        }
        // Functions of integers and truth values, which take no floats.
        ScalarFn::BitAnd
        | ScalarFn::BitOr
        | ScalarFn::BitXor
        | ScalarFn::BitNot
        | ScalarFn::Shl
        | ScalarFn::Shr
        | ScalarFn::And
        | ScalarFn::Or
        | ScalarFn::Xor
        | ScalarFn::Not
        | ScalarFn::Select => return a.to_owned(),
    };
    let x: Vec<&str> = x.iter().map(String::as_str).collect();
    op(w, ty, plain, &x)
}

/// A remainder with the sign of `b`: `rest + b` where it isn't zero and their signs differ, else `rest`.
#[allow(clippy::too_many_arguments)]
fn signed_as(
    w: &mut Writer,
    ty: VType,
    less: &str,
    add: &str,
    rest: &str,
    b: &str,
    zero: &str,
    is_zero: &str,
) -> String {
    let truth = VType { dtype: DType::Bool, ..ty };
    let (r, s) = (compare(w, ty, less, rest, zero), compare(w, ty, less, b, zero));
    let differ = op(w, truth, "arith.xori", &[&r, &s]);
    let moved = op(w, ty, add, &[rest, b]);
    let moved = select(w, ty, &differ, &moved, rest);
    select(w, ty, is_zero, rest, &moved)
}

fn boolean(w: &mut Writer, f: ScalarFn, ty: VType, x: &[String]) -> String {
    let a = x[0].as_str();
    let b = x.get(1).map_or("", String::as_str);
    match f {
        ScalarFn::And => op(w, ty, "arith.andi", &[a, b]),
        ScalarFn::Or => op(w, ty, "arith.ori", &[a, b]),
        ScalarFn::Xor => op(w, ty, "arith.xori", &[a, b]),
        ScalarFn::Not => {
            let yes = w.scalar(ty, Scalar::B(true));
            op(w, ty, "arith.xori", &[a, &yes])
        }
        _ => compare(w, ty, predicate(f, false), a, b),
    }
}

fn predicate(f: ScalarFn, signed: bool) -> &'static str {
    match (f, signed) {
        (ScalarFn::Ne, _) => "ne",
        (ScalarFn::Lt, true) => "slt",
        (ScalarFn::Le, true) => "sle",
        (ScalarFn::Gt, true) => "sgt",
        (ScalarFn::Ge, true) => "sge",
        (ScalarFn::Lt, false) => "ult",
        (ScalarFn::Le, false) => "ule",
        (ScalarFn::Gt, false) => "ugt",
        (ScalarFn::Ge, false) => "uge",
        _ => "eq",
    }
}

fn integer(w: &mut Writer, f: ScalarFn, ty: VType, x: &[String]) -> String {
    let a = x[0].as_str();
    let b = x.get(1).map_or("", String::as_str);
    let signed = ty.dtype.is_signed();
    let suffix = if signed { "si" } else { "ui" };
    match f {
        ScalarFn::Add => op(w, ty, "arith.addi", &[a, b]),
        ScalarFn::Sub => op(w, ty, "arith.subi", &[a, b]),
        ScalarFn::Mul => op(w, ty, "arith.muli", &[a, b]),
        ScalarFn::Fma => {
            let product = op(w, ty, "arith.muli", &[a, b]);
            op(w, ty, "arith.addi", &[&product, &x[2]])
        }
        ScalarFn::Div | ScalarFn::Rem | ScalarFn::Mod => divide(w, f, ty, a, b),
        ScalarFn::Pow => power(w, ty, a, b),
        ScalarFn::Min | ScalarFn::Max => {
            let name = if f == ScalarFn::Min { "arith.min" } else { "arith.max" };
            op(w, ty, &format!("{name}{suffix}"), &[a, b])
        }
        ScalarFn::Neg => negative(w, ty, a),
        ScalarFn::Abs if signed => {
            let negative = negative(w, ty, a);
            op(w, ty, "arith.maxsi", &[a, &negative])
        }
        ScalarFn::Sign if signed => {
            let (one, minus) = (whole(w, ty, 1), whole(w, ty, -1));
            let low = op(w, ty, "arith.maxsi", &[a, &minus]);
            op(w, ty, "arith.minsi", &[&low, &one])
        }
        ScalarFn::Sign => {
            let one = whole(w, ty, 1);
            op(w, ty, "arith.minui", &[a, &one])
        }
        ScalarFn::BitAnd => op(w, ty, "arith.andi", &[a, b]),
        ScalarFn::BitOr => op(w, ty, "arith.ori", &[a, b]),
        ScalarFn::BitXor => op(w, ty, "arith.xori", &[a, b]),
        ScalarFn::BitNot => {
            let ones = w.scalar(VType { dtype: as_signed(ty.dtype), ..ty }, Scalar::I(-1));
            op(w, ty, "arith.xori", &[a, &ones])
        }
        ScalarFn::Shr if signed => {
            let last = whole(w, ty, 8 * ty.dtype.size() as i64 - 1);
            let by = op(w, ty, "arith.minui", &[b, &last]);
            op(w, ty, "arith.shrsi", &[a, &by])
        }
        ScalarFn::Shl | ScalarFn::Shr => {
            let (zero, width) = (whole(w, ty, 0), whole(w, ty, 8 * ty.dtype.size() as i64));
            let fits = compare(w, ty, "ult", b, &width);
            let by = select(w, ty, &fits, b, &zero);
            let shifted = op(w, ty, if f == ScalarFn::Shl { "arith.shli" } else { "arith.shrui" }, &[a, &by]);
            select(w, ty, &fits, &shifted, &zero)
        }
        ScalarFn::Eq | ScalarFn::Ne | ScalarFn::Lt | ScalarFn::Le | ScalarFn::Gt | ScalarFn::Ge => {
            compare(w, ty, predicate(f, signed), a, b)
        }
        // The absolute value of an unsigned number; the rest take no integers.
        _ => a.to_owned(),
    }
}

fn as_signed(dtype: DType) -> DType {
    match dtype {
        DType::U8 => DType::I8,
        DType::U16 => DType::I16,
        DType::U32 => DType::I32,
        DType::U64 => DType::I64,
        other => other,
    }
}

fn negative(w: &mut Writer, ty: VType, a: &str) -> String {
    let zero = whole(w, ty, 0);
    op(w, ty, "arith.subi", &[&zero, a])
}

/// Quotient, remainder or modulus; 0 where the divisor is.
fn divide(w: &mut Writer, f: ScalarFn, ty: VType, a: &str, b: &str) -> String {
    let signed = ty.dtype.is_signed();
    let (zero, one) = (whole(w, ty, 0), whole(w, ty, 1));
    let is_zero = compare(w, ty, "eq", b, &zero);
    let mut divisor = select(w, ty, &is_zero, &one, b);
    let minus = signed.then(|| {
        let minus = w.scalar(ty, Scalar::I(-1));
        compare(w, ty, "eq", b, &minus)
    });
    if let Some(minus) = &minus {
        divisor = select(w, ty, minus, &one, &divisor);
    }
    let name = match (f, signed) {
        (ScalarFn::Div, true) => "arith.divsi",
        (ScalarFn::Div, false) => "arith.divui",
        (_, true) => "arith.remsi",
        (_, false) => "arith.remui",
    };
    let mut result = op(w, ty, name, &[a, &divisor]);
    match &minus {
        Some(minus) if f == ScalarFn::Div => {
            let negated = negative(w, ty, a);
            result = select(w, ty, minus, &negated, &result);
        }
        Some(_) if f == ScalarFn::Mod => {
            let exact = compare(w, ty, "eq", &result, &zero);
            result = signed_as(w, ty, "slt", "arith.addi", &result, b, &zero, &exact);
        }
        _ => {}
    }
    select(w, ty, &is_zero, &zero, &result)
}

/// `a` to the power `b`, by squaring.
fn power(w: &mut Writer, ty: VType, a: &str, b: &str) -> String {
    let t = vector(ty);
    let (zero, one) = (whole(w, ty, 0), whole(w, ty, 1));
    let (from, to, step) = (w.index(0), w.index(8 * ty.dtype.size() as i64), w.index(1));
    let [result, bit, product, square, rest] = [(); 5].map(|()| w.fresh());
    w.open(&format!(
        "{result}:3 = scf.for {bit} = {from} to {to} step {step} iter_args({product} = {one}, {square} = {a}, {rest} = {b}) -> ({t}, {t}, {t}) {{"
    ));
    let low = op(w, ty, "arith.andi", &[&rest, &one]);
    let is_set = compare(w, ty, "ne", &low, &zero);
    let more = op(w, ty, "arith.muli", &[&product, &square]);
    let more = select(w, ty, &is_set, &more, &product);
    let next = op(w, ty, "arith.muli", &[&square, &square]);
    let rest = op(w, ty, "arith.shrui", &[&rest, &one]);
    w.line(&format!("scf.yield {more}, {next}, {rest} : {t}, {t}, {t}"));
    w.close("}");
    let power = format!("{result}#0");
    if !ty.dtype.is_signed() {
        return power;
    }
    // A negative exponent: 1 stays, -1 alternates, anything else is 0.
    let minus = whole(w, ty, -1);
    let low = op(w, ty, "arith.andi", &[b, &one]);
    let odd = compare(w, ty, "ne", &low, &zero);
    let sign = select(w, ty, &odd, &minus, &one);
    let is_minus = compare(w, ty, "eq", a, &minus);
    let other = select(w, ty, &is_minus, &sign, &zero);
    let is_one = compare(w, ty, "eq", a, &one);
    let other = select(w, ty, &is_one, &one, &other);
    let is_negative = compare(w, ty, "slt", b, &zero);
    select(w, ty, &is_negative, &other, &power)
}

/// Converts as [`Scalar::cast`] does.
pub(crate) fn cast(w: &mut Writer, from: VType, to: DType, x: &str) -> String {
    let target = VType { dtype: to, ..from };
    match (from.dtype, to) {
        (a, b) if a == b => x.to_owned(),
        (a, DType::Bool) => {
            let zero = w.scalar(from, Scalar::I(0));
            compare(w, from, if a.is_float() { "une" } else { "ne" }, x, &zero)
        }
        (a, b) if a.is_float() && b.is_float() => float_to_float(w, from, target, x),
        (a, _) if a.is_float() => float_to_int(w, from, target, x),
        (a, DType::F16 | DType::BF16) if a != DType::Bool => {
            let wide = cast(w, from, DType::F64, x);
            cast(w, VType { dtype: DType::F64, ..from }, to, &wide)
        }
        (a, b) if b.is_float() => {
            let name = if a.is_signed() { "arith.sitofp" } else { "arith.uitofp" };
            convert(w, name, from, target, x)
        }
        (a, b) => {
            let bits = |t: DType| if t == DType::Bool { 1 } else { 8 * t.size() };
            match bits(a).cmp(&bits(b)) {
                std::cmp::Ordering::Equal => x.to_owned(),
                std::cmp::Ordering::Greater => convert(w, "arith.trunci", from, target, x),
                std::cmp::Ordering::Less if a.is_signed() => convert(w, "arith.extsi", from, target, x),
                std::cmp::Ordering::Less => convert(w, "arith.extui", from, target, x),
            }
        }
    }
}

fn convert(w: &mut Writer, name: &str, from: VType, to: VType, x: &str) -> String {
    w.value(format!("{name} {x} : {} to {}", vector(from), vector(to)))
}

fn float_to_float(w: &mut Writer, from: VType, to: VType, x: &str) -> String {
    match from.dtype.size().cmp(&to.dtype.size()) {
        std::cmp::Ordering::Less => convert(w, "arith.extf", from, to, x),
        std::cmp::Ordering::Greater => convert(w, "arith.truncf", from, to, x),
        std::cmp::Ordering::Equal => {
            let wide = VType { dtype: DType::F32, ..from };
            let x = convert(w, "arith.extf", from, wide, x);
            convert(w, "arith.truncf", wide, to, &x)
        }
    }
}

/// By way of 64 bits, where it saturates.
fn float_to_int(w: &mut Writer, from: VType, to: VType, x: &str) -> String {
    if from.dtype.compute() != from.dtype {
        let wide = VType { dtype: DType::F32, ..from };
        let x = convert(w, "arith.extf", from, wide, x);
        return float_to_int(w, wide, to, &x);
    }
    let zero = number(w, from, 0.0);
    let low = if to.dtype.is_signed() {
        truncated(w, from, DType::I64, x)
    } else {
        let (signed, unsigned) = (truncated(w, from, DType::I64, x), truncated(w, from, DType::U64, x));
        let is_negative = compare(w, from, "olt", x, &zero);
        select(w, VType { dtype: DType::U64, ..from }, &is_negative, &signed, &unsigned)
    };
    cast(w, VType { dtype: DType::I64, ..from }, as_signed(to.dtype), &low)
}

/// The 64-bit integer of type `to`, saturating; 0 for NaN.
fn truncated(w: &mut Writer, from: VType, to: DType, x: &str) -> String {
    let (low, high) = match to {
        DType::I64 => (-(2f64.powi(63)), 2f64.powi(63)),
        _ => (0.0, 2f64.powi(64)),
    };
    let target = VType { dtype: to, ..from };
    let truth = VType { dtype: DType::Bool, ..from };
    let (zero, low, high) = (number(w, from, 0.0), number(w, from, low), number(w, from, high));
    let (above, below) = (compare(w, from, "oge", x, &low), compare(w, from, "olt", x, &high));
    let inside = op(w, truth, "arith.andi", &[&above, &below]);
    let safe = select(w, from, &inside, x, &zero);
    let name = if to == DType::I64 { "arith.fptosi" } else { "arith.fptoui" };
    let result = convert(w, name, from, target, &safe);
    let (least, most) = (w.scalar(target, Scalar::lowest(to)), w.scalar(target, Scalar::highest(to)));
    let too_large = compare(w, from, "oge", x, &high);
    let result = select(w, target, &too_large, &most, &result);
    let too_small = compare(w, from, "olt", x, &low);
    select(w, target, &too_small, &least, &result)
}

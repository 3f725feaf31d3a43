//! The scalar functions, lane by lane, as [`ScalarFn::eval`] defines them.
//!
//! Integers wrap and never trap. Minimum and maximum give NaN if either operand is; which zero they give is open.
//! What is no instruction and has no polynomial in `math` is a call of the C library per lane: rare functions of `f64`,
//! and lanes of `f32` whose operands are huge.

use super::build::{Binary, Build, Compare, Unary, V};
use super::{Emitter, math, name};
use crate::x86;
use aic_ir::dim::Range;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Expr, VType};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};

impl<B: Build> Emitter<B> {
    pub(super) fn call(&mut self, f: ScalarFn, args: &[Expr]) -> Result<V<B>> {
        if let Some(v) = self.compare_indices(f, args)? {
            return Ok(v);
        }
        let x = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>>>()?;
        check_operands(f, &x)?;
        let b = &mut self.b;
        match x[x.len() - 1].ty.dtype {
            _ if f == ScalarFn::Select => b.select(x[0], x[1], x[2]),
            DType::F32 | DType::F64 => float(b, f, &x),
            DType::Bool => boolean(b, f, &x),
            t if t.is_int() => integer(b, f, &x),
            t => bail!("`{}` on {t}: 16-bit floats can only be loaded, stored and cast", f.keyword()),
        }
    }

    /// Comparisons of index expressions, such as the masks of a loop's last vector: of what is known of the variables
    /// the answer may follow. Otherwise 32-bit lanes of a ramp are compared with a clamped distance, which costs a
    /// quarter of the 64-bit comparison.
    fn compare_indices(&mut self, f: ScalarFn, args: &[Expr]) -> Result<Option<V<B>>> {
        let (Some(op), [a, b]) = (compare(f), args) else { return Ok(None) };
        let (Some((base, step, lanes)), Some((limit, zero, n))) = (a.as_ramp(), b.as_ramp()) else {
            return Ok(None);
        };
        let (Some(step), true) = (self.fold(&step).as_const(), zero.is(0) && n == lanes) else {
            return Ok(None);
        };
        let span = step.saturating_mul(i64::from(lanes) - 1);
        if !(1..=1024).contains(&lanes) || span.abs() >= 1 << 30 {
            return Ok(None);
        }
        let distance = limit - base;
        let range = self.range(&self.fold(&distance));
        if let Some(answer) = always(f, span.min(0), span.max(0), range) {
            let ty = VType { dtype: DType::Bool, lanes };
            return self.b.constant(ty, Scalar::B(answer)).map(Some);
        }
        if lanes == 1 {
            return Ok(None);
        }
        if range.lo == range.hi {
            let holds = |lane| always(f, step * lane, step * lane, range);
            let lanes: Option<Vec<bool>> = (0..i64::from(lanes)).map(holds).collect();
            if let Some(lanes) = lanes {
                return self.b.mask(&lanes).map(Some);
            }
        }
        let distance = self.dim(&distance)?;
        let b = &mut self.b;
        let (lo, hi) = (b.i64(-1 << 30)?, b.i64(1 << 30)?);
        let distance = b.clamp(distance, lo, hi)?;
        let distance = b.convert(distance, DType::I32)?;
        let distance = b.splat(distance, lanes)?;
        let (iota, step) = (b.iota(distance.ty)?, b.int(distance.ty, step)?);
        let steps = b.mul(iota, step)?;
        b.compare(op, steps, distance).map(Some)
    }
}

fn float<B: Build>(b: &mut B, f: ScalarFn, x: &[V<B>]) -> Result<V<B>> {
    let a = x[0];
    if let Some(op) = compare(f) {
        return b.compare(op, a, x[1]);
    }
    match f {
        ScalarFn::Add => b.add(a, x[1]),
        ScalarFn::Sub => b.sub(a, x[1]),
        ScalarFn::Mul => b.mul(a, x[1]),
        ScalarFn::Div => b.div(a, x[1]),
        ScalarFn::Fma => b.fma(a, x[1], x[2]),
        ScalarFn::Neg => b.neg(a),
        ScalarFn::Abs => b.abs(a),
        ScalarFn::Sqrt => b.unary(Unary::Sqrt, a),
        ScalarFn::Floor => b.unary(Unary::Floor, a),
        ScalarFn::Ceil => b.unary(Unary::Ceil, a),
        ScalarFn::Round => b.unary(Unary::Round, a),
        ScalarFn::Trunc => b.unary(Unary::Trunc, a),
        ScalarFn::Min => b.binary(Binary::Min, a, x[1]),
        ScalarFn::Max => b.binary(Binary::Max, a, x[1]),
        ScalarFn::Sign => float_sign(b, a),
        ScalarFn::IsNan => b.compare(Compare::Ne, a, a),
        ScalarFn::IsInf => {
            let (size, infinity) = (b.abs(a)?, b.float(a.ty, f64::INFINITY)?);
            b.compare(Compare::Eq, size, infinity)
        }
        ScalarFn::Mod => float_mod(b, a, x[1]),
        ScalarFn::Sigmoid => math::sigmoid(b, a),
        ScalarFn::Softplus => math::softplus(b, a),
        ScalarFn::Exp => math::exp(b, a),
        ScalarFn::Log => math::log(b, a),
        ScalarFn::Tanh => math::tanh(b, a),
        ScalarFn::Erf if a.ty.dtype == DType::F32 => math::erf(b, a),
        _ => match math::wide::call(b, f, x)? {
            Some(y) => Ok(y),
            None => libm(b, f, x),
        },
    }
}

/// The operand itself for zeros and NaN.
fn float_sign<B: Build>(b: &mut B, a: V<B>) -> Result<V<B>> {
    let (zero, one) = (b.float(a.ty, 0.0)?, b.float(a.ty, 1.0)?);
    let one = b.binary(Binary::CopySign, one, a)?;
    let size = b.abs(a)?;
    let nonzero = b.compare(Compare::Gt, size, zero)?;
    b.select(nonzero, one, a)
}

/// `x - y * floor(x / y)`: the remainder, plus `y` where its sign differs from that of `y`.
fn float_mod<B: Build>(b: &mut B, x: V<B>, y: V<B>) -> Result<V<B>> {
    let rest = float(b, ScalarFn::Rem, &[x, y])?;
    let zero = b.float(x.ty, 0.0)?;
    let (below, divisor_below) = (b.compare(Compare::Lt, rest, zero)?, b.compare(Compare::Lt, y, zero)?);
    let differ = b.xor(below, divisor_below)?;
    let not_exact = b.compare(Compare::Ne, rest, zero)?;
    let adjust = b.and(differ, not_exact)?;
    let moved = b.add(rest, y)?;
    b.select(adjust, moved, rest)
}

/// The C library's function, lane by lane.
pub(super) fn libm<B: Build>(b: &mut B, f: ScalarFn, x: &[V<B>]) -> Result<V<B>> {
    let Some((single, double)) = x86::libm(f) else {
        bail!("the target has no `{}` on floats", f.keyword());
    };
    let name = if x[0].ty.dtype == DType::F32 { single } else { double };
    b.each_lane(x, |b, lanes| b.call_c(name, lanes))
}

fn boolean<B: Build>(b: &mut B, f: ScalarFn, x: &[V<B>]) -> Result<V<B>> {
    let a = x[0];
    match f {
        ScalarFn::And => b.and(a, x[1]),
        ScalarFn::Or => b.or(a, x[1]),
        ScalarFn::Xor | ScalarFn::Ne => b.xor(a, x[1]),
        ScalarFn::Not => b.not(a),
        ScalarFn::Eq => {
            let differ = b.xor(a, x[1])?;
            b.not(differ)
        }
        ScalarFn::Lt => and_not(b, x[1], a),
        ScalarFn::Gt => and_not(b, a, x[1]),
        ScalarFn::Le => {
            let above = and_not(b, a, x[1])?;
            b.not(above)
        }
        ScalarFn::Ge => {
            let below = and_not(b, x[1], a)?;
            b.not(below)
        }
        _ => bail!("`{}` is not defined on bool", f.keyword()),
    }
}

/// `x && !y`
fn and_not<B: Build>(b: &mut B, x: V<B>, y: V<B>) -> Result<V<B>> {
    let y = b.not(y)?;
    b.and(x, y)
}

fn integer<B: Build>(b: &mut B, f: ScalarFn, x: &[V<B>]) -> Result<V<B>> {
    let a = x[0];
    let signed = a.ty.dtype.is_signed();
    if let Some(op) = compare(f) {
        return b.compare(op, a, x[1]);
    }
    match f {
        ScalarFn::Add => b.add(a, x[1]),
        ScalarFn::Sub => b.sub(a, x[1]),
        ScalarFn::Mul => b.mul(a, x[1]),
        ScalarFn::Fma => {
            let product = b.mul(a, x[1])?;
            b.add(product, x[2])
        }
        ScalarFn::Div | ScalarFn::Rem | ScalarFn::Mod if signed => divide_wrapping(b, f, a, x[1]),
        ScalarFn::Div | ScalarFn::Rem | ScalarFn::Mod => divide_unsigned(b, f, a, x[1]),
        ScalarFn::Pow => b.each_lane(x, |b, lanes| int_pow(b, lanes[0], lanes[1])),
        ScalarFn::Min => b.binary(Binary::Min, a, x[1]),
        ScalarFn::Max => b.binary(Binary::Max, a, x[1]),
        ScalarFn::Neg => b.neg(a),
        ScalarFn::Abs if signed => {
            let minus = b.neg(a)?;
            b.binary(Binary::Max, a, minus)
        }
        ScalarFn::Abs => Ok(a),
        ScalarFn::Sign if signed => {
            let (lo, hi) = (b.int(a.ty, -1)?, b.int(a.ty, 1)?);
            b.clamp(a, lo, hi)
        }
        ScalarFn::Sign => {
            let one = b.int(a.ty, 1)?;
            b.binary(Binary::Min, a, one)
        }
        ScalarFn::BitAnd => b.and(a, x[1]),
        ScalarFn::BitOr => b.or(a, x[1]),
        ScalarFn::BitXor => b.xor(a, x[1]),
        ScalarFn::BitNot => b.not(a),
        ScalarFn::Shl => shift(b, Binary::Shl, a, x[1]),
        ScalarFn::Shr if signed => {
            let by = b.bits(x[1], unsigned(a.ty.dtype))?;
            let most = b.int(by.ty, 8 * a.ty.dtype.size() as i64 - 1)?;
            let by = b.binary(Binary::Min, by, most)?;
            let by = b.bits(by, a.ty.dtype)?;
            b.binary(Binary::Shr, a, by)
        }
        ScalarFn::Shr => shift(b, Binary::Shr, a, x[1]),
        _ => bail!("`{}` is not defined on integers", f.keyword()),
    }
}

fn unsigned(dtype: DType) -> DType {
    match dtype {
        DType::I8 => DType::U8,
        DType::I16 => DType::U16,
        DType::I32 => DType::U32,
        DType::I64 => DType::U64,
        other => other,
    }
}

/// Zero where the count isn't below the width (a negative one is a large one).
fn shift<B: Build>(b: &mut B, op: Binary, a: V<B>, by: V<B>) -> Result<V<B>> {
    let zero = b.int(a.ty, 0)?;
    let count = b.bits(by, unsigned(a.ty.dtype))?;
    let width = b.int(count.ty, 8 * a.ty.dtype.size() as i64)?;
    let fits = b.compare(Compare::Lt, count, width)?;
    let by = b.select(fits, by, zero)?;
    let shifted = b.binary(op, a, by)?;
    b.select(fits, shifted, zero)
}

/// Division by 0 gives 0. Division by -1 is a negation, as the least value's quotient overflows and traps.
fn divide_wrapping<B: Build>(b: &mut B, f: ScalarFn, n: V<B>, d: V<B>) -> Result<V<B>> {
    let (zero, one, minus_one) = (b.int(n.ty, 0)?, b.int(n.ty, 1)?, b.int(n.ty, -1)?);
    let by_zero = b.compare(Compare::Eq, d, zero)?;
    let by_minus_one = b.compare(Compare::Eq, d, minus_one)?;
    let special = b.or(by_zero, by_minus_one)?;
    let divisor = b.select(special, one, d)?;
    if f == ScalarFn::Div {
        let quotient = b.div(n, divisor)?;
        let minus = b.neg(n)?;
        let quotient = b.select(by_minus_one, minus, quotient)?;
        return b.select(by_zero, zero, quotient);
    }
    let rest = b.binary(Binary::Rem, n, divisor)?;
    if f == ScalarFn::Rem {
        return Ok(rest);
    }
    let signs = b.xor(rest, divisor)?;
    let differ = b.compare(Compare::Lt, signs, zero)?;
    let not_exact = b.compare(Compare::Ne, rest, zero)?;
    let adjust = b.and(differ, not_exact)?;
    let moved = b.add(rest, divisor)?;
    b.select(adjust, moved, rest)
}

fn divide_unsigned<B: Build>(b: &mut B, f: ScalarFn, n: V<B>, d: V<B>) -> Result<V<B>> {
    let (zero, one) = (b.int(n.ty, 0)?, b.int(n.ty, 1)?);
    let by_zero = b.compare(Compare::Eq, d, zero)?;
    let divisor = b.select(by_zero, one, d)?;
    let op = if f == ScalarFn::Div { Binary::Div } else { Binary::Rem };
    let value = b.binary(op, n, divisor)?;
    b.select(by_zero, zero, value)
}

/// Of scalars, in 64 bits. A negative exponent gives 0, but 1 for 1 and 1 or -1 for -1: then only its lowest bit
/// matters, and only for a base of 1 or -1.
fn int_pow<B: Build>(b: &mut B, base: V<B>, exponent: V<B>) -> Result<V<B>> {
    let ty = base.ty.dtype;
    let wide = if ty.is_signed() { DType::I64 } else { DType::U64 };
    let (x, n) = (b.convert(base, wide)?, b.convert(exponent, wide)?);
    let (mut x, mut n) = (b.bits(x, DType::I64)?, b.bits(n, DType::I64)?);
    if ty.is_signed() {
        let (zero, one, minus_one) = (b.i64(0)?, b.i64(1)?, b.i64(-1)?);
        let negative = b.compare(Compare::Lt, n, zero)?;
        let (is_one, is_minus_one) = (b.compare(Compare::Eq, x, one)?, b.compare(Compare::Eq, x, minus_one)?);
        let unit = b.or(is_one, is_minus_one)?;
        let vanishes = and_not(b, negative, unit)?;
        let parity = b.and(n, one)?;
        let parity = b.select(vanishes, one, parity)?;
        x = b.select(vanishes, zero, x)?;
        n = b.select(negative, parity, n)?;
    }
    let power = b.power(x, n)?;
    let power = b.bits(power, wide)?;
    b.convert(power, ty)
}

fn check_operands<R>(f: ScalarFn, args: &[super::build::Value<R>]) -> Result<()> {
    let dtypes: Vec<DType> = args.iter().map(|a| a.ty.dtype).collect();
    let types = || args.iter().map(|a| name(a.ty)).collect::<Vec<_>>().join(", ");
    ensure!(f.result(&dtypes).is_some(), "`{}` is not defined on ({})", f.keyword(), types());
    let lanes = args[0].ty.lanes;
    ensure!(args.iter().all(|a| a.ty.lanes == lanes), "`{}` on different lanes: ({})", f.keyword(), types());
    Ok(())
}

/// The answer of `x f y` for every `x` from `lo` to `hi` and every `y` of the range, if it is the same.
fn always(f: ScalarFn, lo: i64, hi: i64, y: Range) -> Option<bool> {
    match f {
        ScalarFn::Lt if hi < y.lo => Some(true),
        ScalarFn::Lt if lo >= y.hi => Some(false),
        ScalarFn::Le if hi <= y.lo => Some(true),
        ScalarFn::Le if lo > y.hi => Some(false),
        ScalarFn::Eq if lo == hi && y.lo == y.hi => Some(lo == y.lo),
        ScalarFn::Eq if hi < y.lo || lo > y.hi => Some(false),
        ScalarFn::Ne => always(ScalarFn::Eq, lo, hi, y).map(|answer| !answer),
        ScalarFn::Gt | ScalarFn::Ge => {
            let opposite = if f == ScalarFn::Gt { ScalarFn::Le } else { ScalarFn::Lt };
            always(opposite, lo, hi, y).map(|answer| !answer)
        }
        _ => None,
    }
}

fn compare(f: ScalarFn) -> Option<Compare> {
    Some(match f {
        ScalarFn::Eq => Compare::Eq,
        ScalarFn::Ne => Compare::Ne,
        ScalarFn::Lt => Compare::Lt,
        ScalarFn::Le => Compare::Le,
        ScalarFn::Gt => Compare::Gt,
        ScalarFn::Ge => Compare::Ge,
        _ => return None,
    })
}

//! Values of the vector unit: rows of the unified buffer, and the functions of the loop IR as instructions on them.
//!
//! A value is a row of elements, one element for all of a row, or a number. Every instruction is followed by a barrier
//! where the next one depends on it: nothing rests on what the vendor's compiler adds.

use super::text::{constant, ctype, float};
use super::writer::Writer;
use crate::polynomials::{ERF, LOG_ERFC, TANH};
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::scalar::ScalarFn;
use std::rc::Rc;

/// Where a value is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Elements of a tensor.
    Row(String),
    /// Eight times the same element, at the start of a tensor.
    One(String),
    /// A number.
    Number(f64),
    /// A scalar of the kernel.
    Scalar(String),
}

/// A value and its type; conditions are bits.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub place: Place,
    pub dtype: DType,
    /// Keeps its buffer from being used for something else.
    pub hold: Option<Rc<String>>,
}

impl Value {
    pub fn row(tensor: impl Into<String>, dtype: DType) -> Value {
        Value { place: Place::Row(tensor.into()), dtype, hold: None }
    }

    pub fn number(x: f64, dtype: DType) -> Value {
        Value { place: Place::Number(x), dtype, hold: None }
    }

    fn tensor(&self) -> Option<&str> {
        match &self.place {
            Place::Row(t) | Place::One(t) => Some(t),
            _ => None,
        }
    }

    /// As an operand of the type that it has.
    fn scalar(&self) -> Result<Option<String>> {
        Ok(match &self.place {
            Place::Number(x) if self.dtype.is_float() => Some(float(*x)),
            Place::Number(x) => Some(constant(self.dtype, aic_ir::scalar::Scalar::I(*x as i64))?),
            Place::Scalar(s) => Some(format!("({})({s})", ctype(self.dtype)?)),
            _ => None,
        })
    }

    fn is_one(&self) -> bool {
        !matches!(self.place, Place::Row(_))
    }
}

/// Where a result may go: a tensor, if it is to be there.
pub(super) type Wish<'a> = Option<&'a str>;

impl Writer<'_> {
    /// A new value of a row, or of one element, in the tensor wished for or in a temporary.
    fn fresh(&mut self, dtype: DType, is_one: bool, wish: Wish) -> Result<Value> {
        if let (Some(w), false) = (wish, is_one) {
            return Ok(Value::row(w, dtype));
        }
        let name = self.temporary(dtype)?;
        let place = if is_one { Place::One(name.to_string()) } else { Place::Row(name.to_string()) };
        Ok(Value { place, dtype, hold: Some(name) })
    }

    /// How many elements an instruction is about.
    fn count(&self, is_one: bool) -> String {
        if is_one { "8".into() } else { self.n.clone() }
    }

    /// An instruction on one tensor, with what follows its operands before the count.
    fn unary(&mut self, name: &str, x: &Value, more: &str, to: DType, wish: Wish) -> Result<Value> {
        let Some(from) = x.tensor().map(str::to_owned) else { bail!("{name} of a number") };
        let out = self.fresh(to, x.is_one(), wish)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let n = self.count(x.is_one());
        self.vector(&[&from], &dst, &format!("{name}({dst}, {from}{more}, {n});"));
        Ok(out)
    }

    fn with_scalar(&mut self, name: &str, x: &Value, s: &str, wish: Wish) -> Result<Value> {
        computes(x.dtype)?;
        self.unary(name, x, &format!(", {s}"), x.dtype, wish)
    }

    /// An instruction on two tensors; one element is combined with each of a row by strides of 0.
    fn both(&mut self, name: &str, a: &Value, b: &Value, wish: Wish) -> Result<Value> {
        let (Some(x), Some(y)) = (a.tensor().map(str::to_owned), b.tensor().map(str::to_owned)) else {
            bail!("{name} of a number")
        };
        computes(a.dtype)?;
        let is_one = a.is_one() && b.is_one();
        let out = self.fresh(a.dtype, is_one, wish)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        if a.is_one() == b.is_one() {
            let n = self.count(is_one);
            self.vector(&[&x, &y], &dst, &format!("{name}({dst}, {x}, {y}, {n});"));
            return Ok(out);
        }
        let (sa, sb) = (u8::from(!a.is_one()), u8::from(!b.is_one()));
        let strides = format!("BinaryRepeatParams(1, {sa}, {sb}, 8, {}, {})", 8 * sa, 8 * sb);
        let (n, per) = (self.n.clone(), 256 / a.dtype.size().max(1));
        let whole = n.parse::<usize>().ok();
        let has_whole = whole.is_none_or(|n| n >= per);
        if has_whole {
            let times = whole.map_or_else(|| format!("{n} / {per}"), |n| (n / per).to_string());
            self.vector(&[&x, &y], &dst, &format!("{name}({dst}, {x}, {y}, {per}, {times}, {strides});"));
        }
        if whole.is_none_or(|n| n % per > 0) {
            let rest = whole.map_or_else(|| format!("{n} % {per}"), |n| (n % per).to_string());
            let from = whole.map_or_else(|| format!("{n} / {per} * {per}"), |n| (n / per * per).to_string());
            let at = |t: &str, moves: u8| if moves == 1 { format!("{t}[{from}]") } else { t.to_owned() };
            let call =
                format!("{name}({}, {}, {}, {rest}, 1, {strides});", at(&dst, 1), at(&x, sa), at(&y, sb));
            let guard = if whole.is_some() { String::new() } else { format!("if ({rest} > 0) ") };
            match has_whole {
                // Beside the whole repeats: they touch other elements.
                true => self.vector_beside(&[&x, &y], &dst, &format!("{guard}{call}")),
                false => self.vector(&[&x, &y], &dst, &format!("{guard}{call}")),
            }
        }
        Ok(out)
    }

    /// A row that holds a number.
    fn duplicate(&mut self, v: &Value, wish: Wish) -> Result<Value> {
        let Some(s) = v.scalar()? else { return Ok(v.clone()) };
        if !matches!(v.dtype.size(), 2 | 4) {
            bail!("the vector unit has no rows of {} that are equal", v.dtype)
        }
        let out = self.fresh(v.dtype, false, wish)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let n = self.n.clone();
        self.vector(&[], &dst, &format!("Duplicate({dst}, {s}, {n});"));
        Ok(out)
    }

    /// The value as a row, for instructions that have no strides.
    fn widen(&mut self, v: &Value, wish: Wish) -> Result<Value> {
        match &v.place {
            Place::Row(_) => Ok(v.clone()),
            Place::One(_) => {
                let zero = self.duplicate(&Value::number(0.0, v.dtype), None)?;
                self.both("Add", &zero, v, wish)
            }
            _ => self.duplicate(v, wish),
        }
    }

    /// Elements of a tensor that lie `step` apart, from one on.
    pub(super) fn gather(
        &mut self,
        tensor: &str,
        dtype: DType,
        step: i64,
        base: &str,
        wish: Wish,
    ) -> Result<Value> {
        let size = dtype.size() as i64;
        if !matches!(size, 2 | 4) {
            bail!("the vector unit doesn't gather {dtype}")
        }
        self.steps.insert(step * size);
        let out = self.fresh(dtype, false, wish)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let (offsets, n) = (format!("offsets{}.ReinterpretCast<uint32_t>()", step * size), self.n.clone());
        let first = if base == "0" { "0".to_owned() } else { format!("({base}) * {size}") };
        self.vector(&[tensor], &dst, &format!("Gather({dst}, {tensor}, {offsets}, {first}, {n});"));
        Ok(out)
    }

    /// Puts a value into a tensor.
    pub(super) fn put(&mut self, v: &Value, to: &str) -> Result<()> {
        match &v.place {
            Place::Row(t) if t == to => Ok(()),
            Place::Row(_) if matches!(v.dtype, DType::F32 | DType::F16 | DType::I32 | DType::I16) => {
                let one = constant(v.dtype, aic_ir::scalar::Scalar::I(1).cast(v.dtype))?;
                self.with_scalar("Muls", v, &one, Some(to)).map(drop)
            }
            // Bits are copied as whole numbers.
            Place::Row(t) if v.dtype == DType::BF16 => {
                let n = self.n.clone();
                let [d, x] = [to, t].map(|t| format!("{t}.ReinterpretCast<int16_t>()"));
                self.vector(&[t], to, &format!("Muls({d}, {x}, (int16_t)1, {n});"));
                Ok(())
            }
            Place::Row(_) => bail!("the vector unit doesn't copy rows of {}", v.dtype),
            _ => self.widen(v, Some(to)).map(drop),
        }
    }

    pub(super) fn call(&mut self, f: ScalarFn, args: &[Value], wish: Wish) -> Result<Value> {
        let [a, rest @ ..] = args else { bail!("{} of nothing", f.keyword()) };
        if let Some(v) = folded(f, args) {
            return Ok(v);
        }
        let dtype = a.dtype;
        let is_float = dtype == DType::F32;
        if !is_float && !matches!(dtype, DType::I32 | DType::Bool | DType::I16) {
            bail!("the vector unit doesn't compute {} of {dtype}", f.keyword())
        }
        match (f, rest) {
            (ScalarFn::Add | ScalarFn::Mul | ScalarFn::Max | ScalarFn::Min, [b]) => {
                self.commutative(f, a, b, wish)
            }
            (ScalarFn::Sub, [b]) => self.sub(a, b, wish),
            (ScalarFn::Div, [b]) if is_float => self.div(a, b, wish),
            (ScalarFn::Fma, [b, c]) => {
                let product = self.commutative(ScalarFn::Mul, a, b, None)?;
                self.commutative(ScalarFn::Add, &product, c, wish)
            }
            (ScalarFn::Neg, _) => {
                let minus = constant(dtype, aic_ir::scalar::Scalar::I(-1).cast(dtype))?;
                self.with_scalar("Muls", a, &minus, wish)
            }
            (ScalarFn::Abs, _) if is_float => self.unary("Abs", a, "", dtype, wish),
            (ScalarFn::Sqrt, _) => self.unary("Sqrt", a, "", dtype, wish),
            (ScalarFn::Exp, _) => self.unary("Exp", a, "", dtype, wish),
            (ScalarFn::Log, _) => self.unary("Ln", a, "", dtype, wish),
            (ScalarFn::Floor, _) => self.round(a, "FLOOR", wish),
            (ScalarFn::Ceil, _) => self.round(a, "CEIL", wish),
            (ScalarFn::Round, _) => self.round(a, "RINT", wish),
            (ScalarFn::Trunc, _) => self.round(a, "TRUNC", wish),
            (ScalarFn::Select, [yes, no]) => self.select(a, yes, no, wish),
            (
                ScalarFn::Lt | ScalarFn::Le | ScalarFn::Gt | ScalarFn::Ge | ScalarFn::Eq | ScalarFn::Ne,
                [b],
            ) => self.compare(f, a, b),
            (ScalarFn::IsNan, _) => self.compare(ScalarFn::Ne, a, &a.clone()),
            (ScalarFn::And | ScalarFn::Or, [b]) if dtype == DType::Bool => self.bits(f, a, b),
            (ScalarFn::Not, _) if dtype == DType::Bool => self.not(a),
            _ if is_float => self.expanded(f, args, wish),
            _ => bail!("the vector unit has no {} of {dtype}", f.keyword()),
        }
    }

    fn commutative(&mut self, f: ScalarFn, a: &Value, b: &Value, wish: Wish) -> Result<Value> {
        let name = match f {
            ScalarFn::Add => "Add",
            ScalarFn::Mul => "Mul",
            ScalarFn::Max => "Max",
            _ => "Min",
        };
        let (a, b) = if a.tensor().is_some() { (a, b) } else { (b, a) };
        match b.scalar()? {
            Some(s) => self.with_scalar(&format!("{name}s"), a, &s, wish),
            None => self.both(name, a, b, wish),
        }
    }

    fn sub(&mut self, a: &Value, b: &Value, wish: Wish) -> Result<Value> {
        match (a.scalar()?, b.scalar()?) {
            (None, Some(s)) => self.with_scalar("Adds", a, &format!("-{s}"), wish),
            (Some(s), None) => {
                let minus = constant(b.dtype, aic_ir::scalar::Scalar::I(-1).cast(b.dtype))?;
                let negative = self.with_scalar("Muls", b, &minus, None)?;
                self.with_scalar("Adds", &negative, &s, wish)
            }
            _ => self.both("Sub", a, b, wish),
        }
    }

    fn div(&mut self, a: &Value, b: &Value, wish: Wish) -> Result<Value> {
        if let Place::Number(x) = b.place
            && x != 0.0
            && (x as f32).to_bits() << 9 == 0
        {
            // A power of two.
            return self.with_scalar("Muls", a, &float(1.0 / x), wish);
        }
        let (a, b) = (self.filled(a)?, self.filled(b)?);
        self.both("Div", &a, &b, wish)
    }

    /// A tensor of the value: a row for a number.
    fn filled(&mut self, v: &Value) -> Result<Value> {
        if v.tensor().is_some() { Ok(v.clone()) } else { self.duplicate(v, None) }
    }

    fn round(&mut self, a: &Value, mode: &str, wish: Wish) -> Result<Value> {
        self.unary("Cast", a, &format!(", RoundMode::CAST_{mode}"), DType::F32, wish)
    }

    /// Elements for whole repeats: what lies beyond a row's end decides about no bit that is used.
    fn whole(&self) -> String {
        match self.n.parse::<u64>() {
            Ok(n) => n.div_ceil(64).saturating_mul(64).to_string(),
            Err(_) => format!("({} + 63) / 64 * 64", self.n),
        }
    }

    fn compare(&mut self, f: ScalarFn, a: &Value, b: &Value) -> Result<Value> {
        if !matches!(a.dtype, DType::F32) {
            bail!("the vector unit doesn't compare {}", a.dtype)
        }
        let mode = |f: ScalarFn| match f {
            ScalarFn::Lt => "LT",
            ScalarFn::Le => "LE",
            ScalarFn::Gt => "GT",
            ScalarFn::Ge => "GE",
            ScalarFn::Eq => "EQ",
            _ => "NE",
        };
        let turned = match f {
            ScalarFn::Lt => ScalarFn::Gt,
            ScalarFn::Le => ScalarFn::Ge,
            ScalarFn::Gt => ScalarFn::Lt,
            ScalarFn::Ge => ScalarFn::Le,
            f => f,
        };
        let (f, a, b) = if a.scalar()?.is_some() { (turned, b, a) } else { (f, a, b) };
        let a = self.widen(a, None)?;
        let x = a.tensor().unwrap_or_default().to_owned();
        let n = self.whole();
        let out = self.fresh(DType::Bool, false, None)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        match b.scalar()? {
            Some(s) => {
                self.vector(
                    &[&x],
                    &dst,
                    &format!("CompareScalar({dst}, {x}, {s}, CMPMODE::{}, {n});", mode(f)),
                );
            }
            None => {
                let b = self.widen(b, None)?;
                let y = b.tensor().unwrap_or_default().to_owned();
                self.vector(
                    &[&x, &y],
                    &dst,
                    &format!("Compare({dst}, {x}, {y}, CMPMODE::{}, {n});", mode(f)),
                );
            }
        }
        Ok(out)
    }

    fn bits(&mut self, f: ScalarFn, a: &Value, b: &Value) -> Result<Value> {
        let (Some(x), Some(y)) = (a.tensor().map(str::to_owned), b.tensor().map(str::to_owned)) else {
            bail!("the vector unit doesn't combine conditions with numbers")
        };
        let out = self.fresh(DType::Bool, false, None)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let name = if f == ScalarFn::And { "And" } else { "Or" };
        let [d, p, q] = [&dst, &x, &y].map(|t| format!("{t}.ReinterpretCast<uint16_t>()"));
        let n = self.whole();
        self.vector(&[&x, &y], &dst, &format!("{name}({d}, {p}, {q}, ({n}) / 16);"));
        Ok(out)
    }

    fn not(&mut self, a: &Value) -> Result<Value> {
        let Some(x) = a.tensor().map(str::to_owned) else {
            bail!("the vector unit has no conditions that are numbers")
        };
        let out = self.fresh(DType::Bool, false, None)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let [d, p] = [&dst, &x].map(|t| format!("{t}.ReinterpretCast<uint16_t>()"));
        let n = self.whole();
        self.vector(&[&x], &dst, &format!("Not({d}, {p}, ({n}) / 16);"));
        Ok(out)
    }

    fn select(&mut self, cond: &Value, yes: &Value, no: &Value, wish: Wish) -> Result<Value> {
        let Some(mask) = cond.tensor().map(str::to_owned) else {
            bail!("the vector unit doesn't choose by a number")
        };
        if yes.dtype != DType::F32 {
            bail!("the vector unit doesn't choose among {}", yes.dtype)
        }
        let yes = self.widen(yes, None)?;
        let x = yes.tensor().unwrap_or_default().to_owned();
        let (other, mode, reads) = match no.scalar()? {
            Some(s) => (s, "VSEL_TENSOR_SCALAR_MODE", None),
            None => {
                let no = self.widen(no, None)?;
                let y = no.tensor().unwrap_or_default().to_owned();
                (y.clone(), "VSEL_TENSOR_TENSOR_MODE", Some((y, no)))
            }
        };
        let out = self.fresh(DType::F32, false, wish)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let n = self.n.clone();
        let mut from = vec![mask.as_str(), x.as_str()];
        from.extend(reads.iter().map(|(y, _)| y.as_str()));
        self.vector(&from, &dst, &format!("Select({dst}, {mask}, {x}, {other}, SELMODE::{mode}, {n});"));
        Ok(out)
    }

    /// A conversion, by way of other types where the vector unit has none of its own.
    pub(super) fn cast(&mut self, v: &Value, to: DType, wish: Wish) -> Result<Value> {
        use DType::{BF16, Bool, F16, F32, I8, I16, I32, I64, U8};
        if v.dtype == to {
            return Ok(v.clone());
        }
        if let Place::Number(x) = v.place {
            let rounded = aic_ir::scalar::Scalar::F(x).cast(to).as_f64();
            return Ok(Value::number(rounded, to));
        }
        if let Place::Scalar(s) = &v.place {
            return Ok(Value { place: Place::Scalar(s.clone()), dtype: to, hold: None });
        }
        let mode = match (v.dtype, to) {
            // Conditions are bits.
            (Bool, _) if !v.is_stored_bool() => {
                let (one, zero) = (Value::number(1.0, F32), Value::number(0.0, F32));
                let x = self.select(v, &one, &zero, if to == F32 { wish } else { None })?;
                return self.cast(&x, to, wish);
            }
            (F16 | BF16, F32) => "NONE",
            (F32, F16 | BF16) | (I32, F32) | (I64, F32) => "RINT",
            (F32, I32 | I16 | I64) => "TRUNC",
            (I32, I64) | (I64, I32) => "NONE",
            (I8 | U8 | Bool, F16) | (I16, F32) => "NONE",
            (F16, I8 | U8) => "TRUNC",
            _ => return self.cast_by(v, to, wish),
        };
        self.unary("Cast", v, &format!(", RoundMode::CAST_{mode}"), to, wish)
    }

    fn cast_by(&mut self, v: &Value, to: DType, wish: Wish) -> Result<Value> {
        use DType::{BF16, Bool, F16, F32, I8, I16, I32, I64, U8};
        let by = match (v.dtype, to) {
            (I8 | U8 | Bool, _) => F16,
            (F16 | BF16, _) => F32,
            (F32, Bool) => {
                let bits = self.compare(ScalarFn::Ne, v, &Value::number(0.0, F32))?;
                let half = self.cast(&bits, F16, None)?;
                let mut stored = self.unary("Cast", &half, ", RoundMode::CAST_TRUNC", U8, wish)?;
                stored.dtype = Bool;
                return Ok(stored);
            }
            (F32, I8 | U8) => {
                let whole = self.round(v, "TRUNC", None)?;
                let half = self.unary("Cast", &whole, ", RoundMode::CAST_RINT", F16, None)?;
                return self.cast(&half, to, wish);
            }
            (I32 | I64 | I16, F16 | BF16 | I8 | U8 | Bool) => F32,
            _ => bail!("the vector unit doesn't convert {} to {to}", v.dtype),
        };
        let between = self.cast(v, by, None)?;
        self.cast(&between, to, wish)
    }

    /// One element for all of a row, from a tensor that begins with it.
    pub(super) fn spread(&mut self, tensor: &str, dtype: DType) -> Result<Value> {
        let wide = Value { place: Place::One(tensor.to_owned()), dtype, hold: None };
        let wide = if dtype == DType::I32 { wide } else { self.cast(&wide, DType::F32, None)? };
        let out = self.fresh(wide.dtype, true, None)?;
        let (from, dst) =
            (wide.tensor().unwrap_or_default().to_owned(), out.tensor().unwrap_or_default().to_owned());
        self.vector(&[&from], &dst, &format!("Brcb({dst}, {from}, 1, BrcbRepeatParams(1, 8));"));
        self.cast(&out, dtype, None)
    }

    /// `first + step * i` as floats.
    pub(super) fn ramp(&mut self, first: &str, step: i64) -> Result<Value> {
        let out = self.fresh(DType::F32, false, None)?;
        let dst = out.tensor().unwrap_or_default().to_owned();
        let n = self.n.clone();
        self.vector(&[], &dst, &format!("CreateVecIndex({dst}, 0.0f, {n});"));
        let out = if step == 1 { out } else { self.with_scalar("Muls", &out, &float(step as f64), None)? };
        if first == "0" {
            Ok(out)
        } else {
            self.with_scalar("Adds", &out, &format!("(float)({first})"), None)
        }
    }

    /// Functions that are more than an instruction.
    fn expanded(&mut self, f: ScalarFn, args: &[Value], wish: Wish) -> Result<Value> {
        let x = &args[0];
        match f {
            ScalarFn::Sigmoid => self.sigmoid(x, wish),
            ScalarFn::Tanh => self.tanh(x, wish),
            ScalarFn::Erf => self.erf(x, wish),
            ScalarFn::Softplus => self.softplus(x, wish),
            ScalarFn::Sign => self.sign(x, wish),
            ScalarFn::Pow => self.pow(x, &args[1], wish),
            _ => bail!("the 910B has no instructions for {}", f.keyword()),
        }
    }

    /// `1 / (1 + exp(-x))`.
    fn sigmoid(&mut self, x: &Value, wish: Wish) -> Result<Value> {
        let t = self.with_scalar("Muls", x, "-1.0f", None)?;
        let t = self.unary("Exp", &t, "", DType::F32, None)?;
        let t = self.with_scalar("Adds", &t, "1.0f", None)?;
        self.div(&Value::number(1.0, DType::F32), &t, wish)
    }

    /// A polynomial in a value, the constant first.
    fn polynomial(&mut self, coefficients: &[f64], x: &Value) -> Result<Value> {
        let [rest @ .., last] = coefficients else { bail!("a polynomial without coefficients") };
        let mut value = self.with_scalar("Muls", x, &float(*last), None)?;
        for (k, c) in rest.iter().rev().enumerate() {
            if k > 0 {
                value = self.both("Mul", &value, x, None)?;
            }
            value = self.with_scalar("Adds", &value, &float(*c), None)?;
        }
        Ok(value)
    }

    /// `x + x * p(x^2)`.
    fn odd(&mut self, coefficients: &[f64], x: &Value) -> Result<Value> {
        let square = self.both("Mul", x, x, None)?;
        let tail = self.polynomial(coefficients, &square)?;
        let tail = self.both("Mul", &tail, x, None)?;
        self.both("Add", &tail, x, None)
    }

    /// A polynomial near zero, else `1 - 2 / (exp(2 x) + 1)`.
    fn tanh(&mut self, x: &Value, wish: Wish) -> Result<Value> {
        let x = &self.widen(x, None)?;
        let square = self.both("Mul", x, x, None)?;
        let tail = self.polynomial(TANH, &square)?;
        let tail = self.both("Mul", &tail, &square, None)?;
        let tail = self.both("Mul", &tail, x, None)?;
        let near = self.both("Add", &tail, x, None)?;
        let t = self.with_scalar("Muls", x, "2.0f", None)?;
        let t = self.unary("Exp", &t, "", DType::F32, None)?;
        let t = self.with_scalar("Adds", &t, "1.0f", None)?;
        let t = self.div(&Value::number(-2.0, DType::F32), &t, None)?;
        let far = self.with_scalar("Adds", &t, "1.0f", None)?;
        self.near_or_far(x, 0.625, &near, &far, wish)
    }

    /// A polynomial near zero, else one minus the exponential of another, with the sign of `x`.
    fn erf(&mut self, x: &Value, wish: Wish) -> Result<Value> {
        let x = &self.widen(x, None)?;
        let near = self.odd(ERF, x)?;
        let size = self.unary("Abs", x, "", DType::F32, None)?;
        let size = self.with_scalar("Mins", &size, "4.0f", None)?;
        let t = self.polynomial(LOG_ERFC, &size)?;
        let t = self.unary("Exp", &t, "", DType::F32, None)?;
        let far = self.sub(&Value::number(1.0, DType::F32), &t, None)?;
        let sign = self.sign(x, None)?;
        let far = self.both("Mul", &far, &sign, None)?;
        self.near_or_far(x, 1.0, &near, &far, wish)
    }

    fn near_or_far(&mut self, x: &Value, limit: f64, near: &Value, far: &Value, wish: Wish) -> Result<Value> {
        let size = self.unary("Abs", x, "", DType::F32, None)?;
        let is_near = self.compare(ScalarFn::Lt, &size, &Value::number(limit, DType::F32))?;
        self.select(&is_near, near, far, wish)
    }

    /// -1, 0 or 1: twice so large that nothing but zero is within.
    fn sign(&mut self, x: &Value, wish: Wish) -> Result<Value> {
        let t = self.with_scalar("Muls", x, "3e38f", None)?;
        let t = self.with_scalar("Muls", &t, "3e38f", None)?;
        let t = self.with_scalar("Maxs", &t, "-1.0f", None)?;
        self.with_scalar("Mins", &t, "1.0f", wish)
    }

    /// `max(x, 0) + log(1 + e)` of `e = exp(-|x|)`, where what the addition rounds away is made good.
    fn softplus(&mut self, x: &Value, wish: Wish) -> Result<Value> {
        let x = &self.widen(x, None)?;
        let size = self.unary("Abs", x, "", DType::F32, None)?;
        let size = self.with_scalar("Muls", &size, "-1.0f", None)?;
        let e = self.unary("Exp", &size, "", DType::F32, None)?;
        let sum = self.with_scalar("Adds", &e, "1.0f", None)?;
        let kept = self.with_scalar("Adds", &sum, "-1.0f", None)?;
        let log = self.unary("Ln", &sum, "", DType::F32, None)?;
        let log = self.both("Mul", &log, &e, None)?;
        let is_all = self.compare(ScalarFn::Eq, &kept, &Value::number(0.0, DType::F32))?;
        let ratio = self.both("Div", &log, &kept, None)?;
        let tail = self.select(&is_all, &e, &ratio, None)?;
        let most = self.with_scalar("Maxs", x, "0.0f", None)?;
        self.both("Add", &most, &tail, wish)
    }

    /// Powers with a small whole exponent, or a half one.
    fn pow(&mut self, x: &Value, y: &Value, wish: Wish) -> Result<Value> {
        let Place::Number(e) = y.place else {
            bail!("the 910B has no powers with exponents that aren't constant")
        };
        let root = self.unary("Sqrt", x, "", DType::F32, if e == 0.5 { wish } else { None });
        let base = match e.abs() {
            0.5 => root?,
            n if n.fract() == 0.0 && (1.0..=16.0).contains(&n) => {
                let mut power = x.clone();
                for _ in 1..n as u32 {
                    power = self.both("Mul", &power, x, None)?;
                }
                power
            }
            _ => bail!("the 910B has no instructions for the power {e}"),
        };
        if e < 0.0 { self.div(&Value::number(1.0, DType::F32), &base, wish) } else { Ok(base) }
    }
}

impl Value {
    /// Whether it is a tensor of bytes in memory, not bits.
    fn is_stored_bool(&self) -> bool {
        self.dtype == DType::Bool && self.hold.is_none()
    }
}

/// The types of arithmetic.
fn computes(t: DType) -> Result<()> {
    match t {
        DType::F32 | DType::F16 | DType::I32 | DType::I16 => Ok(()),
        _ => bail!("the vector unit doesn't compute with {t}"),
    }
}

/// Functions of numbers.
fn folded(f: ScalarFn, args: &[Value]) -> Option<Value> {
    let number = |v: &Value| match v.place {
        Place::Number(x) if v.dtype.is_float() => Some(aic_ir::scalar::Scalar::F(x)),
        _ => None,
    };
    let numbers: Vec<_> = args.iter().map(number).collect::<Option<_>>()?;
    let dtype = args[0].dtype;
    let result = f.result(&args.iter().map(|a| a.dtype).collect::<Vec<_>>())?;
    result.is_float().then(|| Value::number(f.eval(dtype, &numbers).as_f64(), result))
}

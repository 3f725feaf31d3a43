//! The scalar functions, lane by lane, as [`ScalarFn::eval`] defines them.
//!
//! Integers wrap and never trap. Minimum and maximum give NaN if either operand is; which zero they give is open.
//! What the machine has no instruction for and `math` no polynomial is a call of the C library per lane.

use super::build::{Raw, internal};
use super::emit::{Emitter, Value, name};
use super::memory::as_ramp;
use aic_ir::dim::Range;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Expr, VType};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::module::Linkage;
use inkwell::values::{FastMathFlags, FunctionValue, InstructionOpcode as I};
use inkwell::{FloatPredicate as F, IntPredicate as P};

impl<'c> Emitter<'_, 'c> {
    pub fn call(&mut self, f: ScalarFn, args: &[Expr]) -> Result<Value<'c>> {
        if let Some(v) = self.compare_indices(f, args)? {
            return Ok(v);
        }
        let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>>>()?;
        let ty = result_type(f, &args)?;
        let x: Vec<Raw> = args.iter().map(|a| a.raw).collect();
        let raw = match args[args.len() - 1].ty.dtype {
            _ if f == ScalarFn::Select => self.b.select(x[0], x[1], x[2])?,
            DType::F32 | DType::F64 => self.float(f, &x)?,
            DType::Bool => self.boolean(f, &x)?,
            t if t.is_int() => self.integer(f, t.is_signed(), &x)?,
            t => bail!("`{}` on {t}: 16-bit floats can only be loaded, stored and cast", f.keyword()),
        };
        Ok(Value { raw, ty })
    }

    /// Comparisons of index expressions, such as the masks of a loop's last vector: of what is known of the variables
    /// the answer may follow. Otherwise 32-bit lanes of a ramp are compared with a clamped distance, which costs a
    /// quarter of the 64-bit comparison.
    fn compare_indices(&mut self, f: ScalarFn, args: &[Expr]) -> Result<Option<Value<'c>>> {
        let (Some(p), [a, b]) = (compare(f, true), args) else { return Ok(None) };
        let (Some((base, step, lanes)), Some((limit, zero, n))) = (as_ramp(a), as_ramp(b)) else {
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
        let ty = VType { dtype: DType::Bool, lanes };
        let range = self.range(&self.fold(&distance));
        if let Some(answer) = always(f, span.min(0), span.max(0), range) {
            return self.constant(ty, Scalar::B(answer)).map(Some);
        }
        if lanes == 1 {
            return Ok(None);
        }
        let distance: Raw = self.dim(&distance)?.into();
        let far = self.b.i64(1 << 30).into();
        let distance = self.clamp(distance, self.b.i64(-1 << 30).into(), far)?;
        let distance = self.b.cast(I::Trunc, distance, self.b.int_ty(32))?;
        let distance = self.b.splat(distance, lanes)?;
        let steps = self.b.int_like(distance, step)?;
        let steps = self.b.bin(I::Mul, self.b.iota(32, lanes), steps)?;
        Ok(Some(Value { raw: self.b.icmp(p, steps, distance)?, ty }))
    }

    fn clamp(&self, x: Raw<'c>, lo: Raw<'c>, hi: Raw<'c>) -> Result<Raw<'c>> {
        let x = self.pure("llvm.smax", &[x, lo])?;
        self.pure("llvm.smin", &[x, hi])
    }

    /// An intrinsic over operands of one type, which is also that of the result.
    pub fn pure(&self, name: &str, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        self.b.intrinsic(name, &[x[0].get_type()], x, FastMathFlags::empty())
    }

    fn float(&mut self, f: ScalarFn, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        let a = x[0];
        if let Some(p) = float_compare(f) {
            return self.b.fcmp(p, a, x[1]);
        }
        match f {
            ScalarFn::Add => self.b.bin(I::FAdd, a, x[1]),
            ScalarFn::Sub => self.b.bin(I::FSub, a, x[1]),
            ScalarFn::Mul => self.b.bin(I::FMul, a, x[1]),
            ScalarFn::Div => self.b.bin(I::FDiv, a, x[1]),
            ScalarFn::Fma => self.pure("llvm.fma", x),
            ScalarFn::Neg => self.b.fneg(a),
            ScalarFn::Abs => self.pure("llvm.fabs", x),
            ScalarFn::Sqrt => self.pure("llvm.sqrt", x),
            ScalarFn::Floor => self.pure("llvm.floor", x),
            ScalarFn::Ceil => self.pure("llvm.ceil", x),
            ScalarFn::Round => self.pure("llvm.roundeven", x),
            ScalarFn::Trunc => self.pure("llvm.trunc", x),
            ScalarFn::Min => self.extreme("llvm.minimum", a, x[1]),
            ScalarFn::Max => self.extreme("llvm.maximum", a, x[1]),
            ScalarFn::Sign => self.float_sign(a),
            ScalarFn::IsNan => self.b.fcmp(F::UNO, a, a),
            ScalarFn::IsInf => {
                let size = self.pure("llvm.fabs", x)?;
                self.b.fcmp(F::OEQ, size, self.b.float_like(a, f64::INFINITY)?)
            }
            ScalarFn::Mod => self.float_mod(a, x[1]),
            ScalarFn::Sigmoid => self.sigmoid(a),
            ScalarFn::Softplus => self.softplus(a),
            ScalarFn::Exp => self.exp(a),
            ScalarFn::Log if self.is_single(a) => self.log_single(a),
            ScalarFn::Tanh if self.is_single(a) => self.tanh_single(a),
            ScalarFn::Erf if self.is_single(a) => self.erf_single(a),
            _ => self.libm(f, x),
        }
    }

    fn exp(&mut self, a: Raw<'c>) -> Result<Raw<'c>> {
        if self.is_single(a) { self.exp_single(a) } else { self.libm(ScalarFn::Exp, &[a]) }
    }

    /// Minimum or maximum, without a care for the sign of zero.
    pub fn extreme(&self, name: &str, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        self.b.intrinsic(name, &[a.get_type()], &[a, b], FastMathFlags::NoSignedZeros)
    }

    /// The operand itself for zeros and NaN.
    fn float_sign(&self, a: Raw<'c>) -> Result<Raw<'c>> {
        let one = self.pure("llvm.copysign", &[self.b.float_like(a, 1.0)?, a])?;
        let itself = self.b.fcmp(F::UEQ, a, self.b.float_like(a, 0.0)?)?;
        self.b.select(itself, a, one)
    }

    fn float_mod(&mut self, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        let rest = self.libm(ScalarFn::Mod, &[a, b])?;
        let zero = self.b.float_like(a, 0.0)?;
        let (below, divisor_below) = (self.b.fcmp(F::OLT, rest, zero)?, self.b.fcmp(F::OLT, b, zero)?);
        let differ = self.b.bin(I::Xor, below, divisor_below)?;
        let not_exact = self.b.fcmp(F::UNE, rest, zero)?;
        let adjust = self.b.bin(I::And, differ, not_exact)?;
        let moved = self.b.bin(I::FAdd, rest, b)?;
        self.b.select(adjust, moved, rest)
    }

    /// By `e = exp(-|a|)`, which can't overflow: `1 / (1 + e)`, and `e / (1 + e)` for negative operands.
    fn sigmoid(&mut self, a: Raw<'c>) -> Result<Raw<'c>> {
        let (e, one) = (self.exp_minus_abs(a)?, self.b.float_like(a, 1.0)?);
        let negative = self.b.fcmp(F::OLT, a, self.b.float_like(a, 0.0)?)?;
        let top = self.b.select(negative, e, one)?;
        let bottom = self.b.bin(I::FAdd, one, e)?;
        self.b.bin(I::FDiv, top, bottom)
    }

    /// `max(a, 0) + log1p(exp(-|a|))`
    fn softplus(&mut self, a: Raw<'c>) -> Result<Raw<'c>> {
        let e = self.exp_minus_abs(a)?;
        let tail = match self.is_single(a) {
            true => self.log1p_single(e)?,
            false => self.libm(ScalarFn::Softplus, &[e])?,
        };
        let head = self.extreme("llvm.maximum", a, self.b.float_like(a, 0.0)?)?;
        self.b.bin(I::FAdd, head, tail)
    }

    fn exp_minus_abs(&mut self, a: Raw<'c>) -> Result<Raw<'c>> {
        let size = self.pure("llvm.fabs", &[a])?;
        let minus = self.b.fneg(size)?;
        self.exp(minus)
    }

    /// The C library's function, lane by lane.
    fn libm(&mut self, f: ScalarFn, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        let Some((single, double)) = (self.target.libm)(f) else {
            bail!("the target has no `{}` on floats", f.keyword());
        };
        let ty = x[0].get_type();
        let scalar = self.b.extract(x[0], 0)?.get_type().into_float_type();
        let name = if scalar == self.b.context.f32_type() { single } else { double };
        let function = match self.b.module.get_function(name) {
            Some(function) => function,
            None => {
                let params = vec![scalar.into(); x.len()];
                let function = self.b.module.add_function(name, scalar.fn_type(&params, false), None);
                for (attribute, value) in [("nounwind", 0), ("willreturn", 0), ("memory", 0)] {
                    let kind = Attribute::get_named_enum_kind_id(attribute);
                    let attribute = self.b.context.create_enum_attribute(kind, value);
                    function.add_attribute(AttributeLoc::Function, attribute);
                }
                function
            }
        };
        self.b.each_lane(x, ty, |lanes| self.b.call(function, lanes))
    }

    fn boolean(&mut self, f: ScalarFn, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        let a = x[0];
        match f {
            ScalarFn::And => self.b.bin(I::And, a, x[1]),
            ScalarFn::Or => self.b.bin(I::Or, a, x[1]),
            ScalarFn::Xor => self.b.bin(I::Xor, a, x[1]),
            ScalarFn::Not => self.complement(a),
            _ => match compare(f, false) {
                Some(p) => self.b.icmp(p, a, x[1]),
                None => bail!("`{}` is not defined on bool", f.keyword()),
            },
        }
    }

    fn complement(&self, a: Raw<'c>) -> Result<Raw<'c>> {
        self.b.bin(I::Xor, a, self.b.int_like(a, -1)?)
    }

    fn integer(&mut self, f: ScalarFn, signed: bool, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        let a = x[0];
        if let Some(p) = compare(f, signed) {
            return self.b.icmp(p, a, x[1]);
        }
        match f {
            ScalarFn::Add => self.b.bin(I::Add, a, x[1]),
            ScalarFn::Sub => self.b.bin(I::Sub, a, x[1]),
            ScalarFn::Mul => self.b.bin(I::Mul, a, x[1]),
            ScalarFn::Fma => {
                let product = self.b.bin(I::Mul, a, x[1])?;
                self.b.bin(I::Add, product, x[2])
            }
            ScalarFn::Div | ScalarFn::Rem | ScalarFn::Mod if signed => self.divide_wrapping(f, a, x[1]),
            ScalarFn::Div | ScalarFn::Rem | ScalarFn::Mod => self.divide_unsigned(f, a, x[1]),
            ScalarFn::Pow => self.int_pow(signed, x),
            ScalarFn::Min => self.pure(if signed { "llvm.smin" } else { "llvm.umin" }, x),
            ScalarFn::Max => self.pure(if signed { "llvm.smax" } else { "llvm.umax" }, x),
            ScalarFn::Neg => self.b.bin(I::Sub, self.b.int_like(a, 0)?, a),
            ScalarFn::Abs if signed => {
                let minus = self.b.bin(I::Sub, self.b.int_like(a, 0)?, a)?;
                self.pure("llvm.smax", &[a, minus])
            }
            ScalarFn::Abs => Ok(a),
            ScalarFn::Sign => self.int_sign(signed, a),
            ScalarFn::BitAnd => self.b.bin(I::And, a, x[1]),
            ScalarFn::BitOr => self.b.bin(I::Or, a, x[1]),
            ScalarFn::BitXor => self.b.bin(I::Xor, a, x[1]),
            ScalarFn::BitNot => self.complement(a),
            ScalarFn::Shl => self.shift(I::Shl, a, x[1]),
            ScalarFn::Shr if signed => {
                let by = self.pure("llvm.umin", &[x[1], self.b.int_like(a, self.bits(a) - 1)?])?;
                self.b.bin(I::AShr, a, by)
            }
            ScalarFn::Shr => self.shift(I::LShr, a, x[1]),
            _ => bail!("`{}` is not defined on integers", f.keyword()),
        }
    }

    fn bits(&self, a: Raw<'c>) -> i64 {
        match a {
            Raw::VectorValue(v) => v.get_type().get_element_type().into_int_type().get_bit_width().into(),
            other => other.into_int_value().get_type().get_bit_width().into(),
        }
    }

    /// Zero where the count isn't below the width (a negative one is a large one).
    fn shift(&self, op: I, a: Raw<'c>, by: Raw<'c>) -> Result<Raw<'c>> {
        let zero = self.b.int_like(a, 0)?;
        let fits = self.b.icmp(P::ULT, by, self.b.int_like(a, self.bits(a))?)?;
        let by = self.b.select(fits, by, zero)?;
        let shifted = self.b.bin(op, a, by)?;
        self.b.select(fits, shifted, zero)
    }

    /// Division by 0 gives 0. Division by -1 is a negation, as the least value's quotient overflows and traps.
    fn divide_wrapping(&self, f: ScalarFn, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        let (zero, one) = (self.b.int_like(a, 0)?, self.b.int_like(a, 1)?);
        let by_zero = self.b.icmp(P::EQ, b, zero)?;
        let by_minus_one = self.b.icmp(P::EQ, b, self.b.int_like(a, -1)?)?;
        let special = self.b.bin(I::Or, by_zero, by_minus_one)?;
        let divisor = self.b.select(special, one, b)?;
        if f == ScalarFn::Div {
            let quotient = self.b.bin(I::SDiv, a, divisor)?;
            let minus = self.b.bin(I::Sub, zero, a)?;
            let quotient = self.b.select(by_minus_one, minus, quotient)?;
            return self.b.select(by_zero, zero, quotient);
        }
        let rest = self.b.bin(I::SRem, a, divisor)?;
        if f == ScalarFn::Rem {
            return Ok(rest);
        }
        let signs = self.b.bin(I::Xor, rest, divisor)?;
        let differ = self.b.icmp(P::SLT, signs, zero)?;
        let not_exact = self.b.icmp(P::NE, rest, zero)?;
        let adjust = self.b.bin(I::And, differ, not_exact)?;
        let moved = self.b.bin(I::Add, rest, divisor)?;
        self.b.select(adjust, moved, rest)
    }

    fn divide_unsigned(&self, f: ScalarFn, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        let zero = self.b.int_like(a, 0)?;
        let by_zero = self.b.icmp(P::EQ, b, zero)?;
        let divisor = self.b.select(by_zero, self.b.int_like(a, 1)?, b)?;
        let op = if f == ScalarFn::Div { I::UDiv } else { I::URem };
        let value = self.b.bin(op, a, divisor)?;
        self.b.select(by_zero, zero, value)
    }

    fn int_sign(&self, signed: bool, a: Raw<'c>) -> Result<Raw<'c>> {
        let one = self.b.int_like(a, 1)?;
        if !signed {
            return self.pure("llvm.umin", &[a, one]);
        }
        self.clamp(a, self.b.int_like(a, -1)?, one)
    }

    /// Lane by lane in 64 bits, by a function of the module.
    fn int_pow(&mut self, signed: bool, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        let function = self.int_pow_function(signed)?;
        let ty = x[0].get_type();
        let lane = self.b.extract(x[0], 0)?.get_type();
        let widen = if signed { I::SExt } else { I::ZExt };
        self.b.each_lane(x, ty, |lanes| {
            let wide = self.b.int_ty(64);
            let args = [self.b.cast(widen, lanes[0], wide)?, self.b.cast(widen, lanes[1], wide)?];
            let power = self.b.call(function, &args)?;
            self.b.cast(I::Trunc, power, lane)
        })
    }

    /// `i64 aic.ipow(i64 a, i64 b)`: repeated squaring. A negative exponent gives 0, but 1 for 1 and 1 or -1 for -1.
    fn int_pow_function(&mut self, signed: bool) -> Result<FunctionValue<'c>> {
        let name = if signed { "aic.ipow" } else { "aic.upow" };
        if let Some(function) = self.b.module.get_function(name) {
            return Ok(function);
        }
        let here = self.b.here()?;
        let i64_type = self.b.context.i64_type();
        let ty = i64_type.fn_type(&[i64_type.into(), i64_type.into()], false);
        let function = self.b.module.add_function(name, ty, Some(Linkage::Internal));
        self.target.attributes(self.b.context, function);
        let block = |name: &str| self.b.context.append_basic_block(function, name);
        let (entry, test, step, done) = (block("entry"), block("test"), block("step"), block("done"));
        let param = |i: u32| function.get_nth_param(i).ok_or_else(|| internal("no such parameter"));
        let (a, b): (Raw, Raw) = (param(0)?, param(1)?);
        let int = |n: i64| -> Raw<'c> { self.b.i64(n).into() };

        self.b.builder.position_at_end(entry);
        // With a negative exponent only its lowest bit matters, and only for a base of 1 or -1.
        let (base, exponent) = if signed {
            let negative = self.b.icmp(P::SLT, b, int(0))?;
            let parity = self.b.bin(I::And, b, int(1))?;
            let shifted = self.b.bin(I::Add, a, int(1))?;
            let unit = self.b.icmp(P::ULE, shifted, int(2))?;
            let not_zero = self.b.icmp(P::NE, a, int(0))?;
            let unit = self.b.bin(I::And, unit, not_zero)?;
            let vanishes = self.b.select(unit, self.b.i1(false).into(), negative)?;
            let base = self.b.select(vanishes, int(0), a)?;
            let parity = self.b.select(vanishes, int(1), parity)?;
            (base, self.b.select(negative, parity, b)?)
        } else {
            (a, b)
        };
        self.b.jump(test)?;

        self.b.builder.position_at_end(test);
        let (power, square, rest) = (self.b.phi(i64_type)?, self.b.phi(i64_type)?, self.b.phi(i64_type)?);
        let (p, s, r) = (power.as_basic_value(), square.as_basic_value(), rest.as_basic_value());
        let finished = self.b.icmp(P::EQ, r, int(0))?;
        self.b.branch(finished.into_int_value(), done, step)?;

        self.b.builder.position_at_end(step);
        let odd = self.b.bin(I::And, r, int(1))?;
        let odd = self.b.icmp(P::NE, odd, int(0))?;
        let multiplied = self.b.bin(I::Mul, p, s)?;
        let next = self.b.select(odd, multiplied, p)?;
        let squared = self.b.bin(I::Mul, s, s)?;
        let halved = self.b.bin(I::LShr, r, int(1))?;
        self.b.jump(test)?;
        power.add_incoming(&[(&int(1), entry), (&next, step)]);
        square.add_incoming(&[(&base, entry), (&squared, step)]);
        rest.add_incoming(&[(&exponent, entry), (&halved, step)]);

        self.b.builder.position_at_end(done);
        self.b.builder.build_return(Some(&p)).map_err(internal)?;
        self.b.builder.position_at_end(here);
        Ok(function)
    }
}

fn result_type(f: ScalarFn, args: &[Value]) -> Result<VType> {
    let dtypes: Vec<DType> = args.iter().map(|a| a.ty.dtype).collect();
    let types = || args.iter().map(|a| name(a.ty)).collect::<Vec<_>>().join(", ");
    let Some(dtype) = f.result(&dtypes) else { bail!("`{}` is not defined on ({})", f.keyword(), types()) };
    let lanes = args[0].ty.lanes;
    ensure!(args.iter().all(|a| a.ty.lanes == lanes), "`{}` on different lanes: ({})", f.keyword(), types());
    Ok(VType { dtype, lanes })
}

/// The answer of `x f y` for every `x` from `lo` to `hi` and every `y` of the range, if it is the same.
fn always(f: ScalarFn, lo: i64, hi: i64, y: Range) -> Option<bool> {
    match f {
        ScalarFn::Lt if hi < y.lo => Some(true),
        ScalarFn::Lt if lo >= y.hi => Some(false),
        ScalarFn::Le if hi <= y.lo => Some(true),
        ScalarFn::Le if lo > y.hi => Some(false),
        ScalarFn::Gt | ScalarFn::Ge => {
            let opposite = if f == ScalarFn::Gt { ScalarFn::Le } else { ScalarFn::Lt };
            always(opposite, lo, hi, y).map(|answer| !answer)
        }
        _ => None,
    }
}

/// Ordered, but `!=`, which holds for NaN.
fn float_compare(f: ScalarFn) -> Option<F> {
    Some(match f {
        ScalarFn::Eq => F::OEQ,
        ScalarFn::Ne => F::UNE,
        ScalarFn::Lt => F::OLT,
        ScalarFn::Le => F::OLE,
        ScalarFn::Gt => F::OGT,
        ScalarFn::Ge => F::OGE,
        _ => return None,
    })
}

fn compare(f: ScalarFn, signed: bool) -> Option<P> {
    Some(match (f, signed) {
        (ScalarFn::Eq, _) => P::EQ,
        (ScalarFn::Ne, _) => P::NE,
        (ScalarFn::Lt, true) => P::SLT,
        (ScalarFn::Le, true) => P::SLE,
        (ScalarFn::Gt, true) => P::SGT,
        (ScalarFn::Ge, true) => P::SGE,
        (ScalarFn::Lt, false) => P::ULT,
        (ScalarFn::Le, false) => P::ULE,
        (ScalarFn::Gt, false) => P::UGT,
        (ScalarFn::Ge, false) => P::UGE,
        _ => return None,
    })
}

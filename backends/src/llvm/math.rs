//! Exponential, logarithm, hyperbolic tangent and error function of `f32`, in vector instructions.
//!
//! Each is reduced to a short interval, on which a polynomial with the least largest relative error stands for it
//! (Remez; the degree is the least whose error is far below half a unit of the last place). Scalars take the same
//! way as vectors, so that the last elements of a loop are computed like the others. Errors, in units of the last
//! place, by sampling: exp 1.0, log 0.9, tanh 1.3, erf 1.2; of what is made of them: sigmoid 2.2, softplus 2.0.
//!
//! Only additions and multiplications follow each other, fused where the machine can; the constants are such that
//! the results hold without fusing, too.

use super::build::Raw;
use super::emit::Emitter;
use aic_ir::error::Result;
use inkwell::FloatPredicate as F;
use inkwell::types::BasicTypeEnum;
use inkwell::values::InstructionOpcode as I;

/// `(exp(r) - 1 - r) / r^2` for `|r| <= ln(2) / 2`.
const EXP: &[f64] =
    &[0.5, 0.166665181517601, 0.04166620597243309, 0.008368917740881443, 0.0013950540451332927];

/// `(log(1 + f) - f + f^2 / 2) / f^3` for `sqrt(1/2) <= 1 + f <= sqrt(2)`.
const LOG: &[f64] = &[
    0.3333333134651184,
    -0.2500081956386566,
    0.20001226663589478,
    -0.16623356938362122,
    0.14201757311820984,
    -0.13160182535648346,
    0.1276157796382904,
    -0.07634497433900833,
];

/// `(tanh(x) / x - 1) / x^2` in powers of `x^2` for `|x| <= 0.625`.
const TANH: &[f64] = &[
    -0.3333328068256378,
    0.13331441581249237,
    -0.05373971536755562,
    0.0206390880048275,
    -0.005704986862838268,
];

/// `erf(x) / x - 1` in powers of `x^2` for `|x| <= 1`.
const ERF: &[f64] = &[
    0.12837916612625122,
    -0.3761262595653534,
    0.1128358542919159,
    -0.026853812858462334,
    0.005188327748328447,
    -0.0008010193705558777,
    7.853861461626366e-05,
];

/// `log(1 - erf(x))` for `1 <= x <= 4`.
const LOG_ERFC: &[f64] = &[
    -0.000353719515260309,
    -1.1270400285720825,
    -0.6382256746292114,
    -0.10303737223148346,
    0.02180531807243824,
    -0.002939607249572873,
    0.00018557401199359447,
];

/// ln(2) in two parts, of which the first has few bits: its products with small integers are exact.
const LN2: (f64, f64) = (0.693359375, -0.00021219444005469057);

/// 1.5 * 2^23: a `f32` plus this has the rounded number in its low bits.
const ROUNDER: f64 = 12582912.0;

impl<'c> Emitter<'_, 'c> {
    /// Whether the value is of `f32`, which this file computes.
    pub fn is_single(&self, a: Raw<'c>) -> bool {
        let single: BasicTypeEnum = self.b.context.f32_type().into();
        match a.get_type() {
            BasicTypeEnum::VectorType(t) => t.get_element_type() == single,
            t => t == single,
        }
    }

    /// Beyond the clamped range results are 0 or infinite, as they should be.
    pub fn exp_single(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let x = self.extreme("llvm.minimum", x, self.b.float_like(x, 89.0)?)?;
        let x = self.extreme("llvm.maximum", x, self.b.float_like(x, -105.0)?)?;
        self.exp_clamped(x)
    }

    /// `2^n * exp(r)`. The power is applied in two halves, either of which is a normal number.
    fn exp_clamped(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let scaled = self.b.bin(I::FMul, x, self.b.float_like(x, std::f64::consts::LOG2_E)?)?;
        let rounder = self.b.float_like(x, ROUNDER)?;
        let shifted = self.b.bin(I::FAdd, scaled, rounder)?;
        let n = self.b.bin(I::FSub, shifted, rounder)?;
        let r = self.muladd(n, self.b.float_like(x, -LN2.0)?, x)?;
        let r = self.muladd(n, self.b.float_like(x, -LN2.1)?, r)?;
        let square = self.b.bin(I::FMul, r, r)?;
        let tail = self.polynomial(EXP, r)?;
        let rest = self.muladd(square, tail, r)?;
        let value = self.b.bin(I::FAdd, rest, self.b.float_like(x, 1.0)?)?;

        let bits = self.bits_of(shifted)?;
        let n = self.b.bin(I::Sub, bits, self.b.int_like(bits, (ROUNDER as f32).to_bits().into())?)?;
        let half = self.b.bin(I::AShr, n, self.b.int_like(n, 1)?)?;
        let other = self.b.bin(I::Sub, n, half)?;
        let value = self.b.bin(I::FMul, value, self.power_of_two(half, x)?)?;
        self.b.bin(I::FMul, value, self.power_of_two(other, x)?)
    }

    /// `2^n` for `-127 < n < 128`, of the type of `like`.
    fn power_of_two(&self, n: Raw<'c>, like: Raw<'c>) -> Result<Raw<'c>> {
        let biased = self.b.bin(I::Add, n, self.b.int_like(n, 127)?)?;
        let bits = self.b.bin(I::Shl, biased, self.b.int_like(n, 23)?)?;
        self.b.bitcast(bits, like.get_type())
    }

    fn bits_of(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let lanes = match x.get_type() {
            BasicTypeEnum::VectorType(t) => t.get_size(),
            _ => 1,
        };
        self.b.bitcast(x, self.b.lanes_of(self.b.int_ty(32), lanes))
    }

    /// The logarithm, with the limits at zero and infinity, and NaN below zero.
    pub fn log_single(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let float = |v| self.b.float_like(x, v);
        let subnormal = self.b.fcmp(F::OLT, x, float(f32::MIN_POSITIVE.into())?)?;
        let scaled = self.b.bin(I::FMul, x, float(2f64.powi(23))?)?;
        let normal = self.b.select(subnormal, scaled, x)?;
        let exponent = self.b.select(subnormal, float(-23.0)?, float(0.0)?)?;
        let value = self.log_normal(normal, exponent)?;
        let zero = float(0.0)?;
        let is_zero = self.b.fcmp(F::OEQ, x, zero)?;
        let outside = self.b.select(is_zero, float(f64::NEG_INFINITY)?, float(f64::NAN)?)?;
        let positive = self.b.fcmp(F::OGT, x, zero)?;
        let value = self.b.select(positive, value, outside)?;
        let infinite = self.b.fcmp(F::OEQ, x, float(f64::INFINITY)?)?;
        self.b.select(infinite, x, value)
    }

    /// `log(x) + exponent * ln(2)` of a positive normal number: `x = 2^e * (1 + f)`.
    fn log_normal(&self, x: Raw<'c>, exponent: Raw<'c>) -> Result<Raw<'c>> {
        let float = |v| self.b.float_like(x, v);
        let bits = self.bits_of(x)?;
        let root_half = std::f32::consts::FRAC_1_SQRT_2.to_bits();
        let above = self.b.bin(I::Sub, bits, self.b.int_like(bits, root_half.into())?)?;
        let e = self.b.bin(I::AShr, above, self.b.int_like(bits, 23)?)?;
        let shift = self.b.bin(I::Shl, e, self.b.int_like(bits, 23)?)?;
        let reduced = self.b.bin(I::Sub, bits, shift)?;
        let reduced = self.b.bitcast(reduced, x.get_type())?;
        let e = self.b.cast(I::SIToFP, e, x.get_type())?;
        let e = self.b.bin(I::FAdd, e, exponent)?;
        let f = self.b.bin(I::FSub, reduced, float(1.0)?)?;
        let square = self.b.bin(I::FMul, f, f)?;
        let cube = self.b.bin(I::FMul, square, f)?;
        let tail = self.polynomial(LOG, f)?;
        let sum = self.b.bin(I::FMul, cube, tail)?;
        let sum = self.muladd(e, float(LN2.1)?, sum)?;
        let sum = self.muladd(square, float(-0.5)?, sum)?;
        let sum = self.b.bin(I::FAdd, f, sum)?;
        self.muladd(e, float(LN2.0)?, sum)
    }

    /// `log(1 + x)` for `0 <= x <= 1`: what the addition rounds away is added again.
    pub fn log1p_single(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let one = self.b.float_like(x, 1.0)?;
        let sum = self.b.bin(I::FAdd, one, x)?;
        let kept = self.b.bin(I::FSub, sum, one)?;
        let lost = self.b.bin(I::FSub, x, kept)?;
        let correction = self.b.bin(I::FDiv, lost, sum)?;
        let value = self.log_normal(sum, self.b.float_like(x, 0.0)?)?;
        self.b.bin(I::FAdd, value, correction)
    }

    /// A polynomial near zero, else `1 - 2 / (exp(2 |x|) + 1)`.
    pub fn tanh_single(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let float = |v| self.b.float_like(x, v);
        let size = self.pure("llvm.fabs", &[x])?;
        let square = self.b.bin(I::FMul, x, x)?;
        let cube = self.b.bin(I::FMul, size, square)?;
        let tail = self.polynomial(TANH, square)?;
        let near = self.muladd(cube, tail, size)?;

        let clamped = self.extreme("llvm.minimum", size, float(9.5)?)?;
        let twice = self.b.bin(I::FAdd, clamped, clamped)?;
        let power = self.exp_clamped(twice)?;
        let bottom = self.b.bin(I::FAdd, power, float(1.0)?)?;
        let fraction = self.b.bin(I::FDiv, float(2.0)?, bottom)?;
        let far = self.b.bin(I::FSub, float(1.0)?, fraction)?;

        let is_near = self.b.fcmp(F::OLT, size, float(0.625)?)?;
        let value = self.b.select(is_near, near, far)?;
        self.pure("llvm.copysign", &[value, x])
    }

    /// A polynomial near zero, else one minus the exponential of another.
    pub fn erf_single(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let float = |v| self.b.float_like(x, v);
        let size = self.pure("llvm.fabs", &[x])?;
        let square = self.b.bin(I::FMul, x, x)?;
        let tail = self.polynomial(ERF, square)?;
        let near = self.muladd(size, tail, size)?;

        let clamped = self.extreme("llvm.minimum", size, float(4.0)?)?;
        let logarithm = self.polynomial(LOG_ERFC, clamped)?;
        let rest = self.exp_clamped(logarithm)?;
        let far = self.b.bin(I::FSub, float(1.0)?, rest)?;

        let is_near = self.b.fcmp(F::OLT, size, float(1.0)?)?;
        let value = self.b.select(is_near, near, far)?;
        self.pure("llvm.copysign", &[value, x])
    }

    /// By Horner's rule; the constant first.
    fn polynomial(&self, coefficients: &[f64], x: Raw<'c>) -> Result<Raw<'c>> {
        let mut value = self.b.float_like(x, 0.0)?;
        for (i, c) in coefficients.iter().rev().enumerate() {
            let c = self.b.float_like(x, *c)?;
            value = if i == 0 { c } else { self.muladd(value, x, c)? };
        }
        Ok(value)
    }

    /// `a * b + c`, rounded once or twice as the machine likes it.
    fn muladd(&self, a: Raw<'c>, b: Raw<'c>, c: Raw<'c>) -> Result<Raw<'c>> {
        self.pure("llvm.fmuladd", &[a, b, c])
    }
}

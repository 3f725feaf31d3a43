//! Exponential, logarithm, hyperbolic tangent and error function of `f32`, in vector instructions.
//!
//! Each is reduced to a short interval, on which a polynomial with the least largest relative error stands for it
//! (Remez; the degree is the least whose error is far below half a unit of the last place). Scalars take the same
//! way as vectors, so that the last elements of a loop are computed like the others. Errors, in units of the last
//! place, by sampling: exp 1.0, log 0.9, tanh 1.3, erf 1.2; of what is made of them: sigmoid 2.2, softplus 2.0.
//!
//! Only additions and multiplications follow each other, fused where the machine can; the constants are such that
//! the results hold without fusing, too.

use super::build::{Binary, Build, Compare, V};
use aic_ir::dtype::DType;
use aic_ir::error::Result;

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

/// Beyond the clamped range results are 0 or infinite, as they should be.
pub fn exp<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (lo, hi) = (b.float(x.ty, -105.0)?, b.float(x.ty, 89.0)?);
    let x = b.clamp(x, lo, hi)?;
    exp_clamped(b, x)
}

/// `2^n * exp(r)`. The power is applied in two halves, either of which is a normal number.
fn exp_clamped<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let log2_e = b.float(x.ty, std::f64::consts::LOG2_E)?;
    let scaled = b.mul(x, log2_e)?;
    let rounder = b.float(x.ty, ROUNDER)?;
    let shifted = b.add(scaled, rounder)?;
    let n = b.sub(shifted, rounder)?;
    let (high, low) = (b.float(x.ty, -LN2.0)?, b.float(x.ty, -LN2.1)?);
    let r = b.muladd(n, high, x)?;
    let r = b.muladd(n, low, r)?;
    let square = b.mul(r, r)?;
    let tail = polynomial(b, EXP, r)?;
    let rest = b.muladd(square, tail, r)?;
    let one = b.float(x.ty, 1.0)?;
    let value = b.add(rest, one)?;

    let bits = b.bits(shifted, DType::I32)?;
    let zero = b.int(bits.ty, (ROUNDER as f32).to_bits().into())?;
    let n = b.sub(bits, zero)?;
    let half = b.shift(Binary::Shr, n, 1)?;
    let other = b.sub(n, half)?;
    let power = power_of_two(b, half)?;
    let value = b.mul(value, power)?;
    let power = power_of_two(b, other)?;
    b.mul(value, power)
}

/// `2^n` for `-127 < n < 128`.
fn power_of_two<B: Build>(b: &mut B, n: V<B>) -> Result<V<B>> {
    let bias = b.int(n.ty, 127)?;
    let biased = b.add(n, bias)?;
    let bits = b.shift(Binary::Shl, biased, 23)?;
    b.bits(bits, DType::F32)
}

/// The logarithm, with the limits at zero and infinity, and NaN below zero.
pub fn log<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let least = b.float(x.ty, f32::MIN_POSITIVE.into())?;
    let subnormal = b.compare(Compare::Lt, x, least)?;
    let factor = b.float(x.ty, 2f64.powi(23))?;
    let scaled = b.mul(x, factor)?;
    let normal = b.select(subnormal, scaled, x)?;
    let (zero, down) = (b.float(x.ty, 0.0)?, b.float(x.ty, -23.0)?);
    let exponent = b.select(subnormal, down, zero)?;
    let value = log_normal(b, normal, exponent)?;
    let is_zero = b.compare(Compare::Eq, x, zero)?;
    let (infinity, nan) = (b.float(x.ty, f64::NEG_INFINITY)?, b.float(x.ty, f64::NAN)?);
    let outside = b.select(is_zero, infinity, nan)?;
    let positive = b.compare(Compare::Gt, x, zero)?;
    let value = b.select(positive, value, outside)?;
    let infinity = b.float(x.ty, f64::INFINITY)?;
    let infinite = b.compare(Compare::Eq, x, infinity)?;
    b.select(infinite, x, value)
}

/// `log(x) + exponent * ln(2)` of a positive normal number: `x = 2^e * (1 + f)`.
fn log_normal<B: Build>(b: &mut B, x: V<B>, exponent: V<B>) -> Result<V<B>> {
    let bits = b.bits(x, DType::I32)?;
    let root_half = b.int(bits.ty, std::f32::consts::FRAC_1_SQRT_2.to_bits().into())?;
    let above = b.sub(bits, root_half)?;
    let e = b.shift(Binary::Shr, above, 23)?;
    let shift = b.shift(Binary::Shl, e, 23)?;
    let reduced = b.sub(bits, shift)?;
    let reduced = b.bits(reduced, DType::F32)?;
    let e = b.convert(e, DType::F32)?;
    let e = b.add(e, exponent)?;
    let one = b.float(x.ty, 1.0)?;
    let f = b.sub(reduced, one)?;
    let square = b.mul(f, f)?;
    let cube = b.mul(square, f)?;
    let tail = polynomial(b, LOG, f)?;
    let sum = b.mul(cube, tail)?;
    let (high, low, half) = (b.float(x.ty, LN2.0)?, b.float(x.ty, LN2.1)?, b.float(x.ty, -0.5)?);
    let sum = b.muladd(e, low, sum)?;
    let sum = b.muladd(square, half, sum)?;
    let sum = b.add(f, sum)?;
    b.muladd(e, high, sum)
}

/// `log(1 + x)` for `0 <= x <= 1`: what the addition rounds away is added again.
pub fn log1p<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (zero, one) = (b.float(x.ty, 0.0)?, b.float(x.ty, 1.0)?);
    let sum = b.add(one, x)?;
    let kept = b.sub(sum, one)?;
    let lost = b.sub(x, kept)?;
    let correction = b.div(lost, sum)?;
    let value = log_normal(b, sum, zero)?;
    b.add(value, correction)
}

/// A polynomial near zero, else `1 - 2 / (exp(2 |x|) + 1)`.
pub fn tanh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let square = b.mul(x, x)?;
    let cube = b.mul(size, square)?;
    let tail = polynomial(b, TANH, square)?;
    let near = b.muladd(cube, tail, size)?;

    let limit = b.float(x.ty, 9.5)?;
    let clamped = b.binary(Binary::Min, size, limit)?;
    let twice = b.add(clamped, clamped)?;
    let power = exp_clamped(b, twice)?;
    let (one, two) = (b.float(x.ty, 1.0)?, b.float(x.ty, 2.0)?);
    let bottom = b.add(power, one)?;
    let fraction = b.div(two, bottom)?;
    let far = b.sub(one, fraction)?;
    near_or_far(b, x, 0.625, near, far)
}

/// A polynomial near zero, else one minus the exponential of another.
pub fn erf<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let square = b.mul(x, x)?;
    let tail = polynomial(b, ERF, square)?;
    let near = b.muladd(size, tail, size)?;

    let limit = b.float(x.ty, 4.0)?;
    let clamped = b.binary(Binary::Min, size, limit)?;
    let logarithm = polynomial(b, LOG_ERFC, clamped)?;
    let rest = exp_clamped(b, logarithm)?;
    let one = b.float(x.ty, 1.0)?;
    let far = b.sub(one, rest)?;
    near_or_far(b, x, 1.0, near, far)
}

/// `near` where `|x|` is below the limit, else `far`; with the sign of `x`.
fn near_or_far<B: Build>(b: &mut B, x: V<B>, limit: f64, near: V<B>, far: V<B>) -> Result<V<B>> {
    let (size, limit) = (b.abs(x)?, b.float(x.ty, limit)?);
    let is_near = b.compare(Compare::Lt, size, limit)?;
    let value = b.select(is_near, near, far)?;
    b.binary(Binary::CopySign, value, x)
}

/// By Horner's rule; the constant first.
fn polynomial<B: Build>(b: &mut B, coefficients: &[f64], x: V<B>) -> Result<V<B>> {
    let mut value = b.float(x.ty, coefficients.last().copied().unwrap_or(0.0))?;
    for c in coefficients.iter().rev().skip(1) {
        let c = b.float(x.ty, *c)?;
        value = b.muladd(value, x, c)?;
    }
    Ok(value)
}

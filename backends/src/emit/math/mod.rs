//! Mathematical functions in vector instructions.
//!
//! Each is reduced to a short interval, on which a polynomial of nearly the least largest relative error stands for it
//! (Remez, or interpolation at Chebyshev's nodes; the degree is the least whose error is far below half a unit of the
//! last place). Scalars take the same way as vectors, so that the last elements of a loop are computed like the others.
//! Errors in units of the last place, by sampling: `f32` exp 1.0, log 0.9, tanh 1.3, erf 1.2, sigmoid 1.5, softplus 1.8,
//! and those of [`wide`], which are computed in `f64`, 0.5 (of huge angles, by the C library, sin and cos 0.55, tan 0.73);
//! `f64` exp and log 1, tanh, sin, cos, sigmoid and softplus 2. Other functions of `f64` are the C library's.
//!
//! Only additions and multiplications follow each other, fused where the machine can; the constants are such that
//! the results hold without fusing, too.

mod far;
pub mod wide;

use super::build::{Binary, Build, Compare, V};
use crate::polynomials::{ERF, LOG_ERFC, TANH};
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

/// As [`EXP`], for `f64`.
const EXP_F64: &[f64] = &[
    0.5000000000000001,
    0.16666666666666669,
    0.041666666666624164,
    0.008333333333330065,
    0.0013888888917196719,
    0.00019841269863040545,
    2.4801521322368692e-05,
    2.7557268480310024e-06,
    2.7620075879983367e-07,
    2.5100375832561234e-08,
];

/// `(2 atanh(s) - 2 s) / s^3` in powers of `s^2`, where `s = f / (2 + f)`: then `log(1 + f) = 2 atanh(s)`.
const LOG_F64: &[f64] = &[
    0.6666666666666666,
    0.4000000000000088,
    0.28571428570803614,
    0.22222222391713917,
    0.181817956401329,
    0.15386239702814888,
    0.13268773138651677,
    0.13086626147887312,
];

/// As [`TANH`], for `f64` and `|x| <= 0.5625`.
const TANH_F64: &[f64] = &[
    -0.3333333333333333,
    0.133333333333333,
    -0.05396825396820291,
    0.02186948853313033,
    -0.008863235437120372,
    0.0035921263528221592,
    -0.00145581494362435,
    0.0005898788187469064,
    -0.0002383645903820284,
    9.427778825721237e-05,
    -3.333062010717168e-05,
    7.63441416711385e-06,
];

/// A floating-point format and the constants that its functions need.
struct Format {
    /// Integers of its size.
    int: DType,
    /// Bits of the mantissa.
    mantissa: u32,
    /// Of the exponent.
    bias: i64,
    /// 1.5 * 2^mantissa: a number plus this has the rounded number in its low bits.
    rounder: (f64, i64),
    /// The bits of the square root of 1/2.
    root_half: i64,
    /// The least normal number.
    least: f64,
    /// ln(2) in two parts, of which the first has few bits: its products with small integers are exact.
    ln2: (f64, f64),
    /// Beyond these the exponential is 0 or infinite.
    exp_range: (f64, f64),
    exp: &'static [f64],
    /// Up to here the polynomial, from here on 1.
    tanh_range: (f64, f64),
    tanh: &'static [f64],
}

const F32: Format = Format {
    int: DType::I32,
    mantissa: 23,
    bias: 127,
    rounder: (12582912.0, 12582912f32.to_bits() as i64),
    root_half: std::f32::consts::FRAC_1_SQRT_2.to_bits() as i64,
    least: f32::MIN_POSITIVE as f64,
    ln2: (0.693359375, -0.00021219444005469057),
    exp_range: (-105.0, 89.0),
    exp: EXP,
    tanh_range: (0.625, 9.5),
    tanh: TANH,
};

const F64: Format = Format {
    int: DType::I64,
    mantissa: 52,
    bias: 1023,
    rounder: (6755399441055744.0, 6755399441055744f64.to_bits() as i64),
    root_half: std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64,
    least: f64::MIN_POSITIVE,
    ln2: (0.6931471803691238, 1.9082149292705877e-10),
    exp_range: (-746.0, 710.0),
    exp: EXP_F64,
    tanh_range: (0.5625, 20.0),
    tanh: TANH_F64,
};

fn format(dtype: DType) -> &'static Format {
    if dtype == DType::F64 { &F64 } else { &F32 }
}

/// Beyond the clamped range results are 0 or infinite, as they should be.
pub fn exp<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (lo, hi) = format(x.ty.dtype).exp_range;
    let (lo, hi) = (b.float(x.ty, lo)?, b.float(x.ty, hi)?);
    let x = b.clamp(x, lo, hi)?;
    exp_clamped(b, x)
}

/// `2^n * exp(r)`. The power is applied in two halves, either of which is a normal number.
fn exp_clamped<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let format = format(x.ty.dtype);
    let log2_e = b.float(x.ty, std::f64::consts::LOG2_E)?;
    let rounder = b.float(x.ty, format.rounder.0)?;
    let shifted = b.muladd(x, log2_e, rounder)?;
    let n = b.sub(shifted, rounder)?;
    let (high, low) = (b.float(x.ty, -format.ln2.0)?, b.float(x.ty, -format.ln2.1)?);
    let r = b.muladd(n, high, x)?;
    let r = b.muladd(n, low, r)?;
    let square = b.mul(r, r)?;
    let tail = polynomial(b, format.exp, r)?;
    let rest = b.muladd(square, tail, r)?;
    let one = b.float(x.ty, 1.0)?;
    let value = b.add(rest, one)?;

    if let Some(scaled) = b.scale(value, n)? {
        return Ok(scaled);
    }
    let bits = b.bits(shifted, format.int)?;
    let zero = b.int(bits.ty, format.rounder.1)?;
    let n = b.sub(bits, zero)?;
    let half = b.shift(Binary::Shr, n, 1)?;
    let other = b.sub(n, half)?;
    let power = power_of_two(b, half, x.ty.dtype)?;
    let value = b.mul(value, power)?;
    let power = power_of_two(b, other, x.ty.dtype)?;
    b.mul(value, power)
}

/// `2^n`, a normal number, of integers of the type's size.
fn power_of_two<B: Build>(b: &mut B, n: V<B>, dtype: DType) -> Result<V<B>> {
    let format = format(dtype);
    let bias = b.int(n.ty, format.bias)?;
    let biased = b.add(n, bias)?;
    let bits = b.shift(Binary::Shl, biased, format.mantissa)?;
    b.bits(bits, dtype)
}

/// The logarithm, with the limits at zero and infinity, and NaN below zero.
pub fn log<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let format = format(x.ty.dtype);
    let digits = f64::from(format.mantissa);
    let least = b.float(x.ty, format.least)?;
    let subnormal = b.compare(Compare::Lt, x, least)?;
    let factor = b.float(x.ty, digits.exp2())?;
    let scaled = b.mul(x, factor)?;
    let normal = b.select(subnormal, scaled, x)?;
    let (zero, down) = (b.float(x.ty, 0.0)?, b.float(x.ty, -digits)?);
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
    let format = format(x.ty.dtype);
    let bits = b.bits(x, format.int)?;
    let root_half = b.int(bits.ty, format.root_half)?;
    let above = b.sub(bits, root_half)?;
    let e = b.shift(Binary::Shr, above, format.mantissa)?;
    let shift = b.shift(Binary::Shl, e, format.mantissa)?;
    let reduced = b.sub(bits, shift)?;
    let reduced = b.bits(reduced, x.ty.dtype)?;
    let e = b.convert(e, x.ty.dtype)?;
    let e = b.add(e, exponent)?;
    let one = b.float(x.ty, 1.0)?;
    let f = b.sub(reduced, one)?;
    let (high, low, half) =
        (b.float(x.ty, format.ln2.0)?, b.float(x.ty, format.ln2.1)?, b.float(x.ty, -0.5)?);
    let square = b.mul(f, f)?;
    let sum = match x.ty.dtype {
        DType::F64 => log_tail(b, f, square)?,
        _ => {
            let cube = b.mul(square, f)?;
            let tail = polynomial(b, LOG, f)?;
            b.mul(cube, tail)?
        }
    };
    let sum = b.muladd(e, low, sum)?;
    let sum = b.muladd(square, half, sum)?;
    let sum = b.add(f, sum)?;
    b.muladd(e, high, sum)
}

/// `log(1 + f) - f + f^2 / 2` of an `f64`: with `s = f / (2 + f)` it is `s (f^2 / 2 + 2 atanh(s) / s - 2)`.
fn log_tail<B: Build>(b: &mut B, f: V<B>, square: V<B>) -> Result<V<B>> {
    let (two, half) = (b.float(f.ty, 2.0)?, b.float(f.ty, 0.5)?);
    let bottom = b.add(two, f)?;
    let s = b.div(f, bottom)?;
    let z = b.mul(s, s)?;
    let tail = polynomial(b, LOG_F64, z)?;
    let tail = b.mul(z, tail)?;
    let tail = b.muladd(square, half, tail)?;
    b.mul(s, tail)
}

/// `log(1 + x)` for `0 <= x <= 1`: what the addition rounds away is added again.
fn log1p<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (zero, one) = (b.float(x.ty, 0.0)?, b.float(x.ty, 1.0)?);
    let sum = b.add(one, x)?;
    let kept = b.sub(sum, one)?;
    let lost = b.sub(x, kept)?;
    let correction = b.div(lost, sum)?;
    let value = log_normal(b, sum, zero)?;
    b.add(value, correction)
}

/// With `e = exp(-|x|)`, which can't overflow, and `q = e / (1 + e)`: `1 - q`, and `e - e q` for negative operands,
/// where the error of `q` counts little.
pub fn sigmoid<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let e = exp_minus_abs(b, x)?;
    let (zero, one) = (b.float(x.ty, 0.0)?, b.float(x.ty, 1.0)?);
    let bottom = b.add(one, e)?;
    let q = b.div(e, bottom)?;
    let minus = b.neg(q)?;
    let below = b.muladd(e, minus, e)?;
    let above = b.sub(one, q)?;
    let is_below = b.compare(Compare::Lt, x, zero)?;
    b.select(is_below, below, above)
}

/// `max(x, 0) + log(1 + exp(-|x|))`
pub fn softplus<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let e = exp_minus_abs(b, x)?;
    let tail = log1p(b, e)?;
    let zero = b.float(x.ty, 0.0)?;
    let head = b.binary(Binary::Max, x, zero)?;
    b.add(head, tail)
}

fn exp_minus_abs<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let minus = b.neg(size)?;
    exp(b, minus)
}

/// A polynomial near zero, else `1 - 2 / (exp(2 |x|) + 1)`.
pub fn tanh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let format = format(x.ty.dtype);
    let size = b.abs(x)?;
    let square = b.mul(x, x)?;
    let cube = b.mul(size, square)?;
    let tail = polynomial(b, format.tanh, square)?;
    let near = b.muladd(cube, tail, size)?;

    let limit = b.float(x.ty, format.tanh_range.1)?;
    let clamped = b.binary(Binary::Min, size, limit)?;
    let twice = b.add(clamped, clamped)?;
    let power = exp_clamped(b, twice)?;
    let (one, two) = (b.float(x.ty, 1.0)?, b.float(x.ty, 2.0)?);
    let bottom = b.add(power, one)?;
    let fraction = b.div(two, bottom)?;
    let far = b.sub(one, fraction)?;
    near_or_far(b, x, format.tanh_range.0, near, far)
}

/// Of `f32`: a polynomial near zero, else one minus the exponential of another.
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

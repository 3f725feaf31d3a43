//! Functions of `f32` that are computed in `f64`, where short formulas lose nothing that shows after rounding; and the
//! sine and cosine of `f64`.
//!
//! Operands whose results need more digits than `f64` has, as the sines of huge numbers, are in a branch that is taken only if
//! a vector has such a lane ([`far`]); of `f64` itself it is the C library's.

use super::super::build::{Binary, Build, Compare, Place, Unary, V};
use super::super::scalar::libm;
use super::{exp, far, log, polynomial};
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::Scope;
use aic_ir::scalar::ScalarFn;
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// `(sin(r) / r - 1) / r^2` in powers of `r^2` for `|r| <= pi / 4`.
const SIN: &[f64] = &[
    -0.16666666666666666,
    0.008333333333333331,
    -0.00019841269841265063,
    2.7557319219337312e-06,
    -2.5052106231802824e-08,
    1.60585315167958e-10,
    -7.586691094100221e-13,
];

/// `(cos(r) - 1 + r^2 / 2) / r^4` in powers of `r^2` for `|r| <= pi / 4`.
const COS: &[f64] = &[
    0.041666666666666664,
    -0.0013888888888887398,
    2.480158729876456e-05,
    -2.755731727114513e-07,
    2.0876146146556195e-09,
    -1.1382623647332156e-11,
];

/// `(atan(x) / x - 1) / x^2` in powers of `x^2` for `|x| <= 1`, to 37 bits.
const ATAN: &[f64] = &[
    -0.3333333333230858,
    0.19999999652693418,
    -0.14285694570639293,
    0.11110666303611394,
    -0.0908562417777666,
    0.07654295472105929,
    -0.06487062354888035,
    0.052943908779283774,
    -0.038767022514758324,
    0.0232483736460652,
    -0.01025716623883597,
    0.002875485598149143,
    -0.00037788580579124797,
];

/// pi / 2 in three parts, of which the first two have 33 bits.
const HALF_PI: [f64; 3] = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21];

/// Products of the parts of pi / 2 with the number of right angles in operands up to here are exact.
const LARGEST_ANGLE: f64 = 1e6;

/// Quotients up to here have exact products with an `f32`.
const LARGEST_QUOTIENT: f64 = (1 << 29) as f64;

/// Where shorter series than the formulas' own cancellation are exact enough.
const SMALL: f64 = 1.0 / 64.0;

/// A function that is computed here; `None` for others.
pub fn call<B: Build>(b: &mut B, f: ScalarFn, x: &[V<B>]) -> Result<Option<V<B>>> {
    let is_angle = matches!(f, ScalarFn::Sin | ScalarFn::Cos);
    if !(x[0].ty.dtype == DType::F32 || is_angle) {
        return Ok(None);
    }
    let wide = x.iter().map(|x| b.convert(*x, DType::F64)).collect::<Result<Vec<V<B>>>>()?;
    let a = wide[0];
    let y = match f {
        ScalarFn::Sin | ScalarFn::Cos | ScalarFn::Tan => {
            let (size, limit) = (b.abs(a)?, b.float(a.ty, LARGEST_ANGLE)?);
            let (y, rare) = (angle(b, f, a)?, b.compare(Compare::Gt, size, limit)?);
            rarely(b, rare, y, |b| match x[0].ty.dtype {
                DType::F32 => far::angle(b, f, a),
                _ => libm(b, f, x),
            })?
        }
        ScalarFn::Rem => {
            let (y, rare) = remainder(b, a, wide[1])?;
            rarely(b, rare, y, |b| far::remainder(b, a, wide[1]))?
        }
        ScalarFn::Pow => pow(b, a, wide[1])?,
        ScalarFn::Atan => atan(b, a)?,
        ScalarFn::Asin => asin(b, a)?,
        ScalarFn::Acos => acos(b, a)?,
        ScalarFn::Sinh => sinh(b, a)?,
        ScalarFn::Cosh => cosh(b, a)?,
        ScalarFn::Asinh => asinh(b, a)?,
        ScalarFn::Acosh => acosh(b, a)?,
        ScalarFn::Atanh => atanh(b, a)?,
        _ => return Ok(None),
    };
    b.convert(y, x[0].ty.dtype).map(Some)
}

/// `y`, but what `slow` gives in the lanes that are rare.
fn rarely<B: Build>(
    b: &mut B,
    rare: V<B>,
    y: V<B>,
    slow: impl FnOnce(&mut B) -> Result<V<B>>,
) -> Result<V<B>> {
    let lanes = y.ty.lanes;
    let any = if lanes == 1 { rare } else { b.horizontal(Binary::Or, rare)? };
    let buffer = b.alloc(&Sym::new("rare"), y.ty.dtype, lanes, Scope::Register)?;
    let at = b.address(buffer, y.ty.dtype, &[], 0, 0)?;
    let place = || if lanes == 1 { Place::One(at) } else { Place::Consecutive(at, lanes) };
    b.store(y, place(), None)?;
    let mut branch = b.if_begin(any)?;
    let slow = slow(b)?;
    let both = b.select(rare, slow, y)?;
    b.store(both, place(), None)?;
    b.if_else(&mut branch)?;
    b.if_end(branch)?;
    b.load(y.ty.dtype, place(), None)
}

/// Sine, cosine or tangent of at most [`LARGEST_ANGLE`], by the nearest multiple of a right angle and the rest.
fn angle<B: Build>(b: &mut B, f: ScalarFn, x: V<B>) -> Result<V<B>> {
    let (per_angle, rounder) = (b.float(x.ty, FRAC_2_PI)?, b.float(x.ty, super::F64.rounder.0)?);
    let scaled = b.mul(x, per_angle)?;
    let shifted = b.add(scaled, rounder)?;
    let n = b.sub(shifted, rounder)?;
    let mut r = x;
    for part in HALF_PI {
        let part = b.float(x.ty, -part)?;
        r = b.muladd(n, part, r)?;
    }
    let bits = b.bits(shifted, DType::I64)?;
    let zero = b.int(bits.ty, super::F64.rounder.1)?;
    let quadrant = b.sub(bits, zero)?;
    let y = of_rest(b, f, r, quadrant)?;
    match f {
        ScalarFn::Cos => Ok(y),
        // The sign of a zero.
        _ => {
            let zero = b.float(x.ty, 0.0)?;
            let is_zero = b.compare(Compare::Eq, x, zero)?;
            b.select(is_zero, x, y)
        }
    }
}

/// Sine, cosine or tangent of an angle of at most half a right one after a number of right ones, `i64`.
pub(super) fn of_rest<B: Build>(b: &mut B, f: ScalarFn, r: V<B>, mut quadrant: V<B>) -> Result<V<B>> {
    let (one, half) = (b.float(r.ty, 1.0)?, b.float(r.ty, -0.5)?);
    let square = b.mul(r, r)?;
    let (cube, fourth) = (b.mul(square, r)?, b.mul(square, square)?);
    let tail = polynomial(b, SIN, square)?;
    let sin = b.muladd(cube, tail, r)?;
    let tail = polynomial(b, COS, square)?;
    let cos = b.muladd(square, half, one)?;
    let cos = b.muladd(fourth, tail, cos)?;

    if f == ScalarFn::Cos {
        let one = b.int(quadrant.ty, 1)?;
        quadrant = b.add(quadrant, one)?;
    }
    let is_odd = has_bit(b, quadrant, 1)?;
    let (y, minus) = match f {
        ScalarFn::Tan => {
            let (top, bottom) = (b.select(is_odd, cos, sin)?, b.select(is_odd, sin, cos)?);
            (b.div(top, bottom)?, is_odd)
        }
        _ => (b.select(is_odd, cos, sin)?, has_bit(b, quadrant, 2)?),
    };
    let negated = b.neg(y)?;
    b.select(minus, negated, y)
}

fn has_bit<B: Build>(b: &mut B, x: V<B>, bit: i64) -> Result<V<B>> {
    let (bit, zero) = (b.int(x.ty, bit)?, b.int(x.ty, 0)?);
    let x = b.and(x, bit)?;
    b.compare(Compare::Ne, x, zero)
}

/// `x - y * trunc(x / y)`, and where the quotient is too large for that.
fn remainder<B: Build>(b: &mut B, x: V<B>, y: V<B>) -> Result<(V<B>, V<B>)> {
    let (size, divisor, zero) = (b.abs(x)?, b.abs(y)?, b.float(x.ty, 0.0)?);
    let quotient = b.div(size, divisor)?;
    let quotient = b.unary(Unary::Trunc, quotient)?;
    let minus = b.neg(divisor)?;
    // The quotient may have been rounded up to the next whole number.
    let rest = b.muladd(quotient, minus, size)?;
    let more = b.add(rest, divisor)?;
    let is_below = b.compare(Compare::Lt, rest, zero)?;
    let rest = b.select(is_below, more, rest)?;
    let infinity = b.float(x.ty, f64::INFINITY)?;
    let whole = b.compare(Compare::Lt, size, infinity)?;
    let endless = b.compare(Compare::Eq, divisor, infinity)?;
    let keeps = b.and(whole, endless)?;
    let rest = b.select(keeps, size, rest)?;
    let rest = b.binary(Binary::CopySign, rest, x)?;
    let limit = b.float(x.ty, LARGEST_QUOTIENT)?;
    Ok((rest, b.compare(Compare::Ge, quotient, limit)?))
}

/// `exp(y log(|x|))`, with the sign and the special cases of IEEE 754's `pow`.
fn pow<B: Build>(b: &mut B, x: V<B>, y: V<B>) -> Result<V<B>> {
    let (zero, one, half) = (b.float(x.ty, 0.0)?, b.float(x.ty, 1.0)?, b.float(x.ty, 0.5)?);
    let size = b.abs(x)?;
    let logarithm = log(b, size)?;
    let exponent = b.mul(y, logarithm)?;
    let power = exp(b, exponent)?;

    // One to any power, and anything to the power of zero.
    let (is_one, is_flat) = (b.compare(Compare::Eq, size, one)?, b.compare(Compare::Eq, y, zero)?);
    let is_number = b.compare(Compare::Eq, y, y)?;
    let is_plus_one = b.compare(Compare::Eq, x, one)?;
    let is_one = b.and(is_one, is_number)?;
    let (unit, plus_one) = (b.or(is_one, is_flat)?, b.or(is_plus_one, is_flat)?);
    let power = b.select(unit, one, power)?;

    // Of negative numbers whole powers only, which are negative if they are odd.
    let whole = b.unary(Unary::Trunc, y)?;
    let is_whole = b.compare(Compare::Eq, whole, y)?;
    let halved = b.mul(y, half)?;
    let whole = b.unary(Unary::Trunc, halved)?;
    let is_not_even = b.compare(Compare::Ne, whole, halved)?;
    let is_odd = b.and(is_whole, is_not_even)?;
    let signed = b.binary(Binary::CopySign, power, x)?;
    let power = b.select(is_odd, signed, power)?;
    let (infinity, nan) = (b.float(x.ty, f64::NEG_INFINITY)?, b.float(x.ty, f64::NAN)?);
    let (below, finite) = (b.compare(Compare::Lt, x, zero)?, b.compare(Compare::Gt, x, infinity)?);
    let below = b.and(below, finite)?;
    let is_broken = b.not(is_whole)?;
    let undefined = b.and(below, is_broken)?;
    let power = b.select(undefined, nan, power)?;
    b.select(plus_one, one, power)
}

/// A polynomial up to 1, beyond of the reciprocal.
fn atan<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (size, one, right) = (b.abs(x)?, b.float(x.ty, 1.0)?, b.float(x.ty, FRAC_PI_2)?);
    let is_large = b.compare(Compare::Gt, size, one)?;
    let reciprocal = b.div(one, size)?;
    let t = b.select(is_large, reciprocal, size)?;
    let square = b.mul(t, t)?;
    let cube = b.mul(square, t)?;
    let tail = polynomial(b, ATAN, square)?;
    let near = b.muladd(cube, tail, t)?;
    let far = b.sub(right, near)?;
    let y = b.select(is_large, far, near)?;
    b.binary(Binary::CopySign, y, x)
}

/// `atan(x / sqrt((1 - x) (1 + x)))`
fn asin<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let one = b.float(x.ty, 1.0)?;
    let (minus, plus) = (b.sub(one, x)?, b.add(one, x)?);
    let product = b.mul(minus, plus)?;
    let root = b.unary(Unary::Sqrt, product)?;
    let tangent = b.div(x, root)?;
    atan(b, tangent)
}

/// `2 atan(sqrt((1 - x) / (1 + x)))`
fn acos<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (one, two) = (b.float(x.ty, 1.0)?, b.float(x.ty, 2.0)?);
    let (minus, plus) = (b.sub(one, x)?, b.add(one, x)?);
    let quotient = b.div(minus, plus)?;
    let root = b.unary(Unary::Sqrt, quotient)?;
    let y = atan(b, root)?;
    b.mul(two, y)
}

/// `(exp(|x|) - exp(-|x|)) / 2`, near zero a series.
fn sinh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let (grown, shrunk) = exponentials(b, size)?;
    let (difference, half) = (b.sub(grown, shrunk)?, b.float(x.ty, 0.5)?);
    let far = b.mul(difference, half)?;
    let near = odd_series(b, size, &[1.0 / 6.0, 1.0 / 120.0])?;
    super::near_or_far(b, x, SMALL, near, far)
}

/// `(exp(|x|) + exp(-|x|)) / 2`
fn cosh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let (grown, shrunk) = exponentials(b, size)?;
    let (sum, half) = (b.add(grown, shrunk)?, b.float(x.ty, 0.5)?);
    b.mul(sum, half)
}

/// `exp(x)` and `exp(-x)`
fn exponentials<B: Build>(b: &mut B, x: V<B>) -> Result<(V<B>, V<B>)> {
    let (grown, one) = (exp(b, x)?, b.float(x.ty, 1.0)?);
    Ok((grown, b.div(one, grown)?))
}

/// `log(|x| + sqrt(x^2 + 1))`, near zero a series.
fn asinh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (size, one) = (b.abs(x)?, b.float(x.ty, 1.0)?);
    let square = b.muladd(x, x, one)?;
    let root = b.unary(Unary::Sqrt, square)?;
    let sum = b.add(size, root)?;
    let far = log(b, sum)?;
    let near = odd_series(b, size, &[-1.0 / 6.0, 3.0 / 40.0])?;
    super::near_or_far(b, x, SMALL, near, far)
}

/// `log(x + sqrt((x - 1) (x + 1)))`
fn acosh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (one, nan) = (b.float(x.ty, 1.0)?, b.float(x.ty, f64::NAN)?);
    let (minus, plus) = (b.sub(x, one)?, b.add(x, one)?);
    let product = b.mul(minus, plus)?;
    let root = b.unary(Unary::Sqrt, product)?;
    let sum = b.add(x, root)?;
    let y = log(b, sum)?;
    let is_outside = b.compare(Compare::Lt, x, one)?;
    b.select(is_outside, nan, y)
}

/// `log((1 + |x|) / (1 - |x|)) / 2`, near zero a series.
fn atanh<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let (size, one, half) = (b.abs(x)?, b.float(x.ty, 1.0)?, b.float(x.ty, 0.5)?);
    let (plus, minus) = (b.add(one, size)?, b.sub(one, size)?);
    let quotient = b.div(plus, minus)?;
    let logarithm = log(b, quotient)?;
    let far = b.mul(logarithm, half)?;
    let near = odd_series(b, size, &[1.0 / 3.0, 1.0 / 5.0])?;
    super::near_or_far(b, x, SMALL, near, far)
}

/// `x + x^3 (c0 + c1 x^2 + ..)`
fn odd_series<B: Build>(b: &mut B, x: V<B>, coefficients: &[f64]) -> Result<V<B>> {
    let square = b.mul(x, x)?;
    let cube = b.mul(square, x)?;
    let tail = polynomial(b, coefficients, square)?;
    b.muladd(cube, tail, x)
}

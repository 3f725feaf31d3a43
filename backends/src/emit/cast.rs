//! Conversions between element types, as [`Scalar::cast`](aic_ir::scalar::Scalar::cast) defines them.
//!
//! 16-bit floats are their bits in registers, and are converted by way of `f32`. A wider number is first rounded to
//! `f32` "to odd" (truncated, with the last bit set if anything was cut off), so that the second rounding is right:
//! `f32` has more than two bits to spare over both. No conversion calls a library.

use super::build::{Binary, Build, Compare, V};
use super::name;
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::Result;

pub(super) fn cast<B: Build>(b: &mut B, x: V<B>, to: DType) -> Result<V<B>> {
    let from = x.ty.dtype;
    match (from, to) {
        _ if from == to => Ok(x),
        (_, DType::String) => bail!("{} is cast to string", name(x.ty)),
        (DType::F16 | DType::BF16, _) => {
            let wide = widen(b, x)?;
            cast(b, wide, to)
        }
        (DType::F32 | DType::F64, _) => round_float(b, x, to),
        (_, DType::Bool) => {
            let zero = b.int(x.ty, 0)?;
            b.compare(Compare::Ne, x, zero)
        }
        (_, DType::F16 | DType::BF16) => {
            // f32 holds what has up to 24 bits, f64 is first rounded to as for any integer.
            let exact = if from.size() <= 2 { DType::F32 } else { DType::F64 };
            let wide = cast(b, x, exact)?;
            cast(b, wide, to)
        }
        (DType::Bool, DType::F32 | DType::F64) => {
            let int = b.convert(x, DType::I32)?;
            b.convert(int, to)
        }
        _ => b.convert(x, to),
    }
}

/// From `f32` or `f64`.
fn round_float<B: Build>(b: &mut B, x: V<B>, to: DType) -> Result<V<B>> {
    match to {
        DType::F64 | DType::F32 => b.convert(x, to),
        DType::F16 | DType::BF16 => {
            let single = if x.ty.dtype == DType::F64 { round_to_odd(b, x)? } else { x };
            if to == DType::BF16 {
                return bfloat(b, single);
            }
            match b.convert_half(single, DType::F16)? {
                Some(half) => Ok(half),
                None => half_by_bits(b, single),
            }
        }
        DType::Bool => {
            let zero = b.float(x.ty, 0.0)?;
            b.compare(Compare::Ne, x, zero)
        }
        DType::I8 | DType::U8 if x.ty.dtype == DType::F32 => to_byte(b, x, to),
        _ => to_int(b, x, to),
    }
}

/// By way of 64 bits with saturation, NaN being 0; negative numbers through the signed type.
fn to_int<B: Build>(b: &mut B, x: V<B>, to: DType) -> Result<V<B>> {
    let signed = b.saturate(x, DType::I64)?;
    if to.is_signed() {
        return b.convert(signed, to);
    }
    let signed = b.bits(signed, DType::U64)?;
    let unsigned = b.saturate(x, DType::U64)?;
    let zero = b.float(x.ty, 0.0)?;
    let negative = b.compare(Compare::Lt, x, zero)?;
    let value = b.select(negative, signed, unsigned)?;
    b.convert(value, to)
}

/// A `f32` beyond 2^31 is a multiple of 256, so its last byte is 0; until it saturates, which gives -1.
fn to_byte<B: Build>(b: &mut B, x: V<B>, to: DType) -> Result<V<B>> {
    let limit = if to.is_signed() { 63 } else { 64 };
    let size = b.abs(x)?;
    let (zero, end) = (b.float(x.ty, 0.0)?, b.float(x.ty, 2f64.powi(31))?);
    let small = b.compare(Compare::Lt, size, end)?;
    let held = b.select(small, x, zero)?;
    let value = b.convert(held, DType::I32)?;
    let value = b.convert(value, to)?;
    let end = b.float(x.ty, 2f64.powi(limit))?;
    let huge = b.compare(Compare::Ge, x, end)?;
    let saturated = b.int(value.ty, -1)?;
    b.select(huge, saturated, value)
}

/// A 16-bit float as `f32`, exactly.
fn widen<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    if x.ty.dtype == DType::F16
        && let Some(single) = b.convert_half(x, DType::F32)?
    {
        return Ok(single);
    }
    let bits = b.bits(x, DType::U16)?;
    let bits = b.convert(bits, DType::U32)?;
    if x.ty.dtype == DType::F16 {
        return widen_half_by_bits(b, bits);
    }
    let bits = b.shift(Binary::Shl, bits, 16)?;
    b.bits(bits, DType::F32)
}

/// Exponent and fraction are moved into place and scaled by 2^112, which also normalises subnormals.
fn widen_half_by_bits<B: Build>(b: &mut B, bits: V<B>) -> Result<V<B>> {
    let all_but_sign = b.int(bits.ty, 0x7fff)?;
    let size = b.and(bits, all_but_sign)?;
    let sign = b.xor(bits, size)?;
    let sign = b.shift(Binary::Shl, sign, 16)?;
    let moved = b.shift(Binary::Shl, size, 13)?;
    let small = b.bits(moved, DType::F32)?;
    let factor = b.float(small.ty, 2f64.powi(112))?;
    let scaled = b.mul(small, factor)?;
    let finite = b.bits(scaled, DType::U32)?;
    let infinity = b.int(bits.ty, 0x7c00)?;
    let special = b.compare(Compare::Ge, size, infinity)?;
    let exponent = b.int(bits.ty, 0x7f80_0000)?;
    let infinite = b.or(finite, exponent)?;
    let value = b.select(special, infinite, finite)?;
    let value = b.or(value, sign)?;
    b.bits(value, DType::F32)
}

/// Normal results: round the fraction's tail in integers. Subnormal ones: let an addition of 0.5 do it, whose
/// last bit is that of a subnormal.
fn half_by_bits<B: Build>(b: &mut B, single: V<B>) -> Result<V<B>> {
    let bits = b.bits(single, DType::U32)?;
    let int = |b: &mut B, n: i64| b.int(bits.ty, n);
    let all_but_sign = int(b, 0x7fff_ffff)?;
    let size = b.and(bits, all_but_sign)?;
    let sign = b.shift(Binary::Shr, bits, 16)?;
    let sign_bit = int(b, 0x8000)?;
    let sign = b.and(sign, sign_bit)?;

    let last = b.shift(Binary::Shr, size, 13)?;
    let one = int(b, 1)?;
    let last = b.and(last, one)?;
    let rebias = int(b, 0xfff - (112 << 23))?;
    let normal = b.add(size, rebias)?;
    let normal = b.add(normal, last)?;
    let normal = b.shift(Binary::Shr, normal, 13)?;

    let half = b.float(single.ty, 0.5)?;
    let shifted = b.bits(size, DType::F32)?;
    let shifted = b.add(shifted, half)?;
    let shifted = b.bits(shifted, DType::U32)?;
    let half_bits = int(b, 0.5f32.to_bits().into())?;
    let subnormal = b.sub(shifted, half_bits)?;

    let (least, end, infinity) = (int(b, 113 << 23)?, int(b, 143 << 23)?, int(b, 0x7f80_0000)?);
    let is_subnormal = b.compare(Compare::Lt, size, least)?;
    let is_large = b.compare(Compare::Ge, size, end)?;
    let is_nan = b.compare(Compare::Gt, size, infinity)?;
    let (infinity, nan) = (int(b, 0x7c00)?, int(b, 0x7e00)?);
    let value = b.select(is_subnormal, subnormal, normal)?;
    let value = b.select(is_large, infinity, value)?;
    let value = b.select(is_nan, nan, value)?;
    let value = b.or(value, sign)?;
    let value = b.convert(value, DType::U16)?;
    b.bits(value, DType::F16)
}

/// The upper half of the bits, rounded to nearest even. NaN stays NaN.
fn bfloat<B: Build>(b: &mut B, single: V<B>) -> Result<V<B>> {
    let bits = b.bits(single, DType::U32)?;
    let (one, below_half, quiet) = (b.int(bits.ty, 1)?, b.int(bits.ty, 0x7fff)?, b.int(bits.ty, 0x40)?);
    let high = b.shift(Binary::Shr, bits, 16)?;
    let last = b.and(high, one)?;
    let rounded = b.add(bits, below_half)?;
    let rounded = b.add(rounded, last)?;
    let rounded = b.shift(Binary::Shr, rounded, 16)?;
    let quiet = b.or(high, quiet)?;
    let is_nan = b.compare(Compare::Ne, single, single)?;
    let value = b.select(is_nan, quiet, rounded)?;
    let value = b.convert(value, DType::U16)?;
    b.bits(value, DType::BF16)
}

/// `f64` to `f32`: where the nearest isn't exact, the neighbour with an odd last bit.
fn round_to_odd<B: Build>(b: &mut B, x: V<B>) -> Result<V<B>> {
    let near = b.convert(x, DType::F32)?;
    let back = b.convert(near, DType::F64)?;
    let bits = b.bits(near, DType::U32)?;
    let one = b.int(bits.ty, 1)?;
    let (size, back_size) = (b.abs(x)?, b.abs(back)?);
    let too_large = b.compare(Compare::Gt, back_size, size)?;
    let less = b.sub(bits, one)?;
    let truncated = b.select(too_large, less, bits)?;
    let odd = b.or(truncated, one)?;
    let inexact = b.compare(Compare::Ne, back, x)?;
    let bits = b.select(inexact, odd, bits)?;
    b.bits(bits, DType::F32)
}

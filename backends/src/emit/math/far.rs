//! Functions of `f32` far from zero, whose operands are given in `f64`: angles of millions and more, and remainders whose
//! quotients have more digits than `f64`.

use super::super::build::{Binary, Build, Compare, Unary, V};
use super::wide::of_rest;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::scalar::ScalarFn;
use std::f64::consts::FRAC_PI_2;

/// Eight zeros and the first bits of 2 / pi, 32 in each.
const TWO_OVER_PI: [i64; 7] =
    [0x00a2f983, 0x6e4e4415, 0x29fc2757, 0xd1f534dd, 0xc0db6295, 0x993c4390, 0x41fe5163];

/// The exponents of `f32` as an integer of 24 bits times a power of two, for numbers of more than a million.
const EXPONENTS: (i64, i64) = (-4, 104);

/// Sine, cosine or tangent of more than a million (Payne and Hanek, 1983): `x = m 2^e` times those 96 bits of 2 / pi that
/// count is the number of right angles in it, of which 2 bits before and 62 behind the point are kept.
pub fn angle<B: Build>(b: &mut B, f: ScalarFn, x: V<B>) -> Result<V<B>> {
    let size = b.abs(x)?;
    let bits = b.bits(size, DType::I64)?;
    let int = |b: &mut B, n: i64| b.int(bits.ty, n);
    let (fraction, leading, dropped) = (int(b, (1 << 52) - 1)?, int(b, 1 << 52)?, int(b, 29)?);
    let m = b.and(bits, fraction)?;
    let m = b.or(m, leading)?;
    let m = b.binary(Binary::Shr, m, dropped)?;

    let (mantissa, bias) = (int(b, 52)?, int(b, 1023 + 23)?);
    let e = b.binary(Binary::Shr, bits, mantissa)?;
    let e = b.sub(e, bias)?;
    let (least, most) = (int(b, EXPONENTS.0)?, int(b, EXPONENTS.1)?);
    let e = b.clamp(e, least, most)?;
    // The first bit whose product with `m` isn't a multiple of four.
    let six = int(b, 6)?;
    let first = b.add(e, six)?;

    let n_bits = int(b, 32)?;
    let [w0, w1, w2] = window(b, first)?;
    let high = b.mul(m, w0)?;
    let high = b.binary(Binary::Shl, high, n_bits)?;
    let middle = b.mul(m, w1)?;
    let low = b.mul(m, w2)?;
    let low = b.binary(Binary::Shr, low, n_bits)?;
    let sum = b.add(high, middle)?;
    let sum = b.add(sum, low)?;
    let zero = b.float(x.ty, 0.0)?;
    let (is_below, minus) = (b.compare(Compare::Lt, x, zero)?, b.neg(sum)?);
    let angles = b.select(is_below, minus, sum)?;

    let (half, point) = (int(b, 1 << 61)?, int(b, 62)?);
    let quadrant = b.add(angles, half)?;
    let quadrant = b.binary(Binary::Shr, quadrant, point)?;
    let whole = b.binary(Binary::Shl, quadrant, point)?;
    let rest = b.sub(angles, whole)?;
    let rest = b.convert(rest, DType::F64)?;
    let unit = b.float(x.ty, FRAC_PI_2 / (1u64 << 62) as f64)?;
    let r = b.mul(rest, unit)?;
    let y = of_rest(b, f, r, quadrant)?;
    // NaN for what isn't finite.
    let nothing = b.sub(x, x)?;
    b.add(y, nothing)
}

/// The 96 bits of [`TWO_OVER_PI`] from one on, 32 in each.
fn window<B: Build>(b: &mut B, first: V<B>) -> Result<[V<B>; 3]> {
    let int = |b: &mut B, n: i64| b.int(first.ty, n);
    let (n_bits, five, mask) = (int(b, 32)?, int(b, 5)?, int(b, 0xffff_ffff)?);
    let word = b.binary(Binary::Shr, first, five)?;
    let in_word = int(b, 31)?;
    let in_word = b.and(first, in_word)?;
    let shift = b.sub(n_bits, in_word)?;
    let mut words = Vec::new();
    for k in 0..4 {
        let mut found = int(b, TWO_OVER_PI[k + 3])?;
        for at in 0..3 {
            let (here, other) = (int(b, at as i64)?, int(b, TWO_OVER_PI[k + at])?);
            let is_here = b.compare(Compare::Eq, word, here)?;
            found = b.select(is_here, other, found)?;
        }
        words.push(found);
    }
    let mut out = [first; 3];
    for (k, out) in out.iter_mut().enumerate() {
        let high = b.binary(Binary::Shl, words[k], n_bits)?;
        let both = b.or(high, words[k + 1])?;
        let shifted = b.binary(Binary::Shr, both, shift)?;
        *out = b.and(shifted, mask)?;
    }
    Ok(out)
}

/// `x - y trunc(x / y)`, 28 bits of the quotient at a time: their products with `y` are exact, and so is what they leave.
pub fn remainder<B: Build>(b: &mut B, x: V<B>, y: V<B>) -> Result<V<B>> {
    let (mut rest, divisor, zero) = (b.abs(x)?, b.abs(y)?, b.float(x.ty, 0.0)?);
    // Quotients are below 2^(128 + 149).
    for digit in (0..10).rev() {
        let scale = b.float(x.ty, f64::from(1u32 << 28).powi(digit))?;
        let divisor = b.mul(divisor, scale)?;
        let quotient = b.div(rest, divisor)?;
        let quotient = b.unary(Unary::Trunc, quotient)?;
        let minus = b.neg(divisor)?;
        let less = b.muladd(quotient, minus, rest)?;
        // The quotient may have been rounded up to the next whole number.
        let more = b.add(less, divisor)?;
        let is_below = b.compare(Compare::Lt, less, zero)?;
        rest = b.select(is_below, more, less)?;
    }
    b.binary(Binary::CopySign, rest, x)
}

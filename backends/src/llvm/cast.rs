//! Conversions between element types, as [`Scalar::cast`](aic_ir::scalar::Scalar::cast) defines them.
//!
//! 16-bit floats are their bits in registers, and are converted by way of `f32`. A wider number is first rounded to
//! `f32` "to odd" (truncated, with the last bit set if anything was cut off), so that the second rounding is right:
//! `f32` has more than two bits to spare over both. No conversion calls a library.

use super::build::Raw;
use super::emit::{Emitter, Value, name};
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FastMathFlags, InstructionOpcode as I};
use inkwell::{FloatPredicate as F, IntPredicate as P};

impl<'c> Emitter<'_, 'c> {
    pub fn convert(&mut self, v: Value<'c>, to: DType) -> Result<Value<'c>> {
        let from = v.ty.dtype;
        let ty = VType { dtype: to, ..v.ty };
        if from == to {
            return Ok(v);
        }
        if to == DType::String {
            bail!("{} is cast to string", name(v.ty));
        }
        let raw = match (from, to) {
            (DType::F16 | DType::BF16, _) => {
                let wide = Value { raw: self.widen(v)?, ty: VType { dtype: DType::F32, ..v.ty } };
                return self.convert(wide, to);
            }
            (DType::F32 | DType::F64, _) => self.round_float(v, ty)?,
            (DType::Bool, _) if to.is_int() => self.b.cast(I::ZExt, v.raw, self.b.ty(ty))?,
            (_, DType::Bool) => self.b.icmp(P::NE, v.raw, self.b.int_like(v.raw, 0)?)?,
            (_, _) if to.is_int() => self.resize(v.raw, from, ty)?,
            (_, DType::F16 | DType::BF16) => {
                // f32 holds what has up to 24 bits, f64 is first rounded to as for any integer.
                let exact = if from.size() <= 2 { DType::F32 } else { DType::F64 };
                let wide = self.convert(v, exact)?;
                return self.convert(wide, to);
            }
            _ => {
                let op = if from.is_signed() { I::SIToFP } else { I::UIToFP };
                self.b.cast(op, v.raw, self.b.ty(ty))?
            }
        };
        Ok(Value { raw, ty })
    }

    fn resize(&self, raw: Raw<'c>, from: DType, to: VType) -> Result<Raw<'c>> {
        let op = match from.size().cmp(&to.dtype.size()) {
            std::cmp::Ordering::Greater => I::Trunc,
            std::cmp::Ordering::Equal => return Ok(raw),
            std::cmp::Ordering::Less if from.is_signed() => I::SExt,
            std::cmp::Ordering::Less => I::ZExt,
        };
        self.b.cast(op, raw, self.b.ty(to))
    }

    /// From `f32` or `f64`.
    fn round_float(&mut self, v: Value<'c>, to: VType) -> Result<Raw<'c>> {
        match to.dtype {
            DType::F64 => self.b.cast(I::FPExt, v.raw, self.b.ty(to)),
            DType::F32 => self.b.cast(I::FPTrunc, v.raw, self.b.ty(to)),
            DType::F16 | DType::BF16 => {
                let single = if v.ty.dtype == DType::F64 { self.round_to_odd(v)? } else { v.raw };
                match to.dtype {
                    DType::F16 if self.target.f16c => self.half_by_instruction(single, v.ty.lanes),
                    DType::F16 => self.half_by_bits(single, v.ty.lanes),
                    _ => self.bfloat(single, v.ty.lanes),
                }
            }
            DType::Bool => self.b.fcmp(F::UNE, v.raw, self.b.float_like(v.raw, 0.0)?),
            DType::I8 | DType::U8 if v.ty.dtype == DType::F32 => self.to_byte(v, to),
            _ => self.to_int(v, to),
        }
    }

    /// By way of 64 bits with saturation, NaN being 0; negative numbers through the signed type.
    fn to_int(&self, v: Value<'c>, to: VType) -> Result<Raw<'c>> {
        let wide = self.b.ty(VType { dtype: DType::I64, ..to });
        let overloads = [wide, v.raw.get_type()];
        let saturate = |name| self.b.intrinsic(name, &overloads, &[v.raw], FastMathFlags::empty());
        let signed = saturate("llvm.fptosi.sat")?;
        let value = if to.dtype.is_signed() {
            signed
        } else {
            let unsigned = saturate("llvm.fptoui.sat")?;
            let negative = self.b.fcmp(F::OLT, v.raw, self.b.float_like(v.raw, 0.0)?)?;
            self.b.select(negative, signed, unsigned)?
        };
        self.resize(value, DType::I64, to)
    }

    /// A `f32` beyond 2^31 is a multiple of 256, so its last byte is 0; until it saturates, which gives -1.
    fn to_byte(&self, v: Value<'c>, to: VType) -> Result<Raw<'c>> {
        let word = self.b.ty(VType { dtype: DType::I32, ..to });
        let limit = if to.dtype.is_signed() { 63 } else { 64 };
        let size = self.pure("llvm.fabs", &[v.raw])?;
        let small = self.b.fcmp(F::OLT, size, self.b.float_like(v.raw, 2f64.powi(31))?)?;
        let held = self.b.select(small, v.raw, self.b.float_like(v.raw, 0.0)?)?;
        let value = self.b.cast(I::FPToSI, held, word)?;
        let value = self.b.cast(I::Trunc, value, self.b.ty(to))?;
        let huge = self.b.fcmp(F::OGE, v.raw, self.b.float_like(v.raw, 2f64.powi(limit))?)?;
        self.b.select(huge, self.b.int_like(value, -1)?, value)
    }

    /// A 16-bit float as `f32`, exactly.
    fn widen(&self, v: Value<'c>) -> Result<Raw<'c>> {
        let (word, single) = self.word_and_single(v.ty.lanes);
        match v.ty.dtype {
            DType::BF16 => {
                let bits = self.b.cast(I::ZExt, v.raw, word)?;
                let bits = self.b.bin(I::Shl, bits, self.b.int_like(bits, 16)?)?;
                self.b.bitcast(bits, single)
            }
            _ if self.target.f16c => {
                let half = self.b.bitcast(v.raw, self.half_ty(v.ty.lanes))?;
                self.b.cast(I::FPExt, half, single)
            }
            _ => self.widen_half_by_bits(v.raw, word, single),
        }
    }

    /// Exponent and fraction are moved into place and scaled by 2^112, which also normalises subnormals.
    fn widen_half_by_bits(
        &self,
        raw: Raw<'c>,
        word: BasicTypeEnum<'c>,
        single: BasicTypeEnum<'c>,
    ) -> Result<Raw<'c>> {
        let bits = self.b.cast(I::ZExt, raw, word)?;
        let int = |n: i64| self.b.int_like(bits, n);
        let size = self.b.bin(I::And, bits, int(0x7fff)?)?;
        let sign = self.b.bin(I::Xor, bits, size)?;
        let sign = self.b.bin(I::Shl, sign, int(16)?)?;
        let moved = self.b.bin(I::Shl, size, int(13)?)?;
        let small = self.b.bitcast(moved, single)?;
        let scaled = self.b.bin(I::FMul, small, self.b.float_like(small, 2f64.powi(112))?)?;
        let finite = self.b.bitcast(scaled, word)?;
        let special = self.b.icmp(P::UGE, size, int(0x7c00)?)?;
        let infinite = self.b.bin(I::Or, finite, int(0x7f80_0000)?)?;
        let value = self.b.select(special, infinite, finite)?;
        let value = self.b.bin(I::Or, value, sign)?;
        self.b.bitcast(value, single)
    }

    fn half_by_instruction(&self, single: Raw<'c>, lanes: u32) -> Result<Raw<'c>> {
        let half = self.b.cast(I::FPTrunc, single, self.half_ty(lanes))?;
        self.b.bitcast(half, self.b.ty(VType { dtype: DType::F16, lanes }))
    }

    /// Normal results: round the fraction's tail in integers. Subnormal ones: let an addition of 0.5 do it, whose
    /// last bit is that of a subnormal.
    fn half_by_bits(&self, single: Raw<'c>, lanes: u32) -> Result<Raw<'c>> {
        let (word, _) = self.word_and_single(lanes);
        let bits = self.b.bitcast(single, word)?;
        let int = |n: i64| self.b.int_like(bits, n);
        let size = self.b.bin(I::And, bits, int(0x7fff_ffff)?)?;
        let sign = self.b.bin(I::LShr, bits, int(16)?)?;
        let sign = self.b.bin(I::And, sign, int(0x8000)?)?;

        let last = self.b.bin(I::LShr, size, int(13)?)?;
        let last = self.b.bin(I::And, last, int(1)?)?;
        let normal = self.b.bin(I::Add, size, int(0xfff - (112 << 23))?)?;
        let normal = self.b.bin(I::Add, normal, last)?;
        let normal = self.b.bin(I::LShr, normal, int(13)?)?;

        let half = self.b.float_like(single, 0.5)?;
        let shifted = self.b.bitcast(size, single.get_type())?;
        let shifted = self.b.bin(I::FAdd, shifted, half)?;
        let shifted = self.b.bitcast(shifted, word)?;
        let subnormal = self.b.bin(I::Sub, shifted, int(0.5f32.to_bits().into())?)?;

        let is_subnormal = self.b.icmp(P::ULT, size, int(113 << 23)?)?;
        let is_large = self.b.icmp(P::UGE, size, int(143 << 23)?)?;
        let is_nan = self.b.icmp(P::UGT, size, int(0x7f80_0000)?)?;
        let value = self.b.select(is_subnormal, subnormal, normal)?;
        let value = self.b.select(is_large, int(0x7c00)?, value)?;
        let value = self.b.select(is_nan, int(0x7e00)?, value)?;
        let value = self.b.bin(I::Or, value, sign)?;
        self.b.cast(I::Trunc, value, self.b.ty(VType { dtype: DType::F16, lanes }))
    }

    /// The upper half of the bits, rounded to nearest even. NaN stays NaN.
    fn bfloat(&self, single: Raw<'c>, lanes: u32) -> Result<Raw<'c>> {
        let (word, _) = self.word_and_single(lanes);
        let bits = self.b.bitcast(single, word)?;
        let int = |n: i64| self.b.int_like(bits, n);
        let high = self.b.bin(I::LShr, bits, int(16)?)?;
        let last = self.b.bin(I::And, high, int(1)?)?;
        let rounded = self.b.bin(I::Add, bits, int(0x7fff)?)?;
        let rounded = self.b.bin(I::Add, rounded, last)?;
        let rounded = self.b.bin(I::LShr, rounded, int(16)?)?;
        let quiet = self.b.bin(I::Or, high, int(0x40)?)?;
        let is_nan = self.b.fcmp(F::UNO, single, single)?;
        let value = self.b.select(is_nan, quiet, rounded)?;
        self.b.cast(I::Trunc, value, self.b.ty(VType { dtype: DType::BF16, lanes }))
    }

    /// `f64` to `f32`: where the nearest isn't exact, the neighbour with an odd last bit.
    fn round_to_odd(&self, v: Value<'c>) -> Result<Raw<'c>> {
        let (word, single) = self.word_and_single(v.ty.lanes);
        let near = self.b.cast(I::FPTrunc, v.raw, single)?;
        let back = self.b.cast(I::FPExt, near, v.raw.get_type())?;
        let bits = self.b.bitcast(near, word)?;
        let one = self.b.int_like(bits, 1)?;
        let (size, back_size) = (self.pure("llvm.fabs", &[v.raw])?, self.pure("llvm.fabs", &[back])?);
        let too_large = self.b.fcmp(F::OGT, back_size, size)?;
        let less = self.b.bin(I::Sub, bits, one)?;
        let truncated = self.b.select(too_large, less, bits)?;
        let odd = self.b.bin(I::Or, truncated, one)?;
        let inexact = self.b.fcmp(F::ONE, back, v.raw)?;
        let bits = self.b.select(inexact, odd, bits)?;
        self.b.bitcast(bits, single)
    }

    fn word_and_single(&self, lanes: u32) -> (BasicTypeEnum<'c>, BasicTypeEnum<'c>) {
        let of = |dtype| self.b.ty(VType { dtype, lanes });
        (of(DType::I32), of(DType::F32))
    }

    fn half_ty(&self, lanes: u32) -> BasicTypeEnum<'c> {
        self.b.lanes_of(self.b.context.f16_type().into(), lanes)
    }
}

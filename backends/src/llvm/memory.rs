//! Loads and stores.
//!
//! Consecutive lanes are one vector access; equal ones a scalar access; loads of every second to fourth element are
//! vector loads and shuffles; anything else is a gather or scatter. Nothing but the element's own alignment is assumed.

use super::build::{Raw, internal};
use super::code::Code;
use crate::emit::build::Place;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FastMathFlags, InstructionOpcode, PointerValue};

type At<'c> = Place<Raw<'c>, PointerValue<'c>>;

impl<'c> Code<'_, 'c> {
    pub fn load_place(&self, dtype: DType, place: At<'c>, mask: Option<Raw<'c>>) -> Result<Raw<'c>> {
        let raw = match mask {
            None => self.load_all(dtype, place)?,
            Some(mask) => self.load_masked(dtype, place, mask)?,
        };
        // Booleans are bytes in memory; any but 0 is true.
        match dtype {
            DType::Bool => self.b.icmp(IntPredicate::NE, raw, self.b.int_like(raw, 0)?),
            _ => Ok(raw),
        }
    }

    pub fn store_place(&self, v: Raw<'c>, ty: VType, place: At<'c>, mask: Option<Raw<'c>>) -> Result<()> {
        let widen =
            if ty.dtype == DType::Bool { InstructionOpcode::ZExt } else { InstructionOpcode::BitCast };
        let raw = self.b.cast(widen, v, self.b.memory_ty(ty))?;
        match mask {
            None => self.store_all(ty.dtype, place, raw),
            Some(mask) => self.store_masked(ty.dtype, place, raw, mask),
        }
    }

    /// The type of an element in memory, and its size.
    pub fn element(&self, dtype: DType) -> BasicTypeEnum<'c> {
        self.b.memory_ty(VType::scalar(dtype))
    }

    /// The addresses of lanes `step` elements apart.
    fn strided(&self, dtype: DType, at: PointerValue<'c>, step: i64, lanes: u32) -> Result<Raw<'c>> {
        let steps = self.b.iota(64, lanes);
        let steps = self.b.bin(InstructionOpcode::Mul, steps, self.b.int_like(steps, step)?)?;
        Ok(self.b.gep(self.element(dtype), at, steps))
    }

    /// Every `step`-th of consecutive elements: `step` vectors, the last of which ends at the last lane, merged. With a
    /// mask, these vectors have one each.
    fn load_spread(
        &self,
        dtype: DType,
        at: PointerValue<'c>,
        (n, step): (u32, u32),
        mask: Option<Raw<'c>>,
    ) -> Result<Raw<'c>> {
        let element = self.element(dtype);
        let last_begin = step * (n - 1) + 1 - n;
        let mut merged = self.load_part(dtype, at, (n, step), 0, mask)?;
        for part in 1..step {
            let begin = (part * n).min(last_begin);
            let from = self.b.gep(element, at, self.b.i64(begin.into()).into()).into_pointer_value();
            let next = self.load_part(dtype, from, (n, step), begin, mask)?;
            // Lane `i` wants element `step * i`: it is in what has been merged, or in the next vector, or comes later.
            let lanes: Vec<u32> = (0..n)
                .map(|i| match step * i {
                    at if at < n && part == 1 => at,
                    at if at < part * n => i,
                    at if at < begin + n => n + at - begin,
                    _ => i,
                })
                .collect();
            merged = self.b.shuffle(merged, next, &lanes)?;
        }
        Ok(merged)
    }

    /// The consecutive elements from number `begin` on; under a mask those of them that lanes want.
    fn load_part(
        &self,
        dtype: DType,
        from: PointerValue<'c>,
        (n, step): (u32, u32),
        begin: u32,
        mask: Option<Raw<'c>>,
    ) -> Result<Raw<'c>> {
        let Some(mask) = mask else { return self.load_all(dtype, Place::Consecutive(from, n)) };
        let none = self.b.splat(self.b.i1(false).into(), n)?;
        let wanted: Vec<u32> = (begin..begin + n)
            .map(|at| if at % step == 0 && at / step < n { at / step } else { n })
            .collect();
        let mask = self.b.shuffle(mask, none, &wanted)?;
        self.load_masked(dtype, Place::Consecutive(from, n), mask)
    }

    fn load_all(&self, dtype: DType, place: At<'c>) -> Result<Raw<'c>> {
        let element = self.element(dtype);
        match place {
            Place::One(at) => self.b.load(element, at, align(dtype)),
            Place::Same(at, n) => {
                let one = self.b.load(element, at, align(dtype))?;
                self.b.splat(one, n)
            }
            Place::Consecutive(at, n) => self.b.load(self.b.lanes_of(element, n), at, align(dtype)),
            Place::Reversed(at, n) => {
                let forward = self.b.load(self.b.lanes_of(element, n), at, align(dtype))?;
                self.b.reverse(forward)
            }
            Place::Spread(at, n, step @ 2..=4) => self.load_spread(dtype, at, (n, step as u32), None),
            Place::Spread(_, n, _) | Place::Any(_, _, n) => {
                let all = self.b.splat(self.b.i1(true).into(), n)?;
                self.load_masked(dtype, place, all)
            }
        }
    }

    fn load_masked(&self, dtype: DType, place: At<'c>, mask: Raw<'c>) -> Result<Raw<'c>> {
        let element = self.element(dtype);
        let ty = self.b.lanes_of(element, place.lanes());
        let zero = ty.const_zero();
        match place {
            Place::One(at) => self.load_if(element, at, mask, align(dtype)),
            Place::Same(at, n) => {
                let any = self.reduce("llvm.vector.reduce.or", mask, FastMathFlags::empty())?;
                let one = self.load_if(element, at, any, align(dtype))?;
                let all = self.b.splat(one, n)?;
                self.b.select(mask, all, zero)
            }
            Place::Reversed(at, n) => {
                let mask = self.b.reverse(mask)?;
                let forward = self.load_masked(dtype, Place::Consecutive(at, n), mask)?;
                self.b.reverse(forward)
            }
            Place::Spread(at, n, step @ 2..=4) => self.load_spread(dtype, at, (n, step as u32), Some(mask)),
            Place::Spread(at, n, step) => self.gather(dtype, self.strided(dtype, at, step, n)?, ty, mask),
            Place::Consecutive(at, _) => {
                let overloads = [ty, at.get_type().into()];
                let args = [at.into(), mask, zero];
                let v = self.b.aligned_intrinsic("llvm.masked.load", &overloads, &args, 0, align(dtype))?;
                v.ok_or_else(|| internal("a load has no result"))
            }
            Place::Any(at, index, _) => self.gather(dtype, self.b.gep(element, at, index), ty, mask),
        }
    }

    fn gather(&self, dtype: DType, at: Raw<'c>, ty: BasicTypeEnum<'c>, mask: Raw<'c>) -> Result<Raw<'c>> {
        let overloads = [ty, at.get_type()];
        let args = [at, mask, ty.const_zero()];
        let v = self.b.aligned_intrinsic("llvm.masked.gather", &overloads, &args, 0, align(dtype))?;
        v.ok_or_else(|| internal("a load has no result"))
    }

    /// One element if the condition holds, else zero.
    fn load_if(
        &self,
        ty: BasicTypeEnum<'c>,
        at: PointerValue<'c>,
        cond: Raw<'c>,
        align: u32,
    ) -> Result<Raw<'c>> {
        let (before, then, end) = (self.b.here()?, self.append("load"), self.append("loaded"));
        self.b.branch(cond.into_int_value(), then, end)?;
        self.b.builder.position_at_end(then);
        let value = self.b.load(ty, at, align)?;
        self.b.jump(end)?;
        self.b.builder.position_at_end(end);
        let phi = self.b.phi(ty)?;
        phi.add_incoming(&[(&ty.const_zero(), before), (&value, then)]);
        Ok(phi.as_basic_value())
    }

    fn store_all(&self, dtype: DType, place: At<'c>, raw: Raw<'c>) -> Result<()> {
        match place {
            Place::One(at) | Place::Consecutive(at, _) => self.b.store(at, raw, align(dtype)),
            // The last lane is written last.
            Place::Same(at, n) => {
                let last = self.b.extract(raw, n - 1)?;
                self.b.store(at, last, align(dtype))
            }
            Place::Reversed(at, _) => {
                let reversed = self.b.reverse(raw)?;
                self.b.store(at, reversed, align(dtype))
            }
            Place::Spread(_, n, _) | Place::Any(_, _, n) => {
                let all = self.b.splat(self.b.i1(true).into(), n)?;
                self.store_masked(dtype, place, raw, all)
            }
        }
    }

    fn store_masked(&self, dtype: DType, place: At<'c>, raw: Raw<'c>, mask: Raw<'c>) -> Result<()> {
        match place {
            Place::One(at) => {
                let (then, end) = (self.append("store"), self.append("stored"));
                self.b.branch(mask.into_int_value(), then, end)?;
                self.b.builder.position_at_end(then);
                self.b.store(at, raw, align(dtype))?;
                self.b.jump(end)?;
                self.b.builder.position_at_end(end);
                Ok(())
            }
            Place::Reversed(at, n) => {
                let (raw, mask) = (self.b.reverse(raw)?, self.b.reverse(mask)?);
                self.store_masked(dtype, Place::Consecutive(at, n), raw, mask)
            }
            Place::Spread(at, n, step) => {
                let at = self.strided(dtype, at, step, n)?;
                self.scatter(dtype, at, raw, mask)
            }
            Place::Consecutive(at, _) => {
                let overloads = [raw.get_type(), at.get_type().into()];
                let args = [raw, at.into(), mask];
                self.b.aligned_intrinsic("llvm.masked.store", &overloads, &args, 1, align(dtype)).map(drop)
            }
            Place::Same(at, n) => {
                let zeros = self.b.splat(self.b.i64(0).into(), n)?;
                let at = self.b.gep(self.element(dtype), at, zeros);
                self.scatter(dtype, at, raw, mask)
            }
            Place::Any(at, index, _) => {
                let at = self.b.gep(self.element(dtype), at, index);
                self.scatter(dtype, at, raw, mask)
            }
        }
    }

    fn scatter(&self, dtype: DType, at: Raw<'c>, raw: Raw<'c>, mask: Raw<'c>) -> Result<()> {
        let overloads = [raw.get_type(), at.get_type()];
        let args = [raw, at, mask];
        self.b.aligned_intrinsic("llvm.masked.scatter", &overloads, &args, 1, align(dtype)).map(drop)
    }
}

fn align(dtype: DType) -> u32 {
    dtype.size() as u32
}

//! Loads and stores.
//!
//! Consecutive lanes are one vector access; equal ones a scalar access; loads of every second to fourth element are
//! vector loads and shuffles; anything else is a gather or scatter. Nothing but the element's own alignment is assumed, but of
//! whole vectors on a GPU, which has wide accesses at multiples of their size only.

use super::build::{Raw, internal};
use super::code::Code;
use crate::emit::build::Place;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FastMathFlags, InstructionOpcode, PointerValue};

/// The address of an element.
#[derive(Clone, Copy)]
pub(super) struct Address<'c> {
    pub at: PointerValue<'c>,
    /// Bytes that it is a multiple of.
    pub alignment: u32,
}

type At<'c> = Place<Raw<'c>, Address<'c>>;

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
        let of = |at| Address { at, alignment: align(dtype) };
        let Some(mask) = mask else { return self.load_all(dtype, Place::Consecutive(of(from), n)) };
        let none = self.b.splat(self.b.i1(false).into(), n)?;
        let wanted: Vec<u32> = (begin..begin + n)
            .map(|at| if at % step == 0 && at / step < n { at / step } else { n })
            .collect();
        let mask = self.b.shuffle(mask, none, &wanted)?;
        self.load_masked(dtype, Place::Consecutive(of(from), n), mask)
    }

    fn load_all(&self, dtype: DType, place: At<'c>) -> Result<Raw<'c>> {
        let element = self.element(dtype);
        match place {
            Place::One(from) => self.b.load(element, from.at, align(dtype)),
            Place::Same(at, n) => {
                let one = self.b.load(element, at.at, align(dtype))?;
                self.b.splat(one, n)
            }
            Place::Consecutive(from, n) => self.b.load(self.b.lanes_of(element, n), from.at, from.alignment),
            Place::Reversed(at, n) => {
                let forward = self.b.load(self.b.lanes_of(element, n), at.at, at.alignment)?;
                self.b.reverse(forward)
            }
            Place::Spread(from, n, step @ 2..=4) => self.load_spread(dtype, from.at, (n, step as u32), None),
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
            Place::One(from) => self.load_if(element, from.at, mask, align(dtype)),
            Place::Same(at, n) => {
                let any = self.reduce("llvm.vector.reduce.or", mask, FastMathFlags::empty())?;
                let one = self.load_if(element, at.at, any, align(dtype))?;
                let all = self.b.splat(one, n)?;
                self.b.select(mask, all, zero)
            }
            Place::Reversed(at, n) => {
                let mask = self.b.reverse(mask)?;
                let forward = self.load_masked(dtype, Place::Consecutive(at, n), mask)?;
                self.b.reverse(forward)
            }
            Place::Spread(from, n, step @ 2..=4) => {
                self.load_spread(dtype, from.at, (n, step as u32), Some(mask))
            }
            Place::Spread(from, n, step) => {
                self.gather(dtype, self.strided(dtype, from.at, step, n)?, ty, mask)
            }
            Place::Consecutive(Address { at, alignment }, _) => {
                let overloads = [ty, at.get_type().into()];
                let args = [at.into(), mask, zero];
                let v = self.b.aligned_intrinsic("llvm.masked.load", &overloads, &args, 0, alignment)?;
                v.ok_or_else(|| internal("a load has no result"))
            }
            Place::Any(from, index, _) => self.gather(dtype, self.b.gep(element, from.at, index), ty, mask),
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
            Place::One(to) => self.b.store(to.at, raw, align(dtype)),
            Place::Consecutive(to, _) => self.b.store(to.at, raw, to.alignment),
            // The last lane is written last.
            Place::Same(at, n) => {
                let last = self.b.extract(raw, n - 1)?;
                self.b.store(at.at, last, align(dtype))
            }
            Place::Reversed(at, _) => {
                let reversed = self.b.reverse(raw)?;
                self.b.store(at.at, reversed, at.alignment)
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
                self.b.store(at.at, raw, align(dtype))?;
                self.b.jump(end)?;
                self.b.builder.position_at_end(end);
                Ok(())
            }
            Place::Reversed(at, n) => {
                let (raw, mask) = (self.b.reverse(raw)?, self.b.reverse(mask)?);
                self.store_masked(dtype, Place::Consecutive(at, n), raw, mask)
            }
            Place::Spread(at, n, step) => {
                let at = self.strided(dtype, at.at, step, n)?;
                self.scatter(dtype, at, raw, mask)
            }
            Place::Consecutive(Address { at, alignment }, _) => {
                let overloads = [raw.get_type(), at.get_type().into()];
                let args = [raw, at.into(), mask];
                self.b.aligned_intrinsic("llvm.masked.store", &overloads, &args, 1, alignment).map(drop)
            }
            Place::Same(at, n) => {
                let zeros = self.b.splat(self.b.i64(0).into(), n)?;
                let at = self.b.gep(self.element(dtype), at.at, zeros);
                self.scatter(dtype, at, raw, mask)
            }
            Place::Any(at, index, _) => {
                let at = self.b.gep(self.element(dtype), at.at, index);
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

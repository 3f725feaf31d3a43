//! Masked loads and stores, none of which touches an element whose mask is false.
//!
//! Masks whose lanes are known but for one condition, as most are, need no branch: where the condition is false,
//! memory of the function's own is accessed instead. Of other masks each lane is such a condition; many lanes are done
//! in a loop, by way of memory. Consecutive lanes that are all true are accessed together.

use super::code::Code;
use super::memory::{At, Scratch};
use super::parts::{Known, PART, all_lanes, part_count, part_type, scalar_type};
use crate::emit::build::{Build, Place, PlaceOf, V};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use aic_ir::scalar::Scalar;
use cranelift_codegen::ir::{self, InstBuilder, types};

/// The number of lanes up to which each is guarded by itself; more of them take less code in a loop.
const MAX_GUARDED_LANES: u32 = 8;

/// The distance of lanes up to which the function has memory to access instead.
const MAX_GUARDED_STEP: i64 = 64;

impl Code<'_, '_> {
    pub fn load_masked(&mut self, dtype: DType, place: PlaceOf<Self>, mask: V<Self>) -> Result<V<Self>> {
        if let Some((bits, cond)) = self.known_mask(mask, place) {
            let at = self.guarded(dtype, place, cond)?;
            let bits = (bits != all_lanes(mask.ty.lanes)).then_some(bits);
            let v = self.load_lanes(dtype, place, at, bits)?;
            return if cond.is_some() { self.or_zero(mask, v) } else { Ok(v) };
        }
        match place {
            Place::Same(at, n) => {
                let any = self.any_or_all(mask, false);
                let any = self.scalar(any, DType::Bool);
                let one = self.load_masked(dtype, Place::One(at), any)?;
                let all = self.splat(one, n)?;
                self.or_zero(mask, all)
            }
            Place::Consecutive(..) => self.unless_all(mask, dtype, |c, all| match all {
                true => c.load_place(dtype, place, None),
                false => c.load_each(dtype, place, mask),
            }),
            _ => self.load_each(dtype, place, mask),
        }
    }

    pub fn store_masked(&mut self, v: V<Self>, place: PlaceOf<Self>, mask: V<Self>) -> Result<()> {
        if let Some((bits, cond)) = self.known_mask(mask, place) {
            let at = self.guarded(v.ty.dtype, place, cond)?;
            return self.store_lanes(v, place, at, Some(bits));
        }
        if !matches!(place, Place::Consecutive(..)) {
            return self.store_each(v, place, mask);
        }
        let all = self.any_or_all(mask, true);
        let all = self.scalar(all, DType::Bool);
        let mut branch = self.if_begin(all)?;
        self.store_place(v, place, None)?;
        self.if_else(&mut branch)?;
        self.store_each(v, place, mask)?;
        self.if_end(branch)
    }

    /// The lanes where the mask is true, else zero.
    pub fn or_zero(&mut self, mask: V<Self>, v: V<Self>) -> Result<V<Self>> {
        let zero = self.constant(v.ty, Scalar::zero(v.ty.dtype))?;
        self.select(mask, v, zero)
    }

    /// Which lanes are true under which condition, if that is all there is to the mask.
    fn known_mask(&self, mask: V<Self>, place: PlaceOf<Self>) -> Option<(u64, Option<ir::Value>)> {
        match (mask.raw.known, place) {
            (Known::Lanes(_, Some(_)), Place::Any(..)) => None,
            (Known::Lanes(_, Some(_)), Place::Spread(_, _, step)) if step.abs() > MAX_GUARDED_STEP => None,
            (Known::Lanes(bits, cond), _) => Some((bits, cond)),
            _ if mask.ty.lanes == 1 => Some((1, Some(self.one(mask)))),
            _ => None,
        }
    }

    /// Where a place begins, or, if the condition is false, memory of the function's own.
    fn guarded(&mut self, dtype: DType, place: PlaceOf<Self>, cond: Option<ir::Value>) -> Result<At> {
        let at = self.at(place.base())?;
        let Some(cond) = cond else { return Ok(at) };
        // The first and the last element, counted from where the place begins.
        let (first, last) = match place {
            Place::Spread(_, n, step) => {
                let end = step * (i64::from(n) - 1);
                (end.min(0), end.max(0))
            }
            _ => (0, i64::from(place.lanes()) - 1),
        };
        let size = dtype.size() as i64;
        let mut nowhere = self.scratch(((last - first + 1) * size) as u32, Scratch::Nowhere);
        nowhere.pointer = self.f.ins().iadd_imm_s(nowhere.pointer, -first * size);
        let pointer = self.f.ins().iadd_imm_s(at.pointer, at.offset);
        let pointer = self.f.ins().select(cond, pointer, nowhere.pointer);
        Ok(At { pointer, offset: 0, ..at })
    }

    /// What one call gives if the whole mask is true, else another.
    fn unless_all(
        &mut self,
        mask: V<Self>,
        dtype: DType,
        mut f: impl FnMut(&mut Self, bool) -> Result<V<Self>>,
    ) -> Result<V<Self>> {
        let all = self.any_or_all(mask, true);
        let [yes, no, end] = [(); 3].map(|()| self.f.create_block());
        self.f.set_cold_block(no);
        self.f.ins().brif(all, yes, &[], no, &[]);
        self.f.seal_block(yes);
        self.f.seal_block(no);
        self.branches += 1;
        for (block, all) in [(yes, true), (no, false)] {
            self.f.switch_to_block(block);
            let v = f(self, all)?;
            let v = self.mask_of_lane(v, dtype.size() as u32);
            let args: Vec<ir::BlockArg> = self.parts(v).into_iter().map(ir::BlockArg::Value).collect();
            self.f.ins().jump(end, &args);
        }
        self.branches -= 1;
        self.f.seal_block(end);
        self.f.switch_to_block(end);
        let (ty, count) = (part_type(scalar_type(dtype)), part_count(mask.ty.lanes, dtype.size() as u32));
        let parts = (0..count).map(|_| self.f.append_block_param(end, ty)).collect();
        Ok(self.value(parts, VType { dtype, ..mask.ty }))
    }

    fn load_each(&mut self, dtype: DType, place: PlaceOf<Self>, mask: V<Self>) -> Result<V<Self>> {
        let lanes = place.lanes();
        if lanes <= MAX_GUARDED_LANES {
            let mut found = Vec::new();
            for lane in 0..lanes {
                let from = self.lane_or_nowhere(dtype, place, mask, lane)?;
                let x = self.load_raw(scalar_type(dtype), from);
                found.push(self.loaded_scalar(x, dtype));
            }
            let v = self.join(&found)?;
            return self.or_zero(mask, v);
        }
        let found = self.scratch(lanes * dtype.size() as u32, Scratch::Values);
        let zero = self.bytes(vec![0; PART as usize], types::I8X16);
        self.store_all(found, &vec![zero; part_count(lanes, dtype.size() as u32)]);
        self.each_true(dtype, place, mask, |c, i, from| {
            let x = c.load_raw(scalar_type(dtype), from);
            let pointer = c.add_elements(found.pointer, i, dtype);
            c.store_raw(x, At { pointer, ..found });
        })?;
        let parts = self.load_parts(found, dtype, lanes);
        Ok(self.loaded(parts, VType { dtype, lanes }))
    }

    fn store_each(&mut self, v: V<Self>, place: PlaceOf<Self>, mask: V<Self>) -> Result<()> {
        let dtype = v.ty.dtype;
        if v.ty.lanes <= MAX_GUARDED_LANES {
            for lane in 0..v.ty.lanes {
                let to = self.lane_or_nowhere(dtype, place, mask, lane)?;
                let x = self.extract(v, lane)?;
                let x = self.one(x);
                self.store_raw(x, to);
            }
            return Ok(());
        }
        let values = self.scratch(v.ty.lanes * dtype.size() as u32, Scratch::Values);
        let parts = self.stored(v)?;
        self.store_all(values, &parts);
        self.each_true(dtype, place, mask, |c, i, to| {
            let pointer = c.add_elements(values.pointer, i, dtype);
            let x = c.load_raw(scalar_type(dtype), At { pointer, ..values });
            c.store_raw(x, to);
        })
    }

    /// Where a lane's element is, or, if its mask is false, memory of the function's own.
    fn lane_or_nowhere(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        mask: V<Self>,
        lane: u32,
    ) -> Result<At> {
        let cond = self.extract(mask, lane)?;
        let cond = self.one(cond);
        let at = self.at(place.base())?;
        let at = self.lane_at(dtype, place, at, lane)?;
        let nowhere = self.scratch(PART, Scratch::Nowhere);
        let pointer = self.f.ins().iadd_imm_s(at.pointer, at.offset);
        let pointer = self.f.ins().select(cond, pointer, nowhere.pointer);
        Ok(At { pointer, offset: 0, ..at })
    }

    /// Whole parts, one after the other.
    fn store_all(&mut self, at: At, parts: &[ir::Value]) {
        for (i, part) in parts.iter().enumerate() {
            self.store_raw(*part, at.after(i as i64 * i64::from(PART)));
        }
    }

    /// Does something for each lane whose mask is true, in order, given its number and where its element is.
    fn each_true(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        mask: V<Self>,
        f: impl FnOnce(&mut Self, ir::Value, At),
    ) -> Result<()> {
        let lanes = place.lanes();
        let mask = self.mask_of_lane(mask, 1);
        let (flags, parts) = (self.scratch(lanes, Scratch::Mask), self.parts(mask));
        self.store_all(flags, &parts);
        let indices = match place {
            Place::Any(_, index, n) => {
                let index = V::<Self> { raw: index, ty: VType { dtype: DType::I64, lanes: n } };
                let (at, parts) = (self.scratch(8 * n, Scratch::Indices), self.parts(index));
                self.store_all(at, &parts);
                Some(at)
            }
            _ => None,
        };
        let (zero, end) = (self.i64(0)?, self.i64(lanes.into())?);
        let (l, i) = self.loop_begin(zero, end, true)?;
        let i = self.one(i);
        let flag = self.f.ins().iadd(flags.pointer, i);
        let flag = self.load_raw(types::I8, At { pointer: flag, ..flags });
        let flag = self.scalar(flag, DType::Bool);
        let mut branch = self.if_begin(flag)?;
        let element = match (place, indices) {
            (_, Some(at)) => {
                let pointer = self.add_elements(at.pointer, i, DType::I64);
                self.load_raw(types::I64, At { pointer, ..at })
            }
            (Place::Same(..), _) => self.one(zero),
            (Place::Reversed(..), _) => {
                let last = self.f.ins().iconst(types::I64, i64::from(lanes) - 1);
                self.f.ins().isub(last, i)
            }
            (Place::Spread(_, _, step), _) => self.f.ins().imul_imm_s(i, step),
            _ => i,
        };
        let at = self.at(place.base())?;
        let pointer = self.add_elements(at.pointer, element, dtype);
        f(self, i, At { pointer, ..at });
        self.if_else(&mut branch)?;
        self.if_end(branch)?;
        self.loop_end(l)
    }
}

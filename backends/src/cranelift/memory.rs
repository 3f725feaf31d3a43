//! Buffers, addresses, loads and stores.
//!
//! A pointer is the buffer's base plus what each loop adds, in the order of loops, so that all but the innermost part
//! is computed outside; the constant is left to the instruction. Buffers don't overlap: each is an alias region.
//! Lanes that aren't consecutive are loaded and stored one by one; masked ones in a loop over the mask in memory,
//! unless all of it is true.

use super::code::Code;
use super::parts::{Known, PART, int_type, part_count, part_type, scalar_type};
use crate::emit::build::{Build, Place, PlaceOf, V};
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use cranelift_codegen::ir::{
    self, AliasRegion, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, types,
};

/// Where a buffer's elements are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buffer {
    /// At a pointer that was passed; with whether the kernel only reads it.
    Passed(ir::Value, AliasRegion, bool),
    Stack(ir::StackSlot, AliasRegion),
    /// In variables, by the number of the buffer.
    Registers(usize),
}

/// An element.
#[derive(Clone, Copy, Debug)]
pub(super) enum Address {
    /// So many bytes after a pointer.
    Memory { pointer: ir::Value, offset: i64, region: AliasRegion, read_only: bool },
    /// By its number in a buffer in registers.
    Register { buffer: usize, index: i64 },
}

/// Memory at a pointer and so many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub pointer: ir::Value,
    pub offset: i64,
    flags: MemFlagsData,
}

impl At {
    pub fn after(self, bytes: i64) -> At {
        At { offset: self.offset + bytes, ..self }
    }
}

impl Code<'_, '_> {
    pub fn region(&mut self) -> AliasRegion {
        let regions = &mut self.f.func.dfg.alias_regions;
        let user_id = self.regions;
        self.regions += 1;
        regions.insert(ir::AliasRegionData { user_id, description: "buffer".into() })
    }

    /// Elements in registers if all their indices are constant, else on the stack.
    pub fn allocate(&mut self, name: &Sym, dtype: DType, len: u32) -> Buffer {
        if let Some((buffer, t, n)) = self.allocated.get(name).copied() {
            if (t, n) == (dtype, len) {
                return buffer;
            }
        }
        let buffer = match self.uses.get(name).copied() {
            Some(used) if !used.computed => {
                let lane = scalar_type(dtype);
                let (ty, count) = match used.vectors {
                    true => (part_type(lane), part_count(len, lane.bytes())),
                    false => (lane, len as usize),
                };
                let variables = (0..count).map(|_| self.f.declare_var(ty)).collect();
                self.registers.push(variables);
                Buffer::Registers(self.registers.len() - 1)
            }
            _ => {
                let slot = self.slot((len * dtype.size() as u32).max(1));
                Buffer::Stack(slot, self.region())
            }
        };
        self.allocated.insert(name.clone(), (buffer, dtype, len));
        buffer
    }

    fn slot(&mut self, bytes: u32) -> ir::StackSlot {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes.next_multiple_of(PART), 4);
        self.f.create_sized_stack_slot(data)
    }

    pub fn address_of(
        &mut self,
        buffer: Buffer,
        dtype: DType,
        terms: &[V<Self>],
        offset: i64,
    ) -> Result<Address> {
        let (mut pointer, region, read_only) = match buffer {
            Buffer::Registers(buffer) if terms.is_empty() => {
                return Ok(Address::Register { buffer, index: offset });
            }
            Buffer::Registers(_) => return Err(super::failed("a register's index isn't constant")),
            Buffer::Passed(pointer, region, read_only) => (pointer, region, read_only),
            Buffer::Stack(slot, region) => (self.f.ins().stack_addr(types::I64, slot, 0), region, false),
        };
        for term in terms {
            let term = self.one(*term);
            pointer = self.add_elements(pointer, term, dtype);
        }
        Ok(Address::Memory { pointer, offset: offset.wrapping_mul(dtype.size() as i64), region, read_only })
    }

    fn add_elements(&mut self, pointer: ir::Value, elements: ir::Value, dtype: DType) -> ir::Value {
        let shift = dtype.size().trailing_zeros();
        let bytes = if shift == 0 { elements } else { self.f.ins().ishl_imm_u(elements, i64::from(shift)) };
        self.f.ins().iadd(pointer, bytes)
    }

    /// The address as a pointer.
    pub fn pointer(&mut self, at: Address) -> Result<ir::Value> {
        let at = self.at(at)?;
        Ok(self.f.ins().iadd_imm_s(at.pointer, at.offset))
    }

    fn at(&mut self, address: Address) -> Result<At> {
        let Address::Memory { mut pointer, mut offset, region, read_only } = address else {
            return Err(super::failed("a register has no address"));
        };
        // Whatever is added to it for lanes still fits an instruction.
        if i32::try_from(offset.saturating_abs().saturating_add(1 << 20)).is_err() {
            pointer = self.f.ins().iadd_imm_s(pointer, offset);
            offset = 0;
        }
        let mut flags = MemFlagsData::new().with_notrap().with_alias_region(Some(region));
        if read_only && self.branches == 0 {
            flags = flags.with_readonly().with_can_move();
        }
        Ok(At { pointer, offset, flags })
    }

    /// Memory of this function's own.
    fn scratch(&mut self, bytes: u32) -> At {
        let slot = self.slot(bytes);
        let flags = MemFlagsData::new().with_notrap().with_alias_region(Some(self.region()));
        At { pointer: self.f.ins().stack_addr(types::I64, slot, 0), offset: 0, flags }
    }

    fn load_raw(&mut self, ty: ir::Type, at: At) -> ir::Value {
        // Without AVX Cranelift makes unaligned vectors operands of float comparisons, which trap. Those of integers
        // it loads first.
        let as_int = !self.avx && ty.is_vector() && ty.lane_type().is_float();
        let loaded = if as_int { ty.as_int() } else { ty };
        let x = self.f.ins().load(loaded, at.flags, at.pointer, at.offset as i32);
        self.recast(x, ty)
    }

    fn store_raw(&mut self, x: ir::Value, at: At) {
        self.f.ins().store(at.flags, x, at.pointer, at.offset as i32);
    }

    pub fn load_place(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        mask: Option<V<Self>>,
    ) -> Result<V<Self>> {
        let mask = mask.filter(|m| m.raw.known != Known::Bool(true));
        if let Address::Register { buffer, index } = place.base() {
            return self.load_registers(dtype, (buffer, index), place, mask);
        }
        match (place, mask) {
            (Place::One(at), None) => {
                let at = self.at(at)?;
                let x = self.load_raw(scalar_type(dtype), at);
                Ok(self.loaded_scalar(x, dtype))
            }
            (Place::One(at), Some(mask)) => {
                let cond = self.one(mask);
                self.load_if(dtype, at, cond)
            }
            (Place::Same(at, n), None) => {
                let one = self.load_place(dtype, Place::One(at), None)?;
                self.splat(one, n)
            }
            (Place::Same(at, n), Some(mask)) => {
                let any = self.any_or_all(mask, false);
                let one = self.load_if(dtype, at, any)?;
                let all = self.splat(one, n)?;
                self.or_zero(mask, all)
            }
            (Place::Consecutive(at, n), None) => {
                let at = self.at(at)?;
                let parts = self.load_parts(at, dtype, n);
                Ok(self.loaded(parts, VType { dtype, lanes: n }))
            }
            (Place::Reversed(at, n), None) => {
                let forward = self.load_place(dtype, Place::Consecutive(at, n), None)?;
                self.reverse(forward)
            }
            (Place::Spread(at, n, step), None) => {
                let at = self.at(at)?;
                let mut lanes = Vec::new();
                for i in 0..n {
                    let x = self
                        .load_raw(scalar_type(dtype), at.after(i64::from(i * step) * dtype.size() as i64));
                    lanes.push(self.loaded_scalar(x, dtype));
                }
                self.join(&lanes)
            }
            (Place::Any(at, index, n), None) => {
                let at = self.at(at)?;
                let index = V::<Self> { raw: index, ty: VType { dtype: DType::I64, lanes: n } };
                self.each_lane(&[index], |c, i| {
                    let i = c.one(i[0]);
                    let pointer = c.add_elements(at.pointer, i, dtype);
                    let x = c.load_raw(scalar_type(dtype), At { pointer, ..at });
                    Ok(c.loaded_scalar(x, dtype))
                })
            }
            (Place::Consecutive(at, n), Some(mask)) => self.unless_all(mask, dtype, n, |c, all| match all {
                true => c.load_place(dtype, Place::Consecutive(at, n), None),
                false => c.load_lanes(dtype, place, mask),
            }),
            (_, Some(mask)) => {
                self.branches += 1;
                let v = self.load_lanes(dtype, place, mask)?;
                self.branches -= 1;
                Ok(v)
            }
        }
    }

    /// What one closure call gives if the whole mask is true, else another.
    fn unless_all(
        &mut self,
        mask: V<Self>,
        dtype: DType,
        lanes: u32,
        mut f: impl FnMut(&mut Self, bool) -> Result<V<Self>>,
    ) -> Result<V<Self>> {
        let all = self.any_or_all(mask, true);
        let ty = part_type(scalar_type(dtype));
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
        let count = part_count(lanes, dtype.size() as u32);
        let parts = (0..count).map(|_| self.f.append_block_param(end, ty)).collect();
        Ok(self.value(parts, VType { dtype, lanes }))
    }

    /// One element if the condition holds, else zero.
    fn load_if(&mut self, dtype: DType, at: Address, cond: ir::Value) -> Result<V<Self>> {
        let [yes, end] = [(); 2].map(|()| self.f.create_block());
        let zero = self.constant(VType::scalar(dtype), aic_ir::scalar::Scalar::zero(dtype))?;
        let zero = self.one(zero);
        self.f.ins().brif(cond, yes, &[], end, &[ir::BlockArg::Value(zero)]);
        self.f.seal_block(yes);
        self.f.switch_to_block(yes);
        self.branches += 1;
        let at = self.at(at)?;
        self.branches -= 1;
        let x = self.load_raw(scalar_type(dtype), at);
        self.f.ins().jump(end, &[ir::BlockArg::Value(x)]);
        self.f.seal_block(end);
        self.f.switch_to_block(end);
        let x = self.f.append_block_param(end, scalar_type(dtype));
        Ok(self.loaded_scalar(x, dtype))
    }

    /// The lanes where the mask is true, else zero.
    pub fn or_zero(&mut self, mask: V<Self>, v: V<Self>) -> Result<V<Self>> {
        let zero = self.constant(v.ty, aic_ir::scalar::Scalar::zero(v.ty.dtype))?;
        self.select(mask, v, zero)
    }

    /// A masked load by way of memory: a loop over the lanes.
    fn load_lanes(&mut self, dtype: DType, place: PlaceOf<Self>, mask: V<Self>) -> Result<V<Self>> {
        let lanes = place.lanes();
        let found = self.scratch(lanes * dtype.size() as u32);
        let zero = self.bytes(vec![0; PART as usize], types::I8X16);
        for i in 0..part_count(lanes, dtype.size() as u32) {
            self.store_raw(zero, found.after(i as i64 * i64::from(PART)));
        }
        self.each_true(dtype, place, mask, |c, i, from| {
            let x = c.load_raw(scalar_type(dtype), from);
            let pointer = c.add_elements(found.pointer, i, dtype);
            c.store_raw(x, At { pointer, ..found });
            Ok(())
        })?;
        let parts = self.load_parts(found, dtype, lanes);
        Ok(self.loaded(parts, VType { dtype, lanes }))
    }

    /// Does something for each lane whose mask is true, in order, given its number and where its element is.
    fn each_true(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        mask: V<Self>,
        f: impl FnOnce(&mut Self, ir::Value, At) -> Result<()>,
    ) -> Result<()> {
        let lanes = place.lanes();
        let mask = self.mask_of_lane(mask, 1);
        let flags = self.scratch(lanes);
        for (i, part) in self.parts(mask).into_iter().enumerate() {
            self.store_raw(part, flags.after(i as i64 * i64::from(PART)));
        }
        let indices = match place {
            Place::Any(_, index, n) => {
                let index = V::<Self> { raw: index, ty: VType { dtype: DType::I64, lanes: n } };
                let at = self.scratch(8 * n);
                for (i, part) in self.parts(index).into_iter().enumerate() {
                    self.store_raw(part, at.after(i as i64 * i64::from(PART)));
                }
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
            (Place::Spread(_, _, step), _) => self.f.ins().imul_imm_s(i, i64::from(step)),
            _ => i,
        };
        let at = self.at(place.base())?;
        let pointer = self.add_elements(at.pointer, element, dtype);
        f(self, i, At { pointer, ..at })?;
        self.if_else(&mut branch)?;
        self.if_end(branch)?;
        self.loop_end(l)
    }

    pub fn store_place(&mut self, v: V<Self>, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<()> {
        let dtype = v.ty.dtype;
        let mask = mask.filter(|m| m.raw.known != Known::Bool(true));
        if let Address::Register { buffer, index } = place.base() {
            return self.store_registers(v, (buffer, index), place, mask);
        }
        match (place, mask) {
            (Place::One(at), None) => {
                let (at, x) = (self.at(at)?, self.one(v));
                self.store_raw(x, at);
                Ok(())
            }
            (Place::One(_), Some(mask)) => {
                let mut branch = self.if_begin(mask)?;
                self.store_place(v, place, None)?;
                self.if_else(&mut branch)?;
                self.if_end(branch)
            }
            (Place::Same(at, n), None) => {
                let last = self.extract(v, n - 1)?;
                self.store_place(last, Place::One(at), None)
            }
            (Place::Consecutive(at, n), None) => {
                let at = self.at(at)?;
                let parts = self.stored(v)?;
                self.store_parts(&parts, at, dtype, n);
                Ok(())
            }
            (Place::Reversed(at, n), None) => {
                let reversed = self.reverse(v)?;
                self.store_place(reversed, Place::Consecutive(at, n), None)
            }
            (Place::Spread(at, n, step), None) => {
                let at = self.at(at)?;
                for i in 0..n {
                    let x = self.extract(v, i)?;
                    let x = self.one(x);
                    self.store_raw(x, at.after(i64::from(i * step) * dtype.size() as i64));
                }
                Ok(())
            }
            (Place::Any(at, index, n), None) => {
                let at = self.at(at)?;
                let index = V::<Self> { raw: index, ty: VType { dtype: DType::I64, lanes: n } };
                for i in 0..n {
                    let (x, to) = (self.extract(v, i)?, self.extract(index, i)?);
                    let (x, to) = (self.one(x), self.one(to));
                    let pointer = self.add_elements(at.pointer, to, dtype);
                    self.store_raw(x, At { pointer, ..at });
                }
                Ok(())
            }
            (Place::Consecutive(..), Some(mask)) => {
                let all = self.any_or_all(mask, true);
                let all = self.scalar(all, DType::Bool);
                let mut branch = self.if_begin(all)?;
                self.store_place(v, place, None)?;
                self.if_else(&mut branch)?;
                self.store_lanes(v, place, mask)?;
                self.if_end(branch)
            }
            (_, Some(mask)) => self.store_lanes(v, place, mask),
        }
    }

    /// A masked store by way of memory: a loop over the lanes.
    fn store_lanes(&mut self, v: V<Self>, place: PlaceOf<Self>, mask: V<Self>) -> Result<()> {
        let dtype = v.ty.dtype;
        let values = self.scratch(v.ty.lanes * dtype.size() as u32);
        for (i, part) in self.stored(v)?.into_iter().enumerate() {
            self.store_raw(part, values.after(i as i64 * i64::from(PART)));
        }
        self.each_true(dtype, place, mask, |c, i, to| {
            let pointer = c.add_elements(values.pointer, i, dtype);
            let x = c.load_raw(scalar_type(dtype), At { pointer, ..values });
            c.store_raw(x, to);
            Ok(())
        })
    }

    /// Consecutive elements; the last part is loaded in pieces if they don't fill it.
    fn load_parts(&mut self, at: At, dtype: DType, lanes: u32) -> Vec<ir::Value> {
        let ty = part_type(scalar_type(dtype));
        let bytes = lanes * dtype.size() as u32;
        let mut parts = Vec::new();
        for part in 0..bytes / PART {
            parts.push(self.load_raw(ty, at.after(i64::from(part * PART))));
        }
        let mut part: Option<ir::Value> = None;
        for (offset, size) in pieces(bytes) {
            let piece = self.load_raw(int_type(size), at.after(offset.into()));
            let of = part_type(int_type(size));
            part = Some(match part {
                None => self.first_lane(piece, int_type(size)),
                Some(p) => {
                    let p = self.recast(p, of);
                    self.f.ins().insertlane(p, piece, (offset % PART / size) as u8)
                }
            });
        }
        if let Some(part) = part {
            parts.push(self.recast(part, ty));
        }
        parts
    }

    fn store_parts(&mut self, parts: &[ir::Value], at: At, dtype: DType, lanes: u32) {
        let bytes = lanes * dtype.size() as u32;
        for (i, part) in parts.iter().take((bytes / PART) as usize).enumerate() {
            self.store_raw(*part, at.after(i as i64 * i64::from(PART)));
        }
        for (offset, size) in pieces(bytes) {
            let part = self.recast(parts[(offset / PART) as usize], part_type(int_type(size)));
            let piece = self.f.ins().extractlane(part, (offset % PART / size) as u8);
            self.store_raw(piece, at.after(offset.into()));
        }
    }

    /// Booleans are bytes in memory; any but 0 is true.
    pub fn loaded(&mut self, mut parts: Vec<ir::Value>, ty: VType) -> V<Self> {
        if ty.dtype == DType::Bool {
            parts.iter_mut().for_each(|p| *p = self.nonzero(*p));
        }
        self.value(parts, ty)
    }

    pub fn loaded_scalar(&mut self, x: ir::Value, dtype: DType) -> V<Self> {
        let x = match dtype {
            DType::Bool => self.f.ins().icmp_imm_s(ir::condcodes::IntCC::NotEqual, x, 0),
            _ => x,
        };
        self.scalar(x, dtype)
    }

    /// The parts of a vector as they are in memory.
    pub fn stored(&mut self, v: V<Self>) -> Result<Vec<ir::Value>> {
        if v.ty.dtype != DType::Bool {
            return Ok(self.parts(v));
        }
        let bytes = self.convert(v, DType::U8)?;
        Ok(self.parts(bytes))
    }

    fn reverse(&mut self, v: V<Self>) -> Result<V<Self>> {
        let lanes = (0..v.ty.lanes).rev().map(|i| self.extract(v, i)).collect::<Result<Vec<_>>>()?;
        self.join(&lanes)
    }
}

/// Offsets and sizes of the powers of two that the bytes after the last full part consist of.
fn pieces(bytes: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut at = bytes / PART * PART;
    [8, 4, 2, 1].into_iter().filter(move |size| bytes % PART & size != 0).map(move |size| {
        let piece = (at, size);
        at += size;
        piece
    })
}

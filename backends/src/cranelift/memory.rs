//! Buffers, addresses, loads and stores.
//!
//! A pointer is the buffer's base plus what each loop adds, in the order of loops, so that all but the innermost part
//! is computed outside; the constant is left to the instruction. Buffers don't overlap: each is an alias region.
//! Lanes that aren't consecutive are loaded and stored one by one.

use super::code::Code;
use super::parts::{PART, int_type, part_count, part_type, scalar_type};
use crate::emit::build::{Build, Place, PlaceOf, V};
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use aic_ir::scalar::Scalar;
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

/// What memory of the function's own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scratch {
    Mask,
    Indices,
    Values,
    /// What is accessed instead of what may not be.
    Nowhere,
}

/// Memory at a pointer and so many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub pointer: ir::Value,
    pub offset: i64,
    pub flags: MemFlagsData,
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
        if let Some((buffer, t, n)) = self.allocated.get(name)
            && (*t, *n) == (dtype, len)
        {
            return *buffer;
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

    pub fn add_elements(&mut self, pointer: ir::Value, elements: ir::Value, dtype: DType) -> ir::Value {
        let shift = dtype.size().trailing_zeros();
        let bytes = if shift == 0 { elements } else { self.f.ins().ishl_imm_u(elements, i64::from(shift)) };
        self.f.ins().iadd(pointer, bytes)
    }

    /// The address as a pointer.
    pub fn pointer(&mut self, at: Address) -> Result<ir::Value> {
        let at = self.at(at)?;
        Ok(self.f.ins().iadd_imm_s(at.pointer, at.offset))
    }

    pub fn at(&mut self, address: Address) -> Result<At> {
        let Address::Memory { mut pointer, mut offset, region, read_only } = address else {
            return Err(super::failed("a register has no address"));
        };
        // Whatever is added to it for lanes still fits an instruction.
        if i32::try_from(offset.saturating_abs().saturating_add(1 << 30)).is_err() {
            pointer = self.f.ins().iadd_imm_s(pointer, offset);
            offset = 0;
        }
        let mut flags = MemFlagsData::new().with_notrap().with_alias_region(Some(region));
        if read_only && self.branches == 0 {
            flags = flags.with_readonly().with_can_move();
        }
        Ok(At { pointer, offset, flags })
    }

    /// Memory of this function for a moment.
    pub fn scratch(&mut self, bytes: u32, of: Scratch) -> At {
        let bytes = bytes.next_multiple_of(PART);
        let (slot, region) = match self.scratch.get(&(bytes, of)) {
            Some(found) => *found,
            None => {
                let made = (self.slot(bytes), self.region());
                self.scratch.insert((bytes, of), made);
                made
            }
        };
        let flags = MemFlagsData::new().with_notrap().with_alias_region(Some(region));
        At { pointer: self.f.ins().stack_addr(types::I64, slot, 0), offset: 0, flags }
    }

    pub fn load_raw(&mut self, ty: ir::Type, at: At) -> ir::Value {
        // Without AVX Cranelift makes unaligned vectors operands of float comparisons, which trap. Those of integers
        // it loads first.
        let as_int = !self.avx && ty.is_vector() && ty.lane_type().is_float();
        let loaded = if as_int { ty.as_int() } else { ty };
        let x = self.f.ins().load(loaded, at.flags, at.pointer, at.offset as i32);
        self.recast(x, ty)
    }

    pub fn store_raw(&mut self, x: ir::Value, at: At) {
        self.f.ins().store(at.flags, x, at.pointer, at.offset as i32);
    }

    pub fn load_place(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        mask: Option<V<Self>>,
    ) -> Result<V<Self>> {
        match (place.base(), mask) {
            (Address::Register { buffer, index }, _) => {
                self.load_registers(dtype, (buffer, index), place, mask)
            }
            (at, None) => {
                let at = self.at(at)?;
                self.load_lanes(dtype, place, at, None)
            }
            (_, Some(mask)) => self.load_masked(dtype, place, mask),
        }
    }

    pub fn store_place(&mut self, v: V<Self>, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<()> {
        match (place.base(), mask) {
            (Address::Register { buffer, index }, _) => self.store_registers(v, (buffer, index), place, mask),
            (at, None) => {
                let at = self.at(at)?;
                self.store_lanes(v, place, at, None)
            }
            (_, Some(mask)) => self.store_masked(v, place, mask),
        }
    }

    /// The lanes whose bits are set, or all; others are zero. The place begins at `at`.
    pub fn load_lanes(
        &mut self,
        dtype: DType,
        place: PlaceOf<Self>,
        at: At,
        bits: Option<u64>,
    ) -> Result<V<Self>> {
        match (place, leading(place.lanes(), bits)) {
            (Place::Consecutive(_, n), Some(k)) => {
                let mut parts = self.load_parts(at, dtype, k);
                let zero = self.bytes(vec![0; PART as usize], part_type(scalar_type(dtype)));
                parts.resize(part_count(n, dtype.size() as u32), zero);
                Ok(self.loaded(parts, VType { dtype, lanes: n }))
            }
            (Place::Same(_, n), Some(k)) if k == n => {
                let x = self.load_raw(scalar_type(dtype), at);
                let x = self.loaded_scalar(x, dtype);
                self.splat(x, n)
            }
            (Place::Reversed(address, n), Some(k)) if k == n => {
                let forward = self.load_lanes(dtype, Place::Consecutive(address, n), at, None)?;
                let lanes = (0..n).rev().map(|i| self.extract(forward, i)).collect::<Result<Vec<_>>>()?;
                self.join(&lanes)
            }
            _ => {
                let mut lanes = Vec::new();
                for lane in 0..place.lanes() {
                    lanes.push(if bits.is_none_or(|bits| bits >> lane & 1 == 1) {
                        let from = self.lane_at(dtype, place, at, lane)?;
                        let x = self.load_raw(scalar_type(dtype), from);
                        self.loaded_scalar(x, dtype)
                    } else {
                        self.constant(VType::scalar(dtype), Scalar::zero(dtype))?
                    });
                }
                self.join(&lanes)
            }
        }
    }

    /// Writes the lanes whose bits are set, or all. The place begins at `at`.
    pub fn store_lanes(&mut self, v: V<Self>, place: PlaceOf<Self>, at: At, bits: Option<u64>) -> Result<()> {
        let dtype = v.ty.dtype;
        if let (Place::Consecutive(..), Some(k)) = (place, leading(v.ty.lanes, bits)) {
            let parts = self.stored(v)?;
            self.store_parts(&parts, at, dtype, k);
            return Ok(());
        }
        for lane in (0..v.ty.lanes).filter(|i| bits.is_none_or(|bits| bits >> i & 1 == 1)) {
            let x = self.extract(v, lane)?;
            let x = self.one(x);
            let to = self.lane_at(dtype, place, at, lane)?;
            self.store_raw(x, to);
        }
        Ok(())
    }

    /// Where a lane's element is.
    pub fn lane_at(&mut self, dtype: DType, place: PlaceOf<Self>, at: At, lane: u32) -> Result<At> {
        let lane_number = i64::from(lane);
        let elements = match place {
            Place::One(_) | Place::Same(..) => 0,
            Place::Consecutive(..) => lane_number,
            Place::Reversed(_, n) => i64::from(n) - 1 - lane_number,
            Place::Spread(_, _, step) => step * lane_number,
            Place::Any(_, index, lanes) => {
                let index = V::<Self> { raw: index, ty: VType { dtype: DType::I64, lanes } };
                let element = self.extract(index, lane)?;
                let element = self.one(element);
                return Ok(At { pointer: self.add_elements(at.pointer, element, dtype), ..at });
            }
        };
        Ok(at.after(elements * dtype.size() as i64))
    }

    /// Consecutive elements; the last part is loaded in pieces if they don't fill it.
    pub fn load_parts(&mut self, at: At, dtype: DType, lanes: u32) -> Vec<ir::Value> {
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

    pub fn store_parts(&mut self, parts: &[ir::Value], at: At, dtype: DType, lanes: u32) {
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
}

/// How many of the first lanes are those whose bits are set, if these are the first.
fn leading(lanes: u32, bits: Option<u64>) -> Option<u32> {
    let Some(bits) = bits else { return Some(lanes) };
    let n = bits.trailing_ones();
    (n == bits.count_ones()).then_some(n)
}

/// Offsets and sizes of the powers of two that the bytes after the last full part consist of.
fn pieces(bytes: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut at = bytes / PART * PART;
    [8, 4, 2, 1].into_iter().filter(move |size| (bytes % PART) & size != 0).map(move |size| {
        let piece = (at, size);
        at += size;
        piece
    })
}

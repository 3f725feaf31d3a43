//! How values of the loop IR lie in Cranelift's: a scalar in one, a vector in as many 128-bit parts as it fills.
//!
//! The last part of a vector may have lanes to spare; what is in them is never seen. A vector of booleans is a mask
//! whose lanes are all ones or all zeros and as wide as those of the numbers that were compared; they are made wider
//! or narrower where masks meet something else. A scalar boolean is a byte, 0 or 1.

use super::code::Code;
use crate::emit::build::{V, Value};
use aic_ir::dtype::DType;
use aic_ir::kernel::VType;
use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, Type, types};

/// Bytes of a part.
pub(super) const PART: u32 = 16;

/// Some of the builder's values: one for a scalar, or the parts of a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    first: u32,
    len: u32,
    /// Bytes of a lane of a vector; of a mask's lanes, too.
    pub lane: u32,
    pub known: Known,
}

/// What is known of the lanes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// They are floats and not NaN.
    Number,
    /// They are booleans, at most 64: lane `i` is true if bit `i` is set, and the condition, if there is one, is true.
    Lanes(u64, Option<ir::Value>),
}

impl Known {
    /// So many lanes of the same boolean.
    pub fn all(lanes: u32, value: bool, cond: Option<ir::Value>) -> Known {
        match lanes {
            1..=64 => Known::Lanes(if value { all_lanes(lanes) } else { 0 }, cond),
            _ => Known::Nothing,
        }
    }
}

/// A bit for each lane, of at most 64.
pub(super) fn all_lanes(lanes: u32) -> u64 {
    u64::MAX >> (64 - lanes.clamp(1, 64))
}

/// The type of a scalar.
pub(super) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F64 => types::F64,
        DType::F32 => types::F32,
        _ => int_type(dtype.size() as u32),
    }
}

/// An integer of so many bytes.
pub(super) fn int_type(bytes: u32) -> Type {
    match bytes {
        1 => types::I8,
        2 => types::I16,
        4 => types::I32,
        _ => types::I64,
    }
}

/// A part with lanes of this scalar type.
pub(super) fn part_type(lane: Type) -> Type {
    lane.by(PART / lane.bytes()).unwrap_or(types::I8X16)
}

/// Parts that so many lanes of so many bytes take.
pub(super) fn part_count(lanes: u32, lane: u32) -> usize {
    (lanes * lane).div_ceil(PART) as usize
}

/// Vectors are the same for Cranelift whatever their lanes are; the order of bytes is the machine's.
pub(super) fn bitcast_flags() -> MemFlagsData {
    MemFlagsData::new().with_endianness(ir::Endianness::Little)
}

impl Code<'_, '_> {
    pub fn parts(&self, v: V<Self>) -> Vec<ir::Value> {
        self.pool[v.raw.first as usize..(v.raw.first + v.raw.len) as usize].to_vec()
    }

    /// The value of a scalar.
    pub fn one(&self, v: V<Self>) -> ir::Value {
        self.pool[v.raw.first as usize]
    }

    pub fn scalar(&mut self, x: ir::Value, dtype: DType) -> V<Self> {
        self.value(vec![x], VType::scalar(dtype))
    }

    /// A value of parts that lie as its type says.
    pub fn value(&mut self, parts: Vec<ir::Value>, ty: VType) -> V<Self> {
        self.with_lane(parts, ty, ty.dtype.size() as u32)
    }

    /// A mask with lanes of so many bytes.
    pub fn mask_parts(&mut self, parts: Vec<ir::Value>, lanes: u32, lane: u32) -> V<Self> {
        self.with_lane(parts, VType { dtype: DType::Bool, lanes }, lane)
    }

    fn with_lane(&mut self, parts: Vec<ir::Value>, ty: VType, lane: u32) -> V<Self> {
        let (first, len) = (self.pool.len() as u32, parts.len() as u32);
        self.pool.extend(parts);
        Value { raw: Parts { first, len, lane, known: Known::Nothing }, ty }
    }

    /// Applies an instruction to each part; the result is of the type given.
    pub fn map<const N: usize>(
        &mut self,
        args: [V<Self>; N],
        ty: VType,
        mut f: impl FnMut(&mut Self, [ir::Value; N]) -> ir::Value,
    ) -> V<Self> {
        let lane = if ty.dtype == DType::Bool { args[0].raw.lane } else { ty.dtype.size() as u32 };
        let results = (0..args[0].raw.len)
            .map(|i| f(self, args.map(|a| self.pool[(a.raw.first + i) as usize])))
            .collect();
        self.with_lane(results, ty, lane)
    }

    /// The same bits as another type of the same size.
    pub fn recast(&mut self, x: ir::Value, to: Type) -> ir::Value {
        if self.f.func.dfg.value_type(x) == to { x } else { self.f.ins().bitcast(to, bitcast_flags(), x) }
    }

    /// A mask with lanes of so many bytes instead; scalars are as they are.
    pub fn mask_of_lane(&mut self, m: V<Self>, lane: u32) -> V<Self> {
        if m.ty.lanes == 1 || m.raw.lane == lane {
            return m;
        }
        let (mut parts, mut now) = (self.parts(m), m.raw.lane);
        while now > lane {
            parts = parts.chunks(2).map(|p| self.narrow_mask(p[0], p[p.len() - 1], now)).collect();
            now /= 2;
        }
        while now < lane {
            parts = self.widen_parts(&parts, now, m.ty.lanes, true);
            now *= 2;
        }
        let known = m.raw.known;
        let mut wide = self.mask_parts(parts, m.ty.lanes, lane);
        wide.raw.known = known;
        wide
    }

    fn narrow_mask(&mut self, low: ir::Value, high: ir::Value, lane: u32) -> ir::Value {
        match lane {
            8 => self.even_lanes(low, high, 4, types::I32X4),
            _ => self.f.ins().snarrow(low, high),
        }
    }

    /// The lanes of even number, of so many bytes, of two parts.
    pub fn even_lanes(&mut self, low: ir::Value, high: ir::Value, lane: u32, to: Type) -> ir::Value {
        let n = PART / lane;
        let lanes: Vec<u32> = (0..n).map(|i| 2 * i).collect();
        self.shuffle(low, high, lane, &lanes, to)
    }

    /// Integers of `lane` bytes made twice as wide; as many parts as the lanes fill then.
    pub fn widen_parts(
        &mut self,
        parts: &[ir::Value],
        lane: u32,
        lanes: u32,
        signed: bool,
    ) -> Vec<ir::Value> {
        let mut wide = Vec::new();
        for &p in parts {
            let (low, high) = match signed {
                true => (self.f.ins().swiden_low(p), self.f.ins().swiden_high(p)),
                false => (self.f.ins().uwiden_low(p), self.f.ins().uwiden_high(p)),
            };
            wide.extend([low, high]);
        }
        wide.truncate(part_count(lanes, 2 * lane));
        wide
    }

    /// The given lanes, of so many bytes, of two parts; those of the second are numbered after those of the first.
    pub fn shuffle(&mut self, a: ir::Value, b: ir::Value, lane: u32, lanes: &[u32], to: Type) -> ir::Value {
        let bytes: Vec<u8> =
            lanes.iter().flat_map(|i| (0..lane).map(move |k| (i * lane + k) as u8)).collect();
        let mask = self.f.func.dfg.immediates.push(bytes.into());
        let (a, b) = (self.recast(a, types::I8X16), self.recast(b, types::I8X16));
        let shuffled = self.f.ins().shuffle(a, b, mask);
        self.recast(shuffled, to)
    }

    /// A part of the given bytes.
    pub fn bytes(&mut self, bytes: Vec<u8>, ty: Type) -> ir::Value {
        let constant = self.f.func.dfg.constants.insert(bytes.into());
        self.f.ins().vconst(ty, constant)
    }

    /// A scalar boolean as a byte of all ones or zeros.
    pub fn spread(&mut self, x: ir::Value) -> ir::Value {
        self.f.ins().ineg(x)
    }

    /// All masks with the lanes of the first that isn't constant.
    pub fn same_lane<const N: usize>(&mut self, masks: [V<Self>; N]) -> [V<Self>; N] {
        let of = masks.iter().find(|m| m.raw.known == Known::Nothing).unwrap_or(&masks[0]);
        let lane = of.raw.lane;
        masks.map(|m| self.mask_of_lane(m, lane))
    }

    /// Whether any or all lanes of a mask are true: a scalar boolean.
    pub fn any_or_all(&mut self, m: V<Self>, all: bool) -> ir::Value {
        if m.ty.lanes == 1 {
            return self.one(m);
        }
        match m.raw.known {
            Known::Lanes(bits, Some(cond)) if bits == all_lanes(m.ty.lanes) => return cond,
            _ => {}
        }
        let mut parts = self.parts(m);
        let spare = parts.len() as u32 * PART - m.ty.lanes * m.raw.lane;
        if let (Some(last), true) = (parts.last_mut(), spare > 0) {
            let ty = self.f.func.dfg.value_type(*last);
            let ours = PART - spare;
            let outside: Vec<u8> = (0..PART).map(|i| if (i >= ours) == all { 0xff } else { 0 }).collect();
            let outside = self.bytes(outside, ty);
            *last = match all {
                true => self.f.ins().bor(*last, outside),
                false => self.f.ins().band(*last, outside),
            };
        }
        let mut whole = parts[0];
        for &p in &parts[1..] {
            whole = if all { self.f.ins().band(whole, p) } else { self.f.ins().bor(whole, p) };
        }
        if all { self.f.ins().vall_true(whole) } else { self.f.ins().vany_true(whole) }
    }
}

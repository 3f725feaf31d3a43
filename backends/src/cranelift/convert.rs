//! Conversions, in vector instructions where there are any, else lane by lane.

use super::code::Code;
use super::parts::{PART, part_count, part_type, scalar_type};
use crate::emit::build::{Build, V};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use cranelift_codegen::ir::{self, InstBuilder, types};

impl Code<'_, '_> {
    pub fn convert_scalar(&mut self, x: V<Self>, to: DType) -> V<Self> {
        let (from, ty) = (x.ty.dtype, scalar_type(to));
        let value = self.one(x);
        let ins = self.f.ins();
        let value = match (from.is_float(), to.is_float()) {
            (true, true) if from.size() < to.size() => ins.fpromote(ty, value),
            (true, true) if from.size() > to.size() => ins.fdemote(ty, value),
            (true, false) => ins.fcvt_to_sint_sat(ty, value),
            (false, true) if from.is_signed() => ins.fcvt_from_sint(ty, value),
            (false, true) => ins.fcvt_from_uint(ty, value),
            (false, false) if from.size() > to.size() => ins.ireduce(ty, value),
            (false, false) if from.size() < to.size() && from.is_signed() => ins.sextend(ty, value),
            (false, false) if from.size() < to.size() => ins.uextend(ty, value),
            _ => value,
        };
        self.scalar(value, to)
    }

    pub fn convert_vector(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        let from = x.ty.dtype;
        let ty = VType { dtype: to, ..x.ty };
        match (from, to) {
            (DType::Bool, _) => {
                let mask = self.mask_of_lane(x, to.size() as u32);
                let one = self.int(ty, 1)?;
                Ok(self.map([mask, one], ty, |c, [m, one]| c.f.ins().band(m, one)))
            }
            (DType::F32, DType::F64) => {
                let parts = self.halves(x);
                let wide = parts.into_iter().map(|p| self.f.ins().fvpromote_low(p)).collect();
                Ok(self.value(wide, ty))
            }
            (DType::F64, DType::F32) => {
                let parts = self.parts(x);
                let narrow: Vec<ir::Value> = parts.iter().map(|p| self.f.ins().fvdemote(*p)).collect();
                Ok(self.pairs(&narrow, ty))
            }
            (DType::F32, DType::I32) => {
                Ok(self.map([x], ty, |c, [x]| c.f.ins().x86_cvtt2dq(types::I32X4, x)))
            }
            (DType::I32, DType::F32) => {
                Ok(self.map([x], ty, |c, [x]| c.f.ins().fcvt_from_sint(types::F32X4, x)))
            }
            (DType::U32, DType::F32) => {
                Ok(self.map([x], ty, |c, [x]| c.f.ins().fcvt_from_uint(types::F32X4, x)))
            }
            (DType::I32, DType::F64) => {
                let wide = self.halves(x).into_iter().map(|p| {
                    let wide = self.f.ins().swiden_low(p);
                    self.f.ins().fcvt_from_sint(types::F64X2, wide)
                });
                let wide = wide.collect();
                Ok(self.value(wide, ty))
            }
            (DType::U32, DType::F64) => {
                let wide = self.halves(x).into_iter().map(|p| {
                    let wide = self.f.ins().uwiden_low(p);
                    self.f.ins().fcvt_from_uint(types::F64X2, wide)
                });
                let wide = wide.collect();
                Ok(self.value(wide, ty))
            }
            _ if from.is_int() && to.is_int() => Ok(self.resize(x, to)),
            _ if from.is_int() && from.size() < 4 => {
                let word = self.resize(x, DType::I32);
                self.convert(word, to)
            }
            _ => self.each_lane(&[x], |c, x| Ok(c.convert_scalar(x[0], to))),
        }
    }

    /// The halves of each part as low halves of parts, as many as the lanes fill at twice the size.
    fn halves(&mut self, x: V<Self>) -> Vec<ir::Value> {
        let mut halves = Vec::new();
        for part in self.parts(x) {
            let ty = self.f.func.dfg.value_type(part);
            let high = self.shuffle(part, part, 8, &[1, 1], ty);
            halves.extend([part, high]);
        }
        halves.truncate(part_count(x.ty.lanes, 2 * x.raw.lane));
        halves
    }

    /// The low halves of each two parts in one.
    fn pairs(&mut self, parts: &[ir::Value], ty: VType) -> V<Self> {
        let clif = part_type(scalar_type(ty.dtype));
        let join = |p: &[ir::Value]| match p {
            [low, high] => self.shuffle(*low, *high, 8, &[0, 2], clif),
            _ => p[0],
        };
        let parts = parts.chunks(2).map(join).collect();
        self.value(parts, ty)
    }

    fn resize(&mut self, x: V<Self>, to: DType) -> V<Self> {
        let (mut parts, mut lane) = (self.parts(x), x.raw.lane);
        let signed = x.ty.dtype.is_signed();
        while lane < to.size() as u32 {
            parts = self.widen_parts(&parts, lane, x.ty.lanes, signed);
            lane *= 2;
        }
        while lane > to.size() as u32 {
            parts = parts.chunks(2).map(|p| self.low_halves(p[0], p[p.len() - 1], lane)).collect();
            lane /= 2;
        }
        self.value(parts, VType { dtype: to, ..x.ty })
    }

    /// The lower half of each integer of two parts.
    fn low_halves(&mut self, low: ir::Value, high: ir::Value, lane: u32) -> ir::Value {
        if lane == 8 {
            return self.even_lanes(low, high, 4, types::I32X4);
        }
        let ty = self.f.func.dfg.value_type(low);
        let half = (lane / 2) as usize;
        let kept: Vec<u8> =
            (0..PART as usize).map(|i| if i % (2 * half) < half { 0xff } else { 0 }).collect();
        let kept = self.bytes(kept, ty);
        let (low, high) = (self.f.ins().band(low, kept), self.f.ins().band(high, kept));
        self.f.ins().unarrow(low, high)
    }
}

//! Operations that take more than an instruction: lanes put together and combined, masks, least and greatest floats.

use super::code::Code;
use super::parts::{Known, PART, all_lanes, part_type, scalar_type};
use crate::emit::build::{Binary, Build, Compare, V};
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, BlockArg, InstBuilder, types};

impl Code<'_, '_> {
    /// A part of scalars, the first lanes of it.
    pub fn join_part(&mut self, scalars: &[ir::Value], lane: ir::Type) -> ir::Value {
        let mut part = self.first_lane(scalars[0], lane);
        for (i, x) in scalars.iter().enumerate().skip(1) {
            part = self.f.ins().insertlane(part, *x, i as u8);
        }
        part
    }

    /// A part with a scalar of the given type in its first lane.
    pub fn first_lane(&mut self, x: ir::Value, lane: ir::Type) -> ir::Value {
        if !matches!(lane, types::I8 | types::I16) {
            return self.f.ins().scalar_to_vector(part_type(lane), x);
        }
        let word = self.f.ins().uextend(types::I32, x);
        let part = self.f.ins().scalar_to_vector(types::I32X4, word);
        self.recast(part, part_type(lane))
    }

    /// A mask of the lanes of an integer part that aren't 0.
    pub fn nonzero(&mut self, part: ir::Value) -> ir::Value {
        let ty = self.f.func.dfg.value_type(part);
        let zero = self.bytes(vec![0; PART as usize], ty);
        self.f.ins().icmp(IntCC::NotEqual, part, zero)
    }

    pub fn logic(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> V<Self> {
        let all = all_lanes(a.ty.lanes);
        match (op, a.raw.known, b.raw.known) {
            (Binary::And, Known::Lanes(bits, None), _) if bits == all => return b,
            (Binary::And, _, Known::Lanes(bits, None)) if bits == all => return a,
            _ => {}
        }
        let [x, y] = self.same_lane([a, b]);
        let mut v = self.map([x, y], a.ty, |c, [x, y]| match op {
            Binary::And => c.f.ins().band(x, y),
            Binary::Or => c.f.ins().bor(x, y),
            _ => c.f.ins().bxor(x, y),
        });
        v.raw.known = match (op, a.raw.known, b.raw.known) {
            (Binary::And, Known::Lanes(m, c), Known::Lanes(n, d)) => {
                let both = match (c, d) {
                    (Some(c), Some(d)) => Some(self.f.ins().band(c, d)),
                    (c, d) => c.or(d),
                };
                Known::Lanes(m & n, both)
            }
            (Binary::Or, Known::Lanes(m, None), Known::Lanes(n, None)) => Known::Lanes(m | n, None),
            (Binary::Xor, Known::Lanes(m, None), Known::Lanes(n, None)) => Known::Lanes(m ^ n, None),
            _ => Known::Nothing,
        };
        v
    }

    pub fn complement(&mut self, x: V<Self>) -> V<Self> {
        let scalar = x.ty.lanes == 1;
        let mut v = self.map([x], x.ty, |c, [x]| match scalar {
            true => c.f.ins().bxor_imm_s(x, 1),
            false => c.f.ins().bnot(x),
        });
        let all = all_lanes(x.ty.lanes);
        v.raw.known = match x.raw.known {
            Known::Lanes(bits, None) => Known::Lanes(!bits & all, None),
            Known::Lanes(bits, Some(cond)) if bits == all => {
                Known::Lanes(all, Some(self.f.ins().bxor_imm_s(cond, 1)))
            }
            _ => Known::Nothing,
        };
        v
    }

    /// `x < y ? x : y` or the like is one instruction, which gives the second operand if either is NaN. Scalars are
    /// the first lanes of vectors.
    pub fn float_extreme(&mut self, min: bool, a: V<Self>, b: V<Self>) -> V<Self> {
        let ty = part_type(scalar_type(a.ty.dtype));
        let (x, y) = if b.raw.known == Known::Number { (b, a) } else { (a, b) };
        let maybe_nan = x.raw.known != Known::Number;
        self.map([x, y], a.ty, |c, [x, y]| {
            let scalar = a.ty.lanes == 1;
            let [x, y] = if scalar { [x, y].map(|v| c.f.ins().scalar_to_vector(ty, v)) } else { [x, y] };
            let (less, more) = if min { (x, y) } else { (y, x) };
            let first = c.f.ins().fcmp(FloatCC::LessThan, less, more);
            let first = c.recast(first, ty);
            let mut value = c.f.ins().bitselect(first, x, y);
            if maybe_nan {
                let nan = c.f.ins().fcmp(FloatCC::Unordered, x, x);
                let nan = c.recast(nan, ty);
                value = c.f.ins().bitselect(nan, x, value);
            }
            if scalar { c.f.ins().extractlane(value, 0) } else { value }
        })
    }

    pub fn copy_sign(&mut self, size: V<Self>, sign: V<Self>) -> V<Self> {
        let lane = size.ty.dtype.size();
        let mut bit = vec![0; lane];
        bit[lane - 1] = 0x80;
        let ty = part_type(scalar_type(size.ty.dtype));
        let bit = self.bytes(bit.repeat(PART as usize / lane), ty);
        self.map([size, sign], size.ty, |c, [size, sign]| {
            let sign = c.f.ins().band(sign, bit);
            let size = c.f.ins().band_not(size, bit);
            c.f.ins().bor(size, sign)
        })
    }

    /// The lanes of two vectors in turn: part by part where lanes fill parts.
    pub fn interleaved(&mut self, a: V<Self>, b: V<Self>) -> Result<(V<Self>, V<Self>)> {
        let (lane, n) = (a.raw.lane, a.ty.lanes);
        let per = PART / lane;
        if a.ty.dtype == DType::Bool || n % per != 0 {
            let lanes: Vec<V<Self>> = (0..n)
                .flat_map(|i| [(a, i), (b, i)])
                .map(|(x, i)| self.extract(x, i))
                .collect::<Result<_>>()?;
            let (low, high) = lanes.split_at(n as usize);
            return Ok((self.join(low)?, self.join(high)?));
        }
        let ty = part_type(scalar_type(a.ty.dtype));
        let (x, y) = (self.parts(a), self.parts(b));
        let mut parts = Vec::new();
        for (x, y) in x.into_iter().zip(y) {
            for from in [0, per / 2] {
                let lanes: Vec<u32> = (from..from + per / 2).flat_map(|i| [i, per + i]).collect();
                parts.push(self.shuffle(x, y, lane, &lanes, ty));
            }
        }
        let high = parts.split_off(parts.len() / 2);
        Ok((self.value(parts, a.ty), self.value(high, a.ty)))
    }

    /// Parts are combined with each other, then halves of the last one; lanes of a part that isn't full come last.
    pub fn combine(&mut self, op: Binary, x: V<Self>) -> Result<V<Self>> {
        if x.ty.dtype == DType::Bool {
            let all = self.any_or_all(x, op == Binary::And);
            return Ok(self.scalar(all, DType::Bool));
        }
        let per = PART / x.raw.lane;
        let full = (x.ty.lanes / per) as usize;
        let ty = VType { lanes: per, ..x.ty };
        let mut parts: Vec<V<Self>> =
            self.parts(x)[..full].to_vec().into_iter().map(|p| self.value(vec![p], ty)).collect();
        while parts.len() > 1 {
            let half = parts.len().div_ceil(2);
            let rest = parts.split_off(half);
            for (a, b) in parts.iter_mut().zip(rest) {
                *a = self.binary(op, *a, b)?;
            }
        }
        let mut result = None;
        if let Some(&whole) = parts.first() {
            result = Some(self.combine_halves(op, whole)?);
        }
        for lane in full as u32 * per..x.ty.lanes {
            let next = self.extract(x, lane)?;
            result = Some(result.map_or(Ok(next), |r| self.binary(op, r, next))?);
        }
        match result {
            Some(r) => Ok(r),
            None => bail!("a vector without lanes"),
        }
    }

    fn combine_halves(&mut self, op: Binary, mut whole: V<Self>) -> Result<V<Self>> {
        let (per, lane) = (whole.ty.lanes, whole.raw.lane);
        let mut half = per / 2;
        while half > 0 {
            let part = self.one(whole);
            let ty = self.f.func.dfg.value_type(part);
            let lanes: Vec<u32> = (0..per).map(|i| (i + half) % per).collect();
            let moved = self.shuffle(part, part, lane, &lanes, ty);
            let moved = self.value(vec![moved], whole.ty);
            whole = self.binary(op, whole, moved)?;
            half /= 2;
        }
        self.extract(whole, 0)
    }

    /// Repeated squaring of scalars.
    pub fn power_by_squaring(&mut self, base: V<Self>, exponent: V<Self>) -> V<Self> {
        let [test, step, done] = [(); 3].map(|()| self.f.create_block());
        let one = self.f.ins().iconst(types::I64, 1);
        let (base, exponent) = (self.one(base), self.one(exponent));
        let [power, square, rest] = [(); 3].map(|()| self.f.append_block_param(test, types::I64));
        self.f.ins().jump(test, &[one, base, exponent].map(BlockArg::Value));
        self.f.switch_to_block(test);
        self.f.ins().brif(rest, step, &[], done, &[]);
        self.f.seal_block(step);
        self.f.switch_to_block(step);
        let odd = self.f.ins().band_imm_s(rest, 1);
        let multiplied = self.f.ins().imul(power, square);
        let next = self.f.ins().select(odd, multiplied, power);
        let squared = self.f.ins().imul(square, square);
        let halved = self.f.ins().ushr_imm_u(rest, 1);
        self.f.ins().jump(test, &[next, squared, halved].map(BlockArg::Value));
        self.f.seal_block(test);
        self.f.seal_block(done);
        self.f.switch_to_block(done);
        self.scalar(power, DType::I64)
    }
}

pub(super) fn float_condition(op: Compare) -> FloatCC {
    match op {
        Compare::Eq => FloatCC::Equal,
        Compare::Ne => FloatCC::NotEqual,
        Compare::Lt => FloatCC::LessThan,
        Compare::Le => FloatCC::LessThanOrEqual,
        Compare::Gt => FloatCC::GreaterThan,
        Compare::Ge => FloatCC::GreaterThanOrEqual,
    }
}

pub(super) fn int_condition(op: Compare, signed: bool) -> IntCC {
    match (op, signed) {
        (Compare::Eq, _) => IntCC::Equal,
        (Compare::Ne, _) => IntCC::NotEqual,
        (Compare::Lt, true) => IntCC::SignedLessThan,
        (Compare::Le, true) => IntCC::SignedLessThanOrEqual,
        (Compare::Gt, true) => IntCC::SignedGreaterThan,
        (Compare::Ge, true) => IntCC::SignedGreaterThanOrEqual,
        (Compare::Lt, false) => IntCC::UnsignedLessThan,
        (Compare::Le, false) => IntCC::UnsignedLessThanOrEqual,
        (Compare::Gt, false) => IntCC::UnsignedGreaterThan,
        (Compare::Ge, false) => IntCC::UnsignedGreaterThanOrEqual,
    }
}

//! Cranelift's side of the emitter: each operation as instructions on scalars or parts of vectors.

use super::lanes::{float_condition, int_condition};
use super::memory::{Address, Buffer, Scratch};
use super::parts::{Known, PART, Parts, part_count, part_type, scalar_type};
use super::registers::Use;
use crate::emit::build::{Binary, Build, Compare, PlaceOf, Unary, V};
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Scope, VType};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::write_scalar;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, BlockArg, InstBuilder, types};
use cranelift_frontend::{FunctionBuilder, Variable};
use cranelift_module::{FuncOrDataId, Linkage, Module};
use cranelift_object::ObjectModule;
use std::collections::HashMap;

/// Builds the function of a kernel.
pub(super) struct Code<'m, 'f> {
    pub f: FunctionBuilder<'f>,
    pub module: &'m mut ObjectModule,
    /// Whether multiplication and addition are one instruction.
    pub fma: bool,
    /// Whether operands in memory need no alignment.
    pub avx: bool,
    /// The values that [`Parts`] name.
    pub pool: Vec<ir::Value>,
    /// Variables of each buffer that is in registers.
    pub registers: Vec<Vec<Variable>>,
    pub uses: HashMap<Sym, Use>,
    /// Buffers of the function by name: unrolled copies of a block use the same ones.
    pub allocated: HashMap<Sym, (Buffer, DType, u32)>,
    /// Stack slots for what has to be in memory for a moment, by their sizes and uses.
    pub scratch: HashMap<(u32, Scratch), (ir::StackSlot, ir::AliasRegion)>,
    /// The number of alias regions so far.
    pub regions: u32,
    /// The number of branches around: what is in them may not be done before them.
    pub branches: usize,
}

/// A counted loop: its header and exit, its variable and its limit.
pub(super) struct Loop {
    header: ir::Block,
    exit: ir::Block,
    i: ir::Value,
    end: ir::Value,
}

/// The blocks of what is left of an `if`.
pub(super) struct If {
    no: ir::Block,
    end: ir::Block,
}

/// The blocks of a `while`'s condition and end.
pub(super) struct While {
    test: ir::Block,
    exit: ir::Block,
}

impl Build for Code<'_, '_> {
    type Raw = Parts;
    type Buffer = Buffer;
    type Address = Address;
    type Loop = Loop;
    type If = If;
    type While = While;

    fn constant(&mut self, ty: VType, value: Scalar) -> Result<V<Self>> {
        let known = match value {
            Scalar::B(b) => Known::all(ty.lanes, b, None),
            Scalar::F(x) if !x.is_nan() => Known::Number,
            _ => Known::Nothing,
        };
        let mut bytes = Vec::new();
        write_scalar(ty.dtype, value, &mut bytes);
        let mut v = if ty.lanes == 1 {
            let bits = bytes.iter().rev().fold(0, |bits, b| bits << 8 | u64::from(*b));
            let x = match ty.dtype {
                DType::F32 => self.f.ins().f32const(ir::immediates::Ieee32::with_bits(bits as u32)),
                DType::F64 => self.f.ins().f64const(ir::immediates::Ieee64::with_bits(bits)),
                t => self.f.ins().iconst(scalar_type(t), bits as i64),
            };
            self.value(vec![x], ty)
        } else {
            if ty.dtype == DType::Bool {
                bytes = vec![if value.as_bool() { 0xff } else { 0 }];
            }
            let part =
                self.bytes(bytes.repeat(PART as usize / bytes.len()), part_type(scalar_type(ty.dtype)));
            self.value(vec![part; part_count(ty.lanes, ty.dtype.size() as u32)], ty)
        };
        v.raw.known = known;
        Ok(v)
    }

    fn splat(&mut self, x: V<Self>, lanes: u32) -> Result<V<Self>> {
        if lanes == 1 {
            return Ok(x);
        }
        let ty = VType { lanes, ..x.ty };
        let mut scalar = self.one(x);
        if ty.dtype == DType::Bool {
            scalar = self.spread(scalar);
        }
        let part = self.f.ins().splat(part_type(scalar_type(ty.dtype)), scalar);
        let mut v = self.value(vec![part; part_count(lanes, ty.dtype.size() as u32)], ty);
        v.raw.known = match x.raw.known {
            Known::Lanes(bits, None) => Known::all(lanes, bits == 1, None),
            _ if ty.dtype == DType::Bool => Known::all(lanes, true, Some(self.one(x))),
            known => known,
        };
        Ok(v)
    }

    fn mask(&mut self, lanes: &[bool]) -> Result<V<Self>> {
        let n = lanes.len();
        let mut bytes: Vec<u8> = lanes.iter().map(|b| if *b { 0xff } else { 0 }).collect();
        bytes.resize(n.next_multiple_of(PART as usize), 0);
        let parts = bytes.chunks(PART as usize).map(|b| self.bytes(b.to_vec(), types::I8X16)).collect();
        let mut v = self.mask_parts(parts, n as u32, 1);
        if n <= 64 {
            let bits = lanes.iter().rev().fold(0, |bits, b| bits << 1 | u64::from(*b));
            v.raw.known = Known::Lanes(bits, None);
        }
        Ok(v)
    }

    fn iota(&mut self, ty: VType) -> Result<V<Self>> {
        if ty.lanes == 1 {
            return self.int(ty, 0);
        }
        let lane = ty.dtype.size();
        let number = |i: usize| (i as u64).to_le_bytes()[..lane].to_vec();
        let per = PART as usize / lane;
        let parts = (0..part_count(ty.lanes, lane as u32))
            .map(|p| {
                let bytes = (p * per..(p + 1) * per).flat_map(number).collect();
                self.bytes(bytes, part_type(scalar_type(ty.dtype)))
            })
            .collect();
        Ok(self.value(parts, ty))
    }

    fn extract(&mut self, x: V<Self>, lane: u32) -> Result<V<Self>> {
        if x.ty.lanes == 1 {
            return Ok(x);
        }
        let per = PART / x.raw.lane;
        let part = self.parts(x)[(lane / per) as usize];
        let mut one = self.f.ins().extractlane(part, (lane % per) as u8);
        if x.ty.dtype == DType::Bool {
            one = self.f.ins().icmp_imm_s(IntCC::NotEqual, one, 0);
        }
        Ok(self.scalar(one, x.ty.dtype))
    }

    fn join(&mut self, lanes: &[V<Self>]) -> Result<V<Self>> {
        let [first, _, ..] = lanes else { return Ok(lanes[0]) };
        let ty = VType { lanes: lanes.len() as u32, ..first.ty };
        let scalars: Vec<ir::Value> = lanes.iter().map(|v| self.one(*v)).collect();
        let lane = scalar_type(ty.dtype);
        let mut parts = Vec::new();
        for chunk in scalars.chunks((PART / lane.bytes()) as usize) {
            parts.push(self.join_part(chunk, lane));
        }
        if ty.dtype == DType::Bool {
            parts.iter_mut().for_each(|p| *p = self.nonzero(*p));
        }
        Ok(self.value(parts, ty))
    }

    fn unary(&mut self, op: Unary, x: V<Self>) -> Result<V<Self>> {
        if x.ty.dtype == DType::Bool {
            return Ok(self.complement(x));
        }
        let float = x.ty.dtype.is_float();
        Ok(self.map([x], x.ty, |c, [x]| {
            let ins = c.f.ins();
            match op {
                Unary::Neg if float => ins.fneg(x),
                Unary::Neg => ins.ineg(x),
                Unary::Not => ins.bnot(x),
                Unary::Abs => ins.fabs(x),
                Unary::Sqrt => ins.sqrt(x),
                Unary::Floor => ins.floor(x),
                Unary::Ceil => ins.ceil(x),
                Unary::Round => ins.nearest(x),
                Unary::Trunc => ins.trunc(x),
            }
        }))
    }

    fn binary(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        let (ty, vector) = (a.ty, a.ty.lanes > 1);
        if ty.dtype.is_float() {
            return Ok(match op {
                Binary::Min | Binary::Max => self.float_extreme(op == Binary::Min, a, b),
                Binary::CopySign if vector => self.copy_sign(a, b),
                _ => self.map([a, b], ty, |c, [x, y]| match op {
                    Binary::Add => c.f.ins().fadd(x, y),
                    Binary::Sub => c.f.ins().fsub(x, y),
                    Binary::Mul => c.f.ins().fmul(x, y),
                    Binary::Div => c.f.ins().fdiv(x, y),
                    _ => c.f.ins().fcopysign(x, y),
                }),
            });
        }
        if ty.dtype == DType::Bool {
            return Ok(self.logic(op, a, b));
        }
        let by_lane = matches!(op, Binary::Div | Binary::Rem | Binary::Shl | Binary::Shr);
        if vector && by_lane {
            return self.each_lane(&[a, b], |c, x| c.binary(op, x[0], x[1]));
        }
        if vector && op == Binary::Mul && ty.dtype.size() == 1 {
            let (a, b) = (self.convert(a, DType::I16)?, self.convert(b, DType::I16)?);
            let product = self.mul(a, b)?;
            return self.convert(product, ty.dtype);
        }
        let signed = ty.dtype.is_signed();
        Ok(self.map([a, b], ty, |c, [x, y]| {
            let ins = c.f.ins();
            match op {
                Binary::Add => ins.iadd(x, y),
                Binary::Sub => ins.isub(x, y),
                Binary::Mul => ins.imul(x, y),
                Binary::And => ins.band(x, y),
                Binary::Or => ins.bor(x, y),
                Binary::Xor | Binary::CopySign => ins.bxor(x, y),
                Binary::Shl => ins.ishl(x, y),
                Binary::Div if signed => ins.sdiv(x, y),
                Binary::Rem if signed => ins.srem(x, y),
                Binary::Shr if signed => ins.sshr(x, y),
                Binary::Min if signed => ins.smin(x, y),
                Binary::Max if signed => ins.smax(x, y),
                Binary::Div => ins.udiv(x, y),
                Binary::Rem => ins.urem(x, y),
                Binary::Shr => ins.ushr(x, y),
                Binary::Min => ins.umin(x, y),
                Binary::Max => ins.umax(x, y),
            }
        }))
    }

    fn shift(&mut self, op: Binary, x: V<Self>, count: u32) -> Result<V<Self>> {
        let by = self.f.ins().iconst(types::I32, i64::from(count));
        let signed = x.ty.dtype.is_signed();
        Ok(self.map([x], x.ty, |c, [x]| match op {
            Binary::Shl => c.f.ins().ishl(x, by),
            _ if signed => c.f.ins().sshr(x, by),
            _ => c.f.ins().ushr(x, by),
        }))
    }

    fn fma(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>> {
        Ok(self.map([a, b, c], a.ty, |code, [a, b, c]| code.f.ins().fma(a, b, c)))
    }

    fn muladd(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>> {
        if self.fma {
            return self.fma(a, b, c);
        }
        let product = self.mul(a, b)?;
        self.add(product, c)
    }

    fn compare(&mut self, op: Compare, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        let (float, signed) = (a.ty.dtype.is_float(), a.ty.dtype.is_signed());
        let ty = VType { dtype: DType::Bool, ..a.ty };
        Ok(self.map([a, b], ty, |c, [x, y]| match float {
            true => c.f.ins().fcmp(float_condition(op), x, y),
            false => c.f.ins().icmp(int_condition(op, signed), x, y),
        }))
    }

    fn select(&mut self, cond: V<Self>, yes: V<Self>, no: V<Self>) -> Result<V<Self>> {
        if yes.ty.lanes == 1 {
            return Ok(self.map([cond, yes, no], yes.ty, |c, [cond, x, y]| c.f.ins().select(cond, x, y)));
        }
        if yes.ty.dtype == DType::Bool {
            let masks = self.same_lane([yes, no, cond]);
            let [yes, no, cond] = masks;
            return Ok(self.map([cond, yes, no], yes.ty, |c, [cond, x, y]| c.f.ins().bitselect(cond, x, y)));
        }
        let cond = self.mask_of_lane(cond, yes.raw.lane);
        let ty = part_type(scalar_type(yes.ty.dtype));
        Ok(self.map([cond, yes, no], yes.ty, |c, [cond, x, y]| {
            let cond = c.recast(cond, ty);
            c.f.ins().bitselect(cond, x, y)
        }))
    }

    fn convert(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        if x.ty.lanes == 1 { Ok(self.convert_scalar(x, to)) } else { self.convert_vector(x, to) }
    }

    fn bits(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        let ty = VType { dtype: to, ..x.ty };
        let clif = if ty.lanes == 1 { scalar_type(to) } else { part_type(scalar_type(to)) };
        Ok(self.map([x], ty, |c, [x]| c.recast(x, clif)))
    }

    fn saturate(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        self.each_lane(&[x], |c, x| {
            let x = c.one(x[0]);
            let int = match to.is_signed() {
                true => c.f.ins().fcvt_to_sint_sat(types::I64, x),
                false => c.f.ins().fcvt_to_uint_sat(types::I64, x),
            };
            Ok(c.scalar(int, to))
        })
    }

    fn interleave(&mut self, a: V<Self>, b: V<Self>) -> Result<(V<Self>, V<Self>)> {
        self.interleaved(a, b)
    }

    fn horizontal(&mut self, op: Binary, x: V<Self>) -> Result<V<Self>> {
        self.combine(op, x)
    }

    fn call_c(&mut self, name: &'static str, args: &[V<Self>]) -> Result<V<Self>> {
        let dtype = args[0].ty.dtype;
        let ty = scalar_type(dtype);
        let mut signature = self.module.make_signature();
        signature.params.extend(args.iter().map(|_| ir::AbiParam::new(ty)));
        signature.returns.push(ir::AbiParam::new(ty));
        let id = match self.module.get_name(name) {
            Some(FuncOrDataId::Func(id)) => id,
            _ => self.module.declare_function(name, Linkage::Import, &signature).map_err(super::failed)?,
        };
        let function = self.module.declare_func_in_func(id, self.f.func);
        let values: Vec<ir::Value> = args.iter().map(|a| self.one(*a)).collect();
        let call = self.f.ins().call(function, &values);
        let result = self.f.inst_results(call)[0];
        Ok(self.scalar(result, dtype))
    }

    fn power(&mut self, base: V<Self>, exponent: V<Self>) -> Result<V<Self>> {
        Ok(self.power_by_squaring(base, exponent))
    }

    fn loop_begin(&mut self, first: V<Self>, end: V<Self>, runs: bool) -> Result<(Loop, V<Self>)> {
        let (header, exit) = (self.f.create_block(), self.f.create_block());
        let (first, end) = (self.one(first), self.one(end));
        if !runs {
            // What doesn't change in the loop is computed in the block before it, hence not if it doesn't run.
            let before = self.f.create_block();
            let any = self.f.ins().icmp(IntCC::SignedLessThan, first, end);
            self.f.ins().brif(any, before, &[], exit, &[]);
            self.f.seal_block(before);
            self.f.switch_to_block(before);
        }
        self.f.ins().jump(header, &[BlockArg::Value(first)]);
        let i = self.f.append_block_param(header, types::I64);
        self.f.switch_to_block(header);
        Ok((Loop { header, exit, i, end }, self.scalar(i, DType::I64)))
    }

    fn loop_end(&mut self, l: Loop) -> Result<()> {
        let next = self.f.ins().iadd_imm_s(l.i, 1);
        let again = self.f.ins().icmp(IntCC::SignedLessThan, next, l.end);
        self.f.ins().brif(again, l.header, &[BlockArg::Value(next)], l.exit, &[]);
        self.f.seal_block(l.header);
        self.f.seal_block(l.exit);
        self.f.switch_to_block(l.exit);
        Ok(())
    }

    fn if_begin(&mut self, cond: V<Self>) -> Result<If> {
        let [yes, no, end] = [(); 3].map(|()| self.f.create_block());
        let cond = self.one(cond);
        self.f.ins().brif(cond, yes, &[], no, &[]);
        self.f.seal_block(yes);
        self.f.seal_block(no);
        self.f.switch_to_block(yes);
        self.branches += 1;
        Ok(If { no, end })
    }

    fn if_else(&mut self, i: &mut If) -> Result<()> {
        self.f.ins().jump(i.end, &[]);
        self.f.switch_to_block(i.no);
        Ok(())
    }

    fn if_end(&mut self, i: If) -> Result<()> {
        self.f.ins().jump(i.end, &[]);
        self.f.seal_block(i.end);
        self.f.switch_to_block(i.end);
        self.branches -= 1;
        Ok(())
    }

    fn while_begin(&mut self) -> Result<While> {
        let (test, exit) = (self.f.create_block(), self.f.create_block());
        self.f.ins().jump(test, &[]);
        self.f.switch_to_block(test);
        Ok(While { test, exit })
    }

    fn while_do(&mut self, w: &mut While, cond: V<Self>) -> Result<()> {
        let inner = self.f.create_block();
        let cond = self.one(cond);
        self.f.ins().brif(cond, inner, &[], w.exit, &[]);
        self.f.seal_block(inner);
        self.f.seal_block(w.exit);
        self.f.switch_to_block(inner);
        self.branches += 1;
        Ok(())
    }

    fn while_end(&mut self, w: While) -> Result<()> {
        self.f.ins().jump(w.test, &[]);
        self.f.seal_block(w.test);
        self.f.switch_to_block(w.exit);
        self.branches -= 1;
        Ok(())
    }

    fn alloc(&mut self, name: &Sym, dtype: DType, len: u32, _scope: Scope) -> Result<Buffer> {
        Ok(self.allocate(name, dtype, len))
    }

    fn address(
        &mut self,
        buffer: Buffer,
        dtype: DType,
        terms: &[V<Self>],
        offset: i64,
        _divisor: i64,
    ) -> Result<Address> {
        self.address_of(buffer, dtype, terms, offset)
    }

    fn load(&mut self, dtype: DType, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<V<Self>> {
        self.load_place(dtype, place, mask)
    }

    fn store(&mut self, value: V<Self>, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<()> {
        self.store_place(value, place, mask)
    }

    fn copy(&mut self, _dtype: DType, to: Address, from: Address, bytes: V<Self>) -> Result<()> {
        let (to, from, bytes) = (self.pointer(to)?, self.pointer(from)?, self.one(bytes));
        let config = self.module.target_config();
        self.f.call_memcpy(config, to, from, bytes);
        Ok(())
    }

    /// Cranelift has no such instruction.
    fn prefetch(&mut self, _at: Address, _locality: u8) -> Result<()> {
        Ok(())
    }
}

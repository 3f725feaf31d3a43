//! LLVM's side of the emitter: each operation as instructions and intrinsics.

use super::build::{Inkwell, Raw, internal};
use super::memory::Address;
use super::table::{Instruction, float_predicate, instruction, int_predicate, reduction};
use super::target::Target;
use crate::emit::build::{Binary, Blocks, Build, Compare, Matrices, PlaceOf, Unary, V, Value};
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::kernel::{Fetch, Level, Scope, VType};
use aic_ir::scalar::Scalar;
use aic_ir::target::MatrixUnit;
use inkwell::IntPredicate as P;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::module::Linkage;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{
    BasicValue, FastMathFlags, FunctionValue, InstructionOpcode as I, IntValue, PhiValue, PointerValue,
};

/// Builds the body of a kernel.
pub(super) struct Code<'a, 'c> {
    pub b: Inkwell<'a, 'c>,
    pub target: &'a Target<'a>,
    pub function: FunctionValue<'c>,
    /// Where allocas go.
    pub entry: BasicBlock<'c>,
}

/// A counted loop: its start and exit, its variable, and its first value, where that comes from, and its limit.
pub(super) struct Loop<'c> {
    start: BasicBlock<'c>,
    exit: BasicBlock<'c>,
    before: BasicBlock<'c>,
    phi: PhiValue<'c>,
    first: IntValue<'c>,
    end: IntValue<'c>,
}

/// The blocks of what is left of an `if`.
pub(super) struct If<'c> {
    no: BasicBlock<'c>,
    end: BasicBlock<'c>,
}

/// The blocks of a `while`'s condition and end.
pub(super) struct While<'c> {
    test: BasicBlock<'c>,
    exit: BasicBlock<'c>,
}

impl<'a, 'c> Build for Code<'a, 'c> {
    type Raw = Raw<'c>;
    type Buffer = PointerValue<'c>;
    type Address = Address<'c>;
    type Loop = Loop<'c>;
    type If = If<'c>;
    type While = While<'c>;

    fn constant(&mut self, ty: VType, value: Scalar) -> Result<V<Self>> {
        Ok(Value { raw: self.b.constant(ty, value)?, ty })
    }

    fn splat(&mut self, x: V<Self>, lanes: u32) -> Result<V<Self>> {
        Ok(Value { raw: self.b.splat(x.raw, lanes)?, ty: VType { lanes, ..x.ty } })
    }

    fn iota(&mut self, ty: VType) -> Result<V<Self>> {
        Ok(Value { raw: self.b.iota(8 * ty.dtype.size() as u32, ty.lanes), ty })
    }

    fn mask(&mut self, lanes: &[bool]) -> Result<V<Self>> {
        let raws: Vec<Raw> = lanes.iter().map(|b| self.b.i1(*b).into()).collect();
        let ty = VType { dtype: DType::Bool, lanes: lanes.len() as u32 };
        Ok(Value { raw: self.b.join(&raws)?, ty })
    }

    fn extract(&mut self, x: V<Self>, lane: u32) -> Result<V<Self>> {
        Ok(Value { raw: self.b.extract(x.raw, lane)?, ty: VType::scalar(x.ty.dtype) })
    }

    fn join(&mut self, lanes: &[V<Self>]) -> Result<V<Self>> {
        let first = lanes.first().ok_or_else(|| internal("a vector without lanes"))?;
        let raws: Vec<Raw> = lanes.iter().map(|v| v.raw).collect();
        Ok(Value { raw: self.b.join(&raws)?, ty: VType { lanes: lanes.len() as u32, ..first.ty } })
    }

    fn unary(&mut self, op: Unary, x: V<Self>) -> Result<V<Self>> {
        let raw = match op {
            Unary::Neg if x.ty.dtype.is_float() => self.b.fneg(x.raw)?,
            Unary::Neg => self.b.bin(I::Sub, self.b.int_like(x.raw, 0)?, x.raw)?,
            Unary::Not => self.b.bin(I::Xor, x.raw, self.b.int_like(x.raw, -1)?)?,
            Unary::Abs => self.pure("llvm.fabs", &[x.raw])?,
            Unary::Sqrt => self.pure("llvm.sqrt", &[x.raw])?,
            Unary::Floor => self.pure("llvm.floor", &[x.raw])?,
            Unary::Ceil => self.pure("llvm.ceil", &[x.raw])?,
            Unary::Round => self.pure("llvm.roundeven", &[x.raw])?,
            Unary::Trunc => self.pure("llvm.trunc", &[x.raw])?,
        };
        Ok(Value { raw, ..x })
    }

    fn binary(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        let raw = match instruction(op, a.ty.dtype) {
            Instruction::Op(op) => self.b.bin(op, a.raw, b.raw)?,
            Instruction::Intrinsic(name) => self.pure(name, &[a.raw, b.raw])?,
            Instruction::Extreme(name) => {
                let zeros = FastMathFlags::NoSignedZeros;
                self.b.intrinsic(name, &[a.raw.get_type()], &[a.raw, b.raw], zeros)?
            }
        };
        Ok(Value { raw, ..a })
    }

    fn index_binary(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        let (x, y) = (a.raw.into_int_value(), b.raw.into_int_value());
        let raw = match op {
            Binary::Add => self.b.builder.build_int_nsw_add(x, y, ""),
            Binary::Sub => self.b.builder.build_int_nsw_sub(x, y, ""),
            Binary::Mul => self.b.builder.build_int_nsw_mul(x, y, ""),
            _ => return self.binary(op, a, b),
        };
        Ok(Value { raw: raw.map_err(internal)?.into(), ..a })
    }

    fn fma(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>> {
        Ok(Value { raw: self.pure("llvm.fma", &[a.raw, b.raw, c.raw])?, ..a })
    }

    fn muladd(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>> {
        Ok(Value { raw: self.pure("llvm.fmuladd", &[a.raw, b.raw, c.raw])?, ..a })
    }

    fn compare(&mut self, op: Compare, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        let raw = match a.ty.dtype {
            DType::F32 | DType::F64 => self.b.fcmp(float_predicate(op), a.raw, b.raw)?,
            t => self.b.icmp(int_predicate(op, t.is_signed()), a.raw, b.raw)?,
        };
        Ok(Value { raw, ty: VType { dtype: DType::Bool, ..a.ty } })
    }

    fn select(&mut self, cond: V<Self>, yes: V<Self>, no: V<Self>) -> Result<V<Self>> {
        Ok(Value { raw: self.b.select(cond.raw, yes.raw, no.raw)?, ..yes })
    }

    fn convert(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        let from = x.ty.dtype;
        let ty = VType { dtype: to, ..x.ty };
        let op = match (from.is_float(), to.is_float()) {
            (true, true) if from.size() < to.size() => I::FPExt,
            (true, true) => I::FPTrunc,
            (true, false) => I::FPToSI,
            (false, true) if from.is_signed() => I::SIToFP,
            (false, true) => I::UIToFP,
            (false, false) if from == DType::Bool => I::ZExt,
            (false, false) if from.size() > to.size() => I::Trunc,
            (false, false) if from.is_signed() => I::SExt,
            (false, false) => I::ZExt,
        };
        Ok(Value { raw: self.b.cast(op, x.raw, self.b.ty(ty))?, ty })
    }

    fn bits(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        let ty = VType { dtype: to, ..x.ty };
        Ok(Value { raw: self.b.bitcast(x.raw, self.b.ty(ty))?, ty })
    }

    fn saturate(&mut self, x: V<Self>, to: DType) -> Result<V<Self>> {
        let ty = VType { dtype: to, ..x.ty };
        let name = if to.is_signed() { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
        let overloads = [self.b.ty(ty), x.raw.get_type()];
        Ok(Value { raw: self.b.intrinsic(name, &overloads, &[x.raw], FastMathFlags::empty())?, ty })
    }

    fn convert_half(&mut self, x: V<Self>, to: DType) -> Result<Option<V<Self>>> {
        if !self.target.f16c {
            return Ok(None);
        }
        let ty = VType { dtype: to, ..x.ty };
        let half: BasicTypeEnum = self.b.context.f16_type().into();
        let half = self.b.lanes_of(half, ty.lanes);
        let raw = match to {
            DType::F16 => self.b.bitcast(self.b.cast(I::FPTrunc, x.raw, half)?, self.b.ty(ty))?,
            _ => self.b.cast(I::FPExt, self.b.bitcast(x.raw, half)?, self.b.ty(ty))?,
        };
        Ok(Some(Value { raw, ty }))
    }

    fn scale(&mut self, x: V<Self>, n: V<Self>) -> Result<Option<V<Self>>> {
        let (name, bits) = match (x.ty.dtype, x.ty.lanes) {
            _ if self.target.vector_bytes < 64 => return Ok(None),
            (DType::F32, 16) => ("llvm.x86.avx512.mask.scalef.ps.512", 16),
            (DType::F64, 8) => ("llvm.x86.avx512.mask.scalef.pd.512", 8),
            _ => return Ok(None),
        };
        // All lanes, rounded as the mode says.
        let (all, mode) = (self.b.int_ty(bits).into_int_type().const_all_ones(), self.b.i32(4));
        let args = [x.raw, n.raw, x.raw, all.into(), mode.into()];
        Ok(Some(Value { raw: self.b.intrinsic(name, &[], &args, FastMathFlags::empty())?, ..x }))
    }

    fn interleave(&mut self, a: V<Self>, b: V<Self>) -> Result<(V<Self>, V<Self>)> {
        let n = a.ty.lanes;
        let half = |from: u32| -> Vec<u32> { (from..from + n / 2).flat_map(|i| [i, n + i]).collect() };
        let low = self.b.shuffle(a.raw, b.raw, &half(0))?;
        let high = self.b.shuffle(a.raw, b.raw, &half(n / 2))?;
        Ok((Value { raw: low, ..a }, Value { raw: high, ..a }))
    }

    fn horizontal(&mut self, op: Binary, x: V<Self>) -> Result<V<Self>> {
        let (name, flags) = reduction(op, x.ty.dtype).ok_or_else(|| internal("no such reduction"))?;
        let ty = VType::scalar(x.ty.dtype);
        let overloads = [x.raw.get_type()];
        // Sums and products of floats have a value to start with, and are trees only if any order will do.
        let raw = match flags {
            FastMathFlags::AllowReassoc => {
                let start = if op == Binary::Add { -0.0 } else { 1.0 };
                let start = self.float(ty, start)?.raw;
                self.b.intrinsic(name, &overloads, &[start, x.raw], flags)?
            }
            _ => self.b.intrinsic(name, &overloads, &[x.raw], flags)?,
        };
        Ok(Value { raw, ty })
    }

    fn call_c(&mut self, name: &'static str, args: &[V<Self>]) -> Result<V<Self>> {
        let first = args.first().ok_or_else(|| internal("a call without arguments"))?;
        ensure!(self.target.launch.is_none(), "a GPU has no C library and thus no `{name}`");
        let scalar = first.raw.get_type().into_float_type();
        let function = self.b.module.get_function(name).unwrap_or_else(|| {
            let params = vec![scalar.into(); args.len()];
            let function = self.b.module.add_function(name, scalar.fn_type(&params, false), None);
            for (attribute, value) in [("nounwind", 0), ("willreturn", 0), ("memory", 0)] {
                let kind = Attribute::get_named_enum_kind_id(attribute);
                let attribute = self.b.context.create_enum_attribute(kind, value);
                function.add_attribute(AttributeLoc::Function, attribute);
            }
            function
        });
        let raws: Vec<Raw> = args.iter().map(|a| a.raw).collect();
        Ok(Value { raw: self.b.call(function, &raws)?, ..*first })
    }

    fn power(&mut self, base: V<Self>, exponent: V<Self>) -> Result<V<Self>> {
        let function = self.power_function()?;
        Ok(Value { raw: self.b.call(function, &[base.raw, exponent.raw])?, ..base })
    }

    fn loop_begin(&mut self, first: V<Self>, end: V<Self>, runs: bool) -> Result<(Loop<'c>, V<Self>)> {
        let (start, exit) = (self.append("loop"), self.append("exit"));
        if runs {
            self.b.jump(start)?;
        } else {
            let any = self.b.icmp(P::SLT, first.raw, end.raw)?;
            self.b.branch(any.into_int_value(), start, exit)?;
        }
        let before = self.b.here()?;
        self.b.builder.position_at_end(start);
        let phi = self.b.phi(self.b.context.i64_type())?;
        let (first, end) = (first.raw.into_int_value(), end.raw.into_int_value());
        let i = Value { raw: phi.as_basic_value(), ty: VType::scalar(DType::I64) };
        Ok((Loop { start, exit, before, phi, first, end }, i))
    }

    fn loop_end(&mut self, l: Loop<'c>) -> Result<()> {
        let i = l.phi.as_basic_value().into_int_value();
        let next = self.b.builder.build_int_nsw_add(i, self.b.i64(1), "").map_err(internal)?;
        let again = self.b.icmp(P::SLT, next.into(), l.end.into())?;
        let latch = self.b.here()?;
        self.b.branch(again.into_int_value(), l.start, l.exit)?;
        l.phi.add_incoming(&[(&l.first, l.before), (&next, latch)]);
        self.b.builder.position_at_end(l.exit);
        Ok(())
    }

    fn if_begin(&mut self, cond: V<Self>) -> Result<If<'c>> {
        let (yes, no, end) = (self.append("then"), self.append("else"), self.append("end"));
        self.b.branch(cond.raw.into_int_value(), yes, no)?;
        self.b.builder.position_at_end(yes);
        Ok(If { no, end })
    }

    fn if_else(&mut self, i: &mut If<'c>) -> Result<()> {
        self.b.jump(i.end)?;
        self.b.builder.position_at_end(i.no);
        Ok(())
    }

    fn if_end(&mut self, i: If<'c>) -> Result<()> {
        self.b.jump(i.end)?;
        self.b.builder.position_at_end(i.end);
        Ok(())
    }

    fn while_begin(&mut self) -> Result<While<'c>> {
        let (test, exit) = (self.append("while"), self.append("done"));
        self.b.jump(test)?;
        self.b.builder.position_at_end(test);
        Ok(While { test, exit })
    }

    fn while_do(&mut self, w: &mut While<'c>, cond: V<Self>) -> Result<()> {
        let inner = self.append("do");
        self.b.branch(cond.raw.into_int_value(), inner, w.exit)?;
        self.b.builder.position_at_end(inner);
        Ok(())
    }

    fn while_end(&mut self, w: While<'c>) -> Result<()> {
        self.b.jump(w.test)?;
        self.b.builder.position_at_end(w.exit);
        Ok(())
    }

    /// An array in the function's entry, or a part of shared memory: LLVM finds what can be in registers.
    fn alloc(&mut self, name: &Sym, dtype: DType, len: u32, scope: Scope) -> Result<PointerValue<'c>> {
        if matches!(scope, Scope::Shared | Scope::Swizzled) {
            return self.shared(name.name());
        }
        let here = self.b.here()?;
        self.b.builder.position_at_end(self.entry);
        let bytes = self.b.context.i8_type().array_type(len * dtype.size().max(1) as u32);
        let base = self.b.builder.build_alloca(bytes, name.name()).map_err(internal)?;
        if let Some(i) = base.as_instruction_value() {
            i.set_alignment(64).map_err(internal)?;
        }
        self.b.builder.position_at_end(here);
        Ok(base)
    }

    fn address(
        &mut self,
        buffer: PointerValue<'c>,
        dtype: DType,
        terms: &[V<Self>],
        offset: i64,
        divisor: i64,
    ) -> Result<Address<'c>> {
        let element = self.element(dtype);
        let mut at = buffer;
        let mut sum: Option<V<Self>> = None;
        for term in terms {
            sum = Some(sum.map_or(Ok(*term), |s| self.index_binary(Binary::Add, s, *term))?);
        }
        if let Some(sum) = sum {
            at = self.b.gep(element, at, sum.raw).into_pointer_value();
        }
        if offset != 0 {
            at = self.b.gep(element, at, self.b.i64(offset).into()).into_pointer_value();
        }
        let size = dtype.size().max(1) as u32;
        // A GPU's buffers begin at multiples of its widest access.
        let most = self.target.launch.map_or(size, |_| self.target.vector_bytes as u32);
        let known = (divisor.unsigned_abs() * u64::from(size)).trailing_zeros();
        Ok(Address { at, alignment: most.min(1 << known.min(31)).max(size) })
    }

    fn load(&mut self, dtype: DType, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<V<Self>> {
        let ty = VType { dtype, lanes: place.lanes() };
        Ok(Value { raw: self.load_place(dtype, place, mask.map(|m| m.raw))?, ty })
    }

    fn store(&mut self, value: V<Self>, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<()> {
        self.store_place(value.raw, value.ty, place, mask.map(|m| m.raw))
    }

    fn copy(&mut self, dtype: DType, to: Address<'c>, from: Address<'c>, bytes: V<Self>) -> Result<()> {
        let (align, bytes) = (dtype.size() as u32, bytes.raw.into_int_value());
        self.b.builder.build_memcpy(to.at, align, from.at, align, bytes).map_err(internal).map(drop)
    }

    fn prefetch(&mut self, Address { at, .. }: Address<'c>, locality: u8) -> Result<()> {
        let args =
            [at.into(), self.b.i32(0).into(), self.b.i32(locality.into()).into(), self.b.i32(1).into()];
        self.b.intrinsic_void("llvm.prefetch", &[at.get_type().into()], &args)
    }

    fn level(&mut self, level: Level, _extent: Option<i64>) -> Result<V<Self>> {
        self.gpu_level(level)
    }

    fn barrier(&mut self) -> Result<()> {
        self.gpu_barrier()
    }

    fn shuffle(&mut self, x: V<Self>, lane: V<Self>) -> Result<V<Self>> {
        self.gpu_shuffle(x, lane)
    }

    fn copy_async(
        &mut self,
        to: Address<'c>,
        from: Address<'c>,
        bytes: u32,
        valid: Option<V<Self>>,
    ) -> Result<()> {
        self.gpu_copy_async(to.at, from.at, bytes, valid)
    }

    fn commit(&mut self) -> Result<()> {
        self.gpu_commit()
    }

    fn wait(&mut self, pending: u32) -> Result<()> {
        self.gpu_wait(pending)
    }

    fn load_matrix(&mut self, to: Address<'c>, row: Address<'c>, blocks: Blocks) -> Result<()> {
        self.gpu_load_matrix(to.at, row.at, blocks)
    }

    fn mma(&mut self, unit: &MatrixUnit, c: Address<'c>, a: Address<'c>, b: Address<'c>) -> Result<()> {
        self.gpu_mma(unit, [c, a, b].map(|x| x.at))
    }

    fn elect(&mut self) -> Result<V<Self>> {
        self.gpu_elect()
    }

    fn registers(&mut self, count: u32) -> Result<()> {
        self.gpu_registers(count)
    }

    fn phase_begin(&mut self, at: Address<'c>, arrivals: u32) -> Result<()> {
        self.gpu_phase_begin(at, arrivals)
    }

    fn publish_phases(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.fence.mbarrier_init.release.cluster", &[], &[])
    }

    fn phase_arrive(&mut self, at: Address<'c>, bytes: u32) -> Result<()> {
        self.gpu_phase_arrive(at, bytes)
    }

    fn phase_is_over(&mut self, at: Address<'c>, parity: V<Self>) -> Result<V<Self>> {
        self.gpu_phase_is_over(at, parity)
    }

    fn fetch(&mut self, f: &Fetch, to: Address<'c>, barrier: Address<'c>, at: &[V<Self>]) -> Result<()> {
        self.gpu_fetch(f, to, barrier, at)
    }

    fn publish(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.fence.proxy.async.shared_cta", &[], &[])
    }

    fn begin_products(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.wgmma.fence.sync.aligned", &[], &[])
    }

    fn mma_async(
        &mut self,
        unit: &MatrixUnit,
        extent: [u32; 3],
        c: Address<'c>,
        factors: [Matrices<Address<'c>>; 2],
    ) -> Result<()> {
        self.gpu_mma_async(unit, extent, c.at, factors)
    }

    fn commit_products(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.wgmma.commit_group.sync.aligned", &[], &[])
    }

    fn wait_products(&mut self, pending: u32, accumulators: &[(Address<'c>, u32)]) -> Result<()> {
        self.gpu_wait_products(pending, accumulators)
    }
}

impl<'c> Code<'_, 'c> {
    pub fn append(&self, name: &str) -> BasicBlock<'c> {
        self.b.context.append_basic_block(self.function, name)
    }

    /// An intrinsic over operands of one type, which is also that of the result.
    fn pure(&self, name: &str, x: &[Raw<'c>]) -> Result<Raw<'c>> {
        self.b.intrinsic(name, &[x[0].get_type()], x, FastMathFlags::empty())
    }

    /// A reduction without liberties but the given ones.
    pub fn reduce(&self, name: &str, x: Raw<'c>, flags: FastMathFlags) -> Result<Raw<'c>> {
        self.b.intrinsic(name, &[x.get_type()], &[x], flags)
    }

    /// `i64 aic.power(i64 base, i64 exponent)` of the module: repeated squaring.
    fn power_function(&self) -> Result<FunctionValue<'c>> {
        if let Some(function) = self.b.module.get_function("aic.power") {
            return Ok(function);
        }
        let here = self.b.here()?;
        let i64_type = self.b.context.i64_type();
        let ty = i64_type.fn_type(&[i64_type.into(), i64_type.into()], false);
        let function = self.b.module.add_function("aic.power", ty, Some(Linkage::Internal));
        self.target.attributes(self.b.context, function);
        let block = |name: &str| self.b.context.append_basic_block(function, name);
        let (entry, test, step, done) = (block("entry"), block("test"), block("step"), block("done"));
        let param = |i: u32| function.get_nth_param(i).ok_or_else(|| internal("no such parameter"));
        let (base, exponent): (Raw, Raw) = (param(0)?, param(1)?);
        let int = |n: i64| -> Raw<'c> { self.b.i64(n).into() };
        self.b.builder.position_at_end(entry);
        self.b.jump(test)?;

        self.b.builder.position_at_end(test);
        let (power, square, rest) = (self.b.phi(i64_type)?, self.b.phi(i64_type)?, self.b.phi(i64_type)?);
        let (p, s, r) = (power.as_basic_value(), square.as_basic_value(), rest.as_basic_value());
        let finished = self.b.icmp(P::EQ, r, int(0))?;
        self.b.branch(finished.into_int_value(), done, step)?;

        self.b.builder.position_at_end(step);
        let odd = self.b.bin(I::And, r, int(1))?;
        let odd = self.b.icmp(P::NE, odd, int(0))?;
        let multiplied = self.b.bin(I::Mul, p, s)?;
        let next = self.b.select(odd, multiplied, p)?;
        let squared = self.b.bin(I::Mul, s, s)?;
        let halved = self.b.bin(I::LShr, r, int(1))?;
        self.b.jump(test)?;
        power.add_incoming(&[(&int(1), entry), (&next, step)]);
        square.add_incoming(&[(&base, entry), (&squared, step)]);
        rest.add_incoming(&[(&exponent, entry), (&halved, step)]);

        self.b.builder.position_at_end(done);
        self.b.builder.build_return(Some(&p)).map_err(internal)?;
        self.b.builder.position_at_end(here);
        Ok(function)
    }
}

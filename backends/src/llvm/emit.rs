//! One kernel becomes two LLVM functions: `NAME`, with the C ABI, and `NAME.body`, whose parameters are the buffers
//! and symbols themselves, so that LLVM knows that they don't alias.
//!
//! One exhaustive match over statements, one over expressions. Unrolled loops are expanded here, with their variable
//! replaced by numbers in every index; register buffers thus become arrays indexed by constants, which LLVM's scalar
//! replacement turns into registers.

use super::build::{Build, Raw, internal};
use super::memory::Memory;
use super::target::Target;
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::{Buffer, Expr, Kernel, LoopKind, Scope, Stmt, VType};
use aic_ir::scalar::Scalar;
use aic_ir::{bail, ensure};
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{BasicValue, FunctionValue, InstructionOpcode, IntValue};
use inkwell::{AddressSpace, IntPredicate};
use std::collections::HashMap;

/// Copies of statements that one kernel may be unrolled to.
const MAX_STATEMENTS: usize = 1 << 18;

/// A value and its type in the loop IR.
#[derive(Clone, Copy)]
pub(super) struct Value<'c> {
    pub raw: Raw<'c>,
    pub ty: VType,
}

/// The state of emitting one kernel.
pub(super) struct Emitter<'a, 'c> {
    pub b: Build<'a, 'c>,
    pub target: &'a Target,
    pub function: FunctionValue<'c>,
    /// Where allocas go.
    entry: BasicBlock<'c>,
    /// Loop variables, symbols and `let`s.
    pub vars: HashMap<Sym, Value<'c>>,
    /// Variables of the unrolled loops around.
    pub unrolled: HashMap<Sym, i64>,
    /// What is known of the integers among `vars`.
    pub ranges: HashMap<Sym, Range>,
    /// The number of loops around a variable's binding; 0 for what isn't in it.
    pub depths: HashMap<Sym, usize>,
    depth: usize,
    pub buffers: HashMap<Sym, Memory<'c>>,
    statements: usize,
}

/// Adds a kernel to a module.
pub(super) fn kernel<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
) -> Result<()> {
    emit(context, module, target, kernel).map_err(|e| e.context(format!("kernel {}", kernel.name)))
}

fn emit<'c>(context: &'c Context, module: &Module<'c>, target: &Target, kernel: &Kernel) -> Result<()> {
    ensure!(
        module.get_function(&kernel.name).is_none() && !kernel.name.is_empty(),
        "its name is taken or empty"
    );
    let function = declare_body(context, module, target, kernel);
    let b = Build::new(context, module);
    let entry = context.append_basic_block(function, "entry");
    let start = context.append_basic_block(function, "start");
    b.builder.position_at_end(start);
    let mut e = Emitter {
        b,
        target,
        function,
        entry,
        vars: HashMap::new(),
        unrolled: HashMap::new(),
        ranges: HashMap::new(),
        depths: HashMap::new(),
        depth: 0,
        buffers: HashMap::new(),
        statements: 0,
    };
    e.bind_params(kernel)?;
    e.body(kernel)?;
    e.b.builder.build_return(None).map_err(internal)?;
    e.b.builder.position_at_end(entry);
    e.b.jump(start)?;
    wrapper(context, module, target, kernel, function)
}

/// `void NAME.body(buffers.., symbols.., begin, end)`.
fn declare_body<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
) -> FunctionValue<'c> {
    let mut params: Vec<BasicMetadataTypeEnum> = Vec::new();
    params.extend(kernel.params.iter().map(|_| pointer(context)));
    params.extend((0..kernel.symbols.len() + 2).map(|_| BasicMetadataTypeEnum::from(context.i64_type())));
    let ty = context.void_type().fn_type(&params, false);
    let function = module.add_function(&format!("{}.body", kernel.name), ty, Some(Linkage::Internal));
    target.attributes(context, function);
    let flag = |name: &str| context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
    function.add_attribute(AttributeLoc::Function, flag("noinline"));
    for (i, p) in kernel.params.iter().enumerate() {
        let at = AttributeLoc::Param(i as u32);
        function.add_attribute(at, flag("noalias"));
        function.add_attribute(at, flag("noundef"));
        if !p.writable {
            function.add_attribute(at, flag("readonly"));
        }
    }
    function
}

fn pointer(context: &Context) -> BasicMetadataTypeEnum<'_> {
    context.ptr_type(AddressSpace::default()).into()
}

/// `void NAME(buffers, symbols, begin, end)`, which loads the arguments and calls the body.
fn wrapper<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
    body: FunctionValue<'c>,
) -> Result<()> {
    let i64_type = context.i64_type();
    let params = [pointer(context), pointer(context), i64_type.into(), i64_type.into()];
    let function = module.add_function(&kernel.name, context.void_type().fn_type(&params, false), None);
    target.attributes(context, function);
    let b = Build::new(context, module);
    b.builder.position_at_end(context.append_basic_block(function, "entry"));
    let param = |i: u32| function.get_nth_param(i).ok_or_else(|| internal("no such parameter"));
    let (buffers, symbols) = (param(0)?.into_pointer_value(), param(1)?.into_pointer_value());
    let pointer_type = context.ptr_type(AddressSpace::default()).into();
    let mut args = Vec::new();
    for i in 0..kernel.params.len() {
        let at = b.gep(pointer_type, buffers, b.i64(i as i64).into()).into_pointer_value();
        args.push(b.load(pointer_type, at, 8)?);
    }
    for i in 0..kernel.symbols.len() {
        let at = b.gep(i64_type.into(), symbols, b.i64(i as i64).into()).into_pointer_value();
        args.push(b.load(i64_type.into(), at, 8)?);
    }
    args.extend([param(2)?, param(3)?]);
    let args: Vec<_> = args.into_iter().map(Into::into).collect();
    let call = b.builder.build_call(body, &args, "").map_err(internal)?;
    call.set_tail_call(true);
    b.builder.build_return(None).map_err(internal).map(drop)
}

impl<'c> Emitter<'_, 'c> {
    fn bind_params(&mut self, kernel: &Kernel) -> Result<()> {
        let values: Vec<Raw> = self.function.get_params();
        let (buffers, integers) = values.split_at(kernel.params.len());
        for (p, value) in kernel.params.iter().zip(buffers) {
            let Buffer { name, dtype, scope, .. } = &p.buffer;
            ensure!(
                matches!(scope, Scope::Global | Scope::Workspace),
                "parameter {name} is in scope {scope:?}, but only main memory can be passed"
            );
            let base = value.into_pointer_value();
            self.declare(name, Memory { base, dtype: *dtype, writable: p.writable })?;
        }
        for ((s, range), value) in kernel.symbols.iter().zip(integers) {
            self.bind_int(s, value.into_int_value(), *range);
        }
        Ok(())
    }

    fn body(&mut self, kernel: &Kernel) -> Result<()> {
        let [Stmt::For { var, begin, end, kind: LoopKind::Parallel, body }] = &kernel.body[..] else {
            return self.block(&kernel.body);
        };
        let range = Range::new(self.range(begin).lo, self.range(end).hi.saturating_sub(1));
        let n = self.function.count_params();
        let bound = |i: u32| self.function.get_nth_param(i).map(|v| v.into_int_value());
        match (bound(n - 2), bound(n - 1)) {
            (Some(begin), Some(end)) => self.count_loop(var, begin, end, range, false, |e| e.block(body)),
            _ => Err(internal("no such parameter")),
        }
    }

    fn declare(&mut self, name: &Sym, memory: Memory<'c>) -> Result<()> {
        ensure!(
            memory.dtype != DType::String,
            "buffer {name} is of strings, which have no representation in memory"
        );
        self.buffers.insert(name.clone(), memory);
        Ok(())
    }

    fn bind_int(&mut self, var: &Sym, value: IntValue<'c>, range: Range) {
        let ty = VType::scalar(DType::I64);
        self.vars.insert(var.clone(), Value { raw: value.into(), ty });
        self.ranges.insert(var.clone(), range);
        self.depths.insert(var.clone(), self.depth);
    }

    pub fn append(&self, name: &str) -> BasicBlock<'c> {
        self.b.context.append_basic_block(self.function, name)
    }

    fn block(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, s: &Stmt) -> Result<()> {
        self.statements += 1;
        ensure!(
            self.statements <= MAX_STATEMENTS,
            "unrolling it gives more than {MAX_STATEMENTS} statements"
        );
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => self.if_else(cond, then, other),
            Stmt::While { cond, body } => self.while_loop(cond, body),
            Stmt::Let { var, value } => self.bind(var, value),
            Stmt::Store { buffer, index, value, mask } => self.store(buffer, index, value, mask.as_ref()),
            Stmt::Alloc(buffer) => self.alloc(buffer),
            Stmt::Copy(copy) if copy.token.is_none() => self.copy(copy),
            Stmt::Call { name, args } if name == "prefetch" => self.prefetch(args),
            Stmt::Call { name, .. } => bail!("the target has no intrinsic `{name}`"),
            Stmt::Barrier(_) => bail!("the target has no barriers: its threads share nothing"),
            Stmt::Copy(_) | Stmt::Commit { .. } | Stmt::Wait { .. } => {
                bail!("the target has no asynchronous copies")
            }
            Stmt::Shuffle { var, .. } => bail!("{var} is shuffled: the target has no warps"),
            Stmt::Mma(mma) => bail!("the target has no matrix intrinsic `{}`", mma.intrinsic),
        }
    }

    fn for_loop(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &[Stmt]) -> Result<()> {
        match kind {
            LoopKind::Serial | LoopKind::Parallel => {
                let (b, e) = (self.range(begin), self.range(end));
                let runs = b.hi < e.lo;
                let (first, limit) = (self.dim(begin)?, self.dim(end)?);
                let range = Range::new(b.lo, e.hi.saturating_sub(1));
                self.count_loop(var, first, limit, range, runs, |e| e.block(body))
            }
            LoopKind::Unroll => self.unroll(var, begin, end, body),
            LoopKind::Vector => bail!("loop {var} was not vectorised before code generation"),
            LoopKind::Bind(level) => bail!("loop {var} is bound to {level:?}, which the target doesn't have"),
        }
    }

    /// `runs`: whether there surely is an iteration.
    pub fn count_loop(
        &mut self,
        var: &Sym,
        first: IntValue<'c>,
        end: IntValue<'c>,
        range: Range,
        runs: bool,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (start, exit) = (self.append("loop"), self.append("exit"));
        if runs {
            self.b.jump(start)?;
        } else {
            let any = self.b.icmp(IntPredicate::SLT, first.into(), end.into())?;
            self.b.branch(any.into_int_value(), start, exit)?;
        }
        let before = self.b.here()?;
        self.b.builder.position_at_end(start);
        let phi = self.b.phi(self.b.context.i64_type())?;
        let i = phi.as_basic_value().into_int_value();
        self.depth += 1;
        self.bind_int(var, i, range);
        body(self)?;
        self.depth -= 1;
        let next = self.b.builder.build_int_nsw_add(i, self.b.i64(1), "").map_err(internal)?;
        let again = self.b.icmp(IntPredicate::SLT, next.into(), end.into())?;
        let latch = self.b.here()?;
        self.b.branch(again.into_int_value(), start, exit)?;
        phi.add_incoming(&[(&first, before), (&next, latch)]);
        self.b.builder.position_at_end(exit);
        Ok(())
    }

    fn unroll(&mut self, var: &Sym, begin: &Dim, end: &Dim, body: &[Stmt]) -> Result<()> {
        let (Some(first), Some(end)) = (self.fold(begin).as_const(), self.fold(end).as_const()) else {
            bail!("loop {var} is to be unrolled, but its bounds {begin}..{end} are not constant");
        };
        for i in first..end {
            self.unrolled.insert(var.clone(), i);
            self.bind_int(var, self.b.i64(i), Range::new(i, i));
            self.block(body)?;
            self.statements += 1;
            ensure!(
                self.statements <= MAX_STATEMENTS,
                "unrolling it gives more than {MAX_STATEMENTS} statements"
            );
        }
        self.unrolled.remove(var);
        Ok(())
    }

    fn if_else(&mut self, cond: &Expr, then: &[Stmt], other: &[Stmt]) -> Result<()> {
        let cond = self.condition(cond)?;
        let (yes, no, end) = (self.append("then"), self.append("else"), self.append("end"));
        self.b.branch(cond, yes, no)?;
        for (block, body) in [(yes, then), (no, other)] {
            self.b.builder.position_at_end(block);
            self.block(body)?;
            self.b.jump(end)?;
        }
        self.b.builder.position_at_end(end);
        Ok(())
    }

    fn while_loop(&mut self, cond: &Expr, body: &[Stmt]) -> Result<()> {
        let (test, inner, exit) = (self.append("while"), self.append("do"), self.append("done"));
        self.b.jump(test)?;
        self.b.builder.position_at_end(test);
        self.depth += 1;
        let cond = self.condition(cond)?;
        self.b.branch(cond, inner, exit)?;
        self.b.builder.position_at_end(inner);
        self.block(body)?;
        self.depth -= 1;
        self.b.jump(test)?;
        self.b.builder.position_at_end(exit);
        Ok(())
    }

    fn condition(&mut self, e: &Expr) -> Result<IntValue<'c>> {
        let v = self.expr(e)?;
        ensure!(v.ty == VType::scalar(DType::Bool), "a condition is {}, not a scalar bool", name(v.ty));
        Ok(v.raw.into_int_value())
    }

    fn bind(&mut self, var: &Sym, value: &Expr) -> Result<()> {
        let v = self.expr(value)?;
        self.unrolled.remove(var);
        self.vars.insert(var.clone(), v);
        self.depths.insert(var.clone(), self.depth);
        if v.ty == VType::scalar(DType::I64) {
            let range = if let Expr::Index(d) = value { self.range(d) } else { Range::ALL };
            self.ranges.insert(var.clone(), range);
        }
        Ok(())
    }

    /// Registers and stack are arrays in the function's entry.
    fn alloc(&mut self, buffer: &Buffer) -> Result<()> {
        let Buffer { name, dtype, len, scope } = buffer;
        ensure!(
            matches!(scope, Scope::Register | Scope::Stack),
            "buffer {name} is in scope {scope:?}, which a kernel cannot allocate here"
        );
        let len = self.fold(len);
        let size = len.as_const().and_then(|n| n.checked_mul(dtype.size().max(1) as i64));
        let Some(bytes @ 0..) = size else {
            bail!("buffer {name} in scope {scope:?} has length {len}, not a constant");
        };
        ensure!(
            bytes <= self.target.max_stack_bytes,
            "buffer {name} in scope {scope:?} has {bytes} bytes; at most {} fit",
            self.target.max_stack_bytes
        );
        let here = self.b.here()?;
        self.b.builder.position_at_end(self.entry);
        let bytes = self.b.context.i8_type().array_type(bytes as u32);
        let base = self.b.builder.build_alloca(bytes, name.name()).map_err(internal)?;
        if let Some(i) = base.as_instruction_value() {
            i.set_alignment(64).map_err(internal)?;
        }
        self.b.builder.position_at_end(here);
        self.declare(name, Memory { base, dtype: *dtype, writable: true })
    }

    pub fn expr(&mut self, e: &Expr) -> Result<Value<'c>> {
        match e {
            Expr::Const(dtype, value) => self.constant(VType::scalar(*dtype), *value),
            Expr::Index(d) => self.index(d),
            Expr::Ramp { base, stride, lanes } => self.ramp(base, stride, *lanes),
            Expr::Broadcast(e, lanes) => self.broadcast(e, *lanes),
            Expr::Var(var, ty) => self.var(var, *ty),
            Expr::Load { buffer, index, mask } => self.load(buffer, index, mask.as_deref()),
            Expr::Call(f, args) => self.call(*f, args),
            Expr::Cast(to, e) => {
                let v = self.expr(e)?;
                self.convert(v, *to)
            }
            Expr::Horizontal(op, e) => {
                let v = self.expr(e)?;
                self.horizontal(*op, v)
            }
        }
    }

    pub fn constant(&self, ty: VType, value: Scalar) -> Result<Value<'c>> {
        ensure!(ty.dtype != DType::String, "a string has no value in a kernel");
        Ok(Value { raw: self.b.constant(ty, value)?, ty })
    }

    pub fn index(&mut self, d: &Dim) -> Result<Value<'c>> {
        Ok(Value { raw: self.dim(d)?.into(), ty: VType::scalar(DType::I64) })
    }

    fn ramp(&mut self, base: &Dim, stride: &Dim, lanes: u32) -> Result<Value<'c>> {
        check_lanes(lanes)?;
        let base = self.dim(base)?.into();
        let stride = self.dim(stride)?.into();
        let base = self.b.splat(base, lanes)?;
        let stride = self.b.splat(stride, lanes)?;
        let steps = self.b.bin(InstructionOpcode::Mul, self.b.iota(64, lanes), stride)?;
        let raw = self.b.bin(InstructionOpcode::Add, base, steps)?;
        Ok(Value { raw, ty: VType { dtype: DType::I64, lanes } })
    }

    fn broadcast(&mut self, e: &Expr, lanes: u32) -> Result<Value<'c>> {
        check_lanes(lanes)?;
        let v = self.expr(e)?;
        ensure!(v.ty.lanes == 1, "a vector of {} lanes is broadcast", v.ty.lanes);
        Ok(Value { raw: self.b.splat(v.raw, lanes)?, ty: VType { lanes, ..v.ty } })
    }

    fn var(&self, var: &Sym, ty: VType) -> Result<Value<'c>> {
        match self.vars.get(var) {
            Some(v) if v.ty == ty => Ok(*v),
            Some(v) => bail!("variable {var} is {}, but used as {}", name(v.ty), name(ty)),
            None => bail!("variable {var} is not bound"),
        }
    }

    pub fn memory(&self, buffer: &Sym) -> Result<Memory<'c>> {
        let found = self.buffers.get(buffer).copied();
        found.ok_or_else(|| Error::new(format!("buffer {buffer} is not declared")))
    }
}

/// LLVM's vector types have at least one lane; thousands of them take minutes to compile.
fn check_lanes(lanes: u32) -> Result<()> {
    ensure!((1..=1024).contains(&lanes), "a vector has {lanes} lanes; 1 to 1024 can be compiled");
    Ok(())
}

/// A type as the text form writes it.
pub(super) fn name(t: VType) -> String {
    if t.lanes == 1 { t.dtype.to_string() } else { format!("{}x{}", t.dtype, t.lanes) }
}

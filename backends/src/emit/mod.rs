//! From the loop IR to instructions, for every code generator: one exhaustive match over statements, one over
//! expressions.
//!
//! [`build::Build`] is what a code generator provides. Unrolled loops are expanded here, with their variable replaced
//! by numbers in every index; register buffers thus become arrays indexed by constants. What the machine has not is
//! refused here.

pub(crate) mod build;
mod cast;
mod gpu;
mod index;
mod math;
mod memory;
mod phases;
mod products;
mod scalar;

use crate::x86;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Scope, Stmt, VType};
use aic_ir::target::Target;
use aic_ir::{bail, ensure, verify};
use build::{Binary, Build, V};
use memory::{Memory, check_lanes};
use products::Products;
use std::collections::HashMap;

/// Copies of statements that one kernel may be unrolled to.
const MAX_STATEMENTS: usize = 1 << 18;

/// The parameters of the function that a kernel becomes.
pub(crate) struct Params<B: Build> {
    /// In the order of the kernel's.
    pub buffers: Vec<B::Buffer>,
    /// As above; scalar `i64`.
    pub symbols: Vec<V<B>>,
    /// The iterations of a parallel loop.
    pub iterations: (V<B>, V<B>),
}

/// The state of emitting one kernel.
struct Emitter<B: Build> {
    b: B,
    /// Loop variables, symbols and `let`s.
    vars: HashMap<Sym, V<B>>,
    /// Variables of the unrolled loops around.
    unrolled: HashMap<Sym, i64>,
    /// What is known of the integers among `vars`.
    ranges: HashMap<Sym, Range>,
    /// The number of loops around a variable's binding; 0 for what isn't in it.
    depths: HashMap<Sym, usize>,
    depth: usize,
    buffers: HashMap<Sym, Memory<B::Buffer>>,
    /// The loops around that are bound to warps and threads: variable, level, iterations.
    threads: Vec<(Sym, Level, i64)>,
    products: Products<B::Address>,
    statements: usize,
    /// Whether what is emitted is one thread's of a warp.
    is_one: bool,
    /// Whether barriers of phases have begun that not all threads know of.
    has_begun: bool,
}

/// Builds the statements of a kernel; gives the builder back, at the end of them. What the machine hasn't is refused
/// before; a machine of CPUs is any CPU.
pub(crate) fn kernel<B: Build>(b: B, kernel: &Kernel, params: Params<B>, target: &Target) -> Result<B> {
    let lacks = verify::machine(kernel, target);
    let name = if target.is_cpu() { "a CPU" } else { &target.name };
    ensure!(lacks.is_empty(), "{name} lacks what it uses:\n  {}", lacks.join("\n  "));
    let mut e = Emitter {
        b,
        vars: HashMap::new(),
        unrolled: HashMap::new(),
        ranges: HashMap::new(),
        depths: HashMap::new(),
        depth: 0,
        buffers: HashMap::new(),
        threads: Vec::new(),
        products: Products::new(&kernel.body),
        statements: 0,
        is_one: false,
        has_begun: false,
    };
    e.bind_params(kernel, &params)?;
    match &kernel.body[..] {
        [Stmt::For { var, begin, end, kind: LoopKind::Parallel, body }] => {
            let range = Range::new(e.range(begin).lo, e.range(end).hi.saturating_sub(1));
            e.count_loop(var, params.iterations, range, false, |e| e.block(body))?;
        }
        body => e.block(body)?,
    }
    Ok(e.b)
}

impl<B: Build> Emitter<B> {
    fn bind_params(&mut self, kernel: &Kernel, params: &Params<B>) -> Result<()> {
        for (p, buffer) in kernel.params.iter().zip(&params.buffers) {
            let Buffer { name, dtype, scope, .. } = &p.buffer;
            ensure!(
                matches!(scope, Scope::Global | Scope::Workspace),
                "parameter {name} is in scope {scope:?}, but only main memory can be passed"
            );
            self.declare(
                name,
                Memory { buffer: *buffer, dtype: *dtype, writable: p.writable, scope: *scope },
            )?;
        }
        for ((s, range), value) in kernel.symbols.iter().zip(&params.symbols) {
            self.bind_int(s, *value, *range);
        }
        Ok(())
    }

    fn declare(&mut self, name: &Sym, memory: Memory<B::Buffer>) -> Result<()> {
        ensure!(
            memory.dtype != DType::String,
            "buffer {name} is of strings, which have no representation in memory"
        );
        self.buffers.insert(name.clone(), memory);
        Ok(())
    }

    fn bind_int(&mut self, var: &Sym, value: V<B>, range: Range) {
        self.vars.insert(var.clone(), value);
        self.ranges.insert(var.clone(), range);
        self.depths.insert(var.clone(), self.depth);
    }

    fn count_statement(&mut self) -> Result<()> {
        self.statements += 1;
        ensure!(
            self.statements <= MAX_STATEMENTS,
            "unrolling it gives more than {MAX_STATEMENTS} statements"
        );
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt) -> Result<()> {
        self.count_statement()?;
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => self.if_else(cond, then, other),
            Stmt::While { cond, body } => self.while_loop(cond, body),
            Stmt::Let { var, value } => self.bind(var, value),
            Stmt::Store { buffer, index, value, mask } => self.store(buffer, index, value, mask.as_ref()),
            Stmt::Alloc(buffer) => self.alloc(buffer),
            Stmt::Copy(copy) => self.copy_tile(copy),
            Stmt::Barrier(_) => self.barrier(),
            Stmt::Phase(p) => self.phase(p),
            Stmt::Fetch(f) => self.fetch(f),
            Stmt::Commit { token } => self.commit(token),
            Stmt::Wait { token, pending } => self.wait(token, *pending),
            Stmt::Shuffle { var, value, lane } => self.shuffle(var, value, lane),
            Stmt::Mma(m) => self.mma(m),
            Stmt::Call { name, args } if name == "prefetch" => self.prefetch(args),
            Stmt::Call { name, args } if name == "registers" => self.registers(args),
            Stmt::Call { name, .. } => bail!("the target has no intrinsic `{name}`"),
        }
    }

    fn for_loop(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &[Stmt]) -> Result<()> {
        match kind {
            LoopKind::Serial | LoopKind::Parallel => {
                let (b, e) = (self.range(begin), self.range(end));
                let runs = b.hi < e.lo;
                let bounds = (self.dim(begin)?, self.dim(end)?);
                let range = Range::new(b.lo, e.hi.saturating_sub(1));
                self.count_loop(var, bounds, range, runs, |e| e.block(body))
            }
            LoopKind::Unroll => self.unroll(var, begin, end, body),
            LoopKind::Bind(level) => self.bound(var, begin, end, level, body),
            LoopKind::Vector => bail!("the loop of {var} is not vectorised"),
        }
    }

    /// `runs`: whether there surely is an iteration.
    fn count_loop(
        &mut self,
        var: &Sym,
        (first, end): (V<B>, V<B>),
        range: Range,
        runs: bool,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (l, i) = self.b.loop_begin(first, end, runs)?;
        self.depth += 1;
        self.bind_int(var, i, range);
        body(self)?;
        self.depth -= 1;
        self.b.loop_end(l)
    }

    fn unroll(&mut self, var: &Sym, begin: &Dim, end: &Dim, body: &[Stmt]) -> Result<()> {
        let (Some(first), Some(end)) = (self.fold(begin).as_const(), self.fold(end).as_const()) else {
            bail!("loop {var} is to be unrolled, but its bounds {begin}..{end} are not constant");
        };
        for i in first..end {
            self.unrolled.insert(var.clone(), i);
            let value = self.b.i64(i)?;
            self.bind_int(var, value, Range::new(i, i));
            self.block(body)?;
            self.count_statement()?;
        }
        self.unrolled.remove(var);
        Ok(())
    }

    fn if_else(&mut self, cond: &Expr, then: &[Stmt], other: &[Stmt]) -> Result<()> {
        let cond = self.condition(cond)?;
        let mut i = self.b.if_begin(cond)?;
        self.block(then)?;
        self.b.if_else(&mut i)?;
        self.block(other)?;
        self.b.if_end(i)
    }

    fn while_loop(&mut self, cond: &Expr, body: &[Stmt]) -> Result<()> {
        let mut w = self.b.while_begin()?;
        self.depth += 1;
        let cond = self.condition(cond)?;
        self.b.while_do(&mut w, cond)?;
        self.block(body)?;
        self.depth -= 1;
        self.b.while_end(w)
    }

    fn condition(&mut self, e: &Expr) -> Result<V<B>> {
        let v = self.expr(e)?;
        ensure!(v.ty == VType::scalar(DType::Bool), "a condition is {}, not a scalar bool", name(v.ty));
        Ok(v)
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

    fn alloc(&mut self, buffer: &Buffer) -> Result<()> {
        let Buffer { name, dtype, len, scope } = buffer;
        ensure!(
            matches!(scope, Scope::Register | Scope::Stack | Scope::Shared | Scope::Swizzled),
            "buffer {name} is in scope {scope:?}, which a kernel cannot allocate here"
        );
        let len = self.fold(len);
        let size = len.as_const().and_then(|n| n.checked_mul(dtype.size().max(1) as i64));
        let Some(bytes @ 0..) = size else {
            bail!("buffer {name} in scope {scope:?} has length {len}, not a constant");
        };
        ensure!(
            matches!(scope, Scope::Shared | Scope::Swizzled) || bytes <= x86::MAX_STACK_BYTES,
            "buffer {name} in scope {scope:?} has {bytes} bytes; at most {} fit",
            x86::MAX_STACK_BYTES
        );
        let buffer = self.b.alloc(name, *dtype, len.constant() as u32, *scope)?;
        self.declare(name, Memory { buffer, dtype: *dtype, writable: true, scope: *scope })
    }

    fn expr(&mut self, e: &Expr) -> Result<V<B>> {
        match e {
            Expr::Const(DType::String, _) => bail!("a string has no value in a kernel"),
            Expr::Const(dtype, value) => self.b.constant(VType::scalar(*dtype), *value),
            Expr::Index(d) => self.dim(d),
            Expr::Ramp { base, stride, lanes } => self.ramp(base, stride, *lanes),
            Expr::Broadcast(e, lanes) => self.broadcast(e, *lanes),
            Expr::Var(var, ty) => self.var(var, *ty),
            Expr::Load { buffer, index, mask } => self.load(buffer, index, mask.as_deref()),
            Expr::Call(f, args) => self.call(*f, args),
            Expr::Cast(to, e) => {
                let v = self.expr(e)?;
                cast::cast(&mut self.b, v, *to)
            }
            Expr::Horizontal(op, e) => {
                let v = self.expr(e)?;
                self.horizontal(*op, v)
            }
        }
    }

    fn ramp(&mut self, base: &Dim, stride: &Dim, lanes: u32) -> Result<V<B>> {
        check_lanes(lanes)?;
        let (base, stride) = (self.dim(base)?, self.dim(stride)?);
        let (base, stride) = (self.b.splat(base, lanes)?, self.b.splat(stride, lanes)?);
        let iota = self.b.iota(base.ty)?;
        let steps = self.b.mul(iota, stride)?;
        self.b.add(base, steps)
    }

    fn broadcast(&mut self, e: &Expr, lanes: u32) -> Result<V<B>> {
        check_lanes(lanes)?;
        let v = self.expr(e)?;
        ensure!(v.ty.lanes == 1, "a vector of {} lanes is broadcast", v.ty.lanes);
        self.b.splat(v, lanes)
    }

    fn var(&self, var: &Sym, ty: VType) -> Result<V<B>> {
        match self.vars.get(var) {
            Some(v) if v.ty == ty => Ok(*v),
            Some(v) => bail!("variable {var} is {}, but used as {}", name(v.ty), name(ty)),
            None => bail!("variable {var} is not bound"),
        }
    }

    fn horizontal(&mut self, op: ReduceOp, v: V<B>) -> Result<V<B>> {
        if v.ty.lanes == 1 {
            return Ok(v);
        }
        let dtype = v.ty.dtype;
        let number = dtype.is_int() || matches!(dtype, DType::F32 | DType::F64);
        let op = match op {
            ReduceOp::Sum if number => Binary::Add,
            ReduceOp::Prod if number => Binary::Mul,
            ReduceOp::Max if number => Binary::Max,
            ReduceOp::Min if number => Binary::Min,
            ReduceOp::And if dtype == DType::Bool => Binary::And,
            ReduceOp::Or if dtype == DType::Bool => Binary::Or,
            _ => bail!("the lanes of {} cannot be combined by {}", name(v.ty), op.keyword()),
        };
        self.b.horizontal(op, v)
    }
}

/// A type as the text form writes it.
fn name(t: VType) -> String {
    if t.lanes == 1 { t.dtype.to_string() } else { format!("{}x{}", t.dtype, t.lanes) }
}

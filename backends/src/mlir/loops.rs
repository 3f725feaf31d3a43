//! A loop kernel as a function over buffers: `memref`, `scf`, `vector` and `arith`.
//!
//! Statements keep their order and vectors their lanes. Truth values are bytes in memory; scalar loop variables and
//! integers that indices use are of type `index`.

use super::index::Symbols;
use super::memory::Array;
use super::scalar;
use super::text::{Writer, element, quoted, vector};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, LoopKind, Scope, Stmt, VType};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};
use std::collections::HashMap;

/// Writes functions over buffers.
#[derive(Default)]
pub(crate) struct Loops {
    pub w: Writer,
    pub symbols: Symbols,
    pub arrays: HashMap<Sym, Array>,
    vars: HashMap<Sym, (String, VType)>,
}

/// The function of a kernel. Its arguments are the kernel's buffers, then its symbols.
///
/// # Errors
/// The kernel has statements that only an accelerator executes.
pub(crate) fn function(l: &mut Loops, k: &Kernel) -> Result<String> {
    l.w.begin_function();
    l.w.locate(&[k.name.as_str().into()]);
    (l.symbols, l.arrays, l.vars) = (Symbols::default(), HashMap::new(), HashMap::new());
    l.symbols.signed = true;
    let mut args = Vec::new();
    for p in &k.params {
        let Buffer { name, dtype, len, .. } = &p.buffer;
        let array = Array::new(format!("%arg{}", args.len()), *dtype, len);
        let access = if p.writable { "write" } else { "read" };
        let attributes = format!("{{aic.name = {}, aic.access = \"{access}\"}}", quoted(name.name()));
        args.push(format!("{}: {} {attributes}", array.name, array.ty));
        l.arrays.insert(name.clone(), array);
    }
    for (s, _) in &k.symbols {
        let name = format!("%arg{}", args.len());
        args.push(format!("{name}: index {{aic.name = {}}}", quoted(s.name())));
        l.symbols.define(s, name);
    }
    l.block(&k.body, true)?;
    l.w.line("return");
    if let Some(s) = l.w.unknowns().first() {
        bail!("symbol {s} has no value");
    }
    Ok(l.w.end_function(&format!("func.func @{}({})", k.name, args.join(", "))))
}

impl Loops {
    /// Statements with a scope of their own. What they allocate is freed with what is around; unless that `frees`, arrays
    /// of unknown length, which can't be hoisted, have a scope of their own.
    fn block(&mut self, body: &[Stmt], frees: bool) -> Result<()> {
        let is_dynamic = |s: &Stmt| matches!(s, Stmt::Alloc(b) if b.len.as_const().is_none());
        let allocates = !frees && body.iter().any(is_dynamic);
        if allocates {
            self.w.open("memref.alloca_scope {");
        }
        let outer = (self.symbols.clone(), self.arrays.clone(), self.vars.clone());
        let done = body.iter().try_for_each(|s| self.statement(s));
        (self.symbols, self.arrays, self.vars) = outer;
        if allocates {
            self.w.close("}");
        }
        done
    }

    /// One statement.
    pub fn statement(&mut self, s: &Stmt) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, kind, body } => self.counted(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => {
                let cond = self.expr(cond)?;
                self.w.open(&format!("scf.if {cond} {{"));
                self.block(then, false)?;
                if !other.is_empty() {
                    self.w.reopen("} else {");
                    self.block(other, false)?;
                }
                self.w.close("}");
                Ok(())
            }
            Stmt::While { cond, body } => {
                self.w.open("scf.while : () -> () {");
                let cond = self.expr(cond)?;
                self.w.line(&format!("scf.condition({cond})"));
                self.w.reopen("} do {");
                self.block(body, false)?;
                self.w.line("scf.yield");
                self.w.close("}");
                Ok(())
            }
            Stmt::Let { var, value } => {
                let ty = self.ty(value)?;
                let name = self.expr(value)?;
                if ty == VType::scalar(DType::I64) {
                    let index = self.w.value(format!("arith.index_cast {name} : i64 to index"));
                    self.symbols.define(var, index);
                }
                self.vars.insert(var.clone(), (name, ty));
                Ok(())
            }
            Stmt::Store { buffer, index, value, mask } => {
                let array = self.array(buffer)?;
                let (ty, value) = (self.ty(value)?, self.expr(value)?);
                let mask = mask.as_ref().map(|m| self.expr(m)).transpose()?;
                self.store(&array, index, ty, &value, mask.as_deref())
            }
            Stmt::Alloc(b) => {
                let is_private = matches!(b.scope, Scope::Register | Scope::Stack);
                ensure!(is_private, "buffer {} lies in memory that only an accelerator has", b.name);
                let mut array = Array::new(String::new(), b.dtype, &b.len);
                array.name = match b.len.as_const() {
                    Some(_) => self.w.hoisted(&format!("memref.alloca() : {}", array.ty)),
                    None => {
                        let size = self.symbols.index(&mut self.w, &b.len);
                        self.w.effect(format!("memref.alloca({size}) : {}", array.ty))
                    }
                };
                self.arrays.insert(b.name.clone(), array);
                Ok(())
            }
            Stmt::Copy(c) if c.token.is_none() => self.copy(c),
            // A hint.
            Stmt::Call { name, .. } if name == "prefetch" => Ok(()),
            Stmt::Call { name, .. } => bail!("the intrinsic `{name}` has no form in MLIR"),
            Stmt::Copy(_) | Stmt::Commit { .. } | Stmt::Wait { .. } => {
                bail!("asynchronous copies have no form in MLIR")
            }
            Stmt::Barrier(_) | Stmt::Shuffle { .. } | Stmt::Phase(_) | Stmt::Fetch(_) => {
                bail!("threads of a block have no form in MLIR")
            }
            Stmt::Mma(mma) => bail!("the matrix instruction `{}` has no form in MLIR", mma.intrinsic),
        }
    }

    fn counted(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &[Stmt]) -> Result<()> {
        let (from, to) = (self.symbols.index(&mut self.w, begin), self.symbols.index(&mut self.w, end));
        let (step, i) = (self.w.index(1), self.w.fresh());
        let is_parallel = kind == LoopKind::Parallel;
        match kind {
            LoopKind::Parallel => {
                self.w.open(&format!("scf.parallel ({i}) = ({from}) to ({to}) step ({step}) {{"));
            }
            LoopKind::Serial | LoopKind::Unroll => {
                self.w.open(&format!("scf.for {i} = {from} to {to} step {step} {{"));
            }
            LoopKind::Vector | LoopKind::Bind(_) => {
                bail!("loop {var} is bound to hardware that MLIR's loops don't name")
            }
        }
        let outer = self.symbols.clone();
        self.symbols.define(var, i);
        if is_parallel {
            let hoist = self.w.hoist_here();
            self.block(body, true)?;
            self.w.hoist_back(hoist);
        } else {
            self.block(body, false)?;
        }
        self.symbols = outer;
        self.w.close(if kind == LoopKind::Unroll { "} {aic.unroll}" } else { "}" });
        Ok(())
    }

    /// The type of an expression.
    pub fn ty(&self, e: &Expr) -> Result<VType> {
        match e.ty(&|b| self.arrays.get(b).map(|a| a.dtype)) {
            Some(ty) => Ok(ty),
            None => bail!("an expression is ill typed"),
        }
    }

    /// The buffer of this name.
    pub fn array(&self, name: &Sym) -> Result<Array> {
        match self.arrays.get(name) {
            Some(array) => Ok(array.clone()),
            None => bail!("there is no buffer {name}"),
        }
    }

    /// The value of an expression.
    pub fn expr(&mut self, e: &Expr) -> Result<String> {
        Ok(match e {
            Expr::Const(dtype, value) => self.w.scalar(VType::scalar(*dtype), *value),
            Expr::Index(d) => match d.as_const() {
                Some(n) => self.w.scalar(VType::scalar(DType::I64), Scalar::I(n)),
                None => {
                    let index = self.symbols.index(&mut self.w, d);
                    self.w.value(format!("arith.index_cast {index} : index to i64"))
                }
            },
            Expr::Ramp { base, stride, lanes } => self.ramp(base, stride, *lanes)?,
            Expr::Broadcast(x, lanes) => {
                let (ty, x) = (self.ty(x)?, self.expr(x)?);
                self.broadcast(&x, VType { lanes: *lanes, ..ty })
            }
            Expr::Var(var, _) => match self.vars.get(var) {
                Some((name, _)) => name.clone(),
                None => self.expr(&Expr::Index(Dim::sym(var)))?,
            },
            Expr::Load { buffer, index, mask } => {
                let array = self.array(buffer)?;
                let mask = mask.as_ref().map(|m| self.expr(m)).transpose()?;
                self.load(&array, index, mask.as_deref())?
            }
            Expr::Call(f, x) => {
                let of = if *f == ScalarFn::Select { 1 } else { 0 };
                let ty = self.ty(&x[of])?;
                let x: Vec<String> = x.iter().map(|e| self.expr(e)).collect::<Result<_>>()?;
                scalar::call(&mut self.w, *f, ty, &x)
            }
            Expr::Cast(to, x) => {
                let (from, x) = (self.ty(x)?, self.expr(x)?);
                scalar::cast(&mut self.w, from, *to, &x)
            }
            Expr::Horizontal(op, x) => {
                let (ty, x) = (self.ty(x)?, self.expr(x)?);
                self.horizontal(*op, ty, &x)
            }
        })
    }

    /// A scalar in every lane.
    pub fn broadcast(&mut self, x: &str, ty: VType) -> String {
        match ty.lanes {
            1 => x.to_owned(),
            _ => self.w.value(format!("vector.broadcast {x} : {} to {}", element(ty.dtype), vector(ty))),
        }
    }

    fn ramp(&mut self, base: &Dim, stride: &Dim, lanes: u32) -> Result<String> {
        let ty = VType { dtype: DType::I64, lanes };
        let base = self.expr(&Expr::Index(base.clone()))?;
        if lanes == 1 {
            return Ok(base);
        }
        let steps: Vec<String> = (0..lanes).map(|k| k.to_string()).collect();
        let steps = format!("arith.constant dense<[{}]> : {}", steps.join(", "), vector(ty));
        let (mut steps, base) = (self.w.constant(steps), self.broadcast(&base, ty));
        if !stride.is(1) {
            let stride = self.expr(&Expr::Index(stride.clone()))?;
            let stride = self.broadcast(&stride, ty);
            steps = scalar::call(&mut self.w, ScalarFn::Mul, ty, &[steps, stride]);
        }
        Ok(scalar::call(&mut self.w, ScalarFn::Add, ty, &[base, steps]))
    }

    /// All lanes combined, the halves first.
    fn horizontal(&mut self, op: ReduceOp, ty: VType, x: &str) -> String {
        let f = op.combine().unwrap_or(ScalarFn::Add);
        let of = vector(ty);
        let mut lanes: Vec<String> = match ty.lanes {
            1 => vec![x.to_owned()],
            n => {
                let lane =
                    |k| self.w.value(format!("vector.extract {x}[{k}] : {} from {of}", element(ty.dtype)));
                (0..n).map(lane).collect()
            }
        };
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len().div_ceil(2));
            for (a, b) in lanes.iter_mut().zip(upper) {
                *a = scalar::call(&mut self.w, f, VType::scalar(ty.dtype), &[a.clone(), b]);
            }
        }
        lanes.swap_remove(0)
    }
}

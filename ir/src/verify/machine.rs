//! Verifies that a machine has what a kernel uses.

mod tiles;

use crate::bounds::Bounds;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Scope, Stmt};
use crate::scalar::ScalarFn;
use crate::target::Target;
use std::collections::BTreeMap;

/// Checks a kernel, which [`kernel`](super::kernel) accepts, against what a target has; gives a message for every
/// violation of this contract:
///
/// - *Memories.* Buffers are in memories of the target. Those that live at the same time fit, each rounded up to the
///   memory's alignment. Loads and stores are from and to memories that expressions can address.
/// - *Loops.* A loop is bound to a level of the target, and has no more iterations than that takes, where their number
///   is bounded; the threads of a block, and their registers, are not more than its limit. A loop over warps is around
///   one over the threads of a warp. No vector loop is left.
/// - *Vectors.* Vectors are computed with in types that the target computes with.
/// - *Functions.* Those of `f64` that are left to a C library are called only where there is one.
/// - *Barriers and shuffles.* They are about memory that the target has, and among threads of a warp.
/// - *Copies.* An asynchronous copy, and one that expressions couldn't make, is one of the target's: of its sizes,
///   conversions, and with rows or blocks that begin at multiples of its alignment.
/// - *Boxes.* A box has rows of 128 bytes, one after the other in swizzled memory, and no more than the target takes; the
///   array that it is of begins, as does each of its rows, at a multiple of 16 bytes.
/// - *Matrix instructions.* They are in the target's table, with the extents, element types, memories and blocks that
///   it gives. They are executed by as many threads as it says, and belong to a group exactly if they are asynchronous.
pub fn machine(k: &Kernel, target: &Target) -> Vec<String> {
    let mut c = Checker {
        target,
        found: Vec::new(),
        buffers: Vec::new(),
        bounds: Bounds::new(),
        loops: Vec::new(),
        place: None,
    };
    c.kernel(k);
    c.found
}

/// Functions of `f64` that are left to a C library, for huge operands at least.
fn of_library(f: ScalarFn) -> bool {
    use ScalarFn::*;
    let is_circular = matches!(f, Sin | Cos | Tan | Asin | Acos | Atan);
    is_circular || matches!(f, Sinh | Cosh | Asinh | Acosh | Atanh | Erf | Pow | Rem | Mod)
}

struct Checker<'a> {
    target: &'a Target,
    found: Vec<String>,
    /// Buffers in scope.
    buffers: Vec<Buffer>,
    bounds: Bounds,
    /// The loops around that are bound to hardware: their level, and iterations if that is known.
    loops: Vec<(Level, Option<i64>)>,
    /// The statement being checked, for messages.
    place: Option<&'a Stmt>,
}

impl<'a> Checker<'a> {
    fn fail(&mut self, message: impl std::fmt::Display) {
        let message = match self.place {
            None => message.to_string(),
            Some(s) => format!("`{}`: {message}", super::kernel::summary(s)),
        };
        if !self.found.contains(&message) {
            self.found.push(message);
        }
    }

    fn check(&mut self, holds: bool, message: impl std::fmt::Display) -> bool {
        if !holds {
            self.fail(message);
        }
        holds
    }

    fn kernel(&mut self, k: &'a Kernel) {
        for (s, range) in &k.symbols {
            self.bounds.symbol(s, *range);
        }
        for p in &k.params {
            self.declare(&p.buffer);
        }
        self.block(&k.body);
        let limit = self.target.limits.buffers;
        let mut n = 0u32;
        super::kernel::visit(&k.body, &mut |s| {
            let takes = |scope| !matches!(scope, Scope::Stack | Scope::Register | Scope::Workspace);
            n += u32::from(matches!(s, Stmt::Alloc(b) if takes(b.scope)));
        });
        self.place = None;
        self.check(limit == 0 || n <= limit, format_args!("it has {n} buffers; {limit} can be had"));
    }

    fn block(&mut self, stmts: &'a [Stmt]) {
        let (n_buffers, mark) = (self.buffers.len(), self.bounds.mark());
        for s in stmts {
            self.stmt(s);
        }
        self.buffers.truncate(n_buffers);
        self.bounds.reset(mark);
    }

    fn stmt(&mut self, s: &'a Stmt) {
        self.place = Some(s);
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => {
                self.expr(cond);
                self.block(then);
                self.block(other);
            }
            Stmt::While { cond, body } => {
                self.expr(cond);
                self.block(body);
            }
            Stmt::Let { value, .. } => self.expr(value),
            Stmt::Store { buffer, index, value, mask } => {
                self.address(buffer);
                [Some(index), Some(value), mask.as_ref()].into_iter().flatten().for_each(|e| self.expr(e));
            }
            Stmt::Alloc(b) => self.alloc(b),
            Stmt::Barrier(scope) => {
                let is_there = self.target.space(*scope).is_some() && *scope == Scope::Shared;
                let name = &self.target.name;
                self.check(is_there, format_args!("{name} has no barriers for {scope} memory"));
            }
            Stmt::Copy(c) => self.copy(c),
            Stmt::Commit { .. } | Stmt::Wait { .. } => {
                let has_groups = self.target.moves.iter().any(|m| m.is_async)
                    || self.target.matrix.iter().any(|m| m.is_async);
                let name = &self.target.name;
                self.check(has_groups, format_args!("{name} has no asynchronous copies"));
            }
            Stmt::Phase(_) => {
                let is_there = self.target.moves.iter().any(|m| m.to == Scope::Swizzled);
                let name = &self.target.name;
                self.check(is_there, format_args!("{name} has no barriers of phases"));
            }
            Stmt::Fetch(f) => self.fetch(f),
            Stmt::Mma(m) => self.mma(m),
            Stmt::Shuffle { value, .. } => {
                self.expr(value);
                let name = &self.target.name;
                self.check(self.target.limits.warp > 0, format_args!("{name} has no warps"));
            }
            // Intrinsics are the backends' matter.
            Stmt::Call { .. } => {}
        }
    }

    fn for_loop(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &'a [Stmt]) {
        let extent = end.clone() - begin.clone();
        match kind {
            LoopKind::Vector => self.fail("the loop is not vectorised"),
            LoopKind::Parallel | LoopKind::Bind(_) => self.parallel(kind, &extent),
            LoopKind::Serial | LoopKind::Unroll => {}
        }
        let mark = self.bounds.mark();
        self.bounds.loop_var(var, begin, end);
        let n_loops = self.loops.len();
        if let LoopKind::Bind(level) = kind {
            self.loops.push((level, extent.as_const()));
        }
        if matches!(kind, LoopKind::Bind(Level::Warp | Level::Thread(_))) {
            self.threads();
        }
        self.block(body);
        self.loops.truncate(n_loops);
        self.bounds.reset(mark);
    }

    fn parallel(&mut self, kind: LoopKind, extent: &Dim) {
        let name = &self.target.name;
        let Some(level) = self.target.level(kind) else {
            let kind = match kind {
                LoopKind::Bind(level) => level.to_string(),
                _ => "parallel".into(),
            };
            return self.fail(format_args!("{name} has no {kind} loops"));
        };
        let Some(most) = level.extent.and_then(|n| i64::try_from(n).ok()) else { return };
        let found = self.bounds.range(extent).hi;
        if found == i64::MAX {
            return; // Who launches it knows its symbols.
        }
        self.check(found <= most, format_args!("{name} takes {most} iterations, not {}", shown(found)));
    }

    /// Threads of the loops around.
    fn threads(&mut self) {
        let of = |is_thread: &dyn Fn(Level) -> bool| -> Option<i64> {
            self.loops.iter().filter(|(l, _)| is_thread(*l)).try_fold(1i64, |n, (_, e)| n.checked_mul((*e)?))
        };
        let is_thread = |l| matches!(l, Level::Thread(_));
        let (warps, threads) = (of(&|l| l == Level::Warp), of(&is_thread));
        let (Some(warps), Some(threads)) = (warps, threads) else {
            return self.fail("the number of threads is not constant");
        };
        let (total, limits) = (warps.saturating_mul(threads), self.target.limits);
        let limit = i64::from(limits.threads);
        let name = &self.target.name;
        self.check(
            limit == 0 || total <= limit,
            format_args!("{name} takes {limit} threads per block, not {total}"),
        );
        let has_warps = self.loops.iter().any(|(l, _)| *l == Level::Warp);
        let warp = i64::from(limits.warp);
        let is_inner = self.loops.last().is_some_and(|(l, _)| is_thread(*l));
        if has_warps && is_inner && warp > 0 {
            self.check(threads == warp, format_args!("a warp has {warp} threads, not {threads}"));
        }
    }

    /// How many threads execute what is here; 1 where there are no threads.
    fn n_threads(&self) -> i64 {
        let threads = self.loops.iter().filter(|(l, _)| matches!(l, Level::Warp | Level::Thread(_)));
        threads.fold(1i64, |n, (_, e)| n.saturating_mul(e.unwrap_or(1).max(1)))
    }

    fn declare(&mut self, b: &Buffer) {
        let name = &self.target.name;
        if self.target.space(b.scope).is_none() {
            self.fail(format_args!("{}: {name} has no {} memory", b.name, b.scope));
        }
        self.buffers.push(b.clone());
    }

    /// The least number of bytes that a buffer surely fits in.
    fn bytes(&self, b: &Buffer) -> i64 {
        let len = self.bounds.range(&b.len).hi;
        let alignment = self.target.space(b.scope).map_or(1, |s| i64::from(s.alignment)).max(1);
        let bytes = len.saturating_mul(b.dtype.size().max(1) as i64);
        if bytes > i64::MAX - alignment { i64::MAX } else { (bytes + alignment - 1) / alignment * alignment }
    }

    fn alloc(&mut self, b: &Buffer) {
        self.declare(b);
        let Some(space) = self.target.space(b.scope) else { return };
        let name = &self.target.name;
        if matches!(b.scope, Scope::Register | Scope::Stack) && b.len.as_const().is_none() {
            return self.fail(format_args!("{} has length {}, not a constant", b.name, b.len));
        }
        let Some(most) = space.bytes.and_then(|n| i64::try_from(n).ok()) else { return };
        let mut live: BTreeMap<&str, i64> = BTreeMap::new();
        for other in self.buffers.iter().filter(|o| o.scope == b.scope) {
            live.insert(other.name.name(), self.bytes(other));
        }
        let total = live.values().fold(0i64, |a, b| a.saturating_add(*b));
        let scope = b.scope;
        let each: Vec<String> = live.iter().map(|(name, n)| format!("{name} {}", shown(*n))).collect();
        let fits = self.check(
            total <= most,
            format_args!(
                "{name} has {most} bytes of {scope} memory, not {} ({})",
                shown(total),
                each.join(", ")
            ),
        );
        let registers = i64::from(self.target.limits.registers);
        if b.scope == Scope::Register && registers > 0 && fits {
            let threads = self.n_threads();
            let found = threads.saturating_mul(total / 4);
            self.check(
                found <= registers,
                format_args!("{name} has {registers} registers per block, not {found} for {threads} threads"),
            );
        }
    }

    fn buffer(&self, name: &Sym) -> Option<&Buffer> {
        self.buffers.iter().rev().find(|b| b.name == *name)
    }

    fn is_addressable(&self, scope: Scope) -> bool {
        self.target.space(scope).is_none_or(|s| s.is_addressable)
    }

    /// Whether expressions may load from or store to a buffer.
    fn address(&mut self, name: &Sym) {
        let Some(scope) = self.buffer(name).map(|b| b.scope) else { return };
        let target = &self.target.name;
        self.check(
            self.is_addressable(scope),
            format_args!("{name}: the {scope} memory of {target} is for copies and matrix instructions"),
        );
    }

    fn expr(&mut self, e: &Expr) {
        match e {
            Expr::Load { buffer, index, mask } => {
                self.address(buffer);
                self.expr(index);
                mask.iter().for_each(|m| self.expr(m));
            }
            Expr::Call(f, args) => {
                for a in args {
                    self.expr(a);
                    let ty = a.ty(&|name| self.buffer(name).map(|b| b.dtype));
                    if ty.is_some_and(|t| t.dtype == DType::F64) && !self.target.has_library {
                        let name = &self.target.name;
                        let is_there = !of_library(*f);
                        self.check(is_there, format_args!("{name} has no `{}` of f64", f.keyword()));
                    }
                    let is_moved = *f == ScalarFn::Select;
                    if let Some(ty) = ty.filter(|t| t.lanes > 1 && t.dtype != DType::Bool && !is_moved) {
                        let name = &self.target.name;
                        let computes = self.target.dtypes.contains(&ty.dtype);
                        self.check(
                            computes,
                            format_args!("{name} does not compute with vectors of {}", ty.dtype),
                        );
                    }
                }
            }
            Expr::Broadcast(e, _) | Expr::Cast(_, e) | Expr::Horizontal(_, e) => self.expr(e),
            Expr::Const(..) | Expr::Index(_) | Expr::Ramp { .. } | Expr::Var(..) => {}
        }
    }
}

/// A number for a message, where the largest one stands for any.
fn shown(n: i64) -> String {
    if n == i64::MAX { "any number".into() } else { n.to_string() }
}

//! Verifies kernels, whatever machine they are for.

mod expr;
mod phases;
mod threads;
mod tiles;

use super::index::Values;
use crate::bounds::Mark;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Scope, Stmt, VType};
use std::collections::HashMap;
use threads::Spread;

/// Checks a kernel; gives a message for every violation of this contract:
///
/// - *Names.* The kernel's name is a C identifier (or empty, before it is given one). Symbols, parameters, loop
///   variables, `let` variables and buffers have names that nothing else in scope has. What is used is in scope.
/// - *Types.* Every expression is well typed and constants are values of their types; vectors have a lane or more.
///   Indices are `i64`, masks `bool`, with a lane for each lane accessed; stored values have the buffer's type;
///   conditions are scalar `bool`s. Index expressions mention integers only: loop variables, symbols and scalar `i64`
///   variables. 16-bit floats are moved (loaded, stored, selected, broadcast, bound) and cast, never computed with.
/// - *Loops.* A parallel loop is all of the kernel's body and starts at 0. Unrolled and vector loops have a constant
///   number of iterations. A GPU's axes are 0, 1 and 2.
/// - *Buffers.* Parameters are global or workspace memory, buffers allocated within the kernel aren't global.
///   Parameters that aren't writable are not written. Buffers in registers have a constant length and are indexed by
///   constants, given the variables of unrolled and vector loops.
/// - *Bounds.* Every access without a mask is proved to lie within its buffer, from the ranges of variables, the
///   conditions around it and clamps by minimum and maximum; those of copies and matrix instructions too. Arguments
///   of intrinsics are addresses at most and are not accessed.
/// - *Tiles.* Copies write no fewer rows and columns than they read. A fragment is in registers and is an operand of
///   its instruction. What is asynchronous belongs to groups that are closed and waited for somewhere.
/// - *Phases.* A barrier of phases is an element of an array of `u64` in shared memory. The array that a box is copied of lies
///   within its buffer.
/// - *Threads.* Barriers are about memory that threads share. All threads of a block come to a barrier, all of a warp to
///   what a warp does together: no condition or extent of a loop around differs between them.
///
/// What a machine must have for it is [`machine`](super::machine)'s matter.
pub fn kernel(k: &Kernel) -> Vec<String> {
    let mut c = Checker::default();
    c.kernel(k);
    c.found
}

/// What a name in scope stands for.
#[derive(Clone)]
enum Entity {
    /// A symbol or a loop variable; `true` if it is a constant once loops are unrolled.
    Int(bool),
    Let(VType),
    Array {
        dtype: DType,
        len: Dim,
        scope: Scope,
        writable: bool,
    },
}

#[derive(Default)]
struct Checker {
    found: Vec<String>,
    names: Vec<(Sym, Entity)>,
    values: Values,
    /// How far what names stand for differs between threads, and how far control flow does here.
    spreads: HashMap<Sym, Spread>,
    spread: Spread,
    /// The statement being checked, for messages.
    place: String,
}

type Ty = Option<VType>;

impl Checker {
    fn fail(&mut self, message: impl std::fmt::Display) {
        let place = &self.place;
        self.found.push(if place.is_empty() { message.to_string() } else { format!("`{place}`: {message}") });
    }

    fn check(&mut self, holds: bool, message: impl std::fmt::Display) -> bool {
        if !holds {
            self.fail(message);
        }
        holds
    }

    fn get(&self, name: &Sym) -> Option<&Entity> {
        self.names.iter().rev().find(|(s, _)| s == name).map(|(_, e)| e)
    }

    fn declare(&mut self, name: &Sym, entity: Entity) {
        if self.get(name).is_some() {
            self.fail(format_args!("the name {name} is taken"));
        }
        self.values.forget(name);
        self.names.push((name.clone(), entity));
    }

    /// The scope now; [`Checker::leave`] returns to it.
    fn enter(&self) -> (usize, Mark) {
        (self.names.len(), self.values.bounds.mark())
    }

    fn leave(&mut self, to: (usize, Mark)) {
        self.names.truncate(to.0);
        self.values.bounds.reset(to.1);
    }

    fn kernel(&mut self, k: &Kernel) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_identifier = !k.name.starts_with(|c: char| c.is_ascii_digit()) && k.name.chars().all(is_plain);
        self.check(is_identifier, format_args!("the name {:?} is no C identifier", k.name));
        for (s, range) in &k.symbols {
            self.check(range.lo <= range.hi, format_args!("symbol {s} has the empty range {range:?}"));
            self.declare(s, Entity::Int(false));
            self.values.bounds.symbol(s, *range);
        }
        for p in &k.params {
            let b = &p.buffer;
            self.place = format!("{}: {}[{}] {}", b.name, b.dtype, b.len, b.scope);
            let scope_fits = matches!(b.scope, Scope::Global | Scope::Workspace);
            self.check(scope_fits, "a parameter is global or workspace memory");
            self.buffer(b, p.writable);
        }
        self.place.clear();
        let n_parallel = count(&k.body, &|s| matches!(s, Stmt::For { kind: LoopKind::Parallel, .. }));
        if n_parallel > 0 {
            let is_all =
                matches!(&k.body[..], [Stmt::For { kind: LoopKind::Parallel, begin, .. }] if begin.is(0));
            self.check(is_all && n_parallel == 1, "a parallel loop must be the whole body and start at 0");
        }
        self.tokens(&k.body);
        self.block(&k.body);
    }

    /// Declares a buffer.
    fn buffer(&mut self, b: &Buffer, writable: bool) {
        self.check(b.dtype != DType::String, "a buffer cannot hold strings");
        let len = self.dim(&b.len);
        let entity = Entity::Array { dtype: b.dtype, len, scope: b.scope, writable };
        self.declare(&b.name, entity);
    }

    fn block(&mut self, stmts: &[Stmt]) {
        let scope = self.enter();
        for s in stmts {
            self.stmt(s);
        }
        self.leave(scope);
    }

    fn stmt(&mut self, s: &Stmt) {
        self.place = summary(s);
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => {
                self.condition(cond);
                for (branch, truth) in [(then, true), (other, false)] {
                    let scope = self.enter();
                    self.values.assume(cond, truth);
                    self.parted(self.spread_of(cond), |c| c.block(branch));
                    self.leave(scope);
                }
            }
            Stmt::While { cond, body } => {
                self.condition(cond);
                self.parted(self.spread_of(cond), |c| c.block(body));
            }
            Stmt::Let { var, value } => {
                let ty = self.expr(value);
                self.variable(var, ty, self.spread_of(value));
                if let Some(ty) = ty {
                    self.values.bind(var, ty, value);
                }
            }
            Stmt::Shuffle { var, value, lane } => {
                let ty = self.expr(value);
                self.dim(lane);
                self.together(false);
                self.variable(var, ty, Spread::Threads);
            }
            Stmt::Store { buffer, index, value, mask } => {
                let (at, value) = (self.expr(index), self.expr(value));
                let mask_ty = mask.as_ref().map(|m| self.expr(m));
                if let Some((dtype, true)) = self.array(buffer, true) {
                    self.mask(at, mask_ty);
                    if let (Some(at), Some(value)) = (at, value) {
                        let expected = VType { dtype, lanes: at.lanes };
                        self.check(
                            value == expected,
                            format_args!("expected a value {expected}, found {value}"),
                        );
                    }
                    self.access(buffer, index, mask.is_some());
                }
            }
            Stmt::Alloc(b) => {
                self.check(b.scope != Scope::Global, "global memory is not allocated by a kernel");
                let is_constant = b.len.as_const().is_some() || b.scope != Scope::Register;
                self.check(is_constant, "a buffer in registers has a constant length");
                self.buffer(b, true);
            }
            Stmt::Barrier(scope) => {
                let is_private = matches!(scope, Scope::Register | Scope::Stack);
                self.check(!is_private, "threads do not share this memory");
                self.together(true);
            }
            Stmt::Copy(c) => self.copy(c),
            Stmt::Commit { .. } | Stmt::Wait { .. } => {}
            Stmt::Phase(p) => self.phase(p),
            Stmt::Fetch(f) => self.fetch(f),
            Stmt::Mma(m) => self.mma(m),
            Stmt::Call { args, .. } => {
                // Addresses, whose bounds don't matter.
                for a in args {
                    let operand = if let Expr::Load { index, .. } = a { index } else { a };
                    self.expr(operand);
                }
            }
        }
    }

    fn for_loop(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &[Stmt]) {
        let extent = self.spread_of_dim(begin).max(self.spread_of_dim(end));
        let spread = self.spread_of_loop(kind, begin, end);
        let (begin, end) = (self.dim(begin), self.dim(end));
        let is_unrolled = matches!(kind, LoopKind::Unroll | LoopKind::Vector);
        if is_unrolled {
            let is_constant = (end.clone() - begin.clone()).as_const().is_some();
            self.check(is_constant, "an unrolled loop has a constant number of iterations");
        }
        if let LoopKind::Bind(Level::Block(axis) | Level::Thread(axis)) = kind {
            self.check(axis < 3, "there are three axes: 0, 1 and 2");
        }
        let scope = self.enter();
        self.declare(var, Entity::Int(is_unrolled && self.is_unrolled_constant(&begin)));
        self.spread_out(var, spread);
        self.values.bounds.loop_var(var, &begin, &end);
        self.parted(extent, |c| c.block(body));
        self.leave(scope);
    }

    /// Declares a variable bound to a value; of an ill-typed one something else was said.
    fn variable(&mut self, var: &Sym, ty: Ty, spread: Spread) {
        self.declare(var, Entity::Let(ty.unwrap_or(VType::scalar(DType::Bool))));
        self.spread_out(var, spread);
    }

    /// An index expression in terms of loop variables, symbols and data.
    fn dim(&mut self, d: &Dim) -> Dim {
        for s in d.symbols() {
            let is_int = match self.get(&s) {
                Some(Entity::Int(_)) => true,
                Some(Entity::Let(ty)) => *ty == VType::scalar(DType::I64),
                _ => false,
            };
            self.check(is_int, format_args!("{s} is no integer in scope"));
        }
        self.values.resolve(d)
    }

    fn is_unrolled_constant(&self, d: &Dim) -> bool {
        d.symbols().iter().all(|s| Values::is_lane(s) || matches!(self.get(s), Some(Entity::Int(true))))
    }

    /// The type of a buffer that is accessed, and whether it may be.
    fn array(&mut self, name: &Sym, is_write: bool) -> Option<(DType, bool)> {
        let Some(Entity::Array { dtype, writable, .. }) = self.get(name) else {
            self.fail(format_args!("there is no buffer {name} in scope"));
            return None;
        };
        let (dtype, writable) = (*dtype, *writable);
        Some((dtype, self.check(writable || !is_write, format_args!("{name} is not writable"))))
    }
}

/// The statement's first line.
pub(super) fn summary(s: &Stmt) -> String {
    let header = match s {
        Stmt::For { var, begin, end, kind, .. } => Stmt::For {
            var: var.clone(),
            begin: begin.clone(),
            end: end.clone(),
            kind: *kind,
            body: Vec::new(),
        },
        Stmt::If { cond, .. } => Stmt::If { cond: cond.clone(), then: Vec::new(), other: Vec::new() },
        Stmt::While { cond, .. } => Stmt::While { cond: cond.clone(), body: Vec::new() },
        other => other.clone(),
    };
    let text = header.to_string();
    text.lines().next().unwrap_or_default().trim_end_matches(" {").to_string()
}

pub(super) fn visit(stmts: &[Stmt], f: &mut dyn FnMut(&Stmt)) {
    for s in stmts {
        f(s);
        match s {
            Stmt::For { body, .. } | Stmt::While { body, .. } => visit(body, f),
            Stmt::If { then, other, .. } => {
                visit(then, f);
                visit(other, f);
            }
            _ => {}
        }
    }
}

fn count(stmts: &[Stmt], fits: &dyn Fn(&Stmt) -> bool) -> usize {
    let mut n = 0;
    visit(stmts, &mut |s| n += usize::from(fits(s)));
    n
}

#[cfg(test)]
mod tests;

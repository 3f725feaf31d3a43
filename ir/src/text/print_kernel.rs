//! Prints kernels.
//!
//! An index expression is infix, everything else is a call, so that `i+1` and `add(i, 1)` are told apart; an index
//! expression that starts with a function stands in parentheses. A scalar `i64` variable that is used as a value and
//! not in an index is printed as `var(t)`.

use super::lex::Name;
use super::print_graph::element;
use crate::dim::{Dim, Range, Sym};
use crate::dtype::DType;
use crate::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Scope, Stmt, VType};
use crate::scalar::Scalar;
use crate::tensor::write_scalar;
use std::fmt::{Display, Formatter, Result, Write};

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "kernel @{}(", Name(&self.name, '"'))?;
        for (k, p) in self.params.iter().enumerate() {
            write!(f, "{}{} ", if k == 0 { "" } else { ", " }, if p.writable { "out" } else { "in" })?;
            buffer(f, &p.buffer)?;
        }
        for (k, (s, range)) in self.symbols.iter().enumerate() {
            write!(f, "{}{s}", if k == 0 { "; " } else { ", " })?;
            match (range.lo, range.hi) {
                _ if *range == Range::ALL => {}
                (i64::MIN, hi) => write!(f, ": ..={hi}")?,
                (lo, i64::MAX) => write!(f, ": {lo}..")?,
                (lo, hi) => write!(f, ": {lo}..={hi}")?,
            }
        }
        f.write_str(") {\n")?;
        let mut printer = Printer { buffers: Vec::new() };
        printer.buffers.extend(self.params.iter().map(|p| (p.buffer.name.clone(), p.buffer.dtype)));
        printer.block(f, &self.body, 1)?;
        f.write_str("}\n")
    }
}

/// With nested statements; types of variables that need those of buffers are left out.
impl Display for Stmt {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Printer { buffers: Vec::new() }.stmt(f, self, 0)
    }
}

impl Display for VType {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.lanes {
            1 => write!(f, "{}", self.dtype),
            n => write!(f, "{}x{n}", self.dtype),
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expr::Const(dtype, x) => constant(f, *dtype, *x),
            Expr::Index(d) => index(f, d),
            Expr::Ramp { base, stride, lanes } => write!(f, "ramp({base}, {stride}, {lanes})"),
            Expr::Broadcast(e, lanes) => write!(f, "broadcast({e}, {lanes})"),
            Expr::Var(name, ty) if *ty == VType::scalar(DType::I64) => write!(f, "var({name})"),
            Expr::Var(name, _) => write!(f, "{name}"),
            Expr::Load { buffer, index, mask: None } => write!(f, "{buffer}[{index}]"),
            Expr::Load { buffer, index, mask: Some(mask) } => write!(f, "{buffer}[{index} if {mask}]"),
            Expr::Call(function, args) => {
                write!(f, "{}(", function.keyword())?;
                list(f, args)?;
                f.write_char(')')
            }
            Expr::Cast(dtype, e) => write!(f, "cast({dtype}, {e})"),
            Expr::Horizontal(op, e) => write!(f, "reduce({}, {e})", op.keyword()),
        }
    }
}

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.keyword())
    }
}

impl Scope {
    /// Every scope.
    pub const ALL: &[Scope] = &[
        Scope::Global,
        Scope::Register,
        Scope::Stack,
        Scope::Shared,
        Scope::Swizzled,
        Scope::L1,
        Scope::Ub,
        Scope::L0A,
        Scope::L0B,
        Scope::L0C,
        Scope::Workspace,
    ];

    /// Its name in the text form.
    pub fn keyword(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Register => "register",
            Scope::Stack => "stack",
            Scope::Shared => "shared",
            Scope::Swizzled => "swizzled",
            Scope::L1 => "l1",
            Scope::Ub => "ub",
            Scope::L0A => "l0a",
            Scope::L0B => "l0b",
            Scope::L0C => "l0c",
            Scope::Workspace => "workspace",
        }
    }
}

/// A constant of an element type: `f32(1.0)`, `bool(true)`.
pub(super) fn constant(f: &mut Formatter<'_>, dtype: DType, x: Scalar) -> Result {
    let mut bytes = Vec::new();
    write_scalar(dtype, x, &mut bytes);
    write!(f, "{dtype}(")?;
    element(f, dtype, x, &bytes)?;
    f.write_char(')')
}

/// An index expression where a call may stand too.
pub(super) fn index(f: &mut Formatter<'_>, d: &Dim) -> Result {
    let text = d.to_string();
    let is_call = ["floordiv(", "mod(", "min(", "max("].iter().any(|name| text.starts_with(name));
    if is_call { write!(f, "({text})") } else { f.write_str(&text) }
}

pub(super) fn list(f: &mut Formatter<'_>, items: &[impl Display]) -> Result {
    for (k, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if k == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// `a: f32[4*n] shared`
fn buffer(f: &mut Formatter<'_>, b: &Buffer) -> Result {
    write!(f, "{}: {}[{}]", b.name, b.dtype, b.len)?;
    if b.scope == Scope::Global { Ok(()) } else { write!(f, " {}", b.scope) }
}

struct Printer {
    /// The buffers in scope, whose types give those of variables.
    buffers: Vec<(Sym, DType)>,
}

impl Printer {
    fn block(&mut self, f: &mut Formatter<'_>, stmts: &[Stmt], depth: usize) -> Result {
        let n_buffers = self.buffers.len();
        for s in stmts {
            write!(f, "{:1$}", "", 2 * depth)?;
            self.stmt(f, s, depth)?;
            f.write_char('\n')?;
        }
        self.buffers.truncate(n_buffers);
        Ok(())
    }

    /// `{ .. }`, without the line's end.
    fn braces(&mut self, f: &mut Formatter<'_>, stmts: &[Stmt], depth: usize) -> Result {
        f.write_str(" {\n")?;
        self.block(f, stmts, depth + 1)?;
        write!(f, "{:1$}}}", "", 2 * depth)
    }

    fn stmt(&mut self, f: &mut Formatter<'_>, s: &Stmt, depth: usize) -> Result {
        match s {
            Stmt::For { var, begin, end, kind, body } => {
                loop_kind(f, *kind)?;
                write!(f, "for {var} in {begin}..{end}")?;
                self.braces(f, body, depth)
            }
            Stmt::If { cond, then, other } => {
                write!(f, "if {cond}")?;
                self.braces(f, then, depth)?;
                if other.is_empty() {
                    return Ok(());
                }
                f.write_str(" else")?;
                self.braces(f, other, depth)
            }
            Stmt::While { cond, body } => {
                write!(f, "while {cond}")?;
                self.braces(f, body, depth)
            }
            Stmt::Let { var, value } => {
                f.write_str("let ")?;
                self.typed(f, var, value)?;
                write!(f, "{value}")
            }
            Stmt::Store { buffer, index, value, mask: None } => write!(f, "{buffer}[{index}] = {value}"),
            Stmt::Store { buffer, index, value, mask: Some(mask) } => {
                write!(f, "{buffer}[{index} if {mask}] = {value}")
            }
            Stmt::Alloc(b) => {
                self.buffers.push((b.name.clone(), b.dtype));
                f.write_str("alloc ")?;
                buffer(f, b)
            }
            Stmt::Barrier(scope) => write!(f, "barrier {scope}"),
            Stmt::Copy(c) => write!(f, "{c}"),
            Stmt::Commit { token } => write!(f, "commit {token}"),
            Stmt::Wait { token, pending } => write!(f, "wait {token} pending {pending}"),
            Stmt::Phase(p) => write!(f, "{p}"),
            Stmt::Fetch(c) => write!(f, "{c}"),
            Stmt::Mma(m) => write!(f, "{m}"),
            Stmt::Shuffle { var, value, lane } => {
                f.write_str("let ")?;
                self.typed(f, var, value)?;
                write!(f, "shuffle({value}, {lane})")
            }
            Stmt::Call { name, args } => {
                write!(f, "call @{}(", Name(name, '"'))?;
                list(f, args)?;
                f.write_char(')')
            }
        }
    }

    /// `x: f32x4 = `, without the type where that isn't known.
    fn typed(&self, f: &mut Formatter<'_>, var: &Sym, value: &Expr) -> Result {
        let dtype = |name: &Sym| self.buffers.iter().rev().find(|(b, _)| b == name).map(|(_, t)| *t);
        match value.ty(&dtype) {
            Some(ty) => write!(f, "{var}: {ty} = "),
            None => write!(f, "{var} = "),
        }
    }
}

fn loop_kind(f: &mut Formatter<'_>, kind: LoopKind) -> Result {
    match kind {
        LoopKind::Serial => Ok(()),
        LoopKind::Parallel => f.write_str("parallel "),
        LoopKind::Unroll => f.write_str("unroll "),
        LoopKind::Vector => f.write_str("vector "),
        LoopKind::Bind(level) => write!(f, "{level} "),
    }
}

/// `bind(thread, 0)`
impl Display for Level {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Level::Block(axis) => write!(f, "bind(block, {axis})"),
            Level::Warp => f.write_str("bind(warp)"),
            Level::Thread(axis) => write!(f, "bind(thread, {axis})"),
            Level::Core => f.write_str("bind(core)"),
            Level::VectorCore => f.write_str("bind(vector_core)"),
        }
    }
}

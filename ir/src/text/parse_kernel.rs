//! Reads kernels.
//!
//! ```text
//! kernel @rows(in a: f32[16*n], out c: f32[n]; n: 1..=512) {
//!   parallel for i in 0..n {
//!     alloc acc: f32[4] register
//!     acc[ramp(0, 1, 4)] = broadcast(f32(0.0), 4)
//!     for j in 0..4 {
//!       let x: f32x4 = a[ramp(16*i+4*j, 1, 4)]
//!       acc[ramp(0, 1, 4)] = add(acc[ramp(0, 1, 4)], x)
//!     }
//!     c[i] = reduce(sum, acc[ramp(0, 1, 4)])
//!   }
//! }
//! ```
//!
//! A mask stands behind the index: `a[ramp(i, 1, 4) if m]`. Index expressions are infix (`4*i+1`), everything else is
//! a call of a scalar function or one of `ramp broadcast cast reduce var` or an element type (a constant).

use super::lex::Token;
use super::parser::Parser;
use super::{phase, tile};
use crate::compute::ReduceOp;
use crate::dim::{Range, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Param, Scope, Stmt, VType};
use crate::scalar::ScalarFn;
use crate::tensor::read_scalar;

/// Reads a kernel.
pub fn parse_kernel(src: &str) -> Result<Kernel> {
    let mut p = Parser::new(src)?;
    let k = kernel(&mut p)?;
    p.expect_end()?;
    Ok(k)
}

/// The names in scope: element types of buffers, types of variables bound by `let`.
#[derive(Default)]
pub(super) struct Names {
    buffers: Vec<(Sym, DType)>,
    variables: Vec<(Sym, VType)>,
}

impl Names {
    fn buffer(&self, name: &Sym) -> Option<DType> {
        self.buffers.iter().rev().find(|(b, _)| b == name).map(|(_, t)| *t)
    }

    fn variable(&self, name: &Sym) -> Option<VType> {
        self.variables.iter().rev().find(|(v, _)| v == name).map(|(_, t)| *t)
    }
}

fn kernel(p: &mut Parser<'_>) -> Result<Kernel> {
    p.expect_word("kernel")?;
    let name = p.global("the kernel's name, such as @main")?;
    let mut names = Names::default();
    p.expect("(")?;
    let mut params = Vec::new();
    while p.is_word("in") || p.is_word("out") {
        let writable = p.is_word("out");
        p.skip();
        let buffer = buffer(p)?;
        names.buffers.push((buffer.name.clone(), buffer.dtype));
        params.push(Param { buffer, writable });
        if !p.eat(",") {
            break;
        }
    }
    let symbols = match p.eat(";") {
        true => p.list(")", symbol)?,
        false => {
            p.expect(")")?;
            Vec::new()
        }
    };
    let body = block(p, &mut names)?;
    Ok(Kernel { name, params, symbols, body })
}

/// `n`, `n: 1..`, `n: ..=8`, `n: 1..=8`
fn symbol(p: &mut Parser<'_>) -> Result<(Sym, Range)> {
    let s = p.sym("a symbol")?;
    let mut range = Range::ALL;
    if p.eat(":") {
        if !p.is("..=") {
            range.lo = p.number()?;
        }
        if p.eat("..=") {
            range.hi = p.number()?;
        } else {
            p.expect("..")?;
        }
    }
    Ok((s, range))
}

/// `a: f32[4*n] shared`
fn buffer(p: &mut Parser<'_>) -> Result<Buffer> {
    let name = p.sym("a buffer's name")?;
    p.expect(":")?;
    let dtype = p.dtype()?;
    p.expect("[")?;
    let len = p.dim()?;
    p.expect("]")?;
    // A statement that starts with the name of a scope is told apart by the bracket behind it.
    let scope = match p.peek() {
        Token::Word(w) if !p.is_at(1, "[") => Scope::ALL.iter().copied().find(|s| s.keyword() == *w),
        _ => None,
    };
    if scope.is_some() {
        p.skip();
    }
    Ok(Buffer { name, dtype, len, scope: scope.unwrap_or(Scope::Global) })
}

fn scope(p: &mut Parser<'_>) -> Result<Scope> {
    let found = match p.peek() {
        Token::Word(w) => Scope::ALL.iter().copied().find(|s| s.keyword() == *w),
        _ => None,
    };
    let Some(scope) = found else { return Err(p.expected("a memory scope")) };
    p.skip();
    Ok(scope)
}

fn block(p: &mut Parser<'_>, names: &mut Names) -> Result<Vec<Stmt>> {
    p.expect("{")?;
    let (n_buffers, n_variables) = (names.buffers.len(), names.variables.len());
    let mut stmts = Vec::new();
    while !p.eat("}") {
        stmts.push(p.nested(|p| stmt(p, names))?);
    }
    names.buffers.truncate(n_buffers);
    names.variables.truncate(n_variables);
    Ok(stmts)
}

fn stmt(p: &mut Parser<'_>, names: &mut Names) -> Result<Stmt> {
    if p.is_at(1, "[") {
        return store(p, names);
    }
    let Token::Word(word) = *p.peek() else { return Err(p.expected("a statement or `}`")) };
    let start = p.offset();
    p.skip();
    match word {
        "for" => loop_of(p, names, LoopKind::Serial),
        "parallel" | "unroll" | "vector" | "bind" => {
            let kind = match word {
                "parallel" => LoopKind::Parallel,
                "unroll" => LoopKind::Unroll,
                "vector" => LoopKind::Vector,
                _ => LoopKind::Bind(level(p)?),
            };
            p.expect_word("for")?;
            loop_of(p, names, kind)
        }
        "if" => {
            let cond = expr(p, names)?;
            let then = block(p, names)?;
            let other = if p.is_word("else") && p.is_at(1, "{") {
                p.skip();
                block(p, names)?
            } else {
                Vec::new()
            };
            Ok(Stmt::If { cond, then, other })
        }
        "while" => {
            let cond = expr(p, names)?;
            Ok(Stmt::While { cond, body: block(p, names)? })
        }
        "let" => binding(p, names),
        "alloc" => {
            let buffer = buffer(p)?;
            names.buffers.push((buffer.name.clone(), buffer.dtype));
            Ok(Stmt::Alloc(buffer))
        }
        "barrier" => scope(p).map(Stmt::Barrier),
        "copy" => tile::copy(p).map(Stmt::Copy),
        "commit" => Ok(Stmt::Commit { token: p.sym("a group of copies")? }),
        "wait" => {
            let token = p.sym("a group of copies")?;
            p.expect_word("pending")?;
            Ok(Stmt::Wait { token, pending: p.integer("a number of copies")? })
        }
        "begin" | "arrive" | "await" => phase::phase(p, word).map(Stmt::Phase),
        "fetch" => phase::fetch(p).map(Stmt::Fetch),
        "mma" => tile::mma(p, names).map(Stmt::Mma),
        "call" => {
            let name = p.global("an intrinsic's name, such as @prefetch")?;
            p.expect("(")?;
            Ok(Stmt::Call { name, args: p.list(")", |p| expr(p, names))? })
        }
        _ => Err(p.error_at(start, format_args!("expected a statement or `}}`, found {word}"))),
    }
}

fn loop_of(p: &mut Parser<'_>, names: &mut Names, kind: LoopKind) -> Result<Stmt> {
    let var = p.sym("a loop variable")?;
    p.expect_word("in")?;
    let begin = p.dim()?;
    p.expect("..")?;
    let end = p.dim()?;
    Ok(Stmt::For { var, begin, end, kind, body: block(p, names)? })
}

/// `(block, 0)`, `(warp)`, `(thread, 2)`, `(core)`
fn level(p: &mut Parser<'_>) -> Result<Level> {
    p.expect("(")?;
    let start = p.offset();
    let name = p.name("a level of the hardware")?;
    let axis = |p: &mut Parser<'_>| {
        p.expect(",")?;
        p.integer("an axis")
    };
    let level = match name.as_str() {
        "block" => Level::Block(axis(p)?),
        "warp" => Level::Warp,
        "thread" => Level::Thread(axis(p)?),
        "core" => Level::Core,
        "vector_core" => Level::VectorCore,
        _ => {
            return Err(p.error_at(
                start,
                format_args!("expected one of block, warp, thread, core and vector_core, found {name}"),
            ));
        }
    };
    p.expect(")")?;
    Ok(level)
}

/// `let x: f32x4 = value`, `let x = shuffle(value, lane)`; the type may be left out.
fn binding(p: &mut Parser<'_>, names: &mut Names) -> Result<Stmt> {
    let var = p.sym("a variable")?;
    let start = p.offset();
    let declared = if p.eat(":") { Some(vtype(p)?) } else { None };
    p.expect("=")?;
    let is_shuffle = p.is_word("shuffle") && p.is_at(1, "(");
    if is_shuffle {
        p.skip();
        p.skip();
    }
    let value = expr(p, names)?;
    let lane = match is_shuffle {
        true => {
            p.expect(",")?;
            let lane = p.dim()?;
            p.expect(")")?;
            Some(lane)
        }
        false => None,
    };
    let found = value.ty(&|b| names.buffer(b));
    let ty = match (declared, found) {
        (Some(ty), Some(found)) if ty != found => {
            return Err(
                p.error_at(start, format_args!("{var} is declared as {ty}, but its value is {found}"))
            );
        }
        (_, Some(ty)) => ty,
        (_, None) => return Err(p.error_at(start, format_args!("the value of {var} is ill typed"))),
    };
    names.variables.push((var.clone(), ty));
    Ok(match lane {
        Some(lane) => Stmt::Shuffle { var, value, lane },
        None => Stmt::Let { var, value },
    })
}

/// `f32`, `f32x16`
fn vtype(p: &mut Parser<'_>) -> Result<VType> {
    let Token::Word(w) = *p.peek() else { return Err(p.expected("a type such as f32x16")) };
    let (dtype, lanes) = match w.split_once('x') {
        Some((dtype, lanes)) => (dtype, lanes.parse().ok()),
        None => (w, Some(1)),
    };
    match (DType::from_keyword(dtype), lanes) {
        (Some(dtype), Some(lanes)) => {
            p.skip();
            Ok(VType { dtype, lanes })
        }
        _ => Err(p.expected("a type such as f32x16")),
    }
}

/// `c[index] = value`, `c[index if mask] = value`
fn store(p: &mut Parser<'_>, names: &Names) -> Result<Stmt> {
    let buffer = p.sym("a buffer's name")?;
    p.expect("[")?;
    let (index, mask) = index_and_mask(p, names)?;
    p.expect("=")?;
    Ok(Stmt::Store { buffer, index, value: expr(p, names)?, mask })
}

/// The rest of `[index]` or `[index if mask]`.
fn index_and_mask(p: &mut Parser<'_>, names: &Names) -> Result<(Expr, Option<Expr>)> {
    let index = expr(p, names)?;
    let mask = if p.eat_word("if") { Some(expr(p, names)?) } else { None };
    p.expect("]")?;
    Ok((index, mask))
}

pub(super) fn expr(p: &mut Parser<'_>, names: &Names) -> Result<Expr> {
    match p.peek() {
        Token::Word(_) | Token::Quoted(_) if p.is_at(1, "[") => {
            let buffer = p.sym("a buffer's name")?;
            p.skip();
            let (index, mask) = p.nested(|p| index_and_mask(p, names))?;
            Ok(Expr::Load { buffer, index: index.into(), mask: mask.map(Box::new) })
        }
        Token::Word(w) if p.is_at(1, "(") && *w != "floordiv" => {
            let word = *w;
            p.nested(|p| call(p, names, word))
        }
        Token::Word(w) if names.variable(&Sym::new(w)).is_some_and(|t| t != VType::scalar(DType::I64)) => {
            variable(p, names)
        }
        Token::Quoted(s) if names.variable(&Sym::new(s)).is_some_and(|t| t != VType::scalar(DType::I64)) => {
            variable(p, names)
        }
        _ => p.dim().map(Expr::Index),
    }
}

fn variable(p: &mut Parser<'_>, names: &Names) -> Result<Expr> {
    let start = p.offset();
    let name = p.sym("a variable")?;
    match names.variable(&name) {
        Some(ty) => Ok(Expr::Var(name, ty)),
        None => Err(p.error_at(start, format_args!("there is no variable {name} here"))),
    }
}

/// What stands before and within parentheses.
fn call(p: &mut Parser<'_>, names: &Names, word: &str) -> Result<Expr> {
    let start = p.offset();
    p.skip();
    p.skip();
    let e = match word {
        "ramp" => {
            let base = p.dim()?;
            p.expect(",")?;
            let stride = p.dim()?;
            p.expect(",")?;
            Expr::Ramp { base, stride, lanes: p.integer("a number of lanes")? }
        }
        "broadcast" => {
            let e = expr(p, names)?;
            p.expect(",")?;
            Expr::Broadcast(e.into(), p.integer("a number of lanes")?)
        }
        "var" => variable(p, names)?,
        "cast" => {
            let dtype = p.dtype()?;
            p.expect(",")?;
            Expr::Cast(dtype, expr(p, names)?.into())
        }
        "reduce" => {
            let found = match p.peek() {
                Token::Word(w) => ReduceOp::from_keyword(w),
                _ => None,
            };
            let Some(op) = found else { return Err(p.expected("a reduction such as sum")) };
            p.skip();
            p.expect(",")?;
            Expr::Horizontal(op, expr(p, names)?.into())
        }
        _ => {
            if let Some(dtype) = DType::from_keyword(word).filter(|t| *t != DType::String) {
                let mut bytes = Vec::new();
                p.literal(dtype, &mut bytes)?;
                p.expect(")")?;
                return Ok(Expr::Const(dtype, read_scalar(dtype, &bytes)));
            }
            let Some(f) = ScalarFn::from_keyword(word) else {
                return Err(p.error_at(start, format_args!("there is no function {word}")));
            };
            return Ok(Expr::Call(f, p.list(")", |p| expr(p, names))?));
        }
    };
    p.expect(")")?;
    Ok(e)
}

#[cfg(test)]
mod tests;

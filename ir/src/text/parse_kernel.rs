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
use crate::compute::ReduceOp;
use crate::dim::{Dim, Range, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::{Buffer, Copy, Expr, Kernel, Level, LoopKind, Mma, Param, Scope, Stmt, VType};
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
struct Names {
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
        "copy" => copy(p).map(Stmt::Copy),
        "wait" => {
            let token = p.sym("a group of copies")?;
            p.expect_word("pending")?;
            Ok(Stmt::Wait { token, pending: p.integer("a number of copies")? })
        }
        "mma" => mma(p).map(Stmt::Mma),
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
        _ => {
            return Err(p.error_at(
                start,
                format_args!("expected one of block, warp, thread and core, found {name}"),
            ));
        }
    };
    p.expect(")")?;
    Ok(level)
}

/// `let x: f32x4 = value`, whose type may be left out.
fn binding(p: &mut Parser<'_>, names: &mut Names) -> Result<Stmt> {
    let var = p.sym("a variable")?;
    let start = p.offset();
    let declared = if p.eat(":") { Some(vtype(p)?) } else { None };
    p.expect("=")?;
    let value = expr(p, names)?;
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
    Ok(Stmt::Let { var, value })
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

/// `copy d[0] from s[4*i] len 16 rows 4 strides 16, 64 async t`
fn copy(p: &mut Parser<'_>) -> Result<Copy> {
    let place = |p: &mut Parser<'_>| -> Result<(Sym, Dim)> {
        let buffer = p.sym("a buffer's name")?;
        p.expect("[")?;
        let first = p.dim()?;
        p.expect("]")?;
        Ok((buffer, first))
    };
    let dst = place(p)?;
    p.expect_word("from")?;
    let src = place(p)?;
    p.expect_word("len")?;
    let len = p.dim()?;
    let mut rows = (Dim::from(1), Dim::from(0), Dim::from(0));
    if p.is_word("rows") && !p.is_at(1, "[") {
        p.skip();
        rows.0 = p.dim()?;
        p.expect_word("strides")?;
        rows.1 = p.dim()?;
        p.expect(",")?;
        rows.2 = p.dim()?;
    }
    let mut token = None;
    if p.is_word("async") && !p.is_at(1, "[") {
        p.skip();
        token = Some(p.sym("a group of copies")?);
    }
    Ok(Copy { dst, src, len, rows, token })
}

/// `mma @f32 [16, 8, 16] c[0, 8] += a[0, 16] * b[0, 8]`
fn mma(p: &mut Parser<'_>) -> Result<Mma> {
    let intrinsic = p.global("an intrinsic's name, such as @m16n8k16")?;
    p.expect("[")?;
    let start = p.offset();
    let extents = p.list("]", |p| p.integer("an extent"))?;
    let Ok(tile) = <[u32; 3]>::try_from(extents) else {
        return Err(p.error_at(start, "expected three extents"));
    };
    let operand = |p: &mut Parser<'_>| -> Result<(Sym, Dim, Dim)> {
        let buffer = p.sym("a buffer's name")?;
        p.expect("[")?;
        let first = p.dim()?;
        p.expect(",")?;
        let step = p.dim()?;
        p.expect("]")?;
        Ok((buffer, first, step))
    };
    let c = operand(p)?;
    p.expect("+=")?;
    let a = operand(p)?;
    p.expect("*")?;
    let b = operand(p)?;
    Ok(Mma { intrinsic, tile, c, a, b })
}

fn expr(p: &mut Parser<'_>, names: &Names) -> Result<Expr> {
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
mod tests {
    use super::*;

    /// Every statement and expression, as printed.
    const EVERYTHING: &str = r#"kernel @"all of it"(in x: f32[4*n], in 'a b': bf16[n], out y: f32[n] workspace; n: 1..=512, m: 2.., k, l: ..=-3) {
  parallel for i in 0..floordiv(n+15,16) {
    alloc acc: f32[32] register
    let t0: i64 = min(i, (max(0,i-3)))
    let t1: f32 = x[t0+mod(i,4)]
    let t2: boolx16 = lt(ramp(16*i, 1, 16), broadcast(n, 16))
    let t3: f32x16 = x[ramp(16*i, 1, 16) if t2]
    let t4: i64 = add(var(t0), 4*t0)
    let t5: f32x16 = broadcast(t1, 16)
    unroll for j in 0..2 {
      acc[ramp(16*j, 1, 16)] = fma(t3, t5, broadcast(f32(1e-10), 16))
    }
    y[ramp(16*i, -1, 16) if t2] = cast(f32, 'a b'[ramp(0, 0, 16)])
    vector for v in -n+1..m {
      if eq(v, 3) {
        y[0] = f32(nan)
      } else {
        y[1] = f32(nan(0xffc00001))
      }
      if isnan(f32(-inf)) {
      }
    }
    while and(bool(true), not(bool(false))) {
      y[0] = reduce(max, t3)
    }
  }
  bind(block, 1) for b in 0..4 {
    bind(core) for c in 0..4 {
      alloc rows: f32[64] shared
      bind(warp) for w in 0..4 {
        bind(thread, 0) for t in 0..32 {
          copy rows[4*t] from x[t] len 4 rows 2 strides 32, 16 async g
          copy rows[0] from x[0] len n
          wait g pending 1
          barrier shared
          rows[0] = cast(f32, u64(18446744073709551615))
          mma @m16n8k16 [16, 8, 16] rows[0, 8] += rows[b, 16] * rows[c, 8]
          call @prefetch(x[4*i], i64(-9223372036854775808))
        }
      }
    }
  }
}
"#;

    #[test]
    fn everything_reads_back() {
        let k = parse_kernel(EVERYTHING).unwrap_or_else(|e| panic!("{e}"));
        let printed = k.to_string();
        assert_eq!(printed, EVERYTHING);
        // NaN constants are equal by their bits.
        assert_eq!(parse_kernel(&printed), Ok(k));
    }

    #[test]
    fn calls_and_index_expressions_differ() {
        let src = |e: &str| format!("kernel @k(out y: i64[9]; i) {{ y[0] = {e} }}");
        let value = |e: &str| match parse_kernel(&src(e)).unwrap().body.pop() {
            Some(Stmt::Store { value, .. }) => value,
            other => panic!("{other:?}"),
        };
        let (i, two) = (Dim::named("i"), Dim::from(2));
        assert_eq!(value("(min(i,2))"), Expr::Index(i.minimum(&two)));
        assert_eq!(value("min(i, 2)"), Expr::call(ScalarFn::Min, [Expr::Index(i.clone()), Expr::Index(two)]));
        assert_eq!(value("-min(i,2)+i*i"), Expr::Index(-i.minimum(&2.into()) + i.clone() * i));
    }

    #[test]
    fn errors_have_places() {
        let cases = [
            ("kernel main", "1:8: expected the kernel's name, such as @main, found main"),
            ("kernel @k() { x[0] = }", "1:22: expected an index expression, found `}`"),
            ("kernel @k() { let x = y[0] }", "1:21: the value of x is ill typed"),
            ("kernel @k() {\n  let x: f32 = i64(1)\n}", "2:8: x is declared as f32, but its value is i64"),
            ("kernel @k() { y[0] = sine(0.0) }", "1:22: there is no function sine"),
            ("kernel @k() { goto 3 }", "1:15: expected a statement or `}`, found goto"),
            ("kernel @k() { y[0] = i8(128) }", "1:25: 128 is not a value of type i8"),
            (
                "kernel @k() { alloc y: f32[2] registers }",
                "1:31: expected a statement or `}`, found registers",
            ),
        ];
        for (src, message) in cases {
            match parse_kernel(src) {
                Ok(_) => assert_eq!("", message, "{src}"),
                Err(e) => assert_eq!(e.message, message, "{src}"),
            }
        }
        let deep = format!("kernel @k() {}", "{ while b ".repeat(100_000));
        assert!(parse_kernel(&deep).is_err());
        let deep = format!("kernel @k() {{ y[0] = {}", "neg(".repeat(100_000));
        assert!(parse_kernel(&deep).unwrap_err().message.contains("nested more than"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(edits in proptest::collection::vec((0usize..2000, ".{0,3}"), 1..4)) {
            let mut text = EVERYTHING.to_string();
            for (at, insert) in edits {
                let at = at % text.len();
                if text.is_char_boundary(at) {
                    let end = text.char_indices().find(|(k, _)| *k > at).map_or(text.len(), |c| c.0);
                    text.replace_range(at..end, &insert);
                }
                if let Ok(k) = parse_kernel(&text) {
                    let printed = k.to_string();
                    assert_eq!(parse_kernel(&printed), Ok(k));
                }
            }
        }
    }
}

//! Short names for the operators that are no element expressions and build their loops themselves.

use crate::dim::{Dim, Range, Sym};
use crate::dtype::DType;
use crate::kernel::{Buffer, Expr, Kernel, LoopKind, Param, Scope, Stmt, VType};
use crate::scalar::ScalarFn;
use crate::types::Type;
use std::collections::BTreeSet;

/// A kernel over operands `x0, x1, ..` and results `y0, y1, ..`.
pub(crate) fn kernel(x: &[Type], y: &[Type], body: Vec<Stmt>) -> Kernel {
    let params = |prefix: &'static str, types: &[Type], writable: bool| -> Vec<Param> {
        let param = |(k, t): (usize, &Type)| Param {
            buffer: Buffer {
                name: Sym::new(&format!("{prefix}{k}")),
                dtype: t.dtype,
                len: t.numel(),
                scope: Scope::Global,
            },
            writable,
        };
        types.iter().enumerate().map(param).collect()
    };
    let symbols: BTreeSet<Sym> = x.iter().chain(y).flat_map(|t| &t.dims).flat_map(Dim::symbols).collect();
    Kernel {
        name: String::new(),
        params: [params("x", x, false), params("y", y, true)].concat(),
        symbols: symbols.into_iter().map(|s| (s, Range::DIM)).collect(),
        body,
    }
}

/// `let name = value`, and the variable.
pub(crate) fn bind(body: &mut Vec<Stmt>, name: &str, value: Expr, dtype: DType) -> Expr {
    let var = Sym::new(name);
    body.push(Stmt::Let { var: var.clone(), value });
    Expr::Var(var, VType::scalar(dtype))
}

/// An element of a buffer.
pub(crate) fn load(buffer: &str, at: Dim) -> Expr {
    Expr::load(&Sym::new(buffer), at)
}

/// A store of a scalar.
pub(crate) fn store(buffer: &str, at: Dim, value: Expr) -> Stmt {
    Stmt::store(&Sym::new(buffer), Expr::Index(at), value)
}

/// A buffer of one register.
pub(crate) fn register(name: &str, dtype: DType) -> Stmt {
    Stmt::Alloc(Buffer { name: Sym::new(name), dtype, len: 1.into(), scope: Scope::Register })
}

/// Serial loops over variables and their extents, the first outermost.
pub(crate) fn serial(loops: &[(Sym, Dim)], body: Vec<Stmt>) -> Vec<Stmt> {
    loops.iter().rev().fold(body, |body, (v, n)| vec![Stmt::serial(v, n.clone(), body)])
}

/// The outermost loop, which threads share.
pub(crate) fn parallel(var: &Sym, n: Dim, body: Vec<Stmt>) -> Stmt {
    Stmt::loop_of(var, n, LoopKind::Parallel, body)
}

/// A scalar function applied in the type in which it is computed, and rounded back.
pub(crate) fn apply(f: ScalarFn, dtype: DType, args: Vec<Expr>) -> Expr {
    let work = dtype.compute();
    if work == dtype {
        return Expr::Call(f, args);
    }
    let wide = args.into_iter().map(|a| Expr::Cast(work, a.into())).collect();
    Expr::Cast(dtype, Expr::Call(f, wide).into())
}

/// An index that is data, at `at` of buffer `x1`, brought into `0..n`: negative ones count from the back, others are
/// clamped. Binds a variable `name` and gives it as an index expression.
pub(crate) fn wrapped_index(body: &mut Vec<Stmt>, name: &str, dtype: DType, at: Dim, n: &Dim) -> Dim {
    let raw = load("x1", at);
    let raw = if dtype == DType::I64 { raw } else { Expr::Cast(DType::I64, raw.into()) };
    let raw = bind(body, &format!("{name}_raw"), raw, DType::I64);
    let negative = Expr::call(ScalarFn::Lt, [raw.clone(), Expr::int(0)]);
    let moved = Expr::call(ScalarFn::Add, [raw.clone(), Expr::Index(n.clone())]);
    let wrapped = Expr::call(ScalarFn::Select, [negative, moved, raw]);
    let last = Expr::Index(n.clone() - 1.into());
    let high = Expr::call(ScalarFn::Min, [wrapped, last]);
    bind(body, name, Expr::call(ScalarFn::Max, [high, Expr::int(0)]), DType::I64);
    Dim::named(name)
}

/// The statements, executed only if the first of each pair of extents is at most the second. Pairs of which that is
/// plain are left out: only symbols may turn out to be wrong when the kernel runs.
pub(crate) fn if_at_most(pairs: &[(Dim, Dim)], body: Vec<Stmt>) -> Vec<Stmt> {
    let is_plain = |a: &Dim, b: &Dim| (b.clone() - a.clone()).as_const().is_some_and(|d| d >= 0);
    let conds = pairs.iter().filter(|(a, b)| !is_plain(a, b));
    let conds =
        conds.map(|(a, b)| Expr::call(ScalarFn::Le, [Expr::Index(a.clone()), Expr::Index(b.clone())]));
    match conds.reduce(|a, b| Expr::call(ScalarFn::And, [a, b])) {
        Some(cond) => vec![Stmt::If { cond, then: body, other: Vec::new() }],
        None => body,
    }
}

/// Copies operand 0 to result 0, then runs `updates`.
pub(crate) fn copy_then(x: &Type, updates: Vec<Stmt>) -> Vec<Stmt> {
    let e = Sym::new("e");
    let mut body =
        vec![Stmt::serial(&e, x.numel(), vec![store("y0", Dim::sym(&e), load("x0", Dim::sym(&e)))])];
    body.extend(updates);
    body
}

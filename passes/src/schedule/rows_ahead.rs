//! Rows that are read several times, by one phase after the other: while a row is computed with, the next is asked for,
//! so that the memory works all the time and not only during the phase that comes first.

use super::slide::prefetch_near;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, Stmt};

/// Adds to the loops of the last phase that reads rows by the number of the parallel loop's iteration, with each vector
/// of a row, the request for that of the next iteration's row.
pub(super) fn ask(phases: &mut [Vec<Stmt>], is_input: &dyn Fn(&Sym) -> bool) {
    for phase in phases.iter_mut().rev() {
        if ask_in(phase, false, is_input) {
            return;
        }
    }
}

/// Adds requests to the bodies of loops among the statements; whether there are any.
fn ask_in(statements: &mut Vec<Stmt>, in_loop: bool, is_input: &dyn Fn(&Sym) -> bool) -> bool {
    let mut rows = Vec::new();
    let mut found = false;
    for s in statements.iter_mut() {
        match s {
            Stmt::For { body, .. } => found |= ask_in(body, true, is_input),
            Stmt::Let { value, .. } | Stmt::Store { value, .. } if in_loop => vectors(value, &mut rows),
            _ => {}
        }
    }
    rows.retain(|(buffer, at)| is_input(buffer) && at.mentions(&iteration()));
    let is_first = |k: usize| !rows[..k].contains(&rows[k]);
    for (buffer, at) in (0..rows.len()).filter(|k| is_first(*k)).map(|k| &rows[k]) {
        let next = at.subst(&|s| (*s == iteration()).then(|| Dim::sym(s) + 1.into()));
        statements.push(prefetch_near(buffer, next));
    }
    found || !rows.is_empty()
}

/// Where the expression loads contiguous vectors from.
fn vectors(e: &Expr, found: &mut Vec<(Sym, Dim)>) {
    match e {
        Expr::Load { buffer, index, mask: None } => match index.as_ramp() {
            Some((base, stride, lanes)) if stride.is(1) && lanes > 1 => found.push((buffer.clone(), base)),
            _ => {}
        },
        Expr::Call(_, args) => args.iter().for_each(|e| vectors(e, found)),
        Expr::Cast(_, e) | Expr::Horizontal(_, e) | Expr::Broadcast(e, _) => vectors(e, found),
        _ => {}
    }
}

fn iteration() -> Sym {
    Sym::new("p")
}

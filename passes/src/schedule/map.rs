//! Nests without reduction: vectors along the innermost axis, threads over the others.

pub mod gpu;

use super::emit::{Emitter, lane};
use super::nest::Nest;
use super::{Frame, store};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::Stmt;
use aic_ir::schedule::Schedule;
use std::collections::HashMap;

/// Elements that one iteration of the parallel loop covers where the nest has a single axis.
const CHUNK: i64 = 16 << 10;

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some((inner, outer)) = nest.axes.split_last() else {
        return element(nest, HashMap::new(), 1, None, frame);
    };
    let (v, outer, across) = match outer.split_last() {
        Some((last, others)) if frame.is_stage() && is_transposed(nest, last, inner) => {
            (Sym::new("v"), others, Some(last))
        }
        _ => (Sym::new("v"), outer, None),
    };
    let lanes = i64::from(s.lanes);
    let blocks = match (outer.is_empty(), inner.extent.as_const()) {
        (true, Some(n)) if n <= CHUNK => Dim::from(1),
        _ if frame.is_stage() => Dim::from(1),
        (true, _) => inner.extent.ceil_div(&CHUNK.into()),
        (false, _) => Dim::from(1),
    };
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(blocks.clone());
    let index = frame.index(&extents);
    let mut axes: HashMap<Sym, Dim> =
        outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let first = index[outer.len()].clone() * CHUNK.into();

    // A block of constant length needs a mask for its last vector only.
    let mut statements = Vec::new();
    axes.extend(across.iter().map(|a| (a.var.clone(), a.dim())));
    let mut vectors = |from: Dim, count: Dim, masked: bool| {
        let base = from + Dim::sym(&v) * lanes.into();
        axes.insert(inner.var.clone(), base + Dim::sym(&lane()));
        let limit = masked.then(|| inner.extent.clone());
        let step = element(nest, axes.clone(), s.lanes, limit, frame);
        let step = across.iter().fold(step, |body, a| vec![Stmt::serial(&a.var, a.extent.clone(), body)]);
        statements.push(Stmt::serial(&v, count, step));
    };
    let length = if blocks.is(1) { inner.extent.as_const() } else { None };
    match length {
        Some(n) => {
            if n / lanes > 0 {
                vectors(first.clone(), (n / lanes).into(), false);
            }
            if n % lanes > 0 {
                vectors(first + (n / lanes * lanes).into(), 1.into(), true);
            }
        }
        None if blocks.is(1) => vectors(first, inner.extent.ceil_div(&lanes.into()), true),
        None => {
            let whole = inner.extent.as_const().is_some_and(|n| n % CHUNK == 0);
            vectors(first, (CHUNK / lanes).into(), !whole);
        }
    }
    frame.outermost(&extents, statements)
}

/// Whether loads are contiguous along `outer` and jump along `inner`: a block of vectors is then best finished along
/// `outer` while what it jumps over is at hand.
fn is_transposed(nest: &Nest, outer: &Axis, inner: &Axis) -> bool {
    let mut steps = nest.value.steps(&outer.var).into_iter().zip(nest.value.steps(&inner.var));
    let jumps = |(a, b): (Option<Dim>, Option<Dim>)| {
        a.is_some_and(|a| a.is(1)) && b.is_some_and(|b| b.as_const().is_none_or(|b| b > 1))
    };
    steps.any(jumps)
}

/// Computes and stores one vector; lanes at or beyond `limit` along the innermost axis are left out.
fn element(
    nest: &Nest,
    axes: HashMap<Sym, Dim>,
    lanes: u32,
    limit: Option<Dim>,
    frame: &mut Frame,
) -> Vec<Stmt> {
    let mut e = Emitter::new(nest, axes, lanes, frame);
    let mask = match (&limit, nest.axes.last()) {
        (Some(n), Some(inner)) => Some(e.tail(&inner.dim(), n)),
        _ => None,
    };
    let value = e.expr(&nest.value, mask.as_ref());
    let index = e.index(&nest.at).widen(lanes);
    let mut out = e.take_lets();
    out.push(store(nest, index, value.widen(lanes), mask.map(|m| m.expr)));
    out
}

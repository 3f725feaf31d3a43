//! Reductions on an NPU's vector cores. Where terms are consecutive along the reduced axis, a row of them is combined
//! element by element over all other reduced axes and then within itself; otherwise a row of consecutive results is
//! combined with one row of terms after the other.
//!
//! Of a schedule: `ub` is how many elements a vector core works on, `cores` how many cores there are.

use super::super::Frame;
use super::super::nest::{Flat, Nest};
use super::super::unified::{Unified, alloc, bytes_per_element, lane, on_cores, width};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Level, LoopKind, Stmt};
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Results that a vector core finishes together where each is a reduction within a row.
const RESULTS: i64 = 8;
/// Rows shorter than this are combined across.
const MIN_ROW: i64 = 16;

/// As many elements as fit.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let inner = nest.over().last()?;
    let steps = nest.value.steps(&inner.var);
    let is_consecutive = steps.iter().all(|s| s.as_ref().is_some_and(|s| s.is(0) || s.is(1)))
        && steps.iter().flatten().any(|s| s.is(1))
        && inner.extent.as_const().is_none_or(|n| n >= MIN_ROW)
        && nest.acc == DType::F32
        && matches!(nest.reduction, Some((ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min, _)));
    let class = if is_consecutive { Class::ReduceInner } else { Class::ReduceOuter };
    let along = if is_consecutive { Some(inner) } else { nest.axes.last() };
    let extent = along.map_or_else(|| 1.into(), |a| a.extent.clone());
    let n = width(target, bytes_per_element(nest) + 8, &extent);
    let tile = Tile { place: Place::Ub, extent: [1, u32::try_from(n).ok()?, 1], buffers: 2 };
    let cores = target.level(LoopKind::Bind(Level::Core)).map_or(1, |l| l.units);
    let schedule = Schedule { tiles: vec![tile], cores, ..Schedule::new(class, 1) };
    let is_empty = nest.axes.iter().any(|a| a.extent.is(0));
    (is_empty || !body(nest, &schedule, &mut Frame::kernel()).is_empty()).then_some(schedule)
}

/// The statements of the kernel; none if the vector cores can't do it.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let is_fixed = nest.over().iter().all(|a| nest.axes.iter().all(|o| !a.extent.mentions(&o.var)));
    if nest.kept.is_some() || !is_fixed {
        return Vec::new();
    }
    match s.class {
        Class::ReduceInner => within(nest, s, frame),
        _ => across(nest, s, frame),
    }
    .unwrap_or_default()
}

/// A row of results at a time, combined with one row of terms after the other.
fn across(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Option<Vec<Stmt>> {
    let (op, over) = nest.reduction.as_ref()?;
    let combine = op.combine()?;
    let none = Axis::new("no axis", 1.into());
    let (along, outer) = nest.axes.split_last().unwrap_or((&none, &[]));
    let width = i64::from(s.tile(Place::Ub)?.extent[1]);
    let (extents, total) = items(outer, &along.extent, width);
    on_cores(&total, s.cores, |id| {
        let (axes, first) = item(outer, &extents, id, width);
        let n = Dim::from(width).minimum(&(along.extent.clone() - first.clone()));
        let acc = alloc("acc", nest.acc, width);
        let mut out = vec![Stmt::Alloc(acc.clone()), fill(&acc, n.clone(), *op)];
        let mut terms = Unified::new(nest, along, [first.clone(), n.clone()], width, axes.clone(), "u");
        let value = terms.localize(&nest.value, frame)?;
        let mut body = terms.take();
        let sum = Flat::Call(combine, vec![Flat::Acc, value]);
        let at = Dim::sym(&lane());
        body.push(terms.compute(&sum, &acc, at.clone(), Some((&acc, at)), frame));
        out.extend(super::nested(over, body));
        finish(nest, along, [first, n], width, axes, &acc, &mut out, frame)?;
        Some(out)
    })
}

/// Some results at a time, each the reduction of a row of terms.
fn within(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Option<Vec<Stmt>> {
    let (op, over) = nest.reduction.as_ref()?;
    let (inner, others) = over.split_last()?;
    let none = Axis::new("no axis", 1.into());
    let (along, outer) = nest.axes.split_last().unwrap_or((&none, &[]));
    let width = i64::from(s.tile(Place::Ub)?.extent[1]);
    let (extents, total) = items(outer, &along.extent, RESULTS);
    on_cores(&total, s.cores, |id| {
        let (axes, first) = item(outer, &extents, id, RESULTS);
        let n = Dim::from(RESULTS).minimum(&(along.extent.clone() - first.clone()));
        let acc = alloc("acc", nest.acc, RESULTS);
        let r = Sym::new("r");
        let mut row_axes = axes.clone();
        row_axes.insert(along.var.clone(), first.clone() + Dim::sym(&r));
        let row = row(nest, *op, inner, others, width, row_axes, &acc, &r, frame)?;
        let mut out = vec![Stmt::Alloc(acc.clone()), Stmt::serial(&r, n.clone(), row)];
        finish(nest, along, [first, n], RESULTS, axes, &acc, &mut out, frame)?;
        Some(out)
    })
}

/// The reduction of one row into an element of `acc`.
#[allow(clippy::too_many_arguments)] // They are the parts of one row.
fn row(
    nest: &Nest,
    op: ReduceOp,
    inner: &Axis,
    others: &[Axis],
    width: i64,
    axes: HashMap<Sym, Dim>,
    acc: &Buffer,
    r: &Sym,
    frame: &mut Frame,
) -> Option<Vec<Stmt>> {
    let part = alloc("part", nest.acc, width);
    let step = Sym::new("step");
    let first = Dim::sym(&step) * width.into();
    let n = Dim::from(width).minimum(&(inner.extent.clone() - first.clone()));
    let mut terms = Unified::new(nest, inner, [first, n], width, axes, "u");
    let value = terms.localize(&nest.value, frame)?;
    let mut body = terms.take();
    let sum = Flat::Call(op.combine()?, vec![Flat::Acc, value]);
    let at = Dim::sym(&lane());
    body.push(terms.compute(&sum, &part, at.clone(), Some((&part, at)), frame));
    let steps = Stmt::serial(&step, inner.extent.ceil_div(&width.into()), body);
    let mut out = vec![Stmt::Alloc(part.clone()), fill(&part, width.into(), op)];
    out.extend(super::nested(others, vec![steps]));
    let lanes = u32::try_from(width).ok()?;
    let all = Expr::Load {
        buffer: part.name.clone(),
        index: Expr::Ramp { base: 0.into(), stride: 1.into(), lanes }.into(),
        mask: None,
    };
    out.push(Stmt::store(&acc.name, Expr::Index(Dim::sym(r)), Expr::Horizontal(op, all.into())));
    Some(out)
}

/// The epilogue of a row of results, and the copy of it to its place.
#[allow(clippy::too_many_arguments)] // They are the parts of one row of results.
fn finish(
    nest: &Nest,
    along: &Axis,
    range: [Dim; 2],
    width: i64,
    axes: HashMap<Sym, Dim>,
    acc: &Buffer,
    out: &mut Vec<Stmt>,
    frame: &mut Frame,
) -> Option<()> {
    let mut u = Unified::new(nest, along, range, width, axes, "e");
    let result = match &nest.epilogue {
        None if nest.acc == nest.output.dtype => acc.clone(),
        epilogue => {
            let value = u.localize(epilogue.as_ref().unwrap_or(&Flat::Acc), frame)?;
            out.extend(u.take());
            let y = alloc("uy", nest.output.dtype, width);
            out.push(Stmt::Alloc(y.clone()));
            out.push(u.compute(&value, &y, Dim::sym(&lane()), Some((acc, Dim::sym(&lane()))), frame));
            y
        }
    };
    out.push(u.copy_out(&result)?);
    Some(())
}

/// A loop that stores the value of an empty reduction.
fn fill(to: &Buffer, n: Dim, op: ReduceOp) -> Stmt {
    let value = Expr::Const(to.dtype, op.identity(to.dtype));
    Stmt::serial(&lane(), n, vec![Stmt::store(&to.name, Expr::Index(Dim::sym(&lane())), value)])
}

/// The items of work: points of the outer axes, and parts of the one along which results lie.
fn items(outer: &[Axis], along: &Dim, width: i64) -> (Vec<Dim>, Dim) {
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(along.ceil_div(&width.into()));
    let total = extents.iter().product();
    (extents, total)
}

/// What the outer axes are for an item, and where its results begin.
fn item(outer: &[Axis], extents: &[Dim], id: &Dim, width: i64) -> (HashMap<Sym, Dim>, Dim) {
    let index = aic_ir::op::unflatten(id, extents);
    let axes = outer.iter().map(|a| a.var.clone()).zip(index.clone()).collect();
    (axes, index[outer.len()].clone() * width.into())
}

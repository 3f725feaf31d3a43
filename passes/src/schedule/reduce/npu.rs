//! Reductions on an NPU's vector cores. Where terms are consecutive along the reduced axis, a row of them is combined
//! element by element over all other reduced axes and then within itself; otherwise a row of consecutive results is
//! combined with one row of terms after the other.
//!
//! Of a schedule: `ub` is how many elements a vector core works on, `cores` how many cores there are.

use super::super::Frame;
use super::super::nest::{Flat, Nest};
use super::super::rows::npu::CHUNK;
use super::super::unified::{
    Unified, alloc, bytes_per_element, is_index, lane, named, on_cores, width, with_names,
};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Level, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
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
    let most = if is_consecutive { CHUNK } else { i64::MAX };
    let n = width(target, bytes_per_element(nest) + 8, &extent).min(most);
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
    on_cores(&items(outer, &along.extent, width), s.cores, |index| {
        let (axes, first) = item(outer, index, width);
        let n = Dim::from(width).minimum(&(along.extent.clone() - first.clone()));
        let acc = alloc("acc", nest.acc, width);
        let mut out = vec![Stmt::Alloc(acc.clone()), fill(&acc, n.clone(), *op)];
        let (guard, terms_of, names) = guarded(nest, *op, along);
        let mut terms = Unified::new(&terms_of, along, [first.clone(), n.clone()], width, axes.clone(), "u");
        let value = terms.localize(&terms_of.value, frame)?;
        let mut body = terms.take();
        let sum = Flat::Call(combine, vec![Flat::Acc, value]);
        let at = Dim::sym(&lane());
        body.push(terms.compute(&sum, &acc, at.clone(), Some((&acc, at)), frame));
        if let Some(guard) = guard {
            let cond = terms.scalar(&guard, frame)?;
            let placed = |(s, d): (Sym, Dim)| (s, d.subst(&|v| axes.get(v).cloned()));
            let names = names.into_iter().map(placed).collect();
            body = with_names(names, vec![Stmt::If { cond, then: body, other: Vec::new() }]);
        }
        out.extend(super::nested(over, body));
        finish(nest, along, [first, n], width, axes, &acc, &mut out, frame)?;
        Some(out)
    })
}

/// The condition on which terms count, the same for a row of results, and the nest of those that do: windows have none
/// beyond the borders of their arrays. The positions that the condition is about have names.
fn guarded(nest: &Nest, op: ReduceOp, along: &Axis) -> (Option<Flat>, Nest, Vec<(Sym, Dim)>) {
    let none = Flat::Const(nest.acc, op.identity(nest.acc));
    let (guard, term) = match &nest.value {
        Flat::Call(ScalarFn::Select, args)
            if args[2] == none && is_index(&args[0]) && !args[0].mentions(&along.var) =>
        {
            (&args[0], &args[1])
        }
        _ => return (None, nest.clone(), Vec::new()),
    };
    let mut positions: Vec<Dim> = Vec::new();
    guard.visit(&mut |e| match e {
        Flat::Index(d) if d.symbols().len() > 1 && !positions.contains(d) => positions.push(d.clone()),
        _ => {}
    });
    let (index, names) = named("position", positions);
    let by_names = |d: &Dim| {
        names.iter().zip(&index).fold(d.clone(), |d, ((_, position), name)| in_terms_of(&d, position, name))
    };
    let guard = with_dims(guard, &by_names);
    let inner = Nest { value: with_dims(term, &by_names), ..nest.clone() };
    (Some(guard), inner, names)
}

/// An index expression in terms of a position that is part of it, if it plainly is.
fn in_terms_of(d: &Dim, position: &Dim, name: &Dim) -> Dim {
    let times = position.symbols().iter().find_map(|s| {
        let [whole, part] = [d, position].map(|d| d.affine_in(s).and_then(|(step, _)| step.as_const()));
        let (whole, part) = (whole?, part.filter(|p| *p != 0)?);
        (whole % part == 0).then_some(whole / part)
    });
    d.clone() + (name.clone() - position.clone()) * times.unwrap_or(0).into()
}

/// An expression with other index expressions.
fn with_dims(e: &Flat, f: &dyn Fn(&Dim) -> Dim) -> Flat {
    match e {
        Flat::Const(..) | Flat::Acc => e.clone(),
        Flat::Index(d) => Flat::Index(f(d)),
        Flat::Load { input, address, terms } => Flat::Load {
            input: *input,
            address: f(address),
            terms: terms.iter().map(|(s, e)| (s.clone(), with_dims(e, f))).collect(),
        },
        Flat::Call(g, args) => Flat::Call(*g, args.iter().map(|a| with_dims(a, f)).collect()),
        Flat::Cast(t, e) => Flat::Cast(*t, with_dims(e, f).into()),
    }
}

/// Some results at a time, each the reduction of a row of terms.
fn within(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Option<Vec<Stmt>> {
    let (op, over) = nest.reduction.as_ref()?;
    let (inner, others) = over.split_last()?;
    let none = Axis::new("no axis", 1.into());
    let (along, outer) = nest.axes.split_last().unwrap_or((&none, &[]));
    let width = i64::from(s.tile(Place::Ub)?.extent[1]);
    on_cores(&items(outer, &along.extent, RESULTS), s.cores, |index| {
        let (axes, first) = item(outer, index, RESULTS);
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
    let at = Dim::sym(&lane());
    let n_steps = inner.extent.ceil_div(&width.into());
    let mut out = vec![Stmt::Alloc(part.clone())];
    // As rows of several phases are combined: terms that are all there is are what they are, -0 too.
    if others.is_empty() && n_steps.is(1) {
        if !inner.extent.is(width) {
            out.push(fill(&part, width.into(), op));
        }
        body.push(terms.compute(&value, &part, at, None, frame));
    } else {
        let sum = Flat::Call(op.combine()?, vec![Flat::Acc, value]);
        body.push(terms.compute(&sum, &part, at.clone(), Some((&part, at)), frame));
        out.push(fill(&part, width.into(), op));
    }
    out.extend(super::nested(others, vec![Stmt::serial(&step, n_steps, body)]));
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
fn items(outer: &[Axis], along: &Dim, width: i64) -> Vec<Dim> {
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(along.ceil_div(&width.into()));
    extents
}

/// What the outer axes are for an item, and where its results begin.
fn item(outer: &[Axis], index: &[Dim], width: i64) -> (HashMap<Sym, Dim>, Dim) {
    let axes = outer.iter().map(|a| a.var.clone()).zip(index.iter().cloned()).collect();
    (axes, index[outer.len()].clone() * width.into())
}

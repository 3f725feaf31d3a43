//! Reductions over a few terms that nothing else uses: depthwise convolution and pooling.
//!
//! A register tile of rows by vectors of the output, with one copy of the code per term, so that what neighbouring rows
//! read is loaded once and conditions on columns are constants. Terms are combined one after the other.

use super::contract::{Part, Tiles, best_rows, roles, vector_rows};
use super::emit::{Emitter, Value, lane};
use super::nest::{Flat, Nest};
use super::reduce::{finish, lanes_at, read, register};
use super::{Frame, SHUFFLED};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Terms that have a copy of the code each.
const MAX_TERMS: i64 = 32;

/// Whether the nest is such a reduction.
pub fn fits(nest: &Nest) -> bool {
    let (Some((op, over)), Some(column)) = (&nest.reduction, nest.axes.last()) else { return false };
    let terms = over.iter().try_fold(1i64, |n, a| n.checked_mul(a.extent.as_const()?));
    let slides = |a: &Axis| nest.value.steps(&a.var).iter().any(|s| s.as_ref().is_some_and(|s| !s.is(0)));
    let is_close =
        |s: &Option<Dim>| s.as_ref().and_then(Dim::as_const).is_some_and(|s| (0..=SHUFFLED).contains(&s));
    op.combine().is_some()
        && nest.kept.is_none()
        && terms.is_some_and(|n| (2..=MAX_TERMS).contains(&n))
        && column.extent.as_const().is_none_or(|n| n >= 4)
        && slides(column)
        && nest.value.steps(&column.var).iter().all(is_close)
        && roles(nest).is_none_or(|r| r.m.is_none_or(|m| r.vector.mentions(&nest.axes[m].var)))
}

/// A register tile for the nest.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    let column = nest.axes.last().filter(|_| fits(nest))?;
    let lanes = super::fit(lanes, Some(&column.extent));
    let vectors = |n: i64| (n as u64).div_ceil(u64::from(lanes)).min(4) as u32;
    let nr = column.extent.as_const().map_or(1, vectors);
    let nr = if target.vector_registers >= 32 { nr } else { nr.min(2) };
    let rows = rows(nest).and_then(|a| a.extent.as_const()).unwrap_or(1).max(1);
    let mr = best_rows(rows as u64, vector_rows(target, nr));
    let class = if is_product(nest) { Class::Contract } else { Class::ReduceOuter };
    Some(Schedule { mr, nr, ..Schedule::new(class, lanes) })
}

/// Whether a schedule evaluates such a reduction.
pub fn allows(nest: &Nest, s: &Schedule) -> bool {
    let is_known = nest.axes.last().is_some_and(|a| a.extent.as_const().is_some());
    s.nr == 1 || is_known
}

/// The axis of the tile's rows.
fn rows(nest: &Nest) -> Option<&Axis> {
    nest.axes.len().checked_sub(2).map(|k| &nest.axes[k])
}

/// Whether terms are products that are added up, each rounded once.
fn is_product(nest: &Nest) -> bool {
    roles(nest).is_some()
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(column) = nest.axes.last() else { return Vec::new() };
    let lanes = i64::from(s.lanes);
    let columns = Tiles::new(&column.extent, i64::from(s.nr) * lanes, lanes);
    let one = Dim::from(1);
    let rows = Tiles::new(rows(nest).map_or(&one, |a| &a.extent), i64::from(s.mr), 1);
    let outer = &nest.axes[..nest.axes.len().saturating_sub(2)];
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(columns.steps());
    let index = frame.index(&extents);
    let axes: HashMap<Sym, Dim> = outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let it = Sym::new("it");
    let body = columns.visit(&index[outer.len()], &mut |n0, width| {
        rows.each(&it, &mut |m0, count| tile(nest, s, frame, axes.clone(), (m0, count), (n0.clone(), width)))
    });
    frame.outermost(&extents, body)
}

/// The tile of some rows and columns.
fn tile(
    nest: &Nest,
    s: &Schedule,
    frame: &mut Frame,
    mut axes: HashMap<Sym, Dim>,
    (m0, rows): (Dim, Part),
    (n0, columns): (Dim, Part),
) -> Vec<Stmt> {
    let (Some((op, over)), Some(column)) = (&nest.reduction, nest.axes.last()) else { return Vec::new() };
    let id = frame.next();
    let name = |base: &str| Sym::new(&format!("{base}{id}"));
    let (acc, i, j) = (name("acc"), name("ti"), name("tj"));
    let lanes = i64::from(s.lanes);
    let vectors = (columns.width + lanes - 1) / lanes;
    let masked = columns.partial && (columns.width % lanes != 0 || column.extent.as_const().is_none());
    if let Some(row) = self::rows(nest) {
        axes.insert(row.var.clone(), m0 + Dim::sym(&i));
    }
    axes.insert(column.var.clone(), n0 + Dim::sym(&j) * lanes.into() + Dim::sym(&lane()));
    axes.extend(super::reduce::as_loops(over));
    let at = lanes_at((Dim::sym(&i) * vectors.into() + Dim::sym(&j)) * lanes.into(), s.lanes);
    let slot = (Dim::sym(&i) * vectors.into() + Dim::sym(&j)) * lanes.into();
    let unroll = |var: &Sym, n: Dim, body: Vec<Stmt>| vec![Stmt::loop_of(var, n, LoopKind::Unroll, body)];
    let each = |body: Vec<Stmt>| unroll(&i, rows.width.into(), unroll(&j, vectors.into(), body));

    let mut e = Emitter::new(nest, axes, s.lanes, frame);
    let mask_of = |e: &mut Emitter| masked.then(|| e.tail(&column.dim(), &column.extent));
    let identity = Value::new(Expr::Const(nest.acc, op.identity(nest.acc)), nest.acc, 1);
    let mask = mask_of(&mut e);
    let old = read(&acc, slot.clone(), s.lanes, nest.acc);
    let new = combined(&mut e, nest, s, old, mask.as_ref());
    let mut step = e.take_lets();
    step.push(Stmt::store(&acc, at.clone(), new.widen(s.lanes)));

    let mask = mask_of(&mut e);
    let mut end = e.take_lets();
    let result = e.bind(read(&acc, slot, s.lanes, nest.acc));
    end.extend(finish(&mut e, nest, result, mask.as_ref()));

    let mut out = vec![register(&acc, nest.acc, rows.width * vectors * lanes)];
    out.extend(each(vec![Stmt::store(&acc, at, identity.widen(s.lanes))]));
    out.extend(over.iter().rev().fold(each(step), |body, a| unroll(&a.var, a.extent.clone(), body)));
    out.extend(each(end));
    out
}

/// The accumulator after one more term.
fn combined(e: &mut Emitter, nest: &Nest, s: &Schedule, old: Value, mask: Option<&Value>) -> Value {
    match (&nest.value, nest.reduction.as_ref().and_then(|(op, _)| op.combine())) {
        (Flat::Call(ScalarFn::Mul, factors), _) if s.class == Class::Contract && nest.acc.is_float() => {
            let mut args: Vec<Value> = factors.iter().map(|f| e.expr(f, mask)).collect();
            args.push(old);
            e.call(ScalarFn::Fma, args)
        }
        (value, Some(combine)) => {
            let value = e.expr(value, mask);
            e.call(combine, vec![old, value])
        }
        _ => old,
    }
}

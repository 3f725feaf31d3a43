//! Reductions: along contiguous memory with vector accumulators, across it with one accumulator per lane, or running
//! along an output axis.

pub mod npu;

use super::emit::{Emitter, Value, lane};
use super::nest::Nest;
use super::{Frame, store};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, LoopKind, Scope, Stmt, VType};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::Schedule;
use std::collections::HashMap;

/// A register buffer.
pub(super) fn register(name: &Sym, dtype: DType, len: i64) -> Stmt {
    Stmt::Alloc(Buffer { name: name.clone(), dtype, len: len.into(), scope: Scope::Register })
}

/// Lanes of a buffer from a position on.
pub(super) fn lanes_at(base: Dim, lanes: u32) -> Expr {
    if lanes == 1 { Expr::Index(base) } else { Expr::Ramp { base, stride: 1.into(), lanes } }
}

/// A load of lanes of a register buffer.
pub(super) fn read(buffer: &Sym, base: Dim, lanes: u32, dtype: DType) -> Value {
    let load = Expr::Load { buffer: buffer.clone(), index: lanes_at(base, lanes).into(), mask: None };
    Value::new(load, dtype, lanes)
}

/// Loops over axes, the first outermost.
pub(super) fn nested(axes: &[Axis], body: Vec<Stmt>) -> Vec<Stmt> {
    axes.iter().rev().fold(body, |body, a| vec![Stmt::serial(&a.var, a.extent.clone(), body)])
}

/// Axis variables that are loop variables of the same name.
pub(super) fn as_loops(axes: &[Axis]) -> impl Iterator<Item = (Sym, Dim)> + '_ {
    axes.iter().map(|a| (a.var.clone(), a.dim()))
}

/// The epilogue applied to the accumulator, stored at the output's address.
pub(super) fn finish(e: &mut Emitter, nest: &Nest, acc: Value, mask: Option<&Value>) -> Vec<Stmt> {
    let lanes = e.lanes;
    e.acc = Some(acc.clone());
    let value = match &nest.epilogue {
        Some(epilogue) => e.expr(epilogue, mask),
        None => acc,
    };
    let index = e.index(&nest.at).widen(lanes);
    let mut out = e.take_lets();
    out.push(store(nest, index, value.widen(lanes), mask.map(|m| m.expr.clone())));
    out
}

/// Stores the summand where the nest wants it kept too.
fn keep(e: &mut Emitter, nest: &Nest, value: Value, mask: Option<&Value>) -> (Value, Vec<Stmt>) {
    let Some((buffer, at)) = &nest.kept else { return (value, Vec::new()) };
    let value = e.bind(value);
    let (index, lanes) = (e.index(at).widen(e.lanes), e.lanes);
    let mut out = e.take_lets();
    let (value, mask) = (value.clone(), mask.map(|m| m.clone().widen(lanes)));
    out.push(Stmt::Store { buffer: buffer.name.clone(), index, value: value.clone().widen(lanes), mask });
    (value, out)
}

/// Vectors that [`inner`] accumulates independently along an axis.
pub(super) fn copies(along: &Axis, s: &Schedule) -> i64 {
    match along.extent.floor_div(&i64::from(s.lanes).into()).as_const() {
        Some(n) => i64::from(s.mr).min(n).max(1),
        None => 1,
    }
}

/// Vectors along the innermost reduced axis, combined across lanes at the end; threads over the outputs.
pub fn inner(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some((op, over)) = &nest.reduction else { return Vec::new() };
    let (Some(combine), Some((along, outside))) = (op.combine(), over.split_last()) else {
        return outer(nest, s, frame);
    };
    let (v, u) = (Sym::new("v"), Sym::new("u"));
    let acc = frame.name("acc");
    let lanes = i64::from(s.lanes);
    let extents: Vec<Dim> = nest.axes.iter().map(|a| a.extent.clone()).collect();
    let mut axes: HashMap<Sym, Dim> =
        nest.axes.iter().map(|a| a.var.clone()).zip(frame.index(&extents)).collect();
    axes.extend(as_loops(outside));
    let whole = along.extent.floor_div(&lanes.into());
    let copies = copies(along, s);
    let identity = Expr::Const(nest.acc, op.identity(nest.acc));

    // One vector at `base`, combined into accumulator `copy`; lanes beyond the end count as the identity.
    let mut accumulate = |base: Dim, copy: Dim, masked: bool| -> Vec<Stmt> {
        let mut axes = axes.clone();
        axes.insert(along.var.clone(), base + Dim::sym(&lane()));
        let mut e = Emitter::new(nest, axes, s.lanes, frame);
        let mask = masked.then(|| e.tail(&along.dim(), &along.extent));
        let value = e.expr(&nest.value, mask.as_ref());
        let (mut value, mut out) = keep(&mut e, nest, value, mask.as_ref());
        if let Some(mask) = mask {
            value = e.call(ScalarFn::Select, vec![mask, value, Value::new(identity.clone(), nest.acc, 1)]);
        }
        let old = read(&acc, copy.clone() * lanes.into(), s.lanes, nest.acc);
        let new = e.call(combine, vec![old, value]);
        out.extend(e.take_lets());
        out.push(Stmt::store(&acc, lanes_at(copy * lanes.into(), s.lanes), new.widen(s.lanes)));
        out
    };

    let mut row = Vec::new();
    match whole.as_const() {
        Some(n) => {
            let rounds = n / copies;
            if rounds > 0 {
                let base = Dim::sym(&v) * (copies * lanes).into() + Dim::sym(&u) * lanes.into();
                let body = accumulate(base, Dim::sym(&u), false);
                let unrolled = Stmt::loop_of(&u, copies.into(), LoopKind::Unroll, body);
                row.push(Stmt::serial(&v, rounds.into(), vec![unrolled]));
            }
            for k in rounds * copies..n {
                row.extend(accumulate((k * lanes).into(), 0.into(), false));
            }
            if !along.extent.is(n * lanes) {
                row.extend(accumulate((n * lanes).into(), 0.into(), true));
            }
        }
        None => {
            let body = accumulate(Dim::sym(&v) * lanes.into(), 0.into(), true);
            row.push(Stmt::serial(&v, along.extent.ceil_div(&lanes.into()), body));
        }
    }

    let mut out = vec![register(&acc, nest.acc, copies * lanes)];
    let start = Value::new(identity.clone(), nest.acc, 1).widen(s.lanes);
    for k in 0..copies {
        out.push(Stmt::store(&acc, lanes_at((k * lanes).into(), s.lanes), start.clone()));
    }
    out.extend(nested(outside, row));
    let mut e = Emitter::new(nest, axes, 1, frame);
    let parts = (0..copies).map(|k| read(&acc, (k * lanes).into(), s.lanes, nest.acc));
    let total = parts.reduce(|a, b| e.call(combine, vec![a, b]));
    let Some(total) = total else { return Vec::new() };
    let scalar = if s.lanes == 1 { total.expr } else { Expr::Horizontal(*op, total.expr.into()) };
    let result = e.bind(Value::new(scalar, nest.acc, 1));
    out.extend(finish(&mut e, nest, result, None));
    frame.outermost(&extents, out)
}

/// Blocks of columns that are enough for all threads.
const BLOCKS: i64 = 4;

/// Vectors of columns that [`outer`] takes at a time: rows of memory are then read in longer pieces.
pub(super) fn columns(nest: &Nest, lanes: u32) -> u32 {
    [8, 4, 2].into_iter().find(|nr| has_columns(nest, lanes, *nr, BLOCKS)).unwrap_or(1)
}

/// Whether the innermost axis is at least so many blocks of `nr` vectors, without a rest.
fn has_columns(nest: &Nest, lanes: u32, nr: u32, blocks: i64) -> bool {
    let combines = nest.reduction.as_ref().is_some_and(|(op, _)| op.combine().is_some());
    let columns = nest.axes.last().and_then(|a| a.extent.as_const()).unwrap_or(1);
    let block = i64::from(nr) * i64::from(lanes);
    combines && lanes > 1 && columns % block == 0 && columns / block >= blocks
}

/// Whether a schedule evaluates a reduction with vectors along an output axis.
pub(super) fn allows(nest: &Nest, s: &Schedule) -> bool {
    s.nr == 1 || has_columns(nest, s.lanes, s.nr, 1)
}

/// One accumulator per lane, vectors along the innermost output axis (or scalars); threads over the other outputs.
pub fn outer(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some((op, over)) = &nest.reduction else { return Vec::new() };
    let (lanes, nr) = (i64::from(s.lanes), i64::from(s.nr.max(1)));
    let u = Sym::new("u");
    let mut extents: Vec<Dim> = nest.axes.iter().map(|a| a.extent.clone()).collect();
    if let Some(last) = extents.last_mut() {
        *last = last.ceil_div(&(lanes * nr).into());
    }
    let index = frame.index(&extents);
    let mut axes: HashMap<Sym, Dim> = nest.axes.iter().map(|a| a.var.clone()).zip(index).collect();
    let mut limit = None;
    if let (Some(a), true) = (nest.axes.last(), s.lanes > 1) {
        if let Some(at) = axes.get_mut(&a.var) {
            *at = at.clone() * (lanes * nr).into() + Dim::sym(&lane());
            if nr > 1 {
                *at = at.clone() + Dim::sym(&u) * lanes.into();
            }
        }
        limit = (!a.extent.modulo(&lanes.into()).is(0)).then_some(a);
    }
    axes.extend(as_loops(over));
    let mut e = Emitter::new(nest, axes, s.lanes, frame);
    let mut out = Vec::new();
    let mask = limit.map(|a| e.tail(&a.dim(), &a.extent));
    out.extend(e.take_lets());
    let bounds: Vec<Axis> = over
        .iter()
        .map(|a| Axis { var: a.var.clone(), extent: a.extent.subst(&|s| e.axes.get(s).cloned()) })
        .collect();

    let (start, step, result) = match op.combine() {
        Some(combine) => {
            let acc = e.frame.name("acc");
            let identity = Value::new(Expr::Const(nest.acc, op.identity(nest.acc)), nest.acc, 1);
            let column = if nr > 1 { Dim::sym(&u) * lanes.into() } else { 0.into() };
            let clear = Stmt::store(&acc, lanes_at(column.clone(), s.lanes), identity.widen(s.lanes));
            let start = [vec![register(&acc, nest.acc, lanes * nr)], each(&u, nr, vec![clear])].concat();
            let value = e.expr(&nest.value, mask.as_ref());
            let (value, mut step) = keep(&mut e, nest, value, mask.as_ref());
            let new = e.call(combine, vec![read(&acc, column.clone(), s.lanes, nest.acc), value]);
            step.extend(e.take_lets());
            step.push(Stmt::store(&acc, lanes_at(column.clone(), s.lanes), new.widen(s.lanes)));
            (start, each(&u, nr, step), read(&acc, column, s.lanes, nest.acc))
        }
        None => index_reduction(&mut e, nest, *op, &over[0], mask.as_ref()),
    };
    out.extend(start);
    out.extend(nested(&bounds, step));
    let result = e.bind(result);
    let end = finish(&mut e, nest, result, mask.as_ref());
    out.extend(each(&u, nr, end));
    frame.outermost(&extents, out)
}

/// The statements for each of so many vectors.
fn each(u: &Sym, count: i64, body: Vec<Stmt>) -> Vec<Stmt> {
    match count {
        1 => body,
        _ => vec![Stmt::loop_of(u, count.into(), LoopKind::Unroll, body)],
    }
}

/// Start, step and result of an argmax or argmin: the best value so far and where it was.
fn index_reduction(
    e: &mut Emitter,
    nest: &Nest,
    op: ReduceOp,
    along: &Axis,
    mask: Option<&Value>,
) -> (Vec<Stmt>, Vec<Stmt>, Value) {
    let lanes = e.lanes;
    let (best, at) = (e.frame.name("best"), e.frame.name("at"));
    let (max, last) = match op {
        ReduceOp::ArgMin { last } => (false, last),
        ReduceOp::ArgMax { last } => (true, last),
        _ => (true, false),
    };
    let value = e.expr(&nest.value, mask);
    let value = e.bind(value);
    let dtype = value.ty.dtype;
    let worst = if max { Scalar::lowest(dtype) } else { Scalar::highest(dtype) };
    let start = vec![
        register(&best, dtype, i64::from(lanes)),
        register(&at, DType::I64, i64::from(lanes)),
        Stmt::store(
            &best,
            lanes_at(0.into(), lanes),
            Value::new(Expr::Const(dtype, worst), dtype, 1).widen(lanes),
        ),
        Stmt::store(&at, lanes_at(0.into(), lanes), Value::new(Expr::int(0), DType::I64, 1).widen(lanes)),
    ];
    let held = e.bind(read(&best, 0.into(), lanes, dtype));
    let test = match (max, last) {
        (true, false) => ScalarFn::Gt,
        (true, true) => ScalarFn::Ge,
        (false, false) => ScalarFn::Lt,
        (false, true) => ScalarFn::Le,
    };
    let mut better = e.call(test, vec![value.clone(), held.clone()]);
    if dtype.is_float() {
        // NaN beats everything but an earlier NaN.
        let mut nan = e.call(ScalarFn::IsNan, vec![value.clone()]);
        if !last {
            let held_nan = e.call(ScalarFn::IsNan, vec![held.clone()]);
            let first = e.call(ScalarFn::Not, vec![held_nan]);
            nan = e.call(ScalarFn::And, vec![nan, first]);
        }
        better = e.call(ScalarFn::Or, vec![better, nan]);
    }
    let better = e.bind(better);
    let index = Value::new(Expr::Index(along.dim()), DType::I64, 1);
    let old = read(&at, 0.into(), lanes, DType::I64);
    let new_best = e.call(ScalarFn::Select, vec![better.clone(), value, held]);
    let new_at = e.call(ScalarFn::Select, vec![better, index, old]);
    let mut step = e.take_lets();
    step.push(Stmt::store(&best, lanes_at(0.into(), lanes), new_best.widen(lanes)));
    step.push(Stmt::store(&at, lanes_at(0.into(), lanes), new_at.widen(lanes)));
    (start, step, read(&at, 0.into(), lanes, DType::I64))
}

/// The output axis along which a reduction runs: its extent is that axis' index, or one more, or the same counted
/// from the end; and the summand doesn't depend on the axis otherwise.
pub fn running_axis(nest: &Nest) -> Option<(usize, bool)> {
    let (op, over) = nest.reduction.as_ref()?;
    op.combine()?;
    let [k] = &over[..] else { return None };
    nest.axes.iter().enumerate().find_map(|(at, a)| {
        let up = k.extent.clone() - a.dim();
        let down = k.extent.clone() + a.dim() - a.extent.clone();
        let plain =
            !nest.value.mentions(&a.var) && nest.epilogue.as_ref().is_none_or(|e| !e.mentions(&a.var));
        match plain {
            true if up.is(0) || up.is(1) => Some((at, false)),
            true if down.is(0) || down.is(-1) => Some((at, true)),
            _ => None,
        }
    })
}

/// A running reduction: one pass along the axis, the accumulator stored at every step.
pub fn prefix(nest: &Nest, frame: &mut Frame) -> Vec<Stmt> {
    let (Some((op, over)), Some((at, reverse))) = (&nest.reduction, running_axis(nest)) else {
        return Vec::new();
    };
    let Some(combine) = op.combine() else { return Vec::new() };
    let (run, k) = (&nest.axes[at], &over[0]);
    let acc = frame.name("acc");
    let others: Vec<&Axis> = nest.axes.iter().filter(|a| a.var != run.var).collect();
    let extents: Vec<Dim> = others.iter().map(|a| a.extent.clone()).collect();
    let mut axes: HashMap<Sym, Dim> =
        others.iter().map(|a| a.var.clone()).zip(frame.index(&extents)).collect();
    let here = run.dim();
    let output = if reverse { run.extent.clone() - 1.into() - here.clone() } else { here.clone() };
    // Seen from the position in running order, the extent is that position (exclusive) or one more.
    let exclusive = (k.extent.replace(&run.var, &output) - here.clone()).is(0);
    axes.insert(run.var.clone(), output);
    axes.insert(k.var.clone(), here);
    let mut e = Emitter::new(nest, axes, 1, frame);
    let value = e.expr(&nest.value, None);
    let ty = VType::scalar(nest.acc);
    let new = e.call(combine, vec![read(&acc, 0.into(), 1, ty.dtype), value]);
    let mut add = e.take_lets();
    add.push(Stmt::store(&acc, Expr::int(0), new.expr));
    let held = e.bind(read(&acc, 0.into(), 1, nest.acc));
    let put = finish(&mut e, nest, held, None);
    let step = if exclusive { [put, add].concat() } else { [add, put].concat() };
    let body = vec![
        register(&acc, nest.acc, 1),
        Stmt::store(&acc, Expr::int(0), Expr::Const(nest.acc, op.identity(nest.acc))),
        Stmt::serial(&run.var, run.extent.clone(), step),
    ];
    frame.outermost(&extents, body)
}

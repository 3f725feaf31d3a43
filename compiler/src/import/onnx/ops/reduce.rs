//! Reductions along axes, and running sums.

use super::shape::axes_operand;
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::compute::ReduceOp;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{Cumulative, Reduce};
use aic_ir::scalar::Scalar;

pub(super) const OPERATORS: &[Operator] = &[
    op("ArgMax", 1, |c| arg(c, |last| ReduceOp::ArgMax { last })),
    op("ArgMin", 1, |c| arg(c, |last| ReduceOp::ArgMin { last })),
    op("CumProd", 26, |c| cumulative(c, ReduceOp::Prod)),
    op("CumSum", 11, |c| cumulative(c, ReduceOp::Sum)),
    op("ReduceL1", 1, |c| reduce(c, l1)),
    op("ReduceL2", 1, |c| reduce(c, l2)),
    op("ReduceLogSum", 1, |c| reduce(c, log_sum)),
    op("ReduceLogSumExp", 1, |c| reduce(c, log_sum_exp)),
    op("ReduceMax", 1, |c| reduce(c, |c, x, axes| extreme(c, x, axes, ReduceOp::Max))),
    op("ReduceMean", 1, |c| reduce(c, mean)),
    op("ReduceMin", 1, |c| reduce(c, |c, x, axes| extreme(c, x, axes, ReduceOp::Min))),
    op("ReduceProd", 1, |c| reduce(c, |c, x, axes| c.reduce(ReduceOp::Prod, x, axes, true))),
    op("ReduceSum", 1, |c| reduce(c, |c, x, axes| c.sum(x, axes, true))),
    op("ReduceSumSquare", 1, |c| reduce(c, sum_square)),
];

/// Reduces along the axes of the node, by a function that keeps them with extent 1.
fn reduce(c: &mut Ctx, f: fn(&mut Ctx, ValueId, &[usize]) -> Result<ValueId>) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let axes = match axes_operand(c, 1)?.filter(|axes| !axes.is_empty()) {
        Some(axes) => c.axes(&axes, rank)?,
        None if c.flag("noop_with_empty_axes", false)? => Vec::new(),
        None => (0..rank).collect(),
    };
    let reduced = f(c, x, &axes)?;
    let y = if c.flag("keepdims", true)? { reduced } else { c.squeeze(reduced, &axes)? };
    Ok(y.into())
}

/// `false` counts as less than `true`.
fn extreme(c: &mut Ctx, x: ValueId, axes: &[usize], op: ReduceOp) -> Result<ValueId> {
    let op = match (c.dtype(x), op) {
        (DType::Bool, ReduceOp::Max) => ReduceOp::Or,
        (DType::Bool, _) => ReduceOp::And,
        _ => op,
    };
    c.reduce(op, x, axes, true)
}

fn mean(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    c.in_wide(x, |c, x| c.mean(x, axes, true))
}

fn l1(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    let magnitudes = c.abs(x)?;
    c.sum(magnitudes, axes, true)
}

fn sum_square(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    c.in_wide(x, |c, x| {
        let squares = c.times(x, x)?;
        c.sum(squares, axes, true)
    })
}

fn l2(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    in_floats(c, x, |c, x| {
        let sum = sum_square(c, x, axes)?;
        c.sqrt(sum)
    })
}

fn log_sum(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    in_floats(c, x, |c, x| {
        let sum = c.sum(x, axes, true)?;
        c.log(sum)
    })
}

/// `log(sum(exp(x - max))) + max`, with an infinite maximum taken to be 0, so that no difference of infinities arises.
fn log_sum_exp(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    in_floats(c, x, |c, x| {
        let max = c.reduce(ReduceOp::Max, x, axes, true)?;
        let infinite = c.apply(aic_ir::scalar::ScalarFn::IsInf, &[max])?;
        let zero = c.number_like(0.0, max);
        let max = c.select(infinite, zero, max)?;
        let shifted = c.minus(x, max)?;
        let exponentials = c.exp(shifted)?;
        let sum = c.sum(exponentials, axes, true)?;
        let log = c.log(sum)?;
        c.plus(log, max)
    })
}

/// Computes in floats of at least 32 bits, and converts the result back.
fn in_floats(
    c: &mut Ctx,
    x: ValueId,
    f: impl FnOnce(&mut Ctx, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let dtype = c.dtype(x);
    let work = if dtype.is_float() { dtype.compute() } else { DType::F64 };
    let wide = c.cast(x, work)?;
    let y = f(c, wide)?;
    c.cast(y, dtype)
}

fn arg(c: &mut Ctx, op: fn(bool) -> ReduceOp) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    let op = op(c.flag("select_last_index", false)?);
    let y = c.add(Reduce { op, axes: vec![axis] }, &[x])?;
    let y = if c.flag("keepdims", true)? { c.unsqueeze(y, &[axis])? } else { y };
    Ok(y.into())
}

fn cumulative(c: &mut Ctx, op: ReduceOp) -> Result<Outputs> {
    let (x, axis) = (c.input(0)?, c.input(1)?);
    let axis = c.need_int(axis, "the input `axis`")?;
    let axis = c.axis(axis, c.rank(x))?;
    let (exclusive, reverse) = (c.flag("exclusive", false)?, c.flag("reverse", false)?);
    Ok(c.add(Cumulative { op, axis, exclusive, reverse }, &[x])?.into())
}

/// The number of the first largest element along an axis at each place, as a value that broadcasts with `x`.
pub(super) fn first_max(c: &mut Ctx, x: ValueId, axis: usize) -> Result<ValueId> {
    let at = c.add(Reduce { op: ReduceOp::ArgMax { last: false }, axes: vec![axis] }, &[x])?;
    c.unsqueeze(at, &[axis])
}

/// One where `x` is the first largest element along an axis, zero elsewhere.
pub(super) fn one_at_max(c: &mut Ctx, x: ValueId, axis: usize) -> Result<ValueId> {
    let at = first_max(c, x, axis)?;
    let index = c.iota(c.dims(x), axis, DType::I64)?;
    let hit = c.equal(index, at)?;
    let one = c.tensor(aic_ir::tensor::Tensor::scalar(c.dtype(x), Scalar::I(1)));
    let zero = c.number_like(0.0, x);
    c.select(hit, one, zero)
}

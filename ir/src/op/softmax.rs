//! Softmax and cumulative reductions: results as large as the operand, dependent along one axis.

use super::contract::rounded;
use super::shape::strides;
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;

op! {
    /// `exp(x - max) / sum(exp(x - max))` along an axis: ONNX `Softmax` from version 13 on. Floats of any shape; the
    /// maximum makes it immune to overflow. A row of minus infinities, or with an infinity or NaN, gives NaN.
    Softmax = "softmax"(x) {
        /// The axis along which results add up to 1.
        axis: usize,
    }
}

impl Operator for Softmax {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        infer(x[0], self.axis)
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        eval(&x[0], self.axis, |shifted, sum| shifted.exp() / sum)
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let mut rows = Rows::new(&x[0], &y[0], self.axis);
        let inverse = inverse(rows.work, Expr::stage(1, rows.rest()));
        rows.stages.push(Stage::map(rows.work, rows.rest_axes(), inverse));
        let exp = Expr::call(ScalarFn::Exp, [rows.shifted(&rows.axes[self.axis])]);
        let share = Expr::call(ScalarFn::Mul, [exp, Expr::stage(2, rows.rest())]);
        Some(rows.finish(share))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (axis, operand) = sample(rng);
        Sample { op: Softmax { axis }.into(), operands: vec![operand] }
    }
}

op! {
    /// `(x - max) - log(sum(exp(x - max)))` along an axis: ONNX `LogSoftmax` from version 13 on. Floats of any shape;
    /// the logarithm of [`Softmax`], but for results that this one rounds to 0. A row of minus infinities, or with an
    /// infinity or NaN, gives NaN.
    LogSoftmax = "log_softmax"(x) {
        /// The axis along which exponentials of results add up to 1.
        axis: usize,
    }
}

impl Operator for LogSoftmax {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        infer(x[0], self.axis)
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        eval(&x[0], self.axis, |shifted, sum| shifted - sum.ln())
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let mut rows = Rows::new(&x[0], &y[0], self.axis);
        let log = Expr::call(ScalarFn::Log, [Expr::stage(1, rows.rest())]);
        rows.stages.push(Stage::map(rows.work, rows.rest_axes(), log));
        let shifted = rows.shifted(&rows.axes[self.axis]);
        let difference = Expr::call(ScalarFn::Sub, [shifted, Expr::stage(2, rows.rest())]);
        Some(rows.finish(difference))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (axis, operand) = sample(rng);
        Sample { op: LogSoftmax { axis }.into(), operands: vec![operand] }
    }
}

/// 1 over the sum of a row's exponentials, so that there is one division for the row. It is no less precise than divisions
/// of all elements by more than a rounding: the sum is at least 1, as the maximum's exponential is.
pub(super) fn inverse(work: DType, sum: Expr) -> Expr {
    Expr::call(ScalarFn::Div, [Expr::float(work, 1.0), sum])
}

fn infer(x: &Type, axis: usize) -> Result<Vec<Type>> {
    ensure!(x.dtype.is_float(), "the operand must be of floats, found {x}");
    ensure!(axis < x.rank(), "axis {axis} is out of range for {x}");
    Ok(vec![x.clone()])
}

/// `f(x - max, sum(exp(x - max)))` along an axis.
fn eval(x: &Tensor, axis: usize, f: impl Fn(f64, f64) -> f64) -> Result<Vec<Tensor>> {
    let shape = x.shape();
    let (n, step) = (shape[axis], strides(shape)[axis]);
    let mut values = x.to_f64();
    for start in row_starts(values.len(), n, step) {
        let row = (0..n).map(|k| start + k * step);
        let max = row.clone().fold(f64::NEG_INFINITY, |m, p| m.max(values[p]));
        let sum: f64 = row.clone().map(|p| (values[p] - max).exp()).sum();
        row.for_each(|p| values[p] = f(values[p] - max, sum));
    }
    Ok(vec![Tensor::generate(x.dtype(), shape.to_vec(), |p| Scalar::F(values[p]))?])
}

/// Rows along an axis, with stages for their maxima and for the sums of the exponentials of what lies below these.
struct Rows {
    x: Type,
    y: Type,
    axis: usize,
    work: DType,
    axes: Vec<Axis>,
    stages: Vec<Stage>,
}

impl Rows {
    fn new(x: &Type, y: &Type, axis: usize) -> Rows {
        let (work, axes) = (x.dtype.compute(), Axis::outputs(&y.dims));
        let mut rows = Rows { x: x.clone(), y: y.clone(), axis, work, axes, stages: Vec::new() };
        let [k, j] = ["k", "j"].map(|name| Axis::new(name, y.dims[axis].clone()));
        let (max, rest) = (rows.load(&k), rows.rest_axes());
        rows.stages.push(Stage::reduce(work, rest.clone(), ReduceOp::Max, vec![k], max));
        let exp = Expr::call(ScalarFn::Exp, [rows.shifted(&j)]);
        rows.stages.push(Stage::reduce(work, rest, ReduceOp::Sum, vec![j], exp));
        rows
    }

    /// The axes that number rows.
    fn rest_axes(&self) -> Vec<Axis> {
        let mut axes = self.axes.clone();
        axes.remove(self.axis);
        axes
    }

    /// The number of a row.
    fn rest(&self) -> Vec<Dim> {
        self.rest_axes().iter().map(Axis::dim).collect()
    }

    /// The element of a row at this axis.
    fn load(&self, at: &Axis) -> Expr {
        let mut index: Vec<Dim> = self.axes.iter().map(Axis::dim).collect();
        index[self.axis] = at.dim();
        Expr::input(0, index).cast(self.x.dtype, self.work)
    }

    /// The element of a row at this axis, less the row's maximum.
    fn shifted(&self, at: &Axis) -> Expr {
        Expr::call(ScalarFn::Sub, [self.load(at), Expr::stage(0, self.rest())])
    }

    /// The compute definition whose elements are these.
    fn finish(mut self, element: Expr) -> Compute {
        let element = element.cast(self.work, self.y.dtype);
        self.stages.push(Stage::map(self.y.dtype, self.axes, element));
        Compute::chain(&[self.x], self.stages)
    }
}

/// An axis and an operand.
fn sample(rng: &mut Rng) -> (usize, Operand) {
    let rank = 1 + rng.below(4);
    let shape = rng.shape(rank);
    let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let operand = if rng.one_in(4) { Operand::any(dtype, shape) } else { Operand::finite(dtype, shape) };
    (rng.below(rank), operand)
}

/// First positions of the rows of `n` elements, `step` apart, that a row-major tensor of `len` elements has along
/// an axis.
fn row_starts(len: usize, n: usize, step: usize) -> impl Iterator<Item = usize> {
    let rows = len.checked_div(n).unwrap_or(0);
    (0..rows).map(move |r| r / step * step * n + r % step)
}

op! {
    /// Element `i` along an axis combines the operand's elements up to and including `i`: ONNX `CumSum`, `CumProd`.
    /// Numbers of any shape; 16-bit floats are accumulated in `f32`.
    Cumulative = "cumulative"(x) {
        /// `sum`, `prod`, `max` or `min`.
        op: ReduceOp,
        /// The axis.
        axis: usize,
        /// Whether element `i` itself is left out; the first result is then the reduction's identity.
        exclusive: bool,
        /// Whether to start at the end of the axis.
        reverse: bool,
    }
}

impl Operator for Cumulative {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        ensure!(
            matches!(self.op, ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min),
            "expected sum, prod, max or min, found {}",
            self.op.keyword()
        );
        ensure!(x[0].dtype.is_num(), "the operand must be of numbers, found {}", x[0]);
        ensure!(self.axis < x[0].rank(), "axis {} is out of range for {}", self.axis, x[0]);
        Ok(vec![x[0].clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &x[0];
        let (n, step) = (x.shape()[self.axis], strides(x.shape())[self.axis]);
        let wide = if x.dtype().is_float() { DType::F64 } else { x.dtype() };
        let mut y: Vec<Scalar> = x.scalars().collect();
        for start in row_starts(y.len(), n, step) {
            let mut sum = self.op.identity(wide);
            for k in 0..n {
                let p = start + if self.reverse { n - 1 - k } else { k } * step;
                let next = self.op.apply(x.dtype(), [sum, y[p]].into_iter());
                y[p] = if self.exclusive { sum } else { next };
                sum = next;
            }
        }
        Ok(vec![Tensor::generate(x.dtype(), x.shape().to_vec(), |p| y[p])?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let axes = Axis::outputs(&y[0].dims);
        let mut at: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let last = y[0].dims[self.axis].clone() - 1.into();
        // The number of elements before element `i`.
        let before = if self.reverse { last.clone() - at[self.axis].clone() } else { at[self.axis].clone() };
        let k = Axis::new("k", before + Dim::from(i64::from(!self.exclusive)));
        at[self.axis] = if self.reverse { last - k.dim() } else { k.dim() };
        let work = x[0].dtype.compute();
        let value = Expr::input(0, at).cast(x[0].dtype, work);
        Some(Compute::chain(x, rounded(Stage::reduce(work, axes, self.op, vec![k], value), y[0].dtype)))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = rng.pick(&[ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min]);
        let rank = 1 + rng.below(3);
        let shape = rng.shape(rank);
        let operand = match op {
            ReduceOp::Max | ReduceOp::Min => Operand::any(
                rng.pick(&[DType::F32, DType::F64, DType::BF16, DType::I8, DType::U8, DType::U64]),
                shape,
            ),
            _ => Operand::finite(
                rng.pick(&[DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8]),
                shape,
            ),
        };
        let (axis, exclusive, reverse) = (rng.below(rank), rng.one_in(2), rng.one_in(2));
        Sample { op: Cumulative { op, axis, exclusive, reverse }.into(), operands: vec![operand] }
    }
}

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
        ensure!(x[0].dtype.is_float(), "the operand must be of floats, found {}", x[0]);
        ensure!(self.axis < x[0].rank(), "axis {} is out of range for {}", self.axis, x[0]);
        Ok(vec![x[0].clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let (n, step) = (shape[self.axis], strides(shape)[self.axis]);
        let mut values = x[0].to_f64();
        for start in row_starts(values.len(), n, step) {
            let row = (0..n).map(|k| start + k * step);
            let max = row.clone().fold(f64::NEG_INFINITY, |m, p| m.max(values[p]));
            row.clone().for_each(|p| values[p] = (values[p] - max).exp());
            let sum: f64 = row.clone().map(|p| values[p]).sum();
            row.for_each(|p| values[p] /= sum);
        }
        Ok(vec![Tensor::generate(x[0].dtype(), shape.to_vec(), |p| Scalar::F(values[p]))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let work = x[0].dtype.compute();
        let axes = Axis::outputs(&y[0].dims);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let rest = |all: &[Dim]| -> Vec<Dim> {
            all.iter().enumerate().filter(|(k, _)| *k != self.axis).map(|(_, d)| d.clone()).collect()
        };
        let at = |k: Dim| {
            let mut at = i.clone();
            at[self.axis] = k;
            at
        };
        let load = |k: Dim| Expr::input(0, at(k)).cast(x[0].dtype, work);
        let exp = |k: Dim| {
            let shifted = Expr::call(ScalarFn::Sub, [load(k), Expr::stage(0, rest(&i))]);
            Expr::call(ScalarFn::Exp, [shifted])
        };
        let mut rows = axes.clone();
        rows.remove(self.axis);
        let over = ["k", "j"].map(|name| Axis::new(name, y[0].dims[self.axis].clone()));
        let max = load(over[0].dim());
        let sum = exp(over[1].dim());
        let ratio = Expr::call(ScalarFn::Div, [exp(i[self.axis].clone()), Expr::stage(1, rest(&i))]);
        let [k, j] = over;
        Some(Compute::chain(
            x,
            vec![
                Stage::reduce(work, rows.clone(), ReduceOp::Max, vec![k], max),
                Stage::reduce(work, rows, ReduceOp::Sum, vec![j], sum),
                Stage::map(y[0].dtype, axes, ratio.cast(work, y[0].dtype)),
            ],
        ))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(4);
        let shape = rng.shape(rank);
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
        let operand = if rng.one_in(4) { Operand::any(dtype, shape) } else { Operand::finite(dtype, shape) };
        Sample { op: Softmax { axis: rng.below(rank) }.into(), operands: vec![operand] }
    }
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

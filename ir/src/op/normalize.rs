//! Normalisation along trailing axes: layer norm and RMS norm without their scale and bias.

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
    /// `(x - mean) / sqrt(variance + epsilon)` along the trailing axes, the variance being the mean of the squared
    /// differences; without centring `x / sqrt(mean of squares + epsilon)`. Floats of rank 1 or more; 16-bit floats are
    /// computed in `f32` and rounded once.
    ///
    /// What is computed is `(x - s / n) * (1 / sqrt(t / n + epsilon))` with the sums `s` of `x` and `t` of the squared
    /// differences: to the bit what ONNX `LayerNormalization` and `RMSNormalization` are decomposed into.
    Normalize = "normalize"(x) {
        /// The last axes of the operand, one or more, in order.
        axes: Vec<usize>,
        /// What is added to the variance.
        epsilon: f64,
        /// Whether the mean is subtracted.
        center: bool,
    }
}

impl Operator for Normalize {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let x = x[0];
        ensure!(x.dtype.is_float(), "the operand must be of floats, found {x}");
        let trailing = !self.axes.is_empty()
            && self.axes.len() <= x.rank()
            && self.axes.iter().copied().eq(x.rank() - self.axes.len()..x.rank());
        ensure!(trailing, "axes {:?} are not the last ones of {x}", self.axes);
        Ok(vec![x.clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let n: usize = shape[shape.len() - self.axes.len()..].iter().product();
        let mut values = x[0].to_f64();
        let mean = |row: &[f64], f: &dyn Fn(f64) -> f64| row.iter().map(|x| f(*x)).sum::<f64>() / n as f64;
        for row in values.chunks_exact_mut(n.max(1)) {
            let centre = if self.center { mean(row, &|x| x) } else { 0.0 };
            let root = (mean(row, &|x| (x - centre).powi(2)) + self.epsilon).sqrt();
            row.iter_mut().for_each(|x| *x = (*x - centre) / root);
        }
        Ok(vec![Tensor::generate(x[0].dtype(), shape.to_vec(), |p| Scalar::F(values[p]))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let work = x[0].dtype.compute();
        let axes = Axis::outputs(&y[0].dims);
        let (rows, inner) = axes.split_at(axes.len() - self.axes.len());
        let row: Vec<Dim> = rows.iter().map(Axis::dim).collect();
        let over = |name: &str| -> Vec<Axis> {
            inner
                .iter()
                .enumerate()
                .map(|(k, a)| Axis::new(&format!("{name}{k}"), a.extent.clone()))
                .collect()
        };
        let count: Dim = inner.iter().map(|a| &a.extent).product();
        let count = Expr::Index(count).cast(DType::I64, work);
        let call = |f: ScalarFn, a: Expr, b: Expr| Expr::call(f, [a, b]);
        let mean = |sum: usize| call(ScalarFn::Div, Expr::stage(sum, row.clone()), count.clone());
        let load = |at: &[Axis]| {
            let index = row.iter().cloned().chain(at.iter().map(Axis::dim)).collect();
            Expr::input(0, index).cast(x[0].dtype, work)
        };
        let mut stages = Vec::new();
        if self.center {
            let k = over("j");
            stages.push(Stage::reduce(work, rows.to_vec(), ReduceOp::Sum, k.clone(), load(&k)));
            stages.push(Stage::map(work, rows.to_vec(), mean(0)));
        }
        let difference = |at: &[Axis]| match self.center {
            true => call(ScalarFn::Sub, load(at), Expr::stage(1, row.clone())),
            false => load(at),
        };
        let k = over("k");
        let square = call(ScalarFn::Mul, difference(&k), difference(&k));
        stages.push(Stage::reduce(work, rows.to_vec(), ReduceOp::Sum, k, square));
        let variance = mean(stages.len() - 1);
        let shifted = call(ScalarFn::Add, variance, Expr::float(work, self.epsilon));
        let root = Expr::call(ScalarFn::Sqrt, [shifted]);
        stages.push(Stage::map(work, rows.to_vec(), call(ScalarFn::Div, Expr::float(work, 1.0), root)));
        let scaled = call(ScalarFn::Mul, difference(inner), Expr::stage(stages.len() - 1, row.clone()));
        stages.push(Stage::map(y[0].dtype, axes.clone(), scaled.cast(work, y[0].dtype)));
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(4);
        let n = 1 + rng.below(rank);
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
        let epsilon = rng.pick(&[1e-5, 1e-12, 0.1]);
        let op = Normalize { axes: (rank - n..rank).collect(), epsilon, center: rng.one_in(2) };
        Sample { op: op.into(), operands: vec![Operand::finite(dtype, rng.shape(rank))] }
    }
}

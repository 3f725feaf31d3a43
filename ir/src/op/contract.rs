//! Contractions: sums of products over shared axes.

use super::elementwise::{broadcast_indices, broadcast_positions};
use super::number::{Number, filled, with_number};
use super::shape::concrete;
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::ScalarFn;
use crate::tensor::{Tensor, numel};
use crate::types::{Type, broadcast};

op! {
    /// `y[.., m, n] = sum over k of a[.., m, k] * b[.., k, n]`; the leading axes broadcast. Operands have rank 2 or
    /// more. 16-bit floats are accumulated in `f32` and rounded once; integers wrap.
    Matmul = "matmul"(a, b) {}
}

impl Operator for Matmul {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (a, b) = (x[0], x[1]);
        ensure!(
            a.dtype == b.dtype && a.dtype.is_num(),
            "operands must have one number type, found {a} and {b}"
        );
        ensure!(a.rank() >= 2 && b.rank() >= 2, "operands must have rank 2 or more, found {a} and {b}");
        let (m, k) = (&a.dims[a.rank() - 2], &a.dims[a.rank() - 1]);
        let (k2, n) = (&b.dims[b.rank() - 2], &b.dims[b.rank() - 1]);
        ensure!(k == k2, "the contracted extents differ: {k} in {a}, {k2} in {b}");
        let mut dims = broadcast(&[&a.dims[..a.rank() - 2], &b.dims[..b.rank() - 2]])?;
        dims.extend([m.clone(), n.clone()]);
        Ok(vec![Type::new(a.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let types = [Type::of(x[0].dtype(), x[0].shape()), Type::of(x[1].dtype(), x[1].shape())];
        let shape = concrete(&self.infer(&[&types[0], &types[1]])?[0].dims)?;
        Ok(vec![with_number!(x[0].dtype(), matmul(&x[0], &x[1], shape))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (a, b, y) = (&x[0], &x[1], &y[0]);
        let axes = Axis::outputs(&y.dims);
        let over = Axis::new("k", a.dims[a.rank() - 1].clone());
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let (batch, mn) = i.split_at(i.len() - 2);
        let mut at_a = broadcast_indices(&a.dims[..a.rank() - 2], batch);
        at_a.extend([mn[0].clone(), over.dim()]);
        let mut at_b = broadcast_indices(&b.dims[..b.rank() - 2], batch);
        at_b.extend([over.dim(), mn[1].clone()]);
        let work = a.dtype.compute();
        let product = Expr::call(
            ScalarFn::Mul,
            [Expr::input(0, at_a).cast(a.dtype, work), Expr::input(1, at_b).cast(b.dtype, work)],
        );
        Some(Compute::chain(
            x,
            rounded(Stage::reduce(work, axes, ReduceOp::Sum, vec![over], product), y.dtype),
        ))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype =
            rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::U8]);
        let (m, k, n) = (rng.extent(true), rng.extent(true), rng.extent(true));
        let batch: Vec<usize> = (0..rng.below(3)).map(|_| 1 + rng.below(3)).collect();
        let narrow = |rng: &mut Rng| -> Vec<usize> {
            let from = rng.below(batch.len() + 1);
            batch[from..].iter().map(|&d| if rng.one_in(3) { 1 } else { d }).collect()
        };
        let (mut a, mut b) = (narrow(rng), narrow(rng));
        a.extend([m, k]);
        b.extend([k, n]);
        Sample { op: Matmul {}.into(), operands: vec![Operand::finite(dtype, a), Operand::finite(dtype, b)] }
    }
}

/// A reduction stage, followed by a rounding stage where the result is a 16-bit float.
pub(crate) fn rounded(stage: Stage, to: DType) -> Vec<Stage> {
    let mut stages = Vec::new();
    push_rounded(&mut stages, stage, to);
    stages
}

/// Adds a reduction stage, and a rounding stage after it where the result is a 16-bit float.
pub(crate) fn push_rounded(stages: &mut Vec<Stage>, stage: Stage, to: DType) {
    let round = (stage.dtype != to).then(|| {
        let value = Expr::stage(stages.len(), stage.indices()).cast(stage.dtype, to);
        Stage::map(to, stage.axes.clone(), value)
    });
    stages.push(stage);
    stages.extend(round);
}

/// Rows that the reference evaluation works on together, so that the right operand is read less often.
const ROWS: usize = 8;

fn matmul<T: Number>(a: &Tensor, b: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
    let (m, n, k) = (shape[shape.len() - 2], shape[shape.len() - 1], a.shape()[a.rank() - 1]);
    let batch = &shape[..shape.len() - 2];
    let at_a = broadcast_positions(&a.shape()[..a.rank() - 2], batch)?;
    let at_b = broadcast_positions(&b.shape()[..b.rank() - 2], batch)?;
    let (rows, columns) = (T::read(a), T::read(b));
    let mut y = filled(numel(&shape)?, T::ZERO)?;
    for (batch, y) in y.chunks_exact_mut((m * n).max(1)).enumerate() {
        let (left, right) = (&rows[at_a[batch] * m * k..], &columns[at_b[batch] * k * n..]);
        for (block, y) in y.chunks_mut(ROWS * n).enumerate() {
            for k_idx in 0..k {
                let right = &right[k_idx * n..][..n];
                for (row, sums) in y.chunks_exact_mut(n).enumerate() {
                    let left = left[(block * ROWS + row) * k + k_idx];
                    for (sum, &right) in sums.iter_mut().zip(right) {
                        *sum = sum.add(left.mul(right));
                    }
                }
            }
        }
    }
    Tensor::generate(a.dtype(), shape, |p| y[p].scalar())
}

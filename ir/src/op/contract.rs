//! Contractions: sums of products over shared axes.

use super::elementwise::{broadcast_indices, broadcast_positions};
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
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
        let (a, b) = (&x[0], &x[1]);
        let (ra, rb) = (a.rank(), b.rank());
        let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
        let types = [Type::of(a.dtype(), a.shape()), Type::of(b.dtype(), b.shape())];
        let shape = self.infer(&[&types[0], &types[1]])?[0].shape().unwrap_or_default();
        let batch = &shape[..shape.len() - 2];
        let at_a = broadcast_positions(&a.shape()[..ra - 2], batch)?;
        let at_b = broadcast_positions(&b.shape()[..rb - 2], batch)?;
        let dot = dot_product(a, b);
        let y = Tensor::generate(a.dtype(), shape.clone(), |p| {
            let (row, col) = (p / n % m, p % n);
            let batch = p / (m * n);
            dot(k, at_a[batch] * m * k + row * k, 1, at_b[batch] * k * n + col, n)
        })?;
        Ok(vec![y])
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
    if stage.dtype == to {
        return vec![stage];
    }
    let value = Expr::stage(0, stage.indices()).cast(stage.dtype, to);
    let round = Stage::map(to, stage.axes.clone(), value);
    vec![stage, round]
}

/// The reference dot product of `len` elements from given positions and strides: in `f64` for floats, wrapping for
/// integers.
pub(crate) fn dot_product<'a>(
    a: &'a Tensor,
    b: &'a Tensor,
) -> impl Fn(usize, usize, usize, usize, usize) -> Scalar + 'a {
    let float = a.dtype().is_float();
    let (fa, fb) = if float { (a.to_f64(), b.to_f64()) } else { (Vec::new(), Vec::new()) };
    let (ia, ib) = if float { (Vec::new(), Vec::new()) } else { (a.to_i64(), b.to_i64()) };
    move |len, pa, sa, pb, sb| {
        if float {
            Scalar::F((0..len).map(|k| fa[pa + k * sa] * fb[pb + k * sb]).sum())
        } else {
            let sum =
                (0..len).fold(0i64, |s, k| s.wrapping_add(ia[pa + k * sa].wrapping_mul(ib[pb + k * sb])));
            Scalar::I(sum)
        }
    }
}

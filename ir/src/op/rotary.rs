//! Rotary position embeddings: Su et al., arXiv 2104.09864.

use super::elementwise::{broadcast_indices, broadcast_positions};
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Compute, Expr};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::{Type, broadcast};
use crate::{bail, ensure};

op! {
    /// `x * cos + turned * sin`, where `turned` are the elements by which those of `x` are turned by a quarter along
    /// the last axis: the negated second half followed by the first half, or, interleaved, the same within every pair
    /// of neighbours. The last axis has a known, even extent; `cos` and `sin` broadcast to `x`. One float type; 16-bit
    /// floats are computed in `f32` and rounded once.
    Rotary = "rotary"(x, cos, sin) {
        /// Whether neighbours are paired, else the first half with the second.
        interleaved: bool,
    }
}

impl Operator for Rotary {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let Some(size) = x[0].dims.last().and_then(Dim::as_const) else {
            bail!("the last extent of {} is not a known number", x[0])
        };
        ensure!(size % 2 == 0, "the {size} elements along the last axis of {} can't be paired", x[0]);
        ensure!(x[0].dtype.is_float(), "the operand must be of floats, found {}", x[0]);
        for t in &x[1..] {
            ensure!(t.dtype == x[0].dtype, "operands must have one float type, found {} and {t}", x[0]);
            ensure!(broadcast(&[&x[0].dims, &t.dims])? == x[0].dims, "{t} does not broadcast to {}", x[0]);
        }
        Ok(vec![x[0].clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let half = shape.last().map_or(0, |n| n / 2).max(1);
        let [x0, cos, sin] = [0, 1, 2].map(|k| x[k].to_f64());
        let (at_cos, at_sin) =
            (broadcast_positions(x[1].shape(), shape)?, broadcast_positions(x[2].shape(), shape)?);
        let y = Tensor::generate(x[0].dtype(), shape.to_vec(), |p| {
            let is_first = if self.interleaved { p % 2 == 0 } else { (p / half).is_multiple_of(2) };
            let apart = if self.interleaved { 1 } else { half };
            let turned = if is_first { -x0[p + apart] } else { x0[p - apart] };
            Scalar::F(x0[p] * cos[at_cos[p]] + turned * sin[at_sin[p]])
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (dtype, work) = (y[0].dtype, y[0].dtype.compute());
        let half = Dim::from(y[0].dims.last()?.as_const()? / 2);
        Some(Compute::map(x, &y[0], |i| {
            let (outer, last) = i.split_at(i.len() - 1);
            let last = &last[0];
            let at = |k: Dim| Expr::input(0, [outer, &[k]].concat()).cast(dtype, work);
            let factor = |k: usize| Expr::input(k, broadcast_indices(&x[k].dims, i)).cast(dtype, work);
            let is_first = match self.interleaved {
                true => Expr::call(ScalarFn::Eq, [Expr::Index(last.modulo(&2.into())), Expr::int(0)]),
                false => Expr::call(ScalarFn::Lt, [Expr::Index(last.clone()), Expr::Index(half.clone())]),
            };
            let apart = if self.interleaved { 1.into() } else { half };
            let first = Expr::call(ScalarFn::Neg, [at(last.clone() + apart.clone())]);
            let turned = first.guarded(is_first, at(last.clone() - apart));
            let products = [(at(last.clone()), factor(1)), (turned, factor(2))]
                .map(|(a, b)| Expr::call(ScalarFn::Mul, [a, b]));
            Expr::call(ScalarFn::Add, products).cast(work, dtype)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
        let rank = 1 + rng.below(4);
        let mut shape = rng.shape(rank);
        shape[rank - 1] = 2 * rng.below(9);
        let factor = |rng: &mut Rng| {
            let from = rng.below(rank);
            let narrow = shape[from..rank - 1].iter().map(|&d| if rng.one_in(2) { 1 } else { d });
            Operand::finite(dtype, narrow.chain([shape[rank - 1]]).collect())
        };
        let operands = vec![Operand::finite(dtype, shape.clone()), factor(rng), factor(rng)];
        Sample { op: Rotary { interleaved: rng.one_in(2) }.into(), operands }
    }
}

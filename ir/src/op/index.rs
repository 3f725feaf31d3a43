//! Operators without operands whose results are integers: indices and values of dimensions.

use super::shape::concrete;
use super::{Operator, Rng, Sample, op};
use crate::compute::{Compute, Expr};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure};

op! {
    /// The index along an axis, as `i64`: `y[.., i, ..] = i`.
    Iota = "iota"() {
        /// The extents of the result.
        shape: Vec<Dim>,
        /// The axis along which it counts.
        axis: usize,
    }
}

impl Operator for Iota {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        ensure!(
            self.axis < self.shape.len(),
            "axis {} is out of range for the shape {:?}",
            self.axis,
            self.shape
        );
        for d in &self.shape {
            ensure!(d.as_const().is_none_or(|d| d >= 0), "the extent {d} is negative");
        }
        Ok(vec![Type::new(DType::I64, self.shape.clone())])
    }

    fn eval(&self, _: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = concrete(&self.shape)?;
        let inner: usize = shape[self.axis + 1..].iter().fold(1, |n, &d| n.saturating_mul(d));
        let n = shape[self.axis];
        Ok(vec![Tensor::generate(DType::I64, shape, |p| Scalar::I((p / inner % n) as i64))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| Expr::Index(i[self.axis].clone())))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let shape = rng.shape(rank).into_iter().map(Dim::from).collect();
        Sample { op: Iota { shape, axis }.into(), operands: Vec::new() }
    }
}

op! {
    /// The value of an expression over symbols, as `i64` of rank 0.
    DimValue = "dim"() {
        /// The expression.
        value: Dim,
    }
}

impl Operator for DimValue {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::new(DType::I64, Vec::new())])
    }

    fn eval(&self, _: &[Tensor]) -> Result<Vec<Tensor>> {
        match self.value.as_const() {
            Some(n) => Ok(vec![Tensor::scalar(DType::I64, Scalar::I(n))]),
            None => bail!("{} is not a known number", self.value),
        }
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |_| Expr::Index(self.value.clone())))
    }

    fn sample(rng: &mut Rng) -> Sample {
        Sample { op: DimValue { value: rng.range(-9, 100).into() }.into(), operands: Vec::new() }
    }
}

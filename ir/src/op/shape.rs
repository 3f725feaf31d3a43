//! Operators that move elements without changing them.

use super::elementwise::{broadcast_indices, broadcast_positions, positions};
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Compute, Expr};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::tensor::{Tensor, numel, reserve};
use crate::types::{Type, broadcast};

/// Row-major strides of a shape, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1usize; shape.len()];
    for k in (0..shape.len().saturating_sub(1)).rev() {
        out[k] = out[k + 1].saturating_mul(shape[k + 1]);
    }
    out
}

/// A tensor of the given shape whose elements are those of `x` at the given positions.
pub(crate) fn take(x: &Tensor, shape: Vec<usize>, at: &[usize]) -> Result<Tensor> {
    let mut data = Vec::new();
    if let (4, (from, [])) = (x.dtype().size(), x.bytes().as_chunks::<4>()) {
        reserve(&mut data, at.len())?;
        data.extend(at.iter().map(|&p| from[p]));
        return Tensor::new(x.dtype(), shape, data.into_flattened().into());
    }
    let mut data = Vec::new();
    reserve(&mut data, at.len().saturating_mul(x.dtype().size()))?;
    for &p in at {
        data.extend_from_slice(element(x, p));
    }
    Tensor::new(x.dtype(), shape, data.into())
}

/// The bytes of the element at a row-major position.
pub(crate) fn element(x: &Tensor, p: usize) -> &[u8] {
    let n = x.dtype().size();
    &x.bytes()[p * n..(p + 1) * n]
}

/// Calls `f` with every index of a shape, in row-major order.
pub(crate) fn each_index(shape: &[usize], mut f: impl FnMut(&[usize]) -> Result<()>) -> Result<()> {
    let mut index = vec![0; shape.len()];
    for _ in 0..numel(shape)? {
        f(&index)?;
        for k in (0..shape.len()).rev() {
            index[k] += 1;
            if index[k] < shape[k] {
                break;
            }
            index[k] = 0;
        }
    }
    Ok(())
}

/// The row-major position of an index.
pub(crate) fn position(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (i, d)| at * d + i)
}

/// A tensor of the given shape whose element at each index is that of `x` at the position that `f` gives.
pub(crate) fn take_by(
    x: &Tensor,
    shape: Vec<usize>,
    mut f: impl FnMut(&[usize]) -> Result<usize>,
) -> Result<Tensor> {
    let mut data = Vec::new();
    reserve(&mut data, numel(&shape)?.saturating_mul(x.dtype().size()))?;
    each_index(&shape, |i| {
        data.extend_from_slice(element(x, f(i)?));
        Ok(())
    })?;
    Tensor::new(x.dtype(), shape, data.into())
}

/// Constant extents as a shape; an error names the symbolic one.
pub(crate) fn concrete(dims: &[Dim]) -> Result<Vec<usize>> {
    dims.iter()
        .map(|d| match d.as_const().and_then(|d| usize::try_from(d).ok()) {
            Some(d) => Ok(d),
            None => Err(crate::error::Error::new(format!("dimension {d} is not a known number"))),
        })
        .collect()
}

op! {
    /// A constant.
    Const = "const"() {
        /// Its value.
        value: Tensor,
    }
}

impl Operator for Const {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::of(self.value.dtype(), self.value.shape())])
    }

    fn eval(&self, _: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![self.value.clone()])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let shape = rng.shape(2);
        let value = rng
            .tensor(&Operand::any(DType::F32, shape))
            .unwrap_or(Tensor::scalar(DType::F32, crate::scalar::Scalar::F(0.0)));
        Sample { op: Const { value }.into(), operands: Vec::new() }
    }
}

op! {
    /// The same elements in row-major order under other extents.
    Reshape = "reshape"(x) {
        /// The extents of the result; their product must equal the operand's.
        shape: Vec<Dim>,
    }
}

impl Operator for Reshape {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let y = Type::new(x[0].dtype, self.shape.clone());
        if let (Some(a), Some(b)) = (x[0].numel().as_const(), y.numel().as_const()) {
            ensure!(a == b, "cannot reshape {} ({a} elements) to {} ({b} elements)", x[0], y);
        }
        Ok(vec![y])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![x[0].reshape(concrete(&self.shape)?)?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| Expr::input(0, unflatten(&flatten(i, &y[0].dims), &x[0].dims))))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let shape: Vec<usize> = rng.shape(3).iter().map(|&d| d.max(1)).collect();
        let mut to: Vec<usize> = shape.iter().rev().copied().collect();
        if rng.one_in(2) {
            to = vec![shape.iter().product()];
        }
        let op = Reshape { shape: to.into_iter().map(Dim::from).collect() }.into();
        Sample { op, operands: vec![Operand::any(rng.pick(&[DType::F32, DType::I64, DType::Bool]), shape)] }
    }
}

/// The row-major position of an index.
pub fn flatten(index: &[Dim], dims: &[Dim]) -> Dim {
    index.iter().zip(dims).fold(0.into(), |at: Dim, (i, d)| at * d.clone() + i.clone())
}

/// The index at a row-major position.
pub fn unflatten(at: &Dim, dims: &[Dim]) -> Vec<Dim> {
    let mut index = vec![Dim::from(0); dims.len()];
    let mut rest = at.clone();
    for k in (0..dims.len()).rev() {
        if dims[k].is(1) {
            continue;
        }
        let outer_is_one = dims[..k].iter().all(|d| d.is(1));
        index[k] = if outer_is_one { rest.clone() } else { rest.modulo(&dims[k]) };
        rest = rest.floor_div(&dims[k]);
    }
    index
}

op! {
    /// Axes in another order: result axis `k` is operand axis `perm[k]`.
    Transpose = "transpose"(x) {
        /// A permutation of the axes.
        perm: Vec<usize>,
    }
}

impl Operator for Transpose {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        ensure!(
            sorted.iter().copied().eq(0..x[0].rank()),
            "perm {:?} is no permutation of the {} axes of {}",
            self.perm,
            x[0].rank(),
            x[0]
        );
        Ok(vec![Type::new(x[0].dtype, self.perm.iter().map(|&k| x[0].dims[k].clone()).collect())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let from = strides(x[0].shape());
        let shape: Vec<usize> = self.perm.iter().map(|&k| x[0].shape()[k]).collect();
        let at = positions(&shape, &self.perm.iter().map(|&k| from[k]).collect::<Vec<_>>())?;
        Ok(vec![take(&x[0], shape, &at)?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| {
            let mut from = vec![Dim::from(0); i.len()];
            for (i, &k) in i.iter().zip(&self.perm) {
                from[k] = i.clone();
            }
            Expr::input(0, from)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(4);
        let mut perm: Vec<usize> = (0..rank).collect();
        for k in 0..rank {
            perm.swap(k, k + rng.below(rank - k));
        }
        let shape = rng.shape(rank);
        Sample {
            op: Transpose { perm }.into(),
            operands: vec![Operand::any(rng.pick(&DType::ALL[..13]), shape)],
        }
    }
}

op! {
    /// Unidirectional broadcasting to given extents, which must not be narrower than the operand's.
    Expand = "expand"(x) {
        /// The extents of the result.
        shape: Vec<Dim>,
    }
}

impl Operator for Expand {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let dims = broadcast(&[&x[0].dims, &self.shape])?;
        ensure!(dims == self.shape, "{} is wider than the extents {:?} to expand to", x[0], self.shape);
        Ok(vec![Type::new(x[0].dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = concrete(&self.shape)?;
        let at = broadcast_positions(x[0].shape(), &shape)?;
        Ok(vec![take(&x[0], shape, &at)?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| Expr::input(0, broadcast_indices(&x[0].dims, i))))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let shape = rng.shape(3);
        let from = rng.below(3);
        let narrow = shape[from..].iter().map(|&d| if rng.one_in(2) { 1 } else { d }).collect();
        let op = Expand { shape: shape.iter().map(|&d| d.into()).collect() }.into();
        Sample { op, operands: vec![Operand::any(rng.pick(&[DType::F32, DType::U8, DType::I64]), narrow)] }
    }
}

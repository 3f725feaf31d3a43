//! Gathering: elements taken at indices that are data.
//!
//! Indices are `i32` or `i64`; negative ones count from the back. An index out of range is an error of the
//! interpreter; compiled code, which has no way to report it, takes the nearest element instead.

use super::shape::{position, take_by};
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Compute, Expr};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure};

/// Whether the indices' type is right.
pub(crate) fn check_indices(indices: &Type) -> Result<()> {
    ensure!(matches!(indices.dtype, DType::I32 | DType::I64), "indices must be i32 or i64, found {indices}");
    Ok(())
}

/// An index as a position along an axis of extent `d`; negative ones count from the back.
pub(crate) fn wrapped(index: i64, d: usize) -> Result<usize> {
    let n = d as i64;
    ensure!((-n..n).contains(&index), "index {index} is out of range for an axis of extent {d}");
    Ok(if index < 0 { index + n } else { index } as usize)
}

/// The expression of an index of type `dtype` as a position along an axis of extent `d`: negative ones count from
/// the back, then clamped. It is a position only where the axis isn't empty; see [`not_empty`].
fn wrapped_expr(index: Expr, dtype: DType, d: &Dim) -> Expr {
    let index = index.cast(dtype, DType::I64);
    let negative = Expr::call(ScalarFn::Lt, [index.clone(), Expr::int(0)]);
    let from_back = Expr::Index(d.clone()).guarded(negative, Expr::int(0));
    let at = Expr::call(ScalarFn::Add, [index, from_back]);
    let at = Expr::call(ScalarFn::Min, [at, Expr::Index(d.clone() - 1.into())]);
    Expr::call(ScalarFn::Max, [at, Expr::int(0)])
}

/// `load`, or zero where one of the extents indexed by data is 0.
fn not_empty<'a>(load: Expr, dtype: DType, extents: impl Iterator<Item = &'a Dim>) -> Expr {
    let conds: Vec<Expr> = extents
        .filter(|d| d.as_const().is_none_or(|d| d < 1))
        .map(|d| Expr::call(ScalarFn::Gt, [Expr::Index(d.clone()), Expr::int(0)]))
        .collect();
    match conds.is_empty() {
        true => load,
        false => load.guarded(Expr::all(conds), Expr::Const(dtype, Scalar::zero(dtype))),
    }
}

/// An index in `0..extent`, kept below another extent that isn't known to be as large.
fn clamped(i: &Dim, extent: &Dim, below: &Dim) -> Dim {
    match (below.clone() - extent.clone()).as_const() {
        Some(0..) => i.clone(),
        _ => i.minimum(&(below.clone() - 1.into())),
    }
}

op! {
    /// Slices along an axis, one for each index: `y[a, i, b] = x[a, indices[i], b]`.
    Gather = "gather"(x, indices) {
        /// The axis, which the axes of the indices replace.
        axis: usize,
    }
}

impl Operator for Gather {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, indices) = (x[0], x[1]);
        check_indices(indices)?;
        ensure!(self.axis < x.rank(), "axis {} is out of range for {x}", self.axis);
        let mut dims = x.dims.clone();
        dims.splice(self.axis..=self.axis, indices.dims.iter().cloned());
        Ok(vec![Type::new(x.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, indices, axis) = (&x[0], &x[1], self.axis);
        let at: Vec<usize> =
            indices.to_i64().into_iter().map(|i| wrapped(i, x.shape()[axis])).collect::<Result<_>>()?;
        let mut shape = x.shape().to_vec();
        shape.splice(axis..=axis, indices.shape().iter().copied());
        let r = indices.rank();
        let mut from = vec![0; x.rank()];
        let y = take_by(x, shape, |i| {
            from[..axis].copy_from_slice(&i[..axis]);
            from[axis] = at[position(&i[axis..axis + r], indices.shape())];
            from[axis + 1..].copy_from_slice(&i[axis + r..]);
            Ok(position(&from, x.shape()))
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (axis, r) = (self.axis, x[1].rank());
        let d = &x[0].dims[axis];
        Some(Compute::map(x, &y[0], |i| {
            let mut at: Vec<Expr> = i[..axis].iter().cloned().map(Expr::Index).collect();
            at.push(wrapped_expr(Expr::input(1, i[axis..axis + r].to_vec()), x[1].dtype, d));
            at.extend(i[axis + r..].iter().cloned().map(Expr::Index));
            not_empty(Expr::Load(crate::compute::Source::Input(0), at), x[0].dtype, [d].into_iter())
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let mut shape = rng.shape(rank);
        shape[axis] = shape[axis].max(1);
        let index_rank = rng.below(3);
        let at = (0..index_rank).map(|_| rng.below(6)).collect();
        Sample {
            op: Gather { axis }.into(),
            operands: vec![
                Operand::any(rng.pick(&DType::ALL[..13]), shape.clone()),
                index_operand(rng, at, shape[axis]),
            ],
        }
    }
}

/// Random indices into an axis of extent `d`, of either type.
pub(crate) fn index_operand(rng: &mut Rng, shape: Vec<usize>, d: usize) -> Operand {
    let values = Values::Between(-(d as i64), d as i64);
    Operand { dtype: rng.pick(&[DType::I32, DType::I64]), shape, values }
}

op! {
    /// One element for each index: `y[a, i, b] = x[a, indices[a, i, b], b]`. Both operands have the same rank, and
    /// along the other axes the indices' extents don't exceed the operand's.
    GatherElements = "gather_elements"(x, indices) {
        /// The axis indexed.
        axis: usize,
    }
}

/// What `gather_elements` and `scatter_elements` ask of their operands.
pub(crate) fn check_elements(x: &Type, indices: &Type, axis: usize) -> Result<()> {
    check_indices(indices)?;
    ensure!(axis < x.rank(), "axis {axis} is out of range for {x}");
    ensure!(indices.rank() == x.rank(), "operand and indices must have one rank, found {x} and {indices}");
    for k in (0..x.rank()).filter(|&k| k != axis) {
        let room = x.dims[k].clone() - indices.dims[k].clone();
        ensure!(
            room.as_const().is_none_or(|r| r >= 0),
            "axis {k} of the indices {indices} is longer than that of {x}"
        );
    }
    Ok(())
}

impl Operator for GatherElements {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        check_elements(x[0], x[1], self.axis)?;
        Ok(vec![x[1].with_dtype(x[0].dtype)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, indices) = (&x[0], &x[1]);
        let y = take_by(x, indices.shape().to_vec(), |i| {
            let mut from = i.to_vec();
            let index = indices.get(position(i, indices.shape())).as_i64();
            from[self.axis] = wrapped(index, x.shape()[self.axis])?;
            Ok(position(&from, x.shape()))
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let dims = &x[0].dims;
        Some(Compute::map(x, &y[0], |i| {
            let mut at: Vec<Expr> =
                (0..i.len()).map(|k| Expr::Index(clamped(&i[k], &x[1].dims[k], &dims[k]))).collect();
            at[self.axis] = wrapped_expr(Expr::input(1, i.to_vec()), x[1].dtype, &dims[self.axis]);
            let unsure =
                (0..i.len()).filter(|&k| k == self.axis || dims[k] != x[1].dims[k]).map(|k| &dims[k]);
            not_empty(Expr::Load(crate::compute::Source::Input(0), at), x[0].dtype, unsure)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (x, indices, axis) = elements_operands(rng);
        Sample {
            op: GatherElements { axis }.into(),
            operands: vec![Operand::any(rng.pick(&DType::ALL[..13]), x), indices],
        }
    }
}

/// A shape, indices into it and an axis, as `gather_elements` and `scatter_elements` take them.
pub(crate) fn elements_operands(rng: &mut Rng) -> (Vec<usize>, Operand, usize) {
    let rank = 1 + rng.below(3);
    let axis = rng.below(rank);
    let mut x = rng.shape(rank);
    x[axis] = x[axis].max(1);
    let mut shape: Vec<usize> = x.iter().map(|&d| if rng.one_in(2) { d } else { rng.below(d + 1) }).collect();
    shape[axis] = rng.below(8);
    let d = x[axis];
    (x, index_operand(rng, shape, d), axis)
}

op! {
    /// Slices at index vectors: `y[a, i, b] = x[a, indices[a, i, :], b]`, where `a` runs over the batch axes. The last
    /// extent of the indices, a known number, says how many axes a vector indexes.
    GatherNd = "gather_nd"(x, indices) {
        /// The number of leading axes that both operands share.
        batch_dims: usize,
    }
}

impl Operator for GatherNd {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, indices, b) = (x[0], x[1], self.batch_dims);
        check_indices(indices)?;
        let q = vector_len(indices)?;
        ensure!(b < indices.rank(), "batch_dims {b} leaves no axis for the index vectors of {indices}");
        ensure!(b + q <= x.rank(), "{b} batch axes and vectors of {q} are too many for {x}");
        ensure!(x.dims[..b] == indices.dims[..b], "the first {b} extents of {x} and {indices} differ");
        let mut dims = indices.dims[..indices.rank() - 1].to_vec();
        dims.extend_from_slice(&x.dims[b + q..]);
        Ok(vec![Type::new(x.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, indices, b) = (&x[0], &x[1], self.batch_dims);
        let r = indices.rank() - 1;
        let q = indices.shape()[r];
        let mut shape = indices.shape()[..r].to_vec();
        shape.extend_from_slice(&x.shape()[b + q..]);
        let y = take_by(x, shape, |i| {
            let mut from = i[..b].to_vec();
            let vector = position(&i[..r], indices.shape()) * q;
            for k in 0..q {
                from.push(wrapped(indices.get(vector + k).as_i64(), x.shape()[b + k])?);
            }
            from.extend_from_slice(&i[r..]);
            Ok(position(&from, x.shape()))
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let b = self.batch_dims;
        let r = x[1].rank() - 1;
        let q = vector_len(&x[1]).ok()?;
        let indexed = &x[0].dims[b..b + q];
        Some(Compute::map(x, &y[0], |i| {
            let mut at: Vec<Expr> = i[..b].iter().cloned().map(Expr::Index).collect();
            for (k, d) in indexed.iter().enumerate() {
                let mut from = i[..r].to_vec();
                from.push(k.into());
                at.push(wrapped_expr(Expr::input(1, from), x[1].dtype, d));
            }
            at.extend(i[r..].iter().cloned().map(Expr::Index));
            not_empty(Expr::Load(crate::compute::Source::Input(0), at), x[0].dtype, indexed.iter())
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(4);
        let batch_dims = rng.below(rank);
        let q = rng.below(rank - batch_dims + 1);
        let mut x = rng.shape(rank);
        for d in &mut x[batch_dims..batch_dims + q] {
            *d = (*d).max(1);
        }
        let mut outer = x[..batch_dims].to_vec();
        outer.extend((0..rng.below(3)).map(|_| rng.below(4)));
        let indices = vector_operand(rng, outer, &x[batch_dims..batch_dims + q]);
        Sample {
            op: GatherNd { batch_dims }.into(),
            operands: vec![Operand::any(rng.pick(&DType::ALL[..13]), x), indices],
        }
    }
}

/// The length of the index vectors: the last extent of the indices.
pub(crate) fn vector_len(indices: &Type) -> Result<usize> {
    match indices.dims.last().and_then(Dim::as_const).and_then(|q| usize::try_from(q).ok()) {
        Some(q) => Ok(q),
        None => bail!("the last extent of the indices must be a known number, found {indices}"),
    }
}

/// Random index vectors into axes of the given extents.
pub(crate) fn vector_operand(rng: &mut Rng, outer: Vec<usize>, extents: &[usize]) -> Operand {
    let n: usize = outer.iter().product();
    let one = |rng: &mut Rng, d: usize| Scalar::I(rng.range(-(d as i64), d as i64));
    let mut values: Vec<Scalar> = Vec::new();
    for _ in 0..n {
        values.extend(extents.iter().map(|&d| one(rng, d)));
    }
    let mut shape = outer;
    shape.push(extents.len());
    Operand { dtype: rng.pick(&[DType::I32, DType::I64]), shape, values: Values::Exactly(values) }
}

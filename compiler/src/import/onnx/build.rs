//! Short names for adding core operators to the graph being built.
//!
//! What changes nothing (a cast to the same type, a reshape to the same extents) adds nothing.

use super::ctx::Ctx;
use super::{know, types};
use crate::import::proto::TensorProto;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Range};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::graph::ValueId;
use aic_ir::op::{
    Cast, Concat, DimValue, Elementwise, Expand, Gather, Iota, Matmul, Op, Pad, PadMode, Reduce, Reshape,
    Slice, Transpose,
};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::types::axis_index;
use aic_ir::{bail, ensure};

/// Declares methods that apply one scalar function.
macro_rules! functions {
    ($($name:ident($($x:ident),*) = $f:ident;)*) => { $(
        #[doc = concat!("Elementwise [`ScalarFn::", stringify!($f), "`], broadcasting.")]
        pub fn $name(&mut self, $($x: ValueId),*) -> Result<ValueId> { self.apply(ScalarFn::$f, &[$($x),*]) }
    )* };
}

impl Ctx<'_> {
    functions! {
        plus(a, b) = Add;
        minus(a, b) = Sub;
        times(a, b) = Mul;
        divide(a, b) = Div;
        maximum(a, b) = Max;
        minimum(a, b) = Min;
        power(a, b) = Pow;
        negate(a) = Neg;
        abs(a) = Abs;
        exp(a) = Exp;
        log(a) = Log;
        sqrt(a) = Sqrt;
        tanh(a) = Tanh;
        sigmoid(a) = Sigmoid;
        floor(a) = Floor;
        round(a) = Round;
        equal(a, b) = Eq;
        less(a, b) = Lt;
        less_equal(a, b) = Le;
        greater(a, b) = Gt;
        greater_equal(a, b) = Ge;
        and(a, b) = And;
        not(a) = Not;
        select(condition, a, b) = Select;
    }

    /// Adds an operator of any number of results.
    pub fn add_all(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.body.graph.add(op.into(), inputs, &self.node.origin)
    }

    /// Adds an operator of one result.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let results = self.add_all(op, inputs)?;
        match results.first() {
            Some(&first) => Ok(first),
            None => bail!("the operator has no result"),
        }
    }

    /// Applies a scalar function to every element, broadcasting.
    pub fn apply(&mut self, f: ScalarFn, inputs: &[ValueId]) -> Result<ValueId> {
        self.add(Elementwise { f }, inputs)
    }

    /// A constant.
    pub fn tensor(&mut self, value: Tensor) -> ValueId {
        self.body.graph.add_const(value, &self.node.origin)
    }

    /// A tensor of the model.
    pub fn model_tensor(&mut self, proto: &TensorProto) -> Result<ValueId> {
        let (tensor, stored) = types::tensor(self.model, proto)?;
        let value = self.tensor(tensor);
        self.body.know.stored_as(value, stored);
        Ok(value)
    }

    /// A number of rank 0, of the given element type.
    pub fn number(&mut self, value: f64, dtype: DType) -> ValueId {
        self.tensor(Tensor::scalar(dtype, Scalar::F(value)))
    }

    /// A number of rank 0, of the element type of `x`.
    pub fn number_like(&mut self, value: f64, x: ValueId) -> ValueId {
        self.number(value, self.dtype(x))
    }

    /// A list of integers, `i64` of rank 1.
    pub fn integers(&mut self, values: &[i64]) -> Result<ValueId> {
        Ok(self.tensor(Tensor::from_vec(vec![values.len()], values)?))
    }

    /// `x + value` and so on, with a number of the type of `x`.
    pub fn with_number(&mut self, f: ScalarFn, x: ValueId, value: f64) -> Result<ValueId> {
        let value = self.number_like(value, x);
        self.apply(f, &[x, value])
    }

    /// `x * value`
    pub fn scaled(&mut self, x: ValueId, value: f64) -> Result<ValueId> {
        if value == 1.0 { Ok(x) } else { self.with_number(ScalarFn::Mul, x, value) }
    }

    /// `x + value`
    pub fn shifted(&mut self, x: ValueId, value: f64) -> Result<ValueId> {
        if value == 0.0 { Ok(x) } else { self.with_number(ScalarFn::Add, x, value) }
    }

    /// `1 / x`
    pub fn reciprocal(&mut self, x: ValueId) -> Result<ValueId> {
        let one = self.number_like(1.0, x);
        self.divide(one, x)
    }

    /// `max(x, 0)`
    pub fn relu(&mut self, x: ValueId) -> Result<ValueId> {
        self.with_number(ScalarFn::Max, x, 0.0)
    }

    /// `min(max(x, low), high)`
    pub fn clamp(&mut self, x: ValueId, low: f64, high: f64) -> Result<ValueId> {
        let x = self.with_number(ScalarFn::Max, x, low)?;
        self.with_number(ScalarFn::Min, x, high)
    }

    /// Folds values by a binary function from the left.
    pub fn fold(&mut self, f: ScalarFn, values: &[ValueId]) -> Result<ValueId> {
        let Some((&first, rest)) = values.split_first() else { bail!("at least one input is needed") };
        rest.iter().try_fold(first, |all, &x| self.apply(f, &[all, x]))
    }

    /// Converts to another element type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.add(Cast { to }, &[x]) }
    }

    /// Converts 16-bit floats to `f32`, in which long sums of them are to be computed.
    pub fn widened(&mut self, x: ValueId) -> Result<ValueId> {
        self.cast(x, self.dtype(x).compute())
    }

    /// Computes with 16-bit floats widened to `f32`, and rounds the result once.
    pub fn in_wide(
        &mut self,
        x: ValueId,
        f: impl FnOnce(&mut Self, ValueId) -> Result<ValueId>,
    ) -> Result<ValueId> {
        let wide = self.widened(x)?;
        let y = f(self, wide)?;
        self.cast(y, self.dtype(x))
    }

    /// The value of an expression over symbols, of rank 0 and the given element type.
    pub fn dim_value(&mut self, value: &Dim, dtype: DType) -> Result<ValueId> {
        match value.as_const() {
            Some(n) => Ok(self.tensor(Tensor::scalar(dtype, Scalar::I(n)))),
            None => {
                let value = self.add(DimValue { value: value.clone() }, &[])?;
                self.cast(value, dtype)
            }
        }
    }

    /// Expressions over symbols as an `i64` tensor of rank 1.
    pub fn dims_value(&mut self, values: &[Dim]) -> Result<ValueId> {
        let constants: Option<Vec<i64>> = values.iter().map(Dim::as_const).collect();
        if let Some(constants) = constants {
            return self.integers(&constants);
        }
        let mut parts = Vec::new();
        for value in values {
            let scalar = self.dim_value(value, DType::I64)?;
            parts.push(self.reshape(scalar, vec![1.into()])?);
        }
        self.concat(&parts, 0)
    }

    /// The index along an axis.
    pub fn iota(&mut self, shape: Vec<Dim>, axis: usize, dtype: DType) -> Result<ValueId> {
        let index = self.add(Iota { shape, axis }, &[])?;
        self.cast(index, dtype)
    }

    /// The same elements under other extents.
    pub fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.ty(x).dims == shape { Ok(x) } else { self.add(Reshape { shape }, &[x]) }
    }

    /// Axes `perm[0], perm[1], ..`
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.iter().copied().eq(0..self.rank(x)) {
            return Ok(x);
        }
        self.add(Transpose { perm: perm.into() }, &[x])
    }

    /// The last two axes exchanged.
    pub fn transpose_last(&mut self, x: ValueId) -> Result<ValueId> {
        let rank = self.rank(x);
        ensure!(rank >= 2, "expected a matrix or a batch of matrices, found {}", self.ty(x));
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        self.transpose(x, &perm)
    }

    /// Axes of extent 1 put in so that they are at the given positions of the result.
    pub fn unsqueeze(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId> {
        let mut rest = self.dims(x).into_iter();
        let rank = rest.len() + axes.len();
        let dims =
            (0..rank).filter_map(|k| if axes.contains(&k) { Some(1.into()) } else { rest.next() }).collect();
        self.reshape(x, dims)
    }

    /// Axes of extent 1 removed.
    pub fn squeeze(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId> {
        let dims = self.dims(x);
        for &axis in axes {
            let one = dims.get(axis).is_some_and(|d| d.is(1));
            ensure!(one, "axis {axis} of {} to be removed must have extent 1", self.ty(x));
        }
        let kept = dims.into_iter().enumerate().filter(|(k, _)| !axes.contains(k)).map(|(_, d)| d).collect();
        self.reshape(x, kept)
    }

    /// Broadcasting to given extents.
    pub fn expand(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.ty(x).dims == shape { Ok(x) } else { self.add(Expand { shape }, &[x]) }
    }

    /// A constant everywhere.
    pub fn filled(&mut self, value: Scalar, dtype: DType, shape: Vec<Dim>) -> Result<ValueId> {
        let value = self.tensor(Tensor::scalar(dtype, value));
        self.expand(value, shape)
    }

    /// A vector along `axis` of a tensor of the given rank, to broadcast with it.
    pub fn along(&mut self, vector: ValueId, axis: usize, rank: usize) -> Result<ValueId> {
        let mut dims = vec![Dim::from(1); rank];
        ensure!(self.rank(vector) == 1, "expected a vector, found {}", self.ty(vector));
        ensure!(axis < rank, "expected rank {} or more, found {rank}", axis + 1);
        dims[axis] = self.dim(vector, 0);
        self.reshape(vector, dims)
    }

    /// `size` elements along an axis from `start` on.
    pub fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: impl Into<Dim>,
        size: impl Into<Dim>,
    ) -> Result<ValueId> {
        self.slice_by(x, axis, start.into(), size.into(), 1)
    }

    /// `size` elements along an axis from `start` on, `step` apart.
    pub fn slice_by(&mut self, x: ValueId, axis: usize, start: Dim, size: Dim, step: i64) -> Result<ValueId> {
        let mut sizes = self.dims(x);
        ensure!(axis < sizes.len(), "expected rank {} or more, found {}", axis + 1, self.ty(x));
        if start.is(0) && step == 1 && sizes[axis] == size {
            return Ok(x);
        }
        let mut starts = vec![Dim::from(0); sizes.len()];
        let mut steps = vec![1; sizes.len()];
        (starts[axis], sizes[axis], steps[axis]) = (start, size, step);
        self.add(Slice { starts, sizes, steps }, &[x])
    }

    /// The elements along an axis in reverse.
    pub fn reverse(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let size = self.dim(x, axis);
        self.slice_by(x, axis, size.clone() - 1.into(), size, -1)
    }

    /// The slice at one position along an axis, which disappears.
    pub fn at(&mut self, x: ValueId, axis: usize, position: impl Into<Dim>) -> Result<ValueId> {
        let slice = self.slice(x, axis, position, 1)?;
        self.squeeze(slice, &[axis])
    }

    /// Parts of given sizes along an axis, which must add up to its extent.
    pub fn split(&mut self, x: ValueId, axis: usize, sizes: &[Dim]) -> Result<Vec<ValueId>> {
        let mut start = Dim::from(0);
        let mut parts = Vec::new();
        for size in sizes {
            parts.push(self.slice(x, axis, start.clone(), size.clone())?);
            start = start + size.clone();
        }
        Ok(parts)
    }

    /// Values one after the other along an axis.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.add(Concat { axis }, parts),
        }
    }

    /// Slices along an axis at given indices.
    pub fn gather(&mut self, x: ValueId, indices: ValueId, axis: usize) -> Result<ValueId> {
        self.add(Gather { axis }, &[x, indices])
    }

    /// Elements put before and after along every axis.
    pub fn pad(&mut self, x: ValueId, lo: Vec<Dim>, hi: Vec<Dim>, value: Scalar) -> Result<ValueId> {
        if lo.iter().chain(&hi).all(|d| d.is(0)) {
            return Ok(x);
        }
        let interior = vec![0; lo.len()];
        let value = self.tensor(Tensor::scalar(self.dtype(x), value));
        self.add(Pad { mode: PadMode::Constant, lo, hi, interior }, &[x, value])
    }

    /// The product of matrices; leading axes broadcast.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.add(Matmul {}, &[a, b])
    }

    /// Combines elements along axes, which stay with extent 1 if `keep`.
    pub fn reduce(&mut self, op: ReduceOp, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        let mut dims = self.dims(x);
        let reduced = match axes.is_empty() {
            true => x,
            false => self.add(Reduce { op, axes: axes.clone() }, &[x])?,
        };
        if !keep {
            return Ok(reduced);
        }
        axes.iter().for_each(|&axis| dims[axis] = 1.into());
        self.reshape(reduced, dims)
    }

    /// The sum along axes.
    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        self.reduce(ReduceOp::Sum, x, axes, keep)
    }

    /// The mean along axes.
    pub fn mean(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        let count: Dim = axes.iter().map(|&axis| self.dim(x, axis)).collect::<Vec<_>>().iter().product();
        let sum = self.sum(x, axes, keep)?;
        let count = self.dim_value(&count, self.dtype(x))?;
        self.divide(sum, count)
    }

    /// An axis attribute or input counted from the front.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        axis_index(axis, rank)
    }

    /// Distinct axes counted from the front.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let axes: Vec<usize> = axes.iter().map(|&axis| axis_index(axis, rank)).collect::<Result<_>>()?;
        for (k, axis) in axes.iter().enumerate() {
            ensure!(!axes[..k].contains(axis), "axis {axis} is named twice");
        }
        Ok(axes)
    }

    /// Refuses a value whose extents can't equal the given ones.
    pub fn expect_dims(&self, x: ValueId, dims: &[Dim], what: &str) -> Result<()> {
        let ty = self.ty(x);
        let differ = |(a, b): (&Dim, &Dim)| (a.clone() - b.clone()).as_const().is_some_and(|d| d != 0);
        if ty.rank() != dims.len() || ty.dims.iter().zip(dims).any(differ) {
            return Err(Error::new(format!("{what} must have extents {dims:?}, found {ty}")));
        }
        Ok(())
    }

    /// A position along an axis of the given extent, which counts from the back if it is negative, limited to
    /// `0..=extent` (`-1..=extent - 1` for negative steps).
    pub fn clamped_position(&mut self, at: &Dim, extent: &Dim, step: i64) -> Dim {
        let (lowest, highest) = match step > 0 {
            true => (Dim::from(0), extent.clone()),
            false => (Dim::from(-1), extent.clone() - 1.into()),
        };
        let at = match at.as_const() {
            // Exporters write "to the end" as a number beyond any extent.
            Some(n) if n >= i32::MAX.into() => return highest,
            Some(n) if n <= -i64::from(i32::MAX) => return lowest,
            _ if know::range(at).hi < 0 => at.clone() + extent.clone(),
            _ => at.clone(),
        };
        let at = self.assume_larger(&at, &lowest);
        self.assume_smaller(&at, &highest)
    }

    /// An extent computed as a difference: 0 where the difference is negative.
    pub fn not_negative(&mut self, size: Dim) -> Dim {
        self.assume_larger(&size, &0.into())
    }

    /// The larger of `a` and `low`. Where `a` is below `low` only for empty inputs, these are refused.
    fn assume_larger(&mut self, a: &Dim, low: &Dim) -> Dim {
        let margin = a.clone() - low.clone();
        if holds_unless_empty(&margin) && self.require(margin) { a.clone() } else { know::larger(a, low) }
    }

    /// The smaller of `a` and `high`. Where `a` is above `high` only for empty inputs, these are refused; so are those
    /// for which a position that is computed from extents (that of a table of as many rows as the longest input has
    /// elements, say) is beyond the end.
    fn assume_smaller(&mut self, a: &Dim, high: &Dim) -> Dim {
        let margin = high.clone() - a.clone();
        let above = know::range(&margin).hi <= 0;
        let expected = holds_unless_empty(&margin) || a.as_const().is_none();
        if !above && expected && self.require(margin) { a.clone() } else { know::smaller(a, high) }
    }
}

/// Whether an expression is at least 0 for all symbols of at least 1.
fn holds_unless_empty(dim: &Dim) -> bool {
    dim.range(&|_| Range::new(1, i64::MAX)).lo >= 0
}

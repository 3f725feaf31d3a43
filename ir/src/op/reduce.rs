//! Reductions over axes.

use super::contract::rounded;
use super::shape::strides;
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::op::elementwise::positions;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::types::Type;

op! {
    /// Combines all elements along some axes, which disappear. `argmax` and `argmin` take one axis and give `i64`;
    /// `and` and `or` take `bool`, the others numbers. Sums of 16-bit floats are accumulated in `f32`.
    Reduce = "reduce"(x) {
        /// How elements are combined.
        op: ReduceOp,
        /// Distinct axes in increasing order.
        axes: Vec<usize>,
    }
}

impl Operator for Reduce {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let x = x[0];
        ensure!(self.axes.windows(2).all(|w| w[0] < w[1]), "axes {:?} are not increasing", self.axes);
        ensure!(self.axes.iter().all(|&a| a < x.rank()), "axes {:?} are out of range for {x}", self.axes);
        let logical = matches!(self.op, ReduceOp::And | ReduceOp::Or);
        let fits = if logical { x.dtype == DType::Bool } else { x.dtype.is_num() };
        ensure!(fits, "{} takes {}, found {x}", self.op.keyword(), if logical { "bool" } else { "numbers" });
        let index = self.op.combine().is_none();
        ensure!(
            !index || self.axes.len() == 1,
            "{} takes one axis, found {:?}",
            self.op.keyword(),
            self.axes
        );
        let dims = (0..x.rank()).filter(|k| !self.axes.contains(k)).map(|k| x.dims[k].clone()).collect();
        Ok(vec![Type::new(if index { DType::I64 } else { x.dtype }, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &x[0];
        let all = strides(x.shape());
        let part = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
            (0..x.rank()).filter(|k| self.axes.contains(k) == reduced).map(|k| (x.shape()[k], all[k])).unzip()
        };
        let ((kept, kept_strides), (over, over_strides)) = (part(false), part(true));
        let starts = positions(&kept, &kept_strides)?;
        let offsets = positions(&over, &over_strides)?;
        let dtype = if self.op.combine().is_some() { x.dtype() } else { DType::I64 };
        let y = Tensor::generate(dtype, kept, |p| {
            self.op.apply(x.dtype(), offsets.iter().map(|o| x.get(starts[p] + o)))
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (mut axes, mut over, mut at) = (Vec::new(), Vec::new(), Vec::new());
        for (k, d) in x[0].dims.iter().enumerate() {
            let list = if self.axes.contains(&k) { &mut over } else { &mut axes };
            list.push(Axis::new(&format!("i{k}"), d.clone()));
            at.push(Dim::named(&format!("i{k}")));
        }
        let index = self.op.combine().is_none();
        // Index reductions compare in the compute type but give an index.
        let work = x[0].dtype.compute();
        let value = Expr::input(0, at).cast(x[0].dtype, work);
        let dtype = if index { DType::I64 } else { work };
        Some(Compute::chain(x, rounded(Stage::reduce(dtype, axes, self.op, over, value), y[0].dtype)))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = rng.pick(&[
            ReduceOp::Sum,
            ReduceOp::Prod,
            ReduceOp::Max,
            ReduceOp::Min,
            ReduceOp::And,
            ReduceOp::Or,
            ReduceOp::ArgMax { last: false },
            ReduceOp::ArgMax { last: true },
            ReduceOp::ArgMin { last: false },
            ReduceOp::ArgMin { last: true },
        ]);
        let rank = 1 + rng.below(4);
        let index = op.combine().is_none();
        let axes: Vec<usize> = match index {
            true => vec![rng.below(rank)],
            false => (0..rank).filter(|_| rng.one_in(2)).collect(),
        };
        let mut shape = rng.shape(rank);
        if index {
            shape[axes[0]] = shape[axes[0]].max(1);
        }
        let dtype = match op {
            ReduceOp::And | ReduceOp::Or => DType::Bool,
            ReduceOp::Sum | ReduceOp::Prod => {
                rng.pick(&[DType::F32, DType::F64, DType::F16, DType::I32, DType::I64])
            }
            _ => rng.pick(&[DType::F32, DType::F64, DType::BF16, DType::I8, DType::U8, DType::I64]),
        };
        let sums = matches!(op, ReduceOp::Sum | ReduceOp::Prod);
        let operand = if sums { Operand::finite(dtype, shape) } else { Operand::any(dtype, shape) };
        Sample { op: Reduce { op, axes }.into(), operands: vec![operand] }
    }
}

impl ReduceOp {
    /// The reference meaning: values of type `dtype` combined in order; float sums and products in `f64`.
    pub fn apply(self, dtype: DType, values: impl Iterator<Item = Scalar>) -> Scalar {
        let wide = if dtype.is_float() { DType::F64 } else { dtype };
        match self.combine() {
            Some(f) => values.fold(self.identity(wide), |a, b| f.eval(wide, &[a, b])),
            None => Scalar::I(self.apply_index(values)),
        }
    }

    fn apply_index(self, values: impl Iterator<Item = Scalar>) -> i64 {
        use std::cmp::Ordering;
        let (max, last) = match self {
            ReduceOp::ArgMax { last } => (true, last),
            ReduceOp::ArgMin { last } => (false, last),
            _ => (true, false),
        };
        let mut best: Option<(Scalar, i64)> = None;
        for (k, v) in values.enumerate() {
            let better = match best {
                None => true,
                Some((b, _)) => match compare(v, b) {
                    Ordering::Equal => last,
                    Ordering::Greater => max || is_nan(v),
                    Ordering::Less => !max && !is_nan(b),
                },
            };
            if better {
                best = Some((v, k as i64));
            }
        }
        best.map_or(0, |(_, k)| k)
    }
}

fn is_nan(s: Scalar) -> bool {
    matches!(s, Scalar::F(x) if x.is_nan())
}

/// Numeric order with NaN above everything and equal to itself, zeros equal.
pub(crate) fn compare(a: Scalar, b: Scalar) -> std::cmp::Ordering {
    match (a, b) {
        (Scalar::F(a), Scalar::F(b)) => a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
        (Scalar::U(a), Scalar::U(b)) => a.cmp(&b),
        _ => a.as_i64().cmp(&b.as_i64()),
    }
}

//! Pooling: windows reduced to one element each.

use super::contract::push_rounded;
use super::number::{Number, with_number};
use super::shape::{concrete, flatten, strides};
use super::window::{Padded, Windows, tap_axes};
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
    /// Windows over the trailing axes of `x[N, C, spatial..]` reduced to `y[N, C, out..]`: ONNX `MaxPool`, and with a
    /// division `AveragePool` and `LpPool`. Padding is the reduction's identity; `out` is as for [`super::Conv`].
    /// Sums of 16-bit floats are accumulated in `f32`; a maximum is NaN if an element is.
    Pool = "pool"(x) {
        /// `sum` or `max`.
        op: ReduceOp,
        /// Extents of a window, per spatial axis.
        kernel: Vec<usize>,
        /// Distance between windows.
        strides: Vec<usize>,
        /// Distance between the taps of a window.
        dilations: Vec<usize>,
        /// Padding: low ends of the spatial axes, then high ends.
        pads: Vec<usize>,
    }
}

op! {
    /// Where the maxima of windows are: result `Indices` of ONNX `MaxPool`. The first maximum in row-major order of
    /// the window counts, a NaN as the maximum. Positions (`i64`) are those in the flattened `x[N, C, spatial..]`,
    /// without padding; a window that lies in the padding altogether gives 0.
    PoolIndex = "pool_index"(x) {
        /// Extents of a window, per spatial axis.
        kernel: Vec<usize>,
        /// Distance between windows.
        strides: Vec<usize>,
        /// Distance between the taps of a window.
        dilations: Vec<usize>,
        /// Padding: low ends of the spatial axes, then high ends.
        pads: Vec<usize>,
        /// Whether positions count the spatial axes in column-major order (the planes remain row-major).
        column_major: bool,
    }
}

macro_rules! windows {
    ($($name:ident),*) => { $(
        impl $name {
            fn windows(&self) -> Windows<'_> {
                let Self { kernel, strides, dilations, pads, .. } = self;
                Windows { kernel: dims(kernel), strides, dilations, pads }
            }
        }
    )* };
}
windows!(Pool, PoolIndex);

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| d.into()).collect()
}

/// The result's dims, for either operator.
fn infer_dims(windows: &Windows, x: &Type) -> Result<Vec<Dim>> {
    ensure!(x.dtype.is_num(), "the operand must be of numbers, found {x}");
    ensure!(x.rank() >= 3, "the operand must have rank 3 or more, found {x}");
    let mut out = x.dims[..2].to_vec();
    out.extend(windows.infer(&x.dims[2..])?);
    Ok(out)
}

impl Operator for Pool {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        ensure!(
            matches!(self.op, ReduceOp::Sum | ReduceOp::Max),
            "pooling is by sum or max, found {}",
            self.op.keyword()
        );
        Ok(vec![Type::new(x[0].dtype, infer_dims(&self.windows(), x[0])?)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![with_number!(x[0].dtype(), pool(self, &x[0]))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let windows = self.windows();
        let mut stages = Vec::new();
        let axes = Axis::outputs(&y[0].dims);
        let over = tap_axes(&windows.kernel);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let taps: Vec<Dim> = over.iter().map(Axis::dim).collect();
        let mut at = i[..2].to_vec();
        at.extend(windows.index(&i[2..], &taps));
        let work = x[0].dtype.compute();
        let from = windows.load(&x[0], at, self.op.identity(x[0].dtype)).cast(x[0].dtype, work);
        push_rounded(&mut stages, Stage::reduce(work, axes, self.op, over, from), y[0].dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = rng.pick(&[ReduceOp::Sum, ReduceOp::Max]);
        let Geometry { shape, kernel, strides, dilations, pads } = geometry(rng);
        let operand = match op {
            ReduceOp::Sum => Operand::finite(
                rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32]),
                shape,
            ),
            _ => Operand::any(
                rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::I8, DType::U8, DType::U64]),
                shape,
            ),
        };
        Sample { op: Pool { op, kernel, strides, dilations, pads }.into(), operands: vec![operand] }
    }
}

fn pool<T: Number>(op: &Pool, x: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let shape = concrete(&infer_dims(&op.windows(), &Type::of(dtype, x.shape()))?)?;
    let identity = T::of(op.op.identity(dtype));
    if shape.contains(&0) {
        return Tensor::full(dtype, shape, identity.scalar());
    }
    let padded = Padded::new(&T::read(x), shape[0] * shape[1], &x.shape()[2..], &op.pads, identity)?;
    let starts = padded.grid(&shape[2..], &op.strides)?;
    let taps = padded.grid(&op.kernel, &op.dilations)?;
    let sum = op.op == ReduceOp::Sum;
    Tensor::generate(dtype, shape, |p| {
        let from = &padded.data[p / starts.len() * padded.plane() + starts[p % starts.len()]..];
        let window = taps.iter().map(|&tap| from[tap]);
        let y = if sum { window.fold(T::ZERO, T::add) } else { window.fold(identity, larger) };
        y.scalar()
    })
}

/// The larger one; NaN if either is.
pub(super) fn larger<T: Number>(a: T, b: T) -> T {
    if b > a || b.is_nan() { b } else { a }
}

impl Operator for PoolIndex {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::new(DType::I64, infer_dims(&self.windows(), x[0])?)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![with_number!(x[0].dtype(), pool_index(self, &x[0]))?])
    }

    /// The maximum of each window, then the least position of an element that equals it.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (x_ty, windows) = (&x[0], self.windows());
        let work = x_ty.dtype.compute();
        let axes = Axis::outputs(&y[0].dims);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        // Index, guard and element at the taps of some reduction axes.
        let tap = |over: &[Axis]| {
            let taps: Vec<Dim> = over.iter().map(Axis::dim).collect();
            let at: Vec<Dim> = (windows.index(&i[2..], &taps).into_iter().zip(&self.pads))
                .map(|(at, &lo)| at - lo.into())
                .collect();
            let guards = at.iter().zip(&x_ty.dims[2..]).map(|(at, d)| Expr::in_bounds(at, d)).collect();
            let element = Expr::input(0, [&i[..2], &at[..]].concat()).cast(x_ty.dtype, work);
            (at, Expr::all(guards), element)
        };
        let over = tap_axes(&windows.kernel);
        let (_, inside, element) = tap(&over);
        let lowest = Expr::Const(work, ReduceOp::Max.identity(work));
        let max =
            Stage::reduce(work, axes.clone(), ReduceOp::Max, over.clone(), element.guarded(inside, lowest));

        let none = || Expr::Const(DType::I64, Scalar::I(i64::MAX));
        let over: Vec<Axis> = over.into_iter().map(|a| Axis::new(&format!("{}2", a.var), a.extent)).collect();
        let (at, inside, element) = tap(&over);
        let mut found = Expr::call(ScalarFn::Eq, [element.clone(), Expr::stage(0, i.clone())]);
        if work.is_float() {
            found = Expr::call(ScalarFn::Or, [found, Expr::call(ScalarFn::IsNan, [element])]);
        }
        let at = Expr::Index(flatten(&at, &x_ty.dims[2..])).guarded(found, none());
        let first = Stage::reduce(DType::I64, axes.clone(), ReduceOp::Min, over, at.guarded(inside, none()));

        let at = Expr::stage(1, i.clone());
        let missing = Expr::call(ScalarFn::Eq, [at.clone(), none()]);
        let at = if self.column_major { transposed(at, &x_ty.dims[2..]) } else { at };
        let plane = flatten(&i[..2], &x_ty.dims[..2]) * x_ty.dims[2..].iter().product();
        let value = Expr::int(0).guarded(missing, Expr::call(ScalarFn::Add, [Expr::Index(plane), at]));
        Some(Compute::chain(x, vec![max, first, Stage::map(DType::I64, axes, value)]))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let Geometry { shape, kernel, strides, dilations, pads } = geometry(rng);
        let op = PoolIndex { kernel, strides, dilations, pads, column_major: rng.one_in(2) }.into();
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::I8, DType::U8]);
        Sample { op, operands: vec![Operand::any(dtype, shape)] }
    }
}

/// A row-major position within a plane as a column-major one.
fn transposed(at: Expr, spatial: &[Dim]) -> Expr {
    let mut sum = Expr::int(0);
    for k in 0..spatial.len() {
        let (row, column): (Dim, Dim) = (spatial[k + 1..].iter().product(), spatial[..k].iter().product());
        let index = Expr::call(ScalarFn::Div, [at.clone(), Expr::Index(row)]);
        let index = Expr::call(ScalarFn::Rem, [index, Expr::Index(spatial[k].clone())]);
        sum = Expr::call(ScalarFn::Add, [sum, Expr::call(ScalarFn::Mul, [index, Expr::Index(column)])]);
    }
    sum
}

fn pool_index<T: Number>(op: &PoolIndex, x: &Tensor) -> Result<Tensor> {
    let shape = concrete(&infer_dims(&op.windows(), &Type::of(x.dtype(), x.shape()))?)?;
    if shape.contains(&0) {
        return Tensor::full(DType::I64, shape, Scalar::I(0));
    }
    let spatial = &x.shape()[2..];
    let plane: usize = spatial.iter().product();
    // Positions in padded extents; -1 in the padding.
    let own: Vec<i64> = (0..plane as i64).collect();
    let at = Padded::new(&own, 1, spatial, &op.pads, -1)?;
    let starts = at.grid(&shape[2..], &op.strides)?;
    let taps = at.grid(&op.kernel, &op.dilations)?;
    let x = T::read(x);
    Tensor::generate(DType::I64, shape, |p| {
        let first = p / starts.len() * plane;
        let mut best: Option<(T, usize)> = None;
        for tap in &taps {
            let Ok(q) = usize::try_from(at.data[starts[p % starts.len()] + tap]) else { continue };
            let v = x[first + q];
            if best.is_none_or(|(b, _)| v > b || (v.is_nan() && !b.is_nan())) {
                best = Some((v, q));
            }
        }
        let position = best.map(|(_, q)| first + if op.column_major { column_major(q, spatial) } else { q });
        Scalar::I(position.unwrap_or(0) as i64)
    })
}

fn column_major(at: usize, spatial: &[usize]) -> usize {
    let rows = strides(spatial);
    let mut column = 1;
    let mut sum = 0;
    for (d, row) in spatial.iter().zip(rows) {
        sum += at / row % d * column;
        column *= d;
    }
    sum
}

struct Geometry {
    shape: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

/// Random windows, some of them larger than the unpadded operand or wholly within the padding.
fn geometry(rng: &mut Rng) -> Geometry {
    let mut g = Geometry {
        shape: vec![rng.below(3), 1 + rng.below(4)],
        kernel: Vec::new(),
        strides: Vec::new(),
        dilations: Vec::new(),
        pads: Vec::new(),
    };
    let mut hi = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let (kernel, dilation) = (1 + rng.below(3), 1 + rng.below(2));
        let span = (kernel - 1) * dilation + 1;
        let pads = [rng.pick(&[0, 0, 1, 2]), rng.pick(&[0, 0, 1, 2])];
        let least = span.saturating_sub(pads[0] + pads[1]).max(1);
        g.shape.push(least + rng.below(if g.shape.len() == 2 { 20 } else { 6 }));
        g.kernel.push(kernel);
        g.strides.push(1 + rng.below(3));
        g.dilations.push(dilation);
        g.pads.push(pads[0]);
        hi.push(pads[1]);
    }
    g.pads.extend(hi);
    g
}

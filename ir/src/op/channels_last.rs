//! Convolution and pooling of tensors whose channels are the innermost axis.
//!
//! They are what the pass `layout` makes of [`Conv`](super::Conv) and [`Pool`](super::Pool): the channels of a pixel
//! are neighbours in memory, so that vectors of them are. Taps that lie outside of the operand are left out.

use super::contract::push_rounded;
use super::number::{Number, filled, with_number};
use super::pool::larger;
use super::shape::{concrete, each_index, position};
use super::window::{Windows, tap_axes};
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, numel};
use crate::types::Type;

op! {
    /// Convolution (cross-correlation) over any number of spatial axes, without bias, channels innermost.
    ///
    /// `x[N, spatial.., C]`, `w[kernel.., C/groups, M]` of one number type give `y[N, out.., M]` of that type:
    /// `y[n, o.., m] = sum over k.., c of x[n, o*stride + k*dilation - lo, g*C/groups + c] * w[k.., c, m]` with
    /// `g = m / (M/groups)`, over those `k` whose element lies in `x`; extents are those of [`super::Conv`]. Taps are the outer
    /// loop of the sum, channels the inner one. 16-bit floats are accumulated in `f32` and rounded once; integers wrap.
    ChannelsLastConv = "channels_last_conv"(x, w) {
        /// Distance between windows, per spatial axis.
        strides: Vec<usize>,
        /// Distance between the taps of a window, per spatial axis.
        dilations: Vec<usize>,
        /// Padding of `x`: low ends of the spatial axes, then high ends.
        pads: Vec<usize>,
        /// Channels are convolved within this many groups of equal size.
        groups: usize,
    }
}

op! {
    /// Windows over the spatial axes of `x[N, spatial.., C]` reduced to `y[N, out.., C]`, otherwise as [`super::Pool`].
    ChannelsLastPool = "channels_last_pool"(x) {
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

impl ChannelsLastConv {
    fn windows(&self, w: &Type) -> Windows<'_> {
        let ChannelsLastConv { strides, dilations, pads, .. } = self;
        Windows { kernel: w.dims[..w.rank() - 2].to_vec(), strides, dilations, pads }
    }
}

impl ChannelsLastPool {
    fn windows(&self) -> Windows<'_> {
        let ChannelsLastPool { kernel, strides, dilations, pads, .. } = self;
        Windows { kernel: kernel.iter().map(|&d| d.into()).collect(), strides, dilations, pads }
    }
}

/// Dims of a result: those of `x`, its spatial axes by windows, and the channels given.
fn dims(windows: &Windows, x: &Type, channels: &Dim) -> Result<Vec<Dim>> {
    let mut out = vec![x.dims[0].clone()];
    out.extend(windows.infer(&x.dims[1..x.rank() - 1])?);
    out.push(channels.clone());
    Ok(out)
}

/// The positions of the spatial axes that are read, and whether they lie in `x`.
fn read_at(windows: &Windows, x: &Type, o: &[Dim], taps: &[Dim]) -> (Vec<Dim>, Vec<Expr>) {
    let n = windows.strides.len();
    let padded = windows.index(o, taps).into_iter().zip(windows.pads);
    let at: Vec<Dim> = padded.map(|(at, &lo)| at - lo.into()).collect();
    let has_padding = |k: &usize| windows.pads[*k] + windows.pads[n + k] > 0;
    let guards = (0..n).filter(has_padding).map(|k| Expr::in_bounds(&at[k], &x.dims[1 + k])).collect();
    (at, guards)
}

fn guarded(value: Expr, guards: Vec<Expr>, dtype: DType, otherwise: Scalar) -> Expr {
    if guards.is_empty() { value } else { value.guarded(Expr::all(guards), Expr::Const(dtype, otherwise)) }
}

impl Operator for ChannelsLastConv {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, w) = (x[0], x[1]);
        ensure!(
            x.dtype == w.dtype && x.dtype.is_num(),
            "operands must have one number type, found {x} and {w}"
        );
        ensure!(
            x.rank() >= 3 && x.rank() == w.rank(),
            "operands must have one rank of 3 or more, found {x} and {w}"
        );
        ensure!(self.groups > 0, "groups must be positive");
        let (r, groups) = (x.rank(), Dim::from(self.groups));
        let channels = w.dims[r - 2].clone() * groups.clone();
        ensure!(
            x.dims[r - 1] == channels,
            "expected {channels} channels in x for weights {w} in {groups} groups, found {x}"
        );
        ensure!(
            w.dims[r - 1].modulo(&groups).is(0),
            "the number of filters must be a multiple of the {groups} groups, found {w}"
        );
        Ok(vec![Type::new(x.dtype, dims(&self.windows(w), x, &w.dims[r - 1])?)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let types = [Type::of(x[0].dtype(), x[0].shape()), Type::of(x[1].dtype(), x[1].shape())];
        let shape = concrete(&self.infer(&[&types[0], &types[1]])?[0].dims)?;
        Ok(vec![with_number!(x[0].dtype(), convolve(self, &x[0], &x[1], shape))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (x_ty, w, y) = (&x[0], &x[1], &y[0]);
        let windows = self.windows(w);
        let r = y.rank();
        let axes = Axis::outputs(&y.dims);
        let mut over = tap_axes(&w.dims[..r - 2]);
        over.push(Axis::new("c", w.dims[r - 2].clone()));
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let k: Vec<Dim> = over.iter().map(Axis::dim).collect();
        let filters = w.dims[r - 1].floor_div(&self.groups.into());
        let group = match self.groups {
            1 => 0.into(),
            _ if filters.is(1) => i[r - 1].clone(),
            _ => i[r - 1].floor_div(&filters),
        };
        let (spatial, guards) = read_at(&windows, x_ty, &i[1..r - 1], &k[..r - 2]);
        let channel = group * w.dims[r - 2].clone() + k[r - 2].clone();
        let at_x = [&i[..1], &spatial, &[channel]].concat();
        let at_w = [&k[..], &i[r - 1..]].concat();
        let work = x_ty.dtype.compute();
        let product = Expr::call(
            ScalarFn::Mul,
            [Expr::input(0, at_x).cast(x_ty.dtype, work), Expr::input(1, at_w).cast(w.dtype, work)],
        );
        let term = guarded(product, guards, work, Scalar::zero(work));
        let mut stages = Vec::new();
        push_rounded(&mut stages, Stage::reduce(work, axes, ReduceOp::Sum, over, term), y.dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype =
            rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::U8]);
        let groups = rng.pick(&[1, 1, 2, 3, 7]);
        let (per_x, per_y) = (1 + rng.below(4), rng.pick(&[1, 1, 2, 3, 9, 19]));
        let g = Geometry::sample(rng);
        let x = [&[rng.below(3)], &g.spatial[..], &[groups * per_x]].concat();
        let w = [&g.kernel[..], &[per_x, groups * per_y]].concat();
        let Geometry { strides, dilations, pads, .. } = g;
        let op = ChannelsLastConv { strides, dilations, pads, groups }.into();
        Sample { op, operands: vec![Operand::finite(dtype, x), Operand::finite(dtype, w)] }
    }
}

impl Operator for ChannelsLastPool {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let x = x[0];
        ensure!(
            matches!(self.op, ReduceOp::Sum | ReduceOp::Max),
            "pooling is by sum or max, found {}",
            self.op.keyword()
        );
        ensure!(x.dtype.is_num(), "the operand must be of numbers, found {x}");
        ensure!(x.rank() >= 3, "the operand must have rank 3 or more, found {x}");
        Ok(vec![Type::new(x.dtype, dims(&self.windows(), x, &x.dims[x.rank() - 1])?)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![with_number!(x[0].dtype(), pool(self, &x[0]))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let windows = self.windows();
        let (r, axes, over) = (y[0].rank(), Axis::outputs(&y[0].dims), tap_axes(&windows.kernel));
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let taps: Vec<Dim> = over.iter().map(Axis::dim).collect();
        let (spatial, guards) = read_at(&windows, &x[0], &i[1..r - 1], &taps);
        let work = x[0].dtype.compute();
        let element = Expr::input(0, [&i[..1], &spatial, &i[r - 1..]].concat()).cast(x[0].dtype, work);
        let term = guarded(element, guards, work, self.op.identity(x[0].dtype).cast(work));
        let mut stages = Vec::new();
        push_rounded(&mut stages, Stage::reduce(work, axes, self.op, over, term), y[0].dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = rng.pick(&[ReduceOp::Sum, ReduceOp::Max]);
        let Geometry { spatial, kernel, strides, dilations, pads } = Geometry::sample(rng);
        let shape = [&[rng.below(3)], &spatial[..], &[rng.pick(&[1, 3, 5, 16, 21, 40])]].concat();
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
        Sample {
            op: ChannelsLastPool { op, kernel, strides, dilations, pads }.into(),
            operands: vec![operand],
        }
    }
}

/// Calls `f` with the position of every pixel that the window at `o` reads, and of its tap.
fn each_tap(
    windows: &Windows,
    spatial: &[usize],
    kernel: &[usize],
    o: &[usize],
    mut f: impl FnMut(usize, usize),
) -> Result<()> {
    each_index(kernel, |tap| {
        let at = |k: usize| {
            let by = |n: usize, step: usize| n.saturating_mul(step);
            let padded = by(o[k], windows.strides[k]).saturating_add(by(tap[k], windows.dilations[k]));
            padded.checked_sub(windows.pads[k]).filter(|at| *at < spatial[k])
        };
        let at: Option<Vec<usize>> = (0..o.len()).map(at).collect();
        if let Some(at) = at {
            f(position(&at, spatial), position(tap, kernel));
        }
        Ok(())
    })
}

fn convolve<T: Number>(op: &ChannelsLastConv, x: &Tensor, w: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
    let r = shape.len();
    let (spatial, kernel) = (&x.shape()[1..r - 1], &w.shape()[..r - 2]);
    let windows = op.windows(&Type::of(w.dtype(), w.shape()));
    let (channels, per_group, filters) = (x.shape()[r - 1], w.shape()[r - 2], shape[r - 1]);
    let plane: usize = spatial.iter().product();
    let (values, weights) = (T::read(x), T::read(w));
    let mut y = filled(numel(&shape)?, T::ZERO)?;
    each_index(&shape[..r - 1], |i| {
        let first = position(i, &shape[..r - 1]) * filters;
        each_tap(&windows, spatial, kernel, &i[1..], |pixel, tap| {
            let from = &values[(i[0] * plane + pixel) * channels..];
            for c in 0..per_group {
                let by = &weights[(tap * per_group + c) * filters..];
                for m in 0..filters {
                    let group = m / (filters / op.groups);
                    let product = from[group * per_group + c].mul(by[m]);
                    y[first + m] = y[first + m].add(product);
                }
            }
        })
    })?;
    Tensor::generate(w.dtype(), shape, |p| y[p].scalar())
}

fn pool<T: Number>(op: &ChannelsLastPool, x: &Tensor) -> Result<Tensor> {
    let (dtype, r) = (x.dtype(), x.shape().len());
    let ty = Type::of(dtype, x.shape());
    let shape = concrete(&op.infer(&[&ty])?[0].dims)?;
    let (spatial, channels) = (&x.shape()[1..r - 1], shape[r - 1]);
    let plane: usize = spatial.iter().product();
    let values = T::read(x);
    let sum = op.op == ReduceOp::Sum;
    let start = if sum { T::ZERO } else { T::of(op.op.identity(dtype)) };
    let mut y = filled(numel(&shape)?, start)?;
    each_index(&shape[..r - 1], |i| {
        let first = position(i, &shape[..r - 1]) * channels;
        each_tap(&op.windows(), spatial, &op.kernel, &i[1..], |pixel, _| {
            let from = &values[(i[0] * plane + pixel) * channels..];
            for (y, &v) in y[first..first + channels].iter_mut().zip(from) {
                *y = if sum { y.add(v) } else { larger(*y, v) };
            }
        })
    })?;
    Tensor::generate(dtype, shape, |p| y[p].scalar())
}

/// Random windows.
struct Geometry {
    spatial: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Geometry {
    fn sample(rng: &mut Rng) -> Geometry {
        let (mut spatial, mut kernel, mut strides, mut dilations) = (vec![], vec![], vec![], vec![]);
        let (mut lo, mut hi) = (Vec::new(), Vec::new());
        let n = 1 + rng.below(3);
        for k in 0..n {
            let (taps, dilation) = (1 + rng.below(3), 1 + rng.below(2));
            let span = (taps - 1) * dilation + 1;
            lo.push(rng.pick(&[0, 0, 1, 2]));
            hi.push(rng.pick(&[0, 0, 1, 2]));
            kernel.push(taps);
            dilations.push(dilation);
            strides.push(1 + rng.below(3));
            let least = span.saturating_sub(lo[k] + hi[k]).max(1);
            spatial.push(least + rng.below(if k + 1 == n { 20 } else { 6 }));
        }
        Geometry { spatial, kernel, strides, dilations, pads: [lo, hi].concat() }
    }
}

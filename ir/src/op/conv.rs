//! Convolution.

use super::contract::push_rounded;
use super::number::{Number, filled, with_number};
use super::shape::concrete;
use super::window::{Padded, Windows, tap_axes};
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
    /// Convolution (cross-correlation) over any number of spatial axes, without bias: ONNX `Conv`, `ConvInteger`.
    ///
    /// `x[N, C, spatial..]`, `w[M, C/groups, kernel..]` of one number type give `y[N, M, out..]` of that type:
    /// `y[n, m, o..] = sum over c, k.. of x[n, g*C/groups + c, o*stride + k*dilation - lo] * w[m, c, k..]` with
    /// `g = m / (M/groups)`; elements outside `x` are zero. `out = (extent + lo + hi - span) / stride + 1`, rounded
    /// down, where `span = (kernel - 1)*dilation + 1`. 16-bit floats are accumulated in `f32` and rounded once;
    /// integers wrap.
    Conv = "conv"(x, w) {
        /// Distance between windows, per spatial axis.
        strides: Vec<usize>,
        /// Distance between the taps of a window, per spatial axis.
        dilations: Vec<usize>,
        /// Zeros around `x`: low ends of the spatial axes, then high ends.
        pads: Vec<usize>,
        /// Channels are convolved within this many groups of equal size.
        groups: usize,
    }
}

impl Conv {
    fn windows(&self, kernel: &[Dim]) -> Windows<'_> {
        let Conv { strides, dilations, pads, .. } = self;
        Windows { kernel: kernel.to_vec(), strides, dilations, pads }
    }
}

impl Operator for Conv {
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
        let groups = Dim::from(self.groups);
        let channels = w.dims[1].clone() * groups.clone();
        ensure!(
            x.dims[1] == channels,
            "expected {channels} channels in x for weights {w} in {groups} groups, found {x}"
        );
        ensure!(
            w.dims[0].modulo(&groups).is(0),
            "the number of filters must be a multiple of the {groups} groups, found {w}"
        );
        let mut dims = vec![x.dims[0].clone(), w.dims[0].clone()];
        dims.extend(self.windows(&w.dims[2..]).infer(&x.dims[2..])?);
        Ok(vec![Type::new(x.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let types = [Type::of(x[0].dtype(), x[0].shape()), Type::of(x[1].dtype(), x[1].shape())];
        let shape = concrete(&self.infer(&[&types[0], &types[1]])?[0].dims)?;
        Ok(vec![with_number!(x[0].dtype(), convolve(self, &x[0], &x[1], shape))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (x_ty, w, y) = (&x[0], &x[1], &y[0]);
        let windows = self.windows(&w.dims[2..]);
        let mut stages = Vec::new();
        let axes = Axis::outputs(&y.dims);
        let mut over = vec![Axis::new("c", w.dims[1].clone())];
        over.extend(tap_axes(&w.dims[2..]));
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let r: Vec<Dim> = over.iter().map(Axis::dim).collect();
        let per_group = w.dims[0].floor_div(&self.groups.into());
        let group = if self.groups == 1 { 0.into() } else { i[1].floor_div(&per_group) };
        let mut at_x = vec![i[0].clone(), group * w.dims[1].clone() + r[0].clone()];
        at_x.extend(windows.index(&i[2..], &r[1..]));
        let mut at_w = vec![i[1].clone()];
        at_w.extend(r);
        let work = x_ty.dtype.compute();
        let from = windows.load(x_ty, at_x, Scalar::zero(x_ty.dtype));
        let product = Expr::call(
            ScalarFn::Mul,
            [from.cast(x_ty.dtype, work), Expr::input(1, at_w).cast(w.dtype, work)],
        );
        push_rounded(&mut stages, Stage::reduce(work, axes, ReduceOp::Sum, over, product), y.dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype =
            rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::U8]);
        let groups = rng.pick(&[1, 1, 2, 3]);
        let (per_x, per_y) = (1 + rng.below(4), rng.pick(&[1, 2, 3, 9]));
        let mut x = vec![rng.below(3), groups * per_x];
        let mut w = vec![groups * per_y, per_x];
        let (mut strides, mut dilations, mut lo, mut hi) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..1 + rng.below(3) {
            let (kernel, dilation) = (1 + rng.below(3), 1 + rng.below(2));
            let span = (kernel - 1) * dilation + 1;
            lo.push(rng.pick(&[0, 0, 1, 2]));
            hi.push(rng.pick(&[0, 0, 1, 2]));
            w.push(kernel);
            dilations.push(dilation);
            strides.push(1 + rng.below(3));
            x.push(span + rng.below(if x.len() == 2 { 20 } else { 6 }));
        }
        let op = Conv { strides, dilations, pads: [lo, hi].concat(), groups }.into();
        Sample { op, operands: vec![Operand::finite(dtype, x), Operand::finite(dtype, w)] }
    }
}

fn convolve<T: Number>(op: &Conv, x: &Tensor, w: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
    let (n, m) = (shape[0], shape[1]);
    if shape.contains(&0) {
        return Tensor::full(w.dtype(), shape, T::ZERO.scalar());
    }
    let (channels, per_group) = (x.shape()[1], w.shape()[1]);
    let filters = m / op.groups;
    let weights = T::read(w);
    let x = Padded::new(&T::read(x), n * channels, &x.shape()[2..], &op.pads, T::ZERO)?;
    let starts = x.grid(&shape[2..], &op.strides)?;
    let taps = x.grid(&w.shape()[2..], &op.dilations)?;
    let mut y = filled(numel(&shape)?, T::ZERO)?;
    for (row, sums) in y.chunks_exact_mut(starts.len()).enumerate() {
        let (image, filter) = (row / m, row % m);
        for c in 0..per_group {
            let plane = (image * channels + filter / filters * per_group + c) * x.plane();
            for (k, tap) in taps.iter().enumerate() {
                let weight = weights[(filter * per_group + c) * taps.len() + k];
                let from = &x.data[plane + tap..];
                for (sum, &start) in sums.iter_mut().zip(&starts) {
                    *sum = sum.add(weight.mul(from[start]));
                }
            }
        }
    }
    Tensor::generate(w.dtype(), shape, |p| y[p].scalar())
}

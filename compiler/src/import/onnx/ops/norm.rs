//! Normalisations.
//!
//! Variances are taken in two passes, as the mean of squared differences from the mean, and 16-bit floats are widened
//! to `f32` for all of it.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use crate::import::onnx::types;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::Pool;
use aic_ir::scalar::ScalarFn;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("BatchNormalization", 1, batch),
    op("GroupNormalization", 18, group),
    op("InstanceNormalization", 1, instance),
    op("LRN", 1, local_response),
    op("LayerNormalization", 17, layer),
    op("LpNormalization", 1, lp),
    op("MeanVarianceNormalization", 9, mean_variance),
    op("RMSNormalization", 23, rms),
];

/// Mean and variance along axes, which stay with extent 1; and the differences from the mean.
pub(super) struct Moments {
    pub mean: ValueId,
    pub variance: ValueId,
    pub centred: ValueId,
}

pub(super) fn moments(c: &mut Ctx, x: ValueId, axes: &[usize]) -> Result<Moments> {
    let mean = c.mean(x, axes, true)?;
    let centred = c.minus(x, mean)?;
    let squares = c.times(centred, centred)?;
    let variance = c.mean(squares, axes, true)?;
    Ok(Moments { mean, variance, centred })
}

/// `1 / sqrt(x + epsilon)`
pub(super) fn inverse_root(c: &mut Ctx, x: ValueId, epsilon: f64) -> Result<ValueId> {
    let shifted = c.shifted(x, epsilon)?;
    let root = c.sqrt(shifted)?;
    c.reciprocal(root)
}

/// `(x - mean) / sqrt(variance + epsilon)` along axes.
fn standardised(c: &mut Ctx, x: ValueId, axes: &[usize], epsilon: f64) -> Result<ValueId> {
    let m = moments(c, x, axes)?;
    let scale = inverse_root(c, m.variance, epsilon)?;
    c.times(m.centred, scale)
}

/// `x * scale + bias`, where these are vectors along axis 1.
fn per_channel(c: &mut Ctx, x: ValueId, scale: ValueId, bias: ValueId) -> Result<ValueId> {
    let (scale, bias) = (c.along(scale, 1, c.rank(x))?, c.along(bias, 1, c.rank(x))?);
    let scaled = c.times(x, scale)?;
    c.plus(scaled, bias)
}

/// A parameter in the type in which `x` is computed.
fn parameter(c: &mut Ctx, k: usize, work: DType) -> Result<ValueId> {
    let value = c.input(k)?;
    c.cast(value, work)
}

/// With given statistics this is one multiplication and one addition per element; when training, the statistics are
/// the batch's.
fn batch(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let (dtype, rank) = (c.dtype(x), c.rank(x));
    ensure!(rank >= 2, "expected rank 2 or more, found {}", c.ty(x));
    ensure!(
        c.opset() >= 9 || c.flag("spatial", true)?,
        "statistics per element (spatial = 0) are not supported"
    );
    let wide = c.widened(x)?;
    let work = c.dtype(wide);
    let (scale, bias) = (parameter(c, 1, work)?, parameter(c, 2, work)?);
    let (mean, variance) = (parameter(c, 3, work)?, parameter(c, 4, work)?);
    let epsilon = c.float_or("epsilon", 1e-5)?;
    let training = match c.opset() {
        14.. => c.flag("training_mode", false)?,
        7.. => c.wants(1),
        _ => !c.flag("is_test", false)?,
    };
    if !training {
        let inverse = inverse_root(c, variance, epsilon)?;
        let factor = c.times(scale, inverse)?;
        let offset = c.times(mean, factor)?;
        let offset = c.minus(bias, offset)?;
        let y = per_channel(c, wide, factor, offset)?;
        return Ok(c.cast(y, dtype)?.into());
    }
    ensure!(!c.wants(3) && !c.wants(4), "the outputs `saved_mean` and `saved_var` are not supported");
    let axes: Vec<usize> = (0..rank).filter(|&k| k != 1).collect();
    let m = moments(c, wide, &axes)?;
    let inverse = inverse_root(c, m.variance, epsilon)?;
    let normal = c.times(m.centred, inverse)?;
    let y = per_channel(c, normal, scale, bias)?;
    let mut outputs = vec![c.cast(y, dtype)?];
    let momentum = c.float_or("momentum", 0.9)?;
    for (k, running, current) in [(3, mean, m.mean), (4, variance, m.variance)] {
        let kept = c.scaled(running, momentum)?;
        let current = c.reshape(current, c.dims(running))?;
        let taken = c.scaled(current, 1.0 - momentum)?;
        let renewed = c.plus(kept, taken)?;
        outputs.push(c.cast(renewed, c.dtype(c.input(k)?))?);
    }
    Ok(outputs.into())
}

fn instance(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let epsilon = c.float_or("epsilon", 1e-5)?;
    let y = c.in_wide(x, |c, x| {
        let axes: Vec<usize> = (2..c.rank(x)).collect();
        let normal = standardised(c, x, &axes, epsilon)?;
        let work = c.dtype(x);
        let (scale, bias) = (parameter(c, 1, work)?, parameter(c, 2, work)?);
        per_channel(c, normal, scale, bias)
    })?;
    Ok(y.into())
}

/// The type in which the first stage is computed: `stash_type`, but not narrower than `f32`.
fn stash_type(c: &Ctx, x: ValueId) -> Result<DType> {
    let stash = types::dtype(c.int_or("stash_type", 1)? as i32)?;
    Ok(if c.dtype(x) == DType::F64 { DType::F64 } else { stash.compute() })
}

fn trailing_axes(c: &Ctx, x: ValueId) -> Result<Vec<usize>> {
    let rank = c.rank(x);
    Ok((c.axis(c.int_or("axis", -1)?, rank)?..rank).collect())
}

pub(super) fn layer(c: &mut Ctx) -> Result<Outputs> {
    let (x, scale, bias) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    let (stash, axes) = (stash_type(c, x)?, trailing_axes(c, x)?);
    let wide = c.cast(x, stash)?;
    let m = moments(c, wide, &axes)?;
    let inverse = inverse_root(c, m.variance, c.float_or("epsilon", 1e-5)?)?;
    let normal = c.times(m.centred, inverse)?;
    let y = scaled_and_shifted(c, normal, scale, bias, c.dtype(x))?;
    let saved = types::dtype(c.int_or("stash_type", 1)? as i32)?;
    Ok(vec![y, c.cast(m.mean, saved)?, c.cast(inverse, saved)?].into())
}

/// The second stage of a normalisation: `x * scale + bias`, rounded to `dtype` at the end.
pub(super) fn scaled_and_shifted(
    c: &mut Ctx,
    x: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
    dtype: DType,
) -> Result<ValueId> {
    let work = c.dtype(x);
    let scale = c.cast(scale, work)?;
    let mut y = c.times(x, scale)?;
    if let Some(bias) = bias {
        let bias = c.cast(bias, work)?;
        y = c.plus(y, bias)?;
    }
    c.cast(y, dtype)
}

/// `x / sqrt(mean(x^2) + epsilon)` along axes.
pub(super) fn root_mean_square(c: &mut Ctx, x: ValueId, axes: &[usize], epsilon: f64) -> Result<ValueId> {
    let squares = c.times(x, x)?;
    let mean = c.mean(squares, axes, true)?;
    let inverse = inverse_root(c, mean, epsilon)?;
    c.times(x, inverse)
}

pub(super) fn rms(c: &mut Ctx) -> Result<Outputs> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let (stash, axes) = (stash_type(c, x)?, trailing_axes(c, x)?);
    let wide = c.cast(x, stash)?;
    let normal = root_mean_square(c, wide, &axes, c.float_or("epsilon", 1e-5)?)?;
    Ok(scaled_and_shifted(c, normal, scale, None, c.dtype(scale))?.into())
}

/// Scale and bias are per group in version 18, per channel since 21.
fn group(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let groups = c.required("num_groups", c.int("num_groups")?)?;
    let dims = c.dims(x);
    ensure!(dims.len() >= 2 && groups > 0, "cannot split {} into {groups} groups of channels", c.ty(x));
    let n = Dim::from(groups);
    if let Some(channels) = dims[1].as_const() {
        ensure!(channels % groups == 0, "{channels} channels don't split into {groups} equal groups");
    }
    let per_group = dims[1].floor_div(&n);
    let mut grouped = vec![dims[0].clone(), n.clone(), per_group.clone()];
    grouped.extend_from_slice(&dims[2..]);
    let stash = stash_type(c, x)?;
    let wide = c.cast(x, stash)?;
    let split = c.reshape(wide, grouped.clone())?;
    let axes: Vec<usize> = (2..grouped.len()).collect();
    let normal = standardised(c, split, &axes, c.float_or("epsilon", 1e-5)?)?;
    let (scale, bias) = (parameter(c, 1, stash)?, parameter(c, 2, stash)?);
    let y = if c.opset() < 21 {
        let y = per_channel(c, normal, scale, bias)?;
        c.reshape(y, dims)?
    } else {
        let normal = c.reshape(normal, dims)?;
        per_channel(c, normal, scale, bias)?
    };
    Ok(c.cast(y, c.dtype(x))?.into())
}

/// `x / (bias + alpha / size * sum of squares over neighbouring channels)^beta`
fn local_response(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    ensure!(c.rank(x) >= 2, "expected rank 2 or more, found {}", c.ty(x));
    let size = c.required("size", c.int("size")?)?;
    ensure!((1..=1 << 28).contains(&size), "the attribute `size` must be positive, found {size}");
    let (alpha, beta) = (c.float_or("alpha", 1e-4)?, c.float_or("beta", 0.75)?);
    let bias = c.float_or("bias", 1.0)?;
    let y = c.in_wide(x, |c, x| {
        let dims = c.dims(x);
        let squares = c.times(x, x)?;
        // Channels and positions become the two spatial axes of a window that covers channels only.
        let plane = vec![dims[0].clone(), 1.into(), dims[1].clone(), dims[2..].iter().product()];
        let squares = c.reshape(squares, plane)?;
        let size = size as usize;
        let pads = vec![(size - 1) / 2, 0, size / 2, 0];
        let pool = Pool {
            op: ReduceOp::Sum,
            kernel: vec![size, 1],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads,
        };
        let sums = c.add(pool, &[squares])?;
        let sums = c.reshape(sums, dims)?;
        let base = c.scaled(sums, alpha / size as f64)?;
        let base = c.shifted(base, bias)?;
        let norm = c.with_number(ScalarFn::Pow, base, beta)?;
        c.divide(x, norm)
    })?;
    Ok(y.into())
}

/// `x / |x|`, and 0 where the norm is 0.
fn lp(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = c.axis(c.int_or("axis", -1)?, c.rank(x))?;
    let p = c.int_or("p", 2)?;
    let y = c.in_wide(x, |c, x| {
        let norm = match p {
            1 => {
                let magnitudes = c.abs(x)?;
                c.sum(magnitudes, &[axis], true)?
            }
            2 => {
                let squares = c.times(x, x)?;
                let sum = c.sum(squares, &[axis], true)?;
                c.sqrt(sum)?
            }
            other => bail!("the norm must be of order 1 or 2, found {other}"),
        };
        let empty = c.with_number(ScalarFn::Eq, norm, 0.0)?;
        let (zero, quotient) = (c.number_like(0.0, x), c.divide(x, norm)?);
        c.select(empty, zero, quotient)
    })?;
    Ok(y.into())
}

fn mean_variance(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axes = c.ints("axes")?.unwrap_or(vec![0, 2, 3]);
    let axes = c.axes(&axes, c.rank(x))?;
    let y = c.in_wide(x, |c, x| {
        let m = moments(c, x, &axes)?;
        let deviation = c.sqrt(m.variance)?;
        let deviation = c.shifted(deviation, 1e-9)?;
        c.divide(m.centred, deviation)
    })?;
    Ok(y.into())
}

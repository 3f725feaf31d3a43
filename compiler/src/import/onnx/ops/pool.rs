//! Poolings: maxima, means and norms of windows.

use super::window::{Windows, per_axis, spatial, windows};
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{Pool, PoolIndex, ScatterElements, ScatterReduction};
use aic_ir::scalar::{Scalar, ScalarFn};

pub(super) const OPERATORS: &[Operator] = &[
    op("AveragePool", 1, average),
    op("GlobalAveragePool", 1, global_average),
    op("GlobalLpPool", 1, global_lp),
    op("GlobalMaxPool", 1, global_max),
    op("LpPool", 1, lp),
    op("MaxPool", 1, max),
    op("MaxUnpool", 9, max_unpool),
];

fn node_windows(c: &Ctx, x: ValueId) -> Result<Windows> {
    let kernel = c.required("kernel_shape", c.sizes("kernel_shape")?)?;
    windows(c, x, kernel)
}

fn pool(c: &mut Ctx, x: ValueId, op: ReduceOp, w: &Windows) -> Result<ValueId> {
    let Windows { kernel, strides, dilations, .. } = w.clone();
    c.add(Pool { op, kernel, strides, dilations, pads: w.pads() }, &[x])
}

fn max(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let w = node_windows(c, x)?;
    let mut outputs = vec![pool(c, x, ReduceOp::Max, &w)?];
    if c.wants(1) {
        let column_major = c.flag("storage_order", false)?;
        let Windows { kernel, strides, dilations, .. } = w.clone();
        outputs.push(c.add(PoolIndex { kernel, strides, dilations, pads: w.pads(), column_major }, &[x])?);
    }
    Ok(outputs.into())
}

/// Sums divided by the numbers of elements, which are less at the border unless padding counts.
fn average(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let w = node_windows(c, x)?;
    let padding_counts = c.flag("count_include_pad", false)?;
    let y = c.in_wide(x, |c, x| {
        let sums = pool(c, x, ReduceOp::Sum, &w)?;
        let full = w.kernel.iter().product::<usize>() as f64;
        let partial = if padding_counts { w.overhang.iter().any(|&p| p > 0) } else { w.is_padded() };
        if !partial {
            return c.with_number(ScalarFn::Div, sums, full);
        }
        let counts = counts(c, x, &w, padding_counts)?;
        c.divide(sums, counts)
    })?;
    Ok(y.into())
}

/// How many elements of `x`, or of it and its padding, each window covers, as a value that broadcasts with the result.
fn counts(c: &mut Ctx, x: ValueId, w: &Windows, padding_counts: bool) -> Result<ValueId> {
    let mut extents = spatial(c, x);
    let mut w = w.clone();
    if padding_counts {
        for (k, extent) in extents.iter_mut().enumerate() {
            *extent = extent.clone() + (w.lo[k] + w.hi[k]).into();
        }
        (w.lo, w.hi) = (vec![0; w.lo.len()], vec![0; w.hi.len()]);
    }
    let shape: Vec<Dim> = [1.into(), 1.into()].into_iter().chain(extents).collect();
    let ones = c.filled(Scalar::F(1.0), c.dtype(x), shape)?;
    pool(c, ones, ReduceOp::Sum, &w)
}

/// `sum(|x|^p)^(1/p)`, where `sum` is given.
fn norm(
    c: &mut Ctx,
    x: ValueId,
    p: i64,
    sum: impl FnOnce(&mut Ctx, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    ensure!(p > 0, "the order of the norm must be positive, found {p}");
    let magnitudes = if p % 2 == 0 { x } else { c.abs(x)? };
    let powers = match p {
        1 => magnitudes,
        2 => c.times(x, x)?,
        _ => c.with_number(ScalarFn::Pow, magnitudes, p as f64)?,
    };
    let total = sum(c, powers)?;
    match p {
        1 => Ok(total),
        2 => c.sqrt(total),
        _ => c.with_number(ScalarFn::Pow, total, 1.0 / p as f64),
    }
}

fn lp(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let (w, p) = (node_windows(c, x)?, c.int_or("p", 2)?);
    Ok(c.in_wide(x, |c, x| norm(c, x, p, |c, powers| pool(c, powers, ReduceOp::Sum, &w)))?.into())
}

fn spatial_axes(c: &Ctx, x: ValueId) -> Vec<usize> {
    (2..c.rank(x)).collect()
}

fn global_average(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axes = spatial_axes(c, x);
    Ok(c.in_wide(x, |c, x| c.mean(x, &axes, true))?.into())
}

fn global_max(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    Ok(c.reduce(ReduceOp::Max, x, &spatial_axes(c, x), true)?.into())
}

fn global_lp(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let (axes, p) = (spatial_axes(c, x), c.int_or("p", 2)?);
    Ok(c.in_wide(x, |c, x| norm(c, x, p, |c, powers| c.sum(powers, &axes, true)))?.into())
}

/// Elements put back where a max pooling took them from, with zeros around them. Positions refer to the extents that
/// kernel, strides and padding give, even where larger ones are asked for.
fn max_unpool(c: &mut Ctx) -> Result<Outputs> {
    let (x, positions) = (c.input(0)?, c.input(1)?);
    let kernel = c.required("kernel_shape", c.sizes("kernel_shape")?)?;
    let n = kernel.len();
    ensure!(c.rank(x) == n + 2, "the kernel {kernel:?} doesn't fit the spatial axes of {}", c.ty(x));
    let (strides, pads) = (per_axis(c, "strides", n, 1)?, per_axis_pads(c, n)?);
    let mut dims = c.dims(x);
    for k in 0..n {
        let full = (dims[k + 2].clone() - 1.into()) * strides[k].into() + kernel[k].into();
        dims[k + 2] = full - (pads[k] + pads[n + k]).into();
    }
    let flat = |c: &mut Ctx, v: ValueId| c.reshape(v, vec![c.ty(v).numel()]);
    let zeros = c.filled(Scalar::I(0), c.dtype(x), vec![dims.iter().product()])?;
    let (values, positions) = (flat(c, x)?, flat(c, positions)?);
    let positions = c.cast(positions, DType::I64)?;
    let scatter = ScatterElements { axis: 0, reduction: ScatterReduction::None };
    let placed = c.add(scatter, &[zeros, positions, values])?;
    let y = c.reshape(placed, dims.clone())?;
    let Some(shape) = c.optional(2)? else { return Ok(y.into()) };
    let shape = c.need_dims(shape, "the input `output_shape`")?;
    ensure!(
        shape.len() == n + 2,
        "the input `output_shape` must have {} entries, found {}",
        n + 2,
        shape.len()
    );
    let hi: Vec<Dim> = shape.into_iter().zip(dims).map(|(to, from)| to - from).collect();
    ensure!(hi.iter().all(|d| d.as_const().is_none_or(|d| d >= 0)), "the output shape is too small");
    Ok(c.pad(y, vec![0.into(); n + 2], hi, Scalar::I(0))?.into())
}

fn per_axis_pads(c: &Ctx, n: usize) -> Result<Vec<usize>> {
    let pads = c.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * n]);
    ensure!(pads.len() == 2 * n, "the attribute `pads` must have {} entries, found {}", 2 * n, pads.len());
    Ok(pads)
}

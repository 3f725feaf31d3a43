//! Operators that move elements: shapes, axes, slices, padding.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use crate::import::onnx::types;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::graph::ValueId;
use aic_ir::op::{Pad, PadMode, Slice};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("CenterCropPad", 18, center_crop_pad),
    op("Concat", 1, concat),
    op("Constant", 1, constant),
    op("ConstantOfShape", 9, constant_of_shape),
    op("DepthToSpace", 1, depth_to_space),
    op("Dropout", 1, dropout),
    op("Expand", 8, expand),
    op("EyeLike", 9, eye_like),
    op("Flatten", 1, flatten),
    op("Identity", 1, identity),
    op("Pad", 1, pad),
    op("Range", 11, range),
    op("Reshape", 1, reshape),
    op("Shape", 1, shape),
    op("Size", 1, size),
    op("Slice", 1, slice),
    op("SpaceToDepth", 1, space_to_depth),
    op("Split", 1, split),
    op("Squeeze", 1, squeeze),
    op("Tile", 6, tile),
    op("Transpose", 1, transpose),
    op("Trilu", 14, trilu),
    op("Unsqueeze", 1, unsqueeze),
];

fn identity(c: &mut Ctx) -> Result<Outputs> {
    match c.item(0) {
        Some(item) => Ok(item.clone().into()),
        None => bail!("input 0 is missing"),
    }
}

/// One of several attributes holds the value.
fn constant(c: &mut Ctx) -> Result<Outputs> {
    let value = if let Some(proto) = c.tensor_attribute("value")? {
        return c.model_tensor(proto).map(Outputs::from);
    } else if let Some(x) = c.float("value_float")? {
        Tensor::scalar(DType::F32, Scalar::F(x))
    } else if let Some(x) = c.int("value_int")? {
        Tensor::scalar(DType::I64, Scalar::I(x))
    } else if let Some(xs) = c.floats("value_floats")? {
        Tensor::from_vec(vec![xs.len()], &xs.iter().map(|&x| x as f32).collect::<Vec<_>>())?
    } else if let Some(xs) = c.ints("value_ints")? {
        Tensor::from_vec(vec![xs.len()], &xs)?
    } else if c.has_attribute("value_string") || c.has_attribute("value_strings") {
        bail!("strings are not supported")
    } else if c.has_attribute("sparse_value") {
        bail!("sparse tensors are not supported")
    } else {
        bail!("the attribute `value` is missing")
    };
    Ok(c.tensor(value).into())
}

fn constant_of_shape(c: &mut Ctx) -> Result<Outputs> {
    let shape = c.input(0)?;
    let shape = c.need_dims(shape, "the shape")?;
    let value = match c.tensor_attribute("value")? {
        Some(proto) => types::tensor(c.model, proto)?.0,
        None => Tensor::scalar(DType::F32, Scalar::F(0.0)),
    };
    ensure!(value.len() == 1, "the attribute `value` must have one element, found {}", value.len());
    Ok(c.filled(value.get(0), value.dtype(), shape)?.into())
}

/// When training, elements are dropped at random, which a compiled model doesn't do.
fn dropout(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let training = match (c.opset(), c.optional(2)?) {
        (12.., Some(mode)) => c.need_int(mode, "the input `training_mode`")? != 0,
        (12.., None) => false,
        (..7, _) => !c.flag("is_test", false)?,
        _ => false,
    };
    if training {
        let ratio = match c.optional(1)? {
            Some(ratio) => c.need_constant(ratio, "the input `ratio`")?.to_f64().first().copied(),
            None => Some(c.float_or("ratio", 0.5)?),
        };
        ensure!(ratio == Some(0.0), "dropping elements at random, as for training, is not supported");
    }
    let mut outputs = vec![x];
    if c.wants(1) {
        outputs.push(c.filled(Scalar::B(true), DType::Bool, c.dims(x))?);
    }
    Ok(outputs.into())
}

fn shape(c: &mut Ctx) -> Result<Outputs> {
    let dims = c.dims(c.input(0)?);
    let rank = dims.len() as i64;
    let limit = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
    let (start, end) = (limit(c.int_or("start", 0)?), limit(c.int_or("end", rank)?));
    Ok(c.dims_value(dims.get(start..end).unwrap_or_default())?.into())
}

fn size(c: &mut Ctx) -> Result<Outputs> {
    let numel = c.ty(c.input(0)?).numel();
    Ok(c.dim_value(&numel, DType::I64)?.into())
}

/// 0 keeps an extent, -1 takes what remains. The shape was an attribute before version 5.
fn reshape(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let to = match c.ints("shape")? {
        Some(shape) => shape.into_iter().map(Dim::from).collect(),
        None => {
            let shape = c.input(1)?;
            c.need_dims(shape, "the shape")?
        }
    };
    let from = c.dims(x);
    let zero_is_zero = c.flag("allowzero", false)?;
    let mut dims = to.clone();
    for (k, d) in dims.iter_mut().enumerate().filter(|(_, d)| d.is(0) && !zero_is_zero) {
        match from.get(k) {
            Some(kept) => *d = kept.clone(),
            None => bail!("the shape {to:?} keeps extent {k}, but the input is {}", c.ty(x)),
        }
    }
    if let Some(rest) = dims.iter().position(|d| d.is(-1)) {
        dims[rest] = remaining(&from, &dims, rest)?;
    }
    ensure!(dims.iter().all(|d| d.as_const().is_none_or(|d| d >= 0)), "cannot reshape {} to {to:?}", c.ty(x));
    Ok(c.reshape(x, dims)?.into())
}

/// The extent that makes the number of elements the same, for the one at `rest`.
fn remaining(from: &[Dim], to: &[Dim], rest: usize) -> Result<Dim> {
    // Extents in both are left out, so that the quotient is of simple expressions.
    let mut above = from.to_vec();
    let mut below: Vec<Dim> = Vec::new();
    for (_, d) in to.iter().enumerate().filter(|(k, _)| *k != rest) {
        match above.iter().position(|a| a == d && !d.is(0)) {
            Some(at) => {
                above.remove(at);
            }
            None => below.push(d.clone()),
        }
    }
    let (above, below): (Dim, Dim) = (above.iter().product(), below.iter().product());
    match (above.as_const(), below.as_const()) {
        (_, Some(n)) if n <= 0 => bail!("cannot reshape {from:?} to {to:?}: the extent -1 is undetermined"),
        (Some(a), Some(b)) if a % b != 0 => {
            bail!("cannot reshape {from:?} to {to:?}: {a} is no multiple of {b}")
        }
        _ => Ok(above.floor_div(&below)),
    }
}

fn flatten(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let (dims, axis) = (c.dims(x), c.int_or("axis", 1)?);
    let axis = if axis == dims.len() as i64 { dims.len() } else { c.axis(axis, dims.len())? };
    let shape = vec![dims[..axis].iter().product(), dims[axis..].iter().product()];
    Ok(c.reshape(x, shape)?.into())
}

/// Axes given by an attribute before version 13, by an input since.
pub(super) fn axes_operand(c: &mut Ctx, k: usize) -> Result<Option<Vec<i64>>> {
    if let Some(axes) = c.ints("axes")? {
        return Ok(Some(axes));
    }
    match c.optional(k)? {
        Some(axes) => c.need_ints(axes, "the input `axes`").map(Some),
        None => Ok(None),
    }
}

fn squeeze(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axes = match axes_operand(c, 1)? {
        Some(axes) => c.axes(&axes, c.rank(x))?,
        None => {
            let ones = c.dims(x).into_iter().enumerate().filter(|(_, d)| d.is(1));
            ones.map(|(k, _)| k).collect()
        }
    };
    Ok(c.squeeze(x, &axes)?.into())
}

fn unsqueeze(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let Some(axes) = axes_operand(c, 1)? else { bail!("the axes are missing") };
    let axes = c.axes(&axes, c.rank(x) + axes.len())?;
    Ok(c.unsqueeze(x, &axes)?.into())
}

fn transpose(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let perm = match c.sizes("perm")? {
        Some(perm) => perm,
        None => (0..c.rank(x)).rev().collect(),
    };
    Ok(c.transpose(x, &perm)?.into())
}

fn concat(c: &mut Ctx) -> Result<Outputs> {
    let parts = c.inputs()?;
    ensure!(!parts.is_empty(), "at least one input is needed");
    let default = if c.opset() < 4 { Some(1) } else { None };
    let axis = c.required("axis", c.int("axis")?.or(default))?;
    let axis = c.axis(axis, c.rank(parts[0]))?;
    Ok(c.concat(&parts, axis)?.into())
}

fn expand(c: &mut Ctx) -> Result<Outputs> {
    let (x, shape) = (c.input(0)?, c.input(1)?);
    let shape = c.need_dims(shape, "the shape")?;
    let dims = aic_ir::types::broadcast(&[&c.ty(x).dims, &shape])?;
    Ok(c.expand(x, dims)?.into())
}

/// Every axis repeated: an axis of extent 1 before each is expanded and joined with it.
fn tile(c: &mut Ctx) -> Result<Outputs> {
    let (x, repeats) = (c.input(0)?, c.input(1)?);
    let repeats = c.need_dims(repeats, "the input `repeats`")?;
    let dims = c.dims(x);
    ensure!(repeats.len() == dims.len(), "expected {} repeats, found {}", dims.len(), repeats.len());
    let interleaved = |with: &dyn Fn(usize) -> Dim| -> Vec<Dim> {
        dims.iter().enumerate().flat_map(|(k, d)| [with(k), d.clone()]).collect()
    };
    let apart = c.reshape(x, interleaved(&|_| 1.into()))?;
    let repeated = c.expand(apart, interleaved(&|k| repeats[k].clone()))?;
    let shape = dims.iter().zip(&repeats).map(|(d, n)| d.clone() * n.clone()).collect();
    Ok(c.reshape(repeated, shape)?.into())
}

/// Sizes are given, or equal parts with a smaller one at the end.
fn split(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    let extent = c.dim(x, axis);
    let given = match (c.ints("split")?, c.optional(1)?) {
        (Some(sizes), _) => Some(sizes.into_iter().map(Dim::from).collect()),
        (None, Some(sizes)) => Some(c.need_dims(sizes, "the input `split`")?),
        (None, None) => None,
    };
    let sizes = match given {
        Some(sizes) => sizes,
        None => equal_parts(&extent, c.int_or("num_outputs", c.n_outputs() as i64)?)?,
    };
    let sum: Dim = sizes.iter().sum();
    let differs = (sum.clone() - extent.clone()).as_const().is_some_and(|d| d != 0);
    ensure!(!differs, "the sizes {sizes:?} must add up to extent {extent} of axis {axis}, not {sum}");
    Ok(c.split(x, axis, &sizes)?.into())
}

fn equal_parts(extent: &Dim, n: i64) -> Result<Vec<Dim>> {
    ensure!((1..=1 << 20).contains(&n), "cannot split into {n} parts");
    let part = extent.ceil_div(&n.into());
    if let (Some(extent), Some(part)) = (extent.as_const(), part.as_const()) {
        return Ok((0..n).map(|k| (extent - k * part).clamp(0, part).into()).collect());
    }
    let last = extent.clone() - part.clone() * (n - 1).into();
    Ok((0..n).map(|k| if k < n - 1 { part.clone() } else { last.clone() }).collect())
}

/// Bounds are attributes before version 10, inputs since.
fn slice(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let attribute = |list: Option<Vec<i64>>| -> Option<Vec<Dim>> {
        list.map(|list| list.into_iter().map(Dim::from).collect())
    };
    let operand = |c: &mut Ctx, name: &str, k: usize, what: &str| -> Result<Option<Vec<Dim>>> {
        match (attribute(c.ints(name)?), c.optional(k)?) {
            (Some(list), _) => Ok(Some(list)),
            (None, Some(v)) => c.need_dims(v, what).map(Some),
            (None, None) => Ok(None),
        }
    };
    let starts = operand(c, "starts", 1, "the input `starts`")?;
    let ends = operand(c, "ends", 2, "the input `ends`")?;
    let (Some(starts), Some(ends)) = (starts, ends) else { bail!("starts and ends are needed") };
    let axes = match (c.ints("axes")?, c.optional(3)?) {
        (Some(axes), _) => axes,
        (None, Some(v)) => c.need_ints(v, "the input `axes`")?,
        (None, None) => (0..starts.len() as i64).collect(),
    };
    let steps = match c.optional(4)? {
        Some(v) => c.need_ints(v, "the input `steps`")?,
        None => vec![1; starts.len()],
    };
    let axes = c.axes(&axes, c.rank(x))?;
    let n = axes.len();
    ensure!(
        starts.len() == n && ends.len() == n && steps.len() == n,
        "starts, ends, axes and steps must be equally long, found {}, {}, {n} and {}",
        starts.len(),
        ends.len(),
        steps.len()
    );
    let mut sizes = c.dims(x);
    let (mut from, mut by) = (vec![Dim::from(0); sizes.len()], vec![1; sizes.len()]);
    for (k, &axis) in axes.iter().enumerate() {
        let (step, extent) = (steps[k], sizes[axis].clone());
        ensure!(step != 0 && step != i64::MIN, "the step along axis {axis} can't be {step}");
        let start = c.clamped_position(&starts[k], &extent, step);
        let end = c.clamped_position(&ends[k], &extent, step);
        let span = if step > 0 { end - start.clone() } else { start.clone() - end };
        let size = span.ceil_div(&step.abs().into());
        sizes[axis] = c.not_negative(size);
        // An empty slice may start just outside.
        from[axis] = if sizes[axis].is(0) { 0.into() } else { start };
        by[axis] = step;
    }
    if sizes == c.dims(x) && by.iter().all(|&step| step == 1) {
        return Ok(x.into());
    }
    Ok(c.add(Slice { starts: from, sizes, steps: by }, &[x])?.into())
}

/// Amounts and the value are attributes before version 11, inputs since. Negative amounts remove.
fn pad(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let attribute = if c.opset() < 2 { "paddings" } else { "pads" };
    let amounts: Vec<Dim> = match c.ints(attribute)? {
        Some(pads) => pads.into_iter().map(Dim::from).collect(),
        None => {
            let pads = c.input(1)?;
            c.need_dims(pads, "the input `pads`")?
        }
    };
    let axes = match c.optional(3)? {
        Some(axes) => {
            let axes = c.need_ints(axes, "the input `axes`")?;
            c.axes(&axes, rank)?
        }
        None => (0..rank).collect(),
    };
    ensure!(amounts.len() == 2 * axes.len(), "expected {} amounts, found {}", 2 * axes.len(), amounts.len());
    let (mut lo, mut hi) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
    for (k, &axis) in axes.iter().enumerate() {
        (lo[axis], hi[axis]) = (amounts[k].clone(), amounts[axes.len() + k].clone());
    }
    let value = match c.optional(2)? {
        Some(value) => c.reshape(value, Vec::new())?,
        None => c.number_like(c.float_or("value", 0.0)?, x),
    };
    let mode = match c.text_or("mode", "constant")? {
        "constant" => PadMode::Constant,
        "edge" => PadMode::Edge,
        "reflect" => PadMode::Reflect,
        "wrap" => PadMode::Wrap,
        other => bail!("the mode {other} is unknown"),
    };
    let x = crop(c, x, &mut lo, &mut hi)?;
    if lo.iter().chain(&hi).all(|d| d.is(0)) {
        return Ok(x.into());
    }
    Ok(c.add(Pad { mode, lo, hi, interior: vec![0; rank] }, &[x, value])?.into())
}

/// Removes what is to be padded by a negative amount; the amounts become 0.
fn crop(c: &mut Ctx, x: ValueId, lo: &mut [Dim], hi: &mut [Dim]) -> Result<ValueId> {
    let mut y = x;
    for axis in 0..lo.len() {
        let amount = |d: &mut Dim| -> Result<i64> {
            match d.as_const() {
                Some(n) if n < 0 => {
                    *d = 0.into();
                    Ok(n.saturating_neg())
                }
                Some(_) => Ok(0),
                None if d.range(&|_| aic_ir::dim::Range::DIM).lo >= 0 => Ok(0),
                None => Err(Error::new(format!("the sign of the amount {d} must be known when compiling"))),
            }
        };
        let (first, last) = (amount(&mut lo[axis])?, amount(&mut hi[axis])?);
        let removed = first.saturating_add(last);
        if removed > 0 {
            let size = c.dim(y, axis) - removed.into();
            ensure!(
                size.as_const().is_none_or(|n| n >= 0),
                "more than axis {axis} of {} is removed",
                c.ty(x)
            );
            c.require(size.clone());
            y = c.slice(y, axis, first, size)?;
        }
    }
    Ok(y)
}

fn center_crop_pad(c: &mut Ctx) -> Result<Outputs> {
    let (mut x, shape) = (c.input(0)?, c.input(1)?);
    let rank = c.rank(x);
    let shape = c.need_ints(shape, "the shape")?;
    let axes = match c.ints("axes")? {
        Some(axes) => c.axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    ensure!(axes.len() == shape.len(), "expected {} extents, found {}", axes.len(), shape.len());
    for (axis, to) in axes.into_iter().zip(shape) {
        ensure!(to >= 0, "an extent can't be {to}");
        let from = c.size(x, axis)? as i64;
        if to <= from {
            x = c.slice(x, axis, (from - to) / 2, to)?;
        } else {
            let (mut lo, mut hi) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
            lo[axis] = ((to - from) / 2).into();
            hi[axis] = (to - from - (to - from) / 2).into();
            x = c.pad(x, lo, hi, Scalar::I(0))?;
        }
    }
    Ok(x.into())
}

/// `[N, C, H, W]` with blocks of the channels, in either order, moved into the image.
fn depth_to_space(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let block = c.required("blocksize", c.int("blocksize")?)?;
    let [n, channels, h, w] = four_dims(c, x)?;
    ensure!((1..=1 << 20).contains(&block), "the block size can't be {block}");
    let b = Dim::from(block);
    let depth = channels.floor_div(&(block * block).into());
    let (split, perm) = match c.text_or("mode", "DCR")? {
        "DCR" => {
            (vec![n.clone(), b.clone(), b.clone(), depth.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2])
        }
        "CRD" => {
            (vec![n.clone(), depth.clone(), b.clone(), b.clone(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3])
        }
        other => bail!("the mode {other} is unknown"),
    };
    let blocks = c.reshape(x, split)?;
    let moved = c.transpose(blocks, &perm)?;
    Ok(c.reshape(moved, vec![n, depth, h * b.clone(), w * b])?.into())
}

fn space_to_depth(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let block = c.required("blocksize", c.int("blocksize")?)?;
    let [n, channels, h, w] = four_dims(c, x)?;
    ensure!((1..=1 << 20).contains(&block), "the block size can't be {block}");
    let b = Dim::from(block);
    let (rows, columns) = (h.floor_div(&b), w.floor_div(&b));
    let split = vec![n.clone(), channels.clone(), rows.clone(), b.clone(), columns.clone(), b.clone()];
    let blocks = c.reshape(x, split)?;
    let perm = match c.text_or("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => bail!("the mode {other} is unknown"),
    };
    let moved = c.transpose(blocks, &perm)?;
    Ok(c.reshape(moved, vec![n, channels * b.clone() * b, rows, columns])?.into())
}

fn four_dims(c: &Ctx, x: ValueId) -> Result<[Dim; 4]> {
    match <[Dim; 4]>::try_from(c.dims(x)) {
        Ok(dims) => Ok(dims),
        Err(_) => bail!("expected a tensor of rank 4, found {}", c.ty(x)),
    }
}

/// `start, start + delta, ..` below the limit.
fn range(c: &mut Ctx) -> Result<Outputs> {
    let (start, limit, delta) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let count = range_count(c, start, limit, delta)?;
    let dtype = c.dtype(start);
    let (start, delta) = (c.reshape(start, Vec::new())?, c.reshape(delta, Vec::new())?);
    // The products are taken in a type that holds the indices exactly.
    let work = if dtype.is_float() { DType::F64 } else { dtype };
    let index = c.iota(vec![count], 0, work)?;
    let (start, delta) = (c.cast(start, work)?, c.cast(delta, work)?);
    let scaled = c.times(index, delta)?;
    let y = c.plus(scaled, start)?;
    Ok(c.cast(y, dtype)?.into())
}

fn range_count(c: &mut Ctx, start: ValueId, limit: ValueId, delta: ValueId) -> Result<Dim> {
    if c.dtype(start).is_float() {
        let mut number = |v, what| -> Result<f64> {
            let values = c.need_constant(v, what)?.to_f64();
            values.first().copied().ok_or_else(|| Error::new(format!("{what} is empty")))
        };
        let start = number(start, "the input `start`")?;
        let span = number(limit, "the input `limit`")? - start;
        let count = (span / number(delta, "the input `delta`")?).ceil().max(0.0);
        ensure!(count < 1e15, "a range of {count} numbers is too long");
        return Ok((count as i64).into());
    }
    let mut one = |v, what| -> Result<Dim> {
        match &c.need_dims(v, what)?[..] {
            [one] => Ok(one.clone()),
            other => bail!("{what} must be one number, found {}", other.len()),
        }
    };
    let (start, limit) = (one(start, "the input `start`")?, one(limit, "the input `limit`")?);
    let delta = one(delta, "the input `delta`")?;
    let span = match delta.as_const() {
        Some(0) => bail!("the input `delta` is 0"),
        Some(d) if d < 0 => start - limit,
        _ => limit - start,
    };
    let delta = delta.as_const().map_or(delta, |d| d.saturating_abs().into());
    let count = span.ceil_div(&delta);
    Ok(c.not_negative(count))
}

/// Ones on a diagonal.
fn eye_like(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    ensure!(c.rank(x) == 2, "expected a matrix, found {}", c.ty(x));
    let dtype = c.dtype_attribute("dtype")?.unwrap_or(c.dtype(x));
    let (row, column) = (c.iota(c.dims(x), 0, DType::I64)?, c.iota(c.dims(x), 1, DType::I64)?);
    let shifted = c.shifted(row, c.int_or("k", 0)? as f64)?;
    let on = c.equal(shifted, column)?;
    Ok(c.cast(on, dtype)?.into())
}

/// The upper or lower triangle of the last two axes; the rest becomes 0.
fn trilu(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    ensure!(rank >= 2, "expected rank 2 or more, found {}", c.ty(x));
    let last: Vec<Dim> = c.dims(x)[rank - 2..].to_vec();
    let (row, column) = (c.iota(last.clone(), 0, DType::I64)?, c.iota(last, 1, DType::I64)?);
    let diagonal = match c.optional(1)? {
        Some(k) => c.reshape(k, Vec::new())?,
        None => c.number(0.0, DType::I64),
    };
    let shifted = c.plus(row, diagonal)?;
    let kept = match c.flag("upper", true)? {
        true => c.greater_equal(column, shifted)?,
        false => c.less_equal(column, shifted)?,
    };
    let zero = c.number_like(0.0, x);
    Ok(c.select(kept, x, zero)?.into())
}

//! Images: sampling at computed places, regions, boxes, patches.

use super::attention::matched;
use super::conv::with_bias;
use super::window::{kernel_of, per_axis};
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{GridMode, GridPadding, GridSample, Nms, Pad, PadMode, RoiAlign, RoiMode};
use aic_ir::scalar::ScalarFn;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("AffineGrid", 20, affine_grid),
    op("Col2Im", 18, col2im),
    op("DeformConv", 19, deform_conv),
    op("GridSample", 16, grid_sample),
    op("NonMaxSuppression", 10, non_max_suppression),
    op("RoiAlign", 10, roi_align),
];

fn grid_sample(c: &mut Ctx) -> Result<Outputs> {
    let (x, grid) = (c.input(0)?, c.input(1)?);
    let mode = match c.text_or("mode", "linear")? {
        "linear" | "bilinear" => GridMode::Linear,
        "nearest" => GridMode::Nearest,
        "cubic" | "bicubic" => GridMode::Cubic,
        other => bail!("the mode {other} is unknown"),
    };
    let padding = match c.text_or("padding_mode", "zeros")? {
        "zeros" => GridPadding::Zeros,
        "border" => GridPadding::Border,
        "reflection" => GridPadding::Reflection,
        other => bail!("the padding mode {other} is unknown"),
    };
    let align_corners = c.flag("align_corners", false)?;
    let dtype = c.dtype(x);
    let pixels = if dtype.is_float() { x } else { c.cast(x, DType::F32)? };
    let y = c.add(GridSample { mode, padding, align_corners }, &[pixels, grid])?;
    if dtype.is_float() {
        return Ok(y.into());
    }
    ensure!(mode == GridMode::Nearest, "images of {dtype} can be sampled by the mode nearest only");
    Ok(c.cast(y, dtype)?.into())
}

fn roi_align(c: &mut Ctx) -> Result<Outputs> {
    let (x, rois, indices) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let indices = matched(c, indices, &[c.dim(rois, 0)])?;
    let size = |c: &Ctx, name: &str, default: i64| -> Result<usize> {
        let size = c.int_or(name, default)?;
        match usize::try_from(size) {
            Ok(size) if size <= 1 << 20 => Ok(size),
            _ => bail!("the attribute `{name}` must be a size, found {size}"),
        }
    };
    let mode = match c.text_or("mode", "avg")? {
        "avg" => RoiMode::Avg,
        "max" => RoiMode::Max,
        other => bail!("the mode {other} is unknown"),
    };
    let default = if c.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match c.text_or("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => bail!("the coordinate transformation mode {other} is unknown"),
    };
    let op = RoiAlign {
        mode,
        height: size(c, "output_height", 1)?,
        width: size(c, "output_width", 1)?,
        sampling_ratio: size(c, "sampling_ratio", 0)?,
        spatial_scale: c.float_or("spatial_scale", 1.0)?,
        half_pixel,
    };
    Ok(c.add(op, &[x, rois, indices])?.into())
}

/// How many boxes are selected is known only when running.
fn non_max_suppression(c: &mut Ctx) -> Result<Outputs> {
    let (boxes, scores) = (c.input(0)?, c.input(1)?);
    let mut threshold = |k: usize, what: &str, default: f64| -> Result<f64> {
        let Some(v) = c.optional(k)? else { return Ok(default) };
        match c.need_constant(v, what)?.to_f64()[..] {
            [one] => Ok(one),
            ref other => bail!("{what} must be one number, found {}", other.len()),
        }
    };
    let iou = threshold(3, "the IOU threshold", 0.0)?;
    let score = threshold(4, "the score threshold", f64::NEG_INFINITY)?;
    let max_output = match c.optional(2)? {
        Some(v) => c.need_int(v, "the number of boxes per class")?.max(0),
        None => 0,
    };
    let center_point = match c.int_or("center_point_box", 0)? {
        0 => false,
        1 => true,
        other => bail!("the attribute `center_point_box` must be 0 or 1, found {other}"),
    };
    let count = Dim::sym(&c.fresh("boxes"));
    Ok(c.add(Nms { max_output, iou, score, center_point, count }, &[boxes, scores])?.into())
}

/// Affine maps applied to the places of an image's pixels, from -1 to 1; x comes first.
fn affine_grid(c: &mut Ctx) -> Result<Outputs> {
    let (theta, size) = (c.input(0)?, c.input(1)?);
    let size = c.need_dims(size, "the size")?;
    let n = size.len().saturating_sub(2);
    ensure!((2..=3).contains(&n), "expected a size of 4 or 5 extents, found {}", size.len());
    let align_corners = c.flag("align_corners", false)?;
    let spatial = size[2..].to_vec();
    let work = c.dtype(theta).compute();
    let one = c.number(1.0, work);
    let mut parts = vec![c.expand(one, spatial.clone())?];
    for axis in 0..n {
        let line = places(c, &spatial[axis], align_corners, work)?;
        let line = c.along(line, axis, n)?;
        parts.insert(0, c.expand(line, spatial.clone())?);
    }
    for part in &mut parts {
        *part = c.unsqueeze(*part, &[n])?;
    }
    let places = c.concat(&parts, n)?;
    let count: Dim = spatial.iter().product();
    let rows = c.reshape(places, vec![count, (n + 1).into()])?;
    let wide = c.widened(theta)?;
    let columns = c.transpose_last(wide)?;
    let moved = c.matmul(rows, columns)?;
    let dims = [&[c.dim(theta, 0)], &spatial[..], &[n.into()]].concat();
    let grid = c.reshape(moved, dims)?;
    Ok(c.cast(grid, c.dtype(theta))?.into())
}

/// Evenly spaced numbers from -1 to 1: the ends of the range are the outermost ones, or half a step beyond them.
fn places(c: &mut Ctx, n: &Dim, align_corners: bool, dtype: DType) -> Result<ValueId> {
    let index = c.iota(vec![n.clone()], 0, DType::F64)?;
    let twice = c.scaled(index, 2.0)?;
    let last = c.dim_value(&(n.clone() - 1.into()), DType::F64)?;
    // Twice the distance from the centre.
    let from_centre = c.minus(twice, last)?;
    let steps = match align_corners {
        true => c.dim_value(&steps_between(n), DType::F64)?,
        false => c.dim_value(n, DType::F64)?,
    };
    let y = c.divide(from_centre, steps)?;
    c.cast(y, dtype)
}

/// The number of steps between `n` places, at least 1.
fn steps_between(n: &Dim) -> Dim {
    (n.clone() - 1.into()).maximum(&1.into())
}

/// The sum of all patches at their places: each element of a patch is put at the place it has in the image.
fn col2im(c: &mut Ctx) -> Result<Outputs> {
    let (x, image, block) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let image = c.need_ints(image, "the shape of the image")?;
    let block = c.need_ints(block, "the shape of blocks")?;
    let n = image.len();
    ensure!(n > 0 && block.len() == n, "the shapes of image and blocks must be equally long");
    let all = image.iter().chain(&block);
    ensure!(all.clone().all(|d| (1..=i32::MAX.into()).contains(d)), "extents must be positive");
    let (strides, dilations) = (per_axis(c, "strides", n, 1)?, per_axis(c, "dilations", n, 1)?);
    ensure!(strides.iter().chain(&dilations).all(|&s| s > 0), "strides and dilations must be positive");
    let pads = c.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * n]);
    ensure!(pads.len() == 2 * n, "the attribute `pads` must have {} entries, found {}", 2 * n, pads.len());
    ensure!(c.rank(x) == 3, "expected a tensor [batch, channels * block, blocks], found {}", c.ty(x));
    let padded: Vec<i64> = (0..n).map(|k| image[k] + (pads[k] + pads[n + k]) as i64).collect();
    let mut counts = Vec::new();
    for k in 0..n {
        let room = padded[k] - ((block[k] - 1) * dilations[k] as i64 + 1);
        ensure!(room >= 0, "the blocks are larger than the image along axis {k}");
        counts.push(room / strides[k] as i64 + 1);
    }
    let size = block.iter().fold(1i64, |size, &d| size.saturating_mul(d));
    ensure!(size <= 4096, "blocks of {size} elements are too large");
    let (batch, rows) = (c.dim(x, 0), c.dim(x, 1));
    let channels = rows.floor_div(&size.into());
    let mut dims = vec![batch, channels, size.into()];
    dims.extend(counts.iter().map(|&d| Dim::from(d)));
    let patches = c.reshape(x, dims)?;
    let zero = c.number_like(0.0, x);
    let mut terms = Vec::new();
    for element in 0..size {
        let plane = c.at(patches, 2, element)?;
        let (mut lo, mut hi, mut interior) = (vec![Dim::from(0); 2], vec![Dim::from(0); 2], vec![0; 2]);
        let mut rest = element;
        let mut offsets = vec![0; n];
        for k in (0..n).rev() {
            offsets[k] = rest % block[k] * dilations[k] as i64;
            rest /= block[k];
        }
        for k in 0..n {
            let span = (counts[k] - 1) * strides[k] as i64 + 1;
            lo.push(offsets[k].into());
            hi.push((padded[k] - offsets[k] - span).into());
            interior.push(strides[k] - 1);
        }
        terms.push(c.add(Pad { mode: PadMode::Constant, lo, hi, interior }, &[plane, zero])?);
    }
    let mut y = c.fold(ScalarFn::Add, &terms)?;
    for k in 0..n {
        y = c.slice(y, k + 2, pads[k], image[k])?;
    }
    Ok(y.into())
}

/// A convolution whose taps lie at places that are moved by offsets: these are sampled, then multiplied as a matrix.
fn deform_conv(c: &mut Ctx) -> Result<Outputs> {
    let (x, w, offset) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (bias, mask) = (c.optional(3)?, c.optional(4)?);
    ensure!(c.rank(x) == 4 && c.rank(offset) == 4, "two spatial axes are supported, found {}", c.ty(x));
    let kernel = kernel_of(c, w)?;
    ensure!(kernel.len() == 2, "two spatial axes are supported, found {}", c.ty(w));
    let (strides, dilations) = (per_axis(c, "strides", 2, 1)?, per_axis(c, "dilations", 2, 1)?);
    let pads = per_axis(c, "pads", 4, 0)?;
    let (groups, offset_groups) = (positive(c, "group")?, positive(c, "offset_group")?);
    let (batch, channels, filters) = (c.dim(x, 0), c.size(x, 1)?, c.size(w, 0)?);
    ensure!(
        channels % groups == 0 && channels % offset_groups == 0 && filters % groups == 0,
        "{channels} channels and {filters} filters don't split into {groups} and {offset_groups} groups"
    );
    let taps = kernel[0].saturating_mul(kernel[1]);
    ensure!(taps <= 1 << 20, "a kernel of {kernel:?} is too large");
    let (height, width) = (c.dim(offset, 2), c.dim(offset, 3));
    let together = batch.clone() * offset_groups.into();
    // Offsets as [batch and group, taps, y or x, height, width].
    let shifts =
        c.reshape(offset, vec![together.clone(), taps.into(), 2.into(), height.clone(), width.clone()])?;
    // The way to grid coordinates and back must not move a place off its pixel.
    let work = DType::F64;
    let shifts = c.cast(shifts, work)?;
    let mut places = Vec::new();
    for axis in [1, 0] {
        let mut shape = vec![Dim::from(1); 4];
        shape[2 + axis] = [&height, &width][axis].clone();
        let index = c.iota(shape, 2 + axis, work)?;
        let start = c.scaled(index, strides[axis] as f64)?;
        let tap = tap_offsets(c, &kernel, axis, dilations[axis], work)?;
        let fixed = c.plus(start, tap)?;
        let fixed = c.shifted(fixed, -(pads[axis] as f64))?;
        let shift = c.at(shifts, 2, axis)?;
        let at = c.plus(fixed, shift)?;
        // As grid coordinates: -1 and 1 are the outer edges of the image.
        let twice = c.scaled(at, 2.0)?;
        let centre = c.shifted(twice, 1.0)?;
        let extent = c.dim_value(&c.dim(x, 2 + axis), work)?;
        let place = c.divide(centre, extent)?;
        let place = c.shifted(place, -1.0)?;
        places.push(c.unsqueeze(place, &[4])?);
    }
    let grid = c.concat(&places, 4)?;
    let rows = Dim::from(taps) * height.clone();
    let grid = c.reshape(grid, vec![together.clone(), rows, width.clone(), 2.into()])?;
    let per_group = channels / offset_groups;
    let image = c.reshape(x, vec![together.clone(), per_group.into(), c.dim(x, 2), c.dim(x, 3)])?;
    let image = c.widened(image)?;
    let sample = GridSample { mode: GridMode::Linear, padding: GridPadding::Zeros, align_corners: false };
    let sampled = c.add(sample, &[image, grid])?;
    let area = height.clone() * width.clone();
    let mut columns =
        c.reshape(sampled, vec![together.clone(), per_group.into(), taps.into(), area.clone()])?;
    if let Some(mask) = mask {
        let mask = c.reshape(mask, vec![together, 1.into(), taps.into(), area.clone()])?;
        let mask = c.cast(mask, c.dtype(columns))?;
        columns = c.times(columns, mask)?;
    }
    let depth = channels / groups * taps;
    let columns = c.reshape(columns, vec![batch.clone(), groups.into(), depth.into(), area])?;
    let weights = c.reshape(w, vec![groups.into(), (filters / groups).into(), depth.into()])?;
    let weights = c.cast(weights, c.dtype(columns))?;
    let product = c.matmul(weights, columns)?;
    let y = c.reshape(product, vec![batch, filters.into(), height, width])?;
    let y = c.cast(y, c.dtype(x))?;
    Ok(with_bias(c, y, bias)?.into())
}

/// Along one axis, how far each tap of the kernel is from the first: `[1, taps, 1, 1]`.
fn tap_offsets(c: &mut Ctx, kernel: &[usize], axis: usize, dilation: usize, dtype: DType) -> Result<ValueId> {
    let index = c.iota(vec![kernel[0].into(), kernel[1].into()], axis, dtype)?;
    let offsets = c.scaled(index, dilation as f64)?;
    c.reshape(offsets, vec![1.into(), (kernel[0] * kernel[1]).into(), 1.into(), 1.into()])
}

fn positive(c: &Ctx, name: &str) -> Result<usize> {
    let n = c.int_or(name, 1)?;
    ensure!((1..=i32::MAX.into()).contains(&n), "the attribute `{name}` must be positive, found {n}");
    Ok(n as usize)
}

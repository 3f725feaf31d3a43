//! Convolutions.

use super::window::{Padding, Windows, kernel_of, padding, per_axis, windows};
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{Conv, Pad, PadMode, Slice};

pub(super) const OPERATORS: &[Operator] = &[op("Conv", 1, conv), op("ConvTranspose", 1, conv_transpose)];

fn conv(c: &mut Ctx) -> Result<Outputs> {
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    let y = convolution(c, x, w)?;
    Ok(with_bias(c, y, bias)?.into())
}

/// The convolution that the node's attributes describe, without bias.
pub(super) fn convolution(c: &mut Ctx, x: ValueId, w: ValueId) -> Result<ValueId> {
    let windows = windows(c, x, kernel_of(c, w)?)?;
    let groups = groups(c)?;
    let Windows { strides, dilations, .. } = windows.clone();
    c.add(Conv { strides, dilations, pads: windows.pads(), groups }, &[x, w])
}

fn groups(c: &Ctx) -> Result<usize> {
    let groups = c.int_or("group", 1)?;
    ensure!((1..=1 << 28).contains(&groups), "the attribute `group` must be positive, found {groups}");
    Ok(groups as usize)
}

/// Adds a vector along the channels.
pub(super) fn with_bias(c: &mut Ctx, y: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
    match bias {
        Some(bias) => {
            let bias = c.along(bias, 1, c.rank(y))?;
            c.plus(y, bias)
        }
        None => Ok(y),
    }
}

/// The adjoint of a convolution: one over the input with zeros between its elements, by the kernel turned around.
fn conv_transpose(c: &mut Ctx) -> Result<Outputs> {
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    let kernel = kernel_of(c, w)?;
    let n = kernel.len();
    ensure!(n > 0 && c.rank(x) == n + 2, "expected a weight of the rank of {}, found {}", c.ty(x), c.ty(w));
    let (strides, dilations) = (per_axis(c, "strides", n, 1)?, per_axis(c, "dilations", n, 1)?);
    ensure!(strides.iter().chain(&dilations).all(|&s| s > 0), "strides and dilations must be positive");
    let groups = groups(c)?;
    let (mut lo, mut hi) = (vec![Dim::from(0); n + 2], vec![Dim::from(0); n + 2]);
    let mut interior = vec![0; n + 2];
    for k in 0..n {
        let span = ((kernel[k] - 1) * dilations[k] + 1) as i64;
        let (before, after) = transposed_padding(c, x, k, n, strides[k] as i64, span)?;
        lo[k + 2] = (span - 1 - before).into();
        hi[k + 2] = (span - 1 - after).into();
        interior[k + 2] = strides[k] - 1;
    }
    let spread = spread(c, x, lo, hi, interior)?;
    let turned = turned_kernel(c, w, groups)?;
    let conv = Conv { strides: vec![1; n], dilations, pads: vec![0; 2 * n], groups };
    let y = c.add(conv, &[spread, turned])?;
    Ok(with_bias(c, y, bias)?.into())
}

/// What is cut off the full result before and after along a spatial axis; negative amounts add.
fn transposed_padding(c: &Ctx, x: ValueId, k: usize, n: usize, stride: i64, span: i64) -> Result<(i64, i64)> {
    let extra = per_axis(c, "output_padding", n, 0)?[k] as i64;
    let padding = padding(c)?;
    let odd_at_end = matches!(padding, Padding::Same { odd_at_end: true });
    let halves = |total: i64| -> (i64, i64) {
        let small = total.div_euclid(2);
        if odd_at_end { (small, total - small - extra) } else { (total - small, small - extra) }
    };
    if let Some(shape) = c.sizes("output_shape")? {
        // Early models repeat the batch and the channels.
        let shape = if shape.len() == n + 2 { &shape[2..] } else { &shape[..] };
        ensure!(
            shape.len() == n,
            "the attribute `output_shape` must have {n} entries, found {}",
            shape.len()
        );
        let full = stride * (c.size(x, k + 2)? as i64 - 1) + extra + span;
        return Ok(halves(full - shape[k] as i64));
    }
    match padding {
        Padding::Same { .. } => Ok(halves(extra + span - stride)),
        Padding::Explicit if c.text("auto_pad")? == Some("VALID") => Ok((0, -extra)),
        Padding::Explicit => {
            let pads = c.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * n]);
            ensure!(
                pads.len() == 2 * n,
                "the attribute `pads` must have {} entries, found {}",
                2 * n,
                pads.len()
            );
            Ok((pads[k] as i64, pads[n + k] as i64 - extra))
        }
    }
}

/// Zeros put before, after and between elements; negative amounts before and after remove.
fn spread(c: &mut Ctx, x: ValueId, lo: Vec<Dim>, hi: Vec<Dim>, interior: Vec<usize>) -> Result<ValueId> {
    let excess = |d: &Dim| d.as_const().map_or(0, |d| (-d).max(0));
    let kept = |d: Dim| d.as_const().map_or(d, |d| d.max(0).into());
    let (first, last): (Vec<i64>, Vec<i64>) =
        (lo.iter().map(excess).collect(), hi.iter().map(excess).collect());
    let zero = c.number_like(0.0, x);
    let (lo, hi) = (lo.into_iter().map(kept).collect(), hi.into_iter().map(kept).collect());
    let wide = c.add(Pad { mode: PadMode::Constant, lo, hi, interior }, &[x, zero])?;
    if first.iter().chain(&last).all(|&n| n == 0) {
        return Ok(wide);
    }
    let sizes: Vec<Dim> = (c.dims(wide).into_iter().zip(first.iter().zip(&last)))
        .map(|(d, (first, last))| d - (first + last).into())
        .collect();
    ensure!(sizes.iter().all(|d| d.as_const().is_none_or(|d| d > 0)), "the padding exceeds the result");
    for size in &sizes {
        c.require(size.clone());
    }
    let steps = vec![1; sizes.len()];
    let starts = first.into_iter().map(Dim::from).collect();
    c.add(Slice { starts, sizes, steps }, &[wide])
}

/// A weight `[C, M/groups, kernel..]` as `[M, C/groups, kernel..]` with the kernel turned around.
fn turned_kernel(c: &mut Ctx, w: ValueId, groups: usize) -> Result<ValueId> {
    let dims = c.dims(w);
    let (channels, per_group) = (c.size(w, 0)?, dims[1].clone());
    ensure!(channels % groups == 0, "{channels} channels don't split into {groups} equal groups");
    let (g, inner) = (Dim::from(groups), Dim::from(channels / groups));
    let split = [&[g.clone(), inner.clone(), per_group.clone()], &dims[2..]].concat();
    let split = c.reshape(w, split)?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..dims.len() + 1).collect();
    let swapped = c.transpose(split, &perm)?;
    let joined = c.reshape(swapped, [&[g * per_group, inner], &dims[2..]].concat())?;
    (2..dims.len()).try_fold(joined, |w, axis| if c.dim(w, axis).is(1) { Ok(w) } else { c.reverse(w, axis) })
}

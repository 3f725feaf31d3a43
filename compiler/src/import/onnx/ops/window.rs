//! The geometry that convolutions and poolings share: kernel, strides, dilations and padding along the spatial axes.

use crate::import::onnx::ctx::Ctx;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::{bail, ensure};

/// Windows over the axes of `x` from the third on; one entry per axis in every list.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Padding before the elements of each axis, and after them.
    pub lo: Vec<usize>,
    pub hi: Vec<usize>,
    /// Further padding at the end, which the last window reaches into when extents are rounded up.
    pub overhang: Vec<usize>,
}

impl Windows {
    /// Padding as the core operators take it.
    pub(super) fn pads(&self) -> Vec<usize> {
        let hi = self.hi.iter().zip(&self.overhang).map(|(hi, more)| hi + more);
        self.lo.iter().copied().chain(hi).collect()
    }

    /// Whether any window reaches out of the elements.
    pub(super) fn is_padded(&self) -> bool {
        self.pads().iter().any(|&p| p > 0)
    }
}

/// How padding is given.
pub(super) enum Padding {
    /// By the attribute `pads`.
    Explicit,
    /// So that the result has one element per stride; the odd one goes to the end, or to the start.
    Same { odd_at_end: bool },
}

/// The attribute `auto_pad`; `pads` is not to be read where it is `VALID`.
pub(super) fn padding(c: &Ctx) -> Result<Padding> {
    match c.text_or("auto_pad", "NOTSET")? {
        "" | "NOTSET" | "VALID" => Ok(Padding::Explicit),
        "SAME_UPPER" => Ok(Padding::Same { odd_at_end: true }),
        "SAME_LOWER" => Ok(Padding::Same { odd_at_end: false }),
        other => bail!("auto_pad {other} is unknown"),
    }
}

/// The attribute `name` with one entry per spatial axis, or a default for all.
pub(super) fn per_axis(c: &Ctx, name: &str, n: usize, default: usize) -> Result<Vec<usize>> {
    let list = c.sizes(name)?.unwrap_or_else(|| vec![default; n]);
    ensure!(list.len() == n, "the attribute `{name}` must have {n} entries, found {}", list.len());
    Ok(list)
}

/// The windows of a node that reads `x`, with a given kernel.
pub(super) fn windows(c: &Ctx, x: ValueId, kernel: Vec<usize>) -> Result<Windows> {
    let n = c.rank(x).saturating_sub(2);
    ensure!(n > 0, "expected rank 3 or more, found {}", c.ty(x));
    ensure!(kernel.len() == n, "the kernel {kernel:?} doesn't fit the {n} spatial axes of {}", c.ty(x));
    ensure!(kernel.iter().all(|&k| k > 0), "kernel extents must be positive, found {kernel:?}");
    let strides = per_axis(c, "strides", n, 1)?;
    let dilations = per_axis(c, "dilations", n, 1)?;
    ensure!(strides.iter().chain(&dilations).all(|&s| s > 0), "strides and dilations must be positive");
    let (mut lo, mut hi) = (vec![0; n], vec![0; n]);
    match padding(c)? {
        Padding::Explicit if c.text("auto_pad")? == Some("VALID") => {}
        Padding::Explicit => {
            let pads = c.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * n]);
            ensure!(
                pads.len() == 2 * n,
                "the attribute `pads` must have {} entries, found {}",
                2 * n,
                pads.len()
            );
            lo.copy_from_slice(&pads[..n]);
            hi.copy_from_slice(&pads[n..]);
        }
        Padding::Same { odd_at_end } => {
            for k in 0..n {
                let span = (kernel[k] - 1) * dilations[k] + 1;
                let total = same_padding(c, x, k + 2, strides[k], span)?;
                lo[k] = if odd_at_end { total / 2 } else { total.div_ceil(2) };
                hi[k] = total - lo[k];
            }
        }
    }
    let mut windows = Windows { kernel, strides, dilations, lo, hi, overhang: vec![0; n] };
    if c.flag("ceil_mode", false)? {
        windows.overhang = (0..n).map(|k| overhang(c, x, &windows, k)).collect::<Result<_>>()?;
    }
    Ok(windows)
}

/// How much padding makes the result `ceil(extent / stride)`. With stride 1 that holds for any extent.
fn same_padding(c: &Ctx, x: ValueId, axis: usize, stride: usize, span: usize) -> Result<usize> {
    if stride == 1 {
        return Ok(span - 1);
    }
    let extent = c.size(x, axis)?;
    let out = extent.div_ceil(stride);
    Ok((out.saturating_sub(1) * stride + span).saturating_sub(extent))
}

/// How far the last window reaches beyond the padding if the number of windows is rounded up. A window that would
/// start beyond the elements and the padding before them is left out.
fn overhang(c: &Ctx, x: ValueId, w: &Windows, k: usize) -> Result<usize> {
    if w.strides[k] == 1 {
        return Ok(0);
    }
    let extent = c.size(x, k + 2)?;
    let span = (w.kernel[k] - 1) * w.dilations[k] + 1;
    let padded = extent + w.lo[k] + w.hi[k];
    let mut last = padded.saturating_sub(span).div_ceil(w.strides[k]);
    if last * w.strides[k] >= extent + w.lo[k] {
        last = last.saturating_sub(1);
    }
    Ok((last * w.strides[k] + span).saturating_sub(padded))
}

/// The spatial extents of a weight, which must be known.
pub(super) fn kernel_of(c: &Ctx, w: ValueId) -> Result<Vec<usize>> {
    let found: Vec<usize> = (2..c.rank(w)).map(|axis| c.size(w, axis)).collect::<Result<_>>()?;
    if let Some(declared) = c.sizes("kernel_shape")? {
        ensure!(
            declared == found,
            "the attribute `kernel_shape` is {declared:?}, but the weight is {}",
            c.ty(w)
        );
    }
    Ok(found)
}

/// The spatial extents of a value.
pub(super) fn spatial(c: &Ctx, x: ValueId) -> Vec<Dim> {
    c.dims(x).get(2..).unwrap_or_default().to_vec()
}

//! Sliding windows over the trailing (spatial) axes: what convolution and pooling share.
//!
//! Window `o` covers the positions `o * stride + tap * dilation` of the padded axis for every tap of the kernel. All
//! extents, element positions and index expressions below refer to the padded axis, until an element is loaded.

use super::elementwise::positions;
use super::number::filled;
use super::shape::strides;
use crate::compute::{Axis, Expr};
use crate::dim::Dim;
use crate::ensure;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::numel;
use crate::types::Type;

/// The geometry of windows; one entry per spatial axis in each list but `pads`, which has the low ends, then the
/// high ends.
#[derive(Clone, Debug)]
pub(crate) struct Windows<'a> {
    pub kernel: Vec<Dim>,
    pub strides: &'a [usize],
    pub dilations: &'a [usize],
    pub pads: &'a [usize],
}

impl Windows<'_> {
    /// Extents of the output over spatial extents `x`.
    pub fn infer(&self, x: &[Dim]) -> Result<Vec<Dim>> {
        let n = x.len();
        for (name, found, expected) in [
            ("kernel", self.kernel.len(), n),
            ("strides", self.strides.len(), n),
            ("dilations", self.dilations.len(), n),
            ("pads", self.pads.len(), 2 * n),
        ] {
            ensure!(
                found == expected,
                "expected {expected} values of {name} for {n} spatial axes, found {found}"
            );
        }
        let positive = |list: &[usize]| list.iter().all(|&v| v > 0);
        ensure!(positive(self.strides), "strides must be positive, found {:?}", self.strides);
        ensure!(positive(self.dilations), "dilations must be positive, found {:?}", self.dilations);
        let no_taps = |k: &Dim| k.as_const().is_some_and(|k| k < 1);
        ensure!(!self.kernel.iter().any(no_taps), "kernel extents must be positive, found {:?}", self.kernel);
        (0..n).map(|k| self.extent(k, &x[k])).collect()
    }

    fn extent(&self, k: usize, x: &Dim) -> Result<Dim> {
        let span = (self.kernel[k].clone() - 1.into()) * self.dilations[k].into() + 1.into();
        let padded = self.padded(k, x);
        let room = padded.clone() - span.clone();
        ensure!(
            room.as_const().is_none_or(|r| r >= 0),
            "the window (extent {span} with its dilation) is larger than the padded extent {padded} of spatial axis {k}"
        );
        Ok(room.floor_div(&self.strides[k].into()) + 1.into())
    }

    fn padded(&self, k: usize, x: &Dim) -> Dim {
        let n = self.strides.len();
        x.clone() + self.pads[k].into() + self.pads[n + k].into()
    }

    /// The padded position that output `o` reads at `tap`, per spatial axis.
    pub fn index(&self, o: &[Dim], tap: &[Dim]) -> Vec<Dim> {
        let along =
            |k: usize| o[k].clone() * self.strides[k].into() + tap[k].clone() * self.dilations[k].into();
        (0..o.len()).map(along).collect()
    }

    /// The element of operand 0 of type `x` at padded positions; `fill` where these are in the padding.
    pub fn load(&self, x: &Type, mut at: Vec<Dim>, fill: Scalar) -> Expr {
        let n = self.strides.len();
        let lead = x.rank() - n;
        let mut guards = Vec::new();
        for k in 0..n {
            let (lo, hi) = (self.pads[k], self.pads[n + k]);
            at[lead + k] = at[lead + k].clone() - lo.into();
            if lo + hi > 0 {
                guards.push(Expr::in_bounds(&at[lead + k], &x.dims[lead + k]));
            }
        }
        let load = Expr::input(0, at);
        if guards.is_empty() { load } else { load.guarded(Expr::all(guards), Expr::Const(x.dtype, fill)) }
    }
}

/// Names of the tap axes: `kd kh kw` for up to three spatial axes, numbered beyond.
pub(crate) fn tap_axes(kernel: &[Dim]) -> Vec<Axis> {
    let n = kernel.len();
    let name = |k: usize| match n {
        0..=3 => format!("k{}", ["d", "h", "w"][3 - n + k]),
        _ => format!("k{k}"),
    };
    kernel.iter().enumerate().map(|(k, d)| Axis::new(&name(k), d.clone())).collect()
}

/// Elements in padded extents, for reference evaluation.
pub(crate) struct Padded<T> {
    /// Planes one after the other, row-major each.
    pub data: Vec<T>,
    /// Spatial extents of a plane, padding included.
    pub extents: Vec<usize>,
}

impl<T: Copy> Padded<T> {
    /// Copies planes of the given spatial extents, with `fill` around each.
    pub fn new(x: &[T], planes: usize, spatial: &[usize], pads: &[usize], fill: T) -> Result<Padded<T>> {
        let n = spatial.len();
        let extents: Vec<usize> =
            (0..n).map(|k| spatial[k].saturating_add(pads[k]).saturating_add(pads[n + k])).collect();
        let mut shape = vec![planes];
        shape.extend(&extents);
        let mut data = filled(numel(&shape)?, fill)?;
        if x.is_empty() {
            return Ok(Padded { data, extents });
        }
        let step = strides(&extents);
        let first: usize = (0..n).map(|k| pads[k] * step[k]).sum();
        let at = positions(spatial, &step)?;
        let plane: usize = extents.iter().product();
        for (p, from) in x.chunks_exact(at.len()).enumerate() {
            for (v, &q) in from.iter().zip(&at) {
                data[p * plane + first + q] = *v;
            }
        }
        Ok(Padded { data, extents })
    }

    /// Elements of a plane.
    pub fn plane(&self) -> usize {
        self.extents.iter().product()
    }

    /// Positions within a plane of a grid of `counts` points that are `steps` apart along each axis.
    pub fn grid(&self, counts: &[usize], steps: &[usize]) -> Result<Vec<usize>> {
        let step = strides(&self.extents);
        // Where there is one point the step means nothing, and may be larger than any plane.
        let by: Vec<usize> = (0..counts.len())
            .map(|k| if counts[k] > 1 { steps[k].saturating_mul(step[k]) } else { 0 })
            .collect();
        positions(counts, &by)
    }
}

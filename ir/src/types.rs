//! The type of a graph value: element type, symbolic dimensions, physical layout.

use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::{bail, ensure};
use std::fmt;

/// How the elements of a tensor lie in memory. The dims of a [`Type`] are always the logical ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Row-major in the order of the dims (`ND`; `NCHW` for images).
    #[default]
    RowMajor,
    /// Axis 1 last (`NHWC`).
    ChannelsLast,
    /// Axis 1 split into blocks of this many, the block innermost (`NCHW16c`, `NC1HWC0`); padded with zeros.
    ChannelsBlocked(u32),
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// The element type.
    pub dtype: DType,
    /// The logical extents.
    pub dims: Vec<Dim>,
    /// The order in memory.
    pub layout: Layout,
}

impl Type {
    /// A row-major type.
    pub fn new(dtype: DType, dims: Vec<Dim>) -> Type {
        Type { dtype, dims, layout: Layout::RowMajor }
    }

    /// A row-major type of constant extents.
    pub fn of(dtype: DType, shape: &[usize]) -> Type {
        Type::new(dtype, shape.iter().map(|&d| d.into()).collect())
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The number of elements.
    pub fn numel(&self) -> Dim {
        self.dims.iter().product()
    }

    /// The same dims with another element type.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, ..self.clone() }
    }

    /// The extents, if all are constants.
    pub fn shape(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(|d| d.as_const().and_then(|d| usize::try_from(d).ok())).collect()
    }

    /// Replaces symbols in the dims.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Type {
        Type { dims: self.dims.iter().map(|d| d.subst(f)).collect(), ..self.clone() }
    }
}

impl fmt::Display for Type {
    /// `f32[batch,3,224,224]`, with `:nhwc` or `:c16` behind it for other layouts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (k, d) in self.dims.iter().enumerate() {
            if k > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")?;
        match self.layout {
            Layout::RowMajor => Ok(()),
            Layout::ChannelsLast => f.write_str(":nhwc"),
            Layout::ChannelsBlocked(n) => write!(f, ":c{n}"),
        }
    }
}

/// The common shape of operands under multidirectional (NumPy) broadcasting.
///
/// A symbolic dim is never taken to be 1: it broadcasts against 1 and against itself only.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::from(1); rank];
    for shape in shapes {
        for (have, d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            if have.is(1) {
                *have = d.clone();
            } else if !(d.is(1) || d == have) {
                bail!("shapes {} do not broadcast: {have} against {d}", list(shapes));
            }
        }
    }
    Ok(out)
}

/// Whether extents aren't known to differ: for operators whose reference meaning checks them again.
pub(crate) fn may_agree(a: &[Dim], b: &[Dim]) -> bool {
    let differ = |a: &Dim, b: &Dim| (a.clone() - b.clone()).as_const().is_some_and(|d| d != 0);
    a.len() == b.len() && !a.iter().zip(b).any(|(a, b)| differ(a, b))
}

fn list(shapes: &[&[Dim]]) -> String {
    shapes.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" and ")
}

/// `axis` counted from the front; negative values count from the back.
pub fn axis_index(axis: i64, rank: usize) -> Result<usize> {
    let n = rank as i64;
    ensure!((-n..n).contains(&axis), "axis {axis} is out of range for a tensor of rank {rank}");
    Ok(if axis < 0 { axis + n } else { axis } as usize)
}

//! A contraction as a product of matrices whose rows and columns are several axes each, and whose elements are whatever
//! expressions: `out[m, n] += a(m, k) * b(k, n)`. Convolutions are such, with padding and strides in the expressions.

use super::super::nest::{Flat, Nest};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::scalar::ScalarFn;
use std::collections::HashMap;

/// The parts of a contraction.
pub(super) struct Sides<'a> {
    /// The axes of the rows, of the columns, and those reduced over.
    pub axes: [Vec<Axis>; 3],
    /// The axes that both factors depend on.
    pub batch: Vec<Axis>,
    /// The left and the right factor.
    pub factors: [&'a Flat; 2],
}

/// The sides of a nest that is a sum of products; the innermost axis that only one factor depends on is a column.
pub(super) fn sides(nest: &Nest) -> Option<Sides<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [x, y] = &factors[..] else { return None };
    let is_triangular = over.iter().any(|o| nest.axes.iter().any(|a| o.extent.mentions(&a.var)));
    if is_triangular || nest.kept.is_some() {
        return None;
    }
    let of_one = |f: &Flat, g: &Flat| -> Vec<Axis> {
        nest.axes.iter().filter(|a| f.mentions(&a.var) && !g.mentions(&a.var)).cloned().collect()
    };
    let (of_x, of_y) = (of_one(x, y), of_one(y, x));
    let is_of = |side: &[Axis], a: &Axis| side.iter().any(|b| b.var == a.var);
    let batch = nest.axes.iter().filter(|a| !is_of(&of_x, a) && !is_of(&of_y, a)).cloned().collect();
    let last = nest.axes.iter().rfind(|a| is_of(&of_x, a) || is_of(&of_y, a))?;
    let (m, n, factors) = if is_of(&of_y, last) { (of_x, of_y, [x, y]) } else { (of_y, of_x, [y, x]) };
    Some(Sides { axes: [m, n, over.clone()], batch, factors })
}

/// The number of points of axes.
pub(super) fn points(axes: &[Axis]) -> Dim {
    axes.iter().map(|a| &a.extent).product()
}

/// What axes are, in terms of an index over all of them.
pub(super) fn at(axes: &[Axis], index: &Dim) -> HashMap<Sym, Dim> {
    let extents: Vec<Dim> = axes.iter().map(|a| a.extent.clone()).collect();
    let index = aic_ir::op::unflatten(index, &extents);
    axes.iter().map(|a| a.var.clone()).zip(index).collect()
}

impl Sides<'_> {
    /// The number of rows, of columns, or of terms.
    pub fn extent(&self, side: usize) -> Dim {
        points(&self.axes[side])
    }

    /// Whether neighbours along the terms lie side by side in a factor, and those along its own side don't.
    pub fn is_along_terms(&self, factor: usize) -> bool {
        let is_next = |axes: &[Axis]| {
            let steps = axes.last().map(|a| self.factors[factor].steps(&a.var)).unwrap_or_default();
            steps.iter().any(|s| s.as_ref().is_some_and(|d| d.is(1)))
        };
        is_next(&self.axes[2]) && !is_next(&self.axes[factor])
    }
}

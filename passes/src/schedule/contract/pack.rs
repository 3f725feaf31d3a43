//! Contractions that read the factor which is loaded in vectors as a packed constant.
//!
//! Wherever the constant's elements are, and whatever axes of it the terms of the sum run through: a register tile
//! reads its rows of columns one after the other, whole and aligned. The order of the sum is that without packing.

use super::{Axis, Flat, Frame, Nest, Roles, Schedule, Target, plan, roles, tiles};
use crate::packing::{Packing, Span};
use crate::schedule::prepare::PACKED_ROWS;
use crate::schedule::runs_inside;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Buffer, Stmt};
use aic_ir::scalar::ScalarFn;

/// The number of a panel, in the address of a packed factor.
pub(in crate::schedule) fn panel() -> Sym {
    Sym::new("panel")
}

/// A column of a panel.
pub(in crate::schedule) fn column() -> Sym {
    Sym::new("column")
}

/// A schedule with a packed factor, if the nest is a contraction one of whose factors can be.
pub fn choose_packed(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    let roles = packed_roles(nest)?;
    let s = plan::plan(nest, &roles, target, lanes, true);
    Some(Schedule { pack: s.nr * s.lanes, ..s })
}

/// What an input of a nest is to be for a schedule, if it is to be packed.
pub fn packings(nest: &Nest, s: &Schedule) -> Option<(usize, Packing)> {
    let roles = if s.pack > 0 { packed_roles(nest) } else { None }?;
    let Layout { input, packing, .. } = Layout::new(nest, &roles, s.pack)?;
    Some((input, packing))
}

/// The vectors of a contraction with these roles, packed in panels of so many columns: which input they are of, how it
/// is packed, and the factor that reads it.
pub(in crate::schedule) fn packed(
    nest: &Nest,
    roles: &Roles,
    columns: u32,
) -> Option<(usize, Packing, Flat)> {
    let layout = Layout::new(nest, roles, columns)?;
    let load = layout.load();
    Some((layout.input, layout.packing, load))
}

/// The roles in a contraction: with a packed factor if there can be one, else as it reads them.
pub(super) fn choose_roles(nest: &Nest) -> Option<Roles<'_>> {
    packed_roles(nest).or_else(|| roles(nest))
}

/// Whether the vectors of these roles can be packed in panels of so many columns.
pub(super) fn has_layout(nest: &Nest, roles: &Roles, columns: u32) -> bool {
    Layout::new(nest, roles, columns).is_some()
}

/// The buffer of a packed input.
pub fn packed_buffer(buffer: &Buffer, packing: &Packing) -> Buffer {
    let len = packing.numel().unwrap_or_default();
    Buffer { len: len.into(), ..buffer.clone() }
}

/// The statements of the kernel.
pub fn packed_body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(found) = packed_roles(nest) else { return Vec::new() };
    let Some(layout) = Layout::new(nest, &found, s.pack) else { return Vec::new() };
    let mut packed = nest.clone();
    packed.inputs[layout.input] = packed_buffer(&nest.inputs[layout.input], &layout.packing);
    tiles(&packed, s, &Roles { vector: &layout.load(), ..found }, frame)
}

/// The roles in a contraction whose vectors are those of a constant: as they would be anyway, or along an axis of it
/// that results are contiguous along.
fn packed_roles(nest: &Nest) -> Option<Roles<'_>> {
    let fits = |r: &Roles| Layout::new(nest, r, 1).is_some();
    if let Some(found) = roles(nest).filter(fits) {
        return Some(found);
    }
    let (ReduceOp::Sum, _) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [a, b] = &factors[..] else { return None };
    let of = |scalar, vector| along_results(nest, scalar, vector).filter(fits);
    // Terms that follow one another in memory are summed in vectors, unless a factor would be transposed.
    let is_long = |m: usize| nest.axes[m].extent.as_const().is_none_or(|n| n >= PACKED_ROWS);
    of(a, b).or_else(|| of(b, a)).filter(|r| !runs_inside(nest) || r.m.is_some_and(is_long))
}

/// Vectors along the axis that results are contiguous along, if one factor alone depends on it.
fn along_results<'a>(nest: &Nest, scalar: &'a Flat, vector: &'a Flat) -> Option<Roles<'a>> {
    let step = |axis: &Axis| nest.at.affine_in(&axis.var).map(|(step, _)| step);
    let n = nest.axes.iter().rposition(|axis| step(axis).is_some_and(|s| s.is(1)))?;
    let is_long = nest.axes[n].extent.as_const().is_some_and(|n| n >= 4);
    let reads = |f: &Flat, k: usize| f.mentions(&nest.axes[k].var);
    if !is_long || reads(scalar, n) || !reads(vector, n) {
        return None;
    }
    let others = || (0..nest.axes.len()).rev().filter(|&k| k != n);
    let reuse = others().find(|&k| reads(scalar, k) && !reads(vector, k));
    Some(Roles { n, m: reuse.or_else(|| others().next()), scalar, vector })
}

/// Where the elements of a packed factor are.
struct Layout {
    input: usize,
    packing: Packing,
    /// The position of an element in the packed array, in terms of the axes, the panel and the column.
    at: Dim,
    /// The factor as it is without packing.
    factor: Flat,
}

impl Layout {
    /// The layout in panels of so many columns; `None` where the vector factor is no constant that may be moved.
    fn new(nest: &Nest, roles: &Roles, columns: u32) -> Option<Layout> {
        let factor = roles.vector;
        let load = if let Flat::Cast(_, e) = factor { e } else { factor };
        let Flat::Load { input, address, terms } = load else { return None };
        if !terms.is_empty() || !nest.constants.contains(input) || nest.kept.is_some() {
            return None;
        }
        let mut rest = address.clone();
        let mut span = |axis: &Axis| -> Option<Span> {
            let (step, others) = rest.affine_in(&axis.var)?;
            rest = others;
            let stride = isize::try_from(step.as_const()?).ok()?;
            let extent = if stride == 0 { Some(1) } else { axis.extent.as_const() };
            Some(Span { extent: usize::try_from(extent?).ok()?, stride })
        };
        let outer_axes: Vec<&Axis> =
            (0..nest.axes.len()).filter(|k| *k != roles.n).map(|k| &nest.axes[k]).collect();
        let outer: Vec<Span> = outer_axes.iter().map(|a| span(a)).collect::<Option<_>>()?;
        let mut own = span(&nest.axes[roles.n]).filter(|s| s.extent > 0 && s.stride != 0)?;
        let terms: Vec<Span> = nest.over().iter().map(&mut span).collect::<Option<_>>()?;
        let mut first_panel = Dim::from(0);
        if let Some(part) = nest.part.as_ref().filter(|p| p.var == nest.axes[roles.n].var) {
            // Part of the columns, in panels of their own.
            let columns = i64::from(columns).into();
            if !part.first.modulo(&columns).is(0) {
                return None;
            }
            first_panel = part.first.floor_div(&columns);
            rest = rest - part.first.clone() * (own.stride as i64).into();
            own.extent = usize::try_from(part.whole).ok()?;
        }
        let offset = isize::try_from(rest.as_const()?).ok()?;
        let is_row = |k: usize| roles.m.is_some_and(|m| nest.axes[m].var == outer_axes[k].var);
        if (0..outer.len()).any(|k| is_row(k) && outer[k].stride != 0) {
            return None;
        }
        let place = |at: Dim, (axis, s): (&Axis, &Span)| match s.stride {
            0 => at,
            _ => at * s.extent.into() + axis.dim(),
        };
        let packing = Packing { offset, outer, columns: own, panel: columns as usize, terms };
        packing.numel().ok()?;
        let outside = outer_axes.iter().copied().zip(&packing.outer).fold(Dim::from(0), place);
        let row = outside * packing.n_panels().into() + first_panel + Dim::sym(&panel());
        let row = nest.over().iter().zip(&packing.terms).fold(row, place);
        let at = row * packing.panel.into() + Dim::sym(&column());
        Some(Layout { input: *input, packing, at, factor: factor.clone() })
    }

    /// The factor as it is with packing.
    fn load(&self) -> Flat {
        let load = Flat::Load { input: self.input, address: self.at.clone(), terms: Vec::new() };
        match &self.factor {
            Flat::Cast(t, _) => Flat::Cast(*t, load.into()),
            _ => load,
        }
    }
}

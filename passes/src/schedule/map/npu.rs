//! Nests without reduction on an NPU: vector cores take rows of consecutive results in turn.
//!
//! Of a schedule: `ub` is how many elements a vector core works on, `cores` how many cores there are.

use super::super::Frame;
use super::super::nest::Nest;
use super::super::unified::{Unified, alloc, bytes_per_element, on_cores, width};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Level, LoopKind, Stmt};
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use std::collections::HashMap;

/// As many elements as fit.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let extent = nest.axes.last().map_or_else(|| 1.into(), |a| a.extent.clone());
    let n = width(target, bytes_per_element(nest), &extent);
    let tile = Tile { place: Place::Ub, extent: [1, u32::try_from(n).ok()?, 1], buffers: 2 };
    let cores = target.level(LoopKind::Bind(Level::Core)).map_or(1, |l| l.units);
    let schedule = Schedule { tiles: vec![tile], cores, ..Schedule::new(Class::Map, 1) };
    let is_empty = nest.axes.iter().any(|a| a.extent.is(0));
    (is_empty || !body(nest, &schedule, &mut Frame::kernel()).is_empty()).then_some(schedule)
}

/// The statements of the kernel; none if the vector cores can't do it.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    statements(nest, s, frame).unwrap_or_default()
}

fn statements(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Option<Vec<Stmt>> {
    if nest.kept.is_some() {
        return None;
    }
    let none = Axis::new("no axis", 1.into());
    let (along, outer) = nest.axes.split_last().unwrap_or((&none, &[]));
    let width = i64::from(s.tile(Place::Ub)?.extent[1]);
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(along.extent.ceil_div(&width.into()));
    on_cores(&extents.iter().product(), s.cores, |id| {
        let index = aic_ir::op::unflatten(id, &extents);
        let axes: HashMap<Sym, Dim> = outer.iter().map(|a| a.var.clone()).zip(index.clone()).collect();
        let first = index[outer.len()].clone() * width.into();
        let n = Dim::from(width).minimum(&(along.extent.clone() - first.clone()));
        let mut u = Unified::new(nest, along, [first, n], width, axes, "u");
        let value = u.localize(&nest.value, frame)?;
        let mut out = u.take();
        let result = match u.held(&value) {
            Some(buffer) => buffer,
            None => {
                let y = alloc("uy", nest.output.dtype, width);
                out.push(Stmt::Alloc(y.clone()));
                out.push(u.compute(&value, &y, Dim::sym(&super::super::unified::lane()), None, frame));
                y
            }
        };
        out.push(u.copy_out(&result)?);
        Some(out)
    })
}

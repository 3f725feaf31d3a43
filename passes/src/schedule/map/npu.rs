//! Nests without reduction on an NPU: vector cores take rows of consecutive results in turn, or tiles of them where what
//! they are made of is consecutive along another axis.
//!
//! Of a schedule: `ub` is the rows and the elements of each that a vector core works on, `cores` how many cores there are.

mod turn;

use super::super::Frame;
use super::super::nest::{Flat, Nest};
use super::super::unified::{
    Unified, alloc, bytes_per_element, is_index, is_movement, lane, on_cores, width,
};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Level, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use std::collections::HashMap;

/// As many elements as fit.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let extent = nest.axes.last().map_or_else(|| 1.into(), |a| a.extent.clone());
    let n = width(target, bytes_per_element(nest), &extent);
    let tile = Tile { place: Place::Ub, extent: [1, u32::try_from(n).ok()?, 1], buffers: 2 };
    let cores = target.level(LoopKind::Bind(Level::Core)).map_or(1, |l| l.units);
    if let Some(tile) = turn::tile(nest) {
        return Some(Schedule { tiles: vec![tile], cores, ..Schedule::new(Class::Map, 1) });
    }
    let schedule = Schedule { tiles: vec![tile], cores, ..Schedule::new(Class::Map, 1) };
    let is_empty = nest.axes.iter().any(|a| a.extent.is(0));
    (is_empty || !body(nest, &schedule, &mut Frame::kernel()).is_empty()).then_some(schedule)
}

/// The statements of the kernel; none if the vector cores can't do it.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let is_turned = s.tile(Place::Ub).is_some_and(|t| t.extent[0] > 1);
    if is_turned { turn::body(nest, s, frame) } else { statements(nest, s, frame) }.unwrap_or_default()
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
    on_cores(&extents, s.cores, |index| {
        let axes: HashMap<Sym, Dim> =
            outer.iter().map(|a| a.var.clone()).zip(index.iter().cloned()).collect();
        let first = index[outer.len()].clone() * width.into();
        let n = Dim::from(width).minimum(&(along.extent.clone() - first.clone()));
        let range = [first, n];
        let unified = |prefix| Unified::new(nest, along, range.clone(), width, axes.clone(), prefix);
        let mut u = unified("u");
        if let Some([cond, yes, no]) = choice(&nest.value, along) {
            let y = alloc("uy", nest.output.dtype, width);
            let mut sides = [("u", yes), ("v", no)].into_iter().map(|(prefix, side)| {
                let mut u = unified(prefix);
                let value = u.localize(side, frame)?;
                let mut out = u.take();
                out.push(u.compute(&value, &y, Dim::sym(&lane()), None, frame));
                Some(out)
            });
            let (then, other) = (sides.next()??, sides.next()??);
            drop(sides);
            let cond = u.scalar(cond, frame)?;
            let copy = u.copy_out(&y)?;
            return Some(vec![Stmt::Alloc(y), Stmt::If { cond, then, other }, copy]);
        }
        let value = u.localize(&nest.value, frame)?;
        let mut out = u.take();
        let result = match u.held(&value) {
            Some(buffer) => buffer,
            None => {
                let y = alloc("uy", nest.output.dtype, width);
                out.push(Stmt::Alloc(y.clone()));
                out.push(u.compute(&value, &y, Dim::sym(&lane()), None, frame));
                y
            }
        };
        out.push(u.copy_out(&result)?);
        Some(out)
    })
}

/// The parts of a choice, the same for a row of results, between what is computed and something else.
fn choice<'a>(value: &'a Flat, along: &Axis) -> Option<[&'a Flat; 3]> {
    let Flat::Call(ScalarFn::Select, args) = value else { return None };
    let is_uniform = is_index(&args[0]) && !args[0].mentions(&along.var);
    (is_uniform && !is_movement(value)).then_some([&args[0], &args[1], &args[2]])
}

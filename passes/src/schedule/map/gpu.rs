//! Nests without reduction on a GPU: a vector of 16 bytes for each thread, along the innermost axis.
//!
//! Of a schedule: `block` is the number of elements of a block, `lanes` that of a thread.

use super::super::nest::Nest;
use super::super::{Frame, fit, grid};
use super::element;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::Stmt;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Threads of a block.
const THREADS: u32 = 256;

/// As many lanes as an access of a thread has.
pub fn choose(nest: &Nest, target: &Target) -> Schedule {
    let lanes = fit(target.lanes(nest.widest()), nest.axes.last().map(|a| &a.extent));
    let tile = Tile { place: Place::Block, extent: [1, THREADS * lanes, 1], buffers: 1 };
    Schedule { tiles: vec![tile], ..Schedule::new(Class::Map, lanes) }
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let lanes = i64::from(s.lanes.max(1));
    let block = s.tile(Place::Block).map_or(1, |t| i64::from(t.extent[1]));
    let threads = (block / lanes).max(1);
    let mut extents: Vec<Dim> = nest.axes.iter().map(|a| a.extent.clone()).collect();
    let inner = extents.last().cloned().unwrap_or_else(|| 1.into());
    if let Some(last) = extents.last_mut() {
        *last = inner.ceil_div(&lanes.into());
    }
    let mut index = aic_ir::op::unflatten(&grid::id(threads), &extents);
    if let Some(last) = index.last_mut() {
        *last = last.clone() * lanes.into() + Dim::sym(&super::lane());
    }
    let axes: HashMap<Sym, Dim> = nest.axes.iter().map(|a| a.var.clone()).zip(index).collect();
    let limit = (!inner.is_multiple(lanes)).then_some(inner);
    let body = element(nest, axes, s.lanes, limit, frame);
    grid::threads(&extents, threads, body)
}

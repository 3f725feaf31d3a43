//! The threads of a GPU as one loop: blocks along x of so many threads, of which those beyond the end do nothing. It
//! serves nests whose elements are independent, and is the schedule of every reduction that has no better one: a
//! thread for each result, which takes one term after the other.

use super::Frame;
use super::nest::Nest;
use super::reduce::running_axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, Level, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};

/// Threads of a block: few, as each has much to do.
const THREADS: u32 = 128;

/// A thread for each result of a reduction.
pub fn choose(nest: &Nest) -> Schedule {
    let class = if running_axis(nest).is_some() { Class::Prefix } else { Class::ReduceOuter };
    let tile = Tile { place: Place::Block, extent: [1, THREADS, 1], buffers: 1 };
    Schedule { tiles: vec![tile], ..Schedule::new(class, 1) }
}

/// The frame of a kernel with such threads.
pub fn frame(s: &Schedule) -> Frame {
    let threads = s.tile(Place::Block).map_or(1, |t| i64::from(t.extent[1]));
    Frame { threads: Some(threads), ..Frame::kernel() }
}

/// The number of a thread among all of them.
pub fn id(threads: i64) -> Dim {
    Dim::named("block") * threads.into() + Dim::named("thread")
}

/// What a thread does for each index of the given extents, in blocks of `threads`. That a thread is one of them is said
/// of its outermost index, by which accesses are proved to be in bounds.
pub fn threads(extents: &[Dim], threads: i64, body: Vec<Stmt>) -> Vec<Stmt> {
    let total: Dim = extents.iter().product();
    let index = aic_ir::op::unflatten(&id(threads), extents);
    let (at, extent) = match extents.iter().position(|e| !e.is(1)) {
        Some(k) => (index[k].clone(), extents[k].clone()),
        None => (id(threads), 1.into()),
    };
    let body = match total.is_multiple(threads) {
        true => body,
        false => {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(at), Expr::Index(extent)]);
            vec![Stmt::If { cond, then: body, other: Vec::new() }]
        }
    };
    let bound = |name: &str, extent: Dim, level, body| {
        vec![Stmt::loop_of(&Sym::new(name), extent, LoopKind::Bind(level), body)]
    };
    let body = bound("thread", threads.into(), Level::Thread(0), body);
    bound("block", total.ceil_div(&threads.into()), Level::Block(0), body)
}

//! What nodes and transpositions cost in either layout: rooflines of the target.

use crate::rewrite::cost::{CLOCK, FUSED_LAUNCH, NOMINAL};
use aic_ir::dim::Dim;
use aic_ir::graph::{Graph, Node};
use aic_ir::op::Op;
use aic_ir::target::Target;
use aic_ir::types::Type;

/// The part of the peak that a contraction reaches with columns in its vectors.
const COLUMNS: f64 = 0.7;
/// The part that it reaches with channels in them.
const CHANNELS: f64 = 0.9;
/// The part that the products of Winograd's convolution reach.
const FILTERED: f64 = 0.8;
/// Bytes per second that its transforms move.
const TRANSFORMED: f64 = 50e9;
/// The parts that windows without contraction reach, for which loads are the limit.
const WINDOW_COLUMNS: f64 = 0.15;
const WINDOW_CHANNELS: f64 = 0.4;

/// Seconds that a convolution or pooling takes with channels outermost, and with channels innermost.
pub fn window(g: &Graph, n: &Node, target: &Target) -> (f64, f64) {
    let y = g.ty(n.outputs[0]);
    if target.is_npu() {
        // What it reads is transposed before anything else, and its results end in rows that don't fill a block.
        return (transposition(g.ty(n.inputs[0]), target) + transposition(y, target), 0.0);
    }
    let lanes = target.lanes(y.dtype.compute().size());
    let (terms, is_contraction) = match &n.op {
        Op::Conv(c) => (elements(&g.ty(n.inputs[1]).dims[1..]), c.groups == 1),
        Op::Pool(p) => (p.kernel.iter().product::<usize>() as f64, false),
        _ => (1.0, false),
    };
    let best = 2.0 * elements(&y.dims) * terms / peak(lanes);
    if !is_contraction {
        return (best / WINDOW_COLUMNS, best / (WINDOW_CHANNELS * filled(&y.dims[1], lanes)));
    }
    let last = best / (CHANNELS * filled(&y.dims[1], lanes));
    let filtered = match (&n.op, n.inputs.get(1).and_then(|w| g.as_const(*w))) {
        (Op::Conv(c), Some(w)) => {
            let x = g.ty(n.inputs[0]);
            super::winograd::tile(c, x, w.shape(), y, target).map(|m| winograd(m, x, y, target))
        }
        _ => None,
    };
    (best / COLUMNS, filtered.map_or(last, |time| time.min(last)))
}

/// Operations per second of a core.
fn peak(lanes: u32) -> f64 {
    4.0 * CLOCK * f64::from(lanes)
}

/// Seconds that a convolution of `x` by filters of shape `w` takes with channels innermost: products, or reading the
/// filters where that takes longer.
pub fn direct(x: &Type, y: &Type, w: &[usize], target: &Target) -> f64 {
    let lanes = target.lanes(x.dtype.size());
    let terms = w[1..].iter().product::<usize>() as f64;
    let products = 2.0 * elements(&y.dims) * terms / (CHANNELS * peak(lanes));
    products.max(reading(w.iter().product::<usize>() as f64 * 4.0, target))
}

/// Seconds that Winograd's convolution takes with tiles of `m x m`: products or reading the filters, and transforms.
/// The channels of `x` and `y` are their second axes.
pub fn winograd(m: usize, x: &Type, y: &Type, target: &Target) -> f64 {
    let lanes = target.lanes(x.dtype.size());
    let domain = ((m + 2) * (m + 2)) as f64;
    let tiles = |d: &Dim| extent(&d.ceil_div(&m.into()));
    let tiles = extent(&y.dims[0]) * tiles(&y.dims[2]) * tiles(&y.dims[3]);
    let (channels, filters) = (extent(&x.dims[1]), extent(&y.dims[1]));
    let products = 2.0 * tiles * domain * channels * filters / (FILTERED * peak(lanes));
    let filter_bytes = domain * channels * filters * 4.0;
    let moved = 2.0 * tiles * domain * (channels + filters) * 4.0;
    products.max(reading(filter_bytes, target)) + moved / TRANSFORMED
}

/// Seconds to read bytes once from the nearest memory that holds them beside others.
fn reading(bytes: f64, target: &Target) -> f64 {
    let level = target.memory.iter().find(|m| m.bytes as f64 >= 2.0 * bytes).or(target.memory.last());
    level.map_or(0.0, |m| bytes / m.bandwidth)
}

/// The part of vectors along an axis that is filled.
fn filled(d: &Dim, lanes: u32) -> f64 {
    let (n, lanes) = (extent(d), f64::from(lanes));
    n / ((n / lanes).ceil() * lanes).max(1.0)
}

/// Seconds to transpose a value, which mostly joins a kernel that is there anyway.
pub fn transposition(ty: &Type, target: &Target) -> f64 {
    let bytes = 2.0 * elements(&ty.dims) * ty.dtype.size() as f64;
    let level = target.memory.iter().find(|m| m.bytes as f64 >= bytes).or(target.memory.last());
    FUSED_LAUNCH + level.map_or(0.0, |m| bytes / m.bandwidth)
}

fn extent(d: &Dim) -> f64 {
    d.eval(&|_| Some(NOMINAL)).unwrap_or(NOMINAL).max(0) as f64
}

fn elements(dims: &[Dim]) -> f64 {
    dims.iter().map(extent).product()
}

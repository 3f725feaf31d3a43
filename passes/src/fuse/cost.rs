//! What a map costs on its own, recomputed, or kept: a roofline of the target.

use crate::rewrite::cost::{CLOCK, LAUNCH, NOMINAL};
use aic_ir::compose::compose;
use aic_ir::dim::Dim;
use aic_ir::graph::{Graph, Port};
use aic_ir::target::Target;
use aic_ir::types::Type;

/// Vector instructions per cycle.
const VECTOR_UNITS: f64 = 2.0;

/// What to do with a map that several kernels read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Compute it in each of them.
    Recompute,
    /// Compute it in one, which stores it for the others.
    Keep,
}

/// What a map moves and computes.
struct Costs {
    /// Seconds to read the operands.
    read: f64,
    /// Seconds to write the results, or to read them.
    write: f64,
    /// Seconds of arithmetic.
    arithmetic: f64,
}

/// The cheaper choice for a map that `n_readers` read.
pub fn choose(map: &Graph, n_readers: usize, target: &Target) -> Choice {
    let c = costs(map, target);
    let n = n_readers as f64;
    let recompute = (n - 1.0) * (c.arithmetic + c.read);
    if recompute <= n * c.write { Choice::Recompute } else { Choice::Keep }
}

/// Whether a kernel of its own for the map is cheaper than evaluating it in each of `n_readers`.
pub fn pays_alone(map: &Graph, n_readers: usize, target: &Target) -> bool {
    let c = costs(map, target);
    let n = n_readers as f64;
    n * (c.arithmetic + c.read) > LAUNCH + c.arithmetic + c.read + (n + 1.0) * c.write
}

fn costs(map: &Graph, target: &Target) -> Costs {
    let seconds = |ports: &[Port]| time(ports.iter().map(|p| bytes(map.ty(p.value))).sum(), target);
    let flops = compose(map).map_or(0.0, |c| number(&c.flops()));
    let peak = CLOCK * VECTOR_UNITS * f64::from(target.lanes(4));
    Costs { read: seconds(&map.inputs), write: seconds(&map.outputs), arithmetic: flops / peak }
}

fn number(d: &Dim) -> f64 {
    d.eval(&|_| Some(NOMINAL)).unwrap_or(NOMINAL) as f64
}

fn bytes(ty: &Type) -> f64 {
    number(&ty.numel()) * ty.dtype.size() as f64
}

/// Seconds to move bytes to or from the nearest memory that holds them.
fn time(bytes: f64, target: &Target) -> f64 {
    let level = target.memory.iter().find(|m| m.bytes as f64 >= bytes);
    level.map_or(0.0, |m| bytes / m.bandwidth)
}

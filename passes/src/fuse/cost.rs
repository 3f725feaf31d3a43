//! What a map costs on its own, recomputed, or kept: a roofline of the target.

use aic_ir::compose::compose;
use aic_ir::dim::Dim;
use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::types::Type;

/// The extent that a symbol is taken to have.
const NOMINAL: i64 = 64;
/// Cycles per second of a vector unit.
const CLOCK: f64 = 3e9;
/// Seconds to start a kernel.
const LAUNCH: f64 = 1e-6;

/// What to do with a map that several kernels read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Compute it in each of them.
    Recompute,
    /// Compute it in one, which stores it for the others.
    Keep,
}

/// The cheaper choice for a map with `n_readers`.
pub fn choose(map: &Graph, n_readers: usize, target: &Target) -> Choice {
    let of = |values: &mut dyn Iterator<Item = &Type>| -> f64 { values.map(bytes).sum() };
    let read = of(&mut map.inputs.iter().map(|p| map.ty(p.value)));
    let written = of(&mut map.outputs.iter().map(|p| map.ty(p.value)));
    let lanes = f64::from(target.lanes(4));
    let arithmetic = compose(map).map_or(0.0, |c| number(&c.flops())) / (CLOCK * lanes);
    let again = (n_readers - 1) as f64;
    let recompute = again * (arithmetic + time(read, target));
    let keep = (again + 1.0) * time(written, target);
    if recompute <= keep { Choice::Recompute } else { Choice::Keep }
}

/// Whether a kernel of its own for the map is cheaper than evaluating it in each of `n_readers`.
pub fn pays_alone(map: &Graph, n_readers: usize, target: &Target) -> bool {
    let of = |values: &mut dyn Iterator<Item = &Type>| -> f64 { values.map(bytes).sum() };
    let read = of(&mut map.inputs.iter().map(|p| map.ty(p.value)));
    let written = of(&mut map.outputs.iter().map(|p| map.ty(p.value)));
    let arithmetic = compose(map).map_or(0.0, |c| number(&c.flops())) / (CLOCK * f64::from(target.lanes(4)));
    let n = n_readers as f64;
    let alone = LAUNCH + arithmetic + time(read, target) + (n + 1.0) * time(written, target);
    n * (arithmetic + time(read, target)) > alone
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

//! Layout: which tensors have their channels innermost.
//!
//! Vectors of channels make faster kernels of most convolutions and poolings; transpositions cost time. Every node
//! that can work on either layout gets the one for which all nodes and transpositions together cost least: the minimum
//! cut of a network (`cut.rs`) by the costs of `cost.rs`. The graph is then rebuilt with values in the layouts that
//! their readers want. A value has at most one transposition, constants are transposed here, inputs and outputs of the
//! graph keep their layout.
//!
//! The order of sums changes, so that nothing is done under [`Numerics::Exact`].

mod cost;
mod cut;
mod rebuild;
pub mod winograd;

use crate::runner::{Context, Numerics};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Node};
use aic_ir::op::{Conv, Op};
use aic_ir::tensor::Tensor;

/// Taps of a row at most, where there is padding.
const MAX_TAPS: usize = 16;

/// What a node does with the layout of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A convolution or pooling: it costs something in either layout.
    Window,
    /// Its results are in the layout of its operands, whichever that is.
    Free,
    /// It reads either layout; results have no axes whose order would differ.
    Reader,
    /// It knows but one layout.
    Plain,
}

/// Chooses layouts and rebuilds the graph.
///
/// # Errors
/// None but those that are the compiler's own.
pub fn run(g: &Graph, cx: &mut Context) -> Result<Graph> {
    let roles: Vec<Role> = g.nodes().map(|(_, n)| role(g, n)).collect();
    let is_served = cx.target.is_cpu() || cx.target.is_npu();
    if cx.numerics == Numerics::Exact || !is_served || !roles.contains(&Role::Window) {
        return Ok(g.clone());
    }
    let is_last = cut::choose(g, &roles, &cx.target);
    rebuild::rebuild(g, &roles, &is_last, cx)
}

fn role(g: &Graph, n: &Node) -> Role {
    let rank = |v: &aic_ir::graph::ValueId| g.ty(*v).rank();
    let Some(first) = n.inputs.first() else { return Role::Plain };
    let r = rank(first);
    let one_rank = r >= 3 && n.inputs.iter().chain(&n.outputs).all(|v| rank(v) == r);
    match &n.op {
        Op::Conv(c) if is_convertible(g, n, c) => Role::Window,
        Op::Pool(p) if is_known(g, n) && taps_fit(&p.kernel, &p.pads) => Role::Window,
        Op::Elementwise(_) => {
            let r = n.outputs.first().map_or(0, rank);
            if r >= 3 { Role::Free } else { Role::Plain }
        }
        Op::Cast(_) | Op::Activation(_) | Op::Concat(_) | Op::Slice(_) if one_rank => Role::Free,
        Op::Pad(_) if r >= 3 => Role::Free,
        Op::Reduce(reduce) if r >= 3 => {
            let kept: Vec<usize> =
                rebuild::to_last(r).into_iter().filter(|k| !reduce.axes.contains(k)).collect();
            if kept.is_sorted() { Role::Reader } else { Role::Plain }
        }
        _ => Role::Plain,
    }
}

/// Whether channels and spatial extents are known.
fn is_known(g: &Graph, n: &Node) -> bool {
    let known = |d: &Dim| d.as_const().is_some_and(|d| d > 0);
    n.inputs.iter().chain(&n.outputs).all(|v| g.ty(*v).dims[1..].iter().all(known))
}

fn taps_fit(kernel: &[usize], pads: &[usize]) -> bool {
    kernel.last().is_some_and(|taps| *taps <= MAX_TAPS) || pads.iter().all(|p| *p == 0)
}

/// Whether the convolution has all channels in one group, or each in its own, and constant weights of which leaving out
/// what is multiplied by padding changes nothing.
fn is_convertible(g: &Graph, n: &Node, c: &Conv) -> bool {
    let Some(w) = g.as_const(n.inputs[1]) else { return false };
    let (shape, x) = (w.shape(), g.ty(n.inputs[0]));
    let is_depthwise = shape[1] == 1 && shape[0] == c.groups && x.dims[1].is(c.groups as i64);
    is_known(g, n) && (c.groups == 1 || is_depthwise) && taps_fit(&shape[2..], &c.pads) && is_finite(w)
}

fn is_finite(t: &Tensor) -> bool {
    match (t.dtype(), t.bytes().as_chunks::<4>()) {
        (DType::F32, (values, [])) => values.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
        (t_, _) if !t_.is_float() => true,
        _ => t.scalars().all(|x| x.as_f64().is_finite()),
    }
}

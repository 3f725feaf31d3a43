//! What an operator does to the elements of its operands, as far as fusion is concerned.

use aic_ir::graph::{Graph, Node};
use aic_ir::op::Op;
use aic_ir::types::Type;

/// From what fuses most easily to what doesn't at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Every element of the result is made from one element of each operand, in the same place.
    Elementwise,
    /// Likewise, but axes of an operand are repeated. A transposition is none.
    Broadcast,
    /// Elements are made from elements in other places.
    Injective,
    /// Elements are combined along axes.
    Reduction,
    /// Products are summed: each operand's element is read many times.
    Contraction,
    /// No expression.
    Opaque,
}

/// The kind of a node.
pub fn kind(g: &Graph, n: &Node) -> Kind {
    let x: Vec<&Type> = n.inputs.iter().map(|v| g.ty(*v)).collect();
    let y: Vec<&Type> = n.outputs.iter().map(|v| g.ty(*v)).collect();
    match &n.op {
        Op::Elementwise(_) if x.iter().all(|t| t.dims == y[0].dims || t.numel().is(1)) => Kind::Elementwise,
        Op::Cast(_) | Op::Activation(_) => Kind::Elementwise,
        Op::Elementwise(_) | Op::Expand(_) => Kind::Broadcast,
        Op::Matmul(_) | Op::Conv(_) | Op::ChannelsLastConv(_) | Op::Winograd(_) | Op::Attention(_) => {
            Kind::Contraction
        }
        Op::Const(_) | Op::Fused(_) => Kind::Opaque,
        _ => by_definition(n, &x, &y),
    }
}

fn by_definition(n: &Node, x: &[&Type], y: &[&Type]) -> Kind {
    let owned = |types: &[&Type]| -> Vec<Type> { types.iter().map(|&t| t.clone()).collect() };
    match n.op.compute(&owned(x), &owned(y)) {
        None => Kind::Opaque,
        Some(c) if c.stages.iter().any(|s| s.reduction.is_some()) => Kind::Reduction,
        Some(_) if matches!(n.op, Op::Bitcast(_)) => Kind::Elementwise,
        Some(_) => Kind::Injective,
    }
}

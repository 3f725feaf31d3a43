//! The graph passes of the first pipeline: canonical forms, constant folding, dead code.

use crate::runner::Context;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Def, Graph, Node, ValueId};
use aic_ir::op::{Op, Reshape, Transpose};
use aic_ir::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// The largest folded constant, in bytes, unless it is no larger than its operands.
const FOLD_LIMIT: usize = 64 << 20;

/// Removes nodes that do nothing and merges chains of the same movement.
pub fn canonicalize(g: &Graph) -> Result<Graph> {
    g.rebuild(|out, _, n, x| {
        let Some((op, from, origin)) = movement(out, n, x) else {
            let is_cast = matches!(n.op, Op::Cast(_));
            return if is_cast && *out.ty(x[0]) == *g.ty(n.outputs[0]) {
                Ok(vec![x[0]])
            } else {
                copy(out, g, n, x)
            };
        };
        let ty = g.ty(n.outputs[0]).clone();
        let moves_nothing = match &op {
            Op::Transpose(t) => t.perm.iter().copied().eq(0..t.perm.len()),
            _ => *out.ty(from) == ty,
        };
        if moves_nothing {
            return Ok(vec![from]);
        }
        let op = match &op {
            Op::Transpose(t) if moves_no_element(t, &out.ty(from).dims) => {
                Reshape { shape: ty.dims.clone() }.into()
            }
            _ => op,
        };
        Ok(out.add_typed(op, &[from], vec![ty], &origin))
    })
}

/// A reshape, expansion or transposition, merged with the one of its kind that it follows: the operator, its operand
/// in the new graph, and the names of both.
fn movement(out: &Graph, n: &Node, x: &[ValueId]) -> Option<(Op, ValueId, Vec<Arc<str>>)> {
    let before = x.first().and_then(|v| producer(out, *v));
    let merged: Option<Op> = match (&n.op, before.map(|b| &b.op)) {
        (Op::Reshape(r), Some(Op::Reshape(_))) => Some(r.clone().into()),
        (Op::Transpose(t), Some(Op::Transpose(first))) => {
            Some(Transpose { perm: t.perm.iter().map(|&k| first.perm[k]).collect() }.into())
        }
        (Op::Reshape(_) | Op::Expand(_) | Op::Transpose(_), _) => None,
        _ => return None,
    };
    Some(match (merged, before) {
        (Some(op), Some(b)) => {
            let new = n.origin.iter().filter(|name| !b.origin.contains(name));
            (op, b.inputs[0], b.origin.iter().chain(new).cloned().collect())
        }
        _ => (n.op.clone(), x[0], n.origin.clone()),
    })
}

/// Whether a transposition leaves the axes longer than 1 in their order.
fn moves_no_element(t: &Transpose, dims: &[Dim]) -> bool {
    let moved: Vec<usize> = t.perm.iter().copied().filter(|&k| !dims[k].is(1)).collect();
    moved.windows(2).all(|w| w[0] < w[1])
}

fn producer(g: &Graph, v: ValueId) -> Option<&Node> {
    match g.value(v).def {
        Def::Node(n, _) => Some(g.node(n)),
        Def::Input(_) => None,
    }
}

fn copy(out: &mut Graph, g: &Graph, n: &Node, x: &[ValueId]) -> Result<Vec<ValueId>> {
    let types = n.outputs.iter().map(|v| g.ty(*v).clone()).collect();
    Ok(out.add_typed(n.op.clone(), x, types, &n.origin))
}

/// Evaluates nodes whose operands are constants. Random operators and bodies are left alone, and so are results
/// larger than 64 MiB that are also larger than their operands.
pub fn fold(g: &Graph, _cx: &mut Context) -> Result<Graph> {
    g.rebuild(|out, _, n, x| {
        let operands: Option<Vec<Tensor>> = x.iter().map(|v| out.as_const(*v).cloned()).collect();
        let foldable = !matches!(n.op, Op::Const(_)) && !has_effects(&n.op) && !mentions_symbols(&n.op);
        if let (Some(operands), true) = (operands, foldable) {
            let sizes: Option<Vec<usize>> = n
                .outputs
                .iter()
                .map(|v| {
                    let ty = g.ty(*v);
                    usize::try_from(ty.numel().as_const()?).ok()?.checked_mul(ty.dtype.size())
                })
                .collect();
            let from: usize = operands.iter().map(|t| t.bytes().len()).sum();
            if let Some(sizes) = sizes
                && sizes.iter().sum::<usize>() <= FOLD_LIMIT.max(from)
            {
                let results = eval::node(n, &operands, &HashMap::new())?;
                return Ok(results.into_iter().map(|t| out.add_const(t, &n.origin)).collect());
            }
        }
        copy(out, g, n, x)
    })
}

fn has_effects(op: &Op) -> bool {
    matches!(op, Op::Random(_) | Op::If(_) | Op::Loop(_) | Op::Scan(_))
}

/// Whether the values of symbols decide what it computes.
fn mentions_symbols(op: &Op) -> bool {
    let found = std::cell::Cell::new(false);
    let _ = op.subst(&|_| {
        found.set(true);
        None
    });
    found.get()
}

/// Removes nodes that no output needs.
pub fn dead_code(g: &Graph) -> Result<Graph> {
    let mut live = vec![false; g.n_values()];
    for p in &g.outputs {
        live[p.value.index()] = true;
    }
    for (_, n) in g.nodes().rev() {
        if n.outputs.iter().any(|v| live[v.index()]) {
            n.inputs.iter().for_each(|v| live[v.index()] = true);
        }
    }
    g.rebuild(|out, _, n, x| match n.outputs.iter().any(|v| live[v.index()]) {
        true => copy(out, g, n, x),
        false => Ok(Vec::new()),
    })
}

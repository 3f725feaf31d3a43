//! The graph passes of the first pipeline: canonical forms, constant folding, dead code.

use crate::runner::{Context, Numerics};
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Def, Graph, Node, ValueId};
use aic_ir::op::{Op, Reshape, Transpose};
use aic_ir::scalar::ScalarFn;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;
use std::sync::Arc;

/// The largest folded constant, in bytes, unless it is no larger than its operands.
pub(crate) const FOLD_LIMIT: usize = 64 << 20;

/// What a node is replaced by.
enum Simpler {
    Value(ValueId),
    Node(Op, ValueId, Vec<Arc<str>>),
}

/// Removes nodes that do nothing and merges chains of the same movement; each counts as a rewrite.
pub fn canonicalize(g: &Graph, cx: &mut Context) -> Result<Graph> {
    g.rebuild(|out, _, n, x| match simpler(out, g, n, x) {
        Some(simpler) if cx.spend(|| described("simplify", n)) => Ok(match simpler {
            Simpler::Value(v) => vec![v],
            Simpler::Node(op, from, origin) => {
                out.add_typed(op, &[from], vec![g.ty(n.outputs[0]).clone()], &origin)
            }
        }),
        _ => copy(out, g, n, x),
    })
}

/// A rewrite of a node, for who looks for it.
fn described(what: &str, n: &Node) -> String {
    format!("{what} {} {}", n.op.keyword(), n.origin.join(", ")).trim_end().to_owned()
}

fn simpler(out: &Graph, g: &Graph, n: &Node, x: &[ValueId]) -> Option<Simpler> {
    let ty = g.ty(*n.outputs.first()?);
    if matches!(n.op, Op::Cast(_)) {
        return (*out.ty(x[0]) == *ty).then_some(Simpler::Value(x[0]));
    }
    let (op, from, origin) = movement(out, n, x)?;
    let moves_nothing = match &op {
        Op::Transpose(t) => t.perm.iter().copied().eq(0..t.perm.len()),
        _ => *out.ty(from) == *ty,
    };
    if moves_nothing {
        return Some(Simpler::Value(from));
    }
    let op = match &op {
        Op::Transpose(t) if moves_no_element(t, &out.ty(from).dims) => {
            Reshape { shape: ty.dims.clone() }.into()
        }
        _ => op,
    };
    (op != n.op || from != x[0]).then_some(Simpler::Node(op, from, origin))
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
pub(crate) fn moves_no_element(t: &Transpose, dims: &[Dim]) -> bool {
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

/// Evaluates nodes whose operands are constants; each counts as a rewrite. Random operators and bodies are left
/// alone, and so are results larger than 64 MiB that are also larger than their operands. Under [`Numerics::Exact`]
/// only what every backend computes to the same bits is evaluated.
pub fn fold(g: &Graph, cx: &mut Context) -> Result<Graph> {
    g.rebuild(|out, _, n, x| {
        let operands: Option<Vec<Tensor>> = x.iter().map(|v| out.as_const(*v).cloned()).collect();
        let operands = operands.filter(|operands| is_foldable(g, n, operands));
        if let Some(operands) = operands
            && (cx.numerics != Numerics::Exact
                || rounds_alike(&n.op, &types(g, &n.inputs), &types(g, &n.outputs)))
            && (cx.fuel != Some(0))
        {
            let results = eval::node(n, &operands, &HashMap::new())?;
            let is_settled = cx.numerics != Numerics::Exact || !makes_nan(&n.op, &results);
            if is_settled && cx.spend(|| described("fold", n)) {
                return Ok(results.into_iter().map(|t| out.add_const(t, &n.origin)).collect());
            }
        }
        copy(out, g, n, x)
    })
}

/// Whether a node's results on these operands are constants of a tolerable size.
fn is_foldable(g: &Graph, n: &Node, operands: &[Tensor]) -> bool {
    if matches!(n.op, Op::Const(_)) || has_effects(&n.op) || mentions_symbols(&n.op) {
        return false;
    }
    let size = |v: &ValueId| {
        let ty = g.ty(*v);
        usize::try_from(ty.numel().as_const()?).ok()?.checked_mul(ty.dtype.size())
    };
    let sizes: Option<Vec<usize>> = n.outputs.iter().map(size).collect();
    let from: usize = operands.iter().map(|t| t.bytes().len()).sum();
    sizes.is_some_and(|sizes| sizes.iter().sum::<usize>() <= FOLD_LIMIT.max(from))
}

fn types<'a>(g: &'a Graph, values: &[ValueId]) -> Vec<&'a Type> {
    values.iter().map(|v| g.ty(*v)).collect()
}

/// Whether the interpreter and compiled code agree on every bit of an operator's results, a NaN's aside, given the
/// types of its operands and results: it moves elements, works on integers, or rounds correctly. Polynomials and sums
/// of floats don't.
pub(crate) fn rounds_alike(op: &Op, x: &[&Type], y: &[&Type]) -> bool {
    let is_float = |t: &&&Type| t.dtype.is_float();
    match op {
        Op::Elementwise(e) => is_correctly_rounded(e.f) || y.iter().find(is_float).is_none(),
        Op::Cast(_) | Op::Bitcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_) => true,
        Op::Slice(_) | Op::Concat(_) | Op::Pad(_) | Op::Iota(_) | Op::DimValue(_) => true,
        Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) => true,
        _ => x.iter().chain(y).find(is_float).is_none(),
    }
}

fn is_correctly_rounded(f: ScalarFn) -> bool {
    use ScalarFn::{Abs, Add, Ceil, Div, Floor, Max, Min, Mul, Neg, Round, Select, Sign, Sqrt, Sub, Trunc};
    matches!(
        f,
        Add | Sub | Mul | Div | Sqrt | Min | Max | Neg | Abs | Sign | Floor | Ceil | Round | Trunc | Select
    )
}

/// Whether arithmetic makes a NaN, whose bits are the machine's.
pub(crate) fn makes_nan(op: &Op, results: &[Tensor]) -> bool {
    let is_nan = |t: &Tensor| t.dtype().is_float() && t.scalars().any(|x| x.as_f64().is_nan());
    matches!(op, Op::Elementwise(_) | Op::Cast(_)) && results.iter().any(is_nan)
}

fn has_effects(op: &Op) -> bool {
    match op {
        Op::Fused(f) => f.body.nodes().any(|(_, n)| has_effects(&n.op)),
        _ => matches!(op, Op::Random(_) | Op::If(_) | Op::Loop(_) | Op::Scan(_)),
    }
}

/// Whether the values of symbols decide what it computes.
pub(crate) fn mentions_symbols(op: &Op) -> bool {
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

//! Groups of nodes, and whether one kernel can compute them.

use super::flow::Flow;
use super::kind::Kind;
use crate::lower;
use crate::runner::{Context, Numerics};
use crate::schedule::{self, Cut, Signature, cut, signatures};
use aic_ir::compose::compose;
use aic_ir::compute::Compute;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::Op;
use aic_ir::schedule::Class;
use aic_ir::types::Type;
use aic_ir::verify;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// The most nodes in a group.
pub const MAX_NODES: usize = 256;
/// The most operands and results of a group.
pub const MAX_ARGUMENTS: usize = 32;

/// Positions of nodes.
pub type Set = BTreeSet<usize>;

/// A group's nodes as a graph of their own.
pub struct Body {
    /// The graph.
    pub graph: Graph,
    /// What its inputs are outside.
    pub inputs: Vec<ValueId>,
    /// What its outputs are outside.
    pub outputs: Vec<ValueId>,
    /// Inputs that are constants outside.
    pub constants: BTreeSet<usize>,
}

/// The nodes without reshapes at the border, which cost nothing outside.
pub fn without_border_reshapes(flow: &Flow, set: &Set) -> Set {
    let mut left = set.clone();
    loop {
        let is_border = |n: usize| {
            let node = flow.node(n);
            let is_first = || !flow.producer(node.inputs[0]).is_some_and(|p| left.contains(&p));
            let is_last = || !flow.users[n].iter().any(|u| left.contains(u));
            matches!(node.op, Op::Reshape(_)) && (is_first() || is_last())
        };
        let Some(n) = left.iter().copied().find(|n| is_border(*n)) else { return left };
        left.remove(&n);
    }
}

/// The body of a group whose results are needed outside if `is_needed` says so. Constants of one element are part of
/// it, others are operands. The name is the body's; without one nodes have no source names either.
pub fn body(flow: &Flow, set: &Set, name: Option<&str>, is_needed: &dyn Fn(usize, ValueId) -> bool) -> Body {
    let mut graph = Graph::new(name.unwrap_or_default());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    let operands = || set.iter().flat_map(|n| &flow.node(*n).inputs).copied();
    let is_inside = |v: ValueId| flow.producer(v).is_some_and(|p| set.contains(&p));
    let is_scalar = |v: ValueId| flow.graph.as_const(v).is_some_and(|c| c.len() == 1);
    let mut inputs = Vec::new();
    for v in operands().filter(|v| !is_inside(*v) && !is_scalar(*v)) {
        map.entry(v).or_insert_with(|| {
            inputs.push(v);
            graph.add_input("", flow.graph.ty(v).clone())
        });
    }
    for n in set {
        let node = flow.node(*n);
        for v in &node.inputs {
            if let Some(value) = flow.graph.as_const(*v)
                && !map.contains_key(v)
            {
                map.insert(*v, graph.add_const(value.clone(), &[]));
            }
        }
        let x: Vec<ValueId> = node.inputs.iter().filter_map(|v| map.get(v).copied()).collect();
        let types = node.outputs.iter().map(|v| flow.graph.ty(*v).clone()).collect();
        let origin = if name.is_some() { &node.origin[..] } else { &[] };
        let y = graph.add_typed(node.op.clone(), &x, types, origin);
        map.extend(node.outputs.iter().copied().zip(y));
    }
    let results = set.iter().flat_map(|n| flow.node(*n).outputs.iter().map(|v| (*n, *v)));
    let outputs: Vec<ValueId> = results.filter(|(n, v)| is_needed(*n, *v)).map(|(_, v)| v).collect();
    for v in &outputs {
        graph.add_output("", map[v]);
    }
    let constants = (0..inputs.len()).filter(|k| lower::is_constant(flow.graph, inputs[*k])).collect();
    Body { graph, inputs, outputs, constants }
}

/// The text of a body without names, and its constants.
type Known = (String, BTreeSet<usize>);

/// The number of kernels of groups; equal bodies are asked about once.
#[derive(Debug, Default)]
pub struct Kernels {
    known: RefCell<HashMap<Known, Option<usize>>>,
}

impl Kernels {
    /// The number of kernels for a group, if it is a group that may be; `None` if it is too large, or if a kernel isn't
    /// sound whatever the extents, or would change bits that have to be kept.
    pub fn count(&self, body: &Body, cx: &Context) -> Option<usize> {
        let n_arguments = body.inputs.len() + body.outputs.len();
        if body.graph.nodes().len() > MAX_NODES || n_arguments > MAX_ARGUMENTS {
            return None;
        }
        let key = (body.graph.to_string(), body.constants.clone());
        if let Some(found) = self.known.borrow().get(&key) {
            return *found;
        }
        let found = n_kernels(body, cx);
        self.known.borrow_mut().insert(key, found);
        found
    }
}

fn n_kernels(body: &Body, cx: &Context) -> Option<usize> {
    let n_contractions = body.graph.nodes().filter(|(_, n)| is_contraction(&n.op)).count();
    if n_contractions > 1 {
        return None;
    }
    let c = Compute { constants: body.constants.clone(), ..compose(&body.graph)? };
    let cut = cut(&c, &cx.target);
    if body.graph.nodes().any(|(_, n)| matches!(n.op, Op::Winograd(_))) && !is_filtering(&cut, cx) {
        return None;
    }
    let has_symbols = body.graph.nodes().any(|(_, n)| {
        n.outputs.iter().any(|v| body.graph.ty(*v).dims.iter().any(|d| d.as_const().is_none()))
    });
    let is_sound = || {
        cut.pieces.iter().all(|p| {
            schedule::kernel("", &p.compute, &cx.target).is_ok_and(|k| verify::kernel(&k.kernel).is_empty())
        })
    };
    if has_symbols && !is_sound() {
        return None;
    }
    let keeps = keeps_order(&body.graph, &cut, cx).unwrap_or(false);
    if !keeps {
        return None;
    }
    Some(cut.pieces.len())
}

/// Whether Winograd's filtering keeps its own kernel, in which its transforms are what makes it fast.
fn is_filtering(cut: &Cut, cx: &Context) -> bool {
    let [piece] = &cut.pieces[..] else { return false };
    schedule::kernel("", &piece.compute, &cx.target).is_ok_and(|k| k.schedule.class == Class::Winograd)
}

fn is_contraction(op: &Op) -> bool {
    matches!(op, Op::Matmul(_) | Op::Conv(_) | Op::ChannelsLastConv(_) | Op::Winograd(_) | Op::Attention(_))
}

/// Whether every reduction is summed in the order in which it is by its operator's own kernel, where bits are to be
/// kept; and whether contractions are computed as such, which is many times faster than otherwise.
fn keeps_order(body: &Graph, composed: &Cut, cx: &Context) -> Result<bool> {
    let mut before = Vec::new();
    for (_, n) in body.nodes() {
        let types = |vs: &[ValueId]| -> Vec<Type> { vs.iter().map(|v| body.ty(*v).clone()).collect() };
        if let Some(c) = n.op.compute(&types(&n.inputs), &types(&n.outputs)) {
            before.extend(signatures(&cut(&c, &cx.target), &cx.target)?);
        }
    }
    let after = signatures(composed, &cx.target)?;
    let is_as_good = |a: &Signature, b: &Signature| !a.is_contraction() || b.is_contraction();
    let alike =
        |(a, b): (&Signature, &Signature)| a == b || cx.numerics != Numerics::Exact && is_as_good(a, b);
    Ok(before.len() == after.len() && before.iter().zip(&after).all(alike))
}

/// Whether all nodes are maps.
pub fn is_map(flow: &Flow, set: &Set) -> bool {
    set.iter().all(|n| flow.kinds[*n] <= Kind::Injective)
}

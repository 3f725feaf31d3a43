//! Graph to e-graph.

use super::facts::{Analysis, Facts};
use super::lang::{Attribute, Constant, EGraph, ENode, Keyword, SMALL};
use crate::runner::Numerics;
use aic_ir::graph::{Graph, Node, NodeId, ValueId};
use aic_ir::op::{AttrValue, Op};
use aic_ir::tensor::Tensor;
use aic_ir::types::{Layout, Type};
use egg::Id;
use std::collections::HashMap;

/// A part of a graph as an e-graph.
pub struct Converted {
    /// The e-graph; clean.
    pub egraph: EGraph,
    /// The value of the graph that each leaf stands for.
    pub leaves: Vec<ValueId>,
    /// The node of the graph that each opaque e-node stands for.
    pub opaques: Vec<NodeId>,
    /// The e-node of each value met, as it was added.
    pub ids: HashMap<ValueId, Id>,
}

/// Whether rules must not touch a node, nor merge it with another: random numbers, bodies, layouts.
pub fn is_opaque(g: &Graph, n: &Node) -> bool {
    let has_body = |v: &AttrValue| matches!(v, AttrValue::Graph(_) | AttrValue::Tensor(_));
    let is_plain = |v: &ValueId| g.ty(*v).layout == Layout::RowMajor;
    matches!(n.op, Op::Random(_))
        || n.op.attrs().iter().any(|(_, v)| has_body(v))
        || !n.outputs.iter().chain(&n.inputs).all(is_plain)
}

/// Adds nodes, in the order of the graph, to a new e-graph; values from outside become leaves.
pub fn to_egraph(g: &Graph, nodes: &[NodeId], numerics: Numerics, explain: bool) -> Converted {
    let egraph = EGraph::new(Analysis { numerics, ..Analysis::default() });
    let egraph = if explain { egraph.with_explanations_enabled() } else { egraph };
    let out = Converted { egraph, leaves: Vec::new(), opaques: Vec::new(), ids: HashMap::new() };
    let mut converter = Converter { g, out, constants: HashMap::new() };
    for &id in nodes {
        converter.node(id);
    }
    converter.out.egraph.rebuild();
    converter.out
}

/// What large constants are compared by: their bytes' place in memory.
type ConstantKey = (Type, usize, usize);

struct Converter<'a> {
    g: &'a Graph,
    out: Converted,
    constants: HashMap<ConstantKey, Id>,
}

impl Converter<'_> {
    fn node(&mut self, id: NodeId) {
        let n = self.g.node(id);
        if matches!(n.op, Op::Const(_)) {
            self.value(n.outputs[0]);
            return;
        }
        let mut children: Vec<Id> = n.inputs.iter().map(|v| self.value(*v)).collect();
        let node = if is_opaque(self.g, n) {
            let types = n.outputs.iter().map(|v| self.g.ty(*v).clone()).collect();
            self.out.egraph.analysis.opaques.push(types);
            self.out.opaques.push(id);
            ENode::Opaque(self.out.opaques.len() as u32 - 1, children.into())
        } else {
            for (_, value) in n.op.attrs() {
                children.push(self.out.egraph.add_uncanonical(ENode::Attr(Attribute::new(value))));
            }
            self.ordered(Keyword(n.op.keyword()), children)
        };
        let node = self.out.egraph.add_uncanonical(node);
        match &n.outputs[..] {
            [one] => {
                self.out.ids.insert(*one, node);
            }
            several => {
                for (k, v) in several.iter().enumerate() {
                    let id = self.out.egraph.add_uncanonical(ENode::Result(k as u32, [node]));
                    self.out.ids.insert(*v, id);
                }
            }
        }
    }

    /// The operands of a commutative operator: constants last, or as another node has them.
    fn ordered(&self, keyword: Keyword, mut children: Vec<Id>) -> ENode {
        let g = &self.out.egraph;
        if keyword.is_commutative() {
            let is_const = |k: usize| g[children[k]].data.is_const;
            let swapped = ENode::op(keyword, vec![children[1], children[0]]);
            if is_const(0) && !is_const(1) || is_const(0) == is_const(1) && g.lookup(swapped).is_some() {
                children.swap(0, 1);
            }
        }
        ENode::op(keyword, children)
    }

    fn value(&mut self, v: ValueId) -> Id {
        if let Some(id) = self.out.ids.get(&v) {
            return *id;
        }
        let id = match self.g.as_const(v) {
            Some(t) if self.g.ty(v).layout == Layout::RowMajor => self.constant(v, t),
            _ => self.leaf(v, Facts::tensor(self.g.ty(v).clone())),
        };
        self.out.ids.insert(v, id);
        id
    }

    fn constant(&mut self, v: ValueId, t: &Tensor) -> Id {
        if t.len() <= SMALL {
            return self.out.egraph.add_uncanonical(ENode::Const(Constant::new(t.clone())));
        }
        let key = (self.g.ty(v).clone(), t.bytes().as_ptr() as usize, t.bytes().len());
        if let Some(id) = self.constants.get(&key) {
            return *id;
        }
        let id = self.leaf(v, Facts::constant(t));
        self.constants.insert(key, id);
        id
    }

    fn leaf(&mut self, v: ValueId, facts: Facts) -> Id {
        self.out.egraph.analysis.leaves.push(facts);
        self.out.leaves.push(v);
        self.out.egraph.add_uncanonical(ENode::Leaf(self.out.leaves.len() as u32 - 1))
    }
}

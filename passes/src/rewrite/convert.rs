//! Regions to e-graphs.

use super::facts::Analysis;
use super::lang::{Attribute, Constant, EGraph, ENode, Keyword};
use super::region::Region;
use crate::runner::Numerics;
use aic_ir::graph::{Graph, Node, NodeId, ValueId};
use aic_ir::op::{AttrValue, Op};
use aic_ir::types::Layout;
use egg::Id;
use std::collections::HashMap;

/// A region as an e-graph.
pub struct Converted {
    /// The e-graph; clean.
    pub egraph: EGraph,
    /// The e-node of each value, as it was added.
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

/// Adds a region's nodes, in their order, to a new e-graph.
pub fn to_egraph(g: &Graph, region: &Region, numerics: Numerics, explain: bool) -> Converted {
    let types = |id: &NodeId| g.node(*id).outputs.iter().map(|v| g.ty(*v).clone()).collect();
    let analysis = Analysis {
        leaves: region.leaf_facts.clone(),
        opaques: region.opaques.iter().map(types).collect(),
        numerics,
    };
    let egraph = EGraph::new(analysis);
    let egraph = if explain {
        egraph.with_explanations_enabled().without_explanation_length_optimization()
    } else {
        egraph
    };
    let mut converter = Converter { g, region, out: Converted { egraph, ids: HashMap::new() }, n_opaques: 0 };
    region.nodes.iter().for_each(|id| converter.node(*id));
    converter.out.egraph.rebuild();
    converter.out
}

struct Converter<'a> {
    g: &'a Graph,
    region: &'a Region,
    out: Converted,
    n_opaques: u32,
}

impl Converter<'_> {
    fn node(&mut self, id: NodeId) {
        let n = self.g.node(id);
        let mut children: Vec<Id> = n.inputs.iter().map(|v| self.value(*v)).collect();
        let node = if self.region.opaques.get(self.n_opaques as usize) == Some(&id) {
            self.n_opaques += 1;
            ENode::Opaque(self.n_opaques - 1, children.into())
        } else {
            for (_, value) in n.op.attrs() {
                children.push(self.out.egraph.add_uncanonical(ENode::Attr(Attribute::new(value))));
            }
            self.ordered(Keyword(n.op.keyword()), children)
        };
        let node = self.out.egraph.add_uncanonical(node);
        for (k, v) in n.outputs.iter().enumerate() {
            let id = match n.outputs.len() {
                1 => node,
                _ => self.out.egraph.add_uncanonical(ENode::Result(k as u32, [node])),
            };
            self.out.ids.insert(*v, id);
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

    /// A value: of a node before, or from outside.
    fn value(&mut self, v: ValueId) -> Id {
        if let Some(id) = self.out.ids.get(&v) {
            return *id;
        }
        let node = match (self.region.leaf_of.get(&v), self.g.as_const(v)) {
            (None, Some(t)) => ENode::Const(Constant::new(t.clone())),
            (leaf, _) => ENode::Leaf(leaf.copied().unwrap_or(u32::MAX)),
        };
        let id = self.out.egraph.add_uncanonical(node);
        self.out.ids.insert(v, id);
        id
    }
}

//! E-graph to graph: which e-node of each class is kept.

use super::convert::Converted;
use super::facts::rebuild_op;
use super::lang::{EGraph, ENode, Keyword};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Node, NodeId, ValueId};
use aic_ir::types::Type;
use egg::{Id, Language};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The e-node kept for each class that is needed.
pub type Choice = BTreeMap<Id, ENode>;

/// The smallest terms of some classes.
pub fn smallest(g: &EGraph, roots: &[Id]) -> Choice {
    let mut best: BTreeMap<Id, (u64, ENode)> = BTreeMap::new();
    let mut ids: Vec<Id> = g.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    loop {
        let mut changed = false;
        for &id in &ids {
            for n in &g[id].nodes {
                let own = u64::from(matches!(n, ENode::Op(..) | ENode::Opaque(..))) * 100 + 1;
                let sum = n
                    .children()
                    .iter()
                    .try_fold(own, |sum, c| best.get(&g.find(*c)).map(|(cost, _)| sum.saturating_add(*cost)));
                if let Some(cost) = sum
                    && best.get(&id).is_none_or(|(c, _)| cost < *c)
                {
                    best.insert(id, (cost, n.clone()));
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut choice = Choice::new();
    let mut todo: Vec<Id> = roots.iter().map(|r| g.find(*r)).collect();
    while let Some(id) = todo.pop() {
        if let (Some((_, node)), false) = (best.get(&id), choice.contains_key(&id)) {
            todo.extend(node.children().iter().map(|c| g.find(*c)));
            choice.insert(id, node.clone());
        }
    }
    choice
}

/// Builds the nodes of a choice at the end of a graph.
pub struct Emitter<'a> {
    /// The graph that was converted.
    pub source: &'a Graph,
    /// What became of it.
    pub converted: &'a Converted,
    /// The e-node of each class.
    pub choice: &'a Choice,
    /// Values of the source in the new graph.
    pub values: &'a mut Vec<Option<ValueId>>,
    /// Source names of each class's node.
    pub names: HashMap<Id, Vec<Arc<str>>>,
    /// Values that classes became.
    pub built: HashMap<Id, Vec<ValueId>>,
}

impl Emitter<'_> {
    /// The value of a class in the new graph, with everything that it needs.
    pub fn value(&mut self, out: &mut Graph, id: Id) -> Result<ValueId> {
        match &self.class(out, id)?[..] {
            [one] => Ok(*one),
            _ => bail!("class {id} has several values"),
        }
    }

    fn class(&mut self, out: &mut Graph, id: Id) -> Result<Vec<ValueId>> {
        let id = self.converted.egraph.find(id);
        if let Some(values) = self.built.get(&id) {
            return Ok(values.clone());
        }
        let Some(node) = self.choice.get(&id) else { bail!("nothing was chosen for class {id}") };
        let names = self.names.get(&id).cloned().unwrap_or_default();
        let values = match node {
            ENode::Attr(_) => bail!("class {id} is an attribute"),
            ENode::Const(c) => vec![out.add_const(c.value().clone(), &names)],
            ENode::Leaf(k) => vec![self.leaf(out, *k)?],
            ENode::Result(k, [of]) => vec![self.class(out, *of)?[*k as usize]],
            ENode::Opaque(k, children) => self.opaque(out, *k, children, &names)?,
            ENode::Op(keyword, _) => self.op(out, *keyword, node, &names)?,
        };
        self.built.insert(id, values.clone());
        Ok(values)
    }

    fn leaf(&mut self, out: &mut Graph, k: u32) -> Result<ValueId> {
        let v = self.converted.leaves[k as usize];
        if let Some(new) = self.values[v.index()] {
            return Ok(new);
        }
        let Some(t) = self.source.as_const(v) else { bail!("{v} is not built yet") };
        let aic_ir::graph::Def::Node(n, _) = self.source.value(v).def else { bail!("{v} is no constant") };
        let node: &Node = self.source.node(n);
        let new = out.add_const(t.clone(), &node.origin);
        self.values[v.index()] = Some(new);
        Ok(new)
    }

    fn opaque(
        &mut self,
        out: &mut Graph,
        k: u32,
        children: &[Id],
        names: &[Arc<str>],
    ) -> Result<Vec<ValueId>> {
        let n: NodeId = self.converted.opaques[k as usize];
        let n = self.source.node(n);
        let x = children.iter().map(|c| self.value(out, *c)).collect::<Result<Vec<_>>>()?;
        let types = n.outputs.iter().map(|v| self.source.ty(*v).clone()).collect();
        Ok(out.add_typed(n.op.clone(), &x, types, names))
    }

    fn op(
        &mut self,
        out: &mut Graph,
        keyword: Keyword,
        node: &ENode,
        names: &[Arc<str>],
    ) -> Result<Vec<ValueId>> {
        let (operands, attrs) = node.operands_and_attrs();
        let g = &self.converted.egraph;
        let facts: Vec<_> = attrs.iter().map(|a| &g[*a].data).collect();
        let op = rebuild_op(keyword, &facts)?;
        let x = operands.iter().map(|c| self.value(out, *c)).collect::<Result<Vec<_>>>()?;
        let types: Vec<&Type> = x.iter().map(|v| out.ty(*v)).collect();
        let types = op.infer(&types)?;
        Ok(out.add_typed(op, &x, types, names))
    }
}

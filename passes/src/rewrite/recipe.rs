//! What becomes of a region, apart from any graph: the same for all regions of the same structure.
//!
//! A recipe names what it takes by number: leaves, opaque nodes, and the region's nodes (for their source names) and
//! small constants in the order in which they occur.

use super::convert::Converted;
use super::extract::Choice;
use super::facts::{Kind, rebuild_op};
use super::lang::ENode;
use super::region::Region;
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Node, ValueId};
use aic_ir::op::Op;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use egg::{Id, Language};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// How to build a region's replacement.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Steps, operands first.
    pub steps: Vec<Step>,
    /// The step and the result that each of the region's outputs is.
    pub outputs: Vec<(usize, usize)>,
}

/// A value or a node.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is.
    pub what: What,
    /// Step and result of each operand.
    pub x: Vec<(usize, usize)>,
    /// Types of the results.
    pub types: Vec<Type>,
    /// Positions of the region's nodes whose source names it carries.
    pub from: Vec<usize>,
}

/// What a step makes.
#[derive(Clone, Debug)]
pub enum What {
    /// What the region takes from outside.
    Leaf(u32),
    /// A small constant; one that the region has already, by number, or a new one.
    Const(Tensor, Option<usize>),
    /// An operator.
    Op(Op),
    /// A node that is kept as it is.
    Opaque(u32),
}

impl Recipe {
    /// The recipe of a choice of e-nodes.
    pub fn new(g: &Graph, region: &Region, converted: &Converted, choice: &Choice) -> Result<Recipe> {
        let mut maker = Maker { g, region, converted, choice, from: BTreeMap::new(), own: BTreeMap::new() };
        maker.name();
        maker.make()
    }

    /// Builds it at the end of a graph; `value` gives what the region takes from outside.
    pub fn build(
        &self,
        out: &mut Graph,
        source: &Graph,
        region: &Region,
        value: &mut dyn FnMut(&mut Graph, ValueId) -> Result<ValueId>,
    ) -> Result<Vec<ValueId>> {
        let mut built: Vec<Vec<ValueId>> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let x: Vec<ValueId> = step.x.iter().map(|(s, k)| built[*s][*k]).collect();
            let nodes = || step.from.iter().map(|k| source.node(region.nodes[*k]));
            built.push(match &step.what {
                What::Leaf(k) => vec![value(out, region.leaves[*k as usize])?],
                What::Const(_, Some(k)) => vec![value(out, region.constants[*k])?],
                What::Const(t, None) => vec![out.add_const(t.clone(), &names(nodes()))],
                What::Op(op) => out.add_typed(op.clone(), &x, step.types.clone(), &names(nodes())),
                What::Opaque(k) => {
                    let n = source.node(region.opaques[*k as usize]);
                    let types = n.outputs.iter().map(|v| source.ty(*v).clone()).collect();
                    out.add_typed(n.op.clone(), &x, types, &names(nodes()))
                }
            });
        }
        Ok(self.outputs.iter().map(|(s, k)| built[*s][*k]).collect())
    }
}

/// The source names of several nodes, each once.
pub fn names<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    for name in nodes.flat_map(|n| &n.origin) {
        if !found.contains(name) {
            found.push(name.clone());
        }
    }
    found
}

struct Maker<'a> {
    g: &'a Graph,
    region: &'a Region,
    converted: &'a Converted,
    choice: &'a Choice,
    /// The region's nodes whose names each class carries.
    from: BTreeMap<Id, BTreeSet<usize>>,
    /// The place in the region of the first node of each class that has one.
    own: BTreeMap<Id, usize>,
}

impl Maker<'_> {
    fn find(&self, id: Id) -> Id {
        self.converted.egraph.find(id)
    }

    /// The class of the node that makes a value: that of the node itself where it has several results.
    fn class_of(&self, n: &Node) -> Option<Id> {
        let id = *self.converted.ids.get(n.outputs.first()?)?;
        match self.converted.egraph.id_to_node(id) {
            ENode::Result(_, [of]) => Some(self.find(*of)),
            _ => Some(self.find(id)),
        }
    }

    /// Whether a class becomes a node that can carry names.
    fn is_made(&self, id: Id) -> bool {
        match self.choice.get(&id) {
            Some(ENode::Op(..) | ENode::Opaque(..)) => true,
            Some(ENode::Const(_)) => self.source_constant(id).is_none(),
            _ => false,
        }
    }

    /// The names of a node go to what its class became; if that isn't made, to what its users' names go to.
    fn name(&mut self) {
        let mut users: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        let mut targets: Vec<BTreeSet<Id>> = vec![BTreeSet::new(); self.region.nodes.len()];
        for (k, id) in self.region.nodes.iter().enumerate() {
            if let Some(class) = self.class_of(self.g.node(*id)) {
                self.own.entry(class).or_insert(k);
            }
            self.g.node(*id).inputs.iter().for_each(|v| users.entry(*v).or_default().push(k));
        }
        for k in (0..self.region.nodes.len()).rev() {
            let n = self.g.node(self.region.nodes[k]);
            let made = self.class_of(n).filter(|id| self.is_made(*id));
            let of_users = || n.outputs.iter().filter_map(|v| users.get(v)).flatten();
            targets[k] = match made {
                Some(id) => BTreeSet::from([id]),
                None => of_users().flat_map(|u| targets[*u].iter().copied()).collect(),
            };
            for id in &targets[k] {
                self.from.entry(*id).or_default().insert(k);
            }
        }
    }

    /// A constant of the region in a class.
    fn source_constant(&self, id: Id) -> Option<usize> {
        let is_in = |v: &ValueId| self.converted.ids.get(v).is_some_and(|c| self.find(*c) == id);
        self.region.constants.iter().position(is_in)
    }

    /// Steps in an order near that of the region's nodes; nodes without names get those of the nodes over them.
    fn make(mut self) -> Result<Recipe> {
        let order = self.order();
        for id in order.iter().rev() {
            let Some(names) = self.from.get(id).cloned() else { continue };
            for c in self.made_below(*id) {
                if !self.own.contains_key(&c) {
                    self.from.entry(c).or_default().extend(&names);
                }
            }
        }
        let mut steps: Vec<Step> = Vec::new();
        let mut numbers: BTreeMap<Id, usize> = BTreeMap::new();
        for id in order {
            numbers.insert(id, steps.len());
            steps.push(self.step(id, &numbers)?);
        }
        let outputs = self.region.outputs.iter().map(|v| self.place(self.converted.ids[v], &numbers));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        Ok(Recipe { steps, outputs })
    }

    /// Classes of operands, projections looked through.
    fn operands(&self, id: Id) -> Vec<Id> {
        let Some(node) = self.choice.get(&id) else { return Vec::new() };
        let (x, _) = node.operands_and_attrs();
        x.iter().map(|c| self.through(*c)).collect()
    }

    fn through(&self, id: Id) -> Id {
        let id = self.find(id);
        match self.choice.get(&id) {
            Some(ENode::Result(_, [of])) => self.find(*of),
            _ => id,
        }
    }

    fn made_below(&self, id: Id) -> Vec<Id> {
        self.operands(id).into_iter().filter(|c| self.is_made(*c)).collect()
    }

    /// Classes to be made, operands first; among those that can be next, the one whose place in the region is first.
    fn order(&self) -> Vec<Id> {
        let mut missing: BTreeMap<Id, usize> = BTreeMap::new();
        let mut users: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
        let is_step =
            |id: &Id| !matches!(self.choice.get(id), Some(ENode::Attr(_) | ENode::Result(..)) | None);
        for id in self.choice.keys().copied().filter(is_step) {
            let below: BTreeSet<Id> = self.operands(id).into_iter().collect();
            missing.insert(id, below.len());
            below.into_iter().for_each(|c| users.entry(c).or_default().push(id));
        }
        let places = self.places();
        let key = |id: Id| Reverse((places.get(&id).copied().unwrap_or(usize::MAX), id));
        let mut ready: BinaryHeap<_> =
            missing.iter().filter(|(_, n)| **n == 0).map(|(id, _)| key(*id)).collect();
        let mut order = Vec::new();
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for user in users.get(&id).into_iter().flatten() {
                if let Some(n) = missing.get_mut(user) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(key(*user));
                    }
                }
            }
        }
        order
    }

    /// Places of all classes; one without a node of the region lies with the first that uses it.
    fn places(&self) -> BTreeMap<Id, usize> {
        let mut places = self.own.clone();
        let mut todo: Vec<Id> = places.keys().copied().collect();
        while let Some(id) = todo.pop() {
            let place = places[&id];
            for c in self.operands(id) {
                if !self.own.contains_key(&c) && places.get(&c).is_none_or(|p| place < *p) {
                    places.insert(c, place);
                    todo.push(c);
                }
            }
        }
        places
    }

    /// The step and the result that a class is.
    fn place(&self, id: Id, numbers: &BTreeMap<Id, usize>) -> Result<(usize, usize)> {
        let id = self.find(id);
        let result = match self.choice.get(&id) {
            Some(ENode::Result(k, _)) => *k as usize,
            _ => 0,
        };
        match numbers.get(&self.through(id)) {
            Some(step) => Ok((*step, result)),
            None => bail!("class {id} is used before it is made"),
        }
    }

    fn step(&self, id: Id, numbers: &BTreeMap<Id, usize>) -> Result<Step> {
        let Some(node) = self.choice.get(&id) else { bail!("nothing was chosen for class {id}") };
        let g = &self.converted.egraph;
        let (operands, attrs) = node.operands_and_attrs();
        let x = operands.iter().map(|c| self.place(*c, numbers)).collect::<Result<Vec<_>>>()?;
        let what = match node {
            ENode::Leaf(k) => What::Leaf(*k),
            ENode::Const(c) => What::Const(c.value().clone(), self.source_constant(id)),
            ENode::Opaque(k, _) => What::Opaque(*k),
            ENode::Op(keyword, _) => {
                let facts: Vec<_> = attrs.iter().map(|a| &g[*a].data).collect();
                What::Op(rebuild_op(*keyword, &facts)?)
            }
            ENode::Attr(_) | ENode::Result(..) => bail!("class {id} is no step"),
        };
        let types = match &g[id].data.kind {
            Kind::Tensor(ty) => vec![ty.clone()],
            Kind::Tuple(types) => types.clone(),
            _ => bail!("class {id} is no tensor"),
        };
        let from = self.from.get(&id).map(|set| set.iter().copied().collect()).unwrap_or_default();
        debug_assert_eq!(x.len(), node.children().len() - attrs.len());
        Ok(Step { what, x, types, from })
    }
}

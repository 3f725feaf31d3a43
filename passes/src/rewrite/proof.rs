//! The proof of a region: the instances of rules by which its replacement equals it, from `egg`'s explanations.

use super::certificate::COMMUTE;
use super::convert::Converted;
use super::extract::Choice;
use super::lang::{EGraph, ENode};
use super::region::Region;
use aic_ir::graph::Graph;
use egg::{Id, Language, RecExpr, TreeTerm};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Instances of rules over terms of a region's e-graph; children are numbers of terms.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Terms; children first.
    pub terms: Vec<ENode>,
    /// Rule, left side, right side.
    pub instances: Vec<(String, usize, usize)>,
}

/// Collects a proof.
struct Collecting {
    proof: Proof,
    numbers: HashMap<ENode, usize>,
    /// First and last term of an explanation's node.
    ends: HashMap<*const TreeTerm<ENode>, (usize, usize)>,
    seen: HashSet<*const TreeTerm<ENode>>,
    /// The term that each id was added as.
    added: HashMap<Id, usize>,
}

/// Why the chosen terms of a region's outputs equal those of its nodes.
pub fn collect(g: &Graph, region: &Region, converted: &mut Converted, choice: &Choice) -> Proof {
    let mut c = Collecting {
        proof: Proof::default(),
        numbers: HashMap::new(),
        ends: HashMap::new(),
        seen: HashSet::new(),
        added: HashMap::new(),
    };
    c.swaps(g, region, converted);
    let (expr, places) = chosen(&converted.egraph, choice);
    let mut ids: Vec<Id> = Vec::with_capacity(expr.len());
    for node in expr.as_ref() {
        let node = node.clone().map_children(|k| ids[usize::from(k)]);
        ids.push(converted.egraph.add_uncanonical(node));
    }
    converted.egraph.rebuild();
    // All explanations live until the last is read: their nodes are told apart by address.
    let mut explanations = Vec::new();
    for v in &region.outputs {
        let before = converted.ids[v];
        let after = ids[places[&converted.egraph.find(before)]];
        if before != after {
            explanations.push(converted.egraph.explain_id_equivalence(before, after));
        }
    }
    explanations.iter().for_each(|e| c.list(&e.explanation_trees));
    c.proof
}

/// A choice as one expression, and the place in it of each class.
fn chosen(g: &EGraph, choice: &Choice) -> (RecExpr<ENode>, HashMap<Id, usize>) {
    let (mut expr, mut places) = (RecExpr::default(), HashMap::new());
    for root in choice.keys() {
        let mut stack = vec![*root];
        while let Some(id) = stack.last().copied() {
            let missing = |c: &Id| !places.contains_key(&g.find(*c));
            let Some(next) = choice[&id].children().iter().copied().find(missing) else {
                stack.pop();
                if !places.contains_key(&id) {
                    let node = choice[&id].clone().map_children(|c| Id::from(places[&g.find(c)]));
                    places.insert(id, usize::from(expr.add(node)));
                }
                continue;
            };
            stack.push(g.find(next));
        }
    }
    (expr, places)
}

impl Collecting {
    fn intern(&mut self, node: ENode) -> usize {
        if let Some(k) = self.numbers.get(&node) {
            return *k;
        }
        let k = self.proof.terms.len();
        self.proof.terms.push(node.clone());
        self.numbers.insert(node, k);
        k
    }

    /// The term that an id of the e-graph was added as.
    fn term(&mut self, g: &EGraph, id: Id) -> usize {
        if let Some(k) = self.added.get(&id) {
            return *k;
        }
        let node = g.id_to_node(id).clone();
        let children: Vec<usize> = node.children().iter().map(|c| self.term(g, *c)).collect();
        let k = self.intern(with_children(&node, &children));
        self.added.insert(id, k);
        k
    }

    /// Conversion swapped the operands of some commutative operators.
    fn swaps(&mut self, g: &Graph, region: &Region, converted: &Converted) {
        for id in &region.nodes {
            let n = g.node(*id);
            let x: Vec<usize> =
                n.inputs.iter().map(|v| self.term(&converted.egraph, converted.ids[v])).collect();
            let after = self.term(&converted.egraph, converted.ids[&n.outputs[0]]);
            if let ENode::Op(k, children) = self.proof.terms[after].clone()
                && k.is_commutative()
                && children.iter().map(|c| usize::from(*c)).ne(x.iter().copied())
            {
                let before = self.intern(ENode::op(k, x.into_iter().map(Id::from).collect()));
                self.proof.instances.push((COMMUTE.into(), before, after));
            }
        }
    }

    /// A sequence of terms each of which equals the next: by a rule at its root, or by its children.
    fn list(&mut self, terms: &[Rc<TreeTerm<ENode>>]) {
        for t in terms {
            self.tree(t);
        }
        for pair in terms.windows(2) {
            let (before, after) = (self.ends[&Rc::as_ptr(&pair[0])].1, self.ends[&Rc::as_ptr(&pair[1])].0);
            if let Some(rule) = pair[1].forward_rule {
                self.proof.instances.push((rule.to_string(), before, after));
            }
            if let Some(rule) = pair[1].backward_rule {
                self.proof.instances.push((rule.to_string(), after, before));
            }
        }
    }

    fn tree(&mut self, t: &Rc<TreeTerm<ENode>>) {
        if !self.seen.insert(Rc::as_ptr(t)) {
            return;
        }
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for list in &t.child_proofs {
            self.list(list);
            let end = |t: Option<&Rc<TreeTerm<ENode>>>| t.and_then(|t| self.ends.get(&Rc::as_ptr(t)));
            first.extend(end(list.first()).map(|e| e.0));
            last.extend(end(list.last()).map(|e| e.1));
        }
        let ends = (self.intern(with_children(&t.node, &first)), self.intern(with_children(&t.node, &last)));
        self.ends.insert(Rc::as_ptr(t), ends);
    }
}

fn with_children(node: &ENode, children: &[usize]) -> ENode {
    let mut children = children.iter();
    node.clone().map_children(|_| Id::from(children.next().copied().unwrap_or_default()))
}

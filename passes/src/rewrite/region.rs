//! Regions: parts of a graph that are rewritten one by one.
//!
//! A region is a run of nodes in the graph's order. Cuts lie where few values cross, and where what follows looks like
//! the start of the region before, so that the regions of a network of equal layers are equal themselves and are
//! saturated once. Nodes whose results define symbols are no part of a region: nodes that mention such a symbol must
//! stay behind them.

use super::convert::is_opaque;
use super::facts::Facts;
use super::lang::SMALL;
use aic_ir::dim::{Dim, Sym};
use aic_ir::graph::{Def, Graph, Node, NodeId, ValueId};
use aic_ir::op::{AttrValue, Op};
use aic_ir::types::{Layout, Type};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::hash::{Hash, Hasher};

/// Nodes of a region, at most.
const MAX_NODES: usize = 160;
/// Nodes of a region, at least, where more follow.
const MIN_NODES: usize = 40;
/// A graph of fewer nodes is not cut. What is left of a larger one is while it may be two regions, so that it ends in
/// regions like those before.
const WHOLE: usize = 97;
/// Nodes by which starts of regions are compared.
const LOOKAHEAD: usize = 12;

/// A part of a graph.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// Its nodes, in order, without constants.
    pub nodes: Vec<NodeId>,
    /// The values that are needed outside, in order.
    pub outputs: Vec<ValueId>,
    /// Values from outside, and large constants, in order of occurrence.
    pub leaves: Vec<ValueId>,
    /// What is known of each leaf.
    pub leaf_facts: Vec<Facts>,
    /// The leaf that a value is.
    pub leaf_of: HashMap<ValueId, u32>,
    /// Small constants in order of occurrence.
    pub constants: Vec<ValueId>,
    /// Nodes that rules must not touch, in order.
    pub opaques: Vec<NodeId>,
}

/// What is known of values beside their types: whether constants alone decide them, whether they aren't negative.
pub type Known = HashMap<ValueId, (bool, bool)>;

/// A part of the sequence of a graph's nodes.
#[derive(Clone, Debug)]
pub enum Part {
    /// Nodes to be rewritten together.
    Region(Vec<NodeId>),
    /// A node that is kept in its place, because its results define symbols.
    Fixed(NodeId),
}

/// Cuts the nodes of a graph that outputs need into parts; `shift` moves the cuts. Symbols in `outside` have a value.
pub fn parts(g: &Graph, outside: &HashSet<Sym>, shift: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut run: Vec<NodeId> = Vec::new();
    let mut known = outside.clone();
    let define = |ty: &Type, known: &mut HashSet<Sym>| {
        ty.dims.iter().filter_map(Dim::as_sym).filter(|s| known.insert((*s).clone())).count()
    };
    for p in &g.inputs {
        define(g.ty(p.value), &mut known);
    }
    for id in live(g) {
        let n = g.node(id);
        let defined: usize = n.outputs.iter().map(|v| define(g.ty(*v), &mut known)).sum();
        if defined > 0 {
            cut(g, &std::mem::take(&mut run), shift, &mut parts);
            parts.push(Part::Fixed(id));
        } else if !matches!(n.op, Op::Const(_)) {
            run.push(id);
        }
    }
    cut(g, &run, shift, &mut parts);
    parts
}

/// Nodes that outputs need, in order.
fn live(g: &Graph) -> Vec<NodeId> {
    let mut live = vec![false; g.n_values()];
    g.outputs.iter().for_each(|p| live[p.value.index()] = true);
    let mut nodes = Vec::new();
    for (id, n) in g.nodes().rev() {
        if n.outputs.iter().any(|v| live[v.index()]) {
            n.inputs.iter().for_each(|v| live[v.index()] = true);
            nodes.push(id);
        }
    }
    nodes.reverse();
    nodes
}

/// Cuts a run of nodes into regions: where the fewest values cross, and of such places at one that looks like the
/// start of the region, before a contraction, or at the nearest.
fn cut(g: &Graph, run: &[NodeId], shift: bool, parts: &mut Vec<Part>) {
    let crossing = crossing(g, run);
    let signatures: Vec<u64> = run.iter().map(|id| signature(g, g.node(*id))).collect();
    let start_of = |k: usize| &signatures[k..(k + LOOKAHEAD).min(run.len())];
    let mut from = 0;
    while run.len() - from >= if from == 0 { WHOLE } else { 2 * MIN_NODES } {
        let halved = if shift && from == 0 { 2 } else { 1 };
        let rank = |k: &usize| {
            let starts_alike = start_of(*k) == start_of(from);
            (crossing[*k], !starts_alike, !is_contraction(g.node(run[*k])), *k)
        };
        let last = (from + MAX_NODES / halved).min(run.len() - 1);
        let Some(to) = (from + MIN_NODES / halved..=last).min_by_key(rank) else { break };
        parts.push(Part::Region(run[from..to].to_vec()));
        from = to;
    }
    if from < run.len() {
        parts.push(Part::Region(run[from..].to_vec()));
    }
}

/// For each position in a run of nodes, how many values made before it are needed from there on.
fn crossing(g: &Graph, run: &[NodeId]) -> Vec<usize> {
    let place: HashMap<NodeId, usize> = run.iter().enumerate().map(|(k, id)| (*id, k)).collect();
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (k, id) in run.iter().enumerate() {
        g.node(*id).inputs.iter().for_each(|v| {
            last.insert(*v, k);
        });
    }
    let mut steps = vec![0isize; run.len() + 1];
    for (v, end) in last {
        if let Def::Node(n, _) = g.value(v).def
            && let Some(made) = place.get(&n)
        {
            steps[made + 1] += 1;
            steps[end + 1] -= 1;
        }
    }
    let sums = steps.iter().scan(0, |sum, step| {
        *sum += step;
        Some(*sum as usize)
    });
    sums.collect()
}

fn is_contraction(n: &Node) -> bool {
    matches!(n.op, Op::Matmul(_) | Op::Conv(_))
}

/// A hash of a node's operator and its results' types.
fn signature(g: &Graph, n: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    n.op.keyword().hash(&mut hasher);
    n.outputs.iter().for_each(|v| g.ty(*v).hash(&mut hasher));
    hasher.finish()
}

impl Region {
    /// Looks up what nodes of a graph take from outside and what is taken from them.
    pub fn new(
        g: &Graph,
        nodes: Vec<NodeId>,
        used_outside: &dyn Fn(ValueId) -> bool,
        known: &Known,
    ) -> Region {
        let mut region = Region { nodes, ..Region::default() };
        let inside: HashSet<NodeId> = region.nodes.iter().copied().collect();
        let (mut seen, mut by_place) = (HashSet::new(), HashMap::new());
        for id in region.nodes.clone() {
            let n = g.node(id);
            for v in n
                .inputs
                .iter()
                .filter(|v| !matches!(g.value(**v).def, Def::Node(n, _) if inside.contains(&n)))
            {
                if seen.insert(*v) {
                    region.take(g, *v, known, &mut by_place);
                }
            }
            if is_opaque(g, n) {
                region.opaques.push(id);
            }
            region.outputs.extend(n.outputs.iter().copied().filter(|v| used_outside(*v)));
        }
        region
    }

    /// A value from outside; large constants at the same place in memory are one leaf.
    fn take(&mut self, g: &Graph, v: ValueId, known: &Known, by_place: &mut HashMap<(Type, usize), u32>) {
        let ty = g.ty(v);
        let constant = g.as_const(v).filter(|_| ty.layout == Layout::RowMajor);
        let new = self.leaves.len() as u32;
        let (leaf, facts) = match constant {
            Some(t) if t.len() <= SMALL => return self.constants.push(v),
            Some(t) => {
                let place = (ty.clone(), t.bytes().as_ptr() as usize);
                (*by_place.entry(place).or_insert(new), Facts::constant(t))
            }
            None => {
                let (is_const, is_nonneg) = known.get(&v).copied().unwrap_or_default();
                (new, Facts { is_const, is_nonneg, ..Facts::tensor(ty.clone()) })
            }
        };
        self.leaf_of.insert(v, leaf);
        if leaf == new {
            self.leaves.push(v);
            self.leaf_facts.push(facts);
        }
    }

    /// A text that is equal for regions that are rewritten alike: everything but names, and large constants' elements.
    pub fn structure(&self, g: &Graph) -> String {
        let mut names: HashMap<ValueId, String> = HashMap::new();
        let mut text = String::new();
        for (k, f) in self.leaf_facts.iter().enumerate() {
            let known = (f.is_const, f.is_nonneg, f.uniform, f.is_causal);
            let _ = writeln!(text, "%{k} {:?} {known:?}", f.kind);
        }
        names.extend(self.leaf_of.iter().map(|(v, k)| (*v, format!("%{k}"))));
        for (k, v) in self.constants.iter().enumerate() {
            names.insert(*v, format!("c{k}"));
            if let Some(t) = g.as_const(*v) {
                let _ = writeln!(text, "c{k} {}", AttrValue::Tensor(t.clone()));
            }
        }
        let opaques: BTreeSet<NodeId> = self.opaques.iter().copied().collect();
        for (k, id) in self.nodes.iter().enumerate() {
            let n = g.node(*id);
            let _ = write!(text, "{}", n.op.keyword());
            match opaques.contains(id) {
                true => text += " kept",
                false => n.op.attrs().iter().for_each(|(_, v)| {
                    let _ = write!(text, " {v}");
                }),
            }
            for v in &n.inputs {
                let _ = write!(text, " {}", names.get(v).map_or("?", String::as_str));
            }
            for (r, v) in n.outputs.iter().enumerate() {
                let _ = write!(text, " {}", g.ty(*v));
                names.insert(*v, format!("n{k}.{r}"));
            }
            text += "\n";
        }
        for v in &self.outputs {
            let _ = write!(text, "{} ", names.get(v).map_or("?", String::as_str));
        }
        text
    }
}

//! Searching for matches round after round, each only once.
//!
//! What a pattern matches in an e-class, and what guards and functions see of it, depends on classes within the
//! pattern's depth below. So a class is searched again only when one of these has changed since.

use super::lang::{EGraph, ENode, Head};
use super::rule::Rule;
use egg::{ENodeOrVar, Id, Language, Pattern, SearchMatches, Searcher};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A rule's left side in one order of operands.
pub struct Left<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The pattern.
    pub pattern: &'a Pattern<ENode>,
    /// The longest way from its root to a variable or leaf.
    depth: usize,
    /// Positions in [`Lefts::heads`] of what it is made of, its root last.
    heads: Vec<usize>,
}

/// The left sides of some rules.
pub struct Lefts<'a> {
    /// In the order of the rules.
    pub all: Vec<Left<'a>>,
    /// What they are made of.
    heads: Vec<Head>,
    /// The largest depth.
    depth: usize,
}

impl<'a> Lefts<'a> {
    /// Those of the rules.
    pub fn new(rules: &[&'a Rule]) -> Lefts<'a> {
        let mut numbers: HashMap<Head, usize> = HashMap::new();
        let mut heads = Vec::new();
        let mut number = |node: &ENode| {
            let head = node.discriminant();
            *numbers.entry(head.clone()).or_insert_with(|| {
                heads.push(head);
                heads.len() - 1
            })
        };
        let mut all = Vec::new();
        for &rule in rules {
            for pattern in &rule.patterns {
                let nodes = pattern.ast.as_ref().iter().filter_map(|node| match node {
                    ENodeOrVar::ENode(node) => Some(node),
                    ENodeOrVar::Var(_) => None,
                });
                let heads = nodes.map(&mut number).collect();
                all.push(Left { rule, pattern, depth: depth(pattern), heads });
            }
        }
        let depth = all.iter().map(|left| left.depth).max().unwrap_or(0);
        Lefts { all, heads, depth }
    }
}

/// What of an e-graph has been searched.
#[derive(Default)]
pub struct Search {
    /// Fingerprints of the classes at the last round.
    seen: HashMap<Id, u64>,
    /// For each head that occurs, the classes that have such a node and a changed class below, with its distance.
    fresh: Vec<Option<Vec<(Id, usize)>>>,
}

impl Search {
    /// Begins a round: finds the classes that changed since the last one. The e-graph must have been rebuilt.
    pub fn begin(&mut self, g: &EGraph, lefts: &Lefts) {
        let now: HashMap<Id, u64> = g.classes().map(|c| (c.id, fingerprint(g, c.id))).collect();
        let changed = now.iter().filter(|(id, print)| self.seen.get(id) != Some(print));
        let below = distances(g, changed.map(|(id, _)| *id).collect(), lefts.depth);
        self.seen = now;
        let fresh = |head: &Head| {
            let mut ids: Vec<Id> = g.classes_for_op(head)?.collect();
            ids.sort_unstable();
            Some(ids.iter().filter_map(|id| Some((*id, *below.get(id)?))).collect())
        };
        self.fresh = lefts.heads.iter().map(fresh).collect();
    }

    /// New matches, at most so many.
    pub fn matches<'a>(
        &self,
        g: &EGraph,
        left: &Left<'a>,
        mut limit: usize,
    ) -> Vec<SearchMatches<'a, ENode>> {
        let mut found = Vec::new();
        let occurs = left.heads.iter().all(|head| self.fresh[*head].is_some());
        let Some(Some(roots)) = left.heads.last().map(|root| &self.fresh[*root]).filter(|_| occurs) else {
            return found;
        };
        for (id, _) in roots.iter().filter(|(_, distance)| *distance <= left.depth) {
            if limit == 0 {
                break;
            }
            if let Some(m) = left.pattern.search_eclass_with_limit(g, *id, limit) {
                limit -= m.substs.len();
                found.push(m);
            }
        }
        found
    }
}

fn depth(pattern: &Pattern<ENode>) -> usize {
    let mut depths: Vec<usize> = Vec::with_capacity(pattern.ast.len());
    for node in &pattern.ast {
        let below = node.children().iter().map(|c| depths[usize::from(*c)] + 1);
        depths.push(below.max().unwrap_or(0));
    }
    depths.last().copied().unwrap_or(0)
}

/// How far below each class the nearest of the changed ones lies, where that is at most so far.
fn distances(g: &EGraph, changed: Vec<Id>, depth: usize) -> HashMap<Id, usize> {
    let mut below: HashMap<Id, usize> = changed.iter().map(|id| (*id, 0)).collect();
    let mut frontier = changed;
    for distance in 1..=depth {
        let parents = frontier.iter().flat_map(|id| g[*id].parents()).map(|id| g.find(id));
        let mut next: Vec<Id> = parents.filter(|id| !below.contains_key(id)).collect();
        next.sort_unstable();
        next.dedup();
        below.extend(next.iter().map(|id| (*id, distance)));
        frontier = next;
    }
    below
}

/// A number that changes when something is found out about a class. What its nodes' operands are is left to those.
fn fingerprint(g: &EGraph, id: Id) -> u64 {
    let mut hasher = DefaultHasher::new();
    let class = &g[id];
    class.nodes.hash(&mut hasher);
    class.data.found_out().hash(&mut hasher);
    hasher.finish()
}

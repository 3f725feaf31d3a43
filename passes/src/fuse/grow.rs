//! How groups grow.
//!
//! 1. Down from each contraction, then from each reduction, through post-dominators: what lies on all paths between two
//!    of them joins if kinds admit it. After a contraction these are maps and a reduction that leaves little; after a
//!    reduction all but contractions.
//! 2. Likewise from each remaining map, through maps.
//! 3. Upwards: maps join what reads them. One of several readers' maps is recomputed in each of them, or computed in
//!    one that stores it for the others, whichever costs less.
//! 4. Maps that are left join what they read, as a further result.
//!
//! Every step asks the scheduler: a group that isn't one kernel (or, with an operator that isn't one by itself, has
//! more kernels than that) doesn't come about, nor does one that depends on itself.

use super::Duplication;
use super::cost;
use super::flow::Flow;
use super::group::{self, Body, Kernels, Set};
use super::kind::Kind;
use crate::runner::Context;
use aic_ir::compose::{self, compose};
use aic_ir::graph::ValueId;
use aic_ir::op::Op;
use std::collections::BTreeSet;

/// Post-dominators that growth goes on to in search of a group that is one kernel again.
const LOOKAHEAD: usize = 8;
/// How many times fewer elements a reduction must leave to join a contraction.
const COLLAPSE: i64 = 8;

/// A group under construction.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its nodes.
    pub nodes: Set,
    /// Those that belong to another group and are recomputed here.
    pub borrowed: Set,
}

/// All groups; each node but constants belongs to one.
pub struct Groups<'a> {
    flow: &'a Flow<'a>,
    cx: &'a Context,
    kernels: Kernels,
    groups: Vec<Group>,
    owner: Vec<usize>,
    /// The groups that have a node, recomputed or not.
    holders: Vec<BTreeSet<usize>>,
}

impl<'a> Groups<'a> {
    /// Every node for itself.
    pub fn new(flow: &'a Flow<'a>, cx: &'a Context) -> Groups<'a> {
        let n = flow.kinds.len();
        let single = |k: usize| Group { nodes: Set::from([k]), borrowed: Set::new() };
        Groups {
            flow,
            cx,
            kernels: Kernels::default(),
            groups: (0..n).map(single).collect(),
            owner: (0..n).collect(),
            holders: (0..n).map(|k| BTreeSet::from([k])).collect(),
        }
    }

    /// The groups, without those that are part of others.
    pub fn finish(self) -> Vec<Group> {
        let flow = self.flow;
        let is_left = |g: &Group| g.nodes.iter().any(|n| !matches!(flow.node(*n).op, Op::Const(_)));
        self.groups.into_iter().filter(is_left).collect()
    }

    /// Grows all groups.
    pub fn grow(&mut self) {
        let n = self.flow.kinds.len();
        for kind in [Kind::Contraction, Kind::Reduction] {
            (0..n).filter(|k| self.flow.kinds[*k] == kind).for_each(|k| self.grow_down(k));
        }
        let is_map = |k: &usize| self.flow.kinds[*k] <= Kind::Injective && !self.is_reshape(*k);
        (0..n).filter(is_map).collect::<Vec<_>>().into_iter().for_each(|k| self.grow_down(k));
        for k in (0..n).rev() {
            self.join_readers(k);
        }
        for k in 0..n {
            self.join_producer(k);
        }
    }

    fn is_reshape(&self, n: usize) -> bool {
        matches!(self.flow.node(n).op, Op::Reshape(_))
    }

    /// Step 1 and 2: from one node through its post-dominators.
    fn grow_down(&mut self, start: usize) {
        if !self.is_single(start) {
            return;
        }
        let mut set = Set::from([start]);
        let Some(limit) = self.n_kernels(&set, &Set::new()).map(|n| n.max(1)) else { return };
        let (mut tried, mut last, mut misses) = (set.clone(), start, 0);
        while let Some(p) = self.flow.post_dominator(last) {
            let between = self.flow.between(last, p);
            if !between.iter().all(|n| self.is_single(*n)) || !self.admits(start, p, &between) {
                break;
            }
            tried.extend(between);
            if tried.len() > group::MAX_NODES {
                break;
            }
            if self.n_kernels(&tried, &Set::new()).is_some_and(|n| n <= limit) && self.is_acyclic(&tried) {
                (set, misses) = (tried.clone(), 0);
            } else {
                misses += 1;
            }
            if misses > LOOKAHEAD {
                break;
            }
            last = p;
        }
        self.commit(set, Set::new());
    }

    /// Whether a node is in no group with others.
    fn is_single(&self, n: usize) -> bool {
        self.groups[self.owner[n]].nodes.len() == 1 && self.holders[n].len() == 1
    }

    /// Whether a group that starts at a node may take in what is on the way to `p`.
    fn admits(&self, start: usize, p: usize, between: &Set) -> bool {
        let kind = |n: usize| self.flow.kinds[n];
        match kind(start) {
            Kind::Reduction => between.iter().all(|n| kind(*n) <= Kind::Reduction),
            Kind::Contraction => {
                between.iter().all(|n| kind(*n) <= Kind::Injective || *n == p && self.collapses(p))
            }
            _ => between.iter().all(|n| kind(*n) <= Kind::Injective),
        }
    }

    /// Whether a node reduces its operand to much fewer elements.
    fn collapses(&self, n: usize) -> bool {
        let node = self.flow.node(n);
        let numel = |v: ValueId| self.flow.graph.ty(v).numel();
        matches!(node.op, Op::Reduce(_))
            && (numel(node.inputs[0]) - numel(node.outputs[0]) * COLLAPSE.into()).is_not_negative()
    }

    /// Step 3: a map and what reads it.
    fn join_readers(&mut self, n: usize) {
        let id = self.owner[n];
        let own = self.groups[id].clone();
        // Each group once, at its last node.
        if own.nodes.last() != Some(&n)
            || !group::is_map(self.flow, &own.nodes)
            || self.is_free_alias(&own.nodes)
        {
            return;
        }
        let (readers, is_output) = self.readers(id);
        if let [only] = &readers[..] {
            self.join(id, only);
            return;
        }
        let body = self.body(&own.nodes, &own.borrowed);
        let stays_cheap = || {
            let c = compose(&body.graph);
            let is_free = c.is_some_and(|c| c.stages.iter().all(|s| compose::cost(&s.value) == 0));
            is_free || !cost::pays_alone(&body.graph, readers.len(), &self.cx.target)
        };
        let keeps = || match self.cx.duplication {
            Duplication::Cheapest => {
                cost::choose(&body.graph, readers.len(), &self.cx.target) == cost::Choice::Keep
            }
            Duplication::Always => false,
            Duplication::Never => true,
        };
        let recomputes = !is_output
            && match self.cx.duplication {
                Duplication::Cheapest => stays_cheap(),
                Duplication::Always => true,
                Duplication::Never => false,
            };
        if recomputes && !keeps() && self.recompute(id, &readers) {
            return;
        }
        let stores = readers.iter().any(|r| self.join(id, r));
        if recomputes && !stores {
            self.recompute(id, &readers);
        }
    }

    /// Makes a map part of a reader, with the reshapes between. Gives whether it is now.
    fn join(&mut self, id: usize, r: &Reader) -> bool {
        let (map, reader) = (&self.groups[id], &self.groups[r.group]);
        if reader.nodes.iter().any(|n| self.flow.kinds[*n] == Kind::Opaque) {
            return false;
        }
        let mut set: Set = map.nodes.union(&reader.nodes).copied().collect();
        let mut borrowed: Set = map.borrowed.union(&reader.borrowed).copied().collect();
        borrowed.retain(|n| !(self.owner[*n] == id || self.owner[*n] == r.group));
        for n in &r.through {
            if set.insert(*n)
                && !self.flow.users[*n].iter().all(|u| reader.nodes.contains(u) || r.through.contains(u))
            {
                borrowed.insert(*n);
            }
        }
        let limit = self.n_kernels(&reader.nodes, &reader.borrowed).map_or(1, |n| n.max(1));
        let fits = self.n_kernels(&set, &borrowed).is_some_and(|n| n <= limit);
        let joins = fits && self.is_acyclic(&set);
        if joins {
            self.commit(set, borrowed);
        }
        joins
    }

    /// Makes a map part of all its readers, or of none. Gives whether it is now.
    fn recompute(&mut self, id: usize, readers: &[Reader]) -> bool {
        let map = self.groups[id].nodes.clone();
        let mut changed = Vec::new();
        for r in readers {
            let reader = &self.groups[r.group];
            if reader.nodes.iter().any(|n| self.flow.kinds[*n] == Kind::Opaque) {
                return false;
            }
            let mut set: Set = map.union(&reader.nodes).copied().collect();
            set.extend(&r.through);
            let borrowed: Set = set.iter().copied().filter(|n| self.owner[*n] != r.group).collect();
            let limit = self.n_kernels(&reader.nodes, &reader.borrowed).map_or(1, |n| n.max(1));
            if self.n_kernels(&set, &borrowed).is_none_or(|n| n > limit) {
                return false;
            }
            changed.push((r.group, Group { nodes: set, borrowed }));
        }
        for (k, group) in changed {
            for n in &group.nodes {
                self.holders[*n].insert(k);
            }
            self.groups[k] = group;
        }
        true
    }

    /// Step 4: a map and what it reads.
    fn join_producer(&mut self, n: usize) {
        let id = self.owner[n];
        let own = self.groups[id].clone();
        if own.nodes.first() != Some(&n)
            || !group::is_map(self.flow, &own.nodes)
            || self.is_free_alias(&own.nodes)
        {
            return;
        }
        let operands = own.nodes.iter().flat_map(|n| &self.flow.node(*n).inputs);
        let producers: BTreeSet<usize> = operands
            .filter_map(|v| self.flow.producer(*v))
            .map(|p| self.owner[p])
            .filter(|p| *p != id && !self.is_free_alias(&self.groups[*p].nodes))
            .collect();
        for p in producers {
            let through = Set::new();
            // The other way round: the producer is what the reader joins.
            if self.join(id, &Reader { group: p, through }) {
                return;
            }
        }
    }

    /// Whether nodes are reshapes only.
    fn is_free_alias(&self, nodes: &Set) -> bool {
        nodes.iter().all(|n| self.is_reshape(*n))
    }

    /// The groups that read a group, through reshapes of their own too, and whether a result is an output.
    fn readers(&self, id: usize) -> (Vec<Reader>, bool) {
        let own = &self.groups[id].nodes;
        let mut readers: Vec<Reader> = Vec::new();
        let mut is_output = false;
        let owned: Vec<usize> = own.iter().copied().filter(|n| self.owner[*n] == id).collect();
        let mut open: Vec<(usize, Set)> = owned.iter().map(|n| (*n, Set::new())).collect();
        while let Some((n, through)) = open.pop() {
            is_output |= self.flow.is_output[n];
            for u in &self.flow.users[n] {
                for group in self.holders[*u].iter().copied() {
                    let nodes = &self.groups[group].nodes;
                    if nodes.contains(&n) && through.is_empty() || group == id {
                        continue;
                    }
                    if self.is_free_alias(nodes) {
                        let mut through = through.clone();
                        through.insert(*u);
                        open.push((*u, through));
                        continue;
                    }
                    match readers.iter_mut().find(|r| r.group == group) {
                        Some(r) => r.through.extend(&through),
                        None => readers.push(Reader { group, through: through.clone() }),
                    }
                }
            }
        }
        readers.sort_by_key(|r| r.group);
        (readers, is_output)
    }

    /// The number of kernels of a group of these nodes; `None` if there can't be one.
    fn n_kernels(&self, nodes: &Set, borrowed: &Set) -> Option<usize> {
        let inner = group::without_border_reshapes(self.flow, nodes);
        if inner.is_empty() {
            return Some(0);
        }
        if inner.iter().any(|n| self.flow.kinds[*n] == Kind::Opaque) {
            return None;
        }
        self.kernels.count(&self.body(nodes, borrowed), self.cx)
    }

    /// The body of a group of these nodes.
    fn body(&self, nodes: &Set, borrowed: &Set) -> Body {
        let inner = group::without_border_reshapes(self.flow, nodes);
        group::body(self.flow, &inner, None, &|n, v| {
            !borrowed.contains(&n) && self.is_needed(n, v, &inner, nodes)
        })
    }

    /// Whether something needs a node's result outside of the inner nodes of a group.
    fn is_needed(&self, n: usize, v: ValueId, inner: &Set, nodes: &Set) -> bool {
        let is_elsewhere = |u: &usize| {
            let recomputes = |g: &usize| self.groups[*g].nodes.contains(&n) && *g != self.owner[n];
            nodes.contains(u) || self.holders[*u].iter().any(|g| !recomputes(g))
        };
        self.flow.graph.outputs.iter().any(|p| p.value == v)
            || self.flow.users[n]
                .iter()
                .filter(|u| !inner.contains(u) && self.flow.node(**u).inputs.contains(&v))
                .any(is_elsewhere)
    }

    /// Whether no path leads from a group of these nodes through other groups back to it.
    fn is_acyclic(&self, set: &Set) -> bool {
        let horizon = self.horizon(set.last().copied().unwrap_or(0));
        let within = |group: usize| self.groups[group].nodes.iter().all(|n| set.contains(n));
        // The groups that need a node's result from the group that it belongs to.
        let needing = |n: usize| {
            let holders = self.flow.users[n].iter().flat_map(|u| &self.holders[*u]).copied();
            holders.filter(move |g| !self.groups[*g].nodes.contains(&n))
        };
        let mut seen = BTreeSet::new();
        let mut open: Vec<usize> = set.iter().flat_map(|n| needing(*n)).collect();
        while let Some(group) = open.pop() {
            let nodes = &self.groups[group].nodes;
            if within(group) || nodes.first().is_none_or(|n| *n > horizon) || !seen.insert(group) {
                continue;
            }
            for n in nodes.iter().filter(|n| self.owner[**n] == group && !set.contains(n)) {
                if self.flow.users[*n].iter().any(|u| set.contains(u)) {
                    return false;
                }
                open.extend(needing(*n));
            }
        }
        true
    }

    /// What begins behind it leads to no node up to `last`: the end of what overlaps with these, directly or not.
    fn horizon(&self, last: usize) -> usize {
        let begins = |g: &&Group| g.nodes.first().is_some_and(|n| *n <= last);
        let end = self.groups.iter().filter(begins).filter_map(|g| g.nodes.last()).max();
        match end {
            Some(end) if *end > last => self.horizon(*end),
            _ => last,
        }
    }

    /// Makes the nodes one group. What isn't borrowed is theirs from now on.
    fn commit(&mut self, nodes: Set, borrowed: Set) {
        let Some(id) = nodes.iter().find(|n| !borrowed.contains(n)).map(|n| self.owner[*n]) else { return };
        let former: BTreeSet<usize> =
            nodes.iter().filter(|n| !borrowed.contains(n)).map(|n| self.owner[*n]).collect();
        for k in former {
            for n in std::mem::take(&mut self.groups[k]).nodes {
                self.holders[n].remove(&k);
            }
        }
        for n in &nodes {
            self.holders[*n].insert(id);
            if !borrowed.contains(n) {
                self.owner[*n] = id;
            }
        }
        self.groups[id] = Group { nodes, borrowed };
    }
}

/// A group that reads another one's result.
#[derive(Clone, Debug)]
struct Reader {
    group: usize,
    /// Reshapes that are read through.
    through: Set,
}

//! The cheapest choice of one e-node for each e-class needed, where a class used twice is paid once.
//!
//! Exact extraction is NP-hard. The first choice is that of the cheapest trees. It is improved class by class, operands
//! first, by the cost of the set of classes below each e-node. Then it is refined: one class after another takes another e-node if that
//! makes the whole cheaper; and for each class that several others could share, all of them at once take e-nodes over
//! it, which finds what pays only if all do (three products merged into one). Ties are broken by cost, then by the order of
//! e-nodes; classes are visited in a fixed order.

use super::cost::{self, Cost};
use super::lang::{EGraph, ENode};
use aic_ir::target::Target;
use egg::{Id, Language};
use std::collections::{BTreeMap, BTreeSet};

/// The e-node kept for each class that is needed.
pub type Choice = BTreeMap<Id, ENode>;

/// How often every class is visited to improve a choice.
const SWEEPS: usize = 8;
/// How often every needed class is visited to refine a choice.
const REFINEMENTS: usize = 3;
/// Classes above which a choice is not refined.
const MAX_REFINED: usize = 2_000;
/// Classes that are tried to be shared.
const MAX_SHARED: usize = 256;

/// The classes of an e-graph, numbered densely, operands by number.
struct Table {
    ids: Vec<Id>,
    index: BTreeMap<Id, usize>,
    /// The e-nodes of each class: cost and children.
    nodes: Vec<Vec<(Cost, Vec<usize>)>>,
}

/// A choice as the number of an e-node for each class; `None` where none is possible yet.
type Picks = Vec<Option<usize>>;

/// The cheapest choice found for some classes, and its cost; `None` if there is none.
pub fn cheapest(g: &EGraph, roots: &[Id], target: &Target) -> Option<(Choice, Cost)> {
    let table = Table::new(g, target);
    let roots: BTreeSet<usize> = roots.iter().map(|r| table.index[&g.find(*r)]).collect();
    let roots: Vec<usize> = roots.into_iter().collect();
    let mut picks = table.trees();
    let mut best = table.cost(&picks, &roots)?;
    table.sweep(&mut picks, &mut best, &roots);
    if table.ids.len() <= MAX_REFINED {
        table.refine(&mut picks, &mut best, &roots);
    }
    let choice = table.reached(&picks, &roots)?;
    let node = |k: usize| picks[k].map(|n| (table.ids[k], g[table.ids[k]].nodes[n].clone()));
    Some((choice.into_iter().filter_map(node).collect(), best))
}

impl Table {
    fn new(g: &EGraph, target: &Target) -> Table {
        let mut ids: Vec<Id> = g.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        let index: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(k, id)| (*id, k)).collect();
        let node = |id: Id, n: &ENode| {
            let children = n.children().iter().map(|c| index[&g.find(*c)]).collect();
            (cost::of_enode(g, n, &g[id].data, target), children)
        };
        let nodes = ids.iter().map(|id| g[*id].nodes.iter().map(|n| node(*id, n)).collect()).collect();
        Table { ids, index, nodes }
    }

    /// Lets each class, operands first, take the e-node over the cheapest set of classes, until nothing changes.
    fn sweep(&self, picks: &mut Picks, best: &mut Cost, roots: &[usize]) {
        let chosen: Vec<usize> = (0..self.ids.len()).filter(|k| picks[*k].is_some()).collect();
        let mut next = picks.clone();
        for _ in 0..SWEEPS {
            let Some(order) = self.reached(&next, &chosen) else { return };
            let before = next.clone();
            self.improve(&mut next, &order);
            match self.cost(&next, roots) {
                Some(cost) if cost < *best => (*picks, *best) = (next.clone(), cost),
                _ => {}
            }
            if next == before {
                return;
            }
        }
    }

    /// One sweep over classes, which are ordered by what they need.
    fn improve(&self, picks: &mut Picks, order: &[usize]) {
        let mut sets: Vec<Option<Set>> = vec![None; self.ids.len()];
        for &k in order {
            let found = picks[k].and_then(|p| self.below(k, p, &sets, picks));
            sets[k] = found.map(|(_, set)| set);
        }
        for &k in order {
            let nodes = (0..self.nodes[k].len()).filter_map(|p| Some((p, self.below(k, p, &sets, picks)?)));
            let mut best: Option<(usize, (Cost, Set))> =
                picks[k].and_then(|p| Some((p, self.below(k, p, &sets, picks)?)));
            for (p, found) in nodes {
                if best.as_ref().is_none_or(|(_, b)| found.0 < b.0) {
                    best = Some((p, found));
                }
            }
            if let Some((p, (_, set))) = best {
                (picks[k], sets[k]) = (Some(p), Some(set));
            }
        }
    }

    /// The set of a class and those below one of its e-nodes, with their cost; `None` if one is missing, or the class
    /// is below itself.
    fn below(&self, class: usize, p: usize, sets: &[Option<Set>], picks: &Picks) -> Option<(Cost, Set)> {
        let (own, children) = &self.nodes[class][p];
        let mut set = match &children[..] {
            [] => Set::new(self.ids.len()),
            [first, ..] => sets[*first].clone()?,
        };
        for c in children.iter().skip(1) {
            set.extend(sets[*c].as_ref()?);
        }
        if set.contains(class) {
            return None;
        }
        let cost = *own + set.iter().filter_map(|k| picks[k].map(|p| self.nodes[k][p].0)).sum();
        set.insert(class);
        Some((cost, set))
    }

    /// The cheapest e-node of each class where what is used twice is paid twice; never cyclic.
    fn trees(&self) -> Picks {
        let n = self.ids.len();
        let mut best: Vec<Option<(Cost, usize)>> = vec![None; n];
        let mut changed = true;
        while changed {
            changed = false;
            for k in 0..n {
                for (p, (own, children)) in self.nodes[k].iter().enumerate() {
                    let below: Option<Cost> = children.iter().map(|c| best[*c].map(|b| b.0)).sum();
                    let Some(cost) = below.map(|b| b + *own) else { continue };
                    if best[k].is_none_or(|(c, _)| cost < c) {
                        best[k] = Some((cost, p));
                        changed = true;
                    }
                }
            }
        }
        best.into_iter().map(|b| b.map(|(_, p)| p)).collect()
    }

    /// The classes that a choice needs, operands first; `None` if a class lacks an e-node, or needs itself.
    fn reached(&self, picks: &Picks, roots: &[usize]) -> Option<Vec<usize>> {
        let mut state = vec![0u8; self.ids.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for &root in roots {
            if state[root] == 0 {
                state[root] = 1;
                stack.push((root, 0));
            }
            while let Some((k, next)) = stack.pop() {
                let children = &self.nodes[k][picks[k]?].1;
                let Some(&c) = children.get(next) else {
                    state[k] = 2;
                    order.push(k);
                    continue;
                };
                stack.push((k, next + 1));
                match state[c] {
                    0 => {
                        state[c] = 1;
                        stack.push((c, 0));
                    }
                    1 => return None,
                    _ => {}
                }
            }
        }
        Some(order)
    }

    fn cost(&self, picks: &Picks, roots: &[usize]) -> Option<Cost> {
        let reached = self.reached(picks, roots)?;
        Some(reached.iter().filter_map(|&k| picks[k].map(|p| self.nodes[k][p].0)).sum())
    }

    fn refine(&self, picks: &mut Picks, best: &mut Cost, roots: &[usize]) {
        for _ in 0..REFINEMENTS {
            let before = *best;
            self.switch_each(picks, best, roots);
            self.share_each(picks, best, roots);
            if *best == before {
                return;
            }
        }
    }

    /// Takes another e-node for a class where that makes the whole cheaper.
    fn switch_each(&self, picks: &mut Picks, best: &mut Cost, roots: &[usize]) {
        let Some(reached) = self.reached(picks, roots) else { return };
        for k in reached {
            for p in 0..self.nodes[k].len() {
                let old = picks[k].replace(p);
                match self.cost(picks, roots) {
                    Some(cost) if cost < *best => *best = cost,
                    _ => picks[k] = old,
                }
            }
        }
    }

    /// Lets all classes that have an e-node over another one take it, where that makes the whole cheaper.
    fn share_each(&self, picks: &mut Picks, best: &mut Cost, roots: &[usize]) {
        for (shared, users) in self.shareable(picks, roots).into_iter().take(MAX_SHARED) {
            let mut other = picks.clone();
            for k in users {
                let over = self.nodes[k].iter().enumerate().filter(|(_, (_, c))| c.contains(&shared));
                other[k] = over.min_by_key(|(_, (cost, _))| *cost).map(|(p, _)| p).or(other[k]);
            }
            if let Some(cost) = self.cost(&other, roots).filter(|cost| cost < best) {
                (*picks, *best) = (other, cost);
            }
        }
    }

    /// Classes of a positive cost that a choice doesn't need but two of its classes have e-nodes over.
    fn shareable(&self, picks: &Picks, roots: &[usize]) -> Vec<(usize, BTreeSet<usize>)> {
        let reached: BTreeSet<usize> = self.reached(picks, roots).into_iter().flatten().collect();
        let mut users: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for &k in &reached {
            for c in self.nodes[k].iter().flat_map(|(_, children)| children) {
                if !reached.contains(c) && picks[*c].is_some_and(|p| self.nodes[*c][p].0.time > 0) {
                    users.entry(*c).or_default().insert(k);
                }
            }
        }
        users.into_iter().filter(|(_, users)| users.len() > 1).collect()
    }
}

/// A set of small numbers.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(n: usize) -> Set {
        Set(vec![0; n.div_ceil(64)])
    }

    fn insert(&mut self, k: usize) {
        self.0[k / 64] |= 1 << (k % 64);
    }

    fn contains(&self, k: usize) -> bool {
        self.0[k / 64] >> (k % 64) & 1 == 1
    }

    fn extend(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &word)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|r| *r != 0);
            let first = (word != 0).then_some(word);
            std::iter::successors(first, next).map(move |rest| 64 * w + rest.trailing_zeros() as usize)
        })
    }
}

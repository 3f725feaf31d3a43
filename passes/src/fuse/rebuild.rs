//! The graph with a node for each group.

use super::flow::Flow;
use super::group::{self, Set};
use super::grow::Group;
use crate::runner::Context;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Node, ValueId};
use aic_ir::op::{Fused, Op};
use aic_ir::{bail, ensure};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What becomes one node: a group, or what is left of one.
struct Unit {
    nodes: Set,
    borrowed: Set,
}

/// Makes the graph. Groups of one node stay as they are, and so do reshapes at a group's border.
pub fn rebuild(flow: &Flow, groups: &[Group], cx: &mut Context) -> Result<Graph> {
    let mut units: Vec<Unit> = Vec::new();
    for g in groups {
        let inner = group::without_border_reshapes(flow, &g.nodes);
        let outside = g.nodes.iter().filter(|n| !inner.contains(n) && !g.borrowed.contains(n));
        units.extend(outside.map(|n| Unit { nodes: Set::from([*n]), borrowed: Set::new() }));
        let is_fused = inner.len() > 1 && inner.iter().any(|n| !g.borrowed.contains(n));
        let borrowed: Set = g.borrowed.intersection(&inner).copied().collect();
        match is_fused && cx.spend(|| format!("group of {}", names(flow, &inner))) {
            true => units.push(Unit { nodes: inner, borrowed }),
            // What a group without fuel would have recomputed stays a node of its own.
            false => {
                let own = inner.into_iter().filter(|n| !borrowed.contains(n));
                units.extend(own.map(|n| Unit { nodes: Set::from([n]), borrowed: Set::new() }));
            }
        }
    }
    let mut holders = vec![Vec::new(); flow.kinds.len()];
    for (k, u) in units.iter().enumerate() {
        u.nodes.iter().for_each(|n| holders[*n].push(k));
    }
    let out = Graph::new(&flow.graph.name);
    let mut r = Rebuild { flow, units, holders, out, map: HashMap::new(), n_groups: 0 };
    r.out.requires = flow.graph.requires.clone();
    for p in &flow.graph.inputs {
        let v = r.out.add_input(&p.name, flow.graph.ty(p.value).clone());
        r.map.insert(p.value, v);
    }
    for k in r.order()? {
        r.unit(k)?;
    }
    for p in &flow.graph.outputs {
        let v = r.value(p.value)?;
        r.out.add_output(&p.name, v);
    }
    Ok(r.out)
}

fn names(flow: &Flow, set: &Set) -> String {
    let words: Vec<&str> = set.iter().map(|n| flow.node(*n).op.keyword()).collect();
    let origin = set.iter().flat_map(|n| &flow.node(*n).origin).next();
    format!("{}{}", words.join(" "), origin.map_or(String::new(), |o| format!(" ({o})")))
}

struct Rebuild<'a> {
    flow: &'a Flow<'a>,
    units: Vec<Unit>,
    /// The units that each node is in.
    holders: Vec<Vec<usize>>,
    out: Graph,
    map: HashMap<ValueId, ValueId>,
    n_groups: usize,
}

impl Rebuild<'_> {
    /// Units that are needed, operands first; otherwise in the order of their last nodes.
    fn order(&self) -> Result<Vec<usize>> {
        let needed = self.needed();
        let roots = (0..self.holders.len()).filter(|n| self.flow.is_output[*n]).filter_map(|n| self.owner(n));
        let mut wanted = BTreeSet::new();
        let mut open: Vec<usize> = roots.collect();
        while let Some(k) = open.pop() {
            if wanted.insert(k) {
                open.extend(&needed[k]);
            }
        }
        let mut missing: Vec<usize> = needed.iter().map(BTreeSet::len).collect();
        let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); needed.len()];
        for &k in &wanted {
            needed[k].iter().for_each(|n| dependents[*n].push(k));
        }
        let place = |k: usize| (self.units[k].nodes.last().copied(), k);
        let mut ready: BTreeSet<_> = wanted.iter().filter(|k| missing[**k] == 0).map(|k| place(*k)).collect();
        let mut order = Vec::new();
        while let Some((_, k)) = ready.pop_first() {
            order.push(k);
            for &d in &dependents[k] {
                missing[d] -= 1;
                if missing[d] == 0 {
                    ready.insert(place(d));
                }
            }
        }
        let left =
            || wanted.iter().filter(|k| !order.contains(k)).map(|k| names(self.flow, &self.units[*k].nodes));
        ensure!(
            order.len() == wanted.len(),
            "groups need each other: {}",
            left().collect::<Vec<_>>().join("; ")
        );
        Ok(order)
    }

    /// The units that each unit needs.
    fn needed(&self) -> Vec<BTreeSet<usize>> {
        let mut needed = vec![BTreeSet::new(); self.units.len()];
        for (n, users) in self.flow.users.iter().enumerate() {
            let Some(from) = self.owner(n) else { continue };
            for k in users.iter().flat_map(|u| &self.holders[*u]) {
                if !self.units[*k].nodes.contains(&n) {
                    needed[*k].insert(from);
                }
            }
        }
        needed
    }

    /// The unit that a node belongs to.
    fn owner(&self, n: usize) -> Option<usize> {
        self.holders[n].iter().copied().find(|k| !self.units[*k].borrowed.contains(&n))
    }

    fn unit(&mut self, k: usize) -> Result<()> {
        let unit = &self.units[k];
        if unit.nodes.len() == 1 {
            let node = unit.nodes.first().map(|n| self.flow.node(*n));
            return node.map_or(Ok(()), |n| self.copy(n));
        }
        let is_needed = |n: usize, v: ValueId| !unit.borrowed.contains(&n) && self.is_needed(n, v);
        let name = format!("g{}", self.n_groups);
        let body = group::body(self.flow, &unit.nodes, Some(&name), &is_needed);
        self.n_groups += 1;
        let mut origin: Vec<Arc<str>> = Vec::new();
        for name in unit.nodes.iter().flat_map(|n| &self.flow.node(*n).origin) {
            if !origin.contains(name) {
                origin.push(name.clone());
            }
        }
        let x = body.inputs.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>>>()?;
        let types = body.outputs.iter().map(|v| self.flow.graph.ty(*v).clone()).collect();
        let y = self.out.add_typed(Op::Fused(Fused { body: body.graph.into() }), &x, types, &origin);
        self.map.extend(body.outputs.into_iter().zip(y));
        Ok(())
    }

    /// Whether an output of the graph or another unit needs a result of node `n`.
    fn is_needed(&self, n: usize, v: ValueId) -> bool {
        let readers = self.flow.users[n].iter().filter(|u| self.flow.node(**u).inputs.contains(&v));
        self.flow.graph.outputs.iter().any(|p| p.value == v)
            || readers.flat_map(|u| &self.holders[*u]).any(|k| !self.units[*k].nodes.contains(&n))
    }

    fn copy(&mut self, n: &Node) -> Result<()> {
        let x = n.inputs.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>>>()?;
        let types = n.outputs.iter().map(|v| self.flow.graph.ty(*v).clone()).collect();
        let y = self.out.add_typed(n.op.clone(), &x, types, &n.origin);
        self.map.extend(n.outputs.iter().copied().zip(y));
        Ok(())
    }

    /// A value in the new graph; constants come when they are first used.
    fn value(&mut self, v: ValueId) -> Result<ValueId> {
        if let Some(found) = self.map.get(&v) {
            return Ok(*found);
        }
        let Some(value) = self.flow.graph.as_const(v) else {
            bail!("value {v} is needed before it is computed")
        };
        let origin = match self.flow.graph.value(v).def {
            aic_ir::graph::Def::Node(n, _) => self.flow.graph.node(n).origin.clone(),
            aic_ir::graph::Def::Input(_) => Vec::new(),
        };
        let new = self.out.add_const(value.clone(), &origin);
        self.map.insert(v, new);
        Ok(new)
    }
}

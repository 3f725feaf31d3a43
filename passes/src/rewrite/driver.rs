//! Rewriting whole graphs: region by region, equal regions once, until nothing changes.

use super::certificate::{Certificate, Collector};
use super::convert::{self, Converted};
use super::cost::{self, Cost};
use super::extract;
use super::lang::ENode;
use super::proof::{self, Proof};
use super::recipe::{Recipe, names};
use super::region::{self, Known, Part, Region};
use super::rule::Rule;
use super::saturate::{self, Limits, Outcome, Stop};
use super::search::Lefts;
use super::stats::RegionStats;
use crate::runner::Context;
use aic_ir::bail;
use aic_ir::dim::Sym;
use aic_ir::error::Result;
use aic_ir::graph::{Def, Graph, Node, NodeId, ValueId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Times that a graph's regions are rewritten, at most; every second time the cuts lie elsewhere.
const MAX_PASSES: usize = 8;

/// Rewrites graphs with some rules, remembering regions.
pub struct Rewriter<'a, 'c> {
    lefts: Lefts<'a>,
    /// Limits of a region's saturation.
    limits: Limits,
    /// The machine, numerics and fuel.
    pub cx: &'c mut Context,
    cache: HashMap<String, Arc<Done>>,
    /// The certificate so far, if one is wanted.
    collector: Option<Collector>,
}

/// What became of a region.
struct Done {
    /// How to build its replacement; `None` if nothing cheaper was found.
    recipe: Option<Recipe>,
    /// What is known of its outputs.
    known: Vec<(bool, bool)>,
    /// Why the replacement is equal, if there is one and a certificate is wanted.
    proof: Option<Proof>,
    /// Rules applied, in order.
    applied: Vec<String>,
    stats: RegionStats,
}

impl Done {
    /// A region that is left as it is, since no rule may be applied any more.
    fn unchanged(region: &Region, cost: Cost) -> Done {
        let stats = RegionStats {
            nodes: region.nodes.len(),
            enodes: 0,
            rounds: 0,
            stop: Stop::Fuel,
            is_cached: false,
            before: cost,
            after: cost,
        };
        let known = vec![Default::default(); region.outputs.len()];
        Done { recipe: None, known, proof: None, applied: Vec::new(), stats }
    }
}

impl<'a, 'c> Rewriter<'a, 'c> {
    /// A rewriter that has seen nothing yet.
    pub fn new(rules: &[&'a Rule], limits: Limits, cx: &'c mut Context) -> Self {
        let collector = cx.certify.then(Collector::default);
        Rewriter { lefts: Lefts::new(rules), limits, cx, cache: HashMap::new(), collector }
    }

    /// The certificate of what was done, if one is wanted.
    pub fn certificate(&mut self) -> Option<Certificate> {
        self.collector.take().map(Collector::finish)
    }

    /// Rewrites a graph until nothing changes; `None` if nothing does at all. Symbols in `outside` have a value.
    pub fn graph(&mut self, g: &Graph, outside: &HashSet<Sym>) -> Result<Option<Graph>> {
        let mut current: Option<Graph> = None;
        let mut unchanged = 0;
        for pass in 0..MAX_PASSES {
            let bodies = match self.collector {
                Some(_) => None,
                None => self.bodies(current.as_ref().unwrap_or(g), outside)?,
            };
            let regions =
                self.once(bodies.as_ref().or(current.as_ref()).unwrap_or(g), outside, pass % 2 == 1)?;
            match regions.or(bodies) {
                Some(new) => (current, unchanged) = (Some(new), 0),
                None => unchanged += 1,
            }
            if unchanged == 2 {
                break;
            }
        }
        Ok(current)
    }

    /// Rewrites every region once; `None` if nothing changes.
    fn once(&mut self, g: &Graph, outside: &HashSet<Sym>, shift: bool) -> Result<Option<Graph>> {
        let parts = region::parts(g, outside, shift);
        let part_of = part_numbers(&parts);
        let used_in = uses(g, &part_of);
        let mut builder = Builder::new(g);
        let mut changed = false;
        let mut collector = self.collector.take();
        let terms = collector.as_mut().map(|c| c.graph(g)).unwrap_or_default();
        for (k, part) in parts.into_iter().enumerate() {
            match part {
                Part::Fixed(id) => builder.copy(id)?,
                Part::Region(nodes) => {
                    let used_outside =
                        |v: ValueId| used_in.get(&v).is_some_and(|parts| parts.iter().any(|p| *p != k));
                    let region = Region::new(g, nodes, &used_outside, &builder.known);
                    let done = self.region(g, &region)?;
                    changed |= done.recipe.is_some();
                    builder.replace(&region, &done)?;
                    if let (Some(c), Some(proof)) = (&mut collector, &done.proof) {
                        c.region(g, &region, proof, &terms);
                    }
                }
            }
        }
        self.collector = collector;
        Ok(if changed { Some(builder.finish()?) } else { None })
    }

    /// What becomes of a region: as of an equal one before, or found out.
    fn region(&mut self, g: &Graph, region: &Region) -> Result<Arc<Done>> {
        let structure = region.structure(g);
        if let Some(done) = self.cache.get(&structure) {
            let n = done.applied.len() as u64;
            if self.cx.fuel.is_none_or(|fuel| fuel >= n) {
                let done = done.clone();
                self.spend(&done.applied);
                self.cx.rewrites.regions.push(RegionStats { is_cached: true, ..done.stats.clone() });
                return Ok(done);
            }
        }
        let fuel = self.cx.fuel;
        let done = Arc::new(self.saturated(g, region)?);
        self.spend(&done.applied);
        self.cx.rewrites.regions.push(done.stats.clone());
        if fuel.is_none() || self.cx.fuel != Some(0) {
            self.cache.insert(structure, done.clone());
        }
        Ok(done)
    }

    fn spend(&mut self, applied: &[String]) {
        for rule in applied {
            self.cx.spend(|| rule.clone());
        }
    }

    fn saturated(&mut self, g: &Graph, region: &Region) -> Result<Done> {
        let mut converted = convert::to_egraph(g, region, self.cx.numerics, self.cx.certify);
        let before = self.cost_before(g, region, &converted);
        if self.cx.fuel == Some(0) {
            return Ok(Done::unchanged(region, before));
        }
        let mut fuel = self.cx.fuel;
        let outcome = saturate::saturate(&mut converted.egraph, &self.lefts, &self.limits, &mut fuel);
        let roots: Vec<_> = region.outputs.iter().map(|v| converted.ids[v]).collect();
        let best = extract::cheapest(&converted.egraph, &roots, &self.cx.target);
        let best = best.filter(|(_, cost)| *cost < before);
        let recipe = match &best {
            Some((choice, _)) => Some(Recipe::new(g, region, &converted, choice)?),
            None => None,
        };
        let used =
            best.as_ref().map(|(choice, _)| outcome.used(&converted.egraph, choice)).unwrap_or_default();
        self.cx.rewrites.count(&outcome, &used);
        let known = roots.iter().map(|id| &converted.egraph[*id].data).map(|f| (f.is_const, f.is_nonneg));
        let known = known.collect();
        let enodes = converted.egraph.total_size();
        let proof = match &best {
            Some((choice, _)) if self.cx.certify => Some(proof::collect(g, region, &mut converted, choice)),
            _ => None,
        };
        let Outcome { stop, rounds, applied, .. } = outcome;
        let stats = RegionStats {
            nodes: region.nodes.len(),
            enodes,
            rounds,
            stop,
            is_cached: false,
            before,
            after: best.map_or(before, |(_, cost)| cost),
        };
        Ok(Done { recipe, known, proof, applied, stats })
    }

    /// The cost of the region's nodes as they are, equal ones each.
    fn cost_before(&self, g: &Graph, region: &Region, converted: &Converted) -> Cost {
        let e = &converted.egraph;
        let cost = |id: &NodeId| {
            let id = converted.ids[&g.node(*id).outputs[0]];
            let id = match e.id_to_node(id) {
                ENode::Result(_, [of]) => *of,
                _ => id,
            };
            cost::of_enode(e, e.id_to_node(id), &e[id].data, &self.cx.target)
        };
        region.nodes.iter().map(cost).sum()
    }
}

/// The part that each node is in.
fn part_numbers(parts: &[Part]) -> HashMap<NodeId, usize> {
    let mut numbers = HashMap::new();
    for (k, part) in parts.iter().enumerate() {
        let nodes = match part {
            Part::Fixed(id) => std::slice::from_ref(id),
            Part::Region(nodes) => nodes,
        };
        numbers.extend(nodes.iter().map(|id| (*id, k)));
    }
    numbers
}

/// The parts that use each value; outputs count as one behind the last.
fn uses(g: &Graph, part_of: &HashMap<NodeId, usize>) -> HashMap<ValueId, Vec<usize>> {
    let mut uses: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for (id, n) in g.nodes() {
        if let Some(part) = part_of.get(&id) {
            n.inputs.iter().for_each(|v| uses.entry(*v).or_default().push(*part));
        }
    }
    g.outputs.iter().for_each(|p| uses.entry(p.value).or_default().push(usize::MAX));
    uses
}

/// A new graph that grows part by part.
struct Builder<'a> {
    source: &'a Graph,
    out: Graph,
    /// Values of the source in the new graph.
    values: BTreeMap<ValueId, ValueId>,
    /// What is known of values of the source.
    known: Known,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Graph) -> Builder<'a> {
        let mut out = Graph::new(&source.name);
        out.requires = source.requires.clone();
        let input = |p: &aic_ir::graph::Port| (p.value, out.add_input(&p.name, source.ty(p.value).clone()));
        let values = source.inputs.iter().map(input).collect();
        Builder { source, out, values, known: Known::new() }
    }

    fn copy(&mut self, id: NodeId) -> Result<()> {
        let n: &Node = self.source.node(id);
        let x = n.inputs.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>>>()?;
        let types = n.outputs.iter().map(|v| self.source.ty(*v).clone()).collect();
        let y = self.out.add_typed(n.op.clone(), &x, types, &n.origin);
        self.values.extend(n.outputs.iter().copied().zip(y));
        Ok(())
    }

    fn replace(&mut self, region: &Region, done: &Done) -> Result<()> {
        self.known.extend(region.outputs.iter().copied().zip(done.known.iter().copied()));
        let Some(recipe) = &done.recipe else {
            return region.nodes.iter().try_for_each(|id| self.copy(*id));
        };
        let (source, values) = (self.source, &mut self.values);
        let built =
            recipe.build(&mut self.out, source, region, &mut |out, v| value(source, values, out, v))?;
        self.values.extend(region.outputs.iter().copied().zip(built));
        Ok(())
    }

    fn value(&mut self, v: ValueId) -> Result<ValueId> {
        value(self.source, &mut self.values, &mut self.out, v)
    }

    fn finish(mut self) -> Result<Graph> {
        for p in &self.source.outputs {
            let v = self.value(p.value)?;
            self.out.add_output(&p.name, v);
        }
        Ok(self.out)
    }
}

/// A value of the source in the new graph; constants are added when they are first needed.
fn value(
    source: &Graph,
    values: &mut BTreeMap<ValueId, ValueId>,
    out: &mut Graph,
    v: ValueId,
) -> Result<ValueId> {
    if let Some(new) = values.get(&v) {
        return Ok(*new);
    }
    let Def::Node(n, _) = source.value(v).def else { bail!("input {v} is missing") };
    let n = source.node(n);
    if source.as_const(v).is_none() {
        bail!("{v} is used before it is made");
    }
    let new = out.add_typed(n.op.clone(), &[], vec![source.ty(v).clone()], &names(std::iter::once(n)))[0];
    values.insert(v, new);
    Ok(new)
}

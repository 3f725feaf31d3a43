//! Equality saturation, bounded by numbers of e-nodes, rounds and applications, never by time.
//!
//! Every round searches all rules, then applies what was found in the order of the rules and of the e-classes. The
//! same e-graph, rules and limits give the same e-graph.

use super::extract::Choice;
use super::lang::{Constant, EGraph, ENode};
use super::offer;
use super::plan::{self, Plan};
use super::rule::Rule;
use super::search::{Lefts, Search};
use crate::runner::Numerics;
use egg::{Id, Language, PatternAst, Subst, Var};
use std::collections::BTreeMap;
use std::fmt;

/// Limits of a saturation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// E-nodes at which it stops.
    pub nodes: usize,
    /// Rounds after which it stops.
    pub rounds: usize,
    /// Matches of a rule that one round looks at.
    pub matches: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 10_000, rounds: 12, matches: 1_000 }
    }
}

impl Limits {
    /// Those of a level of optimisation: the highest one goes four times as far.
    pub fn of_level(level: usize) -> Limits {
        let Limits { nodes, rounds, matches } = Limits::default();
        match level {
            3.. => Limits { nodes: 4 * nodes, rounds: 4 * rounds, matches: 4 * matches },
            _ => Limits::default(),
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {} e-nodes and {} rounds in a region", self.nodes, self.rounds)
    }
}

/// Why a saturation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing new follows from the rules.
    Saturated,
    /// The limit of e-nodes.
    Nodes,
    /// The limit of rounds.
    Rounds,
    /// No fuel is left.
    Fuel,
}

/// What a saturation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub stop: Stop,
    /// Rounds begun.
    pub rounds: usize,
    /// By rule: matches seen and applications that changed something.
    pub rules: BTreeMap<String, Counts>,
    /// Names of the applied rules in order, one for each application.
    pub applied: Vec<String>,
    /// E-nodes that rules made, with the rule that made each first.
    made: Vec<(ENode, String)>,
}

impl Outcome {
    /// How many of the chosen e-nodes each rule made.
    pub fn used(&self, g: &EGraph, choice: &Choice) -> BTreeMap<String, u64> {
        let mut makers: BTreeMap<ENode, &String> = BTreeMap::new();
        for (node, rule) in &self.made {
            makers.entry(node.clone().map_children(|c| g.find(c))).or_insert(rule);
        }
        let mut used = BTreeMap::new();
        for node in choice.values() {
            if let Some(rule) = makers.get(&node.clone().map_children(|c| g.find(c))) {
                *used.entry((*rule).clone()).or_insert(0) += 1;
            }
        }
        used
    }
}

impl Stop {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Stop::Saturated => "saturated",
            Stop::Nodes => "nodes",
            Stop::Rounds => "rounds",
            Stop::Fuel => "fuel",
        }
    }
}

/// How often a rule did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that its left side was found, where that was new.
    pub matches: u64,
    /// Times that it made something equal that wasn't before.
    pub applications: u64,
}

/// The name under which evaluated constants are counted.
pub const FOLD: &str = "fold";

struct Saturation<'a> {
    g: &'a mut EGraph,
    limits: &'a Limits,
    fuel: &'a mut Option<u64>,
    outcome: Outcome,
}

/// Applies rules until nothing changes or a limit is reached. An application that changes the e-graph takes one unit
/// of fuel.
pub fn saturate(g: &mut EGraph, lefts: &Lefts, limits: &Limits, fuel: &mut Option<u64>) -> Outcome {
    let outcome = Outcome {
        stop: Stop::Rounds,
        rounds: 0,
        rules: BTreeMap::new(),
        applied: Vec::new(),
        made: Vec::new(),
    };
    let mut s = Saturation { g, limits, fuel, outcome };
    s.outcome.stop = match s.run(lefts) {
        Some(stop) => stop,
        None => Stop::Rounds,
    };
    s.g.rebuild();
    s.outcome
}

impl Saturation<'_> {
    fn run(&mut self, lefts: &Lefts) -> Option<Stop> {
        if let Some(stop) = self.fold() {
            return Some(stop);
        }
        offer::offer(self.g);
        let mut search = Search::default();
        for _ in 0..self.limits.rounds {
            self.outcome.rounds += 1;
            let before = self.outcome.applied.len();
            search.begin(self.g, lefts);
            if let Some(stop) = self.round(lefts, &search) {
                return Some(stop);
            }
            self.g.rebuild();
            if let Some(stop) = self.fold() {
                return Some(stop);
            }
            if self.outcome.applied.len() == before {
                return Some(Stop::Saturated);
            }
        }
        None
    }

    fn round(&mut self, lefts: &Lefts, search: &Search) -> Option<Stop> {
        let mut found: Vec<(&Rule, &PatternAst<ENode>, Id, Subst)> = Vec::new();
        for of_rule in lefts.all.chunk_by(|a, b| std::ptr::eq(a.rule, b.rule)) {
            let rule = of_rule[0].rule;
            let mut n_matches = 0;
            for left in of_rule {
                for m in search.matches(self.g, left, self.limits.matches - n_matches) {
                    n_matches += m.substs.len();
                    found.extend(m.substs.into_iter().map(|s| (rule, &left.pattern.ast, m.eclass, s)));
                }
            }
            if n_matches > 0 {
                self.outcome.rules.entry(rule.name.clone()).or_default().matches += n_matches as u64;
            }
        }
        for (rule, pattern, class, subst) in found {
            if let Some(stop) = self.exhausted() {
                return Some(stop);
            }
            let before = self.g.nodes().len();
            if apply(self.g, rule, pattern, class, &subst) {
                self.count(&rule.name);
            }
            let new = self.g.nodes()[before..].iter().filter(|n| !n.is_leaf());
            self.outcome.made.extend(new.map(|n| (n.clone(), rule.name.clone())));
        }
        None
    }

    fn exhausted(&self) -> Option<Stop> {
        if *self.fuel == Some(0) {
            return Some(Stop::Fuel);
        }
        (self.g.total_size() >= self.limits.nodes).then_some(Stop::Nodes)
    }

    fn count(&mut self, rule: &str) {
        if let Some(fuel) = &mut self.fuel {
            *fuel -= 1;
        }
        self.outcome.rules.entry(rule.into()).or_default().applications += 1;
        self.outcome.applied.push(rule.into());
    }

    /// Adds the values of operators on constants, until there are no more.
    fn fold(&mut self) -> Option<Stop> {
        loop {
            let mut ids: Vec<Id> = self.g.classes().map(|c| c.id).collect();
            ids.sort_unstable();
            let mut changed = false;
            for id in ids {
                if let Some((node, value)) = foldable(self.g, id) {
                    if let Some(stop) = self.exhausted() {
                        return Some(stop);
                    }
                    let node = self.g.add_uncanonical(node);
                    let value = self.g.add_uncanonical(value);
                    if self.g.union_trusted(node, value, FOLD) {
                        self.count(FOLD);
                        changed = true;
                    }
                }
            }
            self.g.rebuild();
            if !changed {
                return None;
            }
        }
    }
}

/// An operator on constants whose value isn't in its class yet, with the constants as operands; and that value.
fn foldable(g: &mut EGraph, id: Id) -> Option<(ENode, ENode)> {
    let class = &g[id];
    let value = class.data.value.clone()?;
    if class.nodes.iter().any(|n| matches!(n, ENode::Const(_))) {
        return None;
    }
    let nodes = class.nodes.clone();
    let (keyword, children) = nodes.into_iter().find_map(|n| match n {
        ENode::Op(k, c) if c.iter().all(|c| literal(g, *c).is_some()) => Some((k, c)),
        _ => None,
    })?;
    let mut literals = Vec::with_capacity(children.len());
    for c in children {
        let literal = literal(g, c)?;
        literals.push(g.add_uncanonical(literal));
    }
    Some((ENode::op(keyword, literals), ENode::Const(Constant::new(value))))
}

/// The constant or attribute in a class.
fn literal(g: &EGraph, id: Id) -> Option<ENode> {
    g[id].nodes.iter().find(|n| matches!(n, ENode::Const(_) | ENode::Attr(_))).cloned()
}

/// Applies a rule to a match; says whether that made something equal.
fn apply(g: &mut EGraph, rule: &Rule, pattern: &PatternAst<ENode>, class: Id, subst: &Subst) -> bool {
    let numerics = g.analysis.numerics;
    let Some(mut plan) = instance(g, rule, class, subst, numerics) else { return false };
    plan.order(g, subst);
    if g.are_explanations_enabled() {
        return g.union_instantiations(pattern, &plan.pattern(), subst, rule.name.as_str()).1;
    }
    let id = plan.add_to(g, subst);
    g.union(class, id)
}

/// The right side for a match, if the guards hold and it has the type of what was matched.
fn instance(g: &EGraph, rule: &Rule, class: Id, subst: &Subst, numerics: Numerics) -> Option<Plan> {
    let variable = |v: Var| subst.get(v).map(|id| g[*id].data.clone());
    if !plan::guards_hold(&rule.guards, &variable, numerics) {
        return None;
    }
    let plan = Plan::of(&rule.rhs, &variable, numerics)?;
    let (ty, expected) = (plan.root()?.ty()?, g[class].data.ty()?);
    (ty == expected).then_some(plan)
}

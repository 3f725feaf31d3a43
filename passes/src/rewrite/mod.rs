//! Equality saturation: the graph's regions in an e-graph, rules as data, extraction by cost.
//!
//! - [`rule`]: the format of rule files, and rules; [`term`]: their terms; [`rules`] holds them all.
//! - [`guards`], [`functions`]: what rules call by name. Add a function here and a line to its table.
//! - [`driver`]: whole graphs; [`region`]: their parts; [`recipe`]: what becomes of a part; [`stats`]: what was done.
//! - [`facts`]: what is known of an e-class, and so what guards and functions are given.
//! - [`lang`]: e-nodes; [`convert`]: region to e-graph; [`extract`]: the cheapest choice by [`cost`].
//! - [`checker`], [`instance`]: whether the two sides of a rule are equal, by trying.
//! - [`certificate`]: why the result equals the graph, by [`proof`]s of regions; [`check`]: whether that is true.
//! - [`saturate`]: applying rules within limits, to what is there and what [`offer`] adds; [`plan`]: instances of a term with the facts of its parts.

pub mod certificate;
pub mod check;
pub mod checker;
mod control;
pub mod convert;
pub mod cost;
pub mod driver;
pub mod extract;
pub mod facts;
pub mod functions;
pub mod guards;
pub mod instance;
pub mod lang;
pub mod offer;
pub mod plan;
pub mod proof;
pub mod recipe;
pub mod region;
pub mod rule;
pub mod rules;
pub mod saturate;
mod search;
pub mod stats;
pub mod term;

use crate::runner::{Context, Numerics};
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use certificate::Certified;
use driver::Rewriter;
use rule::Rule;
use saturate::Limits;
use std::collections::HashSet;

/// Rewrites a graph with the rules that `cx.numerics` admits.
pub fn run(g: &Graph, cx: &mut Context) -> Result<Graph> {
    let added: Vec<Rule> =
        cx.rules.iter().map(|r| rule::parse(&r.name, &r.text)).collect::<Result<Vec<_>>>()?.concat();
    let without = cx.without.clone();
    let admitted = |r: &&Rule| is_admitted(r, cx.numerics) && !without.contains(&r.name);
    let rules: Vec<&Rule> = rules::all()?.iter().chain(&added).filter(admitted).collect();
    let limits = cx.limits;
    with_rules(g, &rules, &limits, cx)
}

/// Whether a class of numerics admits a rule.
fn is_admitted(rule: &Rule, numerics: Numerics) -> bool {
    rule.class <= numerics
}

/// Rewrites a graph with the given rules.
pub fn with_rules(g: &Graph, rules: &[&Rule], limits: &Limits, cx: &mut Context) -> Result<Graph> {
    let mut rewriter = Rewriter::new(rules, *limits, cx);
    // egg times its work with a clock that takes 10 ms to calibrate; nothing here asks for the time.
    let (clock, _) = quanta::Clock::mock();
    let after = quanta::with_clock(&clock, || rewriter.graph(g, &HashSet::new()))?;
    let after = after.unwrap_or_else(|| g.clone());
    if let Some(certificate) = rewriter.certificate() {
        cx.certificates.push(Certified { before: g.clone(), after: after.clone(), certificate });
    }
    Ok(after)
}

//! Equality saturation: the graph's regions in an e-graph, rules as data, extraction by cost.
//!
//! - [`rule`]: the format of rule files, and rules; [`term`]: their terms; [`rules`] holds them all.
//! - [`guards`], [`functions`]: what rules call by name. Add a function here and a line to its table.
//! - [`facts`]: what is known of an e-class, and so what guards and functions are given.
//! - [`lang`]: e-nodes; [`convert`]: graph to e-graph; [`extract`]: and back.
//! - [`saturate`]: applying rules within limits; [`plan`]: instances of a term with the facts of its parts.

pub mod convert;
pub mod extract;
pub mod facts;
pub mod functions;
pub mod guards;
pub mod lang;
pub mod plan;
pub mod rule;
pub mod rules;
pub mod saturate;
pub mod term;

use crate::runner::{Context, Numerics};
use aic_ir::error::Result;
use aic_ir::graph::{Graph, NodeId, ValueId};
use convert::Converted;
use extract::Emitter;
use rule::Rule;
use saturate::{Limits, Outcome};
use std::collections::HashMap;

/// Rewrites a graph with the rules that `cx.numerics` admits.
pub fn run(g: &Graph, cx: &mut Context) -> Result<Graph> {
    let rules: Vec<&Rule> = rules::all()?.iter().filter(|r| r.class <= cx.numerics).collect();
    Ok(with_rules(g, &rules, cx.numerics, &Limits::default(), &mut cx.fuel)?.0)
}

/// Rewrites a small graph with the given rules.
pub fn with_rules(
    g: &Graph,
    rules: &[&Rule],
    numerics: Numerics,
    limits: &Limits,
    fuel: &mut Option<u64>,
) -> Result<(Graph, Outcome)> {
    let nodes: Vec<NodeId> = g.nodes().map(|(id, _)| id).collect();
    let mut converted: Converted = convert::to_egraph(g, &nodes, numerics, false);
    let outcome = saturate::saturate(&mut converted.egraph, rules, limits, fuel);
    let mut out = Graph::new(&g.name);
    out.requires = g.requires.clone();
    let mut values: Vec<Option<ValueId>> = vec![None; g.n_values()];
    for p in &g.inputs {
        values[p.value.index()] = Some(out.add_input(&p.name, g.ty(p.value).clone()));
    }
    let roots: Vec<_> = g.outputs.iter().filter_map(|p| converted.ids.get(&p.value).copied()).collect();
    let choice = extract::smallest(&converted.egraph, &roots);
    let mut emitter = Emitter {
        source: g,
        converted: &converted,
        choice: &choice,
        values: &mut values,
        names: HashMap::new(),
        built: HashMap::new(),
    };
    for p in &g.outputs {
        let value = match converted.ids.get(&p.value) {
            Some(id) => emitter.value(&mut out, *id)?,
            None => emitter.values[p.value.index()].unwrap_or(p.value),
        };
        out.add_output(&p.name, value);
    }
    Ok((out, outcome))
}

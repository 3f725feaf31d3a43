//! Which rewrites of a pass make a graph wrong.
//!
//! Of rules: the fewest that make it wrong with all others left out. An innocent rule alone never does; one that is
//! only needed for a wrong one to apply, or for its result to be chosen, stands beside it, unless what it makes is a
//! graph that the other one spoils. Of what passes do without rules: the rewrite with which fuel turns right into wrong.

use super::cut::Cut;
use super::probe::{Probe, Stage};
use super::shrink::minimal;
use aic_ir::graph::Graph;
use aic_ir::tensor::Tensor;
use aic_passes::rewrite::{rule, rules};
use aic_passes::runner::{self, Context};
use std::collections::BTreeSet;

/// The rewrites that make the graph wrong; empty where the pass counts none.
pub fn guilty(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Vec<String> {
    if matches!(probe.stage, Stage::Lower) {
        return Vec::new();
    }
    match fewest_rules(probe, graph, inputs) {
        Some(rules) => rules.into_iter().map(|r| format!("rule {r}")).collect(),
        None => last_rewrite(probe, graph, inputs).into_iter().collect(),
    }
}

/// The fewest rules that make the graph wrong; `None` if it is wrong without any.
fn fewest_rules(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Option<Vec<String>> {
    let all = names(probe);
    let is_wrong_with = |kept: &[String]| {
        let without = all.iter().filter(|name| !kept.contains(name)).cloned().collect();
        probe.context().is_ok_and(|cx| {
            let mut cx = Context { without, ..cx };
            probe.wrong_in(graph, inputs, &mut cx).is_some()
        })
    };
    let matter = !all.is_empty() && is_wrong_with(&all) && !is_wrong_with(&[]);
    matter.then(|| minimal(all.clone(), &is_wrong_with))
}

/// What the pass makes of a graph by all but one of the rules at fault, where that is right and is still made wrong.
pub fn past_innocent(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Option<Cut> {
    let Stage::Pass(pass, _) = &probe.stage else { return None };
    let rules = fewest_rules(probe, graph, inputs).filter(|rules| rules.len() > 1)?;
    let all = names(probe);
    rules.iter().find_map(|suspect| {
        let is_kept = |name: &String| name != suspect && rules.contains(name);
        let without = all.iter().filter(|name| !is_kept(name)).cloned().collect();
        let mut cx = Context { without, ..probe.context().ok()? };
        if probe.wrong_in(graph, inputs, &mut cx.clone()).is_some() {
            return None;
        }
        let after = runner::run_watched(graph.clone(), &[pass], &mut cx, true, &mut |_| {}).ok()?;
        let spoiled = after != *graph && probe.wrong(&after, inputs).is_some();
        spoiled.then(|| (after, inputs.to_vec()))
    })
}

/// All rules, built in and added.
fn names(probe: &Probe<'_>) -> Vec<String> {
    let built_in = rules::all().into_iter().flatten().map(|r| r.name.clone());
    let added = probe.compiler.options.rules.iter().filter_map(|r| rule::parse(&r.name, &r.text).ok());
    let mut seen = BTreeSet::new();
    built_in.chain(added.flatten().map(|r| r.name)).filter(|name| seen.insert(name.clone())).collect()
}

/// What the pass did where it makes the graph wrong with this fuel.
fn wrong(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor], fuel: Option<u64>) -> Option<Context> {
    let cx = probe.context().ok()?;
    let mut cx = Context { fuel: fuel.or(cx.fuel), ..cx };
    probe.wrong_in(graph, inputs, &mut cx).map(|_| cx)
}

/// The rewrite with which a graph that was right becomes wrong, by bisection on fuel.
fn last_rewrite(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Option<String> {
    let (mut right, mut wrong_at) = (0, wrong(probe, graph, inputs, None)?.spent);
    if wrong_at == 0 {
        return None;
    }
    while right + 1 < wrong_at {
        let middle = right + (wrong_at - right) / 2;
        match wrong(probe, graph, inputs, Some(middle)) {
            Some(_) => wrong_at = middle,
            None => right = middle,
        }
    }
    wrong(probe, graph, inputs, Some(wrong_at))?.last
}

//! Which rewrites of a pass make a graph wrong.

use super::probe::{Probe, Stage};
use aic_ir::graph::Graph;
use aic_ir::tensor::Tensor;
use aic_passes::runner::Context;

/// More rules than this are not looked for.
const MAX_RULES: usize = 16;

/// The rewrites that make the graph wrong. The last one that fuel allows before it is wrong is one; if it is a rule,
/// and the graph is wrong without that rule too, then so is the last one of the others.
pub fn guilty(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Vec<String> {
    let mut guilty: Vec<String> = Vec::new();
    if matches!(probe.stage, Stage::Lower) {
        return guilty;
    }
    while guilty.len() < MAX_RULES {
        let Some(last) = last_rewrite(probe, graph, inputs, &guilty) else { break };
        if guilty.contains(&last) {
            break;
        }
        guilty.push(last);
    }
    // Of rules each of which was suspected, those are innocent without which it is wrong all the same.
    let mut k = 0;
    while guilty.len() > 1 && k < guilty.len() {
        let others: Vec<String> =
            guilty.iter().enumerate().filter(|(j, _)| *j != k).map(|(_, r)| r.clone()).collect();
        match is_wrong(probe, graph, inputs, &others, None).is_some() {
            true => k += 1,
            false => guilty = others,
        }
    }
    guilty
}

fn context(probe: &Probe<'_>, without: &[String], fuel: Option<u64>) -> Option<Context> {
    let mut cx = probe.context().ok()?;
    cx.without.extend(without.iter().cloned());
    cx.fuel = fuel.or(cx.fuel);
    Some(cx)
}

/// What the pass did where it makes the graph wrong.
fn is_wrong(
    probe: &Probe<'_>,
    graph: &Graph,
    inputs: &[Tensor],
    without: &[String],
    fuel: Option<u64>,
) -> Option<Context> {
    let mut cx = context(probe, without, fuel)?;
    probe.wrong_in(graph, inputs, &mut cx).map(|_| cx)
}

/// The rewrite with which a graph that was right becomes wrong, by bisection on fuel.
fn last_rewrite(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor], without: &[String]) -> Option<String> {
    let (mut right, mut wrong) = (0, is_wrong(probe, graph, inputs, without, None)?.spent);
    if wrong == 0 {
        return None;
    }
    while right + 1 < wrong {
        let middle = right + (wrong - right) / 2;
        match is_wrong(probe, graph, inputs, without, Some(middle)) {
            Some(_) => wrong = middle,
            None => right = middle,
        }
    }
    is_wrong(probe, graph, inputs, without, Some(wrong))?.last
}

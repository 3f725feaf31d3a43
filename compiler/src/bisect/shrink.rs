//! The smallest part of a graph that is still wrong.
//!
//! First by windows of the nodes in order, each half of the one before, since what goes wrong together lies together;
//! then by leaving out ever smaller runs of nodes (delta debugging: Zeller, Hildebrandt, TSE 28, 2002), constants
//! among them, which turn into inputs; then outputs one by one. Where lowering goes wrong, the nodes of the program
//! are tried alone before all that.

use super::cut::{self, Cut};
use super::probe::{Probe, Stage};
use crate::verify::nodes;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, NodeId};
use aic_ir::op::{Fused, Op};
use aic_ir::tensor::Tensor;
use aic_passes::runner;
use std::collections::BTreeSet;

/// Windows of fewer nodes are left to delta debugging.
const SMALL: usize = 12;

/// Cuts a graph down.
///
/// # Errors
/// It can't be interpreted.
pub fn graph(
    probe: &Probe<'_>,
    graph: Graph,
    inputs: Vec<Tensor>,
    tell: &mut dyn FnMut(&str),
) -> Result<Cut> {
    let test = |g: &Graph, x: &[Tensor]| probe.wrong(g, x).is_some();
    match kernel(probe, &graph, &inputs)? {
        Some(alone) => Ok(fewer_outputs(alone, &test)),
        None => smallest((graph, inputs), &test, tell),
    }
}

/// A node whose kernels are wrong without the others, where lowering is what goes wrong: found by compiling the
/// whole once.
fn kernel(probe: &Probe<'_>, graph: &Graph, inputs: &[Tensor]) -> Result<Option<Cut>> {
    let Stage::Lower = probe.stage else { return Ok(None) };
    let Ok(judged) = runner::caught(|| nodes::of_program(graph, probe.compiler, inputs)) else {
        return Ok(None);
    };
    let values = cut::values(graph, inputs)?;
    let wrong = judged.iter().filter(|j| j.comparison.is_wrong());
    let mut alone = wrong.filter_map(|j| cut::cut(graph, &values, &[j.node]));
    Ok(alone.find(|(g, x)| probe.wrong(g, x).is_some()))
}

/// Cuts down the body of a fused group, where lowering such a group is what goes wrong.
///
/// # Errors
/// It can't be interpreted.
pub fn group(probe: &Probe<'_>, whole: Cut, tell: &mut dyn FnMut(&str)) -> Result<Cut> {
    let nodes: Vec<_> = whole.0.nodes().collect();
    let ([(_, node)], Stage::Lower) = (&nodes[..], &probe.stage) else { return Ok(whole) };
    let Op::Fused(f) = &node.op else { return Ok(whole) };
    let operand = |v| whole.0.inputs.iter().position(|p| p.value == v).map(|k| whole.1[k].clone());
    let Some(inputs) = node.inputs.iter().map(|v| operand(*v)).collect::<Option<Vec<_>>>() else {
        return Ok(whole);
    };
    let test = |g: &Graph, x: &[Tensor]| fused(g).is_some_and(|g| probe.wrong(&g, x).is_some());
    let body = (*f.body).clone();
    if !test(&body, &inputs) {
        return Ok(whole);
    }
    let (body, inputs) = smallest((body, inputs), &test, tell)?;
    // A node alone may be wrong without a group around it.
    Ok(match fused(&body) {
        Some(g) if probe.wrong(&body, &inputs).is_none() => (g, inputs),
        _ => (body, inputs),
    })
}

/// A graph of one group with this body.
fn fused(body: &Graph) -> Option<Graph> {
    let mut g = Graph::new(&body.name);
    let x: Vec<_> = body.inputs.iter().map(|p| g.add_input(&p.name, body.ty(p.value).clone())).collect();
    let op = Op::Fused(Fused { body: body.clone().into() });
    let y = g.add(op, &x, &[]).ok()?;
    y.into_iter().zip(&body.outputs).for_each(|(y, p)| g.add_output(&p.name, y));
    Some(g)
}

type Test<'a> = &'a dyn Fn(&Graph, &[Tensor]) -> bool;

fn smallest(whole: Cut, test: Test<'_>, tell: &mut dyn FnMut(&str)) -> Result<Cut> {
    let (graph, inputs) = whole;
    let values = cut::values(&graph, &inputs)?;
    let part = |nodes: &[NodeId]| cut::cut(&graph, &values, nodes);
    let is_wrong = |nodes: &[NodeId]| part(nodes).is_some_and(|(g, x)| test(&g, &x));
    let all: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    // Parts have values between nodes as outputs; where that hides the fault, the whole is the best there is.
    if !is_wrong(&all) {
        return Ok((graph, inputs));
    }
    let mut nodes = all;
    while let Some(window) = window(&graph, &nodes, &is_wrong) {
        nodes = window;
        tell(&format!("{} nodes", nodes.len()));
    }
    let nodes = minimal(nodes, &is_wrong);
    tell(&format!("{} nodes", nodes.len()));
    match part(&nodes) {
        Some(cut) => Ok(fewer_outputs(cut, test)),
        None => Ok((graph, inputs)),
    }
}

/// A window of half the nodes that is wrong, with the constants that it uses.
fn window(graph: &Graph, nodes: &[NodeId], is_wrong: &dyn Fn(&[NodeId]) -> bool) -> Option<Vec<NodeId>> {
    let (constants, others): (Vec<NodeId>, Vec<NodeId>) =
        nodes.iter().partition(|id| matches!(graph.node(**id).op, Op::Const(_)));
    if others.len() < SMALL {
        return None;
    }
    let (half, step) = (others.len().div_ceil(2), others.len().div_ceil(4));
    let windows = (0..=2).map(|k| &others[(k * step).min(others.len() - half)..][..half]);
    let with_constants = |window: &[NodeId]| {
        let used: BTreeSet<_> = window.iter().flat_map(|id| graph.node(*id).inputs.clone()).collect();
        let constants = constants.iter().filter(|id| used.contains(&graph.node(**id).outputs[0]));
        let mut all: Vec<NodeId> = window.iter().chain(constants).copied().collect();
        all.sort();
        all
    };
    windows.map(with_constants).find(|nodes| is_wrong(nodes))
}

/// A part of the items from which no run of items can be left out.
pub fn minimal<T: Clone>(items: Vec<T>, is_wrong: &dyn Fn(&[T]) -> bool) -> Vec<T> {
    let mut items = items;
    let mut size = items.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let before = items.len();
        while at < items.len() {
            let end = (at + size).min(items.len());
            let rest = [&items[..at], &items[end..]].concat();
            match !rest.is_empty() && is_wrong(&rest) {
                true => items = rest,
                false => at = end,
            }
        }
        let again = size == 1 && items.len() < before;
        size = if again { 1 } else { size / 2 };
    }
    items
}

fn fewer_outputs(cut: Cut, test: Test<'_>) -> Cut {
    let mut best = cut;
    let mut k = 0;
    while k < best.0.outputs.len() && best.0.outputs.len() > 1 {
        let kept: Vec<usize> = (0..best.0.outputs.len()).filter(|j| *j != k).collect();
        match cut::with_outputs(&best.0, &best.1, &kept).filter(|(g, x)| test(g, x)) {
            Some(less) => best = less,
            None => k += 1,
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_left_out_of_what_is_left() {
        let is_wrong = |items: &[u32]| [3, 17, 18].iter().all(|k| items.contains(k));
        assert_eq!(minimal((0..40).collect(), &is_wrong), [3, 17, 18]);
        assert_eq!(minimal(vec![7], &|_| true), [7]);
    }
}

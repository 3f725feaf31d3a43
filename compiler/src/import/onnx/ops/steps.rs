//! Recurrences: steps along the first axis of some operands, unrolled or as a loop.

use crate::import::onnx::ctx::Ctx;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::Scan;
use aic_ir::types::Type;

/// The most steps that are unrolled.
const MAX_UNROLLED: i64 = 64;

/// What a recurrence reads.
pub(super) struct Steps {
    /// Values before the first step; those after a step have the same types.
    pub states: Vec<ValueId>,
    /// Operands of which every step gets the element at its position along axis 0.
    pub scanned: Vec<ValueId>,
    /// Operands of which every step gets all.
    pub shared: Vec<ValueId>,
    /// Whether the steps begin at the end.
    pub reverse: bool,
}

/// What a step reads.
pub(super) struct Step<'a> {
    pub states: &'a [ValueId],
    pub elements: &'a [ValueId],
    pub shared: &'a [ValueId],
}

/// The states after the last step, and what each step gives beside its states, stacked along a new axis 0.
///
/// `step` gives the next states and then the rest. It must use no values but those that it is given.
pub(super) fn run(
    c: &mut Ctx,
    steps: Steps,
    step: impl Fn(&mut Ctx, Step) -> Result<(Vec<ValueId>, Vec<ValueId>)>,
) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
    match c.dim(steps.scanned[0], 0).as_const() {
        Some(n @ 1..=MAX_UNROLLED) => unrolled(c, steps, n, step),
        _ => looped(c, steps, step),
    }
}

fn unrolled(
    c: &mut Ctx,
    steps: Steps,
    n: i64,
    step: impl Fn(&mut Ctx, Step) -> Result<(Vec<ValueId>, Vec<ValueId>)>,
) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
    let mut states = steps.states;
    let mut stacked: Vec<Vec<ValueId>> = Vec::new();
    for k in 0..n {
        let at = if steps.reverse { n - 1 - k } else { k };
        let elements = steps.scanned.iter().map(|&x| c.at(x, 0, at)).collect::<Result<Vec<_>>>()?;
        let (next, rest) = step(c, Step { states: &states, elements: &elements, shared: &steps.shared })?;
        states = next;
        stacked.resize(rest.len(), Vec::new());
        for (list, v) in stacked.iter_mut().zip(rest) {
            list.push(c.unsqueeze(v, &[0])?);
        }
    }
    let stack = |mut list: Vec<ValueId>| {
        if steps.reverse {
            list.reverse();
        }
        c.concat(&list, 0)
    };
    let stacked = stacked.into_iter().map(stack).collect::<Result<_>>()?;
    Ok((states, stacked))
}

fn looped(
    c: &mut Ctx,
    steps: Steps,
    step: impl Fn(&mut Ctx, Step) -> Result<(Vec<ValueId>, Vec<ValueId>)>,
) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
    let (n_states, n_scanned) = (steps.states.len(), steps.scanned.len());
    let operands = [&steps.states[..], &steps.scanned, &steps.shared].concat();
    let mut types: Vec<Type> = operands.iter().map(|&v| c.ty(v).clone()).collect();
    for ty in &mut types[n_states..n_states + n_scanned] {
        ty.dims.remove(0);
    }
    let body = closed(c, &types, |c, inputs| {
        let (states, rest) = inputs.split_at(n_states);
        let (elements, shared) = rest.split_at(n_scanned);
        let (mut results, rest) = step(c, Step { states, elements, shared })?;
        results.extend(rest);
        Ok(results)
    })?;
    let n_stacked = body.outputs.len() - n_states;
    let op = Scan {
        body: body.into(),
        states: n_states,
        scanned: n_scanned,
        input_axes: vec![0; n_scanned],
        input_reverse: vec![steps.reverse; n_scanned],
        output_axes: vec![0; n_stacked],
        output_reverse: vec![steps.reverse; n_stacked],
    };
    let mut states = c.add_all(op, &operands)?;
    let stacked = states.split_off(n_states);
    Ok((states, stacked))
}

/// A graph with inputs of the given types and the results that `f` computes of nothing but these.
fn closed(
    c: &mut Ctx,
    types: &[Type],
    f: impl FnOnce(&mut Ctx, &[ValueId]) -> Result<Vec<ValueId>>,
) -> Result<Graph> {
    let outer = std::mem::take(&mut c.body);
    c.outer.push(outer);
    let inputs: Vec<ValueId> = types.iter().map(|ty| c.body.graph.add_input("", ty.clone())).collect();
    let results = f(c, &inputs);
    let outer = c.outer.pop().unwrap_or_default();
    let mut graph = std::mem::replace(&mut c.body, outer).graph;
    results?.into_iter().for_each(|v| graph.add_output("", v));
    Ok(graph)
}

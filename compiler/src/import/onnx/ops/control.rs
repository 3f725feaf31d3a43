//! Control flow: `If`, `Loop` and `Scan`.
//!
//! Bodies become closed graphs: what they use of the graphs around them is passed to them, and so is some value that
//! has each symbol of theirs as an extent. A branch whose condition is known when compiling is taken without an
//! operator. A loop whose body needs to know more when compiling than it does as a graph (a shape that depends on the
//! iteration, a sequence that grows) is unrolled, if its trips are known.

use crate::import::onnx::ctx::{Ctx, Item, Outputs};
use crate::import::onnx::know;
use crate::import::onnx::model::Built;
use crate::import::onnx::table::{Operator, op};
use crate::import::proto::GraphProto;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::{If, Loop, Reshape, Scan};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

pub(super) const OPERATORS: &[Operator] =
    &[op("If", 1, branch), op("Loop", 1, repeat), op("Scan", 8, scan_batch).until(8), op("Scan", 9, scan)];

/// The most iterations of a loop that is unrolled.
const MAX_UNROLLED: i64 = 1024;

/// Results of a node whose body has a node that can't be imported, which has been reported.
pub(super) fn failed() -> Outputs {
    Outputs(vec![Item::Failed])
}

/// A tensor of one element as one of rank 0.
pub(super) fn scalar(c: &mut Ctx, v: ValueId, what: &str) -> Result<ValueId> {
    let one = c.ty(v).numel().is(1);
    ensure!(one, "{what} must be one number, found {}", c.ty(v));
    c.reshape(v, Vec::new())
}

/// The value of a constant of one element that doesn't rest on what is known of the model's inputs.
fn settled(c: &mut Ctx, v: ValueId) -> Option<Scalar> {
    let relied = c.relied.clone();
    let value = c.constant_scalar(v);
    if c.relied == relied {
        return value;
    }
    c.relied = relied;
    None
}

fn branch(c: &mut Ctx) -> Result<Outputs> {
    let cond = c.input(0)?;
    let (then, other) = (c.graph_attribute("then_branch")?, c.graph_attribute("else_branch")?);
    let taken = |cond: Scalar| if cond.as_bool() { then } else { other };
    if let Some(cond) = settled(c, cond) {
        return Ok(Outputs(c.inline(taken(cond), Vec::new())?));
    }
    let before = c.reported();
    let results = both_branches(c, cond, then, other);
    match results {
        Ok(Some(values)) => Ok(values.into()),
        results => match c.constant_scalar(cond) {
            Some(cond) => {
                c.retract(before);
                Ok(Outputs(c.inline(taken(cond), Vec::new())?))
            }
            None => results.map(|_| failed()),
        },
    }
}

fn both_branches<'m>(
    c: &mut Ctx<'m>,
    cond: ValueId,
    then: &'m GraphProto,
    other: &'m GraphProto,
) -> Result<Option<Vec<ValueId>>> {
    let cond = scalar(c, cond, "the condition")?;
    let Some(then) = build(c, then, &[], &[])? else { return Ok(None) };
    let Some(other) = build(c, other, &[], &then.captures)? else { return Ok(None) };
    let (mut then_graph, mut other_graph) =
        (finished(then.graph, &then.outputs), finished(other.graph, &other.outputs));
    // What one takes, the other takes too.
    for &v in &other.captures[then.captures.len()..] {
        then_graph.add_input("", c.ty(v).clone());
    }
    let mut captures = other.captures;
    close(c, &mut [&mut then_graph, &mut other_graph], &mut captures)?;
    let fresh = Dim::sym(&c.fresh("branch"));
    let op = If { then: then_graph.into(), other: other_graph.into(), fresh };
    let inputs: Vec<ValueId> = [cond].into_iter().chain(captures).collect();
    c.add_all(op, &inputs).map(Some)
}

/// Builds the graph of a body. What its nodes require is required where it is run only.
fn build<'m>(
    c: &mut Ctx<'m>,
    body: &'m GraphProto,
    inputs: &[Type],
    captures: &[ValueId],
) -> Result<Option<Built>> {
    let outside = std::mem::take(&mut c.requires);
    let built = c.build_body(body, inputs, captures);
    let within = std::mem::replace(&mut c.requires, outside);
    let mut built = built?;
    if let Some(built) = &mut built {
        built.graph.requires.extend(within);
    }
    Ok(built)
}

/// The body with its results declared as outputs.
fn finished(mut graph: Graph, outputs: &[ValueId]) -> Graph {
    outputs.iter().for_each(|&v| graph.add_output("", v));
    graph
}

/// Passes bodies some value for every symbol that they use and that none of their inputs has as an extent. The inputs
/// after those of their own are the captured values.
fn close(c: &mut Ctx, bodies: &mut [&mut Graph], captures: &mut Vec<ValueId>) -> Result<()> {
    loop {
        let mut missing = BTreeSet::new();
        for body in bodies.iter() {
            let used = RefCell::new(BTreeSet::new());
            let _ = body.subst(&|s| {
                used.borrow_mut().insert(s.clone());
                None
            });
            let mut used = used.into_inner();
            body.input_symbols().iter().for_each(|(s, ..)| {
                used.remove(s);
            });
            missing.append(&mut used);
        }
        let n = captures.len();
        for s in &missing {
            if let Some(v) = value_with_extent(c, s)?.filter(|v| !captures.contains(v)) {
                let ty = c.ty(v).clone();
                bodies.iter_mut().for_each(|body| {
                    body.add_input("", ty.clone());
                });
                captures.push(v);
            }
        }
        if captures.len() == n {
            return Ok(());
        }
    }
}

/// A value, of the graph being built or one around it, an extent of which is a symbol.
fn value_with_extent(c: &mut Ctx, s: &Sym) -> Result<Option<ValueId>> {
    let in_graph = |graph: &Graph| {
        let mut values = (0..graph.n_values() as u32).map(ValueId);
        values.find(|&v| graph.ty(v).dims.iter().any(|d| d.as_sym() == Some(s)))
    };
    if let Some(v) = in_graph(&c.body.graph) {
        return Ok(Some(v));
    }
    for depth in (0..c.outer.len()).rev() {
        if let Some(v) = in_graph(&c.outer[depth].graph) {
            let here = c.bring(&Item::Tensor(v), depth)?;
            return c.tensor_of(&here).map(Some);
        }
    }
    Ok(None)
}

/// Types of a body's inputs, around those of the states.
struct Passed {
    before: Vec<Type>,
    states: Vec<Type>,
    after: Vec<Type>,
}

/// Builds the body of a loop whose states come after `n_before` other results. An extent of a state that changes from
/// one iteration to the next becomes a symbol of its own.
fn build_stable<'m>(
    c: &mut Ctx<'m>,
    body: &'m GraphProto,
    mut passed: Passed,
    n_before: usize,
) -> Result<Option<Built>> {
    let mut varying: HashSet<Dim> = HashSet::new();
    loop {
        let before = c.reported();
        let inputs: Vec<Type> = [&passed.before[..], &passed.states, &passed.after].concat();
        let Some(built) = build(c, body, &inputs, &[])? else { return Ok(None) };
        let n = n_before + passed.states.len();
        ensure!(
            built.outputs.len() >= n,
            "the body `{}` must have {n} outputs or more, found {}",
            body.name(),
            built.outputs.len()
        );
        let mut changed = false;
        for (k, state) in passed.states.iter_mut().enumerate() {
            let after = built.graph.ty(built.outputs[n_before + k]);
            ensure!(
                state.dtype == after.dtype && state.rank() == after.rank(),
                "the state {k} of the loop is {state} at first and becomes {after}"
            );
            for (axis, d) in state.dims.iter_mut().enumerate() {
                if *d != after.dims[axis] && !varying.contains(d) {
                    *d = Dim::sym(&c.symbols.fresh(&format!("state_{k}_{axis}")));
                    varying.insert(d.clone());
                    changed = true;
                }
            }
        }
        if !changed {
            return Ok(Some(built));
        }
        c.retract(before);
    }
}

fn repeat(c: &mut Ctx) -> Result<Outputs> {
    let body = c.graph_attribute("body")?;
    ensure!(c.n_inputs() >= 2, "expected two inputs or more, found {}", c.n_inputs());
    let before = c.reported();
    let looped = loop_of_tensors(c, body);
    if let Ok(Some(values)) = looped {
        return Ok(values.into());
    }
    match known_start(c)? {
        Some((trips, cond)) => {
            c.retract(before);
            unrolled(c, body, trips, cond)
        }
        None => looped.map(|_| failed()),
    }
}

/// The trip count and the first condition, where both are known.
fn known_start(c: &mut Ctx) -> Result<Option<(i64, bool)>> {
    let mut one = |k: usize, default: i64| -> Result<Option<i64>> {
        Ok(match c.optional(k)? {
            Some(v) => c.constant_scalar(v).map(Scalar::as_i64),
            None => Some(default),
        })
    };
    Ok(one(0, i64::MAX)?.zip(one(1, 1)?).map(|(trips, cond)| (trips, cond != 0)))
}

fn loop_of_tensors<'m>(c: &mut Ctx<'m>, body: &'m GraphProto) -> Result<Option<Vec<ValueId>>> {
    let states: Vec<ValueId> = (2..c.n_inputs()).map(|k| c.input(k)).collect::<Result<_>>()?;
    let trip = match c.optional(0)? {
        Some(trip) => scalar(c, trip, "the trip count")?,
        None => c.tensor(Tensor::scalar(DType::I64, Scalar::I(i64::MAX))),
    };
    let cond = match c.optional(1)? {
        Some(cond) => scalar(c, cond, "the condition")?,
        None => c.tensor(Tensor::scalar(DType::Bool, Scalar::B(true))),
    };
    let passed = Passed {
        before: vec![Type::of(DType::I64, &[]), Type::of(DType::Bool, &[])],
        states: states.iter().map(|&v| c.ty(v).clone()).collect(),
        after: Vec::new(),
    };
    let Some(mut built) = build_stable(c, body, passed, 1)? else { return Ok(None) };
    let again = built.outputs[0];
    if built.graph.ty(again).rank() > 0 {
        let reshape = Reshape { shape: Vec::new() };
        built.outputs[0] = built.graph.add(reshape.into(), &[again], &c.node.origin)?[0];
    }
    let unconditional = settled(c, cond).is_some_and(Scalar::as_bool)
        && (again == built.graph.inputs[1].value
            || built.graph.as_const(again).is_some_and(|t| t.len() == 1 && t.get(0).as_bool()));
    let count = match trip_count(c, trip).filter(|_| unconditional) {
        Some(count) => count,
        None => Dim::sym(&c.fresh("trips")),
    };
    let mut body = finished(built.graph, &built.outputs);
    close(c, &mut [&mut body], &mut built.captures)?;
    let inputs = [&[trip, cond], &states[..], &built.captures].concat();
    let op = Loop { body: body.into(), states: states.len(), count };
    c.add_all(op, &inputs).map(Some)
}

/// The trip count as an expression, unless it is none or rests on what is known of the model's inputs.
fn trip_count(c: &mut Ctx, trip: ValueId) -> Option<Dim> {
    let relied = c.relied.clone();
    let count = c.dims_of(trip);
    if c.relied != relied {
        c.relied = relied;
        return None;
    }
    match &count?[..] {
        [one] if one.as_const().is_some() => one.as_const().map(|n| n.max(0).into()),
        [one] if know::range(one).lo >= 0 => Some(one.clone()),
        _ => None,
    }
}

/// The body of a loop imported once for each iteration.
fn unrolled<'m>(c: &mut Ctx<'m>, body: &'m GraphProto, trips: i64, mut cond: bool) -> Result<Outputs> {
    let mut states: Vec<Item> =
        (2..c.n_inputs()).map(|k| c.item(k).cloned().unwrap_or(Item::Optional(None))).collect();
    let n = states.len();
    ensure!(
        body.output.len() > n,
        "the body must have {} outputs or more, found {}",
        n + 1,
        body.output.len()
    );
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); body.output.len() - n - 1];
    let mut iteration = 0;
    while cond && iteration < trips {
        ensure!(
            iteration < MAX_UNROLLED,
            "the loop has more than {MAX_UNROLLED} iterations, too many to unroll"
        );
        let number = c.tensor(Tensor::scalar(DType::I64, Scalar::I(iteration)));
        let truth = c.tensor(Tensor::scalar(DType::Bool, Scalar::B(true)));
        let inputs = [Item::Tensor(number), Item::Tensor(truth)].into_iter().chain(states).collect();
        let mut results = c.inline(body, inputs)?;
        if results.contains(&Item::Failed) {
            return Ok(failed());
        }
        for (list, item) in collected.iter_mut().zip(results.split_off(n + 1)) {
            let element = c.tensor_of(&item)?;
            list.push(c.unsqueeze(element, &[0])?);
        }
        states = results.split_off(1);
        let again = c.tensor_of(&results[0])?;
        let what = "the condition of a loop that must be unrolled";
        cond = c.need_constant(again, what)?.scalars().all(Scalar::as_bool);
        iteration += 1;
    }
    for list in collected {
        ensure!(!list.is_empty(), "the loop has no iteration, so that the shape of its elements is unknown");
        states.push(Item::Tensor(c.concat(&list, 0)?));
    }
    Ok(Outputs(states))
}

/// What the attributes of a `Scan` say of one kind of its operands.
struct Walk {
    axes: Vec<usize>,
    reverse: Vec<bool>,
}

impl Walk {
    fn new(c: &Ctx, axes: &str, directions: &str, ranks: &[usize]) -> Result<Walk> {
        let n = ranks.len();
        let list = |name: &str| -> Result<Vec<i64>> {
            let list = c.ints(name)?.unwrap_or_else(|| vec![0; n]);
            ensure!(list.len() == n, "the attribute `{name}` must have {n} entries, found {}", list.len());
            Ok(list)
        };
        let axes = list(axes)?.into_iter().zip(ranks).map(|(axis, &rank)| c.axis(axis, rank));
        Ok(Walk {
            axes: axes.collect::<Result<_>>()?,
            reverse: list(directions)?.iter().map(|&d| d != 0).collect(),
        })
    }
}

/// The number of operands that a `Scan` walks along, of so many after the states.
fn n_scanned(c: &Ctx, n_inputs: usize) -> Result<usize> {
    let scanned = c.required("num_scan_inputs", c.int("num_scan_inputs")?)?;
    match usize::try_from(scanned) {
        Ok(scanned) if (1..=n_inputs).contains(&scanned) => Ok(scanned),
        _ => bail!("the attribute `num_scan_inputs` must be from 1 to {n_inputs}, found {scanned}"),
    }
}

fn scan(c: &mut Ctx) -> Result<Outputs> {
    let inputs = c.inputs()?;
    let n = inputs.len() - n_scanned(c, inputs.len())?;
    let ranks: Vec<usize> = inputs[n..].iter().map(|&v| c.rank(v)).collect();
    let walk = Walk::new(c, "scan_input_axes", "scan_input_directions", &ranks)?;
    let built = match scan_body(c, &inputs, n, &walk.axes)? {
        Some(built) => built,
        None => return Ok(failed()),
    };
    let ranks: Vec<usize> = built.outputs[n..].iter().map(|&v| built.graph.ty(v).rank() + 1).collect();
    let results = Walk::new(c, "scan_output_axes", "scan_output_directions", &ranks)?;
    Ok(add_scan(c, built, &inputs, n, walk, results)?.into())
}

/// The body of a walk along axes of the inputs from number `n` on; those before are states.
fn scan_body(c: &mut Ctx, inputs: &[ValueId], n: usize, axes: &[usize]) -> Result<Option<Built>> {
    let body = c.graph_attribute("body")?;
    let types: Vec<Type> = inputs.iter().map(|&v| c.ty(v).clone()).collect();
    let mut elements = types[n..].to_vec();
    for (ty, &axis) in elements.iter_mut().zip(axes) {
        ty.dims.remove(axis);
    }
    build_stable(c, body, Passed { before: Vec::new(), states: types[..n].to_vec(), after: elements }, 0)
}

fn add_scan(
    c: &mut Ctx,
    mut built: Built,
    inputs: &[ValueId],
    n: usize,
    walk: Walk,
    results: Walk,
) -> Result<Vec<ValueId>> {
    let mut body = finished(built.graph, &built.outputs);
    close(c, &mut [&mut body], &mut built.captures)?;
    let operands = [inputs, &built.captures].concat();
    let op = Scan {
        body: body.into(),
        states: n,
        scanned: inputs.len() - n,
        input_axes: walk.axes,
        input_reverse: walk.reverse,
        output_axes: results.axes,
        output_reverse: results.reverse,
    };
    c.add_all(op, &operands)
}

/// `Scan` of version 8: all operands and results have a batch axis before all others.
fn scan_batch(c: &mut Ctx) -> Result<Outputs> {
    ensure!(c.optional(0)?.is_none(), "the input `sequence_lens` is not supported");
    let all: Vec<ValueId> = (1..c.n_inputs()).map(|k| c.input(k)).collect::<Result<_>>()?;
    let scanned = n_scanned(c, all.len())?;
    let n = all.len() - scanned;
    let batch = c.size(all[n], 0)?;
    ensure!((1..=MAX_UNROLLED as usize).contains(&batch), "a batch of {batch} is not supported");
    let directions = c.ints("directions")?.unwrap_or_else(|| vec![0; scanned]);
    ensure!(directions.len() == scanned, "the attribute `directions` must have {scanned} entries");
    let mut results: Vec<Vec<ValueId>> = Vec::new();
    for b in 0..batch {
        let inputs = all.iter().map(|&v| c.at(v, 0, b)).collect::<Result<Vec<_>>>()?;
        let walk = Walk { axes: vec![0; scanned], reverse: directions.iter().map(|&d| d != 0).collect() };
        let Some(built) = scan_body(c, &inputs, n, &walk.axes)? else { return Ok(failed()) };
        let n_collected = built.outputs.len() - n;
        let collected = Walk { axes: vec![0; n_collected], reverse: vec![false; n_collected] };
        let values = add_scan(c, built, &inputs, n, walk, collected)?;
        results.resize(values.len(), Vec::new());
        for (list, v) in results.iter_mut().zip(values) {
            list.push(c.unsqueeze(v, &[0])?);
        }
    }
    let stacked = results.iter().map(|list| c.concat(list, 0)).collect::<Result<Vec<_>>>()?;
    Ok(stacked.into())
}

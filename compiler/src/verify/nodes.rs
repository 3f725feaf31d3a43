//! Inside of a program: where results begin to differ.
//!
//! [`of_graph`] makes every value of the imported graph an output, so that each source node is judged; passes then
//! merge less than they do without. [`of_program`] leaves the optimised graph as it is, makes an output of every value
//! between its kernels, and judges each node by what the interpreter makes of the compiled operands: a wrong one
//! doesn't spoil those after it.

use super::Compiler;
use super::compare::{self, Comparison};
use super::inputs::Case;
use super::reference::reference;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Graph, Node, NodeId, ValueId};
use aic_ir::op::Op;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;

/// A node that was judged.
pub struct Judged {
    /// The node, of the graph that was compiled.
    pub node: NodeId,
    /// Its worst result.
    pub comparison: Comparison,
}

/// A node by its source names and its operator.
pub fn title(n: &Node) -> String {
    match n.origin.is_empty() {
        true => n.op.keyword().to_owned(),
        false => format!("{} ({})", n.origin.join(", "), n.op.keyword()),
    }
}

/// Compares every value of the graph before the passes, in order. The case must hold what they should be.
///
/// # Errors
/// The graph can't be compiled.
pub fn of_graph(graph: &Graph, compiler: &Compiler<'_>, case: &Case) -> Result<Vec<Judged>> {
    let (all, values) = with_all_outputs(graph);
    let found = compiler.load(compiler.optimise(all)?)?(&case.inputs)?;
    let found: HashMap<ValueId, Tensor> = values.into_iter().zip(found).collect();
    let mut judged = Vec::new();
    for (id, n) in graph.nodes() {
        let pairs = n.outputs.iter().filter_map(|v| case.values.get(v).zip(found.get(v)));
        let comparisons = pairs.map(|(want, got)| compare::compare(&title(n), want, got));
        judged.extend(worst(comparisons).map(|comparison| Judged { node: id, comparison }));
    }
    Ok(judged)
}

/// Compares every node of the graph after the passes, given its compiled operands, in order.
///
/// # Errors
/// The graph can't be compiled, or a node isn't defined on what was computed for its operands.
pub fn of_program(optimised: &Graph, compiler: &Compiler<'_>, inputs: &[Tensor]) -> Result<Vec<Judged>> {
    let (all, values) = with_all_outputs(optimised);
    let found = compiler.load(all)?(inputs)?;
    let mut values: HashMap<ValueId, Tensor> = values.into_iter().zip(found).collect();
    values.extend(optimised.inputs.iter().map(|p| p.value).zip(inputs.iter().cloned()));
    let mut symbols = eval::bind_symbols(optimised, inputs)?;
    let mut judged = Vec::new();
    for (id, n) in optimised.nodes() {
        if let Op::Const(c) = &n.op {
            values.insert(n.outputs[0], c.value.clone());
            continue;
        }
        for (v, t) in n.outputs.iter().filter_map(|v| Some((v, values.get(v)?))) {
            let dims = optimised.ty(*v).dims.iter().zip(t.shape());
            let defined = dims.filter_map(|(d, n)| Some((d.as_sym()?.clone(), *n as i64)));
            defined.for_each(|(s, n)| {
                symbols.entry(s).or_insert(n);
            });
        }
        let operands: Vec<Tensor> = n.inputs.iter().filter_map(|v| values.get(v).cloned()).collect();
        let op = n.op.subst(&|s| symbols.get(s).map(|&v| Dim::from(v)));
        let alone = alone(&op, &operands)?;
        let expected = reference(&alone, &operands, compiler.options.numerics, 0, false)
            .map_err(|e| e.context(title(n)))?
            .outputs;
        let pairs = expected.iter().zip(&n.outputs).filter_map(|(want, v)| Some((want, values.get(v)?)));
        let comparisons = pairs.map(|(want, got)| compare::compare(&title(n), want, got));
        judged.extend(worst(comparisons).map(|comparison| Judged { node: id, comparison }));
    }
    Ok(judged)
}

/// A graph of an operator alone, on operands of these types; of a group its body.
pub fn alone(op: &Op, operands: &[Tensor]) -> Result<Graph> {
    if let Some(body) = group(op) {
        return Ok(body);
    }
    let mut g = Graph::new("");
    let x: Vec<ValueId> = operands.iter().map(|t| g.add_input("", Type::of(t.dtype(), t.shape()))).collect();
    for y in g.add(op.clone(), &x, &[])? {
        g.add_output("", y);
    }
    Ok(g)
}

/// The body of a fused group.
pub fn group(op: &Op) -> Option<Graph> {
    match op {
        Op::Fused(f) => Some((*f.body).clone()),
        _ => None,
    }
}

fn worst(comparisons: impl Iterator<Item = Comparison>) -> Option<Comparison> {
    let key = |c: &Comparison| if c.error.is_some() { f64::INFINITY } else { c.ratio };
    comparisons.max_by(|a, b| key(a).total_cmp(&key(b)))
}

/// The graph with every result of a node that is no constant as an output, and which these are.
pub fn with_all_outputs(graph: &Graph) -> (Graph, Vec<ValueId>) {
    let mut all = graph.clone();
    all.outputs.clear();
    let nodes = graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_)));
    let values: Vec<ValueId> = nodes.flat_map(|(_, n)| n.outputs.clone()).collect();
    values.iter().for_each(|v| all.add_output("", *v));
    (all, values)
}

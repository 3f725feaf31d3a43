//! Parts of a graph whose values are all known.

use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Graph, NodeId, ValueId};
use aic_ir::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};

/// A graph and inputs for it.
pub type Cut = (Graph, Vec<Tensor>);

/// Every value of a graph on these inputs.
///
/// # Errors
/// It isn't defined on them.
pub fn values(graph: &Graph, inputs: &[Tensor]) -> Result<HashMap<ValueId, Tensor>> {
    let mut values: HashMap<ValueId, Tensor> =
        graph.inputs.iter().map(|p| p.value).zip(inputs.iter().cloned()).collect();
    eval::graph_with(graph, inputs, &mut |id, results| {
        values.extend(graph.node(id).outputs.iter().copied().zip(results.iter().cloned()));
    })?;
    Ok(values)
}

/// The graph of these nodes, in order. What they need of others is an input; what others, or nobody, need of them is
/// an output.
pub fn cut(graph: &Graph, values: &HashMap<ValueId, Tensor>, nodes: &[NodeId]) -> Option<Cut> {
    let kept: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let mut out = Graph::new(&graph.name);
    let mut inputs = Vec::new();
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    let made: BTreeSet<ValueId> = nodes.iter().flat_map(|id| graph.node(*id).outputs.clone()).collect();
    for v in nodes.iter().flat_map(|id| &graph.node(*id).inputs).filter(|v| !made.contains(v)) {
        if !map.contains_key(v) {
            inputs.push(values.get(v)?.clone());
            let name = format!("x{}", out.inputs.len());
            map.insert(*v, out.add_input(&name, graph.ty(*v).clone()));
        }
    }
    out.requires = graph.requires.clone();
    for id in nodes {
        let n = graph.node(*id);
        let x: Option<Vec<ValueId>> = n.inputs.iter().map(|v| map.get(v).copied()).collect();
        let types = n.outputs.iter().map(|v| graph.ty(*v).clone()).collect();
        let y = out.add_typed(n.op.clone(), &x?, types, &n.origin);
        map.extend(n.outputs.iter().copied().zip(y));
    }
    let is_needed = needed(graph, &kept);
    for v in made.iter().filter(|v| is_needed(v)) {
        let name = format!("y{}", out.outputs.len());
        out.add_output(&name, *map.get(v)?);
    }
    Some((out, inputs))
}

/// Whether a value of a kept node is one of the graph's outputs, is used by others, or by nobody.
fn needed<'a>(graph: &'a Graph, kept: &BTreeSet<NodeId>) -> impl Fn(&ValueId) -> bool + 'a {
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for (id, n) in graph.nodes() {
        let used = if kept.contains(&id) { &mut inside } else { &mut outside };
        used.extend(n.inputs.iter().copied());
    }
    outside.extend(graph.outputs.iter().map(|p| p.value));
    move |v| outside.contains(v) || !inside.contains(v)
}

/// The graph without some of its outputs, and without the nodes and inputs that only they need.
pub fn with_outputs(graph: &Graph, inputs: &[Tensor], outputs: &[usize]) -> Option<Cut> {
    let mut live: BTreeSet<ValueId> = outputs.iter().map(|k| graph.outputs[*k].value).collect();
    let mut nodes = Vec::new();
    for (id, n) in graph.nodes().rev() {
        if n.outputs.iter().any(|v| live.contains(v)) {
            live.extend(n.inputs.iter().copied());
            nodes.push(id);
        }
    }
    nodes.reverse();
    let mut part = graph.clone();
    part.outputs = outputs.iter().map(|k| graph.outputs[*k].clone()).collect();
    let known = graph.inputs.iter().map(|p| p.value).zip(inputs.iter().cloned()).collect();
    cut(&part, &known, &nodes)
}

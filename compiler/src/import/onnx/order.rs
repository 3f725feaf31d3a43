//! The order of a graph's nodes, and what every name in it refers to.
//!
//! ONNX asks for nodes in topological order; any acyclic order is accepted here. Names are checked for the whole
//! model before anything is imported, so that the importer can rely on them.

use crate::import::proto::{GraphProto, NodeProto};
use aic_ir::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// The name by which messages call a node.
pub(super) fn node_name(node: &NodeProto) -> &str {
    let unnamed = || node.output.iter().find(|name| !name.is_empty()).map_or(node.op_type(), |name| name);
    match node.name() {
        "" => unnamed(),
        name => name,
    }
}

/// The bodies among a node's attributes.
pub(super) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// The names that a graph defines apart from those of its nodes: inputs and initializers.
fn given(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|i| i.name());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|t| t.name());
    inputs.chain(graph.initializer.iter().map(|t| t.name())).chain(sparse)
}

/// Names visible at some point: a graph's own and those around it.
struct Names<'a> {
    own: HashSet<&'a str>,
    outer: Option<&'a Names<'a>>,
}

impl Names<'_> {
    fn contains(&self, name: &str) -> bool {
        self.own.contains(name) || self.outer.is_some_and(|outer| outer.contains(name))
    }
}

/// Checks that every name in a graph and its bodies is defined, and once only.
pub(super) fn check_names(graph: &GraphProto) -> Result<()> {
    check_within(graph, None)
}

fn check_within(graph: &GraphProto, outer: Option<&Names<'_>>) -> Result<()> {
    let mut inputs = HashSet::new();
    if let Some(again) = graph.input.iter().find(|i| !i.name().is_empty() && !inputs.insert(i.name())) {
        return Err(Error::new(format!("the input `{}` is declared more than once", again.name())));
    }
    let mut own: HashSet<&str> = given(graph).filter(|name| !name.is_empty()).collect();
    for node in &graph.node {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if !own.insert(name) {
                let error = Error::new(format!("`{name}` is defined more than once"));
                return Err(error.node(node_name(node)));
            }
        }
    }
    let names = Names { own, outer };
    for node in &graph.node {
        if let Some(name) = node.input.iter().find(|name| !name.is_empty() && !names.contains(name)) {
            let error = Error::new(format!(
                "the input `{name}` is neither an input of the model nor the result of a node"
            ));
            return Err(error.node(node_name(node)).help("the model may be truncated or wrongly edited"));
        }
        for body in bodies(node) {
            check_within(body, Some(&names)).map_err(|e| e.node(node_name(node)))?;
        }
    }
    if let Some(output) = graph.output.iter().find(|o| !names.contains(o.name())) {
        let of = if outer.is_some() { "of a body " } else { "" };
        return Err(Error::new(format!("the output `{}` {of}is not the result of any node", output.name())));
    }
    Ok(())
}

/// Positions of the nodes of a graph or function, operands first; in the order of the file where that is possible.
pub(super) fn order(nodes: &[NodeProto]) -> Result<Vec<usize>> {
    let mut producer = HashMap::new();
    for (k, node) in nodes.iter().enumerate() {
        producer.extend(node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), k)));
    }
    let mut users = vec![Vec::new(); nodes.len()];
    let mut waits_for = vec![0usize; nodes.len()];
    for (k, node) in nodes.iter().enumerate() {
        let mut operands = HashSet::new();
        visit_uses(node, &mut |name| {
            operands.extend(producer.get(name).copied());
        });
        waits_for[k] = operands.len();
        operands.into_iter().for_each(|p| users[p].push(k));
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&k| waits_for[k] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(k)) = ready.pop() {
        order.push(k);
        for &user in &users[k] {
            waits_for[user] -= 1;
            if waits_for[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() < nodes.len() {
        return Err(cycle_error(nodes, &users, &waits_for));
    }
    Ok(order)
}

/// Every name that a node reads, its bodies' free names among them.
fn visit_uses<'a>(node: &'a NodeProto, visit: &mut dyn FnMut(&'a str)) {
    node.input.iter().for_each(|name| visit(name));
    for body in bodies(node) {
        let mut own: HashSet<&str> = given(body).collect();
        own.extend(body.node.iter().flat_map(|inner| &inner.output).map(String::as_str));
        let mut free = |name| {
            if !own.contains(name) {
                visit(name);
            }
        };
        body.node.iter().for_each(|inner| visit_uses(inner, &mut free));
        body.output.iter().for_each(|output| free(output.name()));
    }
}

/// The error that names the nodes of one cycle. Every node that still waits has an operand that still waits.
fn cycle_error(nodes: &[NodeProto], users: &[Vec<usize>], waits_for: &[usize]) -> Error {
    let mut operand = HashMap::new();
    for (k, users) in users.iter().enumerate().filter(|(k, _)| waits_for[*k] > 0) {
        operand.extend(users.iter().map(|&user| (user, k)));
    }
    let mut path = Vec::new();
    let mut at = waits_for.iter().position(|&n| n > 0);
    while let Some(k) = at {
        if let Some(start) = path.iter().position(|&p| p == k) {
            path.drain(..start);
            break;
        }
        path.push(k);
        at = operand.get(&k).copied();
    }
    let names: Vec<&str> = path.iter().rev().map(|&k| node_name(&nodes[k])).collect();
    let error = Error::new("these nodes form a cycle: each needs the result of the one before it");
    names.iter().fold(error, |error, name| error.node(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::proto::ValueInfoProto;

    fn node(inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            op_type: Some("Sum".into()),
            ..NodeProto::default()
        }
    }

    fn graph(node: Vec<NodeProto>) -> GraphProto {
        let named = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
        GraphProto { node, input: vec![named("x")], output: vec![named("y")], ..GraphProto::default() }
    }

    #[test]
    fn any_acyclic_order_is_sorted() {
        assert_eq!(order(&[node(&["x"], "a"), node(&["a"], "y")]), Ok(vec![0, 1]));
        assert_eq!(order(&[node(&["b", "a"], "y"), node(&["a"], "b"), node(&["x"], "a")]), Ok(vec![2, 1, 0]));
    }

    #[test]
    fn a_cycle_is_named_without_what_leads_to_or_from_it() {
        let nodes = [
            node(&["c"], "y"),
            node(&["x", "c"], "a"),
            node(&["a"], "b"),
            node(&["b"], "c"),
            node(&["x"], "d"),
        ];
        let mut names = order(&nodes).unwrap_err().nodes;
        names.sort();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(order(&[node(&["y"], "y")]).unwrap_err().nodes, ["y"]);
    }

    #[test]
    fn names_are_defined_once_and_before_use() {
        assert_eq!(check_names(&graph(vec![node(&["x", ""], "y")])), Ok(()));
        let twice = check_names(&graph(vec![node(&["x"], "y"), node(&["x"], "y")])).unwrap_err();
        assert_eq!(twice.message, "`y` is defined more than once");
        let input_again = check_names(&graph(vec![node(&["x"], "x"), node(&["x"], "y")])).unwrap_err();
        assert!(input_again.message.contains("`x` is defined more than once"));
        let unknown = check_names(&graph(vec![node(&["z"], "y")])).unwrap_err();
        assert!(unknown.message.contains("`z` is neither") && unknown.nodes == ["y"]);
        let missing = check_names(&graph(vec![node(&["x"], "a")])).unwrap_err();
        assert_eq!(missing.message, "the output `y` is not the result of any node");
    }
}

//! Interprets a graph, node by node.

use crate::dim::{Dim, Sym};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::tensor::Tensor;
use crate::{bail, ensure};
use std::collections::HashMap;

/// Evaluates a graph on concrete inputs. Values are dropped after their last use.
pub fn graph(g: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    graph_with(g, inputs, &mut |_, _| {})
}

/// Evaluates a graph on concrete inputs; `seen` gets each node's results, and may change their elements.
pub fn graph_with(
    g: &Graph,
    inputs: &[Tensor],
    seen: &mut dyn FnMut(NodeId, &mut [Tensor]),
) -> Result<Vec<Tensor>> {
    let mut symbols = bind_symbols(g, inputs)?;
    let mut uses = vec![0usize; g.n_values()];
    for v in g.nodes().flat_map(|(_, n)| &n.inputs).chain(g.outputs.iter().map(|p| &p.value)) {
        uses[v.index()] += 1;
    }
    let mut env: Vec<Option<Tensor>> = vec![None; g.n_values()];
    for (p, t) in g.inputs.iter().zip(inputs) {
        env[p.value.index()] = Some(t.clone());
    }
    for (id, n) in g.nodes() {
        let x: Vec<Tensor> = n.inputs.iter().map(|v| get(&env, *v)).collect::<Result<_>>()?;
        let mut y = node(n, &x, &symbols)?;
        seen(id, &mut y);
        for (v, t) in n.outputs.iter().zip(y) {
            define_symbols(g, *v, &t, &mut symbols).map_err(|e| named(e, n))?;
            env[v.index()] = (uses[v.index()] > 0).then_some(t);
        }
        for v in &n.inputs {
            uses[v.index()] -= 1;
            if uses[v.index()] == 0 {
                env[v.index()] = None;
            }
        }
    }
    g.outputs.iter().map(|p| get(&env, p.value)).collect()
}

/// Evaluates one node on concrete operands, given the values of symbols.
pub fn node(n: &Node, x: &[Tensor], symbols: &HashMap<Sym, i64>) -> Result<Vec<Tensor>> {
    let op = n.op.subst(&|s| symbols.get(s).map(|&v| Dim::from(v)));
    op.eval(x).map_err(|e| named(e.context(n.op.keyword()), n))
}

fn named(e: Error, n: &Node) -> Error {
    n.origin.iter().fold(e, |e, name| e.node(name.as_ref()))
}

fn get(env: &[Option<Tensor>], v: ValueId) -> Result<Tensor> {
    match &env[v.index()] {
        Some(t) => Ok(t.clone()),
        None => bail!("value {v} is used before it is defined"),
    }
}

/// The values that inputs give to the graph's symbols; checks element types and dims against the declared ones.
pub fn bind_symbols(g: &Graph, inputs: &[Tensor]) -> Result<HashMap<Sym, i64>> {
    ensure!(inputs.len() == g.inputs.len(), "expected {} inputs, found {}", g.inputs.len(), inputs.len());
    let mut symbols = HashMap::new();
    for (s, k, axis) in g.input_symbols() {
        if let Some(&d) = inputs[k].shape().get(axis) {
            symbols.insert(s, d as i64);
        }
    }
    for (p, t) in g.inputs.iter().zip(inputs) {
        let ty = g.ty(p.value);
        let dims_fit = ty.rank() == t.rank()
            && ty
                .dims
                .iter()
                .zip(t.shape())
                .all(|(d, &n)| d.eval(&|s| symbols.get(s).copied()) == Some(n as i64));
        ensure!(
            t.dtype() == ty.dtype && dims_fit,
            "input {:?}: expected {ty}, found {}{:?}",
            p.name,
            t.dtype(),
            t.shape()
        );
    }
    for d in &g.requires {
        let holds = d.eval(&|s| symbols.get(s).copied()).is_none_or(|v| v >= 0);
        ensure!(holds, "the inputs' dimensions don't fit the model, which requires {d} >= 0");
    }
    Ok(symbols)
}

/// Symbols that only a node's result gives a value to (the number of non-zero elements, for example).
fn define_symbols(g: &Graph, v: ValueId, t: &Tensor, symbols: &mut HashMap<Sym, i64>) -> Result<()> {
    let ty = g.ty(v);
    ensure!(
        t.dtype() == ty.dtype && t.rank() == ty.rank(),
        "the result was inferred as {ty} but is {}{:?}",
        t.dtype(),
        t.shape()
    );
    for (d, &n) in ty.dims.iter().zip(t.shape()) {
        match d.eval(&|s| symbols.get(s).copied()) {
            Some(m) => {
                ensure!(m == n as i64, "the result was inferred as {ty} but has shape {:?}", t.shape())
            }
            None => {
                if let Some(s) = d.as_sym() {
                    symbols.insert(s.clone(), n as i64);
                }
            }
        }
    }
    Ok(())
}

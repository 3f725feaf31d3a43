//! From a wrong answer to the pass, the rewrite, and the smallest graph that shows it.
//!
//! The pass is the first after which the interpreted graph gives another answer; if there is none it is lowering
//! ([`probe`]). The graph that it was given is cut down to the nodes that it takes ([`cut`], [`shrink`]): every value
//! in it is known, so that any set of nodes is a graph of its own, with what it needs from the others as inputs. On
//! what is left, fuel and the list of rules say which rewrite it is ([`rewrite`]).

mod cut;
mod golden;
mod probe;
mod rewrite;
mod shrink;

pub use golden::golden;

use crate::verify::nodes::title;
use crate::verify::{Case, Comparison, Compiler, compare};
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::op::Op;
use aic_ir::tensor::Tensor;
use aic_passes::runner;
use cut::Cut;
use probe::{Probe, Stage};

/// What makes an answer wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The pass, or `lower`.
    pub pass: String,
    /// The rewrites: rules, or what the pass did to which node. Empty where the pass counts none.
    pub rewrites: Vec<String>,
    /// The smallest graph found that the pass spoils; for `lower`, that its kernels don't compute.
    pub graph: Graph,
    /// Inputs on which it shows.
    pub inputs: Vec<Tensor>,
    /// What is wrong then.
    pub comparison: Comparison,
    /// How many nodes the graph has, those of fused groups each counted.
    pub n_nodes: usize,
}

/// Looks for what makes the compiled graph wrong on a case; `None` if it isn't. `tell` hears how the search goes on.
///
/// # Errors
/// The graph can't be interpreted.
pub fn bisect(
    graph: &Graph,
    compiler: &Compiler<'_>,
    case: &Case,
    tell: &mut dyn FnMut(&str),
) -> Result<Option<Finding>> {
    let Some((stage, before, inputs)) = stage(graph, compiler, case)? else { return Ok(None) };
    let probe = Probe { compiler, stage };
    tell(&format!("pass {}", probe.name()));
    let (before, inputs) = concrete(&probe, before, inputs);
    let cut = shrink::graph(&probe, before, inputs, tell)?;
    let cut = shrink::group(&probe, cut, tell)?;
    let cut = past_innocent_rules(&probe, cut, tell)?;
    let Some(comparison) = probe.wrong(&cut.0, &cut.1) else { return Ok(None) };
    let rewrites = rewrite::guilty(&probe, &cut.0, &cut.1);
    let rewrites = match rewrites.is_empty() {
        true => nodes(&cut.0),
        false => rewrites,
    };
    let n_nodes = n_nodes(&cut.0);
    Ok(Some(Finding {
        pass: probe.name().to_owned(),
        rewrites,
        graph: cut.0,
        inputs: cut.1,
        comparison,
        n_nodes,
    }))
}

/// Where a wrong rule applies only to what other rules make, the graph that these make: as long as that is smaller.
fn past_innocent_rules(probe: &Probe<'_>, cut: Cut, tell: &mut dyn FnMut(&str)) -> Result<Cut> {
    let mut smallest = cut;
    while let Some((graph, inputs)) = rewrite::past_innocent(probe, &smallest.0, &smallest.1) {
        let next = shrink::graph(probe, graph, inputs, tell)?;
        if n_nodes(&next.0) >= n_nodes(&smallest.0) {
            break;
        }
        smallest = next;
    }
    Ok(smallest)
}

/// The stage that makes the answer wrong, what it is given, and the inputs.
fn stage<'a>(
    graph: &Graph,
    compiler: &'a Compiler<'a>,
    case: &Case,
) -> Result<Option<(Stage<'a>, Graph, Vec<Tensor>)>> {
    let inputs = case.inputs.clone();
    let is_wrong = |found: Result<Vec<Tensor>>| match found {
        Ok(found) => {
            case.expected.iter().zip(&found).any(|(want, got)| compare::compare("", want, got).is_wrong())
        }
        Err(_) => true,
    };
    let mut cx = compiler.context()?;
    let mut before = graph.clone();
    for pass in &compiler.passes {
        let fuel = cx.fuel;
        let after = runner::run_watched(before.clone(), &[pass], &mut cx, true, &mut |_| {});
        let Ok(after) = after else { return Ok(Some((Stage::Pass(pass, fuel), before, inputs))) };
        if after != before && is_wrong(runner::caught(|| eval::graph(&after, &inputs))) {
            return Ok(Some((Stage::Pass(pass, fuel), before, inputs)));
        }
        before = after;
    }
    let found = runner::caught(|| compiler.load(before.clone())?(&inputs));
    Ok(is_wrong(found).then_some((Stage::Lower, before, inputs)))
}

/// The graph with its symbols replaced by the values that the inputs give them, if it is wrong then too.
fn concrete(probe: &Probe<'_>, graph: Graph, inputs: Vec<Tensor>) -> (Graph, Vec<Tensor>) {
    let Ok(symbols) = eval::bind_symbols(&graph, &inputs) else { return (graph, inputs) };
    if symbols.is_empty() {
        return (graph, inputs);
    }
    let fixed = graph.subst(&|s| symbols.get(s).map(|&v| Dim::from(v)));
    match probe.wrong(&fixed, &inputs) {
        Some(_) => (fixed, inputs),
        None => (graph, inputs),
    }
}

/// The nodes of a graph, those of fused groups each counted.
fn n_nodes(graph: &Graph) -> usize {
    let of_node = |op: &Op| match op {
        Op::Fused(f) => n_nodes(&f.body),
        _ => 1,
    };
    graph.nodes().map(|(_, n)| of_node(&n.op)).sum()
}

/// The nodes of a graph by name.
fn nodes(graph: &Graph) -> Vec<String> {
    graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_))).map(|(_, n)| title(n)).collect()
}

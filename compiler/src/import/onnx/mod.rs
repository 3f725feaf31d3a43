//! ONNX models become graphs.
//!
//! Every node of the model is decomposed into core operators by one function, named in one line of the tables in
//! [`ops`]. Everything such a function needs is a method of [`ctx::Ctx`]: the node's inputs and attributes, what is
//! known of values when compiling ([`know`]), and short names for the core operators ([`build`]).
//!
//! Invariants: a model that can't be imported is one error that names every node at fault, never the first alone;
//! every node of the graph carries the name of the source node it came from; types are those that the core operators
//! infer, so a wrong type in the model's `value_info` costs a warning, not a wrong answer.

mod build;
mod ctx;
mod know;
mod model;
mod ops;
mod order;
mod ports;
mod scope;
mod symbols;
mod table;
pub(crate) mod types;

#[cfg(test)]
mod tests;

pub use table::Operator;

use crate::import::load::Model;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::tensor::Tensor;
use std::collections::HashMap;
use std::fmt;

/// The newest version of the default operator set whose operators are known.
pub const NEWEST_OPSET: i64 = 28;

/// What is known of a model's inputs when it is compiled.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Values of symbolic dimensions, by the name that the model gives them.
    pub dims: HashMap<String, i64>,
    /// What inputs that are sequences or optional consist of, by name.
    pub structures: HashMap<String, Structure>,
    /// Shapes of inputs, by name. Needed for inputs that the model declares without a rank.
    pub shapes: HashMap<String, Vec<usize>>,
    /// Values of inputs, by name. They may be relied on where a value decides a shape.
    pub known_inputs: HashMap<String, Tensor>,
}

/// What the value of an input or output consists of. In the graph each of its tensors is a port: `x` if the value is a
/// tensor, `x[0]`, `x[1]`, ... if it is a sequence, `x[0][0]` and so on below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Structure {
    /// A tensor.
    Tensor,
    /// A sequence.
    Sequence(Vec<Structure>),
    /// An optional value that isn't there; one that is there is what it holds.
    Absent,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph; inputs that were relied on are still inputs.
    pub graph: Graph,
    /// What the model's outputs consist of; the graph's outputs are their tensors in order.
    pub outputs: Vec<Structure>,
    /// What was odd about the model but did no harm.
    pub warnings: Vec<String>,
    /// Inputs whose known values were relied on: with other values the graph is another one.
    pub specialised: Vec<String>,
}

/// A node that can't be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The node's name, or its first output's where it has none.
    pub node: String,
    /// The operator.
    pub op: String,
    /// The operator's domain; empty for the default one.
    pub domain: String,
    /// The version of the domain's operator set that the model uses.
    pub opset: i64,
    /// What was expected and what was found.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.domain.is_empty() { "" } else { "." };
        write!(f, "{} ({}{dot}{}, opset {}): {}", self.node, self.domain, self.op, self.opset, self.reason)
    }
}

/// Imports a model.
///
/// # Errors
/// The model is malformed (a cycle, an unknown name, a name defined twice), or some of its nodes can't be imported;
/// the error then names all of them.
pub fn import(model: &Model, options: &ImportOptions) -> Result<Imported> {
    let (imported, problems) = model::run(model, options)?;
    if problems.is_empty() { Ok(imported) } else { Err(error_of(&problems)) }
}

/// Every node of a model that can't be imported.
///
/// # Errors
/// The model is malformed; see [`import`].
pub fn check(model: &Model, options: &ImportOptions) -> Result<Vec<Problem>> {
    Ok(model::run(model, options)?.1)
}

/// Every operator that can be imported.
pub fn operators() -> impl Iterator<Item = &'static Operator> {
    ops::FAMILIES.iter().flat_map(|family| family.iter())
}

fn error_of(problems: &[Problem]) -> Error {
    let nodes = problems.iter().map(|p| p.node.clone()).collect();
    if let [only] = problems {
        let dot = if only.domain.is_empty() { "" } else { "." };
        let message = format!("{}{dot}{} (opset {}): {}", only.domain, only.op, only.opset, only.reason);
        return Error { message, nodes, help: None };
    }
    let lines: String = problems.iter().map(|p| format!("\n  {p}")).collect();
    Error { message: format!("{} nodes can't be imported:{lines}", problems.len()), nodes, help: None }
}

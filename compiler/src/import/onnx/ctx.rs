//! What an operator's import function sees: the node's inputs, attributes and version, and the graph being built.
//!
//! The methods here ask; those in [`super::build`] add to the graph, those in [`super::know`] say what is known of
//! values when compiling, those in [`super::model`] import bodies.

use super::ImportOptions;
use super::know::Knowledge;
use super::model::Report;
use super::scope::Scope;
use super::symbols::Symbols;
use super::types;
use crate::import::load::Model;
use crate::import::onnx::Structure;
use crate::import::proto::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, NodeProto, TensorProto,
};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::graph::{Graph, ValueId};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The largest extent that is computed with.
const MAX_SIZE: usize = 1 << 28;

/// What a name of the model stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// A tensor.
    Tensor(ValueId),
    /// A sequence, whose length is known when compiling.
    Sequence(Vec<Item>),
    /// An optional value, of which it is known when compiling whether it is there.
    Optional(Option<Box<Item>>),
    /// The result of a node that can't be imported, and has been reported.
    Failed,
}

/// The results of a node, in the order of its outputs. Those at the end that the node doesn't name may be left out.
pub(super) struct Outputs(pub Vec<Item>);

impl From<ValueId> for Outputs {
    fn from(value: ValueId) -> Outputs {
        Outputs(vec![Item::Tensor(value)])
    }
}

impl From<Item> for Outputs {
    fn from(item: Item) -> Outputs {
        Outputs(vec![item])
    }
}

impl From<Vec<ValueId>> for Outputs {
    fn from(values: Vec<ValueId>) -> Outputs {
        Outputs(values.into_iter().map(Item::Tensor).collect())
    }
}

/// A graph being built, and what is known of its values.
#[derive(Default)]
pub(super) struct Body {
    pub graph: Graph,
    pub know: Knowledge,
    /// Values of the graph around it that are inputs of this one, in the order of those inputs.
    pub captures: Vec<ValueId>,
    /// Values of the graph around it and what they are here.
    pub captured: HashMap<ValueId, ValueId>,
}

impl Body {
    /// The value of the graph around that an input is.
    pub fn outer_value(&self, input: ValueId) -> Option<ValueId> {
        self.captured.iter().find(|(_, here)| **here == input).map(|(outer, _)| *outer)
    }
}

/// The node being imported.
#[derive(Clone)]
pub(super) struct Current<'m> {
    pub proto: &'m NodeProto,
    /// The version of its domain's operator set.
    pub opset: i64,
    pub inputs: Vec<Option<Item>>,
    pub origin: [Arc<str>; 1],
}

/// The state of an import.
pub(super) struct Ctx<'m> {
    pub(super) model: &'m Model,
    pub(super) options: &'m ImportOptions,
    pub(super) functions: HashMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    pub(super) node: Current<'m>,
    pub(super) body: Body,
    /// The graphs around `body`, the outermost first.
    pub(super) outer: Vec<Body>,
    pub(super) scope: Scope<'m>,
    /// The scopes around `scope`, the outermost first.
    pub(super) scopes: Vec<Scope<'m>>,
    pub(super) symbols: Symbols<'m>,
    pub(super) report: Report,
    /// Positions of the model's inputs whose known values were relied on.
    pub(super) relied: BTreeSet<usize>,
    /// Symbols that are extents of the model's inputs.
    pub(super) bound: BTreeSet<Sym>,
    pub(super) requires: BTreeSet<Dim>,
    /// What the model's outputs consist of.
    pub(super) outputs: Vec<Structure>,
    /// Nodes imported so far, those of inlined functions and unrolled loops counted each time.
    pub(super) n_imported: usize,
    /// Random nodes so far; see [`Ctx::next_stream`].
    pub(super) n_streams: i64,
}

/// The node.
impl<'m> Ctx<'m> {
    /// The version of the operator set that the node is of.
    pub fn opset(&self) -> i64 {
        self.node.opset
    }

    /// The number of inputs, absent ones in between included.
    pub fn n_inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// The number of outputs, unnamed ones in between included.
    pub fn n_outputs(&self) -> usize {
        self.node.proto.output.len()
    }

    /// Whether the node has output `k`.
    pub fn wants(&self, k: usize) -> bool {
        self.node.proto.output.get(k).is_some_and(|name| !name.is_empty())
    }

    /// Input `k`, whatever it is.
    pub fn item(&self, k: usize) -> Option<&Item> {
        self.node.inputs.get(k).and_then(Option::as_ref)
    }

    /// Input `k`, a tensor.
    pub fn input(&self, k: usize) -> Result<ValueId> {
        match self.optional(k)? {
            Some(value) => Ok(value),
            None => bail!("input {k} is missing"),
        }
    }

    /// Input `k`, a tensor or absent.
    pub fn optional(&self, k: usize) -> Result<Option<ValueId>> {
        match self.item(k) {
            None | Some(Item::Optional(None)) => Ok(None),
            Some(item) => self.tensor_of(item).map(Some).map_err(|e| e.context(format!("input {k}"))),
        }
    }

    /// All inputs, which must be tensors.
    pub fn inputs(&self) -> Result<Vec<ValueId>> {
        (0..self.n_inputs()).map(|k| self.input(k)).collect()
    }

    /// The tensor that an item is; an optional one must be there.
    pub fn tensor_of(&self, item: &Item) -> Result<ValueId> {
        match item {
            Item::Tensor(value) => Ok(*value),
            Item::Optional(Some(item)) => self.tensor_of(item),
            Item::Optional(None) => bail!("expected a tensor, found an absent optional value"),
            Item::Sequence(_) => bail!("expected a tensor, found a sequence"),
            Item::Failed => bail!("expected a tensor, found the result of a node that can't be imported"),
        }
    }

    /// Refuses attributes that the import function doesn't know, for operators of no fixed specification.
    pub fn only_attributes(&self, known: &[&str]) -> Result<()> {
        match self.node.proto.attribute.iter().find(|a| !known.contains(&a.name())) {
            Some(other) => bail!("the attribute `{}` is not supported", other.name()),
            None => Ok(()),
        }
    }

    fn attribute(&self, name: &str, kind: AttributeType) -> Result<Option<&'m AttributeProto>> {
        let own = self.node.proto.attribute.iter().find(|a| a.name() == name);
        let resolved = match own {
            Some(a) if !a.ref_attr_name().is_empty() => {
                self.scope.frame.attributes.get(a.ref_attr_name()).copied()
            }
            own => own,
        };
        // Messages of the first IR versions don't have the type.
        let Some(found) = resolved.map(|a| a.r#type()) else { return Ok(None) };
        ensure!(
            found == 0 || found == kind as i32,
            "the attribute `{name}` must be of type {kind:?}, found {}",
            AttributeType::try_from(found).map_or_else(|n| n.to_string(), |t| format!("{t:?}"))
        );
        Ok(resolved)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.attribute(name, AttributeType::Int)?.map(|a| a.i()))
    }

    /// An integer attribute with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An integer attribute that is true unless it is 0.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name)?.map_or(default, |i| i != 0))
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.clone()))
    }

    /// A list of extents or counts: not negative, and so small that products of two are exact.
    pub fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some(ints) = self.ints(name)? else { return Ok(None) };
        let size = |&i: &i64| usize::try_from(i).ok().filter(|&i| i <= MAX_SIZE);
        match ints.iter().map(size).collect::<Option<Vec<_>>>() {
            Some(sizes) => Ok(Some(sizes)),
            None => bail!("the attribute `{name}` must be a list of sizes, found {ints:?}"),
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.attribute(name, AttributeType::Float)?.map(|a| a.f().into()))
    }

    /// A float attribute with a default.
    pub fn float_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let floats = self.attribute(name, AttributeType::Floats)?;
        Ok(floats.map(|a| a.floats.iter().map(|&f| f.into()).collect()))
    }

    /// A text attribute.
    pub fn text(&self, name: &str) -> Result<Option<&'m str>> {
        let Some(a) = self.attribute(name, AttributeType::String)? else { return Ok(None) };
        match std::str::from_utf8(a.s.as_deref().unwrap_or_default()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => bail!("the attribute `{name}` is not valid UTF-8"),
        }
    }

    /// A text attribute with a default.
    pub fn text_or(&self, name: &str, default: &'m str) -> Result<&'m str> {
        Ok(self.text(name)?.unwrap_or(default))
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let texts = self.attribute(name, AttributeType::Strings)?;
        Ok(texts.map(|a| a.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()))
    }

    /// A tensor attribute.
    pub fn tensor_attribute(&self, name: &str) -> Result<Option<&'m TensorProto>> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// A body.
    pub fn graph_attribute(&self, name: &str) -> Result<&'m GraphProto> {
        match self.attribute(name, AttributeType::Graph)?.and_then(|a| a.g.as_ref()) {
            Some(graph) => Ok(graph),
            None => bail!("the attribute `{name}`, a graph, is missing"),
        }
    }

    /// Whether the node has an attribute, of any kind.
    pub fn has_attribute(&self, name: &str) -> bool {
        self.node.proto.attribute.iter().any(|a| a.name() == name)
    }

    /// An attribute that is an element type.
    pub fn dtype_attribute(&self, name: &str) -> Result<Option<DType>> {
        match self.int(name)? {
            None => Ok(None),
            Some(number) => types::dtype(number as i32).map(Some),
        }
    }

    /// A required attribute's value, as the other methods give it.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        match value {
            Some(value) => Ok(value),
            None => bail!("the attribute `{name}` is missing"),
        }
    }
}

/// Values.
impl Ctx<'_> {
    /// A value's type.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.body.graph.ty(v)
    }

    /// A value's element type.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.ty(v).dtype
    }

    /// The element type of a value in the model.
    ///
    /// # Errors
    /// The value is a constant of a type that the IR doesn't have, and was widened.
    pub fn own_dtype(&self, v: ValueId) -> Result<DType> {
        match self.body.know.stored(v) {
            Some(stored) => bail!("the element type {} is not supported", stored.name()),
            None => Ok(self.dtype(v)),
        }
    }

    /// A value's extents.
    pub fn dims(&self, v: ValueId) -> Vec<Dim> {
        self.ty(v).dims.clone()
    }

    /// One of a value's extents.
    pub fn dim(&self, v: ValueId, axis: usize) -> Dim {
        self.ty(v).dims.get(axis).cloned().unwrap_or_else(|| 1.into())
    }

    /// A value's number of axes.
    pub fn rank(&self, v: ValueId) -> usize {
        self.ty(v).rank()
    }

    /// One of a value's extents, which must be known when compiling.
    pub fn size(&self, v: ValueId, axis: usize) -> Result<usize> {
        match self.dim(v, axis).as_const().and_then(|d| usize::try_from(d).ok()) {
            Some(size) if size <= MAX_SIZE => Ok(size),
            Some(size) => bail!("dimension {axis} of {} is too large: {size}", self.ty(v)),
            None => {
                let ty = self.ty(v);
                let error = format!("dimension {axis} of {ty} must be a number known when compiling");
                Err(Error::new(error).help("give its value with --dim"))
            }
        }
    }

    /// The value of an integer input, symbolic where it comes from symbolic shapes; `what` says what it is for.
    pub fn need_dims(&mut self, v: ValueId, what: &str) -> Result<Vec<Dim>> {
        match self.dims_of(v) {
            Some(dims) => Ok(dims),
            None => Err(self.unknown(v, what)),
        }
    }

    /// The value of an integer input, as numbers.
    pub fn need_ints(&mut self, v: ValueId, what: &str) -> Result<Vec<i64>> {
        Ok(self.need_constant(v, what)?.to_i64())
    }

    /// The value of an integer input of one element.
    pub fn need_int(&mut self, v: ValueId, what: &str) -> Result<i64> {
        match self.need_ints(v, what)?[..] {
            [one] => Ok(one),
            ref other => bail!("{what} must be one number, found {}", other.len()),
        }
    }

    /// The value of an input.
    pub fn need_constant(&mut self, v: ValueId, what: &str) -> Result<Tensor> {
        match self.constant(v) {
            Some(tensor) => Ok(tensor),
            None => Err(self.unknown(v, what)),
        }
    }

    fn unknown(&self, v: ValueId, what: &str) -> Error {
        let names = self.inputs_behind(v);
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let on = match quoted.is_empty() {
            true => "it is computed when running".to_owned(),
            false => format!("it depends on the input {}", quoted.join(", ")),
        };
        Error::new(format!("{what} must be known when compiling; {on}"))
            .help("give the values of these inputs, or of the dimensions (--dim), when compiling")
    }

    /// A new symbol.
    pub fn fresh(&mut self, stem: &str) -> Sym {
        self.symbols.fresh(stem)
    }

    /// Whether an expression may be taken not to be negative: that is plain, or checked when inputs are given.
    pub fn require(&mut self, dim: Dim) -> bool {
        if dim.is_not_negative() {
            return true;
        }
        let checkable = dim.as_const().is_none() && dim.symbols().is_subset(&self.bound);
        if checkable {
            self.requires.insert(dim);
        }
        checkable
    }

    /// A number that no other random node has, so that equal nodes give different values.
    pub fn next_stream(&mut self) -> i64 {
        self.n_streams += 1;
        self.n_streams
    }
}

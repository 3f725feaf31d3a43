//! Walks through a model: its graph, the functions that its nodes call, and the bodies of its control flow.
//!
//! A node whose import fails is reported and its results are marked as failed; nodes that use those are passed over,
//! all others are still imported, so that one walk finds every problem.

use super::ctx::{Body, Ctx, Current, Item, Outputs};
use super::order::{self, node_name};
use super::scope::{Frame, Scope};
use super::symbols::Symbols;
use super::table::Operator;
use super::{ImportOptions, Imported, NEWEST_OPSET, Problem, types};
use crate::import::load::Model;
use crate::import::proto::{FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, TypeValue};
use aic_ir::dim::Dim;
use aic_ir::error::{Error, Result};
use aic_ir::graph::{Graph, ValueId};
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

/// The most nodes that a model may have when its functions are inlined and its loops unrolled.
const MAX_NODES: usize = 10_000_000;

/// What goes to the user beside the graph.
#[derive(Default)]
pub(super) struct Report {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// A graph built for the body of an operator.
pub(super) struct Built {
    pub graph: Graph,
    /// What the graph's outputs are; they have not been declared as outputs yet.
    pub outputs: Vec<ValueId>,
    /// Values of the graph around it that are inputs of this one, after those asked for.
    pub captures: Vec<ValueId>,
}

static OPERATORS: LazyLock<HashMap<(&str, &str), Vec<&Operator>>> = LazyLock::new(|| {
    let mut table: HashMap<_, Vec<_>> = HashMap::new();
    for op in super::operators() {
        table.entry((op.domain, op.name)).or_default().push(op);
    }
    table
});

static NO_NODE: LazyLock<NodeProto> = LazyLock::new(NodeProto::default);

/// Imports a model as far as possible.
pub(super) fn run(model: &Model, options: &ImportOptions) -> Result<(Imported, Vec<Problem>)> {
    let Some(graph) = &model.proto.graph else { bail!("the model has no graph") };
    order::check_names(graph)?;
    let frame = Frame { opsets: opsets(&model.proto.opset_import), ..Frame::default() };
    let mut ctx = Ctx {
        model,
        options,
        functions: model.proto.functions.iter().map(|f| (function_key(f), f)).collect(),
        node: Current { proto: &NO_NODE, opset: 0, inputs: Vec::new(), origin: ["".into()] },
        body: Body::default(),
        outer: Vec::new(),
        scope: Scope { frame: Rc::new(frame), ..Scope::default() },
        scopes: Vec::new(),
        symbols: Symbols::new(graph, &options.dims),
        report: Report::default(),
        relied: Default::default(),
        bound: Default::default(),
        requires: Default::default(),
        outputs: Vec::new(),
        n_imported: 0,
        n_streams: 0,
    };
    ctx.check_opset();
    ctx.main_graph(graph)?;
    let mut result = ctx.body.graph;
    result.name = graph.name().to_owned();
    let specialised = ctx.relied.iter().map(|&k| result.inputs[k].name.clone()).collect();
    result.requires = ctx.requires.into_iter().collect();
    let warnings = ctx.report.warnings;
    let imported = Imported { graph: result, outputs: ctx.outputs, warnings, specialised };
    Ok((imported, ctx.report.problems))
}

/// Versions by domain; the default domain's is 1 for models from before operator sets.
fn opsets(imports: &[OperatorSetIdProto]) -> HashMap<&str, i64> {
    let mut opsets: HashMap<&str, i64> =
        imports.iter().map(|o| (normal_domain(o.domain()), o.version())).collect();
    if imports.is_empty() {
        opsets.insert("", 1);
    }
    opsets
}

/// The default domain has two names.
fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn function_key(f: &FunctionProto) -> (&str, &str, &str) {
    (normal_domain(f.domain()), f.name(), f.overload())
}

impl<'m> Ctx<'m> {
    fn check_opset(&mut self) {
        let version = self.scope.frame.opsets.get("").copied().unwrap_or(0);
        if version > NEWEST_OPSET {
            self.report.warnings.push(format!(
                "the model uses operator set {version}; operators are taken to be those of {NEWEST_OPSET}, the newest known"
            ));
        }
    }

    fn main_graph(&mut self, graph: &'m GraphProto) -> Result<()> {
        self.open_graph(graph);
        for input in &graph.input {
            if !self.scope.initializers.contains_key(input.name()) {
                self.graph_input(input);
            }
        }
        self.nodes(&graph.node)?;
        for output in &graph.output {
            self.graph_output(output);
        }
        Ok(())
    }

    /// Notes what the scope's graph says of its names.
    fn open_graph(&mut self, graph: &'m GraphProto) {
        self.scope.initializers = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let declared = graph.value_info.iter().chain(&graph.output);
        self.scope.declared = declared.filter_map(|v| Some((v.name(), v.r#type.as_ref()?))).collect();
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            self.scope.names.insert(name, Item::Failed);
            self.problem(name, "initializer", "sparse initializers are not supported");
        }
    }

    pub(super) fn problem(&mut self, node: &str, op: &str, reason: &str) {
        let opset = self.scope.frame.opsets.get("").copied().unwrap_or(0);
        let problem = Problem {
            node: format!("{}{node}", self.scope.frame.prefix),
            op: op.into(),
            domain: String::new(),
            opset,
            reason: reason.into(),
        };
        self.report.problems.push(problem);
    }

    fn nodes(&mut self, nodes: &'m [NodeProto]) -> Result<()> {
        for k in order::order(nodes)? {
            self.n_imported += 1;
            ensure!(
                self.n_imported <= MAX_NODES,
                "the model has more than {MAX_NODES} nodes, functions inlined"
            );
            self.import_node(&nodes[k]);
        }
        Ok(())
    }

    fn import_node(&mut self, proto: &'m NodeProto) {
        let outputs = match self.resolve_inputs(proto) {
            Ok(inputs) if inputs.iter().flatten().any(|item| *item == Item::Failed) => {
                if let Err(error) = self.implementation(proto) {
                    self.report_node(proto, error);
                }
                None
            }
            Ok(inputs) => {
                self.import_resolved(proto, inputs).map_err(|error| self.report_node(proto, error)).ok()
            }
            Err(error) => {
                self.report_node(proto, error);
                None
            }
        };
        let outputs = outputs.map_or(Vec::new(), |Outputs(items)| items);
        let items = outputs.into_iter().chain(std::iter::repeat(Item::Failed));
        for (name, item) in proto.output.iter().zip(items).filter(|(name, _)| !name.is_empty()) {
            self.check_declared(name, &item);
            self.scope.names.insert(name, item);
        }
    }

    fn resolve_inputs(&mut self, proto: &'m NodeProto) -> Result<Vec<Option<Item>>> {
        let resolve = |name: &'m String| if name.is_empty() { Ok(None) } else { self.lookup(name).map(Some) };
        proto.input.iter().map(resolve).collect()
    }

    fn report_node(&mut self, proto: &NodeProto, error: Error) {
        let domain = normal_domain(proto.domain());
        let help = error.help.map_or(String::new(), |help| format!(" ({help})"));
        self.report.problems.push(Problem {
            node: format!("{}{}", self.scope.frame.prefix, node_name(proto)),
            op: proto.op_type().into(),
            domain: domain.into(),
            opset: self.scope.frame.opsets.get(domain).copied().unwrap_or(0),
            reason: format!("{}{help}", error.message),
        });
    }

    fn import_resolved(&mut self, proto: &'m NodeProto, inputs: Vec<Option<Item>>) -> Result<Outputs> {
        let (implementation, opset) = self.implementation(proto)?;
        let name: Arc<str> = format!("{}{}", self.scope.frame.prefix, node_name(proto)).into();
        let current = Current { proto, opset, inputs, origin: [name] };
        let outer = std::mem::replace(&mut self.node, current);
        let outputs = match implementation {
            Implementation::Operator(operator) => (operator.import)(self),
            Implementation::Function(function) => self.inline_function(function),
        };
        let n_outputs = self.n_outputs();
        self.node = outer;
        let outputs = outputs?;
        let given = outputs.0.len();
        let missing = proto.output.iter().skip(given).find(|name| !name.is_empty());
        match missing {
            Some(name) if !outputs.0.contains(&Item::Failed) => {
                bail!("the output `{name}`, number {} of {n_outputs}, is not supported", given + 1)
            }
            _ => Ok(outputs),
        }
    }

    /// How an operator is imported, and the version of its operator set.
    fn implementation(&self, proto: &NodeProto) -> Result<(Implementation<'m>, i64)> {
        let (domain, op) = (normal_domain(proto.domain()), proto.op_type());
        let opset = self.scope.frame.opsets.get(domain).copied();
        if let Some(function) = self.functions.get(&(domain, op, proto.overload())) {
            return Ok((Implementation::Function(function), opset.unwrap_or(1)));
        }
        let Some(versions) = OPERATORS.get(&(domain, op)) else { bail!("the operator is not supported") };
        let Some(opset) = opset.or(if domain.is_empty() { None } else { Some(1) }) else {
            bail!("the model does not say which version of the default operator set it uses")
        };
        match versions.iter().find(|o| (o.since..=o.until).contains(&opset)) {
            Some(operator) => Ok((Implementation::Operator(operator), opset)),
            None => bail!("the operator is not supported in this version of the operator set"),
        }
    }

    /// Compares what the model says of a value with what it is.
    fn check_declared(&mut self, name: &str, item: &Item) {
        let (Some(declared), Item::Tensor(value)) = (self.scope.declared.get(name), item) else { return };
        let Some(TypeValue::Tensor(declared)) = &declared.value else { return };
        let ty = self.ty(*value);
        let dtype = declared.elem_type();
        let wrong_dtype = types::dtype(dtype).is_ok_and(|dtype| dtype != ty.dtype);
        let dims: Option<Vec<Option<i64>>> =
            declared.shape.as_ref().map(|s| s.dim.iter().map(types::known_dim).collect());
        let differs = |(dim, declared): (&Dim, &Option<i64>)| match (dim.as_const(), declared) {
            (Some(dim), Some(declared)) => dim != *declared,
            _ => false,
        };
        let wrong_dims = dims
            .as_ref()
            .is_some_and(|dims| dims.len() != ty.rank() || ty.dims.iter().zip(dims).any(differs));
        if wrong_dtype || wrong_dims {
            let dims = dims.map_or("..".to_owned(), |dims| {
                let texts: Vec<String> =
                    dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
                texts.join(",")
            });
            let declared = types::type_name(dtype);
            let warning = format!("the model declares `{name}` to be {declared}[{dims}], but it is {ty}");
            self.report.warnings.push(warning);
        }
    }

    fn inline_function(&mut self, function: &'m FunctionProto) -> Result<Outputs> {
        let caller = self.scope.frame.clone();
        let key = function_key(function);
        ensure!(!caller.calls.contains(&key), "the function calls itself");
        let mut attributes: HashMap<&'m str, _> =
            function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        for a in &self.node.proto.attribute {
            let given = match a.ref_attr_name() {
                "" => Some(a),
                name => caller.attributes.get(name).copied(),
            };
            attributes.extend(given.map(|given| (a.name(), given)));
        }
        let mut opsets = opsets(&function.opset_import);
        if function.opset_import.is_empty() {
            opsets.clone_from(&caller.opsets);
        }
        let calls = caller.calls.iter().copied().chain([key]).collect();
        let frame = Frame { opsets, attributes, prefix: format!("{}/", self.node.origin[0]), calls };
        let inputs = std::mem::take(&mut self.node.inputs);
        ensure!(
            inputs.len() <= function.input.len(),
            "the function takes {} inputs, found {}",
            function.input.len(),
            inputs.len()
        );
        let absent = function.input.iter().skip(inputs.len()).map(|_| None);
        let names: HashMap<&'m str, Item> = function
            .input
            .iter()
            .zip(inputs.into_iter().chain(absent.collect::<Vec<_>>()))
            .map(|(name, item)| (name.as_str(), item.unwrap_or(Item::Optional(None))))
            .collect();
        let scope =
            Scope { names, closed: true, depth: self.outer.len(), frame: Rc::new(frame), ..Scope::default() };
        self.within(scope, |ctx| {
            ctx.nodes(&function.node)?;
            let outputs = function.output.iter().map(|name| ctx.lookup(name));
            Ok(Outputs(outputs.collect::<Result<_>>()?))
        })
    }

    /// Runs `f` in an inner scope.
    fn within<T>(&mut self, scope: Scope<'m>, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.scope, scope);
        self.scopes.push(outer);
        let node = self.node.clone();
        let result = f(self);
        self.node = node;
        if let Some(outer) = self.scopes.pop() {
            self.scope = outer;
        }
        result
    }

    /// A scope for a graph that sees the names around it, in the graph with `depth` graphs around it.
    fn inner_scope(&self, graph: &'m GraphProto, items: Vec<Item>, depth: usize) -> Result<Scope<'m>> {
        ensure!(
            graph.input.len() == items.len(),
            "the body `{}` has {} inputs, {} are given",
            graph.name(),
            graph.input.len(),
            items.len()
        );
        let names = graph.input.iter().map(|input| input.name()).zip(items).collect();
        Ok(Scope { names, depth, frame: self.scope.frame.clone(), ..Scope::default() })
    }

    /// Imports a body's nodes into the graph being built, and gives the body's results.
    pub(super) fn inline(&mut self, graph: &'m GraphProto, inputs: Vec<Item>) -> Result<Vec<Item>> {
        let scope = self.inner_scope(graph, inputs, self.outer.len())?;
        self.within(scope, |ctx| ctx.graph_items(graph))
    }

    fn graph_items(&mut self, graph: &'m GraphProto) -> Result<Vec<Item>> {
        self.open_graph(graph);
        self.nodes(&graph.node)?;
        graph.output.iter().map(|output| self.lookup(output.name())).collect()
    }

    /// Builds a graph from a body. Its inputs have the given types; after them come the values of the graph around it
    /// that it uses, first those in `captures`. `None` if it has a node that can't be imported, which is then reported.
    pub(super) fn build_body(
        &mut self,
        graph: &'m GraphProto,
        inputs: &[Type],
        captures: &[ValueId],
    ) -> Result<Option<Built>> {
        let outer = std::mem::take(&mut self.body);
        self.outer.push(outer);
        let built = self.build_in_new_body(graph, inputs, captures);
        let body = match self.outer.pop() {
            Some(outer) => std::mem::replace(&mut self.body, outer),
            None => Body::default(),
        };
        Ok(built?.map(|outputs| Built { graph: body.graph, outputs, captures: body.captures }))
    }

    fn build_in_new_body(
        &mut self,
        graph: &'m GraphProto,
        inputs: &[Type],
        captures: &[ValueId],
    ) -> Result<Option<Vec<ValueId>>> {
        self.body.graph.name = graph.name().to_owned();
        let names = graph.input.iter().map(|input| input.name()).chain(std::iter::repeat(""));
        let items: Vec<Item> = inputs
            .iter()
            .zip(names)
            .map(|(ty, name)| Item::Tensor(self.body.graph.add_input(name, ty.clone())))
            .collect();
        for &value in captures {
            self.bring(&Item::Tensor(value), self.outer.len() - 1)?;
        }
        let scope = self.inner_scope(graph, items, self.outer.len())?;
        let outputs = self.within(scope, |ctx| ctx.graph_items(graph))?;
        if outputs.contains(&Item::Failed) {
            return Ok(None);
        }
        outputs.iter().map(|item| self.tensor_of(item)).collect::<Result<Vec<_>>>().map(Some)
    }

    /// How much has been reported, for [`Ctx::retract`].
    pub(super) fn reported(&self) -> (usize, usize) {
        (self.report.problems.len(), self.report.warnings.len())
    }

    /// Takes back what has been reported since.
    pub(super) fn retract(&mut self, (problems, warnings): (usize, usize)) {
        self.report.problems.truncate(problems);
        self.report.warnings.truncate(warnings);
    }
}

enum Implementation<'m> {
    Operator(&'static Operator),
    Function(&'m FunctionProto),
}

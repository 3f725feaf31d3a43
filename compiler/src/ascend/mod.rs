//! Programs for Ascend NPUs: kernels in Ascend C, and functions of the host for what has no form there.

pub mod model;

pub use model::Model;

use aic_backends::ascendc::host::{self, HostFunction};
use aic_backends::ascendc::{self, Source};
use aic_ir::dim::Dim;
use aic_ir::error::{Error, Result};
use aic_ir::graph::{Graph, Node, NodeId};
use aic_ir::kernel::Kernel;
use aic_ir::program::{Place, Program, Step as ProgramStep};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, eval};
use aic_passes::pipeline::{self, Options};
use std::collections::HashMap;

/// A program as the chip and its host execute it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Its buffers, inputs and outputs.
    pub program: Program,
    /// Kernels for the chip.
    pub kernels: Vec<Source>,
    /// Functions of the host.
    pub functions: Vec<HostFunction>,
    /// In the order of execution.
    pub steps: Vec<Step>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Launch a kernel.
    Launch {
        /// Position in [`Compiled::kernels`].
        kernel: usize,
        /// A buffer of the program for each argument but the workspace.
        args: Vec<usize>,
        /// Source names of the nodes that it computes.
        nodes: Vec<String>,
    },
    /// Call a function of the host.
    Host {
        /// Position in [`Compiled::functions`].
        function: usize,
        /// A buffer of the program for each argument.
        args: Vec<usize>,
        /// Source names of the nodes that it computes.
        nodes: Vec<String>,
        /// Why it isn't a kernel.
        reason: String,
    },
    /// Copy a buffer.
    Copy {
        /// From.
        src: usize,
        /// To.
        dst: usize,
    },
}

/// Where a kernel of the program is.
#[derive(Clone)]
enum Form {
    Chip(usize),
    Host(usize, String),
}

/// The chip's and the host's parts of a program, which was lowered for the chip.
///
/// # Errors
/// An extent isn't known, or a node has neither a kernel for the chip nor one for the host; it is named.
pub fn compile(program: Program, target: &Target) -> Result<Compiled> {
    if let Some((symbol, ..)) = program.graph.input_symbols().first() {
        return Err(Error::new(format!("kernels in Ascend C have known shapes, but {symbol} is any number"))
            .help(format!("give it a value: --dim {symbol}=1")));
    }
    let mut c = Compiled { program, kernels: Vec::new(), functions: Vec::new(), steps: Vec::new() };
    let names = kernel_nodes(&c.program);
    let mut forms = Vec::new();
    for (k, nodes) in c.program.kernels.iter().zip(&names) {
        let form = form(k, target, nodes, &mut c.kernels, &mut c.functions);
        forms.push(form.map_err(|e| nodes.iter().fold(e, |e, n| e.node(n)))?);
    }
    for step in &c.program.steps {
        let step = match step {
            ProgramStep::Copy { src, dst } => Step::Copy { src: *src, dst: *dst },
            ProgramStep::Launch { kernel, args, origin, .. } => {
                let (args, nodes) = (args.clone(), origin.iter().map(|o| o.to_string()).collect());
                match forms[*kernel].clone() {
                    Form::Chip(kernel) => Step::Launch { kernel, args, nodes },
                    Form::Host(function, reason) => Step::Host { function, args, nodes, reason },
                }
            }
            ProgramStep::Host { node, inputs, outputs, reason, .. } => {
                let n = c.program.graph.node(*node);
                let name = format!("host_{}", c.functions.len());
                let function = on_host(&c.program.graph, *node, &name);
                c.functions.push(function.map_err(|e| n.origin.iter().fold(e, |e, o| e.node(o.as_ref())))?);
                Step::Host {
                    function: c.functions.len() - 1,
                    args: [&inputs[..], outputs].concat(),
                    nodes: n.origin.iter().map(|o| o.to_string()).collect(),
                    reason: reason.clone(),
                }
            }
        };
        c.steps.push(step);
    }
    Ok(c)
}

/// The source nodes of each kernel.
fn kernel_nodes(program: &Program) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = vec![Vec::new(); program.kernels.len()];
    for step in &program.steps {
        if let ProgramStep::Launch { kernel, origin, .. } = step {
            all[*kernel].extend(origin.iter().map(|o| o.to_string()));
        }
    }
    all
}

/// A kernel in Ascend C, or else as a function of the host.
fn form(
    k: &Kernel,
    target: &Target,
    nodes: &[String],
    kernels: &mut Vec<Source>,
    functions: &mut Vec<HostFunction>,
) -> Result<Form> {
    let about = vec![format!("{}: {}", k.name, nodes.join(", "))];
    match ascendc::kernel(k, target, &about) {
        Ok(source) => {
            kernels.push(source);
            Ok(Form::Chip(kernels.len() - 1))
        }
        Err(reason) => {
            functions.push(host::kernel(k).map_err(|e| e.context(&reason.message))?);
            Ok(Form::Host(functions.len() - 1, reason.message))
        }
    }
}

/// A node by itself as a function of the host.
fn on_host(graph: &Graph, id: NodeId, name: &str) -> Result<HostFunction> {
    let Node { op, inputs, outputs, .. } = graph.node(id);
    let mut alone = Graph::new(name);
    let x: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(k, v)| alone.add_input(&format!("x{k}"), graph.ty(*v).clone()))
        .collect();
    let types = outputs.iter().map(|v| graph.ty(*v).clone()).collect();
    for (k, y) in alone.add_typed(op.clone(), &x, types, &[]).into_iter().enumerate() {
        alone.add_output(&format!("y{k}"), y);
    }
    let options = Options { level: 0, ..Options::new(Target::x86_sse()) };
    host::program(name, &pipeline::compile(alone, &options)?)
}

/// A graph for inputs of known shapes.
///
/// # Errors
/// An input doesn't fit.
pub fn specialise(graph: &Graph, inputs: &[Tensor]) -> Result<Graph> {
    let symbols: HashMap<_, _> = eval::bind_symbols(graph, inputs)?.into_iter().collect();
    Ok(graph.subst(&|s| symbols.get(s).map(|n| Dim::from(*n))))
}

/// The buffer whose memory it is.
pub fn root(program: &Program, k: usize) -> usize {
    match program.buffers[k].place {
        Place::Alias(of) => root(program, of),
        _ => k,
    }
}

/// The size of a buffer.
///
/// # Errors
/// An extent isn't known.
pub fn bytes_of(program: &Program, k: usize) -> Result<u64> {
    let ty = &program.buffers[k].ty;
    let n = ty.dims.iter().map(|d| d.as_const()).product::<Option<i64>>();
    match n.and_then(|n| u64::try_from(n).ok()) {
        Some(n) => Ok(n * ty.dtype.size() as u64),
        None => bail!("{ty} has no known size"),
    }
}

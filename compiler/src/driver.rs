//! From a model's file to a program, and from a program to code that runs.
//!
//! The way is always the same: [`Source::load`], [`Source::import`], [`lower`], and then a [`Runner`] in this process or
//! an artifact. Nothing here prints.

use crate::ascend;
use crate::emulate::Emulated;
use crate::import::load::{self, Model};
use crate::import::onnx::{self, ImportOptions, Imported, Structure};
use crate::import::proto::{DataType, DimValue, Dimension, TensorType, TypeValue, ValueInfoProto};
use crate::io::{Kind, Parts, Port};
use crate::session::{self, Kernels, Session};
use crate::{graph_file, package, plan, reproducer};
use aic_backends::{CpuOptions, Library, mlir};
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::{Error, Result};
use aic_ir::graph::{self, Graph};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{bail, eval};
use aic_passes::pipeline;
use aic_passes::runner::{self, Context, Numerics, RuleText};
use aic_passes::schedule::Choices;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Values of inputs larger than this are not looked at when compiling.
const MAX_KNOWN_ELEMENTS: usize = 1024;
/// Lists of floats up to this length are looked at too: they may be scales.
const MAX_KNOWN_FLOATS: usize = 64;

/// A model as it was read.
#[derive(Debug)]
pub enum Source {
    /// An ONNX model, from either format.
    Onnx(Box<Model>),
    /// A graph in text form.
    Text(Graph),
}

impl Source {
    /// Reads a model: ONNX, graph JSON, or the text form of a graph if the name ends in `.aic`.
    ///
    /// # Errors
    /// The file can't be read, or is no model.
    pub fn load(path: &Path) -> Result<Source> {
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("aic")) {
            return load::load_model(path).map(|model| Source::Onnx(Box::new(model)));
        }
        Ok(Source::Text(named_ports(graph_file::read(path)?)))
    }

    /// The inputs, in the order in which they are numbered; an ONNX model's initializers are none.
    pub fn inputs(&self) -> Vec<Port> {
        match self {
            Source::Onnx(_) => self.declared_inputs().into_iter().map(port).collect(),
            Source::Text(graph) => graph_ports(graph, &graph.inputs),
        }
    }

    /// The outputs.
    pub fn outputs(&self) -> Vec<Port> {
        match self {
            Source::Onnx(model) => {
                model.proto.graph.iter().flat_map(|graph| &graph.output).map(port).collect()
            }
            Source::Text(graph) => graph_ports(graph, &graph.outputs),
        }
    }

    /// Names of the symbolic dimensions that inputs have.
    pub fn dims(&self) -> BTreeSet<String> {
        match self {
            Source::Onnx(_) => {
                let dims = self.declared_inputs().into_iter().filter_map(declared_dims).flatten();
                dims.filter_map(|d| dim_name(d).map(str::to_owned)).collect()
            }
            Source::Text(graph) => {
                let dims = graph.inputs.iter().flat_map(|p| &graph.ty(p.value).dims);
                dims.flat_map(Dim::symbols).map(|s| s.name().to_owned()).collect()
            }
        }
    }

    /// The graph.
    ///
    /// # Errors
    /// The model is malformed or has nodes that aren't supported, all of which are named; a dimension given doesn't
    /// exist.
    pub fn import(&self, options: &ImportOptions) -> Result<Imported> {
        self.check_dims(&options.dims)?;
        match self {
            Source::Onnx(model) => {
                onnx::import(model, options).map_err(|error| error.context(model.path.display()))
            }
            Source::Text(graph) => {
                let value = |s: &Sym| options.dims.get(s.name()).map(|&d| Dim::from(d));
                let graph = graph.subst(&value);
                let outputs = vec![Structure::Tensor; graph.outputs.len()];
                Ok(Imported { graph, outputs, warnings: Vec::new(), specialised: Vec::new() })
            }
        }
    }

    /// The graph for a run on these inputs. Small inputs are looked at where a value decides a shape; symbolic
    /// dimensions stay symbolic unless the model can't be imported that way.
    ///
    /// # Errors
    /// As of [`Source::import`].
    pub fn import_for(&self, dims: &HashMap<String, i64>, inputs: &Parts) -> Result<Imported> {
        let known = inputs.tensors.iter().filter(|(_, t)| is_worth_knowing(t));
        let options = ImportOptions {
            dims: dims.clone(),
            structures: inputs.structures.clone(),
            shapes: self.shapes(inputs, false),
            known_inputs: known.map(|(name, t)| (name.clone(), t.clone())).collect(),
        };
        let fixed = ImportOptions { shapes: self.shapes(inputs, true), ..options.clone() };
        match self.import(&options) {
            Err(_) if fixed.shapes != options.shapes => self.import(&fixed),
            result => result,
        }
    }

    /// Every node that can't be imported.
    ///
    /// # Errors
    /// The model is malformed.
    pub fn check(&self, dims: &HashMap<String, i64>) -> Result<Vec<onnx::Problem>> {
        self.check_dims(dims)?;
        match self {
            Source::Onnx(model) => {
                onnx::check(model, &ImportOptions { dims: dims.clone(), ..ImportOptions::default() })
                    .map_err(|error| error.context(model.path.display()))
            }
            Source::Text(_) => Ok(Vec::new()),
        }
    }

    fn check_dims(&self, dims: &HashMap<String, i64>) -> Result<()> {
        let known = self.dims();
        let mut given: Vec<&String> = dims.keys().collect();
        given.sort();
        for name in given {
            // A dimension within an expression such as `past + 1` has no entry of its own.
            if known.iter().any(|k| k.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == name))
            {
                continue;
            }
            ensure_dim(known.contains(name), name, &known)?;
        }
        Ok(())
    }

    /// Shapes of the inputs that the model declares without one, and of the elements of sequences; of all inputs if
    /// `all`, except where the model declares another number.
    fn shapes(&self, inputs: &Parts, all: bool) -> HashMap<String, Vec<usize>> {
        let is_whole = |name: &String| self.declared_inputs().iter().any(|input| input.name() == name);
        let elements = inputs.tensors.iter().filter(|(name, _)| !is_whole(name));
        let mut shapes: HashMap<String, Vec<usize>> =
            elements.map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        for input in self.declared_inputs() {
            let Some(t) = inputs.tensors.get(input.name()) else { continue };
            let shape = match declared_dims(input) {
                None => t.shape().to_vec(),
                Some(dims) if all && dims.len() == t.rank() => {
                    let number = |d: &Dimension| match d.value {
                        Some(DimValue::DimValue(n)) => usize::try_from(n).ok(),
                        _ => None,
                    };
                    dims.iter().zip(t.shape()).map(|(d, &n)| number(d).unwrap_or(n)).collect()
                }
                Some(_) => continue,
            };
            shapes.insert(input.name().to_owned(), shape);
        }
        shapes
    }

    /// An ONNX model's inputs without its initializers.
    fn declared_inputs(&self) -> Vec<&ValueInfoProto> {
        let Source::Onnx(model) = self else { return Vec::new() };
        let Some(graph) = &model.proto.graph else { return Vec::new() };
        let weights: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        graph.input.iter().filter(|input| !weights.contains(input.name())).collect()
    }
}

fn ensure_dim(known: bool, name: &str, dims: &BTreeSet<String>) -> Result<()> {
    if known {
        return Ok(());
    }
    let names: Vec<&str> = dims.iter().map(String::as_str).collect();
    let help = match names.is_empty() {
        true => "it has no symbolic dimensions".to_owned(),
        false => format!("its symbolic dimensions are {}", names.join(", ")),
    };
    Err(Error::new(format!("the model has no dimension {name:?}")).help(help))
}

fn port(info: &ValueInfoProto) -> Port {
    Port { name: info.name().to_owned(), kind: Kind::of(info.r#type.as_ref()) }
}

/// The dimensions that the model declares; `None` if it declares no shape.
fn declared_dims(info: &ValueInfoProto) -> Option<&[Dimension]> {
    match info.r#type.as_ref()?.value.as_ref()? {
        TypeValue::Tensor(TensorType { shape: Some(shape), .. }) => Some(&shape.dim),
        _ => None,
    }
}

fn dim_name(dim: &Dimension) -> Option<&str> {
    match &dim.value {
        Some(DimValue::DimParam(name)) if !name.is_empty() => Some(name),
        _ => None,
    }
}

fn graph_ports(graph: &Graph, ports: &[graph::Port]) -> Vec<Port> {
    let kind = |p: &graph::Port| Kind::Tensor(DataType::try_from(graph.ty(p.value).dtype.onnx()).ok());
    ports.iter().map(|p| Port { name: p.name.clone(), kind: kind(p) }).collect()
}

/// The graph with names for ports that have none.
fn named_ports(mut graph: Graph) -> Graph {
    let name = |ports: &mut [graph::Port], stem: &str| {
        for (k, port) in ports.iter_mut().enumerate().filter(|(_, port)| port.name.is_empty()) {
            port.name = format!("{stem}_{k}");
        }
    };
    name(&mut graph.inputs, "input");
    name(&mut graph.outputs, "output");
    graph
}

/// Whether an input may hold a shape, axes, pads or the like.
fn is_worth_knowing(t: &Tensor) -> bool {
    let is_list = t.rank() <= 1 && t.len() <= MAX_KNOWN_FLOATS;
    is_list || (!t.dtype().is_float() && t.len() <= MAX_KNOWN_ELEMENTS)
}

/// The shape of an input where every symbol that has no other value is 1.
///
/// # Errors
/// A dimension is negative.
pub fn smallest_shape(ty: &Type) -> Result<Vec<usize>> {
    let extent = |d: &Dim| d.eval(&|_| Some(1)).and_then(|n| usize::try_from(n).ok());
    match ty.dims.iter().map(extent).collect() {
        Some(shape) => Ok(shape),
        None => bail!("{ty} has no extents for symbols of value 1"),
    }
}

/// The machine that code is scheduled for.
///
/// # Errors
/// The CPU is unknown.
pub fn target(cpu: &CpuOptions) -> Result<Target> {
    Ok(match aic_backends::cpu_features(cpu)?.vector_bytes {
        64 => Target::x86_avx512(),
        32 => Target::x86_avx2(),
        _ => Target::x86_sse(),
    })
}

/// How a model is compiled.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CPU that code is made for.
    pub cpu: CpuOptions,
    /// The GPU or NPU that kernels are made for, if it isn't the CPU.
    pub device: Option<Target>,
    /// How much is optimised: index into [`pipeline::LEVELS`].
    pub level: usize,
    /// Which rewrites are admitted.
    pub numerics: Numerics,
    /// Rewrite rules beside the built-in ones.
    pub rules: Vec<RuleText>,
    /// How many rewrites may be applied; `None` for no limit.
    pub fuel: Option<u64>,
    /// The folder for reproducers of passes that fail; `None` for that of temporary files.
    pub reproducers: Option<PathBuf>,
    /// Schedules that tuning found to be faster.
    pub choices: Arc<Choices>,
}

impl Default for Options {
    /// What the command line does when nothing is said: `-O2`, `reassociate`, for this CPU.
    fn default() -> Options {
        Options {
            cpu: CpuOptions::default(),
            device: None,
            level: 2,
            numerics: Numerics::default(),
            rules: Vec::new(),
            fuel: None,
            reproducers: None,
            choices: Arc::default(),
        }
    }
}

impl Options {
    /// What the passes are told.
    ///
    /// # Errors
    /// The CPU is unknown.
    pub fn pipeline(&self) -> Result<pipeline::Options> {
        Ok(self.pipeline_for(self.machine()?))
    }

    /// What kernels are made for.
    fn machine(&self) -> Result<Target> {
        self.device.clone().map_or_else(|| target(&self.cpu), Ok)
    }

    /// What the passes are told, for a given machine.
    pub fn pipeline_for(&self, target: Target) -> pipeline::Options {
        pipeline::Options {
            level: self.level,
            numerics: self.numerics,
            rules: self.rules.clone(),
            fuel: self.fuel,
            choices: self.choices.clone(),
            ..pipeline::Options::new(target)
        }
    }
}

/// Optimises a graph and makes kernels of it.
///
/// # Errors
/// A pass fails, which leaves a [`reproducer`]; lowering counts as one.
pub fn lower(graph: Graph, options: &Options) -> Result<Program> {
    lower_for(graph, options, options.machine()?)
}

/// As [`lower`], for a given machine.
///
/// # Errors
/// As there.
pub fn lower_for(graph: Graph, options: &Options, target: Target) -> Result<Program> {
    let passes = pipeline::passes(pipeline::level(options.level)?)?;
    let program = pipeline::compile_with(graph, &passes, &options.pipeline_for(target));
    program.map_err(|failure| reproducer::leave(*failure, &passes, options))
}

/// Optimises a graph for another compiler, which chooses layouts and fuses by itself, and writes it as MLIR.
///
/// # Errors
/// A pass fails, which leaves a [`reproducer`]; a node has no form in MLIR; this build has no MLIR.
pub fn export(graph: Graph, options: &Options) -> Result<mlir::Module> {
    let is_own = |name: &&str| !["layout", "fuse"].contains(name);
    let names: Vec<&str> = pipeline::level(options.level)?.iter().copied().filter(is_own).collect();
    let passes = pipeline::passes(&names)?;
    // The other compiler's target is not known here; costs are those of a plain CPU.
    let pipeline = options.pipeline_for(Target::x86_avx2());
    let mut cx = Context::new(&pipeline);
    let graph = runner::run_watched(graph, &passes, &mut cx, pipeline.verified, &mut |_| {})
        .map_err(|failure| reproducer::leave(*failure, &passes, options))?;
    mlir::graph(&graph)
}

/// Writes the kernels that a graph becomes as MLIR.
///
/// # Errors
/// A pass fails, which leaves a [`reproducer`]; this build has no MLIR.
pub fn export_kernels(graph: Graph, options: &Options) -> Result<mlir::Module> {
    mlir::kernels(&lower(graph, options)?.kernels)
}

/// Writes a program as an artifact, and its header beside it.
///
/// # Errors
/// A node has no kernel, a kernel can't be compiled, or a file can't be written.
pub fn write_artifact(
    program: &Program,
    cpu: &CpuOptions,
    kind: package::Kind,
    path: &Path,
) -> Result<package::Files> {
    package::check(program)?;
    let objects = aic_backends::compile(&program.kernels, cpu)?;
    let cpu = plan::cpu_bits(aic_backends::cpu_features(cpu)?.names);
    package::write(&package::Parts { program, objects: &objects, cpu }, kind, path)
}

/// A node that has no kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNode {
    /// Names of the source nodes that it comes from.
    pub origin: String,
    /// The core operator.
    pub op: &'static str,
    /// Why it has none.
    pub reason: String,
}

/// The nodes of a program that the interpreter computes.
pub fn host_nodes(program: &Program) -> Vec<HostNode> {
    let host = program.steps.iter().filter_map(|step| match step {
        Step::Host { node, reason, .. } => Some((program.graph.node(*node), reason)),
        _ => None,
    });
    host.map(|(node, reason)| HostNode {
        origin: node.origin.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", "),
        op: node.op.keyword(),
        reason: reason.clone(),
    })
    .collect()
}

/// A model ready to run.
pub enum Runner {
    /// The interpreter.
    Reference(Graph, Vec<Tensor>),
    /// Compiled kernels.
    Compiled(Session),
    /// A GPU's kernels without a GPU.
    Emulated(Emulated, Vec<Tensor>),
    /// An NPU's kernels on the model of the chip.
    Model(ascend::Model, Vec<Tensor>),
}

/// How long it took to get a [`Runner`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Compiling.
    pub compile: Duration,
    /// Of that, from kernels to machine code.
    pub codegen: Duration,
    /// Loading their code and opening the session.
    pub load: Duration,
}

impl Runner {
    /// Compiles the kernels of a program for this machine and opens a session.
    ///
    /// # Errors
    /// A kernel can't be compiled, or the session can't be opened.
    pub fn compile(
        program: &Program,
        cpu: &CpuOptions,
        options: session::Options,
    ) -> Result<(Runner, Times)> {
        let start = Instant::now();
        let objects = aic_backends::compile(&program.kernels, cpu)?;
        let compile = start.elapsed();
        let library = Library::load(&objects)?;
        let functions: Result<Vec<_>> = program.kernels.iter().map(|k| library.get(&k.name)).collect();
        let kernels = Kernels { functions: functions?, code: Box::new(library) };
        let cpu = plan::cpu_bits(aic_backends::cpu_features(cpu)?.names);
        let options = session::Options { cpu, ..options };
        // SAFETY: the functions are the program's kernels, compiled, and `code` holds them.
        let session = unsafe { Session::new(program, kernels, &options) }?;
        Ok((Runner::Compiled(session), Times { compile, codegen: compile, load: start.elapsed() - compile }))
    }

    /// Keeps the inputs of the runs that follow.
    pub fn bind(&mut self, inputs: &[Tensor]) {
        match self {
            Runner::Reference(_, bound) | Runner::Emulated(_, bound) | Runner::Model(_, bound) => {
                *bound = inputs.to_vec();
            }
            Runner::Compiled(session) => session.bind(inputs),
        }
    }

    /// Runs once on the inputs that were bound last; what the interpreter computes is thrown away.
    ///
    /// # Errors
    /// As of [`Runner::run`].
    pub fn run_bound(&mut self) -> Result<()> {
        match self {
            Runner::Reference(graph, inputs) => eval::graph(graph, inputs).map(drop),
            Runner::Compiled(session) => session.run_bound(),
            Runner::Emulated(program, inputs) => program.run(inputs).map(drop),
            Runner::Model(program, inputs) => program.run(inputs).map(drop),
        }
    }

    /// Runs once.
    ///
    /// # Errors
    /// An input doesn't fit, or a step fails.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        match self {
            Runner::Reference(graph, _) => eval::graph(graph, inputs),
            Runner::Compiled(session) => session.run(inputs),
            Runner::Emulated(program, _) => program.run(inputs),
            Runner::Model(program, _) => program.run(inputs),
        }
    }

    /// How long each step of the last run took; nothing unless the session was opened to measure it.
    pub fn step_times(&self) -> Vec<Duration> {
        match self {
            Runner::Reference(..) | Runner::Emulated(..) | Runner::Model(..) => Vec::new(),
            Runner::Compiled(session) => session.step_times(),
        }
    }

    /// Bytes of intermediate memory held now; 0 for the interpreter and the emulator, which hold none between runs.
    pub fn arena_bytes(&self) -> usize {
        match self {
            Runner::Reference(..) | Runner::Emulated(..) | Runner::Model(..) => 0,
            Runner::Compiled(session) => session.arena_bytes(),
        }
    }
}

/// Checks that inputs fit a graph and what was taken for granted when it was imported.
///
/// # Errors
/// An input has another type or shape, or makes a dimension negative.
pub fn check_inputs(imported: &Imported, inputs: &[Tensor]) -> Result<()> {
    eval::bind_symbols(&imported.graph, inputs).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::dtype::DType;

    const TEXT: &str = "graph @g(%0: f32[n,2], %1 \"b\": f32[2]) -> (%2: f32[n,2]) {
      %2 = add %0 %3
      %3 = expand %1
    }";

    fn text(name: &str, content: &str) -> Result<Source> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Source::load(&path)
    }

    #[test]
    fn graphs_in_text_form_are_models() {
        assert!(text("g.aic", TEXT).unwrap_err().message.contains("g.aic"));
        let content = "graph @g(%0: f32[n,2]) -> (%1: f32[n,2]) { %1 = neg %0 return %1 }";
        let source = text("g.aic", content).unwrap();
        assert_eq!((&*source.inputs()[0].name, &*source.outputs()[0].name), ("input_0", "output_0"));
        assert_eq!(source.dims(), BTreeSet::from(["n".to_owned()]));
        let dims = |name: &str| HashMap::from([(name.to_owned(), 3)]);
        let options = ImportOptions { dims: dims("n"), ..ImportOptions::default() };
        let graph = source.import(&options).unwrap().graph;
        assert_eq!(graph.ty(graph.outputs[0].value).to_string(), "f32[3,2]");
        let unknown = source.check(&dims("m")).unwrap_err();
        assert_eq!(unknown.help.as_deref(), Some("its symbolic dimensions are n"));
    }

    #[test]
    fn symbols_without_a_value_are_one() {
        let (n, m) = (Dim::named("n"), Dim::named("m"));
        let ty = Type::new(DType::F32, vec![n.clone() + m.clone(), 7.into()]);
        assert_eq!(smallest_shape(&ty), Ok(vec![2, 7]));
        assert!(smallest_shape(&Type::new(DType::F32, vec![n - m - 1.into()])).is_err());
    }

    #[test]
    fn small_lists_and_integers_are_worth_knowing() {
        let tensor = |dtype, shape| Tensor::full(dtype, shape, aic_ir::scalar::Scalar::I(1)).unwrap();
        assert!(is_worth_knowing(&tensor(DType::F32, vec![4])));
        assert!(is_worth_knowing(&tensor(DType::I64, vec![2, 512])));
        assert!(!is_worth_knowing(&tensor(DType::F32, vec![65])));
        assert!(!is_worth_knowing(&tensor(DType::F32, vec![2, 2])));
        assert!(!is_worth_knowing(&tensor(DType::I64, vec![1025])));
    }
}

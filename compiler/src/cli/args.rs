//! Options that several commands share, and what they stand for.

use super::print::{self, Progress};
use aic::ascend;
use aic::driver::{self, Runner, Source, Times};
use aic::emulate::Emulated;
use aic::import::onnx::Structure;
use aic::io::{self, Format};
use aic::session;
use aic::tune::Machine;
use aic::tune::records::{self, Records};
use aic_backends::ascendc::emulator::Settings;
use aic_backends::{BACKENDS, CpuOptions, emulate};
use aic_ir::compute::Compute;
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::rewrite::rule;
use aic_passes::runner::{Numerics, RuleText};
use aic_passes::schedule::Choices;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model and what is known of its dimensions.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model: .onnx, graph JSON (.json) or the text form of a graph (.aic)
    #[arg(value_name = "MODEL")]
    pub path: PathBuf,
    #[command(flatten)]
    dims: DimArgs,
}

impl ModelArgs {
    /// A model with these dims.
    pub fn new(path: &Path, dims: &DimArgs) -> ModelArgs {
        ModelArgs { path: path.to_owned(), dims: dims.clone() }
    }

    /// As of [`DimArgs::by_name`].
    pub fn dims(&self) -> Result<HashMap<String, i64>> {
        self.dims.by_name()
    }

    /// Reads the model.
    ///
    /// # Errors
    /// The file can't be read, or is no model.
    pub fn load(&self) -> Result<Source> {
        Source::load(&self.path)
    }
}

/// Values of symbolic dimensions.
#[derive(clap::Args, Clone)]
pub struct DimArgs {
    /// Give a symbolic dimension a value, like batch=8; may be repeated
    #[arg(long = "dim", value_name = "SYM=N", value_parser = parse_dim)]
    dims: Vec<(String, i64)>,
}

impl DimArgs {
    /// The values by the names of the dimensions.
    ///
    /// # Errors
    /// One is given two values.
    pub fn by_name(&self) -> Result<HashMap<String, i64>> {
        let mut dims = HashMap::new();
        for (name, value) in &self.dims {
            let old = dims.insert(name.clone(), *value);
            ensure!(old.is_none_or(|old| old == *value), "--dim {name} is given two values");
        }
        Ok(dims)
    }
}

fn parse_dim(text: &str) -> std::result::Result<(String, i64), String> {
    let Some((name, value)) = text.rsplit_once('=') else {
        return Err("expected SYM=N, like batch=8".into());
    };
    match value.trim().parse::<i64>() {
        Ok(value) if value >= 0 && !name.trim().is_empty() => Ok((name.trim().to_owned(), value)),
        _ => Err("expected SYM=N with an integer N that is not negative, like batch=8".into()),
    }
}

/// For which CPU to compile.
#[derive(clap::Args)]
struct CpuArgs {
    /// The CPU to compile for: native (this one), a level such as x86-64-v3 (AVX2) or x86-64-v4 (AVX-512), or with
    /// LLVM a name that it knows
    #[arg(long, value_name = "CPU", default_value = "native")]
    cpu: String,
}

/// What compiles, and for which CPU.
#[derive(clap::Args)]
pub struct CodeArgs {
    /// What makes machine code
    #[arg(long, value_parser = backends(None), default_value = CpuOptions::default().backend)]
    backend: &'static str,
    #[command(flatten)]
    cpu: CpuArgs,
}

impl CodeArgs {
    /// The options of the backend.
    pub fn options(&self) -> CpuOptions {
        CpuOptions { backend: self.backend, cpu: self.cpu.cpu.clone(), ..CpuOptions::default() }
    }
}

/// The names of the backends, and perhaps another.
fn backends(other: Option<PossibleValue>) -> impl TypedValueParser<Value = &'static str> {
    let values = BACKENDS.iter().map(|b| PossibleValue::new(b.name).help(b.about).hide(!b.available));
    PossibleValuesParser::new(values.chain(other)).map(|name| match aic_backends::backend(&name) {
        Ok(backend) => backend.name,
        Err(_) => REFERENCE,
    })
}

/// The backend that is none: the interpreter.
pub const REFERENCE: &str = "reference";

fn reference() -> PossibleValue {
    PossibleValue::new(REFERENCE)
        .help("the interpreter: slow, obvious, and what the others are compared with")
}

fn default_backend() -> &'static str {
    aic_backends::available().next().map_or(REFERENCE, |b| b.name)
}

/// Whether to compile for a GPU or an NPU.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Compile for a CUDA GPU, ptx or ptx:sm_80 (A100 and later), ptx:sm_90a (H100, H200), or for an Ascend NPU,
    /// ascendc or ascendc:910B3
    #[arg(long = "target", value_name = "ptx[:SM]|ascendc[:CHIP]", value_parser = parse_device)]
    device: Option<Target>,
    /// Execute the device's kernels on this machine, without the device: slow, and wrong wherever that may be
    #[arg(long, requires = "device")]
    emulate: bool,
}

impl DeviceArgs {
    /// The device to emulate, if there is to be one.
    ///
    /// # Errors
    /// There is to be a real one.
    pub fn emulated(&self) -> Result<Option<Target>> {
        let help = "add --emulate to execute its kernels on this machine";
        let Some(device) = &self.device else { return Ok(None) };
        match self.emulate {
            true => Ok(Some(device.clone())),
            false => {
                Err(Error::new(format!("aic can't run code for {} on a device", device.name)).help(help))
            }
        }
    }

    /// The NPU that is compiled for, if it is one.
    pub fn npu(&self) -> Option<&Target> {
        self.device.as_ref().filter(|d| d.is_npu())
    }
}

/// A device by what `--target` calls it.
pub fn parse_device(text: &str) -> std::result::Result<Target, String> {
    let expected = "expected ptx, ptx:sm_80, ptx:sm_90a, ascendc or ascendc:910B3";
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    let found = match kind {
        "ptx" => Target::named(name.unwrap_or("sm_80")).filter(|t| t.name.starts_with("sm_")),
        "ascendc" => Target::named(name.unwrap_or("910B3")).filter(Target::is_npu),
        _ => None,
    };
    found.ok_or_else(|| expected.to_owned())
}

/// How to optimise.
#[derive(clap::Args)]
pub struct OptimiseArgs {
    /// How much to optimise: 0 is one kernel per operator, 2 the default, 3 lets rewriting go further
    #[arg(short = 'O', value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=3))]
    level: Option<u8>,
    /// What rewriting may do to the bits of the results
    #[arg(long, value_enum, default_value_t = NumericsArg::Reassociate)]
    numerics: NumericsArg,
    /// Rewrite rules beside the built-in ones; may be repeated
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// Stop rewriting after N rewrites, over all passes
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Where to leave the graph of a pass that fails; the folder of temporary files if not given
    #[arg(long, value_name = "DIR")]
    reproducer_dir: Option<PathBuf>,
}

impl OptimiseArgs {
    /// The level if it was given.
    pub fn level(&self) -> Option<usize> {
        self.level.map(usize::from)
    }

    /// How to compile for a CPU.
    ///
    /// # Errors
    /// A file of rules can't be read, or holds no rules.
    pub fn options(&self, cpu: CpuOptions) -> Result<driver::Options> {
        Ok(driver::Options {
            cpu,
            device: None,
            level: self.level().unwrap_or(driver::Options::default().level),
            numerics: self.numerics.into(),
            rules: self.rules.iter().map(|path| rules(path)).collect::<Result<_>>()?,
            fuel: self.fuel,
            reproducers: self.reproducer_dir.clone(),
            choices: Arc::default(),
        })
    }
}

fn rules(path: &Path) -> Result<RuleText> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(format!("{name}: cannot be read: {error}")))?;
    rule::parse(&name, &text)?;
    Ok(RuleText { name, text })
}

/// Classes of rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NumericsArg {
    /// Nothing: they are those of -O0, on every backend and with any number of threads
    Exact,
    /// Rearrange sums and products, as is true of real numbers
    Reassociate,
    /// Lose accuracy too, by approximations among the rules of --rules
    Fast,
}

impl From<NumericsArg> for Numerics {
    fn from(arg: NumericsArg) -> Numerics {
        match arg {
            NumericsArg::Exact => Numerics::Exact,
            NumericsArg::Reassociate => Numerics::Reassociate,
            NumericsArg::Fast => Numerics::Fast,
        }
    }
}

/// Schedules that tuning found.
#[derive(clap::Args, Default)]
pub struct RecordArgs {
    /// The file with what `aic tune` found; in the user's folder of caches if not given
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Choose schedules as if nothing had been tuned
    #[arg(long, conflicts_with = "records")]
    no_records: bool,
}

impl RecordArgs {
    /// None at all.
    pub fn none() -> RecordArgs {
        RecordArgs { no_records: true, ..RecordArgs::default() }
    }

    /// The file, if there is to be one.
    pub fn path(&self) -> Option<PathBuf> {
        if self.no_records { None } else { self.records.clone().or_else(records::default_path) }
    }

    /// Options with the schedules that were found for a CPU and so many threads.
    ///
    /// # Errors
    /// The file can't be read, or the CPU is unknown.
    pub fn apply(&self, options: driver::Options, threads: u32) -> Result<driver::Options> {
        let Some(path) = self.path().filter(|_| options.device.is_none()) else { return Ok(options) };
        let machine = Machine::this(&options.cpu, threads)?;
        let choices = Arc::new(Records::read(&path)?.choices(&machine));
        Ok(driver::Options { choices, ..options })
    }

    /// Says how many of a program's kernels have schedules that were found.
    pub fn report(&self, program: &Program, choices: &Choices) {
        let kernels = program.computes.iter().zip(&program.schedules);
        let is_tuned = |(c, s): &(&Option<Arc<Compute>>, &Option<Schedule>)| {
            c.as_ref().and_then(|c| choices.of(c)).is_some_and(|chosen| Some(chosen) == s.as_ref())
        };
        let n = kernels.filter(is_tuned).count();
        if let (1.., Some(path)) = (n, self.path()) {
            let all = program.kernels.len();
            print::note(&format!("{n} of {all} kernels are tuned, by {}", path.display()));
        }
    }
}

/// The number of threads that a session of so many has; 0 stands for one per core.
pub fn n_threads(threads: u32) -> u32 {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32,
        n => n,
    }
}

/// How to run a model.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Values of the inputs: a folder with input_0.pb ... or NAME.npy, an .npz archive, or NAME=FILE.npy; random ones
    /// if nothing is given
    #[arg(long, value_name = "DIR|FILE.npz|NAME=FILE", num_args = 1.., allow_hyphen_values = false)]
    inputs: Vec<String>,
    /// Seed of the random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What computes the model
    #[arg(long, value_parser = backends(Some(reference())), default_value = default_backend())]
    pub backend: &'static str,
    /// Refuse a model some of whose operators would be left to the interpreter
    #[arg(long)]
    strict: bool,
    /// Threads to run on; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub threads: u32,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub optimise: OptimiseArgs,
    #[command(flatten)]
    pub records: RecordArgs,
}

impl RunArgs {
    /// The number of threads that a session has.
    pub fn n_threads(&self) -> u32 {
        match (self.threads, self.backend) {
            (_, REFERENCE) => 1,
            (n, _) => n_threads(n),
        }
    }

    /// The machine that kernels are scheduled for.
    ///
    /// # Errors
    /// The CPU is unknown.
    pub fn target(&self) -> Result<Target> {
        driver::target(&self.cpu())
    }

    /// The CPU that code is made for.
    pub fn cpu(&self) -> CpuOptions {
        CpuOptions { backend: self.backend, cpu: self.cpu.cpu.clone(), ..CpuOptions::default() }
    }
}

/// A model ready to run, with inputs.
pub struct Prepared {
    /// As it was read.
    pub source: Source,
    /// What runs it.
    pub runner: Runner,
    /// A value for every input of the graph.
    pub inputs: Vec<Tensor>,
    /// What the model's outputs consist of.
    pub outputs: Vec<Structure>,
    /// In which format outputs should be written.
    pub format: Format,
    /// What it runs, if it is compiled.
    pub program: Option<Program>,
    /// How long it took, from reading the file to the compiled kernels, and to load those.
    pub times: Times,
}

/// Reads a model and its inputs and gets it ready to run in a session of these options, whose threads are those of
/// `args`. Tells what is worth knowing.
///
/// # Errors
/// Anything that keeps the model from being run on these inputs.
pub fn prepare(model: &ModelArgs, args: &RunArgs, options: session::Options) -> Result<Prepared> {
    prepare_by(model, args, options, &args.records)
}

/// As [`prepare`], with schedules from other records.
///
/// # Errors
/// As there.
pub fn prepare_by(
    model: &ModelArgs,
    args: &RunArgs,
    options: session::Options,
    records: &RecordArgs,
) -> Result<Prepared> {
    let start = Instant::now();
    let source = model.load()?;
    let given = io::read_inputs(&args.inputs, &source.inputs())?;
    let format = given.format;
    let reading = start.elapsed();

    let start = Instant::now();
    let given = io::take_apart(given.values);
    let imported = source.import_for(&model.dims()?, &given)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    if !imported.specialised.is_empty() {
        let names = imported.specialised.join(", ");
        print::note(&format!("the values of these inputs decide what is compiled, for them alone: {names}"));
    }
    let importing = start.elapsed();

    let outputs = imported.outputs.clone();
    let inputs = assemble(&imported.graph, given.tensors, args)?;
    driver::check_inputs(&imported, &inputs)?;
    let (runner, program, mut times) = match args.backend {
        REFERENCE => {
            ensure!(!args.strict, "--strict asks for compiled code, which the reference backend has none of");
            (Runner::Reference(imported.graph, Vec::new()), None, Times::default())
        }
        _ => {
            let (runner, program, times) = compile(imported.graph, &inputs, args, options, records)?;
            (runner, Some(program), times)
        }
    };
    times.compile += reading + importing;
    Ok(Prepared { source, runner, inputs, outputs, format, program, times })
}

/// A model compiled against the model of an NPU, for the shapes of the inputs that `args` gives.
///
/// # Errors
/// The model can't be compiled.
pub fn prepare_on_model(model: &ModelArgs, args: &RunArgs, npu: &Target) -> Result<ascend::Model> {
    let source = model.load()?;
    let given = io::take_apart(io::read_inputs(&args.inputs, &source.inputs())?.values);
    let imported = source.import_for(&model.dims()?, &given)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    let inputs = assemble(&imported.graph, given.tensors, args)?;
    on_model(&imported.graph, &inputs, args, npu)
}

fn compile(
    graph: Graph,
    inputs: &[Tensor],
    args: &RunArgs,
    session_options: session::Options,
    records: &RecordArgs,
) -> Result<(Runner, Program, Times)> {
    let start = Instant::now();
    let cpu = args.cpu();
    let device = args.device.emulated()?;
    if let Some(npu) = device.as_ref().filter(|d| d.is_npu()) {
        let model = on_model(&graph, inputs, args, npu)?;
        let program = model.compiled().program.clone();
        let times = Times { compile: start.elapsed(), ..Times::default() };
        return Ok((Runner::Model(model, Vec::new()), program, times));
    }
    let options = driver::Options { device: device.clone(), ..args.optimise.options(cpu.clone())? };
    let options = records.apply(options, args.n_threads())?;
    let program = driver::lower(graph, &options)?;
    report_host_nodes(&program, args.strict)?;
    records.report(&program, &options.choices);
    let lowering = start.elapsed();
    let _progress = Progress::start(&format!("compiling {} kernels", program.kernels.len()));
    if let Some(gpu) = device {
        let options = emulate::Options { seed: Some(args.seed), threads: args.threads as usize };
        let runner = Runner::Emulated(Emulated::new(&program, &gpu, options)?, Vec::new());
        let times =
            Times { compile: start.elapsed(), codegen: start.elapsed() - lowering, ..Times::default() };
        return Ok((runner, program, times));
    }
    let options = session::Options { n_threads: args.threads, ..session_options };
    let (runner, times) = Runner::compile(&program, &cpu, options)?;
    Ok((runner, program, Times { compile: times.compile + lowering, ..times }))
}

/// A graph for inputs of these shapes, compiled against the model of an NPU.
fn on_model(graph: &Graph, inputs: &[Tensor], args: &RunArgs, npu: &Target) -> Result<ascend::Model> {
    let cpu = CpuOptions { cpu: args.cpu.cpu.clone(), ..CpuOptions::default() };
    let options = args.optimise.options(cpu)?;
    let program = driver::lower_for(ascend::specialise(graph, inputs)?, &options, npu.clone())?;
    let compiled = ascend::compile(program, npu)?;
    report_host_steps(&compiled, args.strict)?;
    let _progress = Progress::start(&format!("compiling {} kernels", compiled.kernels.len()));
    ascend::Model::new(compiled, Settings { seed: args.seed.wrapping_add(1), ..Settings::default() })
}

/// Notes which nodes are no kernels of an NPU.
///
/// # Errors
/// There are such nodes, and `strict` forbids them; the error lists all.
pub fn report_host_steps(compiled: &ascend::Compiled, strict: bool) -> Result<()> {
    let step = |s: &ascend::Step| match s {
        ascend::Step::Host { nodes, reason, .. } => Some(format!("{}: {reason}", nodes.join(", "))),
        _ => None,
    };
    let lines: Vec<String> = compiled.steps.iter().filter_map(step).collect();
    if strict && !lines.is_empty() {
        let message = format!("{} steps are no kernels of the chip:\n  {}", lines.len(), lines.join("\n  "));
        return Err(Error::new(message).help("without --strict they are functions of the host"));
    }
    lines.iter().for_each(|line| print::note(&format!("on the host: {line}")));
    Ok(())
}

/// Notes which nodes the interpreter computes.
///
/// # Errors
/// There are such nodes, and `strict` forbids them; the error lists all.
pub fn report_host_nodes(program: &Program, strict: bool) -> Result<()> {
    let nodes = driver::host_nodes(program);
    let lines: Vec<String> = nodes.iter().map(|n| format!("{} ({}): {}", n.origin, n.op, n.reason)).collect();
    if strict && !lines.is_empty() {
        let n = lines.len();
        let message = format!("{n} nodes can't be compiled:\n  {}", lines.join("\n  "));
        return Err(Error::new(message).help("without --strict the interpreter computes them"));
    }
    lines.iter().for_each(|line| print::note(&format!("interpreted: {line}")));
    Ok(())
}

/// A value for every input: those given, or random ones if none are.
fn assemble(graph: &Graph, mut given: HashMap<String, Tensor>, args: &RunArgs) -> Result<Vec<Tensor>> {
    if args.inputs.is_empty() {
        return random_inputs(graph, args.seed);
    }
    let mut missing = Vec::new();
    let mut inputs = Vec::with_capacity(graph.inputs.len());
    for port in &graph.inputs {
        match given.remove(&port.name) {
            Some(t) => inputs.push(t),
            None => missing.push(format!("{:?} {}", port.name, graph.ty(port.value))),
        }
    }
    if missing.is_empty() {
        return Ok(inputs);
    }
    let error = Error::new(format!("no value for these inputs: {}", missing.join(", ")));
    Err(error.help("give every input a value, or none to have random ones"))
}

fn random_inputs(graph: &Graph, seed: u64) -> Result<Vec<Tensor>> {
    let random = |(k, port): (usize, &aic_ir::graph::Port)| {
        let ty = graph.ty(port.value);
        let shape = driver::smallest_shape(ty);
        shape
            .and_then(|shape| io::random(ty.dtype, shape, seed.wrapping_add(k as u64)))
            .map_err(|error| error.context(format!("input {:?}", port.name)))
    };
    let inputs: Vec<Tensor> = graph.inputs.iter().enumerate().map(random).collect::<Result<_>>()?;
    let describe = |(port, t): (&aic_ir::graph::Port, &Tensor)| {
        format!("{} {}", port.name, aic_ir::types::Type::of(t.dtype(), t.shape()))
    };
    let texts: Vec<String> = graph.inputs.iter().zip(&inputs).map(describe).collect();
    if !texts.is_empty() {
        print::note(&format!("random inputs: {}", texts.join(", ")));
    }
    Ok(inputs)
}

/// Seconds, as a number with as many digits as matter.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        let name = |text: &str| parse_device(text).map(|t| t.name);
        assert_eq!(name("ptx"), Ok("sm_80".into()));
        assert_eq!(name("ptx:sm_90a"), Ok("sm_90a".into()));
        assert_eq!(name("ascendc"), Ok("910B3".into()));
        assert_eq!(name("ascendc:910B3"), Ok("910B3".into()));
        for wrong in ["ptx:sm_20", "cuda", "ptx:910B3", "ascendc:sm_80", "ascendc:"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dims_are_names_and_numbers() {
        assert_eq!(parse_dim("batch=8"), Ok(("batch".into(), 8)));
        assert_eq!(parse_dim("a=b=0"), Ok(("a=b".into(), 0)));
        for wrong in ["batch", "batch=", "batch=-1", "=3", "batch=x", "batch=9223372036854775808"] {
            assert!(parse_dim(wrong).is_err(), "{wrong}");
        }
    }
}

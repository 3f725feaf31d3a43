//! `aic verify`: compiled results against the reference interpreter.

use super::args::{CodeArgs, DeviceArgs, ModelArgs, OptimiseArgs};
use super::print::{self, Progress};
use aic::certificate::{self, Replayed};
use aic::driver::Options;
use aic::import::file;
use aic::import::onnx::ImportOptions;
use aic::io;
use aic::verify::nodes::{self, Judged};
use aic::verify::{self, Case, Comparison, Compiler, Run};
use aic_backends::emulate;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_passes::pipeline;
use aic_passes::runner::Context;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  aic verify model.onnx                        three sets of random inputs
  aic verify model.onnx --inputs test_data_set_0
  aic verify model.onnx --per-node             which node goes wrong first?
  aic verify model.onnx -O3 --numerics exact --threads 2
  aic verify model.onnx --certificate proof.json
  aic verify model.onnx --target ptx --emulate  a GPU's kernels, without a GPU
  aic verify model.onnx --target ascendc --emulate --dim batch=2

Compares the compiled program's outputs with those of the interpreter on the graph as it was imported. What \
differs by more than rounding explains is wrong, and the exit code is then 1.

The tolerance of an element is 16 times as far as it moves when the interpreter twice disturbs every float result of \
every node by that node's rounding error (u sqrt(k) max|y| for a sum of k terms, 4 u |y| for other functions; u is \
2^-24 for f32; 16-bit results are rounded once more), but at least 16 times the mean of that over the tensor, and \
16 u sqrt(d) |y| behind d roundings. --numerics fast allows 1024 times the error of each. Integers are equal unless \
rounding decides them.

--per-node compares every value of the imported graph, which are made outputs for that, and then every kernel of \
the program as it is, given the operands that were computed for it.

--certificate checks, without searching, that every rewrite of `aic opt MODEL --certificate proof.json` is an \
instance of a rule, and that these make the graphs equal; the passes that don't rewrite are run again.

--dim gives symbolic dimensions a value; without, they are 1 for the first inputs and up to 6 for others.";

/// Compare compiled results with the reference interpreter
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    inputs: CaseArgs,
    /// Don't compare, but check this proof of what the passes did, as aic opt --certificate writes it
    #[arg(long, value_name = "FILE.json", conflicts_with = "per_node")]
    certificate: Option<PathBuf>,
    /// Compare inside of the model too
    #[arg(long)]
    per_node: bool,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    optimise: OptimiseArgs,
}

/// On which inputs a model is compared.
#[derive(clap::Args)]
pub struct CaseArgs {
    /// Values of the inputs, as for aic run; generated ones if nothing is given
    #[arg(long, value_name = "DIR|FILE.npz|NAME=FILE", num_args = 1..)]
    inputs: Vec<String>,
    /// How many sets of inputs to generate
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads to run on; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub threads: u32,
    /// Run these passes, in this order, instead of those of a level
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', conflicts_with = "level")]
    passes: Option<Vec<String>>,
}

/// How code is made of a program.
type Load<'a> = &'a dyn Fn(&Program, &Options) -> Result<Run>;

impl CaseArgs {
    /// The compiler to look at.
    ///
    /// # Errors
    /// A pass is unknown.
    pub fn compiler<'a>(&self, options: &'a Options, load: Load<'a>) -> Result<Compiler<'a>> {
        let mut compiler = Compiler::new(options, load)?;
        if let Some(names) = &self.passes {
            let names: Vec<&str> = names.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).collect();
            compiler.passes = pipeline::passes(&names)?;
        }
        Ok(compiler)
    }

    /// The graph, and what it computes on the inputs.
    ///
    /// # Errors
    /// The model can't be imported, or isn't defined on the inputs.
    pub fn cases(
        &self,
        model: &ModelArgs,
        options: &Options,
        keep_values: bool,
    ) -> Result<(Graph, Vec<Case>)> {
        let source = model.load()?;
        let given = io::take_apart(io::read_inputs(&self.inputs, &source.inputs())?.values);
        let imported = source.import_for(&model.dims()?, &given)?;
        imported.warnings.iter().for_each(|w| print::warning(w));
        let graph = imported.graph;
        let _progress = Progress::start("interpreting");
        let cases = match self.inputs.is_empty() {
            true => (self.seed..self.seed.saturating_add(self.seeds))
                .map(|seed| verify::generate(&graph, seed, options.numerics, keep_values))
                .collect::<Result<_>>()?,
            false => {
                let value = |p: &aic_ir::graph::Port| given.tensors.get(&p.name).cloned();
                let inputs: Option<Vec<_>> = graph.inputs.iter().map(value).collect();
                let inputs = inputs.ok_or_else(|| Error::new("an input has no value"))?;
                vec![verify::case_of(&graph, inputs, options.numerics, keep_values)?]
            }
        };
        Ok((graph, cases))
    }
}

/// Compares.
///
/// # Errors
/// The model can't be compiled or interpreted, or results are wrong.
pub fn execute(args: &Args) -> Result<()> {
    let device = args.device.emulated()?;
    let options = Options { device: device.clone(), ..args.optimise.options(args.code.options())? };
    if let Some(path) = &args.certificate {
        return replay(path, &args.model, &options);
    }
    let (graph, cases) = args.inputs.cases(&args.model, &options, args.per_node)?;
    let load = |p: &_, o: &_| match &device {
        Some(npu) if npu.is_npu() => verify::load_on_model(p, npu, args.inputs.seed),
        Some(gpu) => {
            let options =
                emulate::Options { seed: Some(args.inputs.seed), threads: args.inputs.threads as usize };
            verify::load_emulated(p, gpu, options)
        }
        None => verify::load_compiled(p, o, args.inputs.threads),
    };
    let compiler = args.inputs.compiler(&options, &load)?;
    let results = {
        let _progress = Progress::start("compiling and running");
        verify::outputs(&graph, &compiler, &cases)?
    };
    let titles = ["inputs", "output", "type", "max abs", "max rel", "of tolerance", ""];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for (case, comparisons) in cases.iter().zip(&results) {
        rows.extend(comparisons.iter().map(|c| row(&case.to_string(), c)));
    }
    print::stdout(&print::table(&rows))?;
    if args.per_node {
        per_node(&graph, &compiler, &cases)?;
    }
    match results.iter().flatten().filter(|c| c.is_wrong()).max_by(|a, b| a.ratio.total_cmp(&b.ratio)) {
        None => Ok(()),
        Some(worst) => {
            let n = results.iter().flatten().filter(|c| c.is_wrong()).count();
            let error =
                Error::new(format!("{n} of {} outputs are wrong; {worst}", results.iter().flatten().count()));
            Err(error.help("aic bisect finds the pass and the rewrite; --per-node shows where it begins"))
        }
    }
}

/// Checks a certificate for a model.
fn replay(path: &Path, model: &ModelArgs, options: &Options) -> Result<()> {
    let failed = |error: Error| error.context(path.display());
    let json = serde_json::from_slice(&file::map(path)?)
        .map_err(|error| failed(Error::new(format!("not JSON: {error}"))))?;
    let import = ImportOptions { dims: model.dims()?, ..ImportOptions::default() };
    let graph = model.load()?.import(&import)?.graph;
    let cx = Context::new(&options.pipeline_for(Target::x86_avx2()));
    let Replayed { runs, instances, rules, again } =
        certificate::replay(&json, &graph, &cx).map_err(failed)?;
    let rules: Vec<String> = rules.into_iter().collect();
    print::stdout(&format!(
        "proved: {runs} runs of the rewriter by {instances} instances of {} rules ({}); run again: {}",
        rules.len(),
        rules.join(", "),
        again.join(", ")
    ))
}

fn row(place: &str, c: &Comparison) -> Vec<String> {
    let verdict = match (&c.error, c.n_wrong) {
        (Some(error), _) => error.clone(),
        (None, 0) => "ok".to_owned(),
        (None, n) => format!("WRONG: {n} elements"),
    };
    let number = |x: f64| format!("{x:.2e}");
    let cells = [place, &c.name, &c.ty.to_string(), &number(c.max_abs), &number(c.max_rel)];
    let cells = cells.into_iter().map(str::to_owned);
    cells.chain([format!("{:.3}", c.ratio), verdict]).collect()
}

/// Prints the nodes that are wrong, the first of them, and those that come closest.
fn per_node(graph: &Graph, compiler: &Compiler<'_>, cases: &[Case]) -> Result<()> {
    let optimised = compiler.optimise(graph.clone())?;
    for case in cases {
        let of_graph = nodes::of_graph(graph, compiler, case)?;
        print::stdout(&format!("\nvalues of the imported graph, {case}\n{}", listed(&of_graph)))?;
        let of_program = nodes::of_program(&optimised, compiler, &case.inputs)?;
        print::stdout(&format!("\nkernels of the program, {case}\n{}", listed(&of_program)))?;
    }
    Ok(())
}

/// How many nodes are listed where none or more are wrong.
const N_LISTED: usize = 10;

fn listed(judged: &[Judged]) -> String {
    let mut worst: Vec<&Judged> = judged.iter().collect();
    worst.sort_by(|a, b| b.comparison.ratio.total_cmp(&a.comparison.ratio));
    let titles = ["", "node", "type", "max abs", "max rel", "of tolerance", ""];
    let rows = worst.iter().take(N_LISTED).map(|j| row("", &j.comparison));
    let rows: Vec<Vec<String>> = std::iter::once(titles.map(str::to_owned).to_vec()).chain(rows).collect();
    let n_wrong = judged.iter().filter(|j| j.comparison.is_wrong()).count();
    let summary = match judged.iter().find(|j| j.comparison.is_wrong()) {
        Some(first) => {
            format!("{n_wrong} of {} are wrong, the first is {}\n", judged.len(), first.comparison)
        }
        None => format!("{} compared, none is wrong\n", judged.len()),
    };
    print::table(&rows) + &summary
}

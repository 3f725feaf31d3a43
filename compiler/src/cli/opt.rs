//! `aic opt`: the graph after the passes named, and what they did.

use super::args::{DimArgs, OptimiseArgs};
use super::dump::Dump;
use super::print;
use super::summary;
use aic::driver::{self, Source};
use aic::import::onnx::ImportOptions;
use aic::{certificate, graph_file, reproducer};
use aic_backends::CpuOptions;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_passes::fuse::Duplication;
use aic_passes::pipeline::{self, LEVELS, PASSES};
use aic_passes::rewrite::saturate::Limits;
use aic_passes::runner::{self, Context};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  aic opt model.onnx                       the graph after the passes of -O2
  aic opt model.onnx --passes ''           the graph as it was imported
  aic opt model.onnx --passes fold,dce     these passes in this order
  aic opt -O2 --list-passes                what -O2 runs
  aic opt model.onnx --dump-after all --dump-dir dumps
  aic opt dumps/2-after-fold.aic --start-at rewrite
  aic opt model.onnx --time-passes --rewrite-stats
  aic opt model.onnx --certificate proof.json
  aic opt a.onnx b.onnx --summary          kernels, FLOPs, bytes: -O0 and now

Prints the text form of the graph, which reads back. Constants of more than 64 elements are printed as hashes of \
their contents; -o and --dump-dir write those to .safetensors files beside the graph. A pass that occurs twice is \
named NAME:2 the second time. The graph is verified after every pass; a pass that fails leaves a reproducer.

--summary lowers the graph at -O0 and after the passes, and compares: launches are kernels started in a run, bytes \
the arrays that they read and write, arena the memory for intermediate results.";

/// Print the graph after optimisation passes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: .onnx, graph JSON (.json) or the text form of a graph (.aic); with --summary there may be several
    #[arg(value_name = "MODEL", required_unless_present = "list_passes")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dims: DimArgs,
    #[command(flatten)]
    optimise: OptimiseArgs,
    /// The passes to run, in this order, instead of those of a level
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', conflicts_with = "level")]
    passes: Option<Vec<String>>,
    /// List the passes of -O LEVEL in their order; without -O all passes and levels
    #[arg(long)]
    list_passes: bool,
    /// Start at this pass; the graph is what the passes before it would have made
    #[arg(long, value_name = "NAME")]
    start_at: Option<String>,
    /// Stop after this pass
    #[arg(long, value_name = "NAME")]
    stop_after: Option<String>,
    #[command(flatten)]
    dump: Dump,
    /// What fuse does with a map that several kernels read
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = DuplicateArg::Cheapest)]
    duplicate: DuplicateArg,
    /// Tell how long each pass took
    #[arg(long)]
    time_passes: bool,
    /// Tell what the rewriter did: rules that matched, were applied, and made a part of the result; regions; costs
    #[arg(long)]
    rewrite_stats: bool,
    /// Write the proof of every rewrite to a file, which aic verify --certificate checks; bodies of if, loop and scan
    /// are left alone then
    #[arg(long, value_name = "OUT.json", conflicts_with_all = ["fuel", "summary", "start_at", "stop_after"])]
    certificate: Option<PathBuf>,
    /// Write the graph to a file, and its large constants beside it
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Print a table of kernels, FLOPs and bytes before and after, a row for each model, instead of the graph
    #[arg(long)]
    summary: bool,
    /// With --summary: list the kernels after the passes
    #[arg(long, requires = "summary")]
    per_kernel: bool,
}

/// Choices of fusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DuplicateArg {
    /// Whichever of the other two costs less
    Cheapest,
    /// Compute it in each of them
    Always,
    /// Compute it once, and store it
    Never,
}

impl From<DuplicateArg> for Duplication {
    fn from(arg: DuplicateArg) -> Duplication {
        match arg {
            DuplicateArg::Cheapest => Duplication::Cheapest,
            DuplicateArg::Always => Duplication::Always,
            DuplicateArg::Never => Duplication::Never,
        }
    }
}

/// Prints the graph, the list of passes, or the summary.
///
/// # Errors
/// A model can't be imported, a pass is unknown or fails.
pub fn execute(args: &Args) -> Result<()> {
    let options = args.optimise.options(CpuOptions::default())?;
    if args.list_passes {
        return list(args.optimise.level());
    }
    if args.summary {
        let optimised = |path: &Path| {
            let before = import(path, args)?;
            Ok((before.clone(), optimise(before, args, &options)?))
        };
        return summary::print(&args.paths, args.per_kernel, &optimised);
    }
    let [path] = &args.paths[..] else {
        return Err(Error::new("expected one model").help("several are for --summary"));
    };
    let graph = optimise(import(path, args)?, args, &options)?;
    match &args.output {
        Some(path) => graph_file::write(path, &graph),
        None => print::stdout(&graph.to_string()),
    }
}

fn list(level: Option<usize>) -> Result<()> {
    if let Some(level) = level {
        return print::stdout(&pipeline::level(level)?.join(","));
    }
    let passes = PASSES.iter().map(|p| vec![p.name.to_owned(), p.help.to_owned()]);
    let levels = LEVELS.iter().enumerate().map(|(k, names)| {
        let limits = names.contains(&"rewrite").then(|| format!("; rewrite: {}", Limits::of_level(k)));
        vec![format!("-O{k}"), names.join(",") + &limits.unwrap_or_default()]
    });
    print::stdout(&print::table(&passes.chain(levels).collect::<Vec<_>>()))
}

fn import(path: &Path, args: &Args) -> Result<Graph> {
    let options = ImportOptions { dims: args.dims.by_name()?, ..ImportOptions::default() };
    let imported = Source::load(path)?.import(&options)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    Ok(imported.graph)
}

/// Runs the passes asked for, for a machine that is always the same, so that what is printed is too.
fn optimise(graph: Graph, args: &Args, options: &driver::Options) -> Result<Graph> {
    let names = match &args.passes {
        None => pipeline::level(options.level)?.to_vec(),
        Some(names) => names.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).collect(),
    };
    let names = runner::part(&names, args.start_at.as_deref(), args.stop_after.as_deref())?;
    let passes = pipeline::passes(&names)?;
    let mut watcher = args.dump.watcher(&names, args.time_passes)?;
    let mut cx = Context::new(&options.pipeline_for(Target::x86_avx2()));
    cx.certify = args.certificate.is_some();
    cx.duplication = args.duplicate.into();
    let imported = graph.clone();
    let result = runner::run_watched(graph, &passes, &mut cx, true, &mut |event| watcher.tell(&event));
    watcher.finish()?;
    let graph = result.map_err(|failure| reproducer::leave(*failure, &passes, options))?;
    if args.rewrite_stats {
        print::stderr(cx.rewrites.to_string().trim_end());
    }
    if let Some(path) = &args.certificate {
        let json = certificate::to_json(&imported, &passes, options.numerics, &cx.certificates, &graph);
        graph_file::write_text(path, &json.to_string())?;
    }
    Ok(graph)
}

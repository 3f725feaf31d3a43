//! `aic opt`: the graph after the passes named.

use super::args::DimArgs;
use super::print;
use aic::driver::Source;
use aic::import::onnx::ImportOptions;
use aic_ir::error::Result;
use aic_ir::target::Target;
use aic_passes::pipeline::{LEVELS, Options, PASSES};
use aic_passes::runner::{self, Context};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aic opt model.onnx                            the graph after all passes
  aic opt model.onnx --passes ''                the graph as it was imported
  aic opt model.onnx --passes canonicalize,dce
  aic opt graph.aic --passes fold
  aic opt --list-passes

Prints the text form of the graph. Constants of more than 64 elements are printed as hashes of their contents.";

/// Print the graph after optimisation passes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: .onnx, graph JSON (.json) or the text form of a graph (.aic)
    #[arg(value_name = "MODEL", required_unless_present = "list_passes")]
    path: Option<PathBuf>,
    #[command(flatten)]
    dims: DimArgs,
    /// The passes to run, in this order; all if not given
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    passes: Option<Vec<String>>,
    /// List the passes, in the order in which they run
    #[arg(long)]
    list_passes: bool,
}

/// Prints the graph, or the list of passes.
///
/// # Errors
/// The model can't be imported, a pass is unknown or fails.
pub fn execute(args: &Args) -> Result<()> {
    let Some(path) = args.path.as_ref().filter(|_| !args.list_passes) else {
        let rows = PASSES.iter().map(|p| vec![p.name.to_owned(), p.help.to_owned()]);
        return print::stdout(&print::table(&rows.collect::<Vec<_>>()));
    };
    let names: Vec<&str> = match &args.passes {
        None => LEVELS[2].to_vec(),
        Some(names) => names.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).collect(),
    };
    let options = ImportOptions { dims: args.dims.by_name()?, ..ImportOptions::default() };
    let imported = Source::load(path)?.import(&options)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    let mut cx = Context::new(&Options::new(Target::x86_avx2()));
    print::stdout(&runner::run(imported.graph, &names, &mut cx)?.to_string())
}

//! `aic check`: is every node of a model supported?

use super::args::ModelArgs;
use super::print;
use aic::driver;
use aic::import::onnx::{ImportOptions, Problem};
use aic_ir::error::{Error, Result};
use aic_ir::target::Target;
use aic_passes::pipeline::{self, Options};

const EXAMPLES: &str = "\
Examples:
  aic check model.onnx
  aic check model.onnx --dim batch=1 --dim seq=128

Prints a line for every node that isn't supported: its name, operator, version of the operator set, and the \
reason. The exit code is 1 if there is one. Nodes that only the interpreter computes are listed too, and are no \
failure.";

/// Name every node that isn't supported, and why
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Checks.
///
/// # Errors
/// The model is malformed, or some of its nodes are not supported.
pub fn execute(args: &Args) -> Result<()> {
    let source = args.model.load()?;
    let dims = args.model.dims()?;
    let problems = source.check(&dims)?;
    if !problems.is_empty() {
        print::stdout(&print::table(&problems.iter().map(row).collect::<Vec<_>>()))?;
        let nodes = if problems.len() == 1 { "node" } else { "nodes" };
        return Err(Error::new(format!("{} {nodes} can't be imported", problems.len())));
    }
    let imported = source.import(&ImportOptions { dims, ..ImportOptions::default() })?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    let program = pipeline::compile(imported.graph, &Options::new(Target::x86_avx2()))?;
    let hosts = driver::host_nodes(&program);
    let rows: Vec<Vec<String>> =
        hosts.iter().map(|n| vec![n.origin.clone(), n.op.to_owned(), n.reason.clone()]).collect();
    if rows.is_empty() {
        return print::stdout("every node is supported and compiled");
    }
    print::stdout(&format!("every node is supported; these are interpreted:\n{}", print::table(&rows)))
}

fn row(p: &Problem) -> Vec<String> {
    let op = if p.domain.is_empty() { p.op.clone() } else { format!("{}.{}", p.domain, p.op) };
    vec![p.node.clone(), op, format!("opset {}", p.opset), p.reason.clone()]
}

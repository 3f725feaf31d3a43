//! `aic bisect`: from a wrong answer to the pass, the rewrite, and the smallest graph that shows it.

use super::args::{CodeArgs, ModelArgs, OptimiseArgs};
use super::print::{self, Progress};
use super::verify::CaseArgs;
use aic::bisect::{self, Finding};
use aic::driver::Options;
use aic::graph_file;
use aic::verify;
use aic_ir::error::{Error, Result};
use aic_passes::runner::Numerics;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  aic bisect model.onnx
  aic bisect model.onnx -O3 --inputs test_data_set_0 -o testdata/issues/7.aic
  aic bisect model.onnx --rules mine.rules     which of my rules is wrong?

Where `aic verify` finds outputs wrong, this finds out why. It interprets the graph after each pass; the first pass \
after which the answer differs is named, or `lower` where only the compiled program differs. The graph that the \
pass was given is cut down to the nodes that show it, and fuel and the list of rules tell which rewrite it is. \
The result is written as a golden test: its first lines say what is wrong, and its command fails until it is \
right. The exit code is 1 if something is wrong, as it is for aic verify.";

/// Find the pass, the rewrite and the smallest graph behind a wrong answer
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    inputs: CaseArgs,
    /// Where to write the golden test; bisect-PASS.aic if not given
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    optimise: OptimiseArgs,
}

/// Searches.
///
/// # Errors
/// The model can't be interpreted, or something is wrong with how it is compiled.
pub fn execute(args: &Args) -> Result<()> {
    let options = args.optimise.options(args.code.options())?;
    let (graph, cases) = args.inputs.cases(&args.model, &options, false)?;
    let load = |p: &_, o: &_| verify::load_compiled(p, o, args.inputs.threads);
    let compiler = args.inputs.compiler(&options, &load)?;
    for case in &cases {
        let found = {
            let _progress = Progress::start("searching");
            bisect::bisect(&graph, &compiler, case, &mut |step| print::note(step))?
        };
        if let Some(finding) = found {
            return report(&finding, args, &options);
        }
    }
    print::stdout("nothing is wrong: every output is what the interpreter gives, as far as rounding explains")
}

fn report(finding: &Finding, args: &Args, options: &Options) -> Result<()> {
    let default = || PathBuf::from(format!("bisect-{}.aic", finding.pass));
    let path = args.output.clone().unwrap_or_else(default);
    let flags = flags(&path, args, options)?;
    graph_file::write_text(&path, &bisect::golden(finding, &flags))?;
    let rewrites = finding.rewrites.join("; ");
    let rows = [
        ("pass", finding.pass.clone()),
        (if finding.pass == "lower" { "nodes" } else { "rewrite" }, rewrites),
        ("wrong", finding.comparison.to_string()),
        ("graph", format!("{} nodes, in {}", finding.n_nodes, path.display())),
    ];
    print::stdout(&print::table(&rows.map(|(title, text)| vec![title.to_owned(), text])))?;
    Err(Error::new(format!("pass {} makes the model's answer wrong", finding.pass)))
}

/// What of the command line matters to the test. Rules are written beside it.
fn flags(path: &Path, args: &Args, options: &Options) -> Result<String> {
    let mut flags = match options.numerics {
        Numerics::Exact => " --numerics exact",
        Numerics::Reassociate => "",
        Numerics::Fast => " --numerics fast",
    }
    .to_owned();
    if !options.rules.is_empty() {
        let rules: Vec<&str> = options.rules.iter().map(|r| &*r.text).collect();
        let rules_path = path.with_extension("rules");
        graph_file::write_text(&rules_path, &rules.join("\n"))?;
        flags += &format!(" --rules {}", rules_path.file_name().unwrap_or_default().to_string_lossy());
    }
    if args.inputs.threads > 0 {
        flags += &format!(" --threads {}", args.inputs.threads);
    }
    Ok(flags)
}

//! `aic convert`: ONNX to graph JSON and back.

use super::print::Progress;
use aic::import::load;
use aic_ir::error::Result;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aic convert model.onnx -o model.json
  aic convert model.json -o model.onnx

Nothing is lost on the way: the model comes back with every field and every bit. Weights in external files stay \
in external files, which are copied if OUT is in another folder. testdata/README.md describes the JSON.";

/// Convert a model between ONNX and graph JSON, without loss
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, in either format
    #[arg(value_name = "IN")]
    model: PathBuf,
    /// Where to write it; the name ends in .onnx or .json
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// Converts.
///
/// # Errors
/// The model can't be read, or OUT can't be written.
pub fn execute(args: &Args) -> Result<()> {
    let _progress = Progress::start("converting");
    let model = load::load_model(&args.model)?;
    load::save_model(&args.output, &model)
}

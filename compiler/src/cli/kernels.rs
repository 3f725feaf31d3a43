//! `aic kernels`: the loop kernels that a model becomes on a machine, with their schedules.

use super::args::{ModelArgs, OptimiseArgs};
use super::{print, target};
use aic::import::onnx::ImportOptions;
use aic_backends::CpuOptions;
use aic_ir::compute::Compute;
use aic_ir::error::Result;
use aic_ir::kernel::Kernel;
use aic_ir::op::Op;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_ir::verify;
use aic_passes::schedule::{self, Nest, Piece};
use aic_passes::{lower, pipeline};
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  aic kernels model.onnx                        for CPUs with AVX2
  aic kernels model.onnx --target sm_80
  aic kernels matmul.aic --target 910B3 --schedule \\
    'contract unit=cube_f16 cores=2 l1=32x32x64*2 l0=32x32x32*2'

Kernels of core operators are printed in the text form of the loop IR, each behind the nodes that it computes and its \
schedule. What has no kernel on the target is named in a comment.";

/// Print the loop kernels that a model becomes on a machine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The machine: one of `aic target ls`
    #[arg(long, value_name = "NAME", default_value = "x86-64-v3", value_parser = target::named)]
    target: Target,
    /// The schedule of every loop nest that it fits, instead of the one chosen
    #[arg(long, value_name = "TEXT", value_parser = schedule_of)]
    schedule: Option<Schedule>,
    #[command(flatten)]
    optimise: OptimiseArgs,
}

fn schedule_of(text: &str) -> Result<Schedule> {
    text.parse()
}

/// Prints the kernels.
///
/// # Errors
/// The model can't be read or imported, or a pass fails.
pub fn execute(args: &Args) -> Result<()> {
    let options = ImportOptions { dims: args.model.dims()?, ..ImportOptions::default() };
    let imported = args.model.load()?.import(&options)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    let options = args.optimise.options(CpuOptions::default())?.pipeline_for(args.target.clone());
    let program = pipeline::compile(imported.graph, &options)?;
    let g = &program.graph;
    let (mut out, mut n_kernels) = (String::new(), 0);
    for (_, n) in g.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_) | Op::Reshape(_))) {
        let types =
            |vs: &[aic_ir::graph::ValueId]| -> Vec<Type> { vs.iter().map(|v| g.ty(*v).clone()).collect() };
        let (x, y) = (types(&n.inputs), types(&n.outputs));
        let origin: Vec<&str> = n.origin.iter().map(|o| &**o).collect();
        let title = format!("{} {}", n.op.keyword(), origin.join(", "));
        let pieces = n.op.compute(&x, &y).map(|c| {
            let c = Compute { constants: lower::constants(g, n), ..c };
            schedule::pieces(&c, &args.target)
        });
        let pieces = pieces.unwrap_or_default();
        for piece in &pieces {
            let name = format!("{}_{n_kernels}", n.op.keyword());
            match kernel(&name, piece, args) {
                Ok((s, k)) => {
                    n_kernels += 1;
                    let _ = writeln!(out, "// {}\n// {s}\n{k}", title.trim_end());
                }
                Err(e) => {
                    let _ = writeln!(out, "// {}: {}\n", title.trim_end(), e.message);
                }
            }
        }
        match n.op.kernel(&x, &y) {
            _ if !pieces.is_empty() => {}
            Some(k) => drop(writeln!(out, "// {}\n{k}", title.trim_end())),
            None => drop(writeln!(out, "// {}: interpreted\n", title.trim_end())),
        }
    }
    print::stdout(out.trim_end_matches('\n'))
}

/// The kernel of a piece, by the schedule that was asked for if it fits.
fn kernel(name: &str, piece: &Piece, args: &Args) -> Result<(Schedule, Kernel)> {
    if let (Some(s), Ok(nest)) = (&args.schedule, Nest::new(&piece.compute))
        && nest.reduction.is_some()
    {
        let k = schedule::apply(name, &nest, s);
        verify::report("the kernel of this schedule", &verify::kernel_for(&k, &args.target))?;
        return Ok((s.clone(), k));
    }
    schedule::kernel(name, &piece.compute, &args.target).map(|made| (made.schedule, made.kernel))
}

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
use aic_passes::rewrite::cost::peak_of;
use aic_passes::schedule::space::{Prediction, Space};
use aic_passes::schedule::{self, Nest, Piece};
use aic_passes::{lower, pipeline};
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  aic kernels model.onnx                        for CPUs with AVX2
  aic kernels model.onnx --target sm_80
  aic kernels matmul.aic --target 910B3 --schedule \\
    'contract unit=cube_f16 cores=2 l1=32x32x64*2 l0=32x32x32*2'
  aic kernels model.onnx --why --target x86-64-v4
  aic kernels model.onnx matmul_3 --why

Kernels of core operators are printed in the text form of the loop IR, each behind the nodes that it computes and its \
schedule. What has no kernel on the target is named in a comment.

With --why, for CPUs: the schedules next to the one chosen, by what the model of costs says of one thread: time, of that computing, time of moving data, and what bounds it: arithmetic, the latency of sums, loads, or a memory. `intensity` is operations per byte of the kernel's arrays.";

/// Print the loop kernels that a model becomes on a machine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Only kernels whose name or source nodes contain this
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print what could have been chosen, with predicted costs and what bounds them, instead of the kernels
    #[arg(long)]
    why: bool,
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
    let (g, target) = (&program.graph, options.machine());
    let (mut out, mut n_kernels) = (String::new(), 0);
    for (_, n) in g.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_) | Op::Reshape(_))) {
        let types =
            |vs: &[aic_ir::graph::ValueId]| -> Vec<Type> { vs.iter().map(|v| g.ty(*v).clone()).collect() };
        let (x, y) = (types(&n.inputs), types(&n.outputs));
        let origin: Vec<&str> = n.origin.iter().map(|o| &**o).collect();
        let title = format!("{} {}", n.op.keyword(), origin.join(", "));
        let pieces = n.op.compute(&x, &y).map(|c| {
            let c = Compute { constants: lower::constants(g, n), ..c };
            schedule::pieces(&c, &target)
        });
        let pieces = pieces.unwrap_or_default();
        for piece in &pieces {
            let name = format!("{}_{n_kernels}", n.op.keyword());
            if args.name.as_ref().is_some_and(|wanted| !name.contains(wanted) && !title.contains(wanted)) {
                n_kernels += 1;
                continue;
            }
            if args.why {
                n_kernels += 1;
                out += &why(&format!("{name} {}", title.trim_end()), &piece.compute, &target);
                continue;
            }
            match kernel(&name, piece, args, &target) {
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
            _ if !pieces.is_empty() || args.why || args.name.is_some() => {}
            Some(k) => drop(writeln!(out, "// {}\n{k}", title.trim_end())),
            None => drop(writeln!(out, "// {}: interpreted\n", title.trim_end())),
        }
    }
    print::stdout(out.trim_end_matches('\n'))
}

/// The kernel of a piece, by the schedule that was asked for if it fits.
fn kernel(name: &str, piece: &Piece, args: &Args, target: &Target) -> Result<(Schedule, Kernel)> {
    if let (Some(s), Ok(nest)) = (&args.schedule, Nest::new(&piece.compute))
        && nest.reduction.is_some()
    {
        let k = schedule::apply(name, &nest, s);
        verify::report("the kernel of this schedule", &verify::kernel_for(&k, target))?;
        return Ok((s.clone(), k));
    }
    schedule::kernel(name, &piece.compute, target).map(|made| (made.schedule, made.kernel))
}

/// Schedules that are printed beside the one that is chosen.
const NEIGHBOURS: usize = 12;

/// The schedules next to the one that is chosen for a compute, the cheapest first.
fn why(title: &str, c: &Compute, target: &Target) -> String {
    let Some(space) = Space::new(c, target) else { return format!("// {title}: there is no choice\n\n") };
    let first = space.first();
    let turn = |k: &schedule::space::Knob, v: u32| space.turned(first, k, v);
    let turned = space.knobs().iter().flat_map(|k| k.values.iter().filter_map(move |v| turn(k, *v)));
    let mut all: Vec<(Prediction, Schedule)> = Vec::new();
    for s in turned.filter(|s| s != first) {
        if !all.iter().any(|(_, seen)| *seen == s) {
            all.push((space.predict(&s), s));
        }
    }
    all.sort_by(|a, b| a.0.seconds.total_cmp(&b.0.seconds));
    let n_all = all.len();
    all.truncate(NEIGHBOURS);
    all.insert(0, (space.predict(first), first.clone()));
    let titles = ["us", "computing", "moving", "bound", "schedule"].map(str::to_owned).to_vec();
    let micro = |s: f64| format!("{:.2}", s * 1e6);
    let row = |(p, s): &(Prediction, Schedule)| {
        vec![micro(p.seconds), micro(p.computing), micro(p.moving), p.bound.clone(), s.to_string()]
    };
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(all.iter().map(row)).collect();
    format!(
        "// {title}\n// {}\n{}// {n_all} schedules differ in one parameter\n\n",
        roofline(c, target),
        print::table(&rows)
    )
}

/// What a compute is by its definition, and the time that the tables of a machine say its arithmetic takes.
fn roofline(c: &Compute, target: &Target) -> String {
    let number = |d: aic_ir::dim::Dim| d.as_const().map_or(f64::NAN, |n| n as f64);
    let flops = number(c.flops());
    let ty = |t: Type| number(t.numel()) * t.dtype.size() as f64;
    let outputs = c.outputs.iter().map(|k| ty(c.stages[*k].ty()));
    let bytes: f64 = c.inputs.iter().cloned().map(ty).chain(outputs).sum();
    let Some(dtype) = c.outputs.first().map(|k| c.stages[*k].dtype) else { return String::new() };
    let micro = flops / peak_of(target, dtype) * 1e6;
    format!(
        "{flops} operations, {bytes} bytes, intensity {:.2}; {micro:.2} us of arithmetic as defined",
        flops / bytes
    )
}

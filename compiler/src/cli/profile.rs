//! `aic profile`: the time of a run, kernel by kernel.

use super::args::{self, ModelArgs, Prepared, RunArgs};
use super::print::{self, Progress};
use super::{bench, info, predict};
use aic::driver::Runner;
use aic::profile::{self, Machine, Row};
use aic::session;
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::eval;
use serde_json::json;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  aic profile model.onnx
  aic profile model.onnx --threads 1 --dim batch=8
  aic profile model.onnx --json
  aic profile model.onnx --target ascendc       predicted, for an NPU

A row for each kernel: its launches in a run and the time that they take together (the median of many runs), what they \
compute and move per second, and how much of what the roofline of the target's tables allows that is, with what bounds \
it: arithmetic, a memory, or starting the kernel (`aic target show NAME` prints the tables). Bytes are those of its \
arrays, each counted once per launch. With --json one line per kernel and a last one for the run, with whole lists of \
source nodes.

For an NPU, times are those that the cycle model of its cores predicts, of a pass through the kernels without data; \
`bound` is the pipe, or the memory, that takes longest.";

/// Time the kernels of a model
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// How long to run it for; once at least
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = bench::parse_seconds)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures.
///
/// # Errors
/// The model can't be run on these inputs, or isn't compiled.
pub fn execute(args: &Args) -> Result<()> {
    if let Some(npu) = args.run.device.npu() {
        let model = args::prepare_on_model(&args.model, &args.run, npu)?;
        return predict::execute(&model, npu, args.json);
    }
    let options = session::Options { profile: true, weights_in_place: true, ..session::Options::default() };
    let Prepared { mut runner, inputs, program, .. } = args::prepare(&args.model, &args.run, options)?;
    let Some(program) = program else {
        bail!("the {} backend has no kernels whose time could be taken", args.run.backend)
    };
    let symbols = eval::bind_symbols(&program.graph, &inputs)?;
    runner.bind(&inputs);
    let (steps, whole) = {
        let _progress = Progress::start("running");
        measure(&mut runner, Duration::from_secs_f64(args.seconds))?
    };
    let target = args.run.target()?;
    let machine = Machine { target: &target, n_threads: args.run.n_threads() };
    let rows = profile::rows(&program, &steps, &symbols, &machine);
    print::stdout(&if args.json { in_json(&rows, whole) } else { in_words(&rows, whole) })
}

/// The median times of each step and of a run, after a run for warming up.
fn measure(runner: &mut Runner, time: Duration) -> Result<(Vec<Duration>, Duration)> {
    runner.run_bound()?;
    let (mut steps, mut runs) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while runs.is_empty() || start.elapsed() < time {
        let run = Instant::now();
        runner.run_bound()?;
        runs.push(run.elapsed());
        steps.push(runner.step_times());
    }
    let of_step = |k: usize| median(steps.iter().map(|run| run[k]).collect());
    Ok(((0..steps[0].len()).map(of_step).collect(), median(runs)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Operations and bytes per second, and the part of the roofline that is reached.
fn rates(row: &Row) -> (f64, f64, Option<f64>) {
    let seconds = row.seconds.max(1e-12);
    (row.flops / seconds, row.bytes / seconds, row.bound.as_ref().map(|(least, _)| least / seconds))
}

fn in_json(rows: &[Row], whole: Duration) -> String {
    let line = |row: &Row| {
        let (flops, bytes, part) = rates(row);
        json!({
            "kernel": row.name, "schedule": row.schedule, "launches": row.launches, "ms": row.seconds * 1e3,
            "share": row.seconds / whole.as_secs_f64(), "gflops": flops / 1e9, "gbytes_per_s": bytes / 1e9,
            "bound": row.bound.as_ref().map(|(_, by)| by), "of_bound": part, "nodes": row.origin,
        })
        .to_string()
    };
    let lines = rows.iter().map(line).chain([json!({ "run_ms": whole.as_secs_f64() * 1e3 }).to_string()]);
    lines.collect::<Vec<_>>().join("\n")
}

fn in_words(rows: &[Row], whole: Duration) -> String {
    let titles = ["ms", "share", "launches", "FLOP/s", "B/s", "of bound", "", "kernel", "schedule", "nodes"];
    let line = |row: &Row| {
        let (flops, bytes, part) = rates(row);
        vec![
            format!("{:.4}", row.seconds * 1e3),
            format!("{:.1}%", row.seconds / whole.as_secs_f64() * 100.0),
            row.launches.to_string(),
            info::si(flops, ""),
            info::si(bytes, ""),
            part.map_or(String::new(), |p| format!("{:.0}%", p * 100.0)),
            row.bound.as_ref().map_or(String::new(), |(_, by)| by.clone()),
            row.name.clone(),
            row.schedule.clone().unwrap_or_default(),
            shortened(&row.origin),
        ]
    };
    let timed: f64 = rows.iter().map(|r| r.seconds).sum();
    let table = print::table(
        &std::iter::once(titles.map(str::to_owned).to_vec()).chain(rows.iter().map(line)).collect::<Vec<_>>(),
    );
    format!("{table}{:.4} ms in kernels, {:.4} ms a run\n", timed * 1e3, whole.as_secs_f64() * 1e3)
}

/// The first nodes of a list.
pub fn shortened(nodes: &str) -> String {
    const LENGTH: usize = 60;
    match nodes.char_indices().nth(LENGTH) {
        Some((at, _)) => format!("{}...", &nodes[..at]),
        None => nodes.to_owned(),
    }
}

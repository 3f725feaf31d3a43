//! `aic tune`: faster kernels for a model on this machine.

use super::args::{self, ModelArgs, Prepared, RecordArgs, RunArgs};
use super::print;
use super::profile::shortened;
use aic::profile::{self, Machine as Roofline};
use aic::session;
use aic::tune::records::{Log, Records, State};
use aic::tune::{Context, Machine, Meter, Options, Recorder, Search, Task, Tuner, Whole, report, worker};
use aic_backends::CpuOptions;
use aic_ir::error::{Error, Result};
use aic_ir::schedule::Schedule;
use aic_ir::{bail, eval};
use aic_passes::schedule::space::Space;
use aic_passes::schedule::{Choices, key};
use indicatif::{ProgressBar, ProgressStyle};
use regex_lite::Regex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  aic tune model.onnx                           for a minute
  aic tune model.onnx --budget 10m --dim seq=128 --threads 1
  aic tune model.onnx --kernels 'conv|fused_3' --report search.html
  aic tune --export fast.jsonl                  what is used, to take along
  aic tune --import fast.jsonl

Schedules of the model's kernels are measured, those first from which most is to be gained, and what is faster in the model \
too is kept in a file of records. run, compile, bench and profile use it for the same kernels on the same machine, \
with as many threads; --no-records leaves it alone. Tuned kernels give the bits of those that aren't. It may be stopped at \
any time, and goes on where it was. Kernels of unknown extents aren't tuned: give dims values.";

/// Find faster kernels for a model on this machine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as `aic run` takes it; none with --export or --import
    #[arg(value_name = "MODEL", required_unless_present_any = ["export", "import"])]
    model: Option<PathBuf>,
    #[command(flatten)]
    dims: args::DimArgs,
    #[command(flatten)]
    run: RunArgs,
    /// How long it may take: seconds, or 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    budget: f64,
    /// Only kernels whose name or source nodes match
    #[arg(long, value_name = "REGEX", value_parser = parse_regex)]
    kernels: Option<Regex>,
    /// Write the search as a page of HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write everything that was measured
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    log: Option<PathBuf>,
    /// Decide again by what was measured, and measure nothing
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Measure random schedules, as many of every kernel, for later searches to learn from
    #[arg(long)]
    random: bool,
    /// Write the records in use to a file, without those that led to them
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Take over the records of a file; those of other machines are where tuning begins
    #[arg(long, value_name = "FILE", conflicts_with = "export")]
    import: Option<PathBuf>,
}

fn parse_time(text: &str) -> std::result::Result<f64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(n) if (0.0..=1e6).contains(&n) => Ok(n * unit),
        _ => Err("expected a time, like 60s, 10m or 1h".into()),
    }
}

fn parse_regex(text: &str) -> std::result::Result<Regex, String> {
    Regex::new(text).map_err(|e| e.to_string())
}

/// The part of the budget for the search; the rest is for trying what it found in the model.
const SEARCH: f64 = 0.8;
/// A kernel's part of its time before, and how often it must be less, to be kept.
const KEPT: (f64, f64) = (0.99, 0.6);

/// Tunes.
///
/// # Errors
/// The model can't be run, or records can't be read or written.
pub fn execute(args: &Args) -> Result<()> {
    let Some(path) = args.run.records.path() else {
        return Err(Error::new("there is no place for records").help("name a file with --records"));
    };
    if let Some(to) = &args.export {
        return Records::read(&path)?.pruned().write(to);
    }
    if let Some(from) = &args.import {
        let found = Records::read(from)?;
        let all = Records::read(&path)?.merged(&found);
        print::note(&format!("{} records in {}", all.0.len(), path.display()));
        return all.write(&path);
    }
    let Some(model) = &args.model else { return Ok(()) };
    tune(args, &ModelArgs::new(model, &args.dims), &path)
}

fn tune(args: &Args, model: &ModelArgs, path: &Path) -> Result<()> {
    let options = session::Options { profile: true, weights_in_place: true, ..session::Options::default() };
    let Prepared { runner, inputs, program, .. } =
        args::prepare_by(model, &args.run, options, &RecordArgs::none())?;
    let Some(program) = program.filter(|_| args.run.device.npu().is_none()) else {
        bail!("only compiled kernels of a CPU are tuned")
    };
    let cpu = args.run.cpu();
    let (threads, machine) = (args.run.n_threads(), Machine::this(&cpu, args.run.n_threads())?);
    let mut context =
        Context::new(program, runner, args.run.optimise.options(cpu.clone())?, args.run.threads, inputs);
    let mut recorder = match &args.replay {
        Some(log) => Recorder::replay(log)?,
        None => Recorder::live(args.log.as_deref())?,
    };
    let tasks = tasks(args, &mut context, &mut recorder, &Records::read(path)?, &machine)?;
    if tasks.is_empty() {
        return print::stdout("no kernel has anything to choose");
    }
    let bar = Bar::start(args.budget);
    let mut tuner = Tuner {
        tasks,
        options: Options {
            budget: args.budget * SEARCH,
            seed: args.run.seed,
            search: if args.random { Search::Random } else { Search::Guided },
        },
        recorder,
        log: Some(Log::open(path)?),
        machine,
        meter: if args.replay.is_some() { None } else { Some(meter(&cpu, threads)?) },
        watch: &mut |tasks, k, at| bar.show(tasks, k, at),
    };
    tuner.run()?;
    let summary = keep(&mut tuner, &mut context, args.budget)?;
    bar.end();
    if let Some(to) = &args.report {
        let page = report::page(&model.path.display().to_string(), &summary, &tuner.tasks);
        std::fs::write(to, page)
            .map_err(|e| Error::new(format!("{}: cannot be written: {e}", to.display())))?;
    }
    print::stdout(&(table(&tuner.tasks) + &summary))
}

/// The process that measures: this program.
fn meter(cpu: &CpuOptions, threads: u32) -> Result<Meter> {
    let program = std::env::current_exe().map_err(|e| Error::new(format!("aic can't find itself: {e}")))?;
    let text =
        ["tune-worker", "--backend", cpu.backend, "--cpu", &cpu.cpu, "--threads", &threads.to_string()]
            .map(OsString::from);
    Ok(Meter::new(program, text.to_vec(), Duration::from_secs(20)))
}

/// The kernels that can be tuned, with the time that each takes in the model.
fn tasks(
    args: &Args,
    context: &mut Context,
    recorder: &mut Recorder,
    records: &Records,
    machine: &Machine,
) -> Result<Vec<Task>> {
    let time = Duration::from_secs_f64((args.budget * 0.03).min(3.0));
    let answer =
        recorder.ask(json!({ "profile": context.program.name }), || Ok(json!(context.steps(time)?)))?;
    let seconds = |v: &Value| v.as_f64().unwrap_or(0.0).max(0.0);
    let times: Vec<Duration> =
        answer.as_array().into_iter().flatten().map(|v| Duration::from_secs_f64(seconds(v))).collect();
    let (program, target) = (&context.program, args.run.target()?);
    let symbols = eval::bind_symbols(&program.graph, &context.inputs)?;
    let roofline = Roofline { target: &target, n_threads: machine.threads };
    let rows = profile::rows(program, &times, &symbols, &roofline);
    let mut tasks = BTreeMap::new();
    for (kernel, compute) in program.kernels.iter().zip(&program.computes) {
        let (Some(c), true) = (compute, kernel.symbols.is_empty()) else { continue };
        let Some(row) = rows.iter().find(|r| r.name == kernel.name) else { continue };
        let nodes = format!("{} {}", kernel.name, shortened(&row.origin));
        let is_wanted =
            args.kernels.as_ref().is_none_or(|r| r.is_match(&kernel.name) || r.is_match(&row.origin));
        let space = if is_wanted { Space::new(c, &target) } else { None };
        // What the verifier can't prove of the kernel in use it can't prove of others.
        let has_choice = |s: &Space| !s.knobs().is_empty() && s.kernel("k", s.first()).is_ok();
        let Some(space) = space.filter(has_choice) else { continue };
        let times = (row.launches, [row.seconds, row.bound.as_ref().map_or(0.0, |(least, _)| *least)]);
        let task = Task::new((key(c), c.clone()), space, nodes, times, records, machine);
        tasks
            .entry(key(c))
            .and_modify(|t: &mut Task| {
                (t.seconds, t.launches) = (t.seconds + row.seconds, t.launches + row.launches);
            })
            .or_insert(task);
    }
    Ok(tasks.into_values().collect())
}

/// Keeps what is faster in the model; says what that gives.
fn keep(tuner: &mut Tuner, context: &mut Context, budget: f64) -> Result<String> {
    let found = |t: &Task| t.best != *t.space.first();
    let changed: Vec<usize> = (0..tuner.tasks.len()).filter(|k| found(&tuner.tasks[*k])).collect();
    if changed.is_empty() {
        return Ok("nothing faster was found".into());
    }
    let time = Duration::from_secs_f64(budget * (1.0 - SEARCH) / 2.0);
    let mut kept: Vec<usize> = changed.clone();
    let mut whole = compare(tuner, context, &kept, time)?;
    kept.retain(|k| {
        let t = &tuner.tasks[*k];
        let [ratio, wins] = whole.kernels.get(&t.kernel).copied().unwrap_or([1.0, 0.0]);
        // What was kept before stays unless it is slower now.
        let stays = t.kept.as_ref() == Some(&t.best) && ratio <= 1.0;
        stays || ratio <= KEPT.0 && wins >= KEPT.1
    });
    if kept.len() < changed.len() && !kept.is_empty() {
        whole = compare(tuner, context, &kept, time)?;
    }
    if whole.ratio > 1.0 {
        kept.clear();
    }
    for k in changed {
        let s = tuner.tasks[k].best.clone();
        let [ratio, _] = whole.kernels.get(&tuner.tasks[k].kernel).copied().unwrap_or([1.0, 0.0]);
        let state = if kept.contains(&k) { State::Kept } else { State::Rejected };
        tuner.add(k, &s, state, ratio)?;
        if state == State::Rejected {
            (tuner.tasks[k].best, tuner.tasks[k].ratio) = (tuner.tasks[k].space.first().clone(), 1.0);
        }
    }
    if kept.is_empty() {
        return Ok("nothing that was found is faster in the model".into());
    }
    let [before, after] = whole.seconds.map(|s| s * 1e3);
    let mut text =
        format!("{} kernels are faster: a run takes {after:.4} ms instead of {before:.4} ms, ", kept.len());
    let _ =
        write!(text, "{:.4} of it in the median, less in {:.0}% of runs", whole.ratio, whole.wins * 100.0);
    Ok(text)
}

/// How the model compares with the best schedules of some kernels.
fn compare(tuner: &mut Tuner, context: &mut Context, kept: &[usize], time: Duration) -> Result<Whole> {
    let best: BTreeMap<u64, Schedule> =
        kept.iter().map(|k| (tuner.tasks[*k].kernel, tuner.tasks[*k].best.clone())).collect();
    let text: Vec<String> = best.iter().map(|(k, s)| format!("{k:016x} {s}")).collect();
    let choices: Choices = best.into_iter().collect();
    let answer = tuner
        .recorder
        .ask(json!({ "compare": text }), || context.compare(choices, time).map(|whole| whole.json()))?;
    Whole::parse(&answer)
}

/// What came of each kernel, those that take longest first.
fn table(tasks: &[Task]) -> String {
    let mut sorted: Vec<&Task> = tasks.iter().filter(|t| !t.tried.is_empty() || t.ratio < 1.0).collect();
    sorted.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let titles = ["ms", "trials", "ratio", "kernel", "schedule"].map(str::to_owned).to_vec();
    let row = |t: &&Task| {
        let schedule = if t.best == *t.space.first() { String::new() } else { t.best.to_string() };
        let numbers =
            [format!("{:.4}", t.seconds * 1e3), t.tried.len().to_string(), format!("{:.3}", t.ratio)];
        numbers.into_iter().chain([t.nodes.clone(), schedule]).collect()
    };
    print::table(&std::iter::once(titles).chain(sorted.iter().map(row)).collect::<Vec<_>>())
}

/// Shows on a terminal how far the tuner is.
struct Bar(ProgressBar);

impl Bar {
    fn start(budget: f64) -> Bar {
        if !io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let bar = ProgressBar::new((budget * 10.0) as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
            bar.set_style(style);
        }
        Bar(bar)
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }

    fn show(&self, tasks: &[Task], k: usize, at: f64) {
        let whole: f64 = tasks.iter().map(|t| t.seconds).sum();
        let saved: f64 = tasks.iter().map(|t| t.seconds * (1.0 - t.ratio)).sum();
        let t = &tasks[k];
        let gain = 100.0 * saved / whole.max(1e-12);
        self.0.set_position((at * 10.0) as u64);
        self.0.set_message(format!("{gain:.1}% of the kernels' time saved; {:.3} {}", t.ratio, t.nodes));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

const WORKER: &str = "\
Examples:
  aic tune-worker                               what aic tune starts

Reads jobs from standard input, a line of JSON each, and answers each with a line.";

/// Measure kernels for `aic tune`
#[derive(clap::Args)]
#[command(after_help = WORKER)]
pub struct WorkerArgs {
    #[command(flatten)]
    code: args::CodeArgs,
    /// Threads to run on
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u32,
}

/// Measures what it is asked to.
///
/// # Errors
/// Nobody asks, or listens.
pub fn serve(args: &WorkerArgs) -> Result<()> {
    worker::serve(&args.code.options(), args.threads, io::stdin().lock(), io::stdout().lock())
}

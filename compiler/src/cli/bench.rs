//! `aic bench`: time and memory of compiling and running a model.

use super::args::{self, ModelArgs, Prepared, RunArgs, seconds};
use super::print::{self, Progress};
use aic::driver::Runner;
use aic::session;
use aic_ir::error::Result;
use serde_json::json;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  aic bench model.onnx
  aic bench model.onnx --dim batch=8 --threads 4 --seconds 10
  aic bench model.onnx --json

With --json one line: {\"model\", \"backend\", \"threads\", \"runs\", \"median_ms\", \"min_ms\", \"p95_ms\", \
\"compile_s\", \"codegen_s\", \"load_s\", \"peak_rss_mb\", \"arena_mb\"}. compile_s reaches from reading the file to \
compiled kernels, codegen_s of that is the backend's part, load_s is loading their code and opening a session; \
peak_rss_mb is the most memory this process has held, compiling included. What isn't known is null.";

/// Time compiling and running a model
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// How long to run it for; once at least
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1e6).contains(&s) => Ok(s),
        _ => Err("expected a number of seconds".into()),
    }
}

/// Measures.
///
/// # Errors
/// The model can't be run on these inputs.
pub fn execute(args: &Args) -> Result<()> {
    let options = session::Options { weights_in_place: true, ..session::Options::default() };
    let Prepared { mut runner, inputs, times, .. } = args::prepare(&args.model, &args.run, options)?;
    runner.bind(&inputs);
    let runs = {
        let _progress = Progress::start("running");
        measure(&mut runner, Duration::from_secs_f64(args.seconds))?
    };
    let report = json!({
        "model": args.model.path.display().to_string(),
        "backend": args.run.backend,
        "threads": args.run.n_threads(),
        "runs": runs.len(),
        "median_ms": milliseconds(quantile(&runs, 0.5)),
        "min_ms": milliseconds(quantile(&runs, 0.0)),
        "p95_ms": milliseconds(quantile(&runs, 0.95)),
        "compile_s": seconds(times.compile),
        "codegen_s": seconds(times.codegen),
        "load_s": seconds(times.load),
        "peak_rss_mb": peak_rss_mb(),
        "arena_mb": (runner.arena_bytes() as f64 / 1e6 * 1e3).round() / 1e3,
    });
    print::stdout(&if args.json { report.to_string() } else { in_words(&report) })
}

fn in_words(report: &serde_json::Value) -> String {
    let text = |key: &str| match &report[key] {
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    format!(
        "{}: median {} ms, min {} ms, p95 {} ms over {} runs on {} ({} threads); compiled in {} s, {} s of it machine code, loaded in {} s; \
         {} MB at most, {} MB of it arena",
        text("model"),
        text("median_ms"),
        text("min_ms"),
        text("p95_ms"),
        text("runs"),
        text("backend"),
        text("threads"),
        text("compile_s"),
        text("codegen_s"),
        text("load_s"),
        text("peak_rss_mb"),
        text("arena_mb"),
    )
}

/// Times of single runs, sorted, after a tenth of that time for warming up.
fn measure(runner: &mut Runner, time: Duration) -> Result<Vec<Duration>> {
    let start = Instant::now();
    runner.run_bound()?;
    while start.elapsed() < time / 10 {
        runner.run_bound()?;
    }
    let mut runs = Vec::new();
    let start = Instant::now();
    while runs.is_empty() || start.elapsed() < time {
        let run = Instant::now();
        runner.run_bound()?;
        runs.push(run.elapsed());
    }
    runs.sort();
    Ok(runs)
}

/// The smallest time that at least this part of the runs doesn't exceed.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 1e4
}

/// The most memory that this process has held, as Linux counts it.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024.0 / 1e6 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_of_runs() {
        let runs: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(quantile(&runs, 0.0), Duration::from_millis(1));
        assert_eq!(quantile(&runs, 0.5), Duration::from_millis(10));
        assert_eq!(quantile(&runs, 0.95), Duration::from_millis(19));
        assert_eq!(quantile(&runs[..1], 0.95), Duration::from_millis(1));
        assert_eq!(milliseconds(Duration::from_micros(1234)), 1.234);
    }

    #[test]
    fn this_process_has_a_peak() {
        assert!(cfg!(not(target_os = "linux")) || peak_rss_mb().is_some_and(|mb| mb > 1.0));
    }
}

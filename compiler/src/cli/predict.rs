//! `aic profile` for an NPU: what the cycle model of its cores predicts, kernel by kernel.

use super::profile::shortened;
use super::{info, print};
use aic::ascend::{Model, Step};
use aic_ir::error::Result;
use aic_ir::program;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use serde_json::json;
use std::collections::BTreeMap;

/// Floats that a vector core computes in a cycle.
const LANES: u32 = 64;

/// What the launches of a kernel are predicted to take.
#[derive(Default)]
struct Row {
    name: String,
    nodes: String,
    launches: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// Operations per second of the units that it uses.
    peak: f64,
    bound: String,
}

/// Prints the predictions.
///
/// # Errors
/// The model can't be run.
pub fn execute(model: &Model, npu: &Target, as_json: bool) -> Result<()> {
    let rows = rows(model, npu)?;
    print::stdout(&if as_json { in_json(&rows) } else { in_words(&rows) })
}

/// A row for each kernel, the slowest first.
fn rows(model: &Model, npu: &Target) -> Result<Vec<Row>> {
    let (compiled, settings) = (model.compiled(), model.settings());
    let launches = compiled.steps.iter().zip(&compiled.program.steps).filter_map(|pair| match pair {
        (Step::Launch { nodes, .. }, program::Step::Launch { kernel, work, .. }) => {
            Some((nodes, *kernel, work.as_const().unwrap_or_default() as f64))
        }
        _ => None,
    });
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (time, (nodes, kernel, flops)) in model.times()?.iter().zip(launches) {
        let row = rows.entry(time.kernel.clone()).or_insert_with(|| Row {
            name: time.kernel.clone(),
            nodes: nodes.join(", "),
            peak: match unit_peak(compiled.program.schedules[kernel].as_ref(), npu) {
                Some(peak) => peak,
                None => f64::from(2 * settings.cores * LANES) * settings.clock,
            },
            ..Row::default()
        });
        row.launches += 1;
        row.seconds += time.seconds(settings);
        row.flops += flops;
        row.bytes += time.bytes;
        row.bound = time.bound(settings).to_owned();
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(rows)
}

/// Operations per second of the matrix instructions of a schedule, if it has any.
fn unit_peak(schedule: Option<&Schedule>, npu: &Target) -> Option<f64> {
    npu.matrix_unit(&schedule?.unit).map(|u| u.peak)
}

fn in_json(rows: &[Row]) -> String {
    let line = |r: &Row| {
        json!({
            "kernel": r.name, "launches": r.launches, "ms": r.seconds * 1e3, "gflops": r.flops / r.seconds / 1e9,
            "gbytes_per_s": r.bytes / r.seconds / 1e9, "of_peak": r.flops / r.seconds / r.peak, "bound": r.bound,
            "nodes": r.nodes,
        })
        .to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn in_words(rows: &[Row]) -> String {
    let titles = ["ms", "share", "launches", "FLOP/s", "B/s", "of peak", "bound", "kernel", "nodes"];
    let all: f64 = rows.iter().map(|r| r.seconds).sum();
    let line = |r: &Row| {
        vec![
            format!("{:.4}", r.seconds * 1e3),
            format!("{:.1}%", r.seconds / all * 100.0),
            r.launches.to_string(),
            info::si(r.flops / r.seconds, ""),
            info::si(r.bytes / r.seconds, ""),
            format!("{:.1}%", r.flops / r.seconds / r.peak * 100.0),
            r.bound.clone(),
            r.name.clone(),
            shortened(&r.nodes),
        ]
    };
    let table = print::table(
        &std::iter::once(titles.map(str::to_owned).to_vec()).chain(rows.iter().map(line)).collect::<Vec<_>>(),
    );
    format!("{table}{:.4} ms in kernels, as predicted\n", all * 1e3)
}

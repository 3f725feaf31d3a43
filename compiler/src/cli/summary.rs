//! `aic opt --summary`: what the passes save, as a table.

use super::info::{bytes, flops, si, type_bytes};
use super::print;
use aic::driver;
use aic_backends::CpuOptions;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::program::{Place, Program, Step};
use aic_ir::target::Target;
use aic_passes::{pipeline, runner};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a run of a program costs.
struct Costs {
    n_launches: usize,
    n_interpreted: usize,
    flops: Dim,
    moved: Dim,
    arena: Dim,
}

/// Prints a table with a row for each model, whose graphs before and after the passes `optimised` gives; with
/// `per_kernel` also lists the kernels that are launched after them.
///
/// # Errors
/// As of `optimised`, or a graph can't be lowered.
pub fn print(
    paths: &[PathBuf],
    per_kernel: bool,
    optimised: &dyn Fn(&Path) -> Result<(Graph, Graph)>,
) -> Result<()> {
    let titles = ["model", "launches", "", "FLOPs", "", "bytes moved", "", "arena", "", "interpreted", ""];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let mut lists = String::new();
    for path in paths {
        let (before, after) = optimised(path)?;
        let (before, after) = (lower(before, &["dce"])?, lower(after, &[])?);
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        rows.push(row(&name, &costs(&before), &costs(&after)));
        if per_kernel {
            lists += &format!("\n{name}\n{}", print::table(&kernels(&after)));
        }
    }
    print::stdout(&(print::table(&rows) + &lists))
}

fn lower(graph: Graph, passes: &[&str]) -> Result<Program> {
    let options = driver::Options { cpu: CpuOptions::default(), ..driver::Options::default() };
    let options = options.pipeline_for(Target::x86_avx2());
    let graph = runner::run(graph, passes, &mut runner::Context::new(&options))?;
    pipeline::lower(graph, &options)
}

fn costs(p: &Program) -> Costs {
    let n_launches = p.steps.iter().filter(|s| matches!(s, Step::Launch { .. })).count();
    let n_interpreted = p.steps.iter().filter(|s| matches!(s, Step::Host { .. })).count();
    let moved = p.steps.iter().fold(Dim::from(0), |sum, step| sum + moved(p, step));
    Costs { n_launches, n_interpreted, flops: flops(p), moved, arena: p.arena_bytes.clone() }
}

/// The bytes of the arrays that a step reads or writes.
fn moved(p: &Program, step: &Step) -> Dim {
    match step {
        Step::Launch { args, .. } => bytes_of(p, args),
        Step::Host { inputs, outputs, .. } => bytes_of(p, &[&inputs[..], outputs].concat()),
        Step::Copy { src, dst } => bytes_of(p, &[*src, *dst]),
    }
}

/// The bytes of the arrays among these buffers, each counted once.
fn bytes_of(p: &Program, buffers: &[usize]) -> Dim {
    let root = |mut b: usize| {
        while let Place::Alias(of) = p.buffers[b].place {
            b = of;
        }
        b
    };
    let distinct: BTreeSet<usize> = buffers.iter().map(|b| root(*b)).collect();
    distinct.into_iter().fold(Dim::from(0), |sum, b| sum + type_bytes(&p.buffers[b].ty))
}

/// Before and after, side by side; symbols count as 1.
fn row(name: &str, before: &Costs, after: &Costs) -> Vec<String> {
    let pair = |show: &dyn Fn(&Costs) -> String| [show(before), show(after)];
    let cells = [
        pair(&|c| c.n_launches.to_string()),
        pair(&|c| si(at_one(&c.flops), "")),
        pair(&|c| bytes(at_one(&c.moved))),
        pair(&|c| bytes(at_one(&c.arena))),
        pair(&|c| c.n_interpreted.to_string()),
    ];
    let cells = cells.into_iter().flat_map(|[before, after]| [before, format!("-> {after}")]);
    std::iter::once(name.to_owned()).chain(cells).collect()
}

fn at_one(d: &Dim) -> f64 {
    d.eval(&|_| Some(1)).map_or(f64::NAN, |n| n as f64)
}

/// A row for each step: kernel, scalar operations, bytes, the source nodes.
fn kernels(p: &Program) -> Vec<Vec<String>> {
    let row = |step: &Step| {
        let (what, work, origin) = match step {
            Step::Launch { kernel, work, origin, .. } => {
                (p.kernels[*kernel].name.clone(), si(at_one(work), ""), origin.join(", "))
            }
            Step::Host { node, .. } => {
                let node = p.graph.node(*node);
                (format!("{} (interpreted)", node.op.keyword()), String::new(), node.origin.join(", "))
            }
            Step::Copy { .. } => ("copy".to_owned(), String::new(), String::new()),
        };
        vec![what, work, bytes(at_one(&moved(p, step))), origin]
    };
    let titles = ["kernel", "operations", "bytes", "nodes"].map(str::to_owned).to_vec();
    std::iter::once(titles).chain(p.steps.iter().map(row)).collect()
}

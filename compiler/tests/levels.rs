//! Levels of optimisation on every golden graph: under exact numerics compiled code gives the bits of `-O0` at every
//! level and with any number of threads, and optimising what is optimised changes nothing.
//!
//! `AIC_ZOO=DIR cargo test --test levels -- --ignored` does the same with the models in a folder.
#![allow(clippy::unwrap_used)]

use aic::driver::{Options, Source};
use aic::import::onnx::ImportOptions;
use aic::verify::{self, Compiler};
use aic_backends::CpuOptions;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::pipeline::{self, LEVELS};
use aic_passes::runner::{self, Context, Numerics};
use std::path::{Path, PathBuf};

/// The files under a folder with one of these extensions, but those with mistakes.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_wanted = path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
        if path.is_dir() && !path.ends_with("errors") {
            found.extend(files(&path, extensions));
        } else if is_wanted {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn graph(path: &Path) -> Graph {
    Source::load(path).unwrap().import(&ImportOptions::default()).unwrap().graph
}

fn goldens() -> Vec<PathBuf> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata"), &["aic", "onnx"])
        .into_iter()
        .filter(|path| Source::load(path).is_ok_and(|s| s.import(&ImportOptions::default()).is_ok()))
        .collect()
}

/// Bits, where any NaN is like any other.
fn bits(t: &Tensor) -> Vec<u64> {
    let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    match t.dtype().is_float() {
        true => t.to_f64().into_iter().map(bits).collect(),
        false => t.to_i64().into_iter().map(|x| x as u64).collect(),
    }
}

/// What code compiled by a backend gives at a level.
fn run(
    graph: &Graph,
    backend: &'static str,
    level: usize,
    n_threads: u32,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let cpu = CpuOptions { backend, ..CpuOptions::default() };
    let options = Options { cpu, level, numerics: Numerics::Exact, ..Options::default() };
    let load = |p: &_, o: &_| verify::load_compiled(p, o, n_threads);
    let compiler = Compiler::new(&options, &load)?;
    compiler.load(compiler.optimise(graph.clone())?)?(inputs)
}

/// The ways to compile with a backend that give other bits than its `-O0` on one thread, if any.
fn differences(
    path: &Path,
    backend: &'static str,
    inputs: &dyn Fn(&Graph, u64) -> Option<Vec<Tensor>>,
) -> Vec<String> {
    let graph = graph(path);
    let mut found = Vec::new();
    for seed in 0..2 {
        let Some(inputs) = inputs(&graph, seed) else { continue };
        let plain = run(&graph, backend, 0, 1, &inputs).unwrap();
        for (level, n_threads) in (0..LEVELS.len()).flat_map(|level| [(level, 1), (level, 2)]).skip(1) {
            let what = format!("{}: {backend}, -O{level}, {n_threads} threads, seed {seed}", path.display());
            match run(&graph, backend, level, n_threads, &inputs) {
                Err(error) => found.push(format!("{what}: {error}")),
                Ok(outputs) => {
                    for ((a, b), p) in plain.iter().zip(&outputs).zip(&graph.outputs) {
                        let (a, b) = (bits(a), bits(b));
                        let n = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                        if n > 0 || a.len() != b.len() {
                            found.push(format!("{what}: output {:?}: {n} of {} differ", p.name, a.len()));
                        }
                    }
                }
            }
        }
    }
    found
}

fn report(differences: &[String]) {
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The backends of this build.
fn backends() -> Vec<&'static str> {
    aic_backends::available().map(|b| b.name).collect()
}

#[test]
fn exact_numerics_keep_the_bits() {
    let inputs = |g: &Graph, seed| Some(verify::generate(g, seed, Numerics::Exact, false).ok()?.inputs);
    let all = backends();
    let all = all.iter().flat_map(|b| goldens().into_iter().flat_map(|path| differences(&path, b, &inputs)));
    report(&all.collect::<Vec<String>>());
}

/// What every backend computes is what the interpreter computes, but for rounding.
#[test]
fn backends_agree_with_the_interpreter() {
    let mut wrong = Vec::new();
    for path in goldens() {
        let graph = graph(&path);
        let cases = (0..2).filter_map(|seed| verify::generate(&graph, seed, Numerics::default(), false).ok());
        let cases: Vec<verify::Case> = cases.collect();
        for backend in backends() {
            let cpu = CpuOptions { backend, ..CpuOptions::default() };
            let options = Options { cpu, ..Options::default() };
            let load = |p: &_, o: &_| verify::load_compiled(p, o, 1);
            let compiler = Compiler::new(&options, &load).unwrap();
            let what = format!("{}: {backend}", path.display());
            match verify::outputs(&graph, &compiler, &cases) {
                Err(error) => wrong.push(format!("{what}: {error}")),
                Ok(outputs) => {
                    let bad = outputs.into_iter().flatten().filter(|c| c.is_wrong());
                    wrong.extend(bad.map(|c| format!("{what}: {c:?}")));
                }
            }
        }
    }
    report(&wrong);
}

#[test]
#[ignore = "takes a folder of models in AIC_ZOO"]
fn exact_numerics_keep_the_bits_of_a_zoo() {
    let zoo = std::env::var("AIC_ZOO").expect("AIC_ZOO names a folder of models");
    let only = std::env::var("AIC_ONLY").unwrap_or_default();
    let mut all = Vec::new();
    for path in files(Path::new(&zoo), &["onnx"]).iter().filter(|p| p.display().to_string().contains(&only)) {
        let inputs = |g: &Graph, seed| (seed == 0).then(|| verify::draw(g, 1, false, false).unwrap());
        let found: Vec<String> = backends().into_iter().flat_map(|b| differences(path, b, &inputs)).collect();
        eprintln!("{}: {} differences", path.display(), found.len());
        all.extend(found);
    }
    report(&all);
}

#[test]
fn optimising_twice_changes_nothing() {
    let mut changed = Vec::new();
    for path in goldens() {
        for (level, names) in LEVELS.iter().enumerate().skip(1) {
            let mut cx = Context::new(&pipeline::Options::new(Target::x86_avx2()));
            let once = runner::run(graph(&path), names, &mut cx).unwrap();
            let mut cx = Context::new(&pipeline::Options::new(Target::x86_avx2()));
            let twice = runner::run(once.clone(), names, &mut cx).unwrap();
            if once.to_string() != twice.to_string() {
                changed.push(format!("{} -O{level}:\n{once}becomes\n{twice}", path.display()));
            }
        }
    }
    report(&changed);
}

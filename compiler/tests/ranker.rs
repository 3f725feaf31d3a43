//! The ranker on recorded measurements: after as many trials as random search it has found something better.
//!
//! `testdata/tune/trials.txt` holds, for kernels that are typical of networks, random schedules and their times as parts of
//! that of the schedule that the model of costs chooses, measured with one thread on a CPU with AVX-512. With `AIC_BLESS=1`
//! and `--ignored` they are measured anew.

#![allow(clippy::unwrap_used)]

use aic::tune::records::Records;
use aic::tune::{Job, Machine, Meter, Order, Ranker, Sample, Task};
use aic_backends::CpuOptions;
use aic_ir::compose::compose;
use aic_ir::compute::Compute;
use aic_ir::op::Rng;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::text::parse_graph;
use aic_passes::schedule::space::Space;
use aic_passes::schedule::{key, pieces};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const KERNELS: [(&str, &str); 8] = [
    ("project", "graph(%0: f32[128,768], %1: f32[768,768]) -> f32[128,768] { %2 = matmul %0 %1 return %2 }"),
    ("widen", "graph(%0: f32[128,768], %1: f32[768,3072]) -> f32[128,3072] { %2 = matmul %0 %1 return %2 }"),
    ("pointwise", "graph(%0: f32[196,1024], %1: f32[1024,256]) -> f32[196,256] { %2 = matmul %0 %1 return %2 }"),
    (
        "conv56",
        "graph(%0: f32[1,56,56,64], %1: f32[3,3,64,64]) -> f32[1,56,56,64] {
           %2 = channels_last_conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %2 }",
    ),
    (
        "conv14",
        "graph(%0: f32[1,14,14,256], %1: f32[3,3,256,256]) -> f32[1,14,14,256] {
           %2 = channels_last_conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %2 }",
    ),
    (
        "planes",
        "graph(%0: f32[1,64,28,28], %1: f32[128,64,3,3]) -> f32[1,128,28,28] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %2 }",
    ),
    (
        "winograd",
        "graph(%0: f32[1,28,28,128], %1: f32[36,4,128,32]) -> f32[1,28,28,128] {
           %2 = winograd %0 %1 {tile=4, pads=[1,1,1,1]} return %2 }",
    ),
    (
        "attention",
        "graph(%0: f32[1,12,128,64], %1: f32[1,12,128,64], %2: f32[1,12,128,64]) -> f32[1,12,128,64] {
           %3 = attention %0 %1 %2 {scale=0.125, causal=false} return %3 }",
    ),
];

/// Random schedules of a kernel that are measured, and how many are in a round.
const POINTS: usize = 192;
const BATCH: usize = 8;

fn compute(name: &str, text: &str) -> Arc<Compute> {
    let constants = if name == "attention" { BTreeSet::new() } else { BTreeSet::from([1]) };
    let whole = Compute { constants, ..compose(&parse_graph(text).unwrap()).unwrap() };
    let mut found = pieces(&whole, &Target::x86_avx512());
    assert_eq!(found.len(), 1, "{name}");
    Arc::new(found.remove(0).compute)
}

fn task(name: &str, text: &str) -> Task {
    let c = compute(name, text);
    let machine = Machine::this(&CpuOptions::default(), 1).unwrap();
    let space = Space::new(&c, &Target::x86_avx512()).unwrap();
    Task::new((key(&c), c), space, name.into(), (1, [1.0, 0.0]), &Records::default(), &machine)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/tune/trials.txt")
}

#[test]
#[ignore = "measures for minutes"]
fn measuring_anew_takes_minutes() {
    let args = ["tune-worker", "--threads", "1"].map(Into::into).to_vec();
    let mut meter = Meter::new(PathBuf::from(env!("CARGO_BIN_EXE_aic")), args, Duration::from_secs(30));
    let (mut text, mut rng) = (String::new(), Rng::new(1));
    for (name, graph) in KERNELS {
        let mut t = task(name, graph);
        while t.tried.len() < POINTS {
            let all = t.propose(BATCH, Order::Random, &mut rng);
            let first = t.space.first().clone();
            let made = std::iter::once(&first).chain(&all).enumerate();
            let made = made.map(|(k, s)| t.space.kernel(&format!("k{k}"), s).unwrap()).collect();
            let outcomes = meter.measure(&Job::new(&t.compute, made, 7).unwrap()).unwrap();
            for (s, outcome) in all.iter().zip(&outcomes[1..]) {
                let [_, ratio, _] = outcome.clone().unwrap_or_else(|why| panic!("{name} {s}: {why}"));
                t.note(s, ratio);
                writeln!(text, "{name} {ratio:.4} {s}").unwrap();
            }
        }
    }
    assert!(std::env::var_os("AIC_BLESS").is_some(), "measured, and not written without AIC_BLESS");
    fs::create_dir_all(file().parent().unwrap()).unwrap();
    fs::write(file(), text).unwrap();
}

/// The best ratio after so many trials of a search among points that were measured.
fn search(
    name: &str,
    graph: &str,
    points: &[(Schedule, f64)],
    seed: u64,
    is_guided: bool,
    trials: usize,
) -> f64 {
    let (mut t, mut rng) = (task(name, graph), Rng::new(seed));
    while t.tried.len() < trials {
        let samples: Vec<Sample> = t.samples().collect();
        let ranker = Ranker::learn(&samples);
        let order = match is_guided {
            false => Order::Random,
            true if samples.len() < 16 => Order::Cost,
            true => Order::Learned(&ranker),
        };
        let is_new = |s: &Schedule| !t.tried.iter().any(|(tried, _)| tried == s);
        let pool = points.iter().map(|(s, _)| s.clone()).filter(is_new).collect();
        for s in t.choose(pool, BATCH, order, &mut rng) {
            let ratio = points.iter().find(|(p, _)| *p == s).unwrap().1;
            t.note(&s, ratio);
        }
    }
    t.tried.iter().map(|(_, ratio)| *ratio).fold(f64::INFINITY, f64::min)
}

/// What is found after 64 trials, of 8 kernels by 5 seeds each, as a part of the best of all points.
#[test]
fn ranked_schedules_beat_random_ones() {
    let text = fs::read_to_string(file()).unwrap();
    let (mut guided, mut random) = (Vec::new(), Vec::new());
    for (name, graph) in KERNELS {
        let space = Space::new(&compute(name, graph), &Target::x86_avx512()).unwrap();
        let lines = text.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.split_once(' '));
        let points: Vec<(Schedule, f64)> = lines
            .map(|(ratio, s)| (s.parse::<Schedule>().unwrap(), ratio.parse().unwrap()))
            .filter(|(s, _)| space.is_legal(s))
            .collect();
        assert!(points.len() > POINTS * 9 / 10, "{name}: most points are still legal");
        let best = points.iter().map(|(_, ratio)| *ratio).fold(f64::INFINITY, f64::min);
        let mean = |is_guided: bool, all: &mut Vec<f64>| {
            let found = (0..5).map(|seed| search(name, graph, &points, seed, is_guided, 64) / best);
            let found: Vec<f64> = found.collect();
            all.extend(&found);
            found.iter().sum::<f64>() / 5.0
        };
        let means = [mean(true, &mut guided), mean(false, &mut random)];
        println!("{name}: best {best:.3}; guided {:.3}, random {:.3} of it", means[0], means[1]);
    }
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let exact = |all: &[f64]| all.iter().filter(|f| **f <= 1.0).count();
    println!(
        "guided {:.4} ({} of 40 find the best), random {:.4} ({})",
        mean(&guided),
        exact(&guided),
        mean(&random),
        exact(&random)
    );
    assert!(mean(&guided) < mean(&random) && exact(&guided) > exact(&random));
}

//! Kernels for a CUDA GPU on the emulator, against the interpreter: random instances of every operator, and families of
//! operators at odd extents in the types of floats that networks have.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
mod common;
mod families;

use aic::emulate::Kernels;
use aic_backends::emulate;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Op, Rng, Values};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_passes::pipeline::Options;
use aic_passes::runner::Numerics;
use common::{difference, one_node};
use families::{FAMILIES, INTEGERS, inputs, instance};
use std::collections::BTreeMap;

/// Cases that are compiled as one module.
const CASES: usize = 64;

/// A lowered graph: what it is an instance of and which, its program, operands and expected results.
struct Case {
    family: String,
    what: String,
    program: Program,
    x: Vec<Tensor>,
    want: Vec<Tensor>,
}

impl Case {
    fn new(family: &str, what: String, graph: Graph, x: Vec<Tensor>, want: Vec<Tensor>) -> Case {
        Case::compiled(&Options::new(Target::sm_80()), family, what, graph, x, want)
    }

    fn compiled(
        options: &Options,
        family: &str,
        what: String,
        graph: Graph,
        x: Vec<Tensor>,
        want: Vec<Tensor>,
    ) -> Case {
        let program = aic_passes::pipeline::compile(graph, options).unwrap();
        Case { family: family.into(), what, program, x, want }
    }

    /// Whether a kernel multiplies by this instruction.
    fn uses(&self, unit: &str) -> bool {
        self.program.kernels.iter().any(|k| k.to_string().contains(unit))
    }

    /// Whether all of it is executed by kernels.
    fn is_compiled(&self) -> bool {
        self.program.steps.iter().all(|s| !matches!(s, Step::Host { .. }))
    }
}

/// What is wrong with cases for a GPU.
fn failures(cases: &mut [Case], gpu: &Target) -> Vec<String> {
    for (k, c) in cases.iter_mut().enumerate() {
        c.program.kernels.iter_mut().for_each(|kernel| kernel.name = format!("c{k}_{}", kernel.name));
    }
    let kernels: Vec<Kernel> = cases.iter().flat_map(|c| c.program.kernels.clone()).collect();
    let options = emulate::Options { seed: Some(kernels.len() as u64), threads: 1 };
    let kernels = Kernels::new(&kernels, gpu, options).unwrap();
    let check = |c: &Case| match kernels.run(&c.program, &c.x) {
        Err(e) => vec![format!("{}: {}: {e}", c.family, c.what)],
        Ok(got) => {
            let differing = c.want.iter().zip(&got).filter_map(|(a, b)| difference(a, b));
            differing.map(|d| format!("{}: {}: {d}", c.family, c.what)).collect()
        }
    };
    cases.iter().flat_map(check).collect()
}

/// Checks all cases, and prints how many there are of each family.
fn check(cases: Vec<Case>, least: usize) {
    check_on(&Target::sm_80(), cases, least);
}

/// As above, for this GPU.
fn check_on(gpu: &Target, mut cases: Vec<Case>, least: usize) {
    let failed: Vec<String> = cases.chunks_mut(CASES).flat_map(|c| failures(c, gpu)).collect();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for c in &cases {
        let [all, compiled] = counts.entry(&c.family).or_default();
        *all += 1;
        *compiled += usize::from(c.is_compiled());
    }
    for (family, [all, compiled]) in &counts {
        println!("{family}: {all} cases, {compiled} without a step for the host");
    }
    for f in failed.iter().take(12) {
        eprintln!("{}", f.chars().take(1200).collect::<String>());
    }
    let n_compiled: usize = counts.values().map(|[_, compiled]| compiled).sum();
    println!("{} of {} right", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty(), "{} of {} are wrong", failed.len(), cases.len());
    assert!(n_compiled >= least, "only {n_compiled} cases are kernels altogether");
}

/// Random instances of every operator.
fn samples(symbolic: bool, n_samples: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, sample) in Op::SAMPLERS {
        // `elementwise` stands for some fifty functions.
        for seed in 0..if *name == "elementwise" { 12 * n_samples } else { n_samples } {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            cases.push(Case::new(name, format!("seed {seed} {:?} on {x:?}", s.op), graph, x, want));
        }
    }
    cases
}

#[test]
fn operators() {
    check(samples(false, 6), 200);
}

#[test]
fn operators_of_symbolic_extents() {
    check(samples(true, 4), 100);
}

/// One element, a warp less one and more one, primes, and none.
const EXTENTS: [usize; 6] = [1, 31, 33, 7, 67, 0];

#[test]
fn families_at_odd_extents() {
    let (mut cases, mut rng) = (Vec::new(), Rng::new(6));
    for (family, networks) in FAMILIES {
        for (text, dtype) in networks.iter().flat_map(|text| ["f32", "f16", "bf16"].map(|t| (text, t))) {
            for n in EXTENTS {
                let m = rng.pick(&EXTENTS);
                let Some(g) = instance(text, dtype, [n, m]) else { continue };
                let x = inputs(&g, &mut rng, Values::Between(-2, 3));
                let Ok(want) = eval::graph(&g, &x) else { continue };
                cases.push(Case::new(family, format!("{dtype} N={n} M={m} {text}"), g, x, want));
            }
        }
    }
    check(cases, 400);
}

#[test]
fn products_of_integers_of_8_bits() {
    let (mut cases, mut rng) = (Vec::new(), Rng::new(8));
    for text in INTEGERS {
        for (n, m) in [(1, 31), (31, 33), (33, 7), (67, 67), (16, 64), (130, 96)] {
            let g = instance(text, "i8", [n, m]).unwrap();
            let x = inputs(&g, &mut rng, Values::Between(-128, 128));
            let want = eval::graph(&g, &x).unwrap();
            cases.push(Case::new("i8", format!("N={n} M={m} {text}"), g, x, want));
        }
    }
    let n_by_matrix = cases.iter().filter(|c| c.uses("mma_m16n8k32_s8")).count();
    assert!(n_by_matrix >= 16, "only {n_by_matrix} by matrix instructions");
    check(cases, 24);
}

/// A tensor of `f32` with 11 significant bits, rounded to nearest, ties away from zero.
fn as_tf32(t: &Tensor) -> Tensor {
    let rounded = |x: f64| f32::from_bits(((x as f32).to_bits() + 0x1000) & !0x1fff);
    let values: Vec<f32> = t.to_f64().into_iter().map(rounded).collect();
    Tensor::from_vec(t.shape().to_vec(), &values).unwrap()
}

/// Products of `f32` are of factors of 11 bits where the class of numerics allows it, and only there.
#[test]
fn products_of_tf32() {
    let (mut cases, mut rng) = (Vec::new(), Rng::new(32));
    let networks = FAMILIES.iter().filter(|(family, _)| ["matmul", "conv"].contains(family));
    for text in networks.flat_map(|(_, networks)| *networks) {
        for (n, m) in [(1, 31), (31, 33), (33, 7), (67, 67), (130, 64)] {
            let Some(g) = instance(text, "f32", [n, m]) else { continue };
            let x = inputs(&g, &mut rng, Values::Finite);
            let want = eval::graph(&g, &x).unwrap();
            let plain = Case::new("f32", text.to_string(), g.clone(), x.clone(), want.clone());
            assert!(!plain.uses("tf32"), "{text}");
            let fast = Options { numerics: Numerics::Fast, ..Options::new(Target::sm_80()) };
            let what = format!("N={n} M={m} {text}");
            let mut case = Case::compiled(&fast, "tf32", what, g.clone(), x.clone(), want);
            if case.uses("tf32") {
                // What is added isn't a factor, nor rounded.
                let factors = x.iter().enumerate().map(|(k, t)| if k < 2 { as_tf32(t) } else { t.clone() });
                case.want = eval::graph(&g, &factors.collect::<Vec<_>>()).unwrap();
            }
            cases.push(case);
        }
    }
    let n_by_matrix = cases.iter().filter(|c| c.uses("mma_m16n8k8_tf32")).count();
    assert!(n_by_matrix >= 20, "only {n_by_matrix} by matrix instructions");
    check(cases, 30);
}

/// Products that warp groups compute, of `N` rows, `K` terms and `M` columns.
const GROUPS: &[&str] = &[
    "(%0: T[N,K], %1: T[K,M]) -> T[N,M] { %2 = matmul %0 %1 return %2 }",
    "(%0: T[N,K], %1: T[M,K], %2: T[M]) -> T[N,M] {
       %3 = transpose %1 {perm=[1,0]} %4 = matmul %0 %3 %5 = add %4 %2 %6 = activation %5 {f=gelu} return %6 }",
    "(%0: T[K,N], %1: T[K,M]) -> T[N,M] { %2 = transpose %0 {perm=[1,0]} %3 = matmul %2 %1 return %3 }",
    "(%0: T[3,N,K], %1: T[3,K,M]) -> T[3,N,M] { %2 = matmul %0 %1 return %2 }",
];

#[test]
fn products_of_warp_groups() {
    let (mut cases, mut rng) = (Vec::new(), Rng::new(90));
    let extents = [[64, 64, 64], [33, 8, 40], [72, 200, 136], [137, 72, 264], [104, 320, 72]];
    for (k, text) in GROUPS.iter().enumerate() {
        for (dtype, [n, terms, m]) in extents.iter().flat_map(|e| [("f16", e), ("bf16", e)]) {
            // What lies along rows in memory is a multiple of eight.
            let n = if k == 2 { n / 8 * 8 } else { *n };
            let named = [("T", dtype.to_string()), ("M", m.to_string())];
            let text = named.iter().fold(text.to_string(), |text, (name, x)| text.replace(name, x));
            let of = |rows: &str, terms: &str| {
                parse_graph(&format!("graph{}", text.replace('N', rows).replace('K', terms))).unwrap()
            };
            let (rows, k_terms) = (n.to_string(), terms.to_string());
            let g = of(&rows, &k_terms);
            let x = inputs(&g, &mut rng, Values::Between(-2, 3));
            let want = eval::graph(&g, &x).unwrap();
            // Of those whose rows in memory are of known length some have an unknown number of them, and no boxes where these
            // are terms.
            let g = match k {
                0 | 1 if n % 2 == 1 => of("rows", &k_terms),
                2 if dtype == "bf16" => of(&rows, "terms"),
                _ => g,
            };
            let options = Options::new(Target::sm_90a());
            cases.push(Case::compiled(&options, "wgmma", format!("N={n} K={terms} {text}"), g, x, want));
        }
    }
    let [n_by_groups, n_boxed] = ["wgmma_k16", "fetch"].map(|of| cases.iter().filter(|c| c.uses(of)).count());
    assert!(
        n_by_groups >= 36 && n_boxed >= 32 && n_by_groups > n_boxed,
        "{n_by_groups} by warp groups, {n_boxed} boxed"
    );
    check_on(&Target::sm_90a(), cases, 40);
}

//! Kernels for a CUDA GPU on the emulator, against the interpreter: random instances of every operator, and families of
//! operators at odd extents in the types of floats that networks have.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
mod common;

use aic::emulate::Kernels;
use aic_backends::emulate;
use aic_ir::dtype::DType;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Op, Operand, Rng, Values};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_passes::pipeline::Options;
use aic_passes::runner::Numerics;
use common::{difference, one_node};
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

/// Networks by family: `T` is the type, `N` and `M` are extents; [`instance`] says what the other letters are.
const FAMILIES: &[(&str, &[&str])] = &[
    ("map", &[
        "(%0: T[N,M], %1: T[N,M]) -> T[N,M] { %2 = add %0 %1 %3 = tanh %2 %4 = mul %3 %0 return %4 }",
        "(%0: T[N,M], %1: T[M], %2: T[N,1]) -> T[N,M] { %3 = add %0 %1 %4 = mul %3 %2 %5 = relu %4 return %5 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = cast %0 {to=f32} %2 = exp %1 %3 = cast %2 {to=T} return %3 }",
    ]),
    ("reduce", &[
        "(%0: T[N,M]) -> T[N] { %1 = reduce %0 {op=sum, axes=[1]} return %1 }",
        "(%0: T[N,M]) -> T[M] { %1 = reduce %0 {op=sum, axes=[0]} return %1 }",
        "(%0: T[3,N,M]) -> T[3] { %1 = reduce %0 {op=max, axes=[1,2]} return %1 }",
    ]),
    ("softmax", &[
        "(%0: T[N,M]) -> T[N,M] { %1 = softmax %0 {axis=1} return %1 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = softmax %0 {axis=0} return %1 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = log_softmax %0 {axis=1} return %1 }",
    ]),
    ("norm", &[
        "(%0: T[N,M], %1: T[M], %2: T[M]) -> T[N,M] {
           %3 = normalize %0 {axes=[1], epsilon=1e-3, center=true} %4 = mul %3 %1 %5 = add %4 %2 return %5 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = normalize %0 {axes=[1], epsilon=1e-3, center=false} return %1 }",
    ]),
    ("matmul", &[
        "(%0: T[N,M], %1: T[M,N]) -> T[N,N] { %2 = matmul %0 %1 return %2 }",
        "(%0: T[33,N], %1: T[M,N], %2: T[M]) -> T[33,M] {
           %3 = transpose %1 {perm=[1,0]} %4 = matmul %0 %3 %5 = add %4 %2 %6 = activation %5 {f=gelu} return %6 }",
        "(%0: T[2,N,31], %1: T[2,31,M]) -> T[2,N,M] { %2 = matmul %0 %1 return %2 }",
    ]),
    ("conv", &[
        "(%0: T[2,5,N,9], %1: T[M,5,1,3]) -> T[2,M,N,7] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1} return %2 }",
        "(%0: T[1,6,N,8], %1: T[33,6,3,3], %2: T[33,1,1]) -> T[1,33,H,4] {
           %3 = conv %0 %1 {strides=[2,2], dilations=[1,1], pads=[1,1,1,1], groups=1}
           %4 = add %3 %2 %5 = relu %4 return %5 }",
        "(%0: T[2,M,N,5], %1: T[M,1,3,3]) -> T[2,M,N,5] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=M} return %2 }",
        "(%0: T[1,6,N,8], %1: T[8,3,3,3]) -> T[1,8,N,8] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[2,2], pads=[2,2,2,2], groups=2} return %2 }",
    ]),
    ("pool", &[
        "(%0: T[1,M,N,9]) -> T[1,M,H,5] {
           %1 = pool %0 {op=max, kernel=[3,3], strides=[2,2], dilations=[1,1], pads=[1,1,1,1]} return %1 }",
        "(%0: T[1,M,N,9]) -> T[1,M] { %1 = reduce %0 {op=sum, axes=[2,3]} return %1 }",
    ]),
    ("transpose", &[
        "(%0: T[N,M]) -> T[M,N] { %1 = transpose %0 {perm=[1,0]} return %1 }",
        "(%0: T[3,N,M]) -> T[M,3,N] { %1 = transpose %0 {perm=[2,0,1]} return %1 }",
        "(%0: T[2,N,3,M]) -> T[2,3,N,M] { %1 = transpose %0 {perm=[0,2,1,3]} return %1 }",
    ]),
    ("gather", &["(%0: T[37,M], %1: i64[N]) -> T[N,M] { %2 = gather %0 %1 {axis=0} return %2 }"]),
    ("concat", &[
        "(%0: T[N,M], %1: T[N,3]) -> T[N,P] { %2 = concat %0 %1 {axis=1} return %2 }",
        "(%0: T[N,M], %1: T[5,M]) -> T[Q,M] { %2 = concat %0 %1 {axis=0} %3 = neg %2 return %3 }",
    ]),
    ("slice", &["(%0: T[71,M]) -> T[N,M] { %1 = slice %0 {starts=[2,0], sizes=[N,M], steps=[1,1]} return %1 }"]),
    ("pad", &[
        "(%0: T[N,M], %1: T[]) -> T[R,S] {
           %2 = pad %0 %1 {mode=constant, lo=[1,0], hi=[0,2], interior=[0,0]} return %2 }",
    ]),
    ("attention", &[
        "(%0: T[2,3,N,16], %1: T[2,3,M,16], %2: T[2,3,M,24]) -> T[2,3,N,24] {
           %3 = attention %0 %1 %2 {scale=0.25, causal=false} return %3 }",
        "(%0: T[1,4,N,20], %1: T[1,2,N,20], %2: T[1,2,N,8]) -> T[1,4,N,8] {
           %3 = attention %0 %1 %2 {scale=0.2, causal=true} return %3 }",
        "(%0: T[1,2,N,9], %1: T[1,2,M,9], %2: T[1,2,M,9], %3: T[N,M]) -> T[1,2,N,9] {
           %4 = attention %0 %1 %2 %3 {scale=0.3, causal=false} return %4 }",
    ]),
];

/// The graph of a network at extents, if there is one: windows ask for enough elements.
fn instance(text: &str, dtype: &str, [n, m]: [usize; 2]) -> Option<Graph> {
    // What windows of three make of `N`; concatenation and padding of both.
    let derived = [("H", n.div_ceil(2)), ("P", m + 3), ("Q", n + 5), ("R", n + 1), ("S", m + 2)];
    let extents = derived.into_iter().chain([("N", n), ("M", m)]);
    let text = extents.fold(text.replace('T', dtype), |text, (name, n)| text.replace(name, &n.to_string()));
    parse_graph(&format!("graph{text}")).ok()
}

fn inputs(g: &Graph, rng: &mut Rng, drawn: Values) -> Vec<Tensor> {
    let of = |p: &aic_ir::graph::Port| {
        let ty = g.ty(p.value);
        let shape = ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let values = if ty.dtype == DType::I64 { Values::Between(0, 37) } else { drawn.clone() };
        Operand { dtype: ty.dtype, shape, values }
    };
    let operands: Vec<Operand> = g.inputs.iter().map(of).collect();
    operands.iter().map(|o| rng.tensor(o).unwrap()).collect()
}

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

/// Products of integers of 8 bits.
const INTEGERS: &[&str] = &[
    "(%0: i8[N,M], %1: i8[M,P]) -> i32[N,P] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32} %4 = matmul %2 %3 return %4 }",
    "(%0: i8[N,M], %1: i8[P,M], %2: f32[P]) -> f32[N,P] {
       %3 = cast %0 {to=i32} %4 = cast %1 {to=i32} %5 = transpose %4 {perm=[1,0]} %6 = matmul %3 %5
       %7 = cast %6 {to=f32} %8 = mul %7 %2 return %8 }",
    "(%0: i8[2,M,31], %1: i8[2,31,N]) -> i32[2,M,N] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32} %4 = matmul %2 %3 return %4 }",
    "(%0: i8[1,6,N,9], %1: i8[M,6,3,3]) -> i32[1,M,N,9] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32}
       %4 = conv %2 %3 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %4 }",
];

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
            let named = [("T", dtype.to_string()), ("K", terms.to_string()), ("M", m.to_string())];
            let text = named.iter().fold(text.to_string(), |text, (name, x)| text.replace(name, x));
            let of = |rows: &str| parse_graph(&format!("graph{}", text.replace('N', rows))).unwrap();
            let g = of(&n.to_string());
            let x = inputs(&g, &mut rng, Values::Between(-2, 3));
            let want = eval::graph(&g, &x).unwrap();
            // Of those whose rows in memory are of known length some have an unknown number of them.
            let g = if k < 2 && n % 2 == 1 { of("rows") } else { g };
            let options = Options::new(Target::sm_90a());
            cases.push(Case::compiled(&options, "wgmma", format!("N={n} {text}"), g, x, want));
        }
    }
    let n_by_groups = cases.iter().filter(|c| c.uses("wgmma_k16")).count();
    assert!(n_by_groups >= 36, "only {n_by_groups} by warp groups");
    check_on(&Target::sm_90a(), cases, 40);
}

//! Products of matrices, with what is done to their results, on a CPU, a GPU with tensor cores and an NPU: kernels that
//! the machine has all for, and equal results.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod common;

use aic_ir::compose::compose;
use aic_ir::graph::Graph;
use aic_ir::kernel::{Kernel, Stmt};
use aic_ir::op::{Operand, Rng, Values};
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::{parse_graph, parse_kernel};
use aic_ir::{eval, verify};
use aic_passes::schedule;

/// Runs a kernel on tensors.
fn run(k: &Kernel, x: &[Tensor], y: &Tensor) -> aic_ir::error::Result<Tensor> {
    let mut buffers: Vec<eval::KernelBuffer> = x.iter().map(eval::KernelBuffer::from_tensor).collect();
    buffers.push(eval::KernelBuffer::poisoned(y.dtype(), y.len()));
    eval::kernel(k, &mut buffers, &[])?;
    buffers.last().unwrap().to_tensor(y.shape().to_vec())
}

fn inputs(g: &Graph, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let of = |p: &aic_ir::graph::Port| {
        let ty = g.ty(p.value);
        let shape = ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect();
        // Integers, whose products and sums have no rounding errors in any order.
        Operand { dtype: ty.dtype, shape, values: Values::Between(-3, 4) }
    };
    g.inputs.iter().map(|p| rng.tensor(&of(p)).unwrap()).collect()
}

const ALL: [&str; 4] = ["x86-64-v4", "sm_80", "sm_90a", "910B3"];

/// Checks a graph that is one product on machines; `schedules` are tried besides those chosen.
fn check_on(targets: &[&str], text: &str, schedules: &[(&str, &str)]) {
    let g = parse_graph(text).unwrap();
    let c = compose(&g).unwrap();
    let x = inputs(&g, 3);
    let want = eval::graph(&g, &x).unwrap().remove(0);
    for name in targets {
        let target = Target::named(name).unwrap();
        let made = schedule::kernel("k", &c, &target).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        let mut kernels = vec![(made.schedule, made.kernel)];
        let nest = schedule::Nest::new(&c).unwrap();
        for (_, s) in schedules.iter().filter(|(t, _)| t == name) {
            let s = s.parse().unwrap();
            let k = schedule::apply("k", &nest, &s);
            kernels.push((s, k));
        }
        kernels.iter().for_each(|(s, k)| sound(s, k, &target, &x, &want));
    }
}

/// Checks one schedule.
fn check_kernel(text: &str, target: &Target, schedule: &str) {
    let g = parse_graph(text).unwrap();
    let (s, x) = (schedule.parse().unwrap(), inputs(&g, 3));
    let k = schedule::apply("k", &schedule::Nest::new(&compose(&g).unwrap()).unwrap(), &s);
    sound(&s, &k, target, &x, &eval::graph(&g, &x).unwrap()[0]);
}

/// A kernel reads back, verifies, and computes what it is to.
fn sound(s: &Schedule, k: &Kernel, target: &Target, x: &[Tensor], want: &Tensor) {
    let name = &target.name;
    assert_eq!(s.to_string().parse().as_ref(), Ok(s));
    assert_eq!(parse_kernel(&k.to_string()).as_ref(), Ok(k), "{k}");
    assert_eq!(verify::kernel_for(k, target), Vec::<String>::new(), "{name} {s}\n{k}");
    let got = run(k, x, want).unwrap_or_else(|e| panic!("{name} {s}: {e}\n{k}"));
    assert_eq!(common::difference(want, &got), None, "{name} {s}\n{k}");
}

fn check(text: &str, schedules: &[(&str, &str)]) {
    check_on(&ALL, text, schedules);
}

const SMALL: &[(&str, &str)] = &[
    ("sm_80", "contract unit=mma_m16n8k16_f16 block=32x32x32*3 warp=16x16x32"),
    ("sm_80", "contract unit=mma_m16n8k16_f16 block=32x32x32 warp=32x16x32"),
    ("sm_90a", "contract unit=mma_m16n8k16_f16 block=16x16x16*2 warp=16x8x16"),
    ("910B3", "contract unit=cube_f16 cores=3 l1=32x64x64*2 l0=32x64x32*2 ub=8x64x1"),
    ("910B3", "contract unit=cube_f16 cores=20 l1=32x32x64 l0=32x32x16 ub=16x32x1"),
];

#[test]
fn aligned() {
    let text = "graph(%0: f16[64,64], %1: f16[64,64]) -> f16[64,64] { %2 = matmul %0 %1 return %2 }";
    check(text, SMALL);
}

#[test]
fn odd_extents_with_bias_and_activation() {
    let text = "graph(%0: f16[33,57], %1: f16[57,41], %2: f16[41]) -> f16[33,41] {
      %3 = matmul %0 %1
      %4 = add %3 %2
      %5 = relu %4
      return %5
    }";
    check(text, SMALL);
}

#[test]
fn types_and_layouts() {
    // Factors whose contracted axes are the rows or the columns; a residual; a column; a scalar.
    let cases = [
        "graph(%0: f16[40,17], %1: f16[40,24]) -> f16[17,24] {
          %2 = transpose %0 {perm=[1,0]} %3 = matmul %2 %1 return %3 }",
        "graph(%0: bf16[3,20,32], %1: bf16[3,32,48]) -> bf16[3,20,48] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f16[2,3,5,31], %1: f16[3,31,9], %2: f16[2,3,5,9]) -> f16[2,3,5,9] {
          %3 = matmul %0 %1 %4 = add %3 %2 return %4 }",
        "graph(%0: f16[1,70], %1: f16[70,33]) -> f16[1,33] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f16[33,1], %1: f16[1,64]) -> f16[33,64] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f16[64,20], %1: f16[20,33], %2: f16[64,1], %3: f32[]) -> f32[64,33] {
          %4 = matmul %0 %1 %5 = mul %4 %2 %6 = cast %5 {to=f32} %7 = sub %6 %3 return %7 }",
    ];
    for case in cases {
        check(case, &[]);
    }
}

/// Integers this small are exact in tf32, which is asked for: it is not what f32 means.
#[test]
fn factors_of_32_bits() {
    let text = "graph(%0: f32[20,33], %1: f32[7,33]) -> f32[20,7] {
      %2 = transpose %1 {perm=[1,0]} %3 = matmul %0 %2 return %3 }";
    check_on(&["x86-64", "sm_80", "910B3"], text, &[]);
    let s = "contract unit=mma_m16n8k8_tf32 block=32x32x16*3 warp=16x16x16";
    check_kernel(text, &Target::sm_80(), s);
}

#[test]
fn an_npu_transposes_fractals_of_16_bits_only() {
    let text = "graph(%0: f32[20,33], %1: f32[33,16]) -> f32[20,16] { %2 = matmul %0 %1 return %2 }";
    check_on(&["x86-64", "x86-64-v3"], text, &[]);
    let c = compose(&parse_graph(text).unwrap()).unwrap();
    let npu = Target::ascend_910b3();
    // Its vector cores do it.
    assert!(schedule::kernel("k", &c, &npu).unwrap().schedule.unit.is_empty());
    let s = "contract unit=cube_f32 cores=3 l1=32x64x64*2 l0=32x64x32*2 ub=8x64x1".parse().unwrap();
    let found = verify::machine(&schedule::apply("k", &schedule::Nest::new(&c).unwrap(), &s), &npu);
    assert!(
        found.iter().all(|m| m.contains("don't make rows of f32 the columns")) && !found.is_empty(),
        "{found:?}"
    );
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(11);
    let mut pick = |of: &[usize]| of[rng.below(of.len())];
    let extents = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 64, 65, 97];
    for _ in 0..40 {
        let [m, n, k] = [pick(&extents), pick(&extents), pick(&extents)];
        let dtype = ["f16", "bf16"][pick(&[0, 1])];
        let product =
            ["%3 = matmul %0 %1", "%4 = transpose %1 {perm=[1,0]} %3 = matmul %0 %4"][pick(&[0, 1])];
        let b = if product.contains("transpose") { [n, k] } else { [k, n] };
        let epilogue =
            ["%5 = relu %3", "%6 = add %3 %2 %5 = tanh %6", "%5 = cast %3 {to=f32}"][pick(&[0, 1, 2])];
        let result = if epilogue.contains("f32") { "f32" } else { dtype };
        let text = format!(
            "graph(%0: {dtype}[{m},{k}], %1: {dtype}[{},{}], %2: {dtype}[{n}]) -> {result}[{m},{n}] {{
               {product} {epilogue} return %5 }}",
            b[0], b[1]
        );
        let unit = |of: &str| format!("unit={of}_{dtype}");
        let gpu = format!("contract {} block=32x32x32*2 warp=16x16x32", unit("mma_m16n8k16"));
        let npu = format!("contract {} cores=2 l1=32x32x32*2 l0=32x32x16*2 ub=8x32x1", unit("cube"));
        check(&text, &[("sm_80", &gpu), ("910B3", &npu)]);
    }
}

/// Statements that are taken away or weakened, one at a time, are all missed: by the verifier, by the interpreter, or in
/// the result.
#[test]
fn faults_are_caught() {
    let text = "graph(%0: f16[64,96], %1: f16[96,64], %2: f16[64]) -> f16[64,64] {
      %3 = matmul %0 %1 %4 = add %3 %2 return %4 }";
    let g = parse_graph(text).unwrap();
    let (c, x) = (compose(&g).unwrap(), inputs(&g, 5));
    let want = eval::graph(&g, &x).unwrap().remove(0);
    let schedules = [
        ("sm_80", "contract unit=mma_m16n8k16_f16 block=32x32x32*3 warp=16x16x32"),
        ("sm_80", "contract unit=mma_m16n8k16_f16 block=32x32x32 warp=16x16x32"),
        ("910B3", "contract unit=cube_f16 cores=2 l1=32x32x32*2 l0=32x32x16*2 ub=8x32x1"),
        ("910B3", "contract unit=cube_f16 cores=2 l1=32x32x32 l0=32x32x16 ub=8x32x1"),
    ];
    for (name, s) in schedules {
        let k = schedule::apply("k", &schedule::Nest::new(&c).unwrap(), &s.parse().unwrap());
        check_faults(&Target::named(name).unwrap(), &k, &x, &want);
    }
}

/// The same of warps that multiply what another one asks for, two tiles one after the other.
#[test]
fn faults_between_warps_are_caught() {
    let text = "graph(%0: f16[64,160], %1: f16[160,128]) -> f16[64,128] { %2 = matmul %0 %1 return %2 }";
    let g = parse_graph(text).unwrap();
    let x = inputs(&g, 5);
    let want = eval::graph(&g, &x).unwrap().remove(0);
    let s = "contract unit=wgmma_k16_f16 cores=1 block=64x64x64*2 warp=64x64x64".parse().unwrap();
    let k = schedule::apply("k", &schedule::Nest::new(&compose(&g).unwrap()).unwrap(), &s);
    check_faults(&Target::sm_90a(), &k, &x, &want);
}

/// Checks that every fault of a kernel is missed by somebody.
fn check_faults(target: &Target, k: &Kernel, x: &[Tensor], want: &Tensor) {
    let name = &target.name;
    let mut n_faults = 0;
    while let Some((fault, wrong)) = faulty(k, n_faults) {
        n_faults += 1;
        let is_right = || run(&wrong, x, want).is_ok_and(|y| common::difference(want, &y).is_none());
        let is_missed = verify::kernel_for(&wrong, target).is_empty() && is_right();
        assert!(!is_missed, "{name}: nobody misses it: {fault}\n{wrong}");
    }
    assert!(n_faults > 6, "only {n_faults} faults");
}

/// A kernel with its `n`th fault, and what that is.
fn faulty(k: &Kernel, n: usize) -> Option<(String, Kernel)> {
    let (mut wrong, mut left, mut fault) = (k.clone(), n, None);
    break_one(&mut wrong.body, &mut left, &mut fault);
    Some((fault?, wrong))
}

fn break_one(stmts: &mut Vec<Stmt>, left: &mut usize, fault: &mut Option<String>) {
    let mut at = 0;
    while at < stmts.len() && fault.is_none() {
        let text = stmts[at].to_string();
        let line = text.lines().next().unwrap_or_default().to_owned();
        let breaks = match &mut stmts[at] {
            Stmt::Barrier(_) | Stmt::Copy(_) | Stmt::Mma(_) | Stmt::Commit { .. } => true,
            Stmt::Phase(_) | Stmt::Fetch(_) => true,
            Stmt::Wait { pending, .. } => {
                if *left == 0 {
                    *pending += 1;
                    *fault = Some(format!("{line}, with one more pending"));
                    return;
                }
                *left -= 1;
                true
            }
            Stmt::For { body, .. } => {
                break_one(body, left, fault);
                false
            }
            Stmt::If { then, other, .. } => {
                break_one(then, left, fault);
                break_one(other, left, fault);
                false
            }
            _ => false,
        };
        if breaks && *left == 0 {
            stmts.remove(at);
            *fault = Some(format!("without {line}"));
        } else if breaks {
            *left -= 1;
        }
        at += 1;
    }
}

/// Rows of an unknown number: grids and turns of that many tiles, proved to stay within the buffers.
#[test]
fn symbolic_rows() {
    let text = "graph(%0: f16[n,72], %1: f16[72,48], %2: f16[48]) -> f16[n,48] {
      %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }";
    let g = parse_graph(text).unwrap();
    let c = compose(&g).unwrap();
    for name in ["sm_80", "910B3"] {
        let target = Target::named(name).unwrap();
        let k = schedule::kernel("k", &c, &target).unwrap().kernel;
        assert_eq!(verify::kernel_for(&k, &target), Vec::<String>::new(), "{k}");
        for n in [0, 1, 31, 130] {
            let of = |k: u64, shape: Vec<usize>| {
                let values = Values::Between(-3, 4);
                Rng::new(k).tensor(&Operand { dtype: aic_ir::dtype::DType::F16, shape, values }).unwrap()
            };
            let x = [of(1, vec![n, 72]), of(2, vec![72, 48]), of(3, vec![48])];
            let want = eval::graph(&g, &x).unwrap().remove(0);
            let mut buffers: Vec<eval::KernelBuffer> =
                x.iter().map(eval::KernelBuffer::from_tensor).collect();
            buffers.push(eval::KernelBuffer::poisoned(want.dtype(), want.len()));
            eval::kernel(&k, &mut buffers, &[n as i64]).unwrap_or_else(|e| panic!("{name} n={n}: {e}\n{k}"));
            let got = buffers.last().unwrap().to_tensor(want.shape().to_vec()).unwrap();
            assert_eq!(common::difference(&want, &got), None, "{name} n={n}\n{k}");
        }
    }
}

/// Products of factors that a GPU copies boxes of: each axis along the rows of either, several tiles of a block, a batch.
#[test]
fn boxes_on_a_gpu() {
    for text in [
        "graph(%0: f16[72,424], %1: f16[424,72]) -> f16[72,72] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: bf16[104,136], %1: bf16[200,136], %2: bf16[200]) -> bf16[104,200] {
          %3 = transpose %1 {perm=[1,0]} %4 = matmul %0 %3 %5 = add %4 %2 %6 = relu %5 return %6 }",
        "graph(%0: f16[80,200], %1: f16[80,136]) -> f16[200,136] {
          %2 = transpose %0 {perm=[1,0]} %3 = matmul %2 %1 return %3 }",
        "graph(%0: f16[3,40,72], %1: f16[3,72,48]) -> f16[3,40,48] { %2 = matmul %0 %1 return %2 }",
    ] {
        let unit = if text.contains("bf16") { "bf16" } else { "f16" };
        let few = format!(
            "contract lanes=1 mr=1 nr=1 kc=0 unit=wgmma_k16_{unit} cores=2 block=64x64x64*2 warp=64x64x64"
        );
        let large = format!(
            "contract lanes=1 mr=1 nr=1 kc=0 unit=wgmma_k16_{unit} cores=2 block=128x128x64*3 warp=64x128x64"
        );
        check_on(&["sm_90a"], text, &[("sm_90a", &few), ("sm_90a", &large)]);
    }
}

#[test]
fn maps_on_a_gpu() {
    let cases = [
        "graph(%0: f32[1000]) -> f32[1000] { %1 = relu %0 return %1 }",
        "graph(%0: f16[3,41], %1: f16[41]) -> f16[3,41] { %2 = add %0 %1 return %2 }",
        "graph(%0: f32[5,7,9]) -> f32[9,5,7] { %1 = transpose %0 {perm=[2,0,1]} return %1 }",
        "graph(%0: f32[]) -> f32[] { %1 = neg %0 return %1 }",
    ];
    for text in cases {
        check_on(&["sm_80"], text, &[]);
    }
}

/// Reductions, softmax and normalisations: rows shared by the threads of a warp or a block, and reductions that a thread
/// does alone.
#[test]
fn rows_on_a_gpu() {
    let mut cases: Vec<String> = Vec::new();
    for n in [1, 7, 33, 64, 200, 1030, 2500] {
        cases.push(format!("graph(%0: f32[5,{n}]) -> f32[5,{n}] {{ %1 = softmax %0 {{axis=1}} return %1 }}"));
        cases.push(format!(
            "graph(%0: f32[5,{n}]) -> f32[5] {{ %1 = reduce %0 {{op=sum, axes=[1]}} return %1 }}"
        ));
    }
    cases.extend(
        [
            "graph(%0: f16[3,2,48]) -> f16[3,2,48] { %1 = softmax %0 {axis=2} return %1 }",
            "graph(%0: f32[3,40,7]) -> f32[3,40,7] { %1 = softmax %0 {axis=1} return %1 }",
            "graph(%0: f32[3,40,7]) -> f32[3,7] { %1 = reduce %0 {op=max, axes=[1]} return %1 }",
            "graph(%0: f32[n,96]) -> f32[n,96] { %1 = softmax %0 {axis=1} return %1 }",
        ]
        .map(str::to_owned),
    );
    for text in &cases {
        check_pieces(text);
    }
}

/// Contractions without matrix instructions.
#[test]
fn products_by_threads() {
    for text in [
        "graph(%0: f32[70,37], %1: f32[37,68]) -> f32[70,68] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f32[33,65], %1: f32[65,41], %2: f32[41]) -> f32[33,41] {
          %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }",
        "graph(%0: f32[2,5,20,12], %1: f32[2,5,12,24]) -> f32[2,5,20,24] { %2 = matmul %0 %1 return %2 }",
    ] {
        check_pieces(text);
    }
}

/// Convolutions in 16 bits: the matrix of windows is never in memory.
#[test]
fn convolutions_by_matrix_instructions() {
    for dtype in ["f16", "bf16"] {
        for (x, w, y, attributes) in [
            ("2,5,9,8", "7,5,3,3", "2,7,9,8", "strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1"),
            ("1,6,11,7", "8,3,3,2", "1,8,6,7", "strides=[2,1], dilations=[1,2], pads=[1,0,1,2], groups=2"),
            ("1,16,6,6", "33,16,1,1", "1,33,3,3", "strides=[2,2], dilations=[1,1], pads=[0,0,0,0], groups=1"),
        ] {
            let text = format!(
                "graph(%0: {dtype}[{x}], %1: {dtype}[{w}]) -> {dtype}[{y}] {{ %2 = conv %0 %1 {{{attributes}}} return %2 }}"
            );
            check_pieces(&text);
            let c = compose(&parse_graph(&text).unwrap()).unwrap();
            let made = schedule::kernel("k", &c, &Target::sm_80()).unwrap();
            // Filters of groups depend on what the windows do: no product of two matrices.
            let is_product = made.schedule.unit.starts_with("mma");
            assert_eq!(is_product, attributes.ends_with("groups=1"), "{}", made.schedule);
        }
    }
}

/// Attention is one kernel, by threads or by matrix instructions.
#[test]
fn attention_on_a_gpu() {
    for dtype in ["f32", "f16", "bf16"] {
        for (heads, n, t, sizes, attributes) in [
            ([2, 2], 5, 7, [8, 8], "scale=0.25, causal=false"),
            ([4, 2], 70, 70, [20, 12], "scale=0.2, causal=true"),
            ([1, 1], 1, 100, [16, 32], "scale=0.1, causal=false"),
        ] {
            let ([heads, groups], [size, value]) = (heads, sizes);
            let text = format!(
                "graph(%0: {dtype}[2,{heads},{n},{size}], %1: {dtype}[2,{groups},{t},{size}], \
                 %2: {dtype}[2,{groups},{t},{value}]) -> {dtype}[2,{heads},{n},{value}] {{ %3 = attention %0 %1 %2 {{{attributes}}} return %3 }}"
            );
            check_pieces(&text);
            let c = compose(&parse_graph(&text).unwrap()).unwrap();
            let made = schedule::kernel("k", &c, &Target::sm_80()).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(made.schedule.unit.starts_with("mma"), dtype != "f32", "{}", made.schedule);
        }
    }
    check_pieces(
        "graph(%0: f32[2,2,5,6], %1: f32[2,2,9,6], %2: f32[2,2,9,4], %3: f32[5,9]) -> f32[2,2,5,4] {
          %4 = attention %0 %1 %2 %3 {scale=0.3, causal=false} return %4 }",
    );
}

/// Tiles that are turned in shared memory.
#[test]
fn transpositions_on_a_gpu() {
    for (shape, perm, turned) in
        [("40,70", "1,0", "70,40"), ("3,33,17", "2,0,1", "17,3,33"), ("2,64,5,32", "0,3,2,1", "2,32,5,64")]
    {
        for dtype in ["f32", "f16"] {
            let text = format!(
                "graph(%0: {dtype}[{shape}]) -> {dtype}[{turned}] {{
                   %1 = transpose %0 {{perm=[{perm}]}} return %1 }}"
            );
            check_pieces(&text);
            let c = compose(&parse_graph(&text).unwrap()).unwrap();
            let made = schedule::kernel("k", &c, &Target::sm_80()).unwrap();
            assert_eq!(made.schedule.mr, 32, "{}", made.schedule);
        }
    }
    check_pieces(
        "graph(%0: f32[40,70], %1: f32[40]) -> f32[70,40] {
          %2 = transpose %0 {perm=[1,0]} %3 = add %2 %1 %4 = relu %3 return %4 }",
    );
}

/// Checks a graph of one node by the kernels that it is cut into for a GPU, one after the other.
fn check_pieces(text: &str) {
    let g = parse_graph(text).unwrap();
    let target = Target::sm_80();
    let c = compose(&g).unwrap();
    let n = 3;
    let mut rng = Rng::new(5);
    let x: Vec<Tensor> = g
        .inputs
        .iter()
        .map(|p| {
            let ty = g.ty(p.value);
            let shape = ty.dims.iter().map(|d| d.as_const().unwrap_or(n) as usize).collect();
            rng.tensor(&Operand { dtype: ty.dtype, shape, values: Values::Between(-3, 4) }).unwrap()
        })
        .collect();
    let want = eval::graph(&g, &x).unwrap().remove(0);
    let cut = schedule::cut(&c, &target);
    let mut stages: std::collections::HashMap<usize, eval::KernelBuffer> = Default::default();
    for piece in &cut.pieces {
        let made = schedule::kernel("k", &piece.compute, &target).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let (s, k) = (made.schedule, made.kernel);
        assert_eq!(parse_kernel(&k.to_string()).as_ref(), Ok(&k), "{k}");
        assert_eq!(verify::kernel_for(&k, &target), Vec::<String>::new(), "{s}\n{k}");
        let mut buffers: Vec<eval::KernelBuffer> = piece
            .sources
            .iter()
            .map(|s| match s {
                aic_ir::compute::Source::Input(i) => eval::KernelBuffer::from_tensor(&x[*i]),
                aic_ir::compute::Source::Stage(i) => stages[i].clone(),
            })
            .collect();
        for r in &piece.results {
            let ty = cut.compute.stages[*r].ty();
            let len: i64 = ty.dims.iter().map(|d| d.as_const().unwrap_or(n)).product();
            buffers.push(eval::KernelBuffer::poisoned(ty.dtype, len as usize));
        }
        let symbols = vec![n; k.symbols.len()];
        eval::kernel(&k, &mut buffers, &symbols).unwrap_or_else(|e| panic!("{e}\n{s}\n{k}"));
        let first = piece.sources.len();
        for (at, r) in piece.results.iter().enumerate() {
            stages.insert(*r, buffers[first + at].clone());
        }
    }
    let got = stages[&cut.compute.outputs[0]].to_tensor(want.shape().to_vec()).unwrap();
    assert_eq!(common::difference(&want, &got), None, "{text}");
}

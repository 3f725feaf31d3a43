//! The model of the Ascend C API: kernels that keep its rules give right results at odd shapes in every order of
//! execution, and each of a list of faults put into them is reported by the rule that it breaks.
#![allow(clippy::unwrap_used)]

use aic_backends::ascendc::emulator::{Contents, Emulator, Job, KernelFile, Outcome, Settings, Step};
use half::f16;
use std::path::Path;
use std::time::Duration;

const SEEDS: [u64; 3] = [1, 2, 3];
const LIMIT: Duration = Duration::from_secs(60);

/// A kernel of `testdata/ascendc` with replaced text, under a name of its own.
fn source(file: &str, name: &str, edits: &[(&str, &str)]) -> KernelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/ascendc").join(format!("{file}.cpp"));
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{file} has no {from:?}");
        text = text.replacen(from, to, 1);
    }
    text = text.replacen(&format!("void {file}("), &format!("void {name}("), 1);
    KernelFile::parse(format!("{file}.cpp").into(), text).unwrap()
}

/// Numbers of about unit size.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..n).map(|_| f64::from(f16::from_f64(draw() * 2.0))).collect()
}

fn f32_bytes(x: &[f64]) -> Contents {
    Contents::Bytes(x.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect())
}

fn f16_bytes(x: &[f64]) -> Contents {
    Contents::Bytes(x.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()).collect())
}

fn f32s(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn f16s(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f64()).collect()
}

/// A launch of a kernel, and what it must give.
struct Case {
    source: KernelFile,
    job: Job,
    expected: Vec<f64>,
    is_half: bool,
}

fn case(
    source: KernelFile,
    blocks: u32,
    inputs: Vec<Contents>,
    output: u64,
    scratch: u64,
    is_half: bool,
) -> Case {
    let size = |c: &Contents| match c {
        Contents::Bytes(b) => b.len() as u64,
        _ => 0,
    };
    let mut buffers: Vec<(u64, Contents)> = inputs.into_iter().map(|c| (size(&c), c)).collect();
    let out = buffers.len();
    buffers.push((output, Contents::Undefined));
    if scratch > 0 {
        buffers.push((scratch, Contents::Undefined));
    }
    let args = (0..buffers.len()).collect();
    let steps = vec![Step::Launch { kernel: source.name.clone(), task: source.task, blocks, args }];
    Case { source, job: Job { buffers, steps, outputs: vec![out] }, expected: Vec::new(), is_half }
}

fn add(name: &str, n: usize, edits: &[(&str, &str)]) -> Case {
    let shape = format!("N = {n},");
    let edits = [&[("N = 10007,", shape.as_str())], edits].concat();
    let (x, y) = (numbers(1, n), numbers(2, n));
    let expected = x.iter().zip(&y).map(|(a, b)| a + b).collect();
    let inputs = vec![f32_bytes(&x), f32_bytes(&y)];
    Case { expected, ..case(source("add", name, &edits), 4, inputs, 4 * n as u64, 0, false) }
}

fn softmax(name: &str, [rows, cols]: [usize; 2], edits: &[(&str, &str)]) -> Case {
    let shape = format!("ROWS = {rows}, COLS = {cols},");
    let edits = [&[("ROWS = 37, COLS = 131,", shape.as_str())], edits].concat();
    let x = numbers(3, rows * cols);
    let mut expected = Vec::new();
    for row in x.chunks(cols) {
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|v| (v - most).exp()).sum();
        expected.extend(row.iter().map(|v| (v - most).exp() / sum));
    }
    let bytes = 4 * (rows * cols) as u64;
    Case { expected, ..case(source("softmax", name, &edits), 4, vec![f32_bytes(&x)], bytes, 0, false) }
}

fn layernorm(name: &str, [rows, cols]: [usize; 2], edits: &[(&str, &str)]) -> Case {
    let shape = format!("ROWS = {rows}, COLS = {cols},");
    let edits = [&[("ROWS = 9, COLS = 100,", shape.as_str())], edits].concat();
    let (x, gamma, beta) = (numbers(4, rows * cols), numbers(5, cols), numbers(6, cols));
    let mut expected = Vec::new();
    for row in x.chunks(cols) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / cols as f64;
        let y = |(k, v): (usize, &f64)| (v - mean) / (variance + 1e-5).sqrt() * gamma[k] + beta[k];
        expected.extend(row.iter().enumerate().map(y));
    }
    let inputs = vec![f16_bytes(&x), f16_bytes(&gamma), f16_bytes(&beta)];
    let bytes = 2 * (rows * cols) as u64;
    Case { expected, ..case(source("layernorm", name, &edits), 3, inputs, bytes, 0, true) }
}

/// Both kernels of products, the second with its bias and activation.
fn matmul(file: &str, name: &str, [m, k, n]: [usize; 3], blocks: u32, edits: &[(&str, &str)]) -> Case {
    let shape = format!("M = {m}, K = {k}, N = {n}, CORES = {blocks};");
    let edits = [&[("M = 50, K = 80, N = 48, CORES = 2;", shape.as_str())], edits].concat();
    let (a, b, bias) = (numbers(7, m * k), numbers(8, k * n), numbers(9, n));
    let is_fused = file == "matmul_gelu";
    let mut expected = Vec::new();
    for at in 0..m * n {
        let sum: f64 = (0..k).map(|q| a[at / n * k + q] * b[q * n + at % n]).sum();
        let x = sum + bias[at % n];
        let gelu = x / (1.0 + (-1.595_769_1 * (x + 0.044715 * x * x * x)).exp());
        expected.push(if is_fused { gelu } else { sum });
    }
    let mut inputs = vec![f16_bytes(&a), f16_bytes(&b)];
    let size = if is_fused { 2 } else { 4 };
    let scratch = if is_fused { u64::from(blocks) * 2 * 32 * 32 * 4 } else { 0 };
    if is_fused {
        inputs.push(f32_bytes(&bias));
    }
    let source = source(file, name, &edits);
    Case { expected, ..case(source, blocks, inputs, size * (m * n) as u64, scratch, is_fused) }
}

fn run(emulator: &Emulator, case: &Case, seed: u64) -> Outcome {
    emulator.run(&case.job, &Settings { seed, ..Settings::default() }, LIMIT).unwrap()
}

/// What is wrong with a run of a kernel.
fn complaints(case: &Case, outcome: &Outcome) -> Vec<String> {
    let mut out: Vec<String> =
        outcome.violations.iter().map(|v| format!("{} {} {}", v.rule, v.place, v.text)).collect();
    let found = if case.is_half { f16s(&outcome.outputs[0]) } else { f32s(&outcome.outputs[0]) };
    let tolerance = if case.is_half { 4e-3 } else { 1e-5 };
    for (k, (f, e)) in found.iter().zip(&case.expected).enumerate() {
        // The largest of a product's sums decides about its rounding.
        if (f - e).abs().is_nan() || (f - e).abs() > tolerance * e.abs().max(4.0) {
            out.push(format!("element {k} is {f}, not {e}"));
            break;
        }
    }
    out
}

#[test]
fn good_kernels_pass_at_odd_shapes_in_any_order() {
    let mut cases = Vec::new();
    for (k, n) in [1, 31, 32, 33, 10007].into_iter().enumerate() {
        cases.push(add(&format!("add_{k}"), n, &[]));
    }
    for (k, shape) in [[37, 131], [1, 1], [3, 32], [5, 33], [2, 1000]].into_iter().enumerate() {
        cases.push(softmax(&format!("softmax_{k}"), shape, &[]));
    }
    for (k, shape) in [[9, 100], [2, 31], [7, 257]].into_iter().enumerate() {
        cases.push(layernorm(&format!("layernorm_{k}"), shape, &[]));
    }
    for (k, shape) in [[50, 80, 48], [2, 16, 16], [99, 32, 80]].into_iter().enumerate() {
        cases.push(matmul("matmul", &format!("matmul_{k}"), shape, 2, &[]));
        cases.push(matmul("matmul_gelu", &format!("matmul_gelu_{k}"), shape, 1 + k as u32 % 2, &[]));
    }
    let sources: Vec<KernelFile> = cases.iter().map(|c| c.source.clone()).collect();
    let emulator = Emulator::build(&sources, &[]).unwrap();
    let mut wrong = Vec::new();
    for c in &cases {
        for seed in SEEDS {
            let said = complaints(c, &run(&emulator, c, seed));
            wrong.extend(said.into_iter().map(|s| format!("{} with seed {seed}: {s}", c.source.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A fault: the kernel, what is replaced by what, and the rule that breaks.
type Mutant = (&'static str, &'static [(&'static str, &'static str)], &'static str);

const MUTANTS: &[Mutant] = &[
    ("add", &[("        inX.EnQue(a);\n", "")], "R17"),
    ("add", &[("        inX.FreeTensor(a);\n", "")], "R17"),
    ("add", &[("        outZ.FreeTensor(c);\n", "")], "R17"),
    ("add", &[("inX.FreeTensor(a);", "inX.FreeTensor(a); inX.FreeTensor(a);")], "R17"),
    ("add", &[("inY.FreeTensor(b);", "inX.FreeTensor(b);")], "R17"),
    ("add", &[("DataCopyPad(a, xg[first], whole, {false, 0, 0, 0})", "DataCopy(a, xg[first], n)")], "R7"),
    ("add", &[("Add(c, a, b, n)", "Add(c, a, b, n + 1)")], "R6"),
    ("add", &[("Add(c, a, b, n)", "Add(c, a, b, n - 1)")], "R6"),
    ("add", &[("inX, 2, TILE * sizeof(float)", "inX, 2, TILE * sizeof(half)")], "R5"),
    ("add", &[("first += CORES * TILE", "first += TILE")], "R9"),
    ("add", &[("InitBuffer(inX, 2,", "InitBuffer(inX, 7,")], "R3"),
    ("add", &[("TILE = 2048", "TILE = 20480")], "R1"),
    ("add", &[("(__gm__ float*)x, N)", "(__gm__ float*)x, N + 64)")], "R9"),
    ("add", &[("zg[first], c", "zg[first + 1], c")], "R9"),
    (
        "add",
        &[("Add(c, a, b, n);\n        outZ.EnQue(c);", "outZ.EnQue(c);\n        Add(c, a, b, n);")],
        "R18",
    ),
    (
        "add",
        &[(
            "outZ.EnQue(c);\n        inX.FreeTensor(a);",
            "inX.FreeTensor(a); Add(c, a, b, n); outZ.EnQue(c);",
        )],
        "R18",
    ),
    ("softmax", &[("    PipeBarrier<PIPE_V>();\n}", "}")], "R18"),
    ("softmax", &[("            PipeBarrier<PIPE_V>();\n            Exp", "            Exp")], "R18"),
    ("softmax", &[("COLS / 64 + 1) * 2", "COLS / 64 + 1) / 4")], "R15"),
    ("softmax", &[("rows{n, uint32_t(COLS * sizeof(float))", "rows{n, uint32_t(COLS + 1)")], "R8"),
    ("softmax", &[("to = b[r * WIDTH]", "to = b[r * WIDTH + 1]")], "R4"),
    ("softmax", &[("spread, 64,", "spread, 65,")], "R16"),
    ("softmax", &[("{true, 0, uint8_t(WIDTH - COLS), 0}", "{false, 0, 0, 0}")], "R6"),
    ("softmax", &[("Exp(to, to, WIDTH)", "Exp(to, to[8], WIDTH - 8)")], "R13"),
    ("layernorm", &[("    WaitFlag<HardEvent::V_S>(event);\n", "")], "R19"),
    ("layernorm", &[("    SetFlag<HardEvent::V_S>(event);\n", "")], "R19"),
    ("layernorm", &[("Scalar(sum, toScalar) / COLS", "Scalar(sum, 8) / COLS")], "R19"),
    (
        "layernorm",
        &[("        SetFlag<HardEvent::S_V>(toVector);\n        WaitFlag<HardEvent::S_V>(toVector);\n", "")],
        "R18",
    ),
    ("matmul", &[("if ((m / 16) * (n / 16) < 10) PipeBarrier<PIPE_M>();", "")], "R20"),
    ("matmul", &[("MmadParams(m, n, p, 0", "MmadParams(1, n, p, 0")], "R25"),
    ("matmul", &[("out.nSize = n", "out.nSize = n - 8")], "R10"),
    ("matmul", &[("KERNEL_TYPE_AIC_ONLY", "KERNEL_TYPE_AIV_ONLY")], "R23"),
    ("matmul", &[("                qa2.EnQue(a2);\n", ""), ("a2 = qa2.DeQue<half>();", "")], "R17"),
    (
        "matmul",
        &[("LoadL1(b1, bg[k0 * N + n0], k, n, N, TK)", "LoadL1(b1, bg[k0 * N + n0], k - 1, n, N, TK)")],
        "R6",
    ),
    ("matmul_gelu", &[("        CrossCoreWaitFlag(READY);\n", "")], "R9"),
    (
        "matmul_gelu",
        &[("inSum.EnQue(x);\n        CrossCoreSetFlag<2, PIPE_MTE2>(READ);", "inSum.EnQue(x);")],
        "R21",
    ),
    (
        "matmul_gelu",
        &[
            ("if (turn >= RING) CrossCoreWaitFlag(READ);", ""),
            ("for (uint32_t k = 0; k < RING && k < turn; ++k)", "for (uint32_t k = 0; k < turn; ++k)"),
        ],
        "R9",
    ),
    ("matmul_gelu", &[("READY = 0", "READY = 11")], "R21"),
    ("matmul_gelu", &[("KERNEL_TYPE_MIX_AIC_1_2", "KERNEL_TYPE_AIC_ONLY")], "R21"),
    (
        "matmul_gelu",
        &[("CrossCoreSetFlag<2, PIPE_FIX>(READY)", "CrossCoreSetFlag<2, PIPE_MTE2>(READY)")],
        "R9",
    ),
];

#[test]
fn every_fault_is_reported_by_its_rule() {
    let make = |(k, (file, edits, _)): (usize, &Mutant)| {
        let name = format!("mutant_{k}");
        match *file {
            "add" => add(&name, 10007, edits),
            "softmax" => softmax(&name, [37, 1001], edits),
            "layernorm" => layernorm(&name, [9, 100], edits),
            _ => matmul(file, &name, [98, 80, 48], 1, edits),
        }
    };
    let cases: Vec<Case> = MUTANTS.iter().enumerate().map(make).collect();
    let sources: Vec<KernelFile> = cases.iter().map(|c| c.source.clone()).collect();
    let emulator = Emulator::build(&sources, &[]).unwrap();
    let mut missed = Vec::new();
    for (c, (file, edits, rule)) in cases.iter().zip(MUTANTS) {
        let found: Vec<String> = run(&emulator, c, 1).violations.into_iter().map(|v| v.rule).collect();
        if !found.iter().any(|r| r == rule) {
            missed.push(format!("{file} with {edits:?}: expected {rule}, found {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn blocks_are_as_many_as_there_are_cores() {
    let mut c = add("add", 33, &[]);
    let Step::Launch { blocks, .. } = &mut c.job.steps[0] else { unreachable!() };
    *blocks = 41;
    let emulator = Emulator::build(std::slice::from_ref(&c.source), &[]).unwrap();
    assert_eq!(run(&emulator, &c, 1).violations[0].rule, "R27");
}

/// Predicted seconds of a launch on data that doesn't matter.
fn predicted(emulator: &Emulator, source: &KernelFile, blocks: u32, bytes: [u64; 3], clock: f64) -> f64 {
    let buffers = bytes.into_iter().map(|n| (n, Contents::Zeros)).collect();
    let (kernel, task) = (source.name.clone(), source.task);
    let steps = vec![Step::Launch { kernel, task, blocks, args: vec![0, 1, 2] }];
    let job = Job { buffers, steps, outputs: Vec::new() };
    let settings = Settings { is_timing_only: true, cores: 24, clock, ..Settings::default() };
    emulator.run(&job, &settings, LIMIT).unwrap().times[0].seconds(&settings)
}

/// Sums of 8192 x 8192 halves: elements of a tile, buffers of a queue, and the published microseconds.
const SUMS: [(&str, u32, u32, f64); 3] = [
    ("sum_in_tiles", 8192, 1, 268.0),
    ("sum_in_two_buffers", 8192, 2, 264.0),
    ("sum_past_the_cache", 8192, 2, 184.5),
];

fn sum(name: &str, tile: u32, buffers: u32) -> KernelFile {
    let shape = format!("N = 67108864, TILE = {tile}, CORES = 48;");
    let mut sum = source("add", name, &[("N = 10007, TILE = 2048, CORES = 4;", &shape)]);
    sum.text = sum.text.replace(", 2, TILE", &format!(", {buffers}, TILE"));
    sum.text = sum.text.replace("float", "half").replace("false, 0, 0, 0", "false, 0, 0, (half)0");
    sum
}

/// Times that the vendor publishes for kernels scheduled like these.
#[test]
fn predicted_times_are_near_published_ones() {
    let n = 8192u64;
    let shape = [
        ("M = 50, K = 80, N = 48, CORES = 2;", "M = 8192, K = 8192, N = 8192, CORES = 24;"),
        ("TM = 32, TN = 32, TK = 32;", "TM = 128, TN = 256, TK = 256;"),
        ("PART = 32;", "PART = 64;"),
    ];
    let product = source("matmul", "product", &shape);
    let sums = SUMS.map(|(name, tile, buffers, _)| sum(name, tile, buffers));
    let mut sources = sums.to_vec();
    sources.push(product.clone());
    let emulator = Emulator::build(&sources, &[]).unwrap();
    let product = predicted(&emulator, &product, 24, [2 * n * n, 2 * n * n, 4 * n * n], 1.85e9);
    println!("a product of {n}: {:.0} us, published 4012 to 4082", product * 1e6);
    assert!((product / 4.05e-3 - 1.0).abs() < 0.25, "{product}");
    for ((name, _, _, published), source) in SUMS.iter().zip(&sums) {
        let found = 1e6 * predicted(&emulator, source, 48, [2 * n * n; 3], 1.85e9);
        println!("{name}: {found:.1} us, published {published}");
        assert!((found / published - 1.0).abs() < 0.25, "{name} {found}");
    }
}

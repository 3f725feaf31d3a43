//! Faults put into the text of emitted kernels: each is reported by the rule that it breaks, or, where no rule can know,
//! by a wrong result.
#![allow(clippy::unwrap_used)]

use super::common::difference;
use super::{Case, families};
use aic::ascend;
use aic_backends::ascendc::emulator::Settings;
use aic_ir::op::{Rng, Values};

const ADD: &str = "graph(%0: f16[10007], %1: f16[10007]) -> f16[10007] { %2 = add %0 %1 return %2 }";
const SOFTMAX: &str = "graph(%0: f32[37,131]) -> f32[37,131] { %1 = softmax %0 {axis=1} return %1 }";
const PRODUCT: &str = "graph(%0: f16[65,530], %1: f16[530,70], %2: f16[70]) -> f16[65,70] {
  %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }";

/// A kernel, what is replaced by what, and the rule that breaks; none where the result is wrong.
type Mutant = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

const MUTANTS: &[Mutant] = &[
    (ADD, &[("u0Queue.EnQue(u0);", "")], Some("R17")),
    (ADD, &[("u0Queue.FreeTensor(u0);", "")], Some("R17")),
    (ADD, &[("uy = uyQueue.DeQue<half>();", "")], Some("R17")),
    (ADD, &[("u1Queue.FreeTensor(u1)", "u0Queue.FreeTensor(u1)")], Some("R17")),
    (ADD, &[("PipeBarrier<PIPE_V>();\n        Add(", "Add(")], Some("R18")),
    (ADD, &[("Add(t2, t0, t1, n)", "Add(t2, t0, t1, n + 1)")], Some("R6")),
    (ADD, &[("Add(t2, t0, t1, n)", "Add(t2, t0, t1, n - 1)")], Some("R6")),
    (ADD, &[("Cast(t1, u1, RoundMode::CAST_NONE, n);", "")], Some("R6")),
    (ADD, &[("Cast(t0, u0,", "Cast(t0, u0[1],")], Some("R4")),
    (
        ADD,
        &[("DataCopyPad(yGm", "DataCopy(yGm"), ("uy, DataCopyExtParams(1, n * 2, 0, 0, 0))", "uy, n)")],
        Some("R7"),
    ),
    (ADD, &[("u0Queue, 2, 8192", "u0Queue, 2, 4096")], Some("R5")),
    (ADD, &[("u0Queue, 2, 8192", "u0Queue, 7, 8192")], Some("R3")),
    (ADD, &[("t0Buf, 16384", "t0Buf, 184320")], Some("R1")),
    (ADD, &[("Lesser(4096, -8192 * core - 4096 * half_ - 16384 * tile + 10007)", "4096")], Some("R9")),
    (ADD, &[("yGm[8192 * core", "yGm[4096 * core")], Some("R9")),
    (ADD, &[("half*)y, 10007", "half*)y, 10071")], Some("R9")),
    (SOFTMAX, &[("WholeReduceSum(t0, part1, 64,", "WholeReduceSum(t0, part1, 65,")], Some("R16")),
    (SOFTMAX, &[("WholeReduceSum(t0, part1, 64, 3,", "WholeReduceSum(t0, part1, 64, 4,")], Some("R5")),
    (SOFTMAX, &[("1, 1, 0, 8, 8, 0", "1, 1, 0, 9, 8, 0")], Some("R6")),
    (SOFTMAX, &[("Sub(t1[128], u0[128], t0, 3, 1, BinaryRepeatParams(1, 1, 0, 8, 8, 0));", "")], Some("R6")),
    (SOFTMAX, &[("u0[128]", "u0[127]")], Some("R4")),
    (SOFTMAX, &[("DataCopyExtParams(1, 524", "DataCopyExtParams(1, 480")], Some("R6")),
    (SOFTMAX, &[("PipeBarrier<PIPE_V>();\n        Exp", "Exp")], Some("R18")),
    (SOFTMAX, &[("Duplicate(part0, -__builtin_inff(), 192);", "")], Some("R6")),
    (SOFTMAX, &[("+ 36, 38) + 1", "+ 36, 38) + 2")], Some("R9")),
    (SOFTMAX, &[("Muls(part1, row1, 1.0f, 131)", "Muls(part1, row1, 1.0f, 130)")], None),
    (SOFTMAX, &[("x0Gm[262 * core", "x0Gm[131 * core")], None),
    (PRODUCT, &[("PipeBarrier<PIPE_M>();", "")], Some("R20")),
    (PRODUCT, &[("        CrossCoreWaitFlag(READY);\n", "")], Some("R9")),
    (PRODUCT, &[("CrossCoreSetFlag<2, PIPE_FIX>(READY);", "")], Some("R21")),
    (PRODUCT, &[("CrossCoreSetFlag<2, PIPE_MTE2>(READ);", "")], Some("R21")),
    (PRODUCT, &[("READY = 0", "READY = 11")], Some("R21")),
    (PRODUCT, &[("a1Queue.EnQue(a1Next);", "")], Some("R17")),
    (PRODUCT, &[("out.nSize = 64", "out.nSize = 56")], Some("R10")),
    (PRODUCT, &[("LoadData2DParams(0, 4, 2,", "LoadData2DParams(0, 5, 2,")], Some("R5")),
    (PRODUCT, &[("if (n < 32 || n2 < 256) {", "if (false) {")], Some("R6")),
    (PRODUCT, &[("PipeBarrier<PIPE_MTE2>();", "")], Some("R18")),
    (PRODUCT, &[("WaitFlag<HardEvent::V_MTE2>(eventV_MTE2);", "")], Some("R19")),
    (PRODUCT, &[("MmadParams(32, 64,", "MmadParams(1, 64,")], Some("R25")),
    (PRODUCT, &[("Lesser(256, -256 * step + 274)", "256")], Some("R9")),
    (PRODUCT, &[("(step == 0) && (part == 0)", "part == 0")], None),
];

/// An emitted kernel with its fault.
fn case(k: usize, (text, edits, _): &Mutant) -> Case {
    let graph = aic_ir::text::parse_graph(text).unwrap();
    let x = families::inputs(&graph, &mut Rng::new(3), Values::Finite);
    let want = aic_ir::eval::graph(&graph, &x).unwrap();
    let mut case = Case::new(k, format!("{edits:?}"), graph, x, want).unwrap();
    let [kernel] = &mut case.compiled.kernels[..] else { panic!("{text} is more than one kernel") };
    for (from, to) in *edits {
        assert!(kernel.text.contains(from), "{} has no {from:?}", kernel.text);
        kernel.text = kernel.text.replacen(from, to, 1);
    }
    case
}

#[test]
fn faults_in_emitted_kernels_are_reported() {
    let cases: Vec<Case> = MUTANTS.iter().enumerate().map(|(k, m)| case(k, m)).collect();
    let all: Vec<_> = cases.iter().map(|c| c.compiled.clone()).collect();
    let emulator = ascend::model::emulator(&all).unwrap();
    let mut missed = Vec::new();
    for (c, (.., rule)) in cases.iter().zip(MUTANTS) {
        let (x, want) = &c.runs[0];
        let job = ascend::model::job(&c.compiled, x).unwrap();
        let (got, outcome) = ascend::model::run(&c.compiled, &emulator, &job, &Settings::default()).unwrap();
        let found: Vec<String> = outcome.violations.into_iter().map(|v| v.rule).collect();
        let is_found = match rule {
            Some(rule) => found.iter().any(|r| r == rule),
            None => want.iter().zip(&got).any(|(a, b)| difference(a, b).is_some()),
        };
        if !is_found {
            missed.push(format!("{}: expected {rule:?}, found {found:?}", c.what));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

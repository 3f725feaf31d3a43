//! Random instances of operators as Ascend C kernels, run on the model of the chip, against the interpreter.
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
mod common;

use aic::ascend;
use aic_backends::ascendc::Source;
use aic_backends::ascendc::emulator::Settings;
use aic_ir::op::{Op, Operand, Rng, Values};
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::pipeline::Options;
use common::{difference, one_node};

struct Case {
    what: String,
    program: Program,
    sources: Vec<Source>,
    x: Vec<Tensor>,
    want: Vec<Tensor>,
}

/// What is wrong with cases on the model, in three orders of execution.
fn failures(cases: &[Case]) -> Vec<String> {
    let sources: Vec<Source> = cases.iter().flat_map(|c| c.sources.clone()).collect();
    let emulator = ascend::emulator(&sources).unwrap();
    let mut wrong = Vec::new();
    for c in cases {
        let job = ascend::job(&c.program, &c.sources, &c.x).unwrap();
        for seed in 1..=3 {
            let settings = Settings { seed, ..Settings::default() };
            let (got, outcome) = match ascend::run(&c.program, &emulator, &job, &settings) {
                Ok(r) => r,
                Err(e) => {
                    wrong.push(format!("{}: {e}", c.what));
                    continue;
                }
            };
            let said =
                outcome.violations.iter().map(|v| format!("{}: {} {} {}", c.what, v.rule, v.place, v.text));
            wrong.extend(said);
            let differing = c.want.iter().zip(&got).filter_map(|(a, b)| difference(a, b));
            wrong.extend(differing.map(|d| format!("{}: {d}", c.what)));
        }
    }
    wrong
}

#[test]
fn operators_on_the_model() {
    let target = Target::ascend_910b3();
    let mut cases: Vec<Case> = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..if *name == "elementwise" { 12 } else { 2 } {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            let Ok(graph) = one_node(&s, false) else { continue };
            let what = format!("{name} seed {seed}");
            let mut program = aic_passes::pipeline::compile(graph, &Options::new(target.clone())).unwrap();
            let prefix = format!("c{}_", cases.len());
            program.kernels.iter_mut().for_each(|k| k.name = format!("{prefix}{}", k.name));
            match ascend::sources(&program, &target) {
                Ok(sources) => cases.push(Case { what, program, sources, x, want }),
                Err(e) => refused.push(format!("{what}: {}", e.message)),
            }
        }
    }
    let wrong = failures(&cases);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() > 30, "only {} have a form in Ascend C; not {}", cases.len(), refused.join(", "));
}

/// Graphs of odd shapes: products with what follows them on vector cores, norms, rows, in all float types.
const NETWORKS: &[&str] = &[
    "graph(%0 \"a\": f16[33,57], %1 \"b\": f16[57,41], %2 \"bias\": f16[41]) -> f16[33,41] {
  %3 = matmul %0 %1
  %4 = add %3 %2
  %5 = relu %4
  return %5
}",
    "graph(%0 \"a\": bf16[31,64], %1 \"b\": bf16[64,32]) -> bf16[31,32] {
  %2 = matmul %0 %1
  return %2
}",
    "graph(%0 \"x\": f32[5,33]) -> f32[5,33] {
  %1 = erf %0
  %2 = mul %0 %1
  %3 = tanh %2
  %4 = sigmoid %3
  return %4
}",
    "graph(%0 \"x\": bf16[1031], %1 \"y\": bf16[1031]) -> bf16[1031] {
  %2 = add %0 %1
  %3 = relu %2
  return %3
}",
    "graph(%0 \"x\": f32[9,131]) -> f32[9] {
  %1 = reduce %0 {axes=[1], op=sum}
  return %1
}",
];

#[test]
fn networks_on_the_model() {
    let target = Target::ascend_910b3();
    let (mut cases, mut refused): (Vec<Case>, Vec<String>) = (Vec::new(), Vec::new());
    for (k, text) in NETWORKS.iter().enumerate() {
        let graph = aic_ir::text::parse_graph(text).unwrap();
        let mut rng = Rng::new(k as u64);
        let operand = |v| {
            let ty = graph.ty(v);
            let shape = ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect();
            Operand { dtype: ty.dtype, shape, values: Values::Finite }
        };
        let x: Vec<Tensor> = graph.inputs.iter().map(|p| rng.tensor(&operand(p.value)).unwrap()).collect();
        let want = aic_ir::eval::graph(&graph, &x).unwrap();
        let mut program = aic_passes::pipeline::compile(graph, &Options::new(target.clone())).unwrap();
        program.kernels.iter_mut().for_each(|kernel| kernel.name = format!("n{k}_{}", kernel.name));
        let what = format!("network {k}");
        match ascend::sources(&program, &target) {
            Ok(sources) => cases.push(Case { what, program, sources, x, want }),
            Err(e) => refused.push(format!("{what}: {}", e.message)),
        }
    }
    let mut wrong = failures(&cases);
    wrong.extend(refused);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! Groups of operators become one kernel each: with the expected schedule, proved to stay within its buffers, and
//! meaning what the operators mean.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod common;

use aic_ir::compose::compose;
use aic_ir::graph::Graph;
use aic_ir::op::{Fused, Operand, Rng, Values};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_ir::{eval, verify};
use aic_passes::pipeline::{Options, compile};
use aic_passes::schedule;
use common::difference;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// The graph that evaluates another as one group.
fn group(body: &Graph) -> Graph {
    let mut g = Graph::new("g");
    let x: Vec<_> = body.inputs.iter().map(|p| g.add_input(&p.name, body.ty(p.value).clone())).collect();
    let y = g.add(Fused { body: Arc::new(body.clone()) }.into(), &x, &[]).unwrap();
    for (p, y) in body.outputs.iter().zip(y) {
        g.add_output(&p.name, y);
    }
    g
}

/// The schedules of the kernels that a graph becomes as one group.
fn schedules(body: &Graph, target: &Target) -> String {
    let mut out = String::new();
    for p in schedule::pieces(&compose(body).unwrap(), target) {
        let s = schedule::kernel("k", &p.compute, target).unwrap().schedule;
        assert_eq!(s.to_string().parse(), Ok(s.clone()));
        let stages: Vec<String> = s.stages.iter().map(|s| s.class.to_string()).collect();
        writeln!(out, "{} of {} rows: {}", s.class, s.mr, stages.join(", ")).unwrap();
    }
    out
}

fn inputs(body: &Graph, sizes: &HashMap<&str, i64>, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let of = |p: &aic_ir::graph::Port| {
        let ty = body.ty(p.value);
        let size = |s: &aic_ir::dim::Sym| sizes.get(s.name()).copied();
        let shape = ty.dims.iter().map(|d| d.eval(&size).unwrap() as usize).collect();
        // Small numbers: exponentials multiply errors by what they are taken of.
        Operand { dtype: ty.dtype, shape, values: Values::Between(-2, 3) }
    };
    body.inputs.iter().map(|p| rng.tensor(&of(p)).unwrap()).collect()
}

fn n_launches(p: &Program) -> usize {
    assert!(p.steps.iter().all(|s| !matches!(s, Step::Host { .. })), "there are host steps");
    p.steps.len()
}

/// Checks a group for every assignment of sizes to symbols; gives its schedules.
fn check(text: &str, sizes: &[&[(&str, i64)]]) -> String {
    let body = parse_graph(text).unwrap();
    let graph = group(&body);
    let options = |target: Target| Options { level: 0, ..Options::new(target) };
    for target in [Target::x86_avx512(), Target::x86_avx2()] {
        let program = compile(graph.clone(), &options(target.clone())).unwrap();
        let apart = compile(body.clone(), &options(target)).unwrap();
        assert_eq!(n_launches(&program), program.kernels.len());
        for k in &program.kernels {
            assert_eq!(verify::kernel(k), Vec::<String>::new(), "{k}");
        }
        for sizes in sizes {
            let x = inputs(&body, &sizes.iter().copied().collect(), 7);
            let want = eval::graph(&body, &x).unwrap();
            let got = eval::program(&program, &x).unwrap();
            assert_eq!(got, eval::program(&apart, &x).unwrap(), "bits of the operators apart");
            for (want, got) in want.iter().zip(&got) {
                assert_eq!(difference(want, got), None, "{sizes:?}\n{}", program.kernels[0]);
            }
        }
    }
    schedules(&body, &Target::x86_avx512())
}

#[test]
fn softmax() {
    let text = "graph(%0: f32[3,5,37]) -> f32[3,5,37] { %1 = softmax %0 {axis=2} return %1 }";
    assert_eq!(check(text, &[&[]]), "staged of 1 rows: reduce_inner, reduce_inner, map\n");
}

#[test]
fn softmax_across_memory() {
    let text = "graph(%0: f32[9,21,37]) -> f32[9,21,37] { %1 = softmax %0 {axis=1} return %1 }";
    assert_eq!(check(text, &[&[]]), "staged of 1 rows: reduce_outer, reduce_outer, map\n");
}

#[test]
fn softmax_of_unknown_extents() {
    let text = "graph(%0: f32[b,n]) -> f32[b,n] { %1 = softmax %0 {axis=1} return %1 }";
    assert_eq!(
        check(text, &[&[("b", 3), ("n", 40)], &[("b", 1), ("n", 1)], &[("b", 0), ("n", 5)]]),
        "staged of 1 rows: reduce_inner, reduce_inner, map\n"
    );
}

#[test]
fn layer_norm() {
    let text = "graph(%0: f32[2,7,40], %1: f32[2,7,40], %2: f32[40], %3: f32[40]) -> f32[2,7,40] {
      %4 = add %0 %1
      %5 = normalize %4 {axes=[2], epsilon=1e-5, center=true}
      %6 = mul %5 %2
      %7 = add %6 %3
      return %7
    }";
    assert_eq!(check(text, &[&[]]), "staged of 1 rows: reduce_inner, reduce_inner, map\n");
}

#[test]
fn layer_norm_of_unknown_extents() {
    let text =
        "graph(%0: f32[b,s,40], %1: f32[b,s,40], %2: f32[40], %3: f32[40]) -> f32[b,s,40], f32[b,s,40] {
      %4 = add %0 %1
      %5 = normalize %4 {axes=[2], epsilon=1e-5, center=true}
      %6 = mul %5 %2
      %7 = add %6 %3
      return %4, %7
    }";
    assert_eq!(check(text, &[&[("b", 2), ("s", 5)]]), "staged of 1 rows: reduce_inner, reduce_inner, map\n");
}

#[test]
fn attention() {
    let text = "graph(%0: f32[2,3,37,24], %1: f32[2,3,29,24], %2: f32[2,3,29,20], %3: f32[2,1,1,29]) -> f32[2,3,37,20] {
      %4 = attention %0 %1 %2 %3 {scale=0.2, causal=false}
      return %4
    }";
    assert_eq!(
        check(text, &[&[]]),
        "staged of 24 rows: map, contract, reduce_inner, reduce_inner, map, contract\n"
    );
}

#[test]
fn attention_between_transpositions() {
    let text = "graph(%0: f32[2,37,72], %1: f32[2,29,72], %2: f32[2,29,72]) -> f32[2,37,72] {
      %3 = reshape %0 {shape=[2,37,3,24]}
      %4 = transpose %3 {perm=[0,2,1,3]}
      %5 = reshape %1 {shape=[2,29,3,24]}
      %6 = transpose %5 {perm=[0,2,1,3]}
      %7 = reshape %2 {shape=[2,29,3,24]}
      %8 = transpose %7 {perm=[0,2,1,3]}
      %9 = attention %4 %6 %8 {scale=0.2, causal=false}
      %10 = transpose %9 {perm=[0,2,1,3]}
      %11 = reshape %10 {shape=[2,37,72]}
      return %11
    }";
    assert_eq!(
        check(text, &[&[]]),
        "staged of 8 rows: contract, reduce_inner, reduce_inner, map, contract, map\n"
    );
}

#[test]
fn attention_with_an_axis_of_one() {
    let text = "graph(%0: f32[37,8,24], %1: f32[37,8,24], %2: f32[37,8,24]) -> f32[1,8,37,24] {
      %3 = transpose %0 {perm=[1,0,2]}
      %4 = reshape %3 {shape=[1,8,37,24]}
      %5 = transpose %1 {perm=[1,0,2]}
      %6 = reshape %5 {shape=[1,8,37,24]}
      %7 = transpose %2 {perm=[1,0,2]}
      %8 = reshape %7 {shape=[1,8,37,24]}
      %9 = attention %4 %6 %8 {scale=0.2, causal=false}
      return %9
    }";
    assert_eq!(
        check(text, &[&[]]),
        "staged of 24 rows: map, contract, reduce_inner, reduce_inner, map, map, contract\n"
    );
}

#[test]
fn attention_of_unknown_extents() {
    let text = "graph(%0: f32[b,4,s,24], %1: f32[b,4,t,24], %2: f32[b,4,t,24]) -> f32[b,4,s,24] {
      %3 = attention %0 %1 %2 {scale=0.2, causal=true}
      return %3
    }";
    assert_eq!(
        check(text, &[&[("b", 2), ("s", 37), ("t", 29)], &[("b", 1), ("s", 1), ("t", 29)]]),
        "staged of 32 rows: map, contract, reduce_inner, reduce_inner, map, contract\n"
    );
}

#[test]
fn grouped_attention() {
    let text = "graph(%0: f32[1,8,37,24], %1: f32[1,2,37,24], %2: f32[1,2,37,24]) -> f32[1,8,37,24] {
      %3 = attention %0 %1 %2 {scale=0.2, causal=true}
      return %3
    }";
    assert_eq!(
        check(text, &[&[]]),
        "staged of 24 rows: map, contract, reduce_inner, reduce_inner, map, contract\n"
    );
}

#[test]
fn decomposed_attention() {
    let text = "graph(%0: f32[2,3,37,24], %1: f32[2,3,29,24], %2: f32[2,3,29,20], %3: f32[2,1,1,29]) -> f32[2,3,37,20] {
      %4 = transpose %1 {perm=[0,1,3,2]}
      %5 = matmul %0 %4
      %6 = add %5 %3
      %7 = softmax %6 {axis=3}
      %8 = matmul %7 %2
      return %8
    }";
    assert_eq!(
        check(text, &[&[]]),
        "staged of 24 rows: map, contract, reduce_inner, reduce_inner, map, contract\n"
    );
}

#[test]
fn convolution_and_global_pooling() {
    let text = "graph(%0: f32[2,8,9,9], %1: f32[40,8,3,3], %2: f32[40,1,1]) -> f32[2,40,1,1] {
      %3 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1}
      %4 = add %3 %2
      %5 = relu %4
      %6 = reduce %5 {op=sum, axes=[2,3]}
      %7 = reshape %6 {shape=[2,40,1,1]}
      return %7
    }";
    assert_eq!(check(text, &[&[]]), "staged of 20 rows: contract, reduce_inner\n");
}

/// The rows after whole blocks are a single one, which has no axis of rows.
#[test]
fn one_row_after_whole_blocks() {
    let text = "graph(%0: f32[1,8,9,9], %1: f32[49,8,3,3]) -> f32[1,49,1,1] {
      %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1}
      %3 = relu %2
      %4 = reduce %3 {op=sum, axes=[2,3]}
      %5 = reshape %4 {shape=[1,49,1,1]}
      return %5
    }";
    check(text, &[&[]]);
}

#[test]
fn two_results() {
    let text = "graph(%0: f32[4,9,40], %1: f32[40]) -> f32[4,9,40], f32[4,9,40] {
      %2 = add %0 %1
      %3 = erf %2
      return %2, %3
    }";
    assert_eq!(check(text, &[&[]]), "staged of 1 rows: map, map\n");
}

//! The composition of computes: random bodies against their nodes' computes, to the bit, and what is inlined.

#![allow(clippy::unwrap_used)]

use aic_ir::compose::compose;
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::{Fused, Op, Operand, Operator, Rng};
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_ir::types::Type;
use aic_ir::{eval, verify};
use std::collections::HashMap;

/// Evaluates every node by its own compute.
fn node_by_node(g: &Graph, inputs: &[Tensor], symbols: &HashMap<Sym, i64>) -> Vec<Tensor> {
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    values.extend(g.inputs.iter().map(|p| p.value).zip(inputs.iter().cloned()));
    for (_, n) in g.nodes() {
        let types = |vs: &[ValueId]| -> Vec<Type> { vs.iter().map(|v| g.ty(*v).clone()).collect() };
        let x: Vec<Tensor> = n.inputs.iter().map(|v| values[v].clone()).collect();
        let y = match n.op.compute(&types(&n.inputs), &types(&n.outputs)) {
            Some(c) => eval::compute(&c, &x, symbols).unwrap(),
            None => n.op.eval(&x).unwrap(),
        };
        values.extend(n.outputs.iter().copied().zip(y));
    }
    g.outputs.iter().map(|p| values[&p.value].clone()).collect()
}

#[test]
fn composed_computes_give_the_same_bits() {
    let (mut n_stages, mut n_composed) = (0, 0);
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let sample = Fused::sample(&mut rng);
        let Op::Fused(Fused { body }) = &sample.op else { panic!("{:?}", sample.op) };
        let inputs: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
        let symbols = eval::bind_symbols(body, &inputs).unwrap();
        let composed = compose(body).unwrap();
        let case = || format!("seed {seed}\n{body}\n{composed}");
        assert_eq!(verify::compute(&composed), Vec::<String>::new(), "{}", case());
        let expected = node_by_node(body, &inputs, &symbols);
        let found = eval::compute(&composed, &inputs, &symbols).unwrap_or_else(|e| panic!("{e}: {}", case()));
        for (a, b) in expected.iter().zip(&found) {
            assert!(a.bytes() == b.bytes() && a.shape() == b.shape(), "{a:?}, not {b:?}: {}", case());
        }
        n_composed += composed.stages.len();
        n_stages += body.nodes().len();
    }
    assert!(n_composed * 3 < n_stages * 2, "{n_stages} nodes became {n_composed} stages");
}

/// Composes a body, and compares the stages.
fn check(body: &str, expected: &[&str]) {
    let g = parse_graph(body).unwrap_or_else(|e| panic!("{e}"));
    let found = compose(&g).unwrap().to_string();
    let stages: Vec<&str> = found.lines().filter_map(|l| l.trim().strip_prefix("stage ")).collect();
    assert_eq!(stages, expected, "{found}");
}

#[test]
fn chains_and_diamonds_become_one_map() {
    check(
        "graph(%0: f32[4], %1: f32[]) -> (%4: f32[4]) {
           %2 = add %0 %1
           %3 = erf %2
           %4 = mul %2 %3
           return %4
         }",
        &["%s0: f32[i0: 4] = mul(add(%0[i0], %1[]), erf(add(%0[i0], %1[])))"],
    );
}

#[test]
fn movements_become_indices() {
    check(
        "graph(%0: f32[1,128,768], %1: f32[768]) -> (%5: f32[12,128,64]) {
           %2 = add %0 %1
           %3 = reshape %2 {shape=[128,12,64]}
           %4 = transpose %3 {perm=[1,0,2]}
           %5 = neg %4
           return %5
         }",
        &["%s0: f32[i0: 12, i1: 128, i2: 64] = neg(add(%0[0, i1, 64*i0+i2], %1[64*i0+i2]))"],
    );
    check(
        "graph(%0: f32[4,6], %1: f32[4,2]) -> (%4: f32[4,2]) {
           %2 = concat %0 %1 {axis=1}
           %3 = slice %2 {starts=[0,6], sizes=[4,2], steps=[1,1]}
           %4 = neg %3
           return %4
         }",
        &["%s0: f32[i0: 4, i1: 2] = neg(%1[i0, i1])"],
    );
}

#[test]
fn epilogues_stay_behind_their_reductions() {
    check(
        "graph(%0: f32[4,8], %1: f32[8,6], %2: f32[6], %3: f32[2,2,6]) -> (%8: f32[2,2,6]) {
           %4 = matmul %0 %1
           %5 = add %4 %2
           %6 = reshape %5 {shape=[2,2,6]}
           %7 = add %6 %3
           %8 = tanh %7
           return %8
         }",
        &[
            "%s0: f32[i0: 2, i1: 2, i2: 6] = sum[k0: 8] mul(%0[2*i0+i1, k0], %1[k0, i2])",
            "%s1: f32[i0: 2, i1: 2, i2: 6] = tanh(add(add(%s0[i0, i1, i2], %2[i2]), %3[i0, i1, i2]))",
        ],
    );
}

#[test]
fn expensive_elements_read_often_stay_a_stage() {
    check(
        "graph(%0: f32[4,8], %1: f32[8,6]) -> (%3: f32[4,6]) {
           %2 = exp %0
           %3 = matmul %2 %1
           return %3
         }",
        &[
            "%s0: f32[i0: 4, i1: 8] = exp(%0[i0, i1])",
            "%s1: f32[i0: 4, i1: 6] = sum[k0: 8] mul(%s0[i0, k0], %1[k0, i1])",
        ],
    );
    check(
        "graph(%0: f32[4,8]) -> (%8: f32[4,8]) {
           %1 = reduce %0 {op=max, axes=[1]}
           %2 = reshape %1 {shape=[4,1]}
           %3 = sub %0 %2
           %4 = exp %3
           %5 = reduce %4 {op=sum, axes=[1]}
           %6 = reshape %5 {shape=[4,1]}
           %8 = div %4 %6
           return %8
         }",
        &[
            "%s0: f32[i0: 4] = max[k0: 8] %0[i0, k0]",
            "%s1: f32[i0: 4, i1: 8] = exp(sub(%0[i0, i1], %s0[i0]))",
            "%s2: f32[i0: 4] = sum[k0: 8] %s1[i0, k0]",
            "%s3: f32[i0: 4, i1: 8] = div(%s1[i0, i1], %s2[i0])",
        ],
    );
}

#[test]
fn residuals_join_a_normalisation() {
    check(
        "graph(%0: f32[n,768], %1: f32[n,768], %2: f32[768], %3: f32[768]) -> (%7: f32[n,768]) {
           %4 = add %0 %1
           %5 = normalize %4 {axes=[1], epsilon=1e-5, center=true}
           %6 = mul %5 %2
           %7 = add %6 %3
           return %7
         }",
        &[
            "%s0: f32[i0: n] = sum[k0: 768] add(%0[i0, k0], %1[i0, k0])",
            "%s1: f32[i0: n] = div(%s0[i0], f32(768.0))",
            "%s2: f32[i0: n] = sum[k0: 768] mul(sub(add(%0[i0, k0], %1[i0, k0]), %s1[i0]), sub(add(%0[i0, k0], %1[i0, k0]), %s1[i0]))",
            "%s3: f32[i0: n] = div(f32(1.0), sqrt(add(div(%s2[i0], f32(768.0)), f32(1e-5))))",
            "%s4: f32[i0: n, i1: 768] = add(mul(mul(sub(add(%0[i0, i1], %1[i0, i1]), %s1[i0]), %s3[i0]), %2[i1]), %3[i1])",
        ],
    );
}

#[test]
fn attention_of_split_heads() {
    check(
        "graph(%0: f32[1,128,768], %1: f32[1,128,768], %2: f32[1,128,768], %3: f32[128]) -> (%12: f32[1,128,12,64]) {
           %4 = reshape %0 {shape=[1,128,12,64]}
           %5 = transpose %4 {perm=[0,2,1,3]}
           %6 = reshape %1 {shape=[1,128,12,64]}
           %7 = transpose %6 {perm=[0,2,1,3]}
           %8 = reshape %2 {shape=[1,128,12,64]}
           %9 = transpose %8 {perm=[0,2,1,3]}
           %10 = attention %5 %7 %9 %3 {scale=0.125, causal=false}
           %12 = transpose %10 {perm=[0,2,1,3]}
           return %12
         }",
        &["%s0: f32[i0: 1, i1: 12, i2: 128, i3: 128] = sum[k0: 64] mul(%0[0, i2, 64*i1+k0], %1[0, i3, 64*i1+k0])",
"%s1: f32[i0: 1, i1: 12, i2: 128, i3: 128] = add(mul(%s0[i0, i1, i2, i3], f32(0.125)), %3[i3])",
"%s2: f32[i0: 1, i1: 12, i2: 128] = max[k0: 128] %s1[i0, i1, i2, k0]",
"%s3: f32[i0: 1, i1: 12, i2: 128] = sum[k0: 128] exp(sub(%s1[i0, i1, i2, k0], %s2[i0, i1, i2]))",
"%s4: f32[i0: 1, i1: 12, i2: 128] = div(f32(1.0), %s3[i0, i1, i2])",
"%s5: f32[i0: 1, i1: 12, i2: 128, i3: 128] = mul(exp(sub(%s1[i0, i1, i2, i3], %s2[i0, i1, i2])), %s4[i0, i1, i2])",
"%s6: f32[i0: 1, i1: 12, i2: 128, i3: 64] = sum[k0: 128] mul(%s5[i0, i1, i2, k0], %2[0, k0, 64*i1+i3])",
"%s7: f32[i0: 1, i1: 128, i2: 12, i3: 64] = %s6[i0, i2, i1, i3]"],
    );
}

#[test]
fn elements_are_computed_where_they_are_read() {
    check(
        "graph(%0: f32[8,6], %1: f32[6], %2: f32[2,5,3]) -> (%6: f32[2,5,8]) {
           %3 = add %0 %1
           %4 = reshape %3 {shape=[8,2,3]}
           %5 = transpose %4 {perm=[1,2,0]}
           %6 = matmul %2 %5
           return %6
         }",
        &[
            "%s0: f32[i0: 8, i1: 2, i2: 3] = add(%0[i0, 3*i1+i2], %1[3*i1+i2])",
            "%s1: f32[i0: 2, i1: 5, i2: 8] = sum[k0: 3] mul(%2[i0, i1, k0], %s0[i2, i0, k0])",
        ],
    );
}

#[test]
fn outputs_stay() {
    check(
        "graph(%0: f32[4], %1: f32[4]) -> (%2: f32[4], %3: f32[4]) {
           %2 = add %0 %1
           %3 = tanh %2
           return %2, %3
         }",
        &["%s0: f32[i0: 4] = add(%0[i0], %1[i0])", "%s1: f32[i0: 4] = tanh(%s0[i0])"],
    );
}

#[test]
fn guards_stay_around_what_they_guard() {
    check(
        "graph(%0: f32[4]) -> (%4: f32[4]) {
           %1 = exp %0
           %2 = const f32[] 0.0
           %3 = pad %1 %2 {mode=constant, lo=[1], hi=[1], interior=[0]}
           %4 = slice %3 {starts=[0], sizes=[4], steps=[1]}
           return %4
         }",
        &["%s0: f32[i0: 4] = select(ge(i0-1, 0), exp(%0[i0-1]), f32(0.0))"],
    );
}

/// What LayerNormalization is imported as has the bits of `normalize`.
#[test]
fn a_normalisation_has_the_bits_of_its_decomposition() {
    let decomposed = parse_graph(
        "graph(%0: f32[5,24]) -> (%15: f32[5,24]) {
           %1 = reduce %0 {op=sum, axes=[1]}
           %2 = reshape %1 {shape=[5,1]}
           %3 = const f32[] 24.0
           %4 = div %2 %3
           %5 = sub %0 %4
           %6 = mul %5 %5
           %7 = reduce %6 {op=sum, axes=[1]}
           %8 = reshape %7 {shape=[5,1]}
           %9 = div %8 %3
           %10 = const f32[] 1e-5
           %11 = add %9 %10
           %12 = sqrt %11
           %13 = const f32[] 1.0
           %14 = div %13 %12
           %15 = mul %5 %14
           return %15
         }",
    );
    let normalize = parse_graph(
        "graph(%0: f32[5,24]) -> (%1: f32[5,24]) {
           %1 = normalize %0 {axes=[1], epsilon=1e-5, center=true}
           return %1
         }",
    );
    let x = Rng::new(1).tensor(&Operand::finite(DType::F32, vec![5, 24])).unwrap();
    let [a, b] = [decomposed, normalize].map(|g| {
        eval::compute(&compose(&g.unwrap()).unwrap(), std::slice::from_ref(&x), &HashMap::new()).unwrap()
    });
    assert_eq!(a[0].bytes(), b[0].bytes());
}

/// What is exported for attention has the bits of `attention`.
#[test]
fn an_attention_has_the_bits_of_its_decomposition() {
    let decomposed = parse_graph(
        "graph(%0: f32[2,5,8], %1: f32[2,7,8], %2: f32[2,7,4], %3: f32[5,7]) -> (%10: f32[2,5,4]) {
           %4 = transpose %1 {perm=[0,2,1]}
           %5 = matmul %0 %4
           %6 = const f32[] 0.35
           %7 = mul %5 %6
           %8 = add %7 %3
           %9 = softmax %8 {axis=2}
           %10 = matmul %9 %2
           return %10
         }",
    );
    let attention = parse_graph(
        "graph(%0: f32[2,5,8], %1: f32[2,7,8], %2: f32[2,7,4], %3: f32[5,7]) -> (%4: f32[2,5,4]) {
           %4 = attention %0 %1 %2 %3 {scale=0.35, causal=false}
           return %4
         }",
    );
    let mut rng = Rng::new(2);
    let x = [vec![2, 5, 8], vec![2, 7, 8], vec![2, 7, 4], vec![5, 7]]
        .map(|shape| rng.tensor(&Operand::finite(DType::F32, shape)).unwrap());
    let [a, b] = [decomposed, attention]
        .map(|g| eval::compute(&compose(&g.unwrap()).unwrap(), &x, &HashMap::new()).unwrap());
    assert_eq!(a[0].bytes(), b[0].bytes());
}

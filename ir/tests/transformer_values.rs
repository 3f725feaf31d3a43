//! Operators of transformers on small operands whose results are written out by hand.

#![allow(clippy::unwrap_used)]

use aic_ir::op::*;
use aic_ir::tensor::Tensor;

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values).unwrap()
}

/// Evaluates an operator and compares its result, NaN being equal to itself.
fn check(op: impl Into<Op>, inputs: &[Tensor], shape: &[usize], expected: &[f32]) {
    let op = op.into();
    let found = op.eval(inputs).unwrap();
    assert_eq!(found[0].shape(), shape, "{op:?}");
    for (x, y) in found[0].to_vec::<f32>().unwrap().iter().zip(expected) {
        assert!((x - y).abs() < 1e-6 || (x.is_nan() && y.is_nan()), "{op:?}: {found:?}, not {expected:?}");
    }
}

fn check_error(op: impl Into<Op>, inputs: &[Tensor], message: &str) {
    let op = op.into();
    assert_eq!(op.eval(inputs).unwrap_err().message, message, "{op:?}");
}

#[test]
fn activations() {
    let x = [tensor(&[4], &[-3.0, 0.0, 1.0, 30.0])];
    for (f, expected) in [
        (ActivationFn::Gelu, [-0.004_049_694, 0.0, 0.841_344_8, 30.0]),
        (ActivationFn::GeluTanh, [-0.003_637_39, 0.0, 0.841_192, 30.0]),
        (ActivationFn::GeluSigmoid, [-0.018_071_67, 0.0, 0.845_795_8, 30.0]),
        (ActivationFn::Silu, [-0.142_277_62, 0.0, 0.731_058_6, 30.0]),
        (ActivationFn::HardSwish, [0.0, 0.0, 0.666_666_7, 30.0]),
        (ActivationFn::Mish, [-0.145_647_46, 0.0, 0.865_098_4, 30.0]),
    ] {
        check(Activation { f }, &x, &[4], &expected);
    }
}

#[test]
fn normalisation() {
    let x = [tensor(&[2, 2], &[1.0, 3.0, 5.0, 5.0])];
    let op = |axes: &[usize], epsilon, center| Normalize { axes: axes.into(), epsilon, center };
    check(op(&[1], 0.0, true), &x, &[2, 2], &[-1.0, 1.0, f32::NAN, f32::NAN]);
    check(op(&[1], 3.0, true), &x, &[2, 2], &[-0.5, 0.5, 0.0, 0.0]);
    check(op(&[1], 4.0, false), &x, &[2, 2], &[1.0 / 3.0, 1.0, 0.928_476_7, 0.928_476_7]);
    check(op(&[0, 1], 0.0, false), &x, &[2, 2], &[0.258_198_9, 0.774_596_7, 1.290_994_4, 1.290_994_4]);
    check_error(op(&[0], 0.0, true), &x, "axes [0] are not the last ones of f32[2,2]");
}

#[test]
fn rotary() {
    let x = tensor(&[4], &[1.0, 2.0, 3.0, 4.0]);
    let (cos, sin) = (tensor(&[4], &[1.0, 0.0, 1.0, 0.0]), tensor(&[4], &[0.0, 1.0, 0.0, 1.0]));
    let operands = [x, cos, sin];
    check(Rotary { interleaved: false }, &operands, &[4], &[1.0, -4.0, 3.0, 2.0]);
    check(Rotary { interleaved: true }, &operands, &[4], &[1.0, 1.0, 3.0, 3.0]);
    let odd = tensor(&[3], &[1.0, 2.0, 3.0]);
    let message = "the 3 elements along the last axis of f32[3] can't be paired";
    check_error(Rotary { interleaved: true }, &[odd.clone(), odd.clone(), odd], message);
}

#[test]
fn attention_masks() {
    let zeros = tensor(&[1, 2, 1], &[0.0, 0.0]);
    let v = tensor(&[1, 2, 2], &[1.0, 2.0, 3.0, 6.0]);
    let operands = [zeros.clone(), zeros.clone(), v.clone()];
    let op = |causal| Attention { scale: 1.0, causal };
    check(op(false), &operands, &[1, 2, 2], &[2.0, 4.0, 2.0, 4.0]);
    check(op(true), &operands, &[1, 2, 2], &[1.0, 2.0, 2.0, 4.0]);
    // Fewer keys than queries: the first query sees none.
    let key = [zeros.clone(), tensor(&[1, 1, 1], &[0.0]), tensor(&[1, 1, 2], &[1.0, 2.0])];
    check(op(true), &key, &[1, 2, 2], &[f32::NAN, f32::NAN, 1.0, 2.0]);
    let hidden = Tensor::from_vec(vec![2], &[false, true]).unwrap();
    check(op(false), &[&operands[..], &[hidden]].concat(), &[1, 2, 2], &[3.0, 6.0, 3.0, 6.0]);
    let added = tensor(&[2, 1], &[f32::NEG_INFINITY, 1.0]);
    check(op(false), &[&operands[..], &[added]].concat(), &[1, 2, 2], &[f32::NAN, f32::NAN, 2.0, 4.0]);
    let wide = tensor(&[3], &[0.0; 3]);
    let message = "shapes [1, 2, 2] and [3] do not broadcast: 2 against 3";
    check_error(op(false), &[&operands[..], &[wide]].concat(), message);
}

#[test]
fn attention_of_grouped_heads() {
    let q = tensor(&[4, 1, 1], &[0.0; 4]);
    let (k, v) = (tensor(&[2, 1, 1], &[0.0; 2]), tensor(&[2, 1, 1], &[1.0, 2.0]));
    let op = Attention { scale: 0.5, causal: false };
    check(op.clone(), &[q.clone(), k.clone(), v], &[4, 1, 1], &[1.0, 1.0, 2.0, 2.0]);
    let three = tensor(&[3, 1, 1], &[0.0; 3]);
    let message = "the 4 heads of f32[4,1,1] are no known multiple of the 3 heads of f32[3,1,1]";
    check_error(op, &[q, three.clone(), three], message);
}

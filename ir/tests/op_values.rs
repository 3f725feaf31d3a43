//! Operators that move, order and search elements, on small operands whose results are written out by hand.

#![allow(clippy::unwrap_used)]

use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::op::*;
use aic_ir::tensor::{Element, Tensor};
use aic_ir::types::Type;
use std::slice::from_ref;

fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values).unwrap()
}

fn dims(values: &[i64]) -> Vec<Dim> {
    values.iter().map(|&v| v.into()).collect()
}

/// Evaluates an operator and compares all results, NaN being equal to itself.
fn check(op: impl Into<Op>, inputs: &[Tensor], expected: &[Tensor]) {
    let op = op.into();
    let found = op.eval(inputs).unwrap();
    assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{op:?}");
}

/// Evaluates an operator that must refuse its operands with this message.
fn check_error(op: impl Into<Op>, inputs: &[Tensor], message: &str) {
    let op = op.into();
    assert_eq!(op.eval(inputs).unwrap_err().message, message, "{op:?}");
}

#[test]
fn slice() {
    let x = tensor(&[2, 5], &[0i32, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let slice = |starts: &[i64], sizes: &[i64], steps: &[i64]| Slice {
        starts: dims(starts),
        sizes: dims(sizes),
        steps: steps.to_vec(),
    };
    check(slice(&[1, 4], &[1, 3], &[1, -2]), from_ref(&x), &[tensor(&[1, 3], &[9i32, 7, 5])]);
    check(slice(&[7, 0], &[0, 5], &[1, 1]), from_ref(&x), &[tensor::<i32>(&[0, 5], &[])]);
    check_error(slice(&[0, 3], &[2, 2], &[1, 2]), from_ref(&x), "index 5 of axis 1 is outside of i32[2,5]");
    check_error(slice(&[0, 0], &[2, 2], &[1, -1]), from_ref(&x), "index -1 of axis 1 is outside of i32[2,5]");
    check_error(slice(&[0, 0], &[2, 2], &[1, 0]), &[x], "the step of axis 1 is 0");
}

#[test]
fn concat() {
    let (a, b, none) =
        (tensor(&[2, 1], &[1i8, 2]), tensor(&[2, 2], &[3i8, 4, 5, 6]), tensor::<i8>(&[2, 0], &[]));
    check(Concat { axis: 1 }, &[a.clone(), none, b.clone()], &[tensor(&[2, 3], &[1i8, 3, 4, 2, 5, 6])]);
    let message = "operands must agree except in the extent of axis 0, found i8[2,1] and i8[2,2]";
    check_error(Concat { axis: 0 }, &[a, b], message);
    check_error(Concat { axis: 0 }, &[], "expected an operand or more, found none");
}

#[test]
fn pad() {
    let pad = |mode, lo: i64, hi: i64, interior| Pad {
        mode,
        lo: dims(&[lo]),
        hi: dims(&[hi]),
        interior: vec![interior],
    };
    let operands = [tensor(&[3], &[1i64, 2, 3]), tensor(&[], &[9i64])];
    check(pad(PadMode::Constant, 1, 2, 0), &operands, &[tensor(&[6], &[9i64, 1, 2, 3, 9, 9])]);
    check(pad(PadMode::Constant, 1, 0, 2), &operands, &[tensor(&[8], &[9i64, 1, 9, 9, 2, 9, 9, 3])]);
    check(pad(PadMode::Edge, 2, 1, 0), &operands, &[tensor(&[6], &[1i64, 1, 1, 2, 3, 3])]);
    check(pad(PadMode::Reflect, 5, 3, 0), &operands, &[tensor(&[11], &[2i64, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2])]);
    check(pad(PadMode::Wrap, 4, 2, 0), &operands, &[tensor(&[9], &[3i64, 1, 2, 3, 1, 2, 3, 1, 2])]);
    let one = [tensor(&[1], &[7i64]), tensor(&[], &[9i64])];
    check(pad(PadMode::Reflect, 2, 1, 0), &one, &[tensor(&[4], &[7i64; 4])]);
    let none = [tensor::<i64>(&[0], &[]), tensor(&[], &[9i64])];
    check(pad(PadMode::Edge, 1, 1, 0), &none, &[tensor(&[2], &[9i64, 9])]);
    check(pad(PadMode::Constant, 1, 1, 3), &none, &[tensor(&[2], &[9i64, 9])]);
}

#[test]
fn gather() {
    let x = tensor(&[2, 3], &[0f32, 1., 2., 3., 4., 5.]);
    let at = |shape: &[usize], v: &[i64]| tensor(shape, v);
    check(Gather { axis: 1 }, &[x.clone(), at(&[], &[-1])], &[tensor(&[2], &[2f32, 5.])]);
    check(
        Gather { axis: 0 },
        &[x.clone(), at(&[2, 1], &[1, 0])],
        &[tensor(&[2, 1, 3], &[3f32, 4., 5., 0., 1., 2.])],
    );
    check_error(
        Gather { axis: 1 },
        &[x.clone(), at(&[], &[3])],
        "index 3 is out of range for an axis of extent 3",
    );
    check(
        GatherElements { axis: 1 },
        &[x.clone(), at(&[1, 4], &[2, -3, 1, 1])],
        &[tensor(&[1, 4], &[2f32, 0., 1., 1.])],
    );
    check(GatherNd { batch_dims: 0 }, &[x.clone(), at(&[1, 2], &[1, -2])], &[tensor(&[1], &[4f32])]);
    check(GatherNd { batch_dims: 0 }, &[x.clone(), at(&[1, 1], &[1])], &[tensor(&[1, 3], &[3f32, 4., 5.])]);
    check(GatherNd { batch_dims: 1 }, &[x, at(&[2, 1], &[2, 0])], &[tensor(&[2], &[2f32, 3.])]);
}

#[test]
fn scatter() {
    let x = tensor(&[4], &[1i32, 2, 3, 4]);
    let at = tensor(&[3], &[1i64, -1, 1]);
    let updates = tensor(&[3], &[10i32, 20, 30]);
    let results: [(ScatterReduction, [i32; 4]); 5] = [
        (ScatterReduction::None, [1, 30, 3, 20]),
        (ScatterReduction::Add, [1, 42, 3, 24]),
        (ScatterReduction::Mul, [1, 600, 3, 80]),
        (ScatterReduction::Max, [1, 30, 3, 20]),
        (ScatterReduction::Min, [1, 2, 3, 4]),
    ];
    for (reduction, y) in results {
        let expected = [tensor(&[4], &y)];
        let op = ScatterElements { axis: 0, reduction };
        check(op, &[x.clone(), at.clone(), updates.clone()], &expected);
        let vectors = at.reshape(vec![3, 1]).unwrap();
        check(ScatterNd { reduction }, &[x.clone(), vectors, updates.clone()], &expected);
    }
    let rows = [tensor(&[2, 2], &[true; 4]), tensor(&[1, 1], &[1i32]), tensor(&[1, 2], &[false, true])];
    let op = ScatterNd { reduction: ScatterReduction::None };
    check(op, &rows, &[tensor(&[2, 2], &[true, true, false, true])]);
    let op = ScatterNd { reduction: ScatterReduction::Add };
    check_error(op, &rows, "a scatter that combines takes numbers, found bool[2,2]");
}

#[test]
fn indices_and_bytes() {
    check(Iota { shape: dims(&[2, 3]), axis: 1 }, &[], &[tensor(&[2, 3], &[0i64, 1, 2, 0, 1, 2])]);
    check(DimValue { value: 7.into() }, &[], &[tensor(&[], &[7i64])]);
    let op = DimValue { value: Dim::named("batch") + 1.into() };
    check_error(op, &[], "batch+1 is not a known number");
    let ones = tensor(&[2], &[1f32, -0.0]);
    check(Bitcast { to: DType::U32 }, from_ref(&ones), &[tensor(&[2], &[0x3f80_0000u32, 0x8000_0000])]);
    check(Bitcast { to: DType::Bool }, &[tensor(&[3], &[0i8, -1, 2])], &[tensor(&[3], &[false, true, true])]);
    check_error(Bitcast { to: DType::F64 }, &[ones], "the elements of f32[2] and f64 differ in size");
}

#[test]
fn topk() {
    let x = tensor(&[6], &[2f32, f32::NAN, 5., 2., f32::INFINITY, -1.]);
    let top = |k: i64, largest| TopK { axis: 0, k: k.into(), largest };
    check(
        top(5, true),
        from_ref(&x),
        &[tensor(&[5], &[f32::NAN, f32::INFINITY, 5., 2., 2.]), tensor(&[5], &[1i64, 4, 2, 0, 3])],
    );
    check(top(3, false), from_ref(&x), &[tensor(&[3], &[-1f32, 2., 2.]), tensor(&[3], &[5i64, 0, 3])]);
    check_error(top(7, true), &[x], "cannot take 7 elements along axis 0 of f32[6]");
    let columns = tensor(&[2, 2], &[1u64, u64::MAX, 3, 0]);
    let op = TopK { axis: 0, k: 1.into(), largest: true };
    check(op, &[columns], &[tensor(&[1, 2], &[3u64, u64::MAX]), tensor(&[1, 2], &[1i64, 0])]);
}

#[test]
fn nonzero() {
    let nonzero = |count: Dim| NonZero { count };
    let x = tensor(&[2, 2], &[f32::NAN, 0., -0., 2.]);
    check(nonzero(Dim::named("n")), from_ref(&x), &[tensor(&[2, 2], &[0i64, 1, 0, 1])]);
    check(nonzero(Dim::named("n")), &[tensor(&[], &[true])], &[tensor::<i64>(&[0, 1], &[])]);
    check_error(nonzero(3.into()), &[x], "found 2 results where 3 were declared");
}

#[test]
fn unique() {
    let unique = |axis, sorted| Unique { axis, sorted, count: Dim::named("n") };
    let x = tensor(&[2, 3], &[2f64, f64::NAN, 1., 1., f64::NAN, 2.]);
    let sorted = [
        tensor(&[3], &[1f64, 2., f64::NAN]),
        tensor(&[3], &[2i64, 0, 1]),
        tensor(&[6], &[1i64, 2, 0, 0, 2, 1]),
        tensor(&[3], &[2i64, 2, 2]),
    ];
    check(unique(-1, true), from_ref(&x), &sorted);
    let in_order = [
        tensor(&[3], &[2f64, f64::NAN, 1.]),
        tensor(&[3], &[0i64, 1, 2]),
        tensor(&[6], &[0i64, 1, 2, 2, 1, 0]),
        tensor(&[3], &[2i64, 2, 2]),
    ];
    check(unique(-1, false), &[x], &in_order);
    let columns = tensor(&[2, 3], &[3i32, 1, 3, 0, 5, 0]);
    let by_column = [
        tensor(&[2, 2], &[1i32, 3, 5, 0]),
        tensor(&[2], &[1i64, 0]),
        tensor(&[3], &[1i64, 0, 1]),
        tensor(&[2], &[1i64, 2]),
    ];
    check(unique(1, true), &[columns], &by_column);
}

#[test]
fn nms() {
    // Two boxes that overlap by a half (intersection over union 1/3), and one apart.
    let corners = tensor(&[1, 3, 4], &[0f32, 0., 2., 2., 0., 3., 2., 1., 5., 5., 6., 6.]);
    let centres = tensor(&[1, 3, 4], &[1f32, 1., 2., 2., 2., 1., 2., 2., 5.5, 5.5, 1., 1.]);
    let scores = tensor(&[1, 2, 3], &[0.5f32, 0.9, 0.1, 0.7, 0.7, 0.8]);
    let nms = |max_output, iou, score, center_point| Nms {
        max_output,
        iou,
        score,
        center_point,
        count: Dim::named("n"),
    };
    let none = f64::NEG_INFINITY;
    let found = |rows: &[i64]| [tensor(&[rows.len() / 3, 3], rows)];
    for (boxes, center_point) in [(corners, false), (centres, true)] {
        let x = [boxes, scores.clone()];
        check(nms(9, 0.3, none, center_point), &x, &found(&[0, 0, 1, 0, 0, 2, 0, 1, 2, 0, 1, 0]));
        check(nms(2, 0.4, none, center_point), &x, &found(&[0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 1, 0]));
        check(nms(9, 0.3, 0.75, center_point), &x, &found(&[0, 0, 1, 0, 1, 2]));
        check(nms(0, 0.3, none, center_point), &x, &found(&[]));
    }
}

/// Compiled code can't report a wrong index, so the compute definitions clamp it, and give 0 where there is no element.
#[test]
fn gathers_of_wrong_indices_stay_in_bounds() {
    let wrong = [i64::MIN, -4, -3, 2, 3, i64::MAX];
    let x = tensor(&[3], &[10i32, 20, 30]);
    let found = [10i32, 10, 10, 30, 30, 30];
    for op in [Gather { axis: 0 }.into(), GatherElements { axis: 0 }.into()] {
        assert_eq!(compiled(&op, &x, &tensor(&[6], &wrong)), tensor(&[6], &found));
        assert_eq!(compiled(&op, &tensor(&[0], &[0i32; 0]), &tensor(&[6], &wrong)), tensor(&[6], &[0i32; 6]));
    }
    let op = GatherNd { batch_dims: 0 }.into();
    assert_eq!(compiled(&op, &x, &tensor(&[6, 1], &wrong)), tensor(&[6], &found));
    assert_eq!(compiled(&op, &tensor(&[0], &[0i32; 0]), &tensor(&[6, 1], &wrong)), tensor(&[6], &[0i32; 6]));
}

/// What the compute definition gives where the first operand's extent is a symbol.
fn compiled(op: &Op, x: &Tensor, indices: &Tensor) -> Tensor {
    let types = [Type::new(x.dtype(), vec![Dim::named("n")]), Type::of(indices.dtype(), indices.shape())];
    let y = op.infer(&[&types[0], &types[1]]).unwrap();
    let symbols = [(Sym::new("n"), x.len() as i64)].into();
    let compute = op.compute(&types, &y).unwrap();
    aic_ir::eval::compute(&compute, &[x.clone(), indices.clone()], &symbols).unwrap().remove(0)
}

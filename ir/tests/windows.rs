//! Convolution, pooling and sampling: small cases whose results are known, and the messages of refused ones.

#![allow(clippy::unwrap_used)]

use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::op::{
    Conv, Cumulative, Det, GridMode, GridPadding, GridSample, LogSoftmax, Op, Pool, PoolIndex, Random,
    RandomKind, RoiAlign, RoiMode, Softmax,
};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values).unwrap()
}

/// 1, 2, 3, ...
fn counting(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    floats(shape, &(1..=n).map(|v| v as f32).collect::<Vec<_>>())
}

fn run(op: impl Into<Op>, x: &[Tensor]) -> (Vec<usize>, Vec<f64>) {
    let y = op.into().eval(x).unwrap();
    (y[0].shape().to_vec(), y[0].to_f64())
}

fn conv(strides: &[usize], dilations: &[usize], pads: &[usize], groups: usize) -> Conv {
    Conv { strides: strides.into(), dilations: dilations.into(), pads: pads.into(), groups }
}

#[test]
fn convolution_pads_on_each_side_by_its_own() {
    let x = counting(&[1, 1, 2, 3]);
    let w = floats(&[1, 1, 2, 2], &[1., 10., 100., 1000.]);
    let (shape, y) = run(conv(&[1, 1], &[1, 1], &[1, 0, 0, 2], 1), &[x, w]);
    assert_eq!(shape, [1, 1, 2, 4]);
    assert_eq!(y, [2100., 3200., 300., 0., 5421., 6532., 603., 0.]);
}

#[test]
fn convolution_strides_and_dilates() {
    let x = counting(&[1, 1, 9]);
    let w = floats(&[1, 1, 3], &[1., 1., 1.]);
    let (shape, y) = run(conv(&[2], &[3], &[0, 0], 1), &[x, w]);
    assert_eq!((shape, y), (vec![1, 1, 2], vec![1. + 4. + 7., 3. + 6. + 9.]));
}

#[test]
fn convolution_by_groups() {
    let x = counting(&[1, 4, 1]);
    let w = floats(&[4, 2, 1], &[1., 0., 0., 1., 1., 1., 2., 2.]);
    let (shape, y) = run(conv(&[1], &[1], &[0, 0], 2), &[x, w]);
    assert_eq!((shape, y), (vec![1, 4, 1], vec![1., 2., 7., 14.]));
}

#[test]
fn convolution_of_integers_wraps() {
    let x = Tensor::from_vec(vec![1, 1, 2], &[200u8, 100]).unwrap();
    let w = Tensor::from_vec(vec![1, 1, 2], &[1u8, 1]).unwrap();
    assert_eq!(run(conv(&[1], &[1], &[0, 0], 1), &[x, w]).1, [44.]);
}

#[test]
fn convolution_with_symbols() {
    let x = Type::new(DType::F32, vec![Dim::named("n"), 3.into(), Dim::named("h"), 224.into()]);
    let w = Type::of(DType::F32, &[64, 3, 7, 7]);
    let op = Op::from(conv(&[2, 2], &[1, 1], &[3, 3, 3, 3], 1));
    assert_eq!(op.infer(&[&x, &w]).unwrap()[0].to_string(), "f32[n,64,floordiv(h+1,2),112]");
}

#[test]
fn refused_windows_say_why() {
    let x = Type::of(DType::F32, &[1, 4, 5, 5]);
    let message = |op: Conv, w: &[usize]| {
        let w = Type::of(DType::F32, w);
        Op::from(op).infer(&[&x, &w]).unwrap_err().message
    };
    let plain = || conv(&[1, 1], &[1, 1], &[0; 4], 1);
    assert_eq!(
        message(plain(), &[8, 3, 1, 1]),
        "expected 3 channels in x for weights f32[8,3,1,1] in 1 groups, found f32[1,4,5,5]"
    );
    assert!(
        message(plain(), &[8, 4, 6, 1])
            .contains("(extent 6 with its dilation) is larger than the padded extent 5")
    );
    assert!(message(plain(), &[8, 4, 1]).contains("one rank of 3 or more"));
    assert!(message(conv(&[1], &[1, 1], &[0; 4], 1), &[8, 4, 1, 1]).contains("expected 2 values of strides"));
    assert!(message(conv(&[1, 0], &[1, 1], &[0; 4], 1), &[8, 4, 1, 1]).contains("strides must be positive"));
    assert!(
        message(conv(&[1, 1], &[1, 1], &[0; 4], 4), &[6, 1, 1, 1]).contains("a multiple of the 4 groups")
    );
    let huge = conv(&[usize::MAX; 2], &[usize::MAX; 2], &[usize::MAX; 4], 1);
    let (x, w) = (counting(&[1, 1, 5, 5]), counting(&[1, 1, 1, 1]));
    assert!(Op::from(huge).eval(&[x, w]).is_err());
}

#[test]
fn pools() {
    let x = counting(&[1, 1, 3, 3]);
    let pool = |op, pads: &[usize]| Pool {
        op,
        kernel: vec![2, 2],
        strides: vec![1, 2],
        dilations: vec![1, 1],
        pads: pads.into(),
    };
    assert_eq!(run(pool(ReduceOp::Max, &[0; 4]), std::slice::from_ref(&x)), (vec![1, 1, 2, 1], vec![5., 8.]));
    assert_eq!(run(pool(ReduceOp::Sum, &[0, 1, 0, 0]), &[x]).1, [5., 16., 11., 28.]);
    let nan = floats(&[1, 1, 1, 2], &[f32::NAN, 1.]);
    assert!(run(pool(ReduceOp::Max, &[1, 0, 0, 0]), &[nan]).1[0].is_nan());
}

#[test]
fn positions_of_maxima() {
    let x = floats(&[1, 2, 2, 3], &[1., 5., 5., 0., 5., 2., 3., 3., 3., 3., 3., 4.]);
    let index = |column_major| PoolIndex {
        kernel: vec![2, 2],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![0, 1, 0, 0],
        column_major,
    };
    assert_eq!(
        run(index(false), std::slice::from_ref(&x)),
        (vec![1, 2, 1, 3], vec![0., 1., 1., 6., 6., 11.])
    );
    assert_eq!(run(index(true), &[x]).1, [0., 2., 2., 6., 6., 11.]);
}

#[test]
fn softmax_is_immune_to_overflow() {
    let x = floats(&[2, 2], &[1000., 1000., f32::NEG_INFINITY, 0.]);
    assert_eq!(run(Softmax { axis: 1 }, &[x]).1, [0.5, 0.5, 0., 1.]);
    let none = floats(&[2], &[f32::NEG_INFINITY; 2]);
    assert!(run(Softmax { axis: 0 }, std::slice::from_ref(&none)).1.iter().all(|v| v.is_nan()));
    assert!(run(LogSoftmax { axis: 0 }, &[none]).1.iter().all(|v| v.is_nan()));
}

#[test]
fn log_softmax_is_immune_to_overflow_and_underflow() {
    let x = floats(&[2, 2], &[1000., 0., 0., 0.]);
    let half = -f64::from(std::f32::consts::LN_2);
    assert_eq!(run(LogSoftmax { axis: 1 }, &[x]).1, [0., -1000., half, half]);
}

#[test]
fn cumulative_sums() {
    let x = counting(&[2, 3]);
    let sum = |axis, exclusive, reverse| {
        run(Cumulative { op: ReduceOp::Sum, axis, exclusive, reverse }, std::slice::from_ref(&x)).1
    };
    assert_eq!(sum(1, false, false), [1., 3., 6., 4., 9., 15.]);
    assert_eq!(sum(1, true, false), [0., 1., 3., 0., 4., 9.]);
    assert_eq!(sum(1, true, true), [5., 3., 0., 11., 6., 0.]);
    assert_eq!(sum(0, false, true), [5., 7., 9., 4., 5., 6.]);
}

#[test]
fn grids() {
    let x = counting(&[1, 1, 2, 2]);
    let sample = |mode, padding, align_corners, places: &[f32]| {
        let grid = floats(&[1, 1, places.len() / 2, 2], places);
        run(GridSample { mode, padding, align_corners }, &[x.clone(), grid]).1
    };
    let corners = [-1., -1., 1., -1., 0., 0., 1., 1.];
    assert_eq!(sample(GridMode::Linear, GridPadding::Zeros, true, &corners), [1., 2., 2.5, 4.]);
    assert_eq!(sample(GridMode::Linear, GridPadding::Zeros, false, &corners), [0.25, 0.5, 2.5, 1.]);
    assert_eq!(sample(GridMode::Nearest, GridPadding::Border, false, &[-9., 9., 0.5, -0.5]), [3., 2.]);
    // One image width beyond the left border is the right one; two are the left one again.
    assert_eq!(sample(GridMode::Linear, GridPadding::Reflection, true, &[-3., -1., -5., -1.]), [2., 1.]);
    assert_eq!(sample(GridMode::Cubic, GridPadding::Border, true, &corners)[..2], [1., 2.]);
    let nowhere = [f32::NAN, 0., f32::INFINITY, 0.];
    for &mode in GridMode::ALL {
        for &padding in GridPadding::ALL {
            assert_eq!(sample(mode, padding, false, &nowhere).len(), 2);
        }
    }
}

#[test]
fn regions() {
    let align = |mode, half_pixel| RoiAlign {
        mode,
        height: 1,
        width: 2,
        sampling_ratio: 2,
        spatial_scale: 1.0,
        half_pixel,
    };
    let rois = floats(&[1, 4], &[0., 0., 4., 2.]);
    let at = |i| Tensor::from_vec(vec![1], &[i]).unwrap();
    let x = counting(&[1, 1, 3, 4]);
    // Rows 0.5 and 1.5, columns 0.5 1.5 | 2.5 3.5 (3 is the last pixel): means of rows 3, columns 2 and 3.75.
    let (shape, y) = run(align(RoiMode::Avg, false), &[x.clone(), rois.clone(), at(0i64)]);
    assert_eq!((shape, y), (vec![1, 1, 1, 2], vec![6., 7.75]));
    let e = Op::from(align(RoiMode::Max, true)).eval(&[x.clone(), rois, at(1)]).unwrap_err();
    assert!(e.message.contains("batch index 1 is out of range for 1 images"));
    let endless = RoiAlign { sampling_ratio: 0, ..align(RoiMode::Avg, true) };
    let rois = floats(&[1, 4], &[0., 0., f32::INFINITY, 1e30]);
    assert!(Op::from(endless).eval(&[x, rois, at(0)]).unwrap_err().message.contains("too many"));
}

#[test]
fn determinants() {
    let x = floats(&[2, 3, 3], &[0., 1., 2., 3., 4., 5., 6., 7., 9., 2., 0., 0., 0., 3., 0., 0., 0., 4.]);
    let (shape, y) = run(Det {}, &[x]);
    assert_eq!((shape, y), (vec![2], vec![-3., 24.]));
    assert_eq!(run(Det {}, &[floats(&[0, 0], &[])]).1, [1.]);
}

#[test]
fn random_numbers_are_the_same_every_time() {
    let random = |kind, stream, n: usize| {
        let op = Random { kind, dtype: DType::F32, shape: vec![n.into()], a: 1.0, b: 3.0, seed: 7, stream };
        run(op, &[]).1
    };
    let x = random(RandomKind::Uniform, 0, 4000);
    assert_eq!(x[..10], random(RandomKind::Uniform, 0, 10));
    assert_ne!(x[..10], random(RandomKind::Uniform, 1, 10));
    assert!(x.iter().all(|v| (1.0..3.0).contains(v)));
    let moments = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt())
    };
    let (mean, deviation) = moments(&x);
    assert!((mean - 2.0).abs() < 0.05 && (deviation - 2.0 / 12f64.sqrt()).abs() < 0.02, "{mean} {deviation}");
    let (mean, deviation) = moments(&random(RandomKind::Normal, 0, 4000));
    assert!((mean - 1.0).abs() < 0.15 && (deviation - 3.0).abs() < 0.1, "{mean} {deviation}");
}

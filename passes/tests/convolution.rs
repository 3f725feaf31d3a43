//! Convolutions and pooling of many geometries are one kernel each, which satisfies the verifier and means what the
//! operator means, with a known and a symbolic number of images.

#![allow(clippy::unwrap_used)]

mod common;

use aic_ir::compute::ReduceOp;
use aic_ir::dtype::DType;
use aic_ir::op::{ChannelsLastConv, ChannelsLastPool, Conv, Op, Operand, Pool, Rng, Sample, Winograd};
use aic_ir::program::Step;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{eval, verify};
use aic_passes::pipeline::Options;
use aic_passes::schedule::{Nest, apply, choose};
use common::{difference, one_node};

fn check(op: Op, operands: Vec<Operand>) {
    check_with(op, operands, &[false, true]);
}

fn check_with(op: Op, operands: Vec<Operand>, symbolic: &[bool]) {
    let sample = Sample { op, operands };
    let mut rng = Rng::new(7);
    let x: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
    let want = sample.op.eval(&x).unwrap();
    for &symbolic in symbolic {
        let Ok(graph) = one_node(&sample, symbolic) else { continue };
        for target in [Target::x86_avx512(), Target::x86_avx2()] {
            let what = format!("{:?} on {:?}, symbolic: {symbolic}", sample.op, sample.operands);
            let program = aic_passes::pipeline::compile(graph.clone(), &Options::new(target)).unwrap();
            assert_eq!((program.kernels.len(), program.steps.len()), (1, 1), "{what}");
            assert_eq!(verify::kernel(&program.kernels[0]), Vec::<String>::new(), "{what}");
            let got = eval::program(&program, &x).unwrap();
            assert_eq!(difference(&want[0], &got[0]), None, "{what}");
        }
    }
}

/// Filters, channels of `x`, spatial extents, kernel, strides, dilations, pads and groups.
type Case<'a> = ([usize; 2], &'a [usize], &'a [usize], &'a [usize], &'a [usize], &'a [usize], usize);

#[test]
fn convolutions() {
    let cases: &[Case] = &[
        ([16, 3], &[14, 14], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1),
        ([20, 3], &[7, 7], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1),
        ([9, 2], &[15, 13], &[3, 3], &[2, 2], &[1, 1], &[1, 0, 0, 1], 1),
        ([8, 2], &[23, 29], &[7, 5], &[2, 3], &[1, 1], &[3, 2, 3, 1], 1),
        ([12, 2], &[11, 19], &[3, 3], &[1, 1], &[2, 3], &[2, 3, 2, 3], 1),
        ([12, 5], &[15, 28], &[1, 1], &[2, 2], &[1, 1], &[0, 0, 0, 0], 1),
        ([12, 5], &[9, 9], &[1, 1], &[6, 6], &[1, 1], &[2, 2, 2, 2], 1),
        ([16, 1], &[3, 150], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1),
        ([16, 2], &[2, 300], &[1, 20], &[1, 2], &[1, 1], &[0, 10, 0, 9], 1),
        ([16, 4], &[70], &[5], &[1], &[1], &[2, 2], 1),
        ([10, 4], &[40], &[5], &[2], &[1], &[4, 0], 1),
        ([10, 2], &[4, 5, 6], &[3, 2, 3], &[1, 1, 2], &[1, 1, 1], &[1, 0, 1, 1, 1, 1], 1),
        ([16, 8], &[9, 10], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 2),
        ([24, 24], &[12, 21], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 24),
        ([24, 24], &[12, 21], &[3, 3], &[2, 2], &[1, 1], &[0, 0, 1, 1], 24),
        ([8, 8], &[7, 7], &[5, 5], &[1, 1], &[1, 1], &[2, 2, 2, 2], 8),
    ];
    for (channels, spatial, kernel, strides, dilations, pads, groups) in cases {
        for dtype in [DType::F32, DType::F16, DType::I32] {
            let [m, c] = *channels;
            let x = Operand::finite(dtype, [&[2, c], *spatial].concat());
            let w = Operand::finite(dtype, [&[m, c / groups], *kernel].concat());
            let op = Conv {
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                pads: pads.to_vec(),
                groups: *groups,
            };
            check(op.into(), vec![x, w]);
        }
    }
}

/// Geometries with borders on every side, rows of several tiles, taps that reach no column, channels that fill no vector.
#[test]
fn channels_last() {
    let cases: &[Case] = &[
        ([16, 3], &[14, 14], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1),
        ([40, 5], &[7, 31], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1),
        ([19, 2], &[15, 13], &[3, 3], &[2, 2], &[1, 1], &[1, 0, 0, 1], 1),
        ([33, 3], &[23, 29], &[7, 5], &[2, 3], &[1, 1], &[3, 2, 3, 1], 1),
        ([12, 2], &[11, 19], &[3, 3], &[1, 1], &[2, 3], &[2, 3, 2, 3], 1),
        ([12, 5], &[15, 28], &[1, 1], &[2, 2], &[1, 1], &[0, 0, 0, 0], 1),
        ([12, 5], &[9, 9], &[1, 1], &[6, 6], &[1, 1], &[2, 2, 2, 2], 1),
        ([16, 1], &[3, 3], &[3, 3], &[1, 1], &[4, 4], &[4, 4, 4, 4], 1),
        ([16, 4], &[70], &[5], &[1], &[1], &[2, 2], 1),
        ([10, 4], &[40], &[20], &[2], &[1], &[4, 0], 1),
        ([20, 2], &[4, 5, 6], &[3, 2, 3], &[1, 1, 2], &[1, 1, 1], &[1, 0, 1, 1, 1, 1], 1),
        ([16, 8], &[9, 10], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 2),
        ([40, 40], &[12, 21], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 40),
        ([24, 24], &[12, 21], &[3, 3], &[2, 2], &[1, 1], &[0, 0, 1, 1], 24),
        ([16, 16], &[7, 7], &[5, 5], &[1, 1], &[1, 1], &[2, 2, 2, 2], 16),
        ([16, 16], &[9, 9], &[7, 7], &[1, 1], &[1, 1], &[3, 3, 3, 3], 16),
    ];
    for (k, (channels, spatial, kernel, strides, dilations, pads, groups)) in cases.iter().enumerate() {
        for dtype in [DType::F32, [DType::F16, DType::I32][k % 2]] {
            let [m, c] = *channels;
            let x = Operand::finite(dtype, [&[2], *spatial, &[c]].concat());
            let w = Operand::finite(dtype, [*kernel, &[c / groups, m]].concat());
            let op = ChannelsLastConv {
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                pads: pads.to_vec(),
                groups: *groups,
            };
            check(op.into(), vec![x, w]);
        }
    }
}

#[test]
fn channels_last_pooling() {
    for op in [ReduceOp::Max, ReduceOp::Sum] {
        for (spatial, kernel, strides, pads) in [
            ([14, 15], [3, 3], [2, 2], [1, 1, 1, 1]),
            ([9, 33], [2, 3], [1, 1], [0, 1, 1, 1]),
            ([7, 7], [7, 7], [1, 1], [0, 0, 0, 0]),
            ([6, 40], [3, 5], [3, 5], [2, 4, 0, 0]),
        ] {
            let x = Operand::finite(DType::F32, [&[2], &spatial[..], &[21]].concat());
            let pool = ChannelsLastPool {
                op,
                kernel: kernel.to_vec(),
                strides: strides.to_vec(),
                dilations: vec![1, 1],
                pads: pads.to_vec(),
            };
            check(pool.into(), vec![x]);
        }
    }
}

/// One kernel whatever the last tiles lack: rows, columns, channels.
#[test]
fn winograd() {
    for tile in [2, 4] {
        for ([h, w, c, m], pads) in [
            ([8, 8, 16, 32], vec![1, 1, 1, 1]),
            ([7, 14, 5, 16], vec![1, 1, 1, 1]),
            ([13, 9, 19, 64], vec![0, 2, 1, 0]),
            ([30, 45, 3, 32], vec![0, 0, 0, 0]),
            ([3, 3, 1, 16], vec![0, 1, 0, 1]),
        ] {
            let block = if m % 32 == 0 { 32 } else { 16 };
            let x = Operand::finite(DType::F32, vec![2, h, w, c]);
            let u = Operand::finite(DType::F32, vec![(tile + 2) * (tile + 2), m / block, c, block]);
            check_with(Winograd { tile, pads: pads.clone() }.into(), vec![x, u], &[false]);
        }
    }
}

/// Panels of every size, with sums that wait between blocks of terms.
#[test]
fn schedules_of_a_convolution() {
    let op = Conv { strides: vec![1, 1], dilations: vec![1, 1], pads: vec![1; 4], groups: 1 };
    let operands =
        vec![Operand::finite(DType::F32, vec![2, 6, 5, 7]), Operand::finite(DType::F32, vec![24, 6, 3, 3])];
    let sample = Sample { op: op.into(), operands };
    let mut rng = Rng::new(3);
    let x: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
    let want = sample.op.eval(&x).unwrap();
    let target = Target::x86_avx512();
    let types: Vec<Type> = x.iter().map(|x| Type::of(x.dtype(), x.shape())).collect();
    let compute = sample.op.compute(&types, &[Type::of(DType::F32, want[0].shape())]).unwrap();
    let nest = Nest::new(&compute).unwrap();
    let chosen = choose(&nest, &target);
    let graph = one_node(&sample, false).unwrap();
    let mut program = aic_passes::pipeline::compile(graph, &Options::new(target)).unwrap();
    for rows in 1..=5 {
        for kc in [0, 9, 27, 54] {
            let kernel = apply("conv", &nest, &Schedule { panel: 7 * rows, kc, ..chosen.clone() });
            assert_eq!(verify::kernel(&kernel), Vec::<String>::new(), "{rows} {kc}");
            for step in &mut program.steps {
                if let Step::Launch { extent, .. } = step {
                    *extent = kernel.parallel_extent();
                }
            }
            program.kernels[0] = kernel;
            let got = eval::program(&program, &x).unwrap();
            assert_eq!(difference(&want[0], &got[0]), None, "{rows} {kc}");
        }
    }
}

#[test]
fn pooling() {
    for op in [ReduceOp::Max, ReduceOp::Sum] {
        for (spatial, kernel, strides, pads) in [
            ([14, 15], [3, 3], [2, 2], [1, 1, 1, 1]),
            ([9, 33], [2, 3], [1, 1], [0, 1, 1, 1]),
            ([7, 7], [7, 7], [1, 1], [0, 0, 0, 0]),
            ([6, 40], [3, 5], [3, 5], [2, 4, 0, 0]),
        ] {
            let x = Operand::finite(DType::F32, [&[2, 3], &spatial[..]].concat());
            let pool = Pool {
                op,
                kernel: kernel.to_vec(),
                strides: strides.to_vec(),
                dilations: vec![1, 1],
                pads: pads.to_vec(),
            };
            check(pool.into(), vec![x]);
        }
    }
}

//! Contractions whose vector factor is a constant: wherever its elements are, the kernel that reads them packed gives
//! the bits of the one that reads them as they are.

#![allow(clippy::unwrap_used)]

use aic_ir::compose::compose;
use aic_ir::compute::Compute;
use aic_ir::eval::{self, KernelBuffer};
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Operand, Rng};
use aic_ir::program::Place;
use aic_ir::schedule::Class;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_ir::verify;
use aic_passes::packing::{Packing, pack_all};
use aic_passes::pipeline::{self, Options};
use aic_passes::runner::Numerics;
use aic_passes::schedule::{self, Nest, Signature};
use std::collections::BTreeSet;

fn tensors(g: &Graph, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let of = |p: &aic_ir::graph::Port| {
        let ty = g.ty(p.value);
        Operand::finite(ty.dtype, ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect())
    };
    g.inputs.iter().map(|p| rng.tensor(&of(p)).unwrap()).collect()
}

fn run(k: &Kernel, x: &[Tensor], packings: &[(usize, Packing)], y: &Tensor) -> Tensor {
    let mut x = x.to_vec();
    for (at, packing) in packings {
        x[*at] = pack_all(&[(x[*at].clone(), packing.clone())]).unwrap().remove(0);
    }
    let mut buffers: Vec<KernelBuffer> = x.iter().map(KernelBuffer::from_tensor).collect();
    buffers.push(KernelBuffer::poisoned(y.dtype(), y.len()));
    eval::kernel(k, &mut buffers, &[]).unwrap_or_else(|e| panic!("{e}\n{k}"));
    buffers.last().unwrap().to_tensor(y.shape().to_vec()).unwrap()
}

/// The kernel of a graph whose input 1 is a constant reads it packed, and gives what it would otherwise.
fn check(text: &str, seed: u64) {
    let g = parse_graph(text).unwrap();
    let x = tensors(&g, seed);
    let want = &eval::graph(&g, &x).unwrap()[0];
    let compute = compose(&g).unwrap();
    let known = Compute { constants: BTreeSet::from([1]), ..compute.clone() };
    for target in [Target::x86_avx512(), Target::x86_avx2(), Target::x86_sse()] {
        let cut = schedule::cut(&known, &target);
        assert_eq!(cut.pieces.len(), 1, "{text}");
        let packed = schedule::kernel("k", &cut.pieces[0].compute, &target).unwrap();
        let k = &packed.kernel;
        assert!(packed.schedule.pack > 0, "{} {text}", packed.schedule);
        assert_eq!(verify::kernel_for(k, &target), Vec::<String>::new(), "{text}\n{k}");
        let got = run(k, &x, &packed.packings, want);
        let plain = schedule::cut(&compute, &target);
        if plain.pieces.len() == 1
            && schedule::signatures(&plain, &target).unwrap() == [Signature::Sequential(Class::Contract)]
        {
            let plain = schedule::kernel("k", &plain.pieces[0].compute, &target).unwrap();
            assert_eq!(got.bytes(), run(&plain.kernel, &x, &[], want).bytes(), "{text}\n{k}");
        }
        let error = |(a, b): (f64, &f64)| (a - b).abs() / b.abs().max(1.0);
        let worst = got.to_f64().into_iter().zip(&want.to_f64()).map(error).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{worst} {text}\n{k}");
    }
}

#[test]
fn matrices_as_they_are_and_transposed() {
    let mut rng = Rng::new(5);
    let mut pick = |of: &[usize]| of[rng.below(of.len())];
    for seed in 0..24 {
        let m = pick(&[1, 2, 7, 8, 13, 29]);
        let (k, n) = (pick(&[1, 3, 16, 37]), pick(&[4, 5, 16, 17, 32, 47, 97]));
        check(
            &format!(
                "graph(%0: f32[{m},{k}], %1: f32[{k},{n}], %2: f32[{n}]) -> f32[{m},{n}] {{
                   %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }}"
            ),
            seed,
        );
        let m = m.max(8);
        check(
            &format!(
                "graph(%0: f32[{m},{k}], %1: f32[{n},{k}]) -> f32[{m},{n}] {{
                   %2 = transpose %1 {{perm=[1,0]}} %3 = matmul %0 %2 return %3 }}"
            ),
            seed,
        );
    }
}

/// Blocks of rows and terms, tiles that divide nothing: all give the same bits.
#[test]
fn every_schedule_sums_in_the_same_order() {
    let schedules = [
        "contract lanes=16 mr=3 nr=2 kc=7 mc=6 pack=32 ahead=7",
        "contract lanes=16 mr=3 nr=2 kc=0 mc=9 pack=32 ahead=2",
        "contract lanes=16 mr=14 nr=1 kc=5 pack=16",
        "contract lanes=8 mr=1 nr=3 kc=8 pack=24 ahead=37",
        "contract lanes=16 mr=8 nr=3 kc=36 mc=8 pack=48",
    ];
    for (m, k, n) in [(1, 37, 33), (7, 16, 97), (29, 37, 48), (13, 1, 5)] {
        let text = format!(
            "graph(%0: f32[{m},{k}], %1: f32[{k},{n}], %2: f32[{n}]) -> f32[{m},{n}] {{
               %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }}"
        );
        let g = parse_graph(&text).unwrap();
        let x = tensors(&g, 2);
        let compute = compose(&g).unwrap();
        let known = Compute { constants: BTreeSet::from([1]), ..compute.clone() };
        let want = &eval::graph(&g, &x).unwrap()[0];
        let plain = schedule::kernel("k", &compute, &Target::x86_avx512()).unwrap().kernel;
        let bits = run(&plain, &x, &[], want);
        let nest = Nest::new(&known).unwrap();
        for s in schedules {
            let s = s.parse().unwrap();
            let kernel = schedule::apply("k", &nest, &s);
            assert_eq!(verify::kernel(&kernel), Vec::<String>::new(), "{s}\n{kernel}");
            let packings: Vec<_> = schedule::packings(&nest, &s).into_iter().collect();
            assert_eq!(run(&kernel, &x, &packings, want).bytes(), bits.bytes(), "{s} {text}\n{kernel}");
        }
    }
}

#[test]
fn batches_views_and_types() {
    for text in [
        "graph(%0: f32[3,9,20], %1: f32[3,20,33]) -> f32[3,9,33] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f32[2,3,9,20], %1: f32[3,20,33]) -> f32[2,3,9,33] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f16[9,20], %1: f16[20,33]) -> f16[9,33] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: bf16[1,64], %1: bf16[64,33]) -> f32[1,33] {
           %2 = matmul %0 %1 %3 = cast %2 {to=f32} return %3 }",
        "graph(%0: i32[9,20], %1: i32[20,33]) -> i32[9,33] { %2 = matmul %0 %1 return %2 }",
        "graph(%0: f64[9,20], %1: f64[20,33]) -> f64[9,33] { %2 = matmul %0 %1 return %2 }",
        // A part of a larger matrix.
        "graph(%0: f32[9,20], %1: f32[40,66]) -> f32[9,33] {
           %2 = slice %1 {starts=[7,11], sizes=[20,33], steps=[1,1]} %3 = matmul %0 %2 return %3 }",
    ] {
        check(text, 1);
    }
}

#[test]
fn convolutions_of_channels_last() {
    for (strides, dilations, n_out, [h, w]) in [("1,1", "1,1", 9, [9, 11]), ("2,1", "1,2", 33, [5, 9])] {
        check(
            &format!(
                "graph(%0: f32[2,9,11,6], %1: f32[{n_out},6,3,3]) -> f32[2,{h},{w},{n_out}] {{
                   %2 = transpose %0 {{perm=[0,3,1,2]}}
                   %3 = conv %2 %1 {{strides=[{strides}], dilations=[{dilations}], pads=[1,1,1,1], groups=1}}
                   %4 = transpose %3 {{perm=[0,2,3,1]}}
                   return %4 }}"
            ),
            3,
        );
    }
}

/// Two contractions read one constant, each packed for itself; the constant as it was is gone. Equal ones share.
#[test]
fn programs_hold_what_their_kernels_read() {
    let weights = "const f32[8,40] [2.5, 1 .. 1]".replace("1 .. 1", &vec!["1"; 319].join(","));
    let text = format!(
        "graph(%0 \"x\": f32[9,8], %1 \"z\": f32[11,40], %2 \"u\": f32[9,8]) -> (f32[9,40], f32[11,8], f32[9,40]) {{
           %3 = {weights}
           %4 = matmul %0 %3
           %5 = transpose %3 {{perm=[1,0]}}
           %6 = matmul %1 %5
           %7 = matmul %2 %3
           return %4, %6, %7 }}"
    );
    let g = parse_graph(&text).unwrap();
    let x = tensors(&g, 9);
    let want = eval::graph(&g, &x).unwrap();
    for level in [0, 1, 2] {
        let options = Options { level, numerics: Numerics::Exact, ..Options::new(Target::x86_avx512()) };
        let program = pipeline::compile(g.clone(), &options).unwrap();
        let constants: Vec<usize> = program
            .buffers
            .iter()
            .filter(|b| matches!(b.place, Place::Constant(_)))
            .map(|b| b.ty.numel().as_const().unwrap() as usize)
            .collect();
        let sorted = BTreeSet::from_iter(constants.iter().copied());
        assert_eq!(sorted, BTreeSet::from([40 * 8, 8 * 48]), "-O{level}");
        let got = eval::program(&program, &x).unwrap();
        for (a, b) in want.iter().zip(&got) {
            let close =
                a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0));
            assert!(close, "-O{level} {a:?} {b:?}");
        }
    }
}

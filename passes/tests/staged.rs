//! Computes of several stages become one kernel, whose schedule is the expected one.

#![allow(clippy::unwrap_used)]

use aic_ir::dtype::DType;
use aic_ir::op::{Attention, Normalize, Op, Softmax};
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_passes::schedule;

fn ty(dims: &[usize]) -> Type {
    Type::of(DType::F32, dims)
}

fn show(op: Op, x: &[Type]) {
    let refs: Vec<&Type> = x.iter().collect();
    let y = op.infer(&refs).unwrap();
    let c = op.compute(x, &y).unwrap();
    let target = Target::x86_avx512();
    let cut = schedule::cut(&c, &target);
    println!("{:?}: {} pieces", op.keyword(), cut.pieces.len());
    for p in &cut.pieces {
        let (s, k) = schedule::kernel("k", &p.compute, &target).unwrap();
        println!("{}\n{s}\n{k}", p.compute);
    }
}

#[test]
fn look() {
    show(Softmax { axis: 2 }.into(), &[ty(&[2, 5, 197])]);
    show(Normalize { axes: vec![2], epsilon: 1e-5, center: true }.into(), &[ty(&[2, 5, 197])]);
    let qkv = || ty(&[2, 3, 197, 64]);
    show(Attention { scale: 0.125, causal: false }.into(), &[qkv(), qkv(), qkv(), ty(&[2, 1, 1, 197])]);
}

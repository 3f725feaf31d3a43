//! Whole kernels through LLVM: loops, blocks, buffers, addresses.
#![cfg(feature = "llvm")]

mod common;
use aic_ir::dtype::DType::*;
use aic_ir::kernel::*;
use aic_ir::scalar::ScalarFn;
use common::*;

/// `y[i] = x[i] + x[i]` for a parallel `i`, 16 lanes each.
fn double(name: &str) -> Kernel {
    let at = || lanes(dim("i") * 16.into(), 16);
    let sum = Expr::call(ScalarFn::Add, [load("x", at()), load("x", at())]);
    let body = vec![Stmt::loop_of(&sym("i"), 8.into(), LoopKind::Parallel, vec![store("y", at(), sum)])];
    kernel(name, vec![param("x", F32, 128, false), param("y", F32, 128, true)], body)
}

#[test]
fn a_parallel_loop_runs_the_iterations_it_is_given() {
    let library = build(&[double("double")]);
    let f = library.get("double").unwrap();
    let (mut x, mut y) = (Array::f32((0..128).map(|i| i as f32)), Array::zeros(F32, 128));
    call(f, &mut [&mut x, &mut y], &[], 2, 4);
    let expect = |i: usize| if (32..64).contains(&i) { 2.0 * i as f64 } else { 0.0 };
    assert_eq!(y.floats(), (0..128).map(expect).collect::<Vec<_>>());
}

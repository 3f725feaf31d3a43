//! The kernels of random instances of every operator as MLIR: MLIR verifies each.
#![cfg(feature = "mlir")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
#[allow(dead_code)]
mod common;

use aic_backends::mlir;
use aic_ir::op::{Op, Rng};
use aic_ir::target::Target;
use aic_passes::pipeline::Options;
use common::one_node;

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 120 } else { 10 }
}

fn check(symbolic: bool) {
    let (mut failures, mut n_kernels) = (Vec::new(), 0);
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..samples(name) {
            let s = sample(&mut Rng::new(seed));
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            for target in [Target::x86_avx512(), Target::x86_avx2()] {
                let options = Options::new(target);
                let program = aic_passes::pipeline::compile(graph.clone(), &options).unwrap();
                n_kernels += program.kernels.len();
                if let Err(e) = mlir::kernels(&program.kernels) {
                    failures.push(format!("{name} seed {seed}: {e}\n{}", program.kernels[0]));
                }
            }
        }
    }
    for f in failures.iter().take(6) {
        eprintln!("{}", f.chars().take(1500).collect::<String>());
    }
    assert!(failures.is_empty(), "{} failed", failures.len());
    assert!(n_kernels > 500, "only {n_kernels} kernels were written");
}

#[test]
fn every_kernel_has_a_function_that_verifies() {
    check(false);
}

#[test]
fn every_kernel_of_symbolic_extents_has_a_function_that_verifies() {
    check(true);
}

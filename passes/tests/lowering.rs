//! Random instances of every operator are lowered and interpreted: the kernels must satisfy the verifier, read back
//! from their text, and mean what the operator means.

#![allow(clippy::unwrap_used)]

mod common;

use aic_ir::op::{Op, Rng};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_kernel;
use aic_ir::{eval, verify};
use aic_passes::pipeline::Options;
use common::{difference, one_node};

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 300 } else { 24 }
}

fn check(symbolic: bool) {
    let mut failures = Vec::new();
    let mut lowered = 0;
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..samples(name) {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            for target in [Target::x86_avx512(), Target::x86_avx2()] {
                let case = || format!("{name} seed {seed} {:?} on {x:?}", s.op);
                let program = aic_passes::pipeline::compile(graph.clone(), &Options::new(target.clone()));
                lowered += 1;
                for k in program.iter().flat_map(|p| &p.kernels) {
                    let text = k.to_string();
                    assert_eq!(parse_kernel(&text).as_ref(), Ok(k), "{text}");
                    let found = verify::kernel(k);
                    if let Some(violation) = found.first() {
                        failures.push(format!("{name} seed {seed} {:?}: {violation}\n{k}", s.op));
                    }
                }
                match program.and_then(|p| eval::program(&p, &x)) {
                    Err(e) => failures.push(format!("{}: {e}", case())),
                    Ok(got) => failures.extend(
                        want.iter()
                            .zip(&got)
                            .filter_map(|(a, b)| difference(a, b))
                            .map(|d| format!("{}: {d}", case())),
                    ),
                }
            }
        }
    }
    for f in failures.iter().take(12) {
        eprintln!("{}", f.chars().take(1200).collect::<String>());
    }
    assert!(failures.is_empty(), "{} of {lowered} failed", failures.len());
    assert!(lowered > 1000, "only {lowered} samples could be lowered");
}

#[test]
fn kernels_mean_what_the_operators_mean() {
    check(false);
}

#[test]
fn kernels_of_symbolic_extents_mean_what_the_operators_mean() {
    check(true);
}

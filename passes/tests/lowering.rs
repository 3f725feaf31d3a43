//! Random instances of every operator are lowered; the kernels must mean what the operator means.

use aic_ir::graph::Graph;
use aic_ir::op::{Op, Rng};
use aic_ir::target::Target;
use aic_ir::types::Type;

#[test]
fn every_operator_lowers() {
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..40 {
            let s = sample(&mut Rng::new(seed));
            let mut g = Graph::new("g");
            let x: Vec<_> = s
                .operands
                .iter()
                .enumerate()
                .map(|(k, o)| g.add_input(&format!("x{k}"), Type::of(o.dtype, &o.shape)))
                .collect();
            let y = g.add(s.op.clone(), &x, &[]).unwrap_or_else(|e| panic!("{name} seed {seed}: {e}"));
            for (k, y) in y.iter().enumerate() {
                g.add_output(&format!("y{k}"), *y);
            }
            for target in [Target::x86_avx512(), Target::x86_avx2()] {
                let p = aic_passes::pipeline::compile(g.clone(), &target)
                    .unwrap_or_else(|e| panic!("{name} seed {seed} {:?}: {e}", s.op));
                assert!(!p.steps.is_empty());
            }
        }
    }
}

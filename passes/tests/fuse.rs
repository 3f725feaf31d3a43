//! Random graphs, fused: verified, equal to the bit where that is asked for, and never more kernels.

#![allow(clippy::unwrap_used)]

mod common;

use aic_ir::graph::Graph;
use aic_ir::op::{Fused, Op, Operator, Rng};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::{eval, verify};
use aic_passes::lower::lower;
use aic_passes::memory;
use aic_passes::pipeline::Options;
use aic_passes::runner::{self, Context, Numerics};
use common::difference;

fn program(graph: &Graph, passes: &[&str], numerics: Numerics) -> Program {
    let options = Options { numerics, ..Options::new(Target::x86_avx2()) };
    let graph = runner::run(graph.clone(), passes, &mut Context::new(&options)).unwrap();
    assert_eq!(verify::graph(&graph), Vec::<String>::new());
    let mut program = lower(graph, &options.target).unwrap();
    memory::plan(&mut program);
    memory::check(&program).unwrap();
    program
}

fn n_launches(p: &Program) -> usize {
    p.steps.iter().filter(|s| matches!(s, Step::Launch { .. })).count()
}

fn n_interpreted(p: &Program) -> usize {
    p.steps.iter().filter(|s| matches!(s, Step::Host { .. })).count()
}

#[test]
fn random_graphs() {
    let (mut n_before, mut n_after) = (0, 0);
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let sample = Fused::sample(&mut rng);
        let Op::Fused(Fused { body }) = &sample.op else { panic!("{:?}", sample.op) };
        let inputs: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
        let run = |p: &Program| {
            eval::program(p, &inputs).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", p.graph))
        };
        let before = program(body, &["dce"], Numerics::Exact);
        let exact = program(body, &["dce", "fuse"], Numerics::Exact);
        let free = program(body, &["dce", "fuse"], Numerics::Reassociate);
        let expected = run(&before);
        for (a, b) in expected.iter().zip(run(&exact)) {
            assert!(a.bytes() == b.bytes(), "seed {seed}: {a:?}, not {b:?}\n{}", exact.graph);
        }
        for (a, b) in expected.iter().zip(run(&free)) {
            assert_eq!(difference(a, &b), None, "seed {seed}:\n{}", free.graph);
        }
        for p in [&exact, &free] {
            let fewer = n_launches(p) <= n_launches(&before) && n_interpreted(p) <= n_interpreted(&before);
            assert!(fewer, "seed {seed}: more kernels\n{}", p.graph);
        }
        n_before += n_launches(&before);
        n_after += n_launches(&free);
    }
    assert!(n_after * 3 < n_before * 2, "{n_before} kernels became {n_after}");
}

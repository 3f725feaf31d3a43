//! Whole networks for a CUDA GPU on the emulator, judged as `aic verify` does.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

mod networks;

use aic::driver::Options;
use aic::verify::{self, Compiler};
use aic_backends::emulate;
use aic_ir::graph::Graph;
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;

/// Checks a network on the inputs of some seeds; nothing is left to the host.
fn check(graph: &Graph, seeds: &[u64]) {
    let options = Options { device: Some(Target::sm_80()), ..Options::default() };
    let load = |p: &Program, _: &Options| {
        let host = p.steps.iter().filter(|s| matches!(s, Step::Host { .. })).count();
        assert_eq!(host, 0, "{} steps are the host's", graph.name);
        println!("{}: {} launches of {} kernels", graph.name, p.steps.len(), p.kernels.len());
        verify::load_emulated(p, &Target::sm_80(), emulate::Options { seed: Some(7), threads: 0 })
    };
    let compiler = Compiler::new(&options, &load).unwrap();
    let case = |seed: &u64| verify::generate(graph, *seed, options.numerics, false).unwrap();
    let cases: Vec<_> = seeds.iter().map(case).collect();
    for found in verify::outputs(graph, &compiler, &cases).unwrap().iter().flatten() {
        println!(
            "  {}: {:.1e} of the largest, {:.3} of the tolerance",
            found.name, found.max_rel, found.ratio
        );
        assert!(!found.is_wrong(), "{found}");
    }
}

#[test]
fn digits() {
    check(&networks::digits(), &[0, 1]);
}

#[test]
fn squeezenet() {
    check(&networks::squeezenet(), &[1]);
}

#[test]
fn transformer() {
    check(&networks::transformer(), &[0, 1]);
}

#[test]
fn mobilenet() {
    check(&networks::mobilenet(), &[1]);
}

//! Faults put into kernels that are emitted for a CUDA GPU: each is to be caught on the emulator, by a wrong result or a
//! report.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod families;

use aic::emulate::Kernels;
use aic_backends::emulate;
use aic_ir::compose::compose;
use aic_ir::eval;
use aic_ir::op::{Rng, Values};
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::{parse_graph, parse_kernel};
use aic_passes::pipeline::{self, Options};
use aic_passes::schedule::{Nest, apply};

/// A fault: what it is, the text that it replaces, what by, and which of the occurrences; `None` for all.
type Fault = (&'static str, &'static str, &'static str, Option<usize>);

const MATMUL: &str = "graph(%0: f16[70,424], %1: f16[424,72]) -> f16[70,72] { %2 = matmul %0 %1 return %2 }";

/// Of a product: copies some steps ahead, fragments, matrix instructions.
const MATMUL_FAULTS: &[Fault] = &[
    ("no wait for copies", "wait copies pending 2\n", "\n", None),
    ("a wait that leaves one group more", "pending 2", "pending 3", None),
    ("no barrier behind the wait", "barrier shared\n", "\n", None),
    ("copies before the loop are not committed", "commit copies\n", "\n", Some(0)),
    ("copies in the loop are not committed", "commit copies\n", "\n", Some(1)),
    ("copies of half the bytes", "size [1, 8 valid", "size [1, 4 valid", None),
    ("a stage too few where tiles are put", "mod(step+3,4)", "mod(step+3,3)", None),
    ("the stage that is multiplied is overwritten", "mod(step+3,4)", "mod(step,4)", None),
    ("the tile of the step before is multiplied", "mod(step,4)", "mod(step+3,4)", None),
    ("rows in shared memory off by one", "+72*floordiv(thread,8)", "+80*floordiv(thread,8)", Some(0)),
    ("tiles off by one along K", "64*early", "56*early", None),
];

const GROUPS: &str =
    "graph(%0: f16[200,424], %1: f16[424,72]) -> f16[200,72] { %2 = matmul %0 %1 return %2 }";

/// How warp groups compute it: with a block for each tile, which copies element by element, and with blocks that take tiles
/// in turn, of which a warp asks for boxes.
const BY_TILES: &str = "contract unit=wgmma_k16_f16 block=128x64x64*4 warp=64x64x64";
const IN_TURN: &str = "contract unit=wgmma_k16_f16 cores=3 block=128x64x64*3 warp=64x64x64";

/// Of a product by warp groups, which goes on while the next one begins.
const GROUPS_FAULTS: &[Fault] = &[
    ("no wait for copies", "wait copies pending 1\n", "\n", None),
    ("a wait that leaves one group of copies more", "wait copies pending 1", "wait copies pending 2", None),
    ("no barrier behind the wait", "barrier shared\n", "\n", None),
    ("the last products are not waited for", "wait products pending 0\n", "\n", None),
    ("products are not committed", "commit products\n", "\n", None),
    ("a stage is reused while it is multiplied", "mod(step+2,4)", "mod(step,4)", None),
    ("a stage is reused too early", "wait products pending 1", "wait products pending 3", None),
    ("the tile of the step before is multiplied", "mod(step,4)", "mod(step+3,4)", None),
    ("terms of a step in the wrong order", "ta[128*kk", "ta[64*kk", None),
    ("matrices off by one along the terms", "blocks(1, 8, 64)", "blocks(1, 8, 128)", None),
];

/// Of the latter.
const BOXES_FAULTS: &[Fault] = &[
    (
        "no wait for a full stage",
        "await full[mod(step+7*turn,3)] parity mod(floordiv(step+7*turn,3),2)\n",
        "\n",
        None,
    ),
    (
        "no wait for an empty stage",
        "await empty[mod(step+7*turn,3)] parity mod(floordiv(step+7*turn,3)+1,2)\n",
        "\n",
        None,
    ),
    (
        "a wrong parity of full stages",
        "parity mod(floordiv(step+7*turn,3),2)",
        "parity mod(floordiv(step+7*turn,3)+1,2)",
        None,
    ),
    (
        "a wrong parity of empty stages",
        "parity mod(floordiv(step+7*turn,3)+1,2)",
        "parity mod(floordiv(step+7*turn,3),2)",
        None,
    ),
    ("parities that begin anew with each tile", "floordiv(step+7*turn,3)", "floordiv(step,3)", None),
    ("too few bytes", "bytes 24576", "bytes 16384", None),
    ("too many bytes", "bytes 24576", "bytes 24592", None),
    ("one warp group empties a stage", "arrivals 8", "arrivals 4", None),
    ("two arrivals fill a stage", "begin full[s] arrivals 1", "begin full[s] arrivals 2", None),
    ("a stage is emptied while it is multiplied", "wait products pending 1", "wait products pending 2", None),
    ("the wrong stage is emptied", "empty[mod(step+7*turn+2,3)]", "empty[mod(step+7*turn,3)]", None),
    ("stages are never emptied", "arrive empty[mod(step+7*turn+2,3)] bytes 0\n", "\n", None),
    ("the last stage of a tile is never emptied", "arrive empty[mod(7*turn,3)] bytes 0\n", "\n", None),
    ("the last products are not waited for", "wait products pending 0\n", "\n", None),
    ("products are not committed", "commit products\n", "\n", None),
    ("a stage too few for one factor", "4096*mod(step+7*turn,3)", "4096*mod(step+7*turn,2)", None),
    ("no barrier behind the beginning of phases", "barrier shared\n", "\n", None),
    ("boxes off by one along the terms", "64*step of", "56*step of", None),
    ("boxes off by one row", "128*mod(", "129*mod(", Some(0)),
    ("boxes of half the rows", "size [128, 64]", "size [64, 64]", None),
    ("bytes come to the other barrier", "] to full[", "] to empty[", None),
    ("terms of a step in the wrong order", "ta[16*kk", "ta[8*kk", None),
    ("rows of terms off by one", "tb[1024*kk", "tb[512*kk", None),
];

const SOFTMAX: &str = "graph(%0: f32[5,2500]) -> f32[5,2500] { %1 = softmax %0 {axis=1} return %1 }";

/// Of rows that the warps of a block share.
const SOFTMAX_FAULTS: &[Fault] = &[
    ("no barrier before the maxima of other warps", "barrier shared\n", "\n", Some(0)),
    ("no barrier before the sums of other warps", "barrier shared\n", "\n", Some(1)),
    ("a shuffle too near", "mod(thread+16,32)", "mod(thread+8,32)", None),
    ("the sum of a warp is left out", "parts_1[7]", "parts_1[6]", None),
    ("a tail off by one", "+512, 625)", "+512, 624)", None),
];

const PRODUCT: &str = "graph(%0: f32[70,97], %1: f32[97,68]) -> f32[70,68] { %2 = matmul %0 %1 return %2 }";

/// Of a product by threads.
const PRODUCT_FAULTS: &[Fault] = &[
    ("no barrier before the first step", "barrier shared\n", "\n", Some(0)),
    ("no barrier between steps", "barrier shared\n", "\n", Some(1)),
    ("one stage for two", "576*mod(step+1,2)", "576*mod(step,2)", None),
    ("no mask at the last term", "97))", "98))", None),
];

const ATTENTION: &str = "graph(%0: f32[2,70,16], %1: f32[2,100,16], %2: f32[2,100,32]) -> f32[2,70,32] {
  %3 = attention %0 %1 %2 {scale=0.25, causal=false} return %3 }";

/// Of attention in one kernel.
const ATTENTION_FAULTS: &[Fault] = &[
    ("no barrier before the scores", "barrier shared\n", "\n", Some(0)),
    ("no barrier before the weighted sum", "barrier shared\n", "\n", Some(1)),
    ("no barrier before the next tile", "barrier shared\n", "\n", Some(2)),
    ("keys beyond the last one count", "f32(-inf))\n", "f32(0.0))\n", Some(0)),
    ("the keys of a tile too few", "for tile in 0..4", "for tile in 0..3", None),
];

/// The text with occurrences of `from` replaced.
fn edit(text: &str, (what, from, to, which): &Fault) -> String {
    let n = text.matches(from).count();
    assert!(n > which.unwrap_or(0), "{what}: the kernel has {n} times `{from}`:\n{text}");
    let Some(which) = which else { return text.replace(from, to) };
    let at = text.match_indices(from).nth(*which).unwrap().0;
    [&text[..at], to, &text[at + from.len()..]].concat()
}

/// What is wrong with a program's result, if anything is.
fn fault(gpu: &Target, p: &Program, x: &[Tensor], want: &Tensor, seed: Option<u64>) -> Option<String> {
    let options = emulate::Options { seed, threads: 1 };
    let kernels = Kernels::new(&p.kernels, gpu, options).unwrap();
    match kernels.run(p, x) {
        Err(e) => Some(e.to_string()),
        Ok(y) => common::difference(want, &y[0]),
    }
}

/// Checks that a graph is one kernel, which is right, and counts faults that nobody notices.
fn check(gpu: &Target, graph: &str, faults: &[Fault]) {
    check_as(None, gpu, graph, faults);
}

/// The same of a kernel with this schedule, if one is given.
fn check_as(schedule: Option<&str>, gpu: &Target, graph: &str, faults: &[Fault]) {
    let g = parse_graph(graph).unwrap();
    let x = families::inputs(&g, &mut Rng::new(9), Values::Between(-3, 4));
    let want = eval::graph(&g, &x).unwrap().remove(0);
    let nest = schedule.map(|s| (s.parse().unwrap(), Nest::new(&compose(&g).unwrap()).unwrap()));
    let mut program = pipeline::compile(g, &Options::new(gpu.clone())).unwrap();
    assert_eq!(program.kernels.len(), 1, "{graph}");
    if let Some((schedule, nest)) = nest {
        program.kernels[0] = apply(&program.kernels[0].name, &nest, &schedule);
    }
    let text = program.kernels[0].to_string();
    for seed in [None, Some(1), Some(2)] {
        assert_eq!(fault(gpu, &program, &x, &want, seed), None, "{seed:?}\n{text}");
    }
    let mut survivors = Vec::new();
    for f in faults {
        let mut wrong = program.clone();
        let text = edit(&text, f);
        wrong.kernels[0] = parse_kernel(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", f.0));
        let found = [None, Some(1), Some(2)].iter().find_map(|seed| fault(gpu, &wrong, &x, &want, *seed));
        println!("{}: {}", f.0, found.as_deref().map_or("nothing", |f| f.lines().next().unwrap()));
        if found.is_none() {
            survivors.push(f.0);
        }
    }
    println!("{} of {} caught", faults.len() - survivors.len(), faults.len());
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

#[test]
fn of_a_product_by_matrix_instructions() {
    check(&Target::sm_80(), MATMUL, MATMUL_FAULTS);
}

#[test]
fn of_a_product_by_threads() {
    check(&Target::sm_80(), PRODUCT, PRODUCT_FAULTS);
}

#[test]
fn of_rows() {
    check(&Target::sm_80(), SOFTMAX, SOFTMAX_FAULTS);
}

#[test]
fn of_attention() {
    check(&Target::sm_80(), ATTENTION, ATTENTION_FAULTS);
}

#[test]
fn of_a_product_by_warp_groups() {
    check_as(Some(BY_TILES), &Target::sm_90a(), GROUPS, GROUPS_FAULTS);
}

#[test]
fn of_a_product_by_warps_that_copy_and_warps_that_multiply() {
    check_as(Some(IN_TURN), &Target::sm_90a(), GROUPS, BOXES_FAULTS);
}

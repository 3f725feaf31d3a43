//! Random instances of every operator as MLIR: MLIR verifies each in this process, and its own tool accepts them all.
#![cfg(feature = "mlir")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
#[allow(dead_code)]
mod operators;

use aic_backends::mlir;
use aic_ir::op::{Op, Rng};
use operators::one_node;
use std::process::Command;

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 250 } else { 16 }
}

/// Operators that are no element expressions: neither definitions nor bodies that MLIR could be written from.
const WITHOUT_FORM: &[&str] =
    &["scatter_elements", "scatter_nd", "topk", "nonzero", "unique", "nms", "bitcast", "det", "roi_align"];

fn check(symbolic: bool) {
    let (mut failures, mut modules) = (Vec::new(), Vec::new());
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..samples(name) {
            let s = sample(&mut Rng::new(seed));
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            match mlir::graph(&graph) {
                Ok(module) => {
                    let mut text = Vec::new();
                    module.write(&mut text).unwrap();
                    modules.push(String::from_utf8(text).unwrap());
                }
                Err(e) if e.message.contains("no form in MLIR") && WITHOUT_FORM.contains(name) => {}
                Err(e) => failures.push(format!("{name} seed {seed} {e}")),
            }
        }
    }
    for f in failures.iter().take(12) {
        eprintln!("{}", f.chars().take(700).collect::<String>());
    }
    assert!(failures.is_empty(), "{} of {} failed", failures.len(), failures.len() + modules.len());
    assert!(modules.len() > 500, "only {} samples could be written", modules.len());
    is_accepted(&modules.join("// -----\n"));
}

/// MLIR's own tool reads what was written, resources and all, if this machine has it.
fn is_accepted(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("modules.mlir");
    std::fs::write(&path, text).unwrap();
    let tool = Command::new("mlir-opt-22").arg("--split-input-file").arg(&path).output();
    let Ok(output) = tool else { return };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", errors.chars().take(2000).collect::<String>());
}

#[test]
fn every_operator_has_a_module_that_verifies() {
    check(false);
}

#[test]
fn every_operator_of_symbolic_extents_has_a_module_that_verifies() {
    check(true);
}

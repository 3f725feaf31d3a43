//! `cargo xtask test`: every check of the repository, one step after another.
//!
//! A failing step doesn't stop the others. The last line is `N passed, N failed`, over everything that ran: each test
//! that a step's output counts, and one for each step that counts none. Invariant: a step that fails adds at least one
//! failure.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{cargo, cargo_without_llvm, command, root, show, target_dir};
use crate::setup;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
}

struct Outcome {
    name: &'static str,
    counts: Counts,
    time: Duration,
}

/// Sets up and runs all checks; says whether all passed.
///
/// # Errors
/// The machine can't be set up.
pub fn test() -> Result<bool> {
    let start = Instant::now();
    setup::llvm()?;
    setup::rust_components()?;
    let python = setup::python()?;
    setup::ptx()?;
    let mut outcomes = Vec::new();
    for (name, step) in steps(&python.to_string_lossy())? {
        outcomes.push(run_step(name, step));
    }
    Ok(summarise(&outcomes, start.elapsed()))
}

/// The tests that compile and run code.
const TESTS_OF_CODE: [&str; 7] = ["kernels", "scalar", "docs", "differential", "driver", "session", "cli"];

/// The checks in their order: quick ones first.
fn steps(python: &str) -> Result<Vec<(&'static str, Command)>> {
    let target = target_dir()?;
    let aic = target.join("release/aic");
    let cases = target.join("onnx-cases");
    let mut test_without_llvm = cargo_without_llvm(&["test", "--no-fail-fast", "--package", "aic-backends"])?;
    for test in TESTS_OF_CODE {
        test_without_llvm.args(["--test", test]);
    }
    let mut conformance = command(python, &["tools/conformance.py", "--aic"]);
    conformance.arg(&aic).arg("--cases").arg(cases);
    let mut second_compiler = command(python, &["tools/iree.py", "--aic"]);
    second_compiler.arg(aic).args(second_compiler_models()?);
    Ok(vec![
        ("formatting", cargo(&["fmt", "--all", "--check"])),
        ("lints", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("unit, golden and differential tests", cargo(&["test", "--workspace", "--no-fail-fast"])),
        ("release build", cargo(&["build", "--release", "--package", "aic"])),
        ("demo", cargo(&["xtask", "demo"])),
        ("tests without LLVM", test_without_llvm),
        ("demo without LLVM", cargo(&["xtask", "demo", "--without-llvm"])),
        ("conformance", conformance),
        ("second compiler", second_compiler),
    ])
}

/// What the second compiler is fed: a trained model, and the graphs of the golden tests.
fn second_compiler_models() -> Result<Vec<PathBuf>> {
    let folder = root().join("testdata/backends/mlir");
    let failed = |error| format!("can't read {}: {error}", folder.display());
    let mut models = vec![root().join("testdata/models/digits/digits.onnx")];
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "aic") {
            models.push(path);
        }
    }
    models.sort();
    Ok(models)
}

/// Runs a step, passes its output on, and counts the tests in it.
fn run_step(name: &'static str, mut step: Command) -> Outcome {
    println!("\n=== {name}: {}", show(&step));
    let start = Instant::now();
    let (counts, is_ok) = match run_and_count(&mut step) {
        Ok(result) => result,
        Err(error) => {
            println!("can't run it: {error}");
            (Counts::default(), false)
        }
    };
    let counts = with_verdict(counts, is_ok);
    let time = start.elapsed();
    println!("=== {name}: {} in {:.1} s", verdict(counts), time.as_secs_f64());
    Outcome { name, counts, time }
}

fn run_and_count(step: &mut Command) -> std::io::Result<(Counts, bool)> {
    let mut child = step.stdout(Stdio::piped()).spawn()?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            let found = parse_counts(&line).unwrap_or_default();
            counts.passed += found.passed;
            counts.failed += found.failed;
        }
    }
    Ok((counts, child.wait()?.success()))
}

/// The counts in a closing line of cargo's test runner (`test result: ok. 3 passed; 0 failed; ...`) or of ours
/// (`3 passed, 0 failed`).
fn parse_counts(line: &str) -> Option<Counts> {
    let counts = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => line,
    };
    let mut words = counts.split([' ', ',', ';']).filter(|word| !word.is_empty());
    let passed = words.next()?.parse().ok()?;
    let is_passed = words.next()? == "passed";
    let failed = words.next()?.parse().ok()?;
    (is_passed && words.next()? == "failed").then_some(Counts { passed, failed })
}

/// The step's own exit status joins the counts.
fn with_verdict(counts: Counts, is_ok: bool) -> Counts {
    match (is_ok, counts) {
        (true, Counts { passed: 0, failed: 0 }) => Counts { passed: 1, failed: 0 },
        (false, Counts { passed, failed: 0 }) => Counts { passed, failed: 1 },
        _ => counts,
    }
}

fn verdict(counts: Counts) -> &'static str {
    if counts.failed == 0 { "ok" } else { "FAILED" }
}

/// Prints a line per step, then the closing line; says whether nothing failed.
fn summarise(outcomes: &[Outcome], total: Duration) -> bool {
    println!("\n{:36} {:>8} {:>8} {:>8}  result", "step", "seconds", "passed", "failed");
    for Outcome { name, counts, time } in outcomes {
        let seconds = time.as_secs_f64();
        println!("{name:36} {seconds:8.1} {:8} {:8}  {}", counts.passed, counts.failed, verdict(*counts));
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.counts.passed).sum();
    let failed: usize = outcomes.iter().map(|outcome| outcome.counts.failed).sum();
    println!("{:36} {:8.1}\n", "total", total.as_secs_f64());
    println!("{passed} passed, {failed} failed");
    failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_and_others_are_not() {
        let count = |passed, failed| Some(Counts { passed, failed });
        let cargo = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse_counts(cargo), count(12, 3));
        assert_eq!(parse_counts("7 passed, 0 failed"), count(7, 0));
        for other in ["", "10 of 10 right", "running 3 tests", "test result: ", "x passed, 0 failed"] {
            assert_eq!(parse_counts(other), None, "{other}");
        }
    }

    #[test]
    fn a_failing_step_adds_a_failure() {
        assert_eq!(with_verdict(Counts { passed: 5, failed: 0 }, false), Counts { passed: 5, failed: 1 });
        assert_eq!(with_verdict(Counts::default(), true), Counts { passed: 1, failed: 0 });
        assert_eq!(with_verdict(Counts { passed: 5, failed: 2 }, false), Counts { passed: 5, failed: 2 });
    }
}

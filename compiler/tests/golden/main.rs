//! Golden tests: every `.aic`, `.kernel` and `.test` file under `testdata/` is a test, named by its path.
//!
//! What such a file may say is described in `testdata/README.md`. A test runs the commands in the file and compares
//! what they print ([`script`]); graphs and kernels are checked further without being asked ([`graph`], [`kernel`]).
//! With `AIC_BLESS=1` the exact outputs in the files are rewritten instead of compared.
#![allow(clippy::unwrap_used)]

mod script;

mod graph;
mod kernel;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata").canonicalize().unwrap();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(!files.is_empty(), "there is no golden file under {}", root.display());
    let bless = std::env::var("AIC_BLESS").is_ok_and(|v| v == "1");
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        Trial::test(name, move || check(&path, bless).map_err(Failed::from))
    };
    libtest_mimic::run(&Arguments::from_args(), files.into_iter().map(trial).collect()).exit_code()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if ["aic", "kernel", "test"].iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
            files.push(path);
        }
    }
}

/// Runs all checks of a file; the error lists every failure.
fn check(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let script = script::parse(&text)?;
    let unasked = match path.extension().and_then(|e| e.to_str()) {
        Some("aic") => graph::check(&text, script.fails()),
        Some("kernel") => kernel::check(&text, script.fails()),
        _ => Ok(()),
    };
    let failures: Vec<String> =
        [unasked, script::run(&script, path, &text, bless)].into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

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
    let asked = match lacks(&text)? {
        true => Ok(()),
        false => script::run(&script, path, &text, bless),
    };
    let failures: Vec<String> = [unasked, asked].into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Whether a `// REQUIRES:` line names a feature that this build doesn't have.
fn lacks(text: &str) -> Result<bool, String> {
    let has = [
        ("llvm", cfg!(feature = "llvm")),
        ("mlir", cfg!(feature = "mlir")),
        ("cranelift", cfg!(feature = "cranelift")),
    ];
    let wanted = text.lines().filter_map(|l| l.strip_prefix("// REQUIRES:")).flat_map(str::split_whitespace);
    let mut lacks = false;
    for name in wanted {
        let Some((_, has)) = has.iter().find(|(known, _)| *known == name) else {
            return Err(format!("REQUIRES: there is no feature {name}"));
        };
        lacks |= !has;
    }
    Ok(lacks)
}

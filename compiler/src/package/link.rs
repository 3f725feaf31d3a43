//! The system's linker, called through the C compiler, which knows where libraries are.

use aic_ir::error::{Error, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a shared library shows.
const EXPORTS: &str = "{ global: aic_info; aic_open; aic_run; aic_error; aic_close; local: *; };\n";

/// Links objects into the shared library `output`, which will be named as `target` is.
pub fn shared(output: &Path, objects: &[PathBuf], exports: &Path, target: &Path) -> Result<()> {
    fs::write(exports, EXPORTS)
        .map_err(|e| Error::new(format!("{}: cannot be written: {e}", exports.display())))?;
    let mut command = compiler();
    command.args(["-shared", "-o"]).arg(output).args(objects);
    let options = [
        "--gc-sections",
        "--as-needed",
        "--build-id=none",
        "-Bsymbolic",
        "-znoexecstack",
        "-zrelro",
        "-znow",
        "-zdefs",
    ];
    options.iter().for_each(|option| pass(&mut command, option));
    pass(&mut command, "--version-script");
    pass(&mut command, exports);
    pass(&mut command, "-soname");
    pass(&mut command, target.file_name().unwrap_or_default());
    run(command.args(["-lm", "-pthread"]))
}

/// Links objects into one object file.
pub fn relocatable(output: &Path, objects: &[PathBuf]) -> Result<()> {
    run(compiler().args(["-r", "-nostdlib", "-o"]).arg(output).args(objects))
}

/// `$CC`, which may have arguments, or `cc`.
fn compiler() -> Command {
    let variable = std::env::var("CC").unwrap_or_default();
    let mut words = variable.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("cc"));
    command.args(words);
    command
}

/// Passes an argument on to the linker as it is.
fn pass(command: &mut Command, argument: impl AsRef<OsStr>) {
    command.arg("-Xlinker").arg(argument);
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| {
        Error::new(format!("the linker is called through {program}, which can't be started: {e}"))
            .help("install a C compiler, or name one in the environment variable CC")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).take(5).collect();
    Err(Error::new(format!("{program} failed to link ({}): {}", output.status, first.join("\n"))))
}

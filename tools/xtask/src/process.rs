//! Places in the repository and the running of other programs.
//!
//! Every program runs in the repository's root, whatever the caller's folder is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// The repository's root folder.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Cargo's target folder, wherever the user's settings put it: this program lies in `<target>/<profile>/`.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe().map_err(|error| format!("can't tell where xtask lies: {error}"))?;
    let target = exe.ancestors().nth(2).ok_or("xtask doesn't lie in a target folder")?;
    Ok(target.to_path_buf())
}

/// A command that runs in the repository's root.
pub fn command(program: impl AsRef<Path>, args: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(args).current_dir(root());
    command
}

/// The cargo that started this program, with `args`.
pub fn cargo(args: &[&str]) -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Where an `aic` without LLVM is built: a target folder of its own, as features differ.
pub fn target_dir_without_llvm() -> Result<PathBuf> {
    Ok(target_dir()?.join("without-llvm"))
}

/// As [`cargo`], for `aic` as it is on a machine that has no LLVM.
pub fn cargo_without_llvm(args: &[&str]) -> Result<Command> {
    let mut command = cargo(args);
    command.args(["--package", "aic", "--no-default-features", "--features", "cranelift", "--target-dir"]);
    command.arg(target_dir_without_llvm()?);
    for variable in ["LLVM_SYS_221_PREFIX", "MLIR_SYS_220_PREFIX", "TABLEGEN_220_PREFIX"] {
        command.env(variable, "/nonexistent");
    }
    Ok(command)
}

/// Runs a command to its end; its output goes to the terminal.
///
/// # Errors
/// The program can't be started, or doesn't exit with 0.
pub fn run(mut command: Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("can't start {}: {error}", show(&command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", show(&command))) }
}

/// Whether a command starts and exits with 0; its output is dropped.
pub fn succeeds(mut command: Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command as one would type it, its program without the folder.
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = program.file_name().into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

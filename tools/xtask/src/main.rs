//! `cargo xtask`: sets the machine up, shows the compiler at work, and runs every check of the repository.
//!
//! It depends on no crate of the compiler and on nothing but a Rust toolchain, as it has to build on a machine where
//! LLVM isn't installed yet: installing it is its first task.

use std::process::ExitCode;

mod demo;
mod gpu;
mod model;
mod process;
mod setup;
mod test;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup   install LLVM 22 if it is missing, and fetch NVIDIA's assembler for the tests of PTX
  demo    set up, build, compile a trained digit classifier and run it on ten pictures;
          with --without-llvm by an aic that was built without LLVM
  gpu     make a folder of compiled kernels that a machine with a GPU and PyTorch checks and times (tools/gpu.py)
  test    set up, then every check: formatting, lints, unit, golden, differential and conformance tests
";

/// An error is a message for the user. A command's `Ok(false)` is a failed check, about which it has said all itself.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["setup"] => setup::llvm().and_then(|()| setup::ptx()).map(|()| true),
        ["demo"] => demo::demo(true),
        ["gpu"] => gpu::gpu().map(|()| true),
        ["demo", "--without-llvm"] => demo::demo(false),
        ["test"] => test::test(),
        ["help" | "-h" | "--help"] => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

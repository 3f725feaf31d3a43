//! The command line: one file per command, each with its options, its help and `execute`.
//!
//! Invariants: results go to standard output, everything else to standard error; a refusal or an error, a wrong
//! command line among them, is exit code 1 and one message; exit code 70 is a bug of `aic`.

mod args;
mod dump;
mod print;
mod report;
mod summary;

mod ascend_check;
mod bench;
mod bisect;
mod check;
mod compile;
mod convert;
mod info;
mod kernels;
mod memory;
mod ops;
mod opt;
mod predict;
mod profile;
mod run;
mod target;
mod tune;
mod verify;

use aic_ir::error::Result;
use clap::Parser;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  aic run model.onnx                            on random inputs, with a summary
  aic run model.onnx --inputs x=photo.npy --outputs results
  aic compile model.onnx -o model.so            needs nothing but libc and libm
  aic check model.onnx                          is every operator supported?
  aic verify model.onnx                         are compiled results right?
  aic bench model.onnx --threads 4
  aic tune model.onnx --budget 60s              faster kernels for this machine

`aic COMMAND --help` says more about a command.";

/// Compiles trained networks (ONNX, or the same graph as JSON) to native code.
#[derive(Parser)]
#[command(name = "aic", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Run(run::Args),
    Compile(compile::Args),
    Check(check::Args),
    Info(info::Args),
    Opt(opt::Args),
    Verify(verify::Args),
    Bisect(bisect::Args),
    Ops(ops::Args),
    Kernels(kernels::Args),
    Target(target::Args),
    Convert(convert::Args),
    Bench(bench::Args),
    Profile(profile::Args),
    Tune(tune::Args),
    #[command(hide = true)]
    TuneWorker(tune::WorkerArgs),
    AscendCheck(ascend_check::Args),
}

impl Command {
    fn execute(self) -> Result<()> {
        match self {
            Command::Run(args) => run::execute(&args),
            Command::Compile(args) => compile::execute(&args),
            Command::Check(args) => check::execute(&args),
            Command::Info(args) => info::execute(&args),
            Command::Opt(args) => opt::execute(&args),
            Command::Verify(args) => verify::execute(&args),
            Command::Bisect(args) => bisect::execute(&args),
            Command::Ops(args) => ops::execute(&args),
            Command::Kernels(args) => kernels::execute(&args),
            Command::Target(args) => target::execute(&args),
            Command::Convert(args) => convert::execute(&args),
            Command::Bench(args) => bench::execute(&args),
            Command::Profile(args) => profile::execute(&args),
            Command::Tune(args) => tune::execute(&args),
            Command::TuneWorker(args) => tune::serve(&args),
            Command::AscendCheck(args) => ascend_check::execute(&args),
        }
    }
}

/// Reads the command line, does what it says, and reports what went wrong.
pub fn main() -> ExitCode {
    report::install_panic_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            // Where the message can't be written there is nobody to read another.
            let _ = error.print();
            return code;
        }
    };
    match cli.command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("aic {}", command.get_name())), "{}", command.get_name());
            let examples = help.lines().filter(|line| line.starts_with("  "));
            examples.for_each(|line| assert!(line.len() < 80, "too long for a narrow terminal: {line}"));
        }
    }
}

//! The command `aic`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}

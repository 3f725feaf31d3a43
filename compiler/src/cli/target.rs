//! `aic target`: the machines that kernels are scheduled for.

use super::print;
use aic_ir::error::{Error, Result};
use aic_ir::target::Target;

const EXAMPLES: &str = "\
Examples:
  aic target ls
  aic target show sm_80

Schedules and the verifier of kernels know a machine by these tables: its memories, its levels of parallel hardware, \
its copies, its matrix instructions and their types, and its limits.";

/// List the machines that kernels are scheduled for, or show what is known of one
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the targets
    Ls,
    /// Show a target's tables
    Show {
        /// Its name
        name: String,
    },
}

/// The target of this name, or which there are.
///
/// # Errors
/// There is none of this name.
pub fn named(name: &str) -> Result<Target> {
    let names = Target::NAMES.join(", ");
    Target::named(name).ok_or_else(|| Error::new(format!("there is no target {name}; there are {names}")))
}

/// Prints the table.
///
/// # Errors
/// There is no such target, or standard output can't be written.
pub fn execute(args: &Args) -> Result<()> {
    match &args.action {
        Action::Ls => {
            let rows: Vec<Vec<String>> = Target::all().map(|t| vec![t.name, t.about]).collect();
            print::stdout(&print::table(&rows))
        }
        Action::Show { name } => print::stdout(&named(name)?.to_string()),
    }
}

//! The contracts of the representations, checked: every violation is reported, not just the first.
//!
//! A violation is a compiler's bug, not a user's mistake; passes are followed by a verifier in tests and debug builds.

mod compute;
mod graph;
mod index;
mod kernel;
mod machine;

pub use compute::compute;
pub use graph::graph;
pub use kernel::kernel;
pub use machine::machine;

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::target::Target;

/// An error that lists the violations, if there are any; `what` says of what.
pub fn report(what: &str, violations: &[String]) -> Result<()> {
    match violations.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("{what} does not verify:\n  {}", violations.join("\n  ")))),
    }
}

/// Checks a kernel, and that a target has what it uses: [`kernel`] and [`machine`].
pub fn kernel_for(k: &Kernel, target: &Target) -> Vec<String> {
    let found = kernel(k);
    if found.is_empty() { machine(k, target) } else { found }
}

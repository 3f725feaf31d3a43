//! What stands in for MLIR in a build without it.

use aic_ir::error::{Error, Result};

/// Fails.
pub(crate) fn module(_text: &str) -> Result<()> {
    Err(Error::new("this build of aic has no MLIR").help("build with `--features mlir`"))
}

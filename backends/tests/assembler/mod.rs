//! NVIDIA's assembler, for tests of what is emitted for its cards.

use aic_backends::ptx::Ptxas;
use std::path::Path;

/// The assembler that `cargo xtask setup` fetches, or one that is installed.
pub fn ptxas() -> Option<Ptxas> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ptx/lib");
    let python = std::fs::read_dir(root).ok().and_then(|mut d| d.next()).and_then(Result::ok);
    let fetched = python.map(|d| d.path().join("site-packages/nvidia/cu13/bin/ptxas"));
    fetched.and_then(|p| Ptxas::at(&p)).or_else(Ptxas::find)
}

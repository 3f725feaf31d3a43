//! Graphs and kernels as MLIR, for other compilers.
//!
//! A graph becomes one function `@main` over tensors: operations of `linalg`, `tensor`, `scf`, `arith` and `math`.
//! Every stage of a node's compute definition is one linalg operation, so nothing here knows operators. Inputs and
//! results carry the model's names and types as attributes `aic.name` and `aic.type` (MLIR's integers have no sign),
//! operations carry source nodes' names as locations. What the dimensions of a run must satisfy is asserted (`cf`).
//! Large constants are resources behind the module.
//!
//! The text is written here, then read and verified by MLIR itself in this process. That takes no constants: the
//! resources of a module that is verified are left out.

mod blobs;
mod control;
mod graph;
mod index;
mod loops;
mod memory;
mod movement;
mod named;
mod scalar;
mod split;
mod stage;
mod text;
mod view;

#[cfg(feature = "mlir")]
mod verify;
#[cfg(not(feature = "mlir"))]
#[path = "without_mlir.rs"]
mod verify;

use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use std::io::{self, Write};

/// A module that MLIR has verified.
pub struct Module {
    text: String,
    blobs: blobs::Blobs,
}

impl Module {
    /// The module without its resources.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes the module with its resources, which are never held in memory as a whole.
    ///
    /// # Errors
    /// `out` can't be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.text.as_bytes())?;
        self.blobs.write(out)
    }
}

/// A graph as a function over tensors.
///
/// # Errors
/// Some nodes have no form in MLIR, all of which are named; or this build has no MLIR.
pub fn graph(g: &Graph) -> Result<Module> {
    let mut e = graph::Emitter::default();
    let function = graph::function(&mut e, g)?;
    let text = format!("{}module @{} {{\n{function}}}\n", e.w.aliases(), text::quoted(&g.name));
    verify::module(&text)?;
    Ok(Module { text, blobs: e.blobs })
}

/// Kernels as functions over buffers, one each: what is left of a graph once loops, vectors and memory are decided.
///
/// # Errors
/// A kernel has statements that only an accelerator executes; or this build has no MLIR.
pub fn kernels(kernels: &[Kernel]) -> Result<Module> {
    let mut l = loops::Loops::default();
    let mut functions = String::new();
    for k in kernels {
        let function = loops::function(&mut l, k);
        functions += &function.map_err(|e| e.context(format!("kernel {}", k.name)))?;
    }
    let text = format!("{}module {{\n{functions}}}\n", l.w.aliases());
    verify::module(&text)?;
    Ok(Module { text, blobs: blobs::Blobs::default() })
}

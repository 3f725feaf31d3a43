//! The interpreters: slow, obvious, and the meaning of everything else.

mod compute;
mod graph;
mod kernel;
mod program;
mod races;

pub use compute::compute;
pub use graph::{bind_symbols, graph, graph_with, node};
pub use kernel::{KernelBuffer, kernel};
pub use program::{RunKernel, program, program_with};

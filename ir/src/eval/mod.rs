//! The interpreters: slow, obvious, and the meaning of everything else.

mod graph;

pub use graph::{bind_symbols, graph, node};

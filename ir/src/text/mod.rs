//! The text forms: what is printed parses back to the same thing, and prints the same again, byte for byte.
//!
//! [`Graph`](crate::graph::Graph) and [`Kernel`](crate::kernel::Kernel) are printed by `Display` and read by
//! [`parse_graph`] and [`parse_kernel`]; [`Compute`](crate::compute::Compute) is printed only. A parser's errors
//! start with `line:column`, and say what was expected and what was found. Comments run from `//` to the end of the
//! line; layout means nothing.

mod lex;
mod parser;

mod parse_graph;
mod print_graph;

mod parse_kernel;
mod print_compute;
mod print_kernel;

pub(crate) use lex::Name;
pub use parse_graph::{parse_graph, parse_graph_with};
pub use parse_kernel::parse_kernel;
pub use print_graph::{INLINE_ELEMENTS, content_hash, large_constants};

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
mod phase;
mod print_compute;
mod print_kernel;
mod tile;

pub(crate) use lex::Name;
pub use parse_graph::{parse_attr, parse_attr_with, parse_graph, parse_graph_with};
pub use parse_kernel::parse_kernel;
pub use print_graph::{INLINE_ELEMENTS, content_hash, large_constants};

/// Reads an index expression: `4*i+mod(j,3)`.
pub fn parse_dim(src: &str) -> crate::error::Result<crate::dim::Dim> {
    let mut p = parser::Parser::new(src)?;
    let d = p.dim()?;
    p.expect_end()?;
    Ok(d)
}

/// Reads a type: `f32[batch,3]`.
pub fn parse_type(src: &str) -> crate::error::Result<crate::types::Type> {
    let mut p = parser::Parser::new(src)?;
    let ty = p.ty()?;
    p.expect_end()?;
    Ok(ty)
}

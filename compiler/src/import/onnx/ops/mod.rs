//! The operators of ONNX: one line each in the table of its family.

mod elementwise;
mod matmul;
mod shape;

use super::table::Operator;

/// All tables.
pub(super) const FAMILIES: &[&[Operator]] = &[elementwise::OPERATORS, shape::OPERATORS, matmul::OPERATORS];

//! The operators of ONNX: one line each in the table of its family.

mod activation;
mod conv;
mod einsum;
mod elementwise;
mod index;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod shape;

mod window;

use super::table::Operator;

/// All tables.
pub(super) const FAMILIES: &[&[Operator]] = &[
    elementwise::OPERATORS,
    activation::OPERATORS,
    shape::OPERATORS,
    index::OPERATORS,
    reduce::OPERATORS,
    matmul::OPERATORS,
    einsum::OPERATORS,
    conv::OPERATORS,
    pool::OPERATORS,
    norm::OPERATORS,
];

//! The operators of ONNX: one line each in the table of its family.

mod activation;
mod attention;
mod contrib;
mod control;
mod conv;
mod einsum;
mod elementwise;
mod image;
mod index;
mod loss;
mod matmul;
mod norm;
mod pool;
mod quant;
mod random;
mod reduce;
mod resize;
mod rnn;
mod sequence;
mod shape;
mod signal;
mod steps;
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
    attention::OPERATORS,
    control::OPERATORS,
    sequence::OPERATORS,
    quant::OPERATORS,
    signal::OPERATORS,
    random::OPERATORS,
    rnn::OPERATORS,
    image::OPERATORS,
    resize::OPERATORS,
    loss::OPERATORS,
    contrib::OPERATORS,
];

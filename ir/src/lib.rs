//! The intermediate representations of `aic`: a tensor [`graph`] and the loop [`kernel`] that its operators become
//! by way of a [`compute`] definition and a schedule.

pub mod error;

pub mod bounds;
pub mod dim;
pub mod dtype;
pub mod scalar;
pub mod tensor;
pub mod types;

pub mod compute;
pub mod graph;
pub mod kernel;
pub mod op;
pub mod program;
pub mod schedule;
pub mod target;

pub mod compose;
pub mod simplify;

pub mod eval;
pub mod text;
pub mod verify;

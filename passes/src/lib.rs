//! The passes of `aic`: from a tensor graph to a program of kernels.

pub mod pipeline;
pub mod runner;

pub mod fuse;
pub mod graph;
pub mod layout;
pub mod rewrite;

pub mod lower;
pub mod memory;
pub mod packing;
pub mod schedule;

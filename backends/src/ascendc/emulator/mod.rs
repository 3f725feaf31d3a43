//! Ascend C kernels on this machine: compiled by the system's C++ compiler against the model of the API, and run on it.

mod build;
mod job;
mod source;

pub use build::Emulator;
pub use job::{Contents, Job, Outcome, Settings, Step, Time, Violation};
pub use source::KernelFile;

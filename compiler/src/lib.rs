//! The compiler as a library: what the command line `aic` is made of.

pub mod driver;
pub mod emulate;
pub mod graph_file;
pub mod reproducer;

pub mod import;
pub mod io;

pub mod ascend;
pub mod package;
pub mod plan;
pub mod session;
pub mod verify;

pub mod bisect;
pub mod certificate;
pub mod profile;
pub mod tune;

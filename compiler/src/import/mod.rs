//! Models from files: the ONNX containers and the graph JSON that mirrors them.
//!
//! This layer knows messages, bytes and files, not what an operator means. Invariant: a model that is loaded
//! and saved again in either format is the same model, field by field.

pub mod external;
pub mod file;
pub mod json;
pub mod load;
pub mod onnx;
pub mod payload;
pub mod proto;

//! Where values of outputs go.

use super::{Port, Value, file_stems, npy, pb};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use std::fs;
use std::path::Path;

/// A file format for outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `NAME.npy`
    #[default]
    Npy,
    /// `output_K.pb`: ONNX messages, K counted from 0.
    Pb,
}

/// Writes outputs into a folder, which is made if there is none.
///
/// # Errors
/// A file can't be written, or a value has no form in that format.
pub fn write_outputs(folder: &Path, format: Format, ports: &[Port], values: &[Value]) -> Result<()> {
    ensure!(ports.len() == values.len(), "expected {} outputs, found {}", ports.len(), values.len());
    fs::create_dir_all(folder)
        .map_err(|error| Error::new(format!("{}: cannot be made: {error}", folder.display())))?;
    for ((k, stem), (port, value)) in file_stems(ports).iter().enumerate().zip(ports.iter().zip(values)) {
        match (format, value) {
            (Format::Pb, _) => {
                pb::write(&folder.join(format!("output_{k}.pb")), &port.name, &port.kind, value)?;
            }
            (Format::Npy, Value::Tensor(t)) => npy::write(&folder.join(format!("{stem}.npy")), t)?,
            (Format::Npy, Value::Sequence(items)) => write_items(folder, stem, items)?,
            (Format::Npy, Value::Absent) => {}
        }
    }
    Ok(())
}

/// Writes a sequence as `NAME.0.npy`, `NAME.1.npy`, ...
fn write_items(folder: &Path, stem: &str, items: &[Value]) -> Result<()> {
    for (k, item) in items.iter().enumerate() {
        let Value::Tensor(t) = item else { bail!("output {stem:?}: only tensors have a form as .npy files") };
        npy::write(&folder.join(format!("{stem}.{k}.npy")), t)?;
    }
    Ok(())
}

//! Tensor data in files of their own, named by the model relative to the folder it is in.
//!
//! A model comes from anywhere, so its file names are not trusted. Invariants: no name leads out of the model's
//! folder, neither by its text nor through links; a file is mapped once however many tensors share it; a range
//! outside the file is an error.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::file;
use super::proto::StringStringEntryProto;
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};

/// The files that hold the data of a model's tensors.
#[derive(Debug)]
pub struct ExternalFiles {
    folder: PathBuf,
    mapped: Mutex<HashMap<PathBuf, Bytes>>,
}

/// The range of a file that `external_data` entries of a tensor name.
///
/// The entry `checksum` of the ONNX specification is not read, nor is any other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExternalRange<'a> {
    /// The file, relative to the model's folder.
    pub location: &'a str,
    /// The first byte.
    pub offset: u64,
    /// How many bytes, where it is said.
    pub length: Option<u64>,
}

impl ExternalFiles {
    /// The files of a model in this folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        ExternalFiles { folder: folder.into(), mapped: Mutex::default() }
    }

    /// The files of the model, or of any other message, at this path.
    pub fn beside(path: &Path) -> Self {
        Self::in_folder(path.parent().unwrap_or(Path::new("")))
    }

    /// `count` bytes, the data of a tensor, from the range given.
    ///
    /// # Errors
    /// The file is missing or outside the folder, the range is outside the file or has another length.
    pub fn read(&self, range: ExternalRange, count: usize) -> Result<Bytes> {
        let location = range.location;
        if let Some(length) = range.length {
            ensure!(
                length == count as u64,
                "expected {count} bytes, found \"length\" {length} for '{location}'"
            );
        }
        let bytes = self.map(location)?;
        let end = range.offset.checked_add(count as u64).filter(|&end| end <= bytes.len() as u64);
        let (Ok(start), Some(end)) = (usize::try_from(range.offset), end) else {
            return Err(Error::new(format!(
                "external data file '{location}' has {} bytes, but the tensor needs {count} from offset {}",
                bytes.len(),
                range.offset
            ))
            .help("the file may be truncated or belong to another model"));
        };
        Ok(bytes.slice(start..end as usize))
    }

    /// The path of a file named by a model.
    ///
    /// # Errors
    /// The name leads out of the folder, or there is no such file.
    pub fn resolve(&self, location: &str) -> Result<PathBuf> {
        let refused = |reason: &str| {
            Error::new(format!("external data file '{location}' {reason}"))
                .help("external data must lie in the folder of the model or below it")
        };
        let relative = Path::new(location);
        if location.is_empty() {
            bail!("external data without a \"location\"");
        }
        if relative.is_absolute() {
            return Err(refused("has an absolute path"));
        }
        if relative.components().any(|part| part == Component::ParentDir) {
            return Err(refused("leaves the folder of the model"));
        }
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let canonical = |path: &Path| {
            fs::canonicalize(path).map_err(|error| {
                Error::new(format!("external data file '{}' cannot be read: {error}", path.display()))
            })
        };
        let path = canonical(&folder.join(relative))?;
        if !path.starts_with(canonical(folder)?) {
            return Err(refused("is a link that leaves the folder of the model"));
        }
        Ok(path)
    }

    fn map(&self, location: &str) -> Result<Bytes> {
        let path = self.resolve(location)?;
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = mapped.get(&path) {
            return Ok(bytes.clone());
        }
        let bytes = file::map(&path)?;
        mapped.insert(path, bytes.clone());
        Ok(bytes)
    }
}

impl<'a> ExternalRange<'a> {
    /// Reads the entries of a tensor's `external_data`.
    ///
    /// # Errors
    /// No location, or an offset or length that is no number.
    pub fn parse(entries: &'a [StringStringEntryProto]) -> Result<Self> {
        let entry = |key| entries.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value);
        let number = |key| {
            let parse = |text: &str| {
                let found = || {
                    Error::new(format!("external data \"{key}\": expected a number of bytes, found '{text}'"))
                };
                text.parse::<u64>().map_err(|_| found())
            };
            entry(key).map(parse).transpose()
        };
        let Some(location) = entry("location") else { bail!("external data without a \"location\"") };
        Ok(ExternalRange { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(location: &str, offset: u64, length: Option<u64>) -> ExternalRange<'_> {
        ExternalRange { location, offset, length }
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn ranges_are_checked_and_files_shared() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/w.bin"), (0..100).collect::<Vec<u8>>()).unwrap();
        let files = ExternalFiles::in_folder(folder.path());
        let all = files.read(range("sub/w.bin", 0, Some(100)), 100).unwrap();
        let part = files.read(range("./sub/w.bin", 10, None), 20).unwrap();
        assert_eq!(part.as_ptr(), all[10..].as_ptr());
        assert_eq!(files.read(range("sub/w.bin", 100, Some(0)), 0).unwrap().len(), 0);
        assert!(message(files.read(range("sub/w.bin", 0, Some(99)), 100)).contains("expected 100 bytes"));
        assert!(message(files.read(range("sub/w.bin", 1, None), 100)).contains("has 100 bytes"));
        assert!(message(files.read(range("sub/w.bin", u64::MAX, None), 100)).contains("has 100 bytes"));
        assert!(message(files.read(range("sub", 0, None), 1)).contains("found a folder"));
        assert!(message(files.read(range("absent", 0, None), 1)).contains("cannot be read"));
        assert!(message(files.read(range("sub\0", 0, None), 1)).contains("cannot be read"));
        assert!(message(files.read(range("", 0, None), 1)).contains("without a"));
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fs::write(folder.join("own"), "own").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("up")).unwrap();
        std::os::unix::fs::symlink("own", folder.join("alias")).unwrap();
        let files = ExternalFiles::in_folder(&folder);
        let absolute = folder.join("own").display().to_string();
        for location in [
            "../secret",
            "sub/../../secret",
            "./../secret",
            "../model/own",
            "..",
            &absolute,
            "/",
            "link",
            "up/secret",
        ] {
            let error = files.read(range(location, 0, None), 3).unwrap_err();
            assert!(
                error.help.unwrap_or_default().contains("must lie in the folder"),
                "{location}: {}",
                error.message
            );
        }
        assert_eq!(files.read(range("alias", 0, None), 3).unwrap(), "own");
    }

    #[test]
    fn entries_are_parsed() {
        let entries = |pairs: &[(&str, &str)]| -> Vec<StringStringEntryProto> {
            let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
                key: Some(key.to_owned()),
                value: Some(value.to_owned()),
            };
            pairs.iter().map(entry).collect()
        };
        let given = entries(&[("length", "12"), ("location", "w"), ("offset", "4096"), ("checksum", "x")]);
        assert_eq!(ExternalRange::parse(&given), Ok(range("w", 4096, Some(12))));
        assert_eq!(ExternalRange::parse(&entries(&[("location", "w")])), Ok(range("w", 0, None)));
        assert!(message(ExternalRange::parse(&entries(&[("offset", "0")]))).contains("location"));
        for bad in ["-1", "", "1e3", "99999999999999999999"] {
            let given = entries(&[("location", "w"), ("offset", bad)]);
            assert!(message(ExternalRange::parse(&given)).contains("expected a number of bytes"));
        }
    }
}

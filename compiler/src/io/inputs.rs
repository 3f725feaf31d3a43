//! Where values of inputs come from: folders, archives, single files.

use super::{Format, Kind, Port, Value, file_stems, npy, pb};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Values of inputs, and what they were read from.
#[derive(Debug, Default)]
pub struct Given {
    /// Values by the names of the inputs.
    pub values: HashMap<String, Value>,
    /// In which format outputs should be written.
    pub format: Format,
}

/// Reads the values of a model's inputs. A source is a folder with `input_K.pb` (K: position in `ports`) or `NAME.npy`,
/// an archive `FILE.npz`, or `NAME=FILE` with a `.npy` or `.pb` file.
///
/// # Errors
/// A source can't be read, gives nothing to a model that has inputs, or gives an input a second value.
pub fn read_inputs(sources: &[String], ports: &[Port]) -> Result<Given> {
    let mut reader = Reader { ports, stems: file_stems(ports), given: Given::default() };
    for source in sources {
        reader.source(source)?;
    }
    Ok(reader.given)
}

/// The names of ports, for messages.
pub fn names(ports: &[Port]) -> String {
    let listed: Vec<String> = ports.iter().take(20).map(|port| format!("{:?}", port.name)).collect();
    let more = if ports.len() > 20 { format!(" and {} more", ports.len() - 20) } else { String::new() };
    listed.join(", ") + &more
}

struct Reader<'a> {
    ports: &'a [Port],
    stems: Vec<String>,
    given: Given,
}

impl Reader<'_> {
    fn source(&mut self, source: &str) -> Result<()> {
        let path = Path::new(source);
        if path.is_dir() {
            return self.folder(path);
        }
        if has_extension(path, "npz") && path.exists() {
            return self.archive(path);
        }
        // A name may hold `=` itself; the longest one that fits is meant.
        let named = self.ports.iter().enumerate().filter_map(|(k, port)| {
            let file = source.strip_prefix(port.name.as_str())?.strip_prefix('=')?;
            Some((port.name.len(), k, PathBuf::from(file)))
        });
        match named.max() {
            Some((_, k, file)) => self.file(k, &file),
            None => Err(self.misfit(source, path)),
        }
    }

    /// Why a source is none.
    fn misfit(&self, source: &str, path: &Path) -> Error {
        match source.split_once('=') {
            _ if path.exists() => {
                let example = self.ports.first().map_or("NAME", |port| port.name.as_str());
                Error::new(format!("{source}: expected a folder, an .npz file, or NAME=FILE"))
                    .help(format!("say which input the file is for: {example}={source}"))
            }
            Some((name, _)) => unknown_input(name, self.ports),
            None => Error::new(format!("{source}: no such file or folder")),
        }
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        let failed = |error| Error::new(format!("{}: cannot be read: {error}", path.display()));
        let entries = fs::read_dir(path).map_err(failed)?;
        let files: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut files = files.map_err(failed)?;
        files.sort();
        if !files.iter().any(|file| has_extension(file, "npy")) {
            self.given.format = Format::Pb;
        }
        let before = self.given.values.len();
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let number = stem.strip_prefix("input_").and_then(|number| number.parse::<usize>().ok());
            if let (true, Some(k)) = (has_extension(&file, "pb"), number) {
                let n = self.ports.len();
                ensure!(k < n, "{}: the model has {n} inputs, numbered from 0", file.display());
                self.file(k, &file)?;
            } else if let (true, Some(k)) = (has_extension(&file, "npy"), self.position(&stem)) {
                self.file(k, &file)?;
            }
        }
        self.ensure_any(self.given.values.len() > before, path, "input_0.pb (and so on) or NAME.npy")
    }

    fn archive(&mut self, path: &Path) -> Result<()> {
        let arrays = npy::read_archive(path, &|name| self.position(name).is_some())?;
        self.ensure_any(!arrays.is_empty(), path, "an array of its name")?;
        for (name, tensor) in arrays {
            if let Some(k) = self.position(&name) {
                self.put(k, Value::Tensor(tensor), path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, k: usize, path: &Path) -> Result<()> {
        if has_extension(path, "npy") {
            return self.put(k, Value::Tensor(npy::read(path)?), path);
        }
        if has_extension(path, "pb") {
            self.given.format = Format::Pb;
            return self.put(k, pb::read(path, &self.ports[k].kind)?, path);
        }
        let error = Error::new(format!("{}: the name does not say the format", path.display()));
        Err(error.help("inputs are read from .npy and .pb files, and from .npz archives"))
    }

    fn put(&mut self, k: usize, value: Value, path: &Path) -> Result<()> {
        let Port { name, kind } = &self.ports[k];
        if let (Kind::Sequence(_), Value::Tensor(_)) = (kind, &value) {
            bail!("{}: input {name:?} is a sequence; give it as a .pb file", path.display());
        }
        let old = self.given.values.insert(name.clone(), value);
        ensure!(old.is_none(), "{}: input {name:?} has a value already", path.display());
        Ok(())
    }

    /// The input that a file's or array's name means.
    fn position(&self, name: &str) -> Option<usize> {
        let exact = self.ports.iter().position(|port| port.name == name);
        exact.or_else(|| self.stems.iter().position(|stem| stem == name))
    }

    fn ensure_any(&self, found: bool, path: &Path, expected: &str) -> Result<()> {
        if found || self.ports.is_empty() {
            return Ok(());
        }
        let error = Error::new(format!("{}: expected {expected} for an input, found none", path.display()));
        Err(error.help(format!("the inputs are {}", names(self.ports))))
    }
}

fn unknown_input(name: &str, ports: &[Port]) -> Error {
    let error = Error::new(format!("the model has no input {name:?}"));
    let similar = |port: &&Port| strsim::damerau_levenshtein(name, &port.name) <= 2;
    match ports.iter().find(similar) {
        Some(port) => error.help(format!("did you mean {:?}?", port.name)),
        None if ports.is_empty() => error.help("it has no inputs"),
        None => error.help(format!("the inputs are {}", names(ports))),
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::write_outputs;
    use aic_ir::tensor::Tensor;

    fn ports() -> Vec<Port> {
        let port = |name: &str| Port { name: name.into(), kind: Kind::Tensor(None) };
        vec![port("x"), port("a/b"), port("x=y")]
    }

    fn tensor(value: f32) -> Value {
        Value::Tensor(Tensor::from_vec(vec![1], &[value]).unwrap())
    }

    fn read(sources: &[String]) -> Result<Given> {
        read_inputs(sources, &ports())
    }

    #[test]
    fn folders_and_files_give_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let values = [tensor(1.0), tensor(2.0), tensor(3.0)];
        write_outputs(folder.path(), Format::Npy, &ports(), &values).unwrap();
        let given = read(std::slice::from_ref(&path)).unwrap();
        assert_eq!(given.format, Format::Npy);
        assert_eq!(given.values["a/b"], tensor(2.0));
        let given = read(&[format!("x={path}/a_b.npy"), format!("x=y={path}/x.npy")]).unwrap();
        assert_eq!((&given.values["x"], &given.values["x=y"]), (&tensor(2.0), &tensor(1.0)));
        let twice = read(&[format!("x={path}/x.npy"), path]).unwrap_err();
        assert!(twice.message.contains("\"x\" has a value already"));
    }

    #[test]
    fn messages_are_numbered_by_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let file = folder.path().join("input_1.pb");
        pb::write(&file, "whatever", &Kind::Tensor(None), &tensor(4.0)).unwrap();
        fs::write(folder.path().join("output_0.pb"), "ignored").unwrap();
        let given = read(std::slice::from_ref(&path)).unwrap();
        assert_eq!((given.format, &given.values["a/b"]), (Format::Pb, &tensor(4.0)));
        fs::rename(file, folder.path().join("input_3.pb")).unwrap();
        assert!(read(&[path]).unwrap_err().message.contains("has 3 inputs"));
    }

    #[test]
    fn what_gives_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert!(read(std::slice::from_ref(&path)).unwrap_err().message.contains("found none"));
        assert_eq!(read_inputs(std::slice::from_ref(&path), &[]).unwrap().format, Format::Pb);
        assert!(read(&["absent".into()]).unwrap_err().message.contains("no such file"));
        assert!(read(&["xx=f.npy".into()]).unwrap_err().help.unwrap().contains("did you mean \"x\""));
        assert!(read(&["x=f.txt".into()]).unwrap_err().help.unwrap().contains(".npy"));
        assert!(read(&["x=absent.npy".into()]).unwrap_err().message.contains("absent.npy"));
        fs::write(folder.path().join("x.npy"), "junk").unwrap();
        assert!(read(std::slice::from_ref(&path)).unwrap_err().message.contains("x.npy: not a readable"));
        let bare = read(&[format!("{path}/x.npy")]).unwrap_err();
        assert!(bare.help.unwrap().contains("x="));
    }
}

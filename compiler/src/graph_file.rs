//! Graphs in text form as files, and the constants that their text only names.
//!
//! The text of a graph prints constants of many elements as hashes of their contents. The contents lie beside it, in
//! `NAME.safetensors` for `NAME.aic`, or for all graphs of a folder in `constants.safetensors`: one byte array for
//! each hash, in the format of <https://github.com/huggingface/safetensors>.

use crate::import::file;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::{ensure, text, verify};
use bytes::{BufMut, Bytes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The constants of all graphs of a folder.
const SHARED: &str = "constants.safetensors";

/// Reads a graph in text form.
///
/// # Errors
/// The file can't be read, holds no graph, or one that doesn't verify; the contents of a constant aren't at hand.
pub fn read(path: &Path) -> Result<Graph> {
    let bytes = file::map(path)?;
    parse(&bytes, path).map_err(|error| error.context(path.display()))
}

fn parse(bytes: &[u8], path: &Path) -> Result<Graph> {
    let src = std::str::from_utf8(bytes).map_err(|e| Error::new(format!("not text: {e}")))?;
    let constants = constants_beside(path)?;
    let graph = text::parse_graph_with(src, &|hash| constants.get(hash).cloned()).map_err(|error| {
        match error.message.contains("are not at hand") {
            true => error.help(format!(
                "they are expected in {} or {SHARED} beside the graph, where `aic opt -o` and --dump-dir write them",
                path.with_extension("safetensors").display()
            )),
            false => error,
        }
    })?;
    verify::report("the graph", &verify::graph(&graph))?;
    Ok(graph)
}

fn constants_beside(path: &Path) -> Result<HashMap<String, Bytes>> {
    let files = [path.with_extension("safetensors"), path.with_file_name(SHARED)];
    let mut constants = HashMap::new();
    for file in files.iter().filter(|f| f.is_file()) {
        constants.extend(read_constants(file).map_err(|e| e.context(file.display()))?);
    }
    Ok(constants)
}

/// Writes a graph as text, and if it has large constants their contents beside it.
///
/// # Errors
/// A file can't be written.
pub fn write(path: &Path, graph: &Graph) -> Result<()> {
    let constants = text::large_constants(graph);
    if !constants.is_empty() {
        write_constants(&path.with_extension("safetensors"), constants)?;
    }
    write_text(path, &graph.to_string())
}

/// The text of a graph with pseudo-random constants for those that are printed as hashes.
pub fn seeded(graph: &Graph) -> String {
    let mut hashes: Vec<String> = text::large_constants(graph).into_keys().collect();
    hashes.sort();
    let text = graph.to_string();
    hashes
        .iter()
        .enumerate()
        .fold(text, |text, (k, hash)| text.replace(&format!(" #{hash}"), &format!(" seed {k}")))
}

/// Writes a text to a file.
///
/// # Errors
/// The file can't be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    file::write(path, |file| file.put_slice(text.as_bytes()))
}

/// Writes constants, by hash, for all graphs of a folder.
///
/// # Errors
/// The file can't be written.
pub fn write_shared(folder: &Path, constants: HashMap<String, Bytes>) -> Result<()> {
    match constants.is_empty() {
        true => Ok(()),
        false => write_constants(&folder.join(SHARED), constants),
    }
}

fn write_constants(path: &Path, constants: HashMap<String, Bytes>) -> Result<()> {
    let constants: BTreeMap<String, Bytes> = constants.into_iter().collect();
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (hash, bytes) in &constants {
        let end = at + bytes.len();
        header
            .insert(hash.clone(), json!({"dtype": "U8", "shape": [bytes.len()], "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    file::write(path, |file| {
        file.put_u64_le(header.len() as u64);
        file.put_slice(header.as_bytes());
        constants.into_values().for_each(|bytes| file.put(bytes));
    })
}

fn read_constants(path: &Path) -> Result<HashMap<String, Bytes>> {
    let bytes = file::map(path)?;
    ensure!(bytes.len() >= 8, "not a safetensors file: it has {} bytes", bytes.len());
    let mut n = [0; 8];
    n.copy_from_slice(&bytes[..8]);
    let data = usize::try_from(u64::from_le_bytes(n)).ok().and_then(|n| n.checked_add(8));
    let data = data.filter(|&at| at <= bytes.len());
    let Some(data) = data else { aic_ir::bail!("not a safetensors file: its header is cut off") };
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..data])
        .map_err(|e| Error::new(format!("not a safetensors file: {e}")))?;
    let mut constants = HashMap::new();
    for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let offset = |k: usize| {
            let at = entry["data_offsets"][k].as_u64().and_then(|n| usize::try_from(n).ok());
            at.and_then(|at| at.checked_add(data)).filter(|&at| at <= bytes.len())
        };
        let (Some(from), Some(to)) = (offset(0), offset(1)) else {
            aic_ir::bail!("tensor {name:?} lies outside of the file, which may be cut off")
        };
        ensure!(from <= to, "tensor {name:?} ends before it starts");
        constants.insert(name, bytes.slice(from..to));
    }
    Ok(constants)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "graph(%0: f32[2,65]) -> f32[2,3] {
      %1 = const f32[65,3] seed 1 %2 = const f32[3] [1.0, 2.0, 3.0] %3 = matmul %0 %1 %4 = expand %2 {shape=[2,3]}
      %5 = add %3 %4 return %5 }";

    #[test]
    fn large_constants_are_written_beside_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let graph = text::parse_graph(TEXT).unwrap();
        let path = folder.path().join("g.aic");
        write(&path, &graph).unwrap();
        assert!(graph.to_string().contains(" #"));
        assert_eq!(read(&path).unwrap(), graph);

        std::fs::remove_file(folder.path().join("g.safetensors")).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message.contains("are not at hand"), "{error}");
        assert!(error.help.is_some_and(|help| help.contains("g.safetensors")));
        write_shared(folder.path(), text::large_constants(&graph)).unwrap();
        assert_eq!(read(&path).unwrap(), graph);
    }

    #[test]
    fn malformed_constants_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        let constants = HashMap::from([("ab".to_owned(), Bytes::from_static(b"0123456789"))]);
        write_constants(&path, constants.clone()).unwrap();
        assert_eq!(read_constants(&path).unwrap(), constants);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(read_constants(&path).is_err(), "{len}");
        }
        std::fs::write(&path, [255; 16]).unwrap();
        assert!(read_constants(&path).is_err());
    }
}

//! Model files: what `aic` reads and writes, in either format.
//!
//! Invariants: the weights of a loaded model are references into mapped files; a saved model is what was loaded,
//! field by field, and comes with the external data it names.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes};
use prost::Message;

use super::external::{ExternalFiles, ExternalRange};
use super::file;
use super::json;
use super::payload;
use super::proto::{AttributeProto, DATA_EXTERNAL, GraphProto, ModelProto, SparseTensorProto, TensorProto};
use aic_ir::ensure;
use aic_ir::error::{Error, Result};

/// A model and the files that its tensors may lie in.
#[derive(Debug)]
pub struct Model {
    /// The model itself.
    pub proto: ModelProto,
    /// The file it was loaded from.
    pub path: PathBuf,
    /// The files beside it.
    pub files: ExternalFiles,
}

impl Model {
    /// A model that is, or might have been, in the file `path`: external data are looked for beside it.
    pub fn new(proto: ModelProto, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Model { proto, files: ExternalFiles::beside(&path), path }
    }

    /// The elements of one of the model's tensors; see [`payload::tensor_bytes`].
    ///
    /// # Errors
    /// As of [`payload::tensor_bytes`].
    pub fn tensor_bytes(&self, tensor: &TensorProto) -> Result<Bytes> {
        payload::tensor_bytes(tensor, &self.files)
    }
}

/// Loads a model from an ONNX file or a graph JSON, whichever its first byte says it is.
///
/// # Errors
/// The file can't be read, or is not a complete model; the message names it.
pub fn load_model(path: &Path) -> Result<Model> {
    let bytes = file::map(path)?;
    ensure!(!bytes.is_empty(), "{}: the file is empty", path.display());
    let proto = if is_json(path, &bytes) { json::parse(&bytes) } else { decode_model(bytes) };
    let proto = proto.and_then(complete).map_err(|error| error.context(path.display()))?;
    Ok(Model::new(proto, path))
}

/// Saves a model as graph JSON if the name ends in `.json`, as ONNX if it ends in `.onnx`, together with its
/// external data if the folder is another than it was loaded from.
///
/// # Errors
/// The name ends otherwise, a file can't be written, or one would replace other external data.
pub fn save_model(path: &Path, model: &Model) -> Result<()> {
    let as_json = match extension(path).as_str() {
        "json" => true,
        "onnx" => false,
        _ => {
            let error = Error::new(format!("{}: the name does not say the format", path.display()));
            return Err(error.help("end it in .onnx or .json"));
        }
    };
    copy_external(path, model)?;
    if as_json { write_json(path, &model.proto) } else { write_message(path, &model.proto) }
}

/// Reads a message from a file, such as a [`TensorProto`] from `input_0.pb`.
///
/// # Errors
/// The file can't be read or holds something else.
pub fn read_message<M: Message + Default>(path: &Path) -> Result<M> {
    M::decode(file::map(path)?).map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

/// Writes a message to a file.
///
/// # Errors
/// The file can't be written.
pub fn write_message(path: &Path, message: &impl Message) -> Result<()> {
    let mut result = Ok(());
    file::write(path, |file| result = message.encode(file))?;
    result.map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

fn write_json(path: &Path, model: &ModelProto) -> Result<()> {
    let mut result = Ok(());
    file::write(path, |file| result = json::print(model, &mut file.writer()))?;
    result.map_err(|error| error.context(path.display()))
}

/// Whether a file is JSON: no ONNX model starts with a brace, since that would be a group, which ONNX doesn't have.
fn is_json(path: &Path, bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    extension(path) == "json" || text.trim_ascii_start().starts_with(b"{")
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn decode_model(bytes: Bytes) -> Result<ModelProto> {
    let start = bytes.slice(..bytes.len().min(64));
    ModelProto::decode(bytes).map_err(|error| {
        Error::new(format!("not a readable ONNX model: {error}")).help(what_it_may_be(&start))
    })
}

/// Refuses a model that lacks what every model has, as a file cut off between two fields does.
fn complete(model: ModelProto) -> Result<ModelProto> {
    let incomplete = |part| {
        let error = Error::new(format!("not a complete ONNX model: it has no {part}"));
        Err(error.help("the file may be truncated, or not be a model at all"))
    };
    if model.graph.is_none() && model.functions.is_empty() && model.training_info.is_empty() {
        return incomplete("graph");
    }
    // Models of the first two IR versions have no opsets.
    if model.opset_import.is_empty() && model.ir_version() >= 3 {
        return incomplete("opset_import");
    }
    Ok(model)
}

/// Advice by the first bytes of a file that is no model.
fn what_it_may_be(start: &[u8]) -> &'static str {
    match start {
        [b'P', b'K', 3, 4, ..] => "this is a zip archive, as PyTorch saves it; export the model to ONNX",
        [0x89, b'H', b'D', b'F', ..] => "this is an HDF5 file, as Keras saves it; export the model to ONNX",
        _ if start.starts_with(b"version https://git-lfs") => "this is a Git LFS pointer; run `git lfs pull`",
        _ => "the file may be truncated, or not be a model at all",
    }
}

/// Copies the external data of a model beside the file it will be saved to.
fn copy_external(path: &Path, model: &Model) -> Result<()> {
    let folder =
        |path: &Path| fs::canonicalize(path.parent().filter(|p| *p != "").unwrap_or(Path::new("."))).ok();
    if folder(path).is_some_and(|target| Some(target) == folder(&model.path)) {
        return Ok(());
    }
    let mut result = Ok(());
    for_each_tensor(&model.proto, &mut |tensor| {
        if result.is_ok() && tensor.data_location() == DATA_EXTERNAL {
            result = ExternalRange::parse(&tensor.external_data)
                .and_then(|range| copy_beside(path, range.location, &model.files));
        }
    });
    result.map_err(|error| error.context(path.display()))
}

fn copy_beside(path: &Path, location: &str, files: &ExternalFiles) -> Result<()> {
    let source = files.resolve(location)?;
    let target = path.with_file_name(location);
    if target.exists() {
        if file::map(&source)? == file::map(&target)? {
            return Ok(());
        }
        let error = Error::new(format!("{} exists already, with other external data", target.display()));
        return Err(error.help("save the model to another folder, or remove that file"));
    }
    let failed = |error| Error::new(format!("{}: cannot be written: {error}", target.display()));
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let data = file::map(&source)?;
    file::write(&target, |file| file.put(data))
}

/// Visits every tensor of a model: initializers and attributes, in subgraphs and functions too.
pub fn for_each_tensor<'a>(model: &'a ModelProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    let training =
        model.training_info.iter().flat_map(|info| info.initialization.iter().chain(&info.algorithm));
    for graph in model.graph.iter().chain(training) {
        visit_graph(graph, visit);
    }
    for function in &model.functions {
        visit_attributes(&function.attribute_proto, visit);
        function.node.iter().for_each(|node| visit_attributes(&node.attribute, visit));
    }
}

fn visit_graph<'a>(graph: &'a GraphProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    graph.initializer.iter().for_each(&mut *visit);
    graph.sparse_initializer.iter().for_each(|sparse| visit_sparse(sparse, visit));
    graph.node.iter().for_each(|node| visit_attributes(&node.attribute, visit));
}

fn visit_attributes<'a>(attributes: &'a [AttributeProto], visit: &mut dyn FnMut(&'a TensorProto)) {
    for attribute in attributes {
        attribute.t.iter().chain(&attribute.tensors).for_each(&mut *visit);
        let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
        sparse.for_each(|sparse| visit_sparse(sparse, visit));
        attribute.g.iter().chain(&attribute.graphs).for_each(|graph| visit_graph(graph, visit));
    }
}

fn visit_sparse<'a>(sparse: &'a SparseTensorProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    sparse.values.iter().chain(&sparse.indices).for_each(visit);
}

#[cfg(test)]
mod tests {
    use super::super::proto::{DataType, NodeProto, OperatorSetIdProto, StringStringEntryProto};
    use super::*;

    fn entry(key: &str, value: &str) -> StringStringEntryProto {
        StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }
    }

    fn small_model() -> ModelProto {
        let weight = payload::tensor("w", DataType::Float, &[2], vec![0, 0, 128, 63, 0, 0, 0, 64].into());
        let node = NodeProto {
            op_type: Some("Add".to_owned()),
            input: vec!["x".to_owned(), "w".to_owned()],
            output: vec!["y".to_owned()],
            ..NodeProto::default()
        };
        let graph = GraphProto { node: vec![node], initializer: vec![weight], ..GraphProto::default() };
        ModelProto {
            ir_version: Some(10),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(21) }],
            ..ModelProto::default()
        }
    }

    fn external_model() -> ModelProto {
        let weight = TensorProto {
            raw_data: None,
            data_location: Some(DATA_EXTERNAL),
            external_data: vec![entry("location", "sub/w.bin")],
            ..payload::tensor("w", DataType::Float, &[2], Bytes::new())
        };
        let mut model = small_model();
        model.graph.as_mut().unwrap().initializer = vec![weight];
        model
    }

    #[test]
    fn a_saved_model_is_the_same_and_maps_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        save_model(&path, &Model::new(small_model(), "m.onnx")).unwrap();
        let model = load_model(&path).unwrap();
        assert_eq!(model.proto, small_model());
        assert_eq!(fs::read(&path).unwrap(), small_model().encode_to_vec());
        save_model(&path, &model).unwrap();
        let weight = &model.proto.graph.as_ref().unwrap().initializer[0];
        assert_eq!(model.tensor_bytes(weight).unwrap().len(), 8);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short.onnx");
        let bytes = small_model().encode_to_vec();
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let error = load_model(&path).unwrap_err();
            assert!(error.message.contains("short.onnx: "), "{len}: {}", error.message);
        }
    }

    #[test]
    fn garbage_is_an_error_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let help = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            load_model(&path).unwrap_err().help.unwrap_or_default()
        };
        assert!(help(b"PK\x03\x04 and more").contains("zip"));
        assert!(help(b"version https://git-lfs").contains("git lfs pull"));
        assert!(help(b"hello, world").contains("truncated"));
        assert!(help(&[0; 64]).contains("truncated"));
        assert!(help(&[0xff; 64]).contains("truncated"));
        assert!(load_model(folder.path()).unwrap_err().message.contains("found a folder"));
    }

    #[test]
    fn external_data_come_along() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("sub")).unwrap();
        fs::write(from.path().join("sub/w.bin"), [1; 8]).unwrap();
        let model = Model::new(external_model(), from.path().join("m.onnx"));
        save_model(&model.path, &model).unwrap();
        let path = to.path().join("copy.onnx");
        save_model(&path, &model).unwrap();
        save_model(&path, &model).unwrap();
        let copy = load_model(&path).unwrap();
        assert_eq!(copy.proto, model.proto);
        let weight = &copy.proto.graph.as_ref().unwrap().initializer[0];
        assert_eq!(copy.tensor_bytes(weight).unwrap(), [1; 8][..]);
        fs::write(to.path().join("sub/w.bin"), [2; 8]).unwrap();
        assert!(save_model(&path, &model).unwrap_err().message.contains("exists already"));
        fs::remove_file(from.path().join("sub/w.bin")).unwrap();
        assert!(save_model(&path, &model).unwrap_err().message.contains("cannot be read"));
    }

    #[test]
    fn json_is_the_same_model() {
        let folder = tempfile::tempdir().unwrap();
        let onnx = Model::new(small_model(), folder.path().join("m.onnx"));
        let path = folder.path().join("m.json");
        save_model(&path, &onnx).unwrap();
        assert_eq!(load_model(&path).unwrap().proto, onnx.proto);
        let renamed = folder.path().join("m.txt");
        fs::rename(&path, &renamed).unwrap();
        assert_eq!(load_model(&renamed).unwrap().proto, onnx.proto);
        let text = fs::read(&renamed).unwrap();
        for len in 0..text.trim_ascii_end().len() {
            fs::write(&path, &text[..len]).unwrap();
            assert!(load_model(&path).unwrap_err().message.contains("m.json: "));
        }
        assert!(save_model(&renamed, &onnx).unwrap_err().help.unwrap().contains(".onnx or .json"));
    }

    #[test]
    fn messages_are_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input_0.pb");
        let tensor = payload::tensor("x", DataType::Int8, &[3], vec![1, 2, 3].into());
        write_message(&path, &tensor).unwrap();
        assert_eq!(read_message::<TensorProto>(&path), Ok(tensor));
        fs::write(&path, [0xff; 9]).unwrap();
        assert!(read_message::<TensorProto>(&path).unwrap_err().message.contains("input_0.pb"));
    }
}

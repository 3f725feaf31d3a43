//! Artifacts: a compiled program as a shared library or an object file, and its header.
//!
//! An artifact is the kernels' objects, the runtime's object, and an object with the plan and the weights, put together
//! by the system's linker. It needs libc and libm and exports the functions of `runtime/aic.h`, nothing else.
//! What is in the making lies in a folder of its own beside the artifact, which goes away whatever happens; the artifact
//! takes its name only when it is complete.

pub mod ascend;
pub mod cuda;
mod link;
mod model_object;

use crate::plan;
use aic_backends::Object;
use aic_ir::error::{Error, Result};
use aic_ir::program::{Port, Program, Step};
use aic_ir::{bail, ensure};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The runtime, compiled for artifacts.
const RUNTIME_OBJECT: &[u8] = include_bytes!(env!("AIC_RUNTIME_OBJECT"));
const HEADER: &str = include_str!("../runtime/aic.h");

/// What an artifact is made of.
pub struct Parts<'a> {
    /// The program; all of its steps have kernels.
    pub program: &'a Program,
    /// Object files in which each kernel is defined under its name.
    pub objects: &'a [Object],
    /// Instruction sets that the kernels use, as [`plan::cpu_bits`] gives them.
    pub cpu: u64,
}

/// Kinds of artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A shared library, to be linked against or opened at run time.
    SharedLibrary,
    /// An object file, to be linked into a program or library.
    Object,
}

/// Where an artifact's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The library or object.
    pub library: PathBuf,
    /// The C header beside it.
    pub header: PathBuf,
}

/// Makes an artifact and its header, which has the artifact's name with `.h` at its end.
///
/// # Errors
/// A step of the program has no kernel, there is no linker, or a file can't be written.
pub fn write(parts: &Parts, kind: Kind, path: &Path) -> Result<Files> {
    check(parts.program)?;
    let files = Files { library: target(path)?, header: target(&path.with_extension("h"))? };
    ensure!(files.library != files.header, "{}: this is the name of the header", path.display());
    let failed = |at: &Path, e: io::Error| Error::new(format!("{}: cannot be written: {e}", at.display()));
    let folder = files.library.parent().unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".aic-").tempdir_in(folder).map_err(|e| failed(path, e))?;
    let in_scratch = |name: &str| scratch.path().join(name);

    let mut objects = vec![in_scratch("model.o"), in_scratch("runtime.o")];
    model_object::write(&objects[0], parts.program, &plan::encode(parts.program, parts.cpu)?)?;
    fs::write(&objects[1], RUNTIME_OBJECT).map_err(|e| failed(path, e))?;
    for (k, object) in parts.objects.iter().enumerate() {
        objects.push(in_scratch(&format!("kernels{k}.o")));
        fs::write(&objects[k + 2], &object.bytes).map_err(|e| failed(path, e))?;
    }
    let (library, header) = (in_scratch("artifact"), in_scratch("header"));
    match kind {
        Kind::SharedLibrary => link::shared(&library, &objects, &in_scratch("exports"), &files.library)?,
        Kind::Object => link::relocatable(&library, &objects)?,
    }
    fs::write(&header, header_text(parts.program)).map_err(|e| failed(&files.header, e))?;
    fs::rename(&header, &files.header).map_err(|e| failed(&files.header, e))?;
    fs::rename(&library, &files.library).map_err(|e| failed(&files.library, e))?;
    Ok(files)
}

/// The header of a program's artifact: the C interface, and what this model takes and gives.
pub fn header_text(program: &Program) -> String {
    let clean = |s: &str| s.replace("*/", "* /").replace(|c: char| c.is_control(), " ");
    let ports = |ports: &[Port]| {
        let line = |(k, p): (usize, &Port)| format!(" *   {k}  {}  {}\n", p.ty, clean(&p.name));
        ports.iter().enumerate().map(line).collect::<String>()
    };
    format!(
        "/* {}\n *\n * Inputs:\n{} *\n * Outputs:\n{} */\n\n{HEADER}",
        clean(if program.name.is_empty() { "A model" } else { &program.name }),
        ports(&program.inputs),
        ports(&program.outputs)
    )
}

/// Whether an artifact can be made: it has no interpreter, and its kernels' names must be symbols that are nobody else's.
///
/// # Errors
/// A step of the program has no kernel, or a kernel's name is no symbol.
pub fn check(program: &Program) -> Result<()> {
    let mut missing = Error::new("");
    let mut reasons = Vec::new();
    for step in &program.steps {
        let Step::Host { node, reason, .. } = step else { continue };
        if !reasons.contains(reason) {
            reasons.push(reason.clone());
        }
        if node.index() < program.graph.nodes().len() {
            let origin = &program.graph.node(*node).origin;
            missing = origin.iter().fold(missing, |e, name| e.node(name.as_ref()));
        }
    }
    if !reasons.is_empty() {
        missing.message = format!("some nodes can't be compiled: {}", reasons.join("; "));
        return Err(missing.help("aic run computes such nodes by the interpreter; an artifact has none"));
    }
    let is_symbol = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with("aic_")
    };
    match program.kernels.iter().find(|k| !is_symbol(&k.name)) {
        Some(k) => bail!("the kernel name {:?} can't be a symbol", k.name),
        None => Ok(()),
    }
}

/// The file that `path` means: in a folder that exists; a link is followed, what is no file is refused.
fn target(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        ensure!(path.is_file(), "{}: expected the name of a file", path.display());
        return path.canonicalize().map_err(|e| Error::new(format!("{}: {e}", path.display())));
    }
    let Some(name) = path.file_name() else { bail!("{}: expected the name of a file", path.display()) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.canonicalize() {
        Ok(folder) => Ok(folder.join(name)),
        Err(e) => bail!("{}: the folder {} can't be opened: {e}", path.display(), folder.display()),
    }
}

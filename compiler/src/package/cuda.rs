//! The artifact of a model for CUDA GPUs: a folder with the code as PTX, and as a card's where NVIDIA's assembler is at
//! hand, the weights, and a launcher in C that any C compiler makes a library of.
//!
//! `cc -O2 -shared -fPIC model.c -o model.so -ldl` in that folder gives a library that holds all of it, with the C
//! interface of the CPU's artifact. It needs the driver when a session is opened, nothing else.

use super::model_object::Weights;
use super::{check, header_text};
use crate::plan::{self, Plan};
use aic_backends::ptx::{self, Launch, Ptxas, Usage};
use aic_ir::dim::{Atom, Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
use aic_ir::program::{Port, Program};
use aic_ir::target::Target;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write as _};
use std::path::Path;

const LAUNCHER: &str = include_str!("../../runtime/cuda.c");
const PLAN_FORMAT: &str = include_str!("../../runtime/plan.h");

/// Where weights begin: at multiples of what the widest access of a thread needs, and more.
const ALIGNMENT: &str = "256";

/// Axes of an array that boxes are copied of.
const MAX_AXES: usize = 5;

/// Writes the artifact of a program into a folder, which is made if it isn't there. Gives what each kernel takes, shared
/// memory that is given at the launch included, where NVIDIA's assembler is at hand.
///
/// # Errors
/// A node has no kernel on the target, a kernel can't be compiled, or a file can't be written.
pub fn write(program: &Program, target: &Target, folder: &Path) -> Result<Vec<Usage>> {
    check(program).map_err(|e| e.context(format!("for {}", target.name)))?;
    let module = ptx::optimized(&program.kernels, target)?;
    let text = ptx::assemble(&module, target)?;
    let plan = plan::encode(program, 0)?;
    let weights = Weights::new(&plan.constants);
    let at = |name: &str| folder.join(name);
    let put = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).map_err(|e| failed(&at(name), e));
    fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
    put("model.ptx", text.as_bytes())?;
    put("model.h", header_text(program).as_bytes())?;
    write_weights(&weights, &at("model.weights"))?;
    let mut usages = match Ptxas::find() {
        Some(ptxas) => Some(ptxas.assemble(&at("model.ptx"), &target.name, &at("model.cubin"))?),
        None => None,
    };
    for u in usages.iter_mut().flatten() {
        let launch =
            program.kernels.iter().position(|k| k.name == u.name).and_then(|k| module.launches.get(k));
        u.shared += launch.map_or(0, |l| l.shared_bytes);
    }
    let source = source(program, &plan, &weights, &module.launches, usages.is_some());
    put("model.c", source.as_bytes())?;
    Ok(usages.unwrap_or_default())
}

pub(super) fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::new(format!("{}: cannot be written: {e}", path.display()))
}

pub(super) fn write_weights(weights: &Weights, path: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (offset, bytes) in &weights.distinct {
            file.seek(SeekFrom::Start(*offset))?;
            file.write_all(bytes)?;
        }
        file.flush()
    };
    write().map_err(|e| failed(path, e))
}

/// The launcher: tables of this model, and the code that is the same for all.
fn source(program: &Program, plan: &Plan, weights: &Weights, launches: &[Launch], has_cubin: bool) -> String {
    let mut c = String::from(
        "/* The launcher of a model for CUDA GPUs. To make a library of it, in this folder:\n \
         *     cc -O2 -shared -fPIC model.c -o model.so -ldl */\n#define _GNU_SOURCE\n#include \"model.h\"\n\n",
    );
    c += PLAN_FORMAT;
    let most = |n: Option<usize>| n.unwrap_or(0);
    let rank = most(program.inputs.iter().chain(&program.outputs).map(|p| p.ty.rank()).max());
    let counts = [
        ("N_KERNELS", program.kernels.len()),
        ("N_SYMBOLS", plan.symbols.len()),
        ("N_EXPRS", plan.words.get(8).map_or(0, |n| *n as usize)),
        ("N_BUFFERS", program.buffers.len()),
        ("N_INPUTS", program.inputs.len()),
        ("N_OUTPUTS", program.outputs.len()),
        ("MAX_RANK", rank),
        ("MAX_ARGS", most(program.kernels.iter().map(|k| k.params.len()).max())),
        ("MAX_SYMBOLS", most(program.kernels.iter().map(|k| k.symbols.len()).max())),
        ("MAX_MAPS", most(launches.iter().map(|l| l.maps.len()).max())),
        ("MAX_AXES", MAX_AXES),
    ];
    for (name, n) in counts {
        let _ = writeln!(c, "#define {name} {n}");
    }
    let _ = writeln!(c, "#define WEIGHT_BYTES ((size_t){}u)\n", weights.size);
    embed(&mut c, "model_code", if has_cubin { "model.cubin" } else { "model.ptx" });
    if has_cubin {
        embed(&mut c, "model_ptx", "model.ptx");
    }
    embed(&mut c, "model_weights", "model.weights");
    let portable = if has_cubin { "model_ptx" } else { "NULL" };
    let _ = writeln!(c, "static const void *const model_portable = {portable};\n");
    array(&mut c, "int64_t", "plan_words", plan.words.iter().map(|w| format!("{:#x}", w.cast_unsigned())));
    array(&mut c, "size_t", "constant_offsets", weights.offsets.iter().map(u64::to_string));
    c += "\nstatic int64_t divide(int64_t a, int64_t b);\nstatic int64_t modulo(int64_t a, int64_t b);\n\
          static int64_t least(int64_t a, int64_t b);\nstatic int64_t most(int64_t a, int64_t b);\n\n\
          typedef struct {\n    int type, element, rank;\n    unsigned boxed[2];\n    int64_t arg, first, extents[MAX_AXES], steps[MAX_AXES];\n\
          } model_map;\n\n\
          typedef struct {\n    const char *name;\n    void (*grid)(const int64_t *symbols, int64_t *grid);\n    \
          unsigned threads[3], shared;\n    int64_t n_maps;\n    \
          void (*map)(const int64_t *symbols, int64_t map, model_map *m);\n} model_kernel;\n\n";
    for (k, (kernel, launch)) in program.kernels.iter().zip(launches).enumerate() {
        let [x, y, z] = [0, 1, 2].map(|axis| expression(&launch.grid[axis], kernel));
        let _ = writeln!(
            c,
            "static void grid_{k}(const int64_t *s, int64_t *g)\n{{\n    (void)s;\n    g[0] = {x};\n    g[1] = {y};\n    \
             g[2] = {z};\n}}\n"
        );
        maps(&mut c, k, kernel, launch);
    }
    let row = |(k, (kernel, l)): (usize, (&Kernel, &Launch))| {
        let [x, y, z] = l.threads;
        let map = if l.maps.is_empty() { "NULL".to_owned() } else { format!("map_{k}") };
        let (name, shared, n_maps) = (&kernel.name, l.shared_bytes, l.maps.len());
        format!("\n    {{\"{name}\", grid_{k}, {{{x}, {y}, {z}}}, {shared}, {n_maps}, {map}}}")
    };
    array(&mut c, "model_kernel", "model_kernels", program.kernels.iter().zip(launches).enumerate().map(row));
    info(&mut c, program, weights.size);
    c += LAUNCHER;
    c
}

/// The function of a kernel that says what boxes are copied of.
fn maps(c: &mut String, number: usize, kernel: &Kernel, launch: &Launch) {
    if launch.maps.is_empty() {
        return;
    }
    let _ = writeln!(
        c,
        "static void map_{number}(const int64_t *s, int64_t map, model_map *m)\n{{\n    (void)s;\n    switch (map) {{"
    );
    for (k, m) in launch.maps.iter().enumerate() {
        let list = |of: &dyn Fn(&(Dim, Dim)) -> String| m.axes.iter().map(of).collect::<Vec<_>>().join(", ");
        let extents = list(&|(extent, _)| expression(extent, kernel));
        let steps = list(&|(_, step)| expression(step, kernel));
        let [columns, rows] = m.extent;
        let (ty, size, rank, arg) = (map_type(m.dtype), m.dtype.size(), m.axes.len(), m.param);
        let first = expression(&m.first, kernel);
        let _ = writeln!(
            c,
            "    case {k}:\n        *m = (model_map){{{ty}, {size}, {rank}, {{{columns}, {rows}}}, {arg}, {first},\n            \
             {{{extents}}}, {{{steps}}}}};\n        break;"
        );
    }
    *c += "    }\n}\n\n";
}

/// The number of an element's type in `CUtensorMapDataType`.
fn map_type(dtype: DType) -> u32 {
    match (dtype, dtype.size()) {
        (DType::F16, _) => 6,
        (DType::BF16, _) => 9,
        (_, 1) => 0,
        (_, 2) => 1,
        (_, 4) => 2,
        _ => 4,
    }
}

/// A file as an array of bytes that a zero follows.
pub(super) fn embed(c: &mut String, name: &str, file: &str) {
    let _ = writeln!(
        c,
        "__asm__(\".pushsection .rodata\\n.balign {ALIGNMENT}\\n{name}:\\n.incbin \\\"{file}\\\"\\n.byte 0\\n.popsection\\n\");\n\
         extern const char {name}[] __attribute__((visibility(\"hidden\")));"
    );
}

pub(super) fn array(c: &mut String, ty: &str, name: &str, elements: impl Iterator<Item = String>) {
    // No array of C is empty.
    let end = if ty.ends_with("_t") { "0" } else { "{0}" };
    let elements: Vec<String> = elements.chain([end.to_owned()]).collect();
    let _ = write!(c, "static const {ty} {name}[] = {{");
    for (k, e) in elements.iter().enumerate() {
        let _ = write!(c, "{}{e},", if k % 12 == 0 { "\n    " } else { " " });
    }
    *c += "\n};\n";
}

/// `aic_info` and what it refers to.
pub(super) fn info(c: &mut String, program: &Program, constant_bytes: u64) {
    for (side, ports) in [("inputs", &program.inputs), ("outputs", &program.outputs)] {
        for (k, p) in ports.iter().enumerate() {
            let dims = p.ty.dims.iter().map(|d| d.as_const().unwrap_or(-1).to_string());
            array(c, "int64_t", &format!("{side}_dims_{k}"), dims);
        }
        let port = |(k, p): (usize, &Port)| {
            let (name, ty) = (quoted(&p.name), quoted(&p.ty.to_string()));
            format!("\n    {{{name}, {ty}, {side}_dims_{k}, {}, {}}}", p.ty.rank(), p.ty.dtype.onnx())
        };
        array(c, "aic_port_info", &format!("model_{side}"), ports.iter().enumerate().map(port));
    }
    let (name, version) = (quoted(&program.name), quoted(env!("CARGO_PKG_VERSION")));
    let arena = program.arena_bytes.as_const().unwrap_or(-1);
    let _ = writeln!(
        c,
        "\nstatic const aic_model_info model_info = {{\n    sizeof(aic_model_info), N_INPUTS, N_OUTPUTS, 0, {name}, {version},\n    \
         model_inputs, model_outputs, {arena}, {constant_bytes},\n}};\n"
    );
}

/// A string of C.
pub(super) fn quoted(text: &str) -> String {
    let escaped = text.bytes().map(|b| match b {
        b'"' | b'\\' | b'?' => format!("\\{}", b as char),
        32..=126 => (b as char).to_string(),
        _ => format!("\\{b:03o}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// An expression over a kernel's symbols in C, where they are `s[0]`, `s[1]`, ...
fn expression(d: &Dim, kernel: &Kernel) -> String {
    let term = |(coeff, factors): (i64, &[Atom])| {
        let product: Vec<String> = factors.iter().map(|a| atom(a, kernel)).collect();
        format!("{coeff} * {}", product.join(" * "))
    };
    let sum: Vec<String> = d.terms().map(term).chain([d.constant().to_string()]).collect();
    format!("({})", sum.join(" + "))
}

fn atom(a: &Atom, kernel: &Kernel) -> String {
    let symbol = |s: &Sym| kernel.symbols.iter().position(|(other, _)| other == s).unwrap_or(0);
    let call = |name: &str, a: &Dim, b: &Dim| {
        format!("{name}({}, {})", expression(a, kernel), expression(b, kernel))
    };
    match a {
        Atom::Sym(s) => format!("s[{}]", symbol(s)),
        Atom::FloorDiv(a, b) => call("divide", a, b),
        Atom::Mod(a, b) => call("modulo", a, b),
        Atom::Min(a, b) => call("least", a, b),
        Atom::Max(a, b) => call("most", a, b),
    }
}

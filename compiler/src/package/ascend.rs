//! The artifact of a model for Ascend NPUs: a folder with a file for each kernel, the weights, a launcher with the C
//! interface of the CPU's artifact, and what CMake needs to make a library of it on a machine with CANN.

use super::cuda::{array, embed, failed, info, write_weights};
use super::header_text;
use super::model_object::Weights;
use crate::ascend::{Compiled, Step, bytes_of};
use aic_backends::ascendc::host;
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::program::{Place, Port};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const LAUNCHER: &str = include_str!("../../runtime/ascend.cpp");

/// Writes the artifact into a folder, which is made if it isn't there.
///
/// # Errors
/// A size isn't known, or a file can't be written.
pub fn write(c: &Compiled, target: &Target, folder: &Path) -> Result<()> {
    let constants: Vec<Tensor> = constants(c).map(|(_, t)| t.clone()).collect();
    let weights = Weights::new(&constants);
    let kernels = folder.join("kernels");
    fs::create_dir_all(&kernels).map_err(|e| failed(&kernels, e))?;
    let put = |path: &Path, text: &str| fs::write(path, text).map_err(|e| failed(path, e));
    for k in &c.kernels {
        put(&kernels.join(format!("{}.cpp", k.name)), &k.text)?;
    }
    put(&folder.join("model.h"), &header_text(&c.program))?;
    put(&folder.join("model.cpp"), &launcher(c, &weights)?)?;
    if !c.functions.is_empty() {
        put(&folder.join("host.cpp"), &functions(c))?;
    }
    put(&folder.join("CMakeLists.txt"), &cmake(c, target))?;
    put(&folder.join("README.md"), &readme(c, target))?;
    write_weights(&weights, &folder.join("model.weights"))
}

/// The constants and their buffers.
fn constants(c: &Compiled) -> impl Iterator<Item = (usize, &Tensor)> {
    c.program.buffers.iter().enumerate().filter_map(|(k, b)| match &b.place {
        Place::Constant(t) => Some((k, t)),
        _ => None,
    })
}

/// The steps on the host.
fn functions(c: &Compiled) -> String {
    let mut text = String::from("// Steps of the model on the host.\n");
    text += host::FUNCTIONS;
    text.push('\n');
    c.functions.iter().for_each(|f| text += &f.text);
    text
}

/// Tables of this model, the code that is the same for all, and its steps.
fn launcher(c: &Compiled, weights: &Weights) -> Result<String> {
    let mut text =
        String::from("// The launcher of a model for Ascend NPUs; README.md says how to build it.\n");
    for include in ["atomic", "cstdarg", "cstdio", "cstring", "initializer_list", "mutex", "new", "vector"] {
        let _ = writeln!(text, "#include <{include}>");
    }
    text += "\n#include \"acl/acl.h\"\n#include \"model.h\"\n";
    for k in &c.kernels {
        let _ = writeln!(text, "#include \"aclrtlaunch_{}.h\"", k.name);
    }
    let p = &c.program;
    let Some(arena) = p.arena_bytes.as_const() else { bail!("the size of intermediate results isn't known") };
    let workspace = c.kernels.iter().map(|k| k.workspace).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "\nenum {{ N_INPUTS = {}, N_OUTPUTS = {}, N_BUFFERS = {} }};\n\
         constexpr size_t WEIGHT_BYTES = {}, ARENA_BYTES = {arena}, WORKSPACE_BYTES = {workspace};\n",
        p.inputs.len(),
        p.outputs.len(),
        p.buffers.len(),
        weights.size
    );
    embed(&mut text, "model_weights", "model.weights");
    text += "\nenum model_place { WEIGHT, ARENA, SAME, PORT };\n\n\
             // Where a buffer lies: at this offset, or where another one does.\n\
             struct model_buffer {\n    size_t at, bytes;\n    model_place place;\n};\n\n";
    let rows = (0..p.buffers.len()).map(|k| row(c, weights, k)).collect::<Result<Vec<_>>>()?;
    array(&mut text, "model_buffer", "model_buffers", rows.into_iter());
    for (side, ports) in [("input", &p.inputs), ("output", &p.outputs)] {
        array(
            &mut text,
            "int32_t",
            &format!("{side}_buffers"),
            ports.iter().map(|p: &Port| p.buffer.to_string()),
        );
    }
    info(&mut text, p, weights.size);
    for f in &c.functions {
        let _ = writeln!(text, "void {}(uint8_t* const* a);", f.name);
    }
    text.push('\n');
    text += LAUNCHER;
    text += "\nnamespace {\n\nint32_t steps(aic_session *s) {\n    [[maybe_unused]] uint8_t *const *const at = s->at;\n";
    for step in &c.steps {
        let _ = writeln!(text, "    {}", step_text(c, step));
    }
    text += "    return AIC_OK;\n}\n\n}  // namespace\n";
    Ok(text)
}

fn row(c: &Compiled, weights: &Weights, k: usize) -> Result<String> {
    let bytes = bytes_of(&c.program, k)?;
    let (place, at) = match &c.program.buffers[k].place {
        Place::Input(_) | Place::Output(_) => ("PORT", 0),
        Place::Constant(_) => {
            let n = constants(c).position(|(at, _)| at == k).unwrap_or_default();
            ("WEIGHT", weights.offsets[n])
        }
        Place::Arena(at) => match at.as_const().and_then(|n| u64::try_from(n).ok()) {
            Some(at) => ("ARENA", at),
            None => bail!("the place of buffer {k} isn't known"),
        },
        Place::Alias(of) => ("SAME", *of as u64),
        Place::Heap => bail!("the size of buffer {k} isn't known before it is run"),
    };
    Ok(format!("{{{at}, {bytes}, {place}}}"))
}

fn step_text(c: &Compiled, step: &Step) -> String {
    let list = |args: &[usize], start: &str| -> String {
        args.iter().map(|a| format!("{start}{a}")).collect::<Vec<_>>().join(", ")
    };
    match step {
        Step::Launch { kernel, args, nodes } => {
            let k = &c.kernels[*kernel];
            let args: String = args.iter().map(|a| format!(", at[{a}]")).collect();
            let workspace = if k.workspace > 0 { ", s->workspace" } else { "" };
            format!(
                "ACLRT_LAUNCH_KERNEL({})({}, s->stream{args}{workspace});{}",
                k.name,
                k.blocks,
                comment(nodes)
            )
        }
        Step::Host { function, args, nodes, .. } => {
            let f = &c.functions[*function];
            format!("TRY(on_host(s, {}, {}, {{{}}}));{}", f.name, f.n_inputs, list(args, ""), comment(nodes))
        }
        Step::Copy { src, dst } => format!("TRY(copy(s, {dst}, {src}));"),
    }
}

/// Source nodes behind a line; names can't end or continue a comment.
fn comment(nodes: &[String]) -> String {
    let names = nodes.join(", ").replace(|c: char| c.is_control() || c == '\\', " ");
    if names.is_empty() { names } else { format!("  // {names}") }
}

fn cmake(c: &Compiled, target: &Target) -> String {
    let kernels: String = c
        .kernels
        .iter()
        .map(|k| format!("\n    ${{CMAKE_CURRENT_SOURCE_DIR}}/kernels/{}.cpp", k.name))
        .collect();
    let host = if c.functions.is_empty() { "" } else { " host.cpp" };
    let library = |name: &str| match c.kernels.is_empty() {
        true => String::new(),
        false => name.to_owned(),
    };
    let kernel_library = library(&format!(
        "include(${{ASCENDC_CMAKE}}/ascendc.cmake)\nascendc_library(kernels STATIC{kernels})\n"
    ));
    format!(
        "# Makes libmodel.so of this folder on a machine with CANN 8.\n\
         cmake_minimum_required(VERSION 3.16)\nproject(model CXX)\n\n\
         set(SOC_VERSION \"Ascend{}\" CACHE STRING \"the chip\")\n\
         set(RUN_MODE \"npu\" CACHE STRING \"npu, sim or cpu\")\n\
         set(ASCEND_CANN_PACKAGE_PATH \"/usr/local/Ascend/ascend-toolkit/latest\" CACHE PATH \"the installation of CANN\")\n\n\
         find_path(ASCENDC_CMAKE ascendc.cmake NO_DEFAULT_PATH REQUIRED PATHS\n    \
             ${{ASCEND_CANN_PACKAGE_PATH}}/compiler/tikcpp/ascendc_kernel_cmake\n    \
             ${{ASCEND_CANN_PACKAGE_PATH}}/tools/tikcpp/ascendc_kernel_cmake)\n\
         {kernel_library}\n\
         add_library(model SHARED model.cpp{host})\n\
         target_compile_features(model PRIVATE cxx_std_17)\n\
         # The weights are included from the source folder.\n\
         target_compile_options(model PRIVATE -Wa,-I${{CMAKE_CURRENT_SOURCE_DIR}})\n\
         target_include_directories(model PRIVATE ${{ASCEND_CANN_PACKAGE_PATH}}/include)\n\
         target_link_directories(model PRIVATE ${{ASCEND_CANN_PACKAGE_PATH}}/lib64)\n\
         target_link_libraries(model PRIVATE {}ascendcl)\n",
        target.name,
        library("kernels ")
    )
}

fn readme(c: &Compiled, target: &Target) -> String {
    let mut text = format!(
        "# A model for Ascend {}\n\n\
         On a machine with CANN 8 and this chip:\n\n    \
             cmake -B build -DASCEND_CANN_PACKAGE_PATH=/usr/local/Ascend/ascend-toolkit/latest\n    \
             cmake --build build\n\n\
         makes `build/libmodel.so`, whose C interface is `model.h`: `aic_open`, `aic_run`, `aic_close`.\n\
         The shapes of inputs are those that the model was compiled for.\n\n\
         | file | what it is |\n|---|---|\n\
         | `kernels/*.cpp` | Ascend C, a kernel each |\n\
         | `model.cpp` | the launcher: memory, the order of launches, the C interface |\n",
        target.name
    );
    if !c.functions.is_empty() {
        text += "| `host.cpp` | steps on the host, with why they aren't kernels listed below |\n";
    }
    text += "| `model.weights` | the weights, which the library holds |\n\n\
             | kernel | cores | blocks | launches | nodes |\n|---|---|---|---|---|\n";
    for (at, k) in c.kernels.iter().enumerate() {
        let mut launches = c.steps.iter().filter_map(|s| match s {
            Step::Launch { kernel, nodes, .. } if *kernel == at => Some(nodes),
            _ => None,
        });
        let first = launches.next().map(|nodes| cell(&nodes.join(", "))).unwrap_or_default();
        let n = 1 + launches.count();
        let more = if n > 1 { ", ..." } else { "" };
        let _ =
            writeln!(text, "| `{}` | {} | {} | {n} | {first}{more} |", k.name, k.task.keyword(), k.blocks);
    }
    let on_host: Vec<&Step> = c.steps.iter().filter(|s| matches!(s, Step::Host { .. })).collect();
    if !on_host.is_empty() {
        text += "\n| step on the host | why | nodes |\n|---|---|---|\n";
    }
    for step in on_host {
        if let Step::Host { function, nodes, reason, .. } = step {
            let name = &c.functions[*function].name;
            let _ = writeln!(text, "| `{name}` | {} | {} |", cell(reason), cell(&nodes.join(", ")));
        }
    }
    text
}

/// Text in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(|c: char| c.is_control(), " ")
}

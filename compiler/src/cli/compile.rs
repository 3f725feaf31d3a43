//! `aic compile`: a model as an artifact, or as one of the forms it takes on the way.

use super::args::{self, CodeArgs, ModelArgs, OptimiseArgs, RecordArgs};
use super::print::{self, Progress};
use aic::ascend;
use aic::driver::{self, Source};
use aic::graph_file;
use aic::import::file;
use aic::import::onnx::ImportOptions;
use aic::package::{self, Kind};
use aic_backends::{CpuOptions, TextKind, ptx, x86};
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::program::{Program, Step};
use bytes::BufMut;
use std::path::PathBuf;
use std::str::FromStr;
use target_lexicon::{Architecture, BinaryFormat, OperatingSystem, Triple};

const EXAMPLES: &str = "\
Examples:
  aic compile model.onnx -o model.so                  and model.h beside it
  aic compile model.onnx -o m.so --dim batch=1        for this batch size only
  aic compile model.onnx -o m.o --cpu x86-64-v3       for any CPU with AVX2
  aic compile model.onnx -o - --emit kernels | less   the loops it becomes
  aic compile model.onnx -o model.ll --emit llvm
  aic compile model.onnx -o m.so --backend cranelift  compiled quickly
  aic compile model.onnx -o m.so --numerics exact     the bits of -O0
  aic compile model.onnx -o m.mlir --target mlir      for another compiler
  aic compile model.onnx -o folder --target ptx       PTX for CUDA GPUs
  aic compile model.onnx -o folder --target ascendc   Ascend C for NPUs

What is emitted follows from the name: .so and .o as such, .aic graph, .s asm, .ll llvm, .kernels kernels.";

/// Compile a model to a shared library, an object file, or a text
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to write it; - is standard output, for texts
    #[arg(short, long, value_name = "OUT", default_value = "-")]
    output: PathBuf,
    /// What to write; if not given, what the name of OUT says
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// What for: x86, a triple such as x86_64-unknown-linux-gnu, mlir, which is for other compilers, ptx:sm_80 or
    /// ptx:sm_90a for CUDA GPUs, or ascendc:910B3 for Ascend NPUs
    #[arg(long, value_name = "TARGET", default_value = "x86", value_parser = parse_target)]
    target: Target,
    /// With --target mlir: how far down it is compiled
    #[arg(id = "mlir_level", long = "level", value_enum, value_name = "LEVEL", default_value = "graph")]
    level: Level,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    optimise: OptimiseArgs,
    #[command(flatten)]
    records: RecordArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Emit {
    /// The graph after all passes, as text
    Graph,
    /// The loop kernels, as text
    Kernels,
    /// LLVM IR, as text
    Llvm,
    /// Assembly
    Asm,
    /// An object file, with a header beside it
    Obj,
    /// A shared library, with a header beside it
    So,
}

/// What is compiled for.
#[derive(Clone, Debug)]
enum Target {
    Cpu(Triple),
    Device(aic_ir::target::Target),
    Mlir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// One function over tensors: linalg, tensor, scf, arith and math
    Graph,
    /// A function over buffers for each kernel: memref, scf, vector, arith and math
    Loops,
}

fn parse_target(text: &str) -> std::result::Result<Target, String> {
    if text == "mlir" {
        return Ok(Target::Mlir);
    }
    if text.starts_with("ptx") || text.starts_with("ascendc") {
        return args::parse_device(text).map(Target::Device);
    }
    let text = if text == "x86" { x86::TRIPLE } else { text };
    let triple = Triple::from_str(text).map_err(|error| error.to_string())?;
    let supported = triple.architecture == Architecture::X86_64
        && triple.operating_system == OperatingSystem::Linux
        && triple.binary_format == BinaryFormat::Elf;
    match supported {
        true => Ok(Target::Cpu(triple)),
        false => Err(format!(
            "there is no code generator for it; the targets are x86, {}, mlir, ptx:sm_80, ptx:sm_90a and ascendc:910B3",
            x86::TRIPLE
        )),
    }
}

/// Compiles.
///
/// # Errors
/// The model can't be compiled, or OUT can't be written.
pub fn execute(args: &Args) -> Result<()> {
    let triple = match &args.target {
        Target::Cpu(triple) => triple,
        Target::Device(npu) if npu.is_npu() => return for_npu(args, npu),
        Target::Device(gpu) => return for_gpu(args, gpu),
        Target::Mlir => return export(args),
    };
    if args.level == Level::Loops {
        return Err(Error::new("--level is for MLIR").help("say --target mlir"));
    }
    let emit = emit(args)?;
    let source = args.model.load()?;
    let cpu = CpuOptions { triple: triple.to_string(), ..args.code.options() };
    let _progress = Progress::start("compiling");
    let program = program(&source, args, &cpu)?;
    let text = match emit {
        Emit::Graph if args.output.as_os_str() != "-" => {
            return graph_file::write(&args.output, &program.graph);
        }
        Emit::Graph => program.graph.to_string(),
        Emit::Kernels => kernels(&program),
        Emit::Llvm => aic_backends::emit_text(&program.kernels, &cpu, TextKind::LlvmIr)?,
        Emit::Asm => aic_backends::emit_text(&program.kernels, &cpu, TextKind::Asm)?,
        Emit::Obj => return driver::write_artifact(&program, &cpu, Kind::Object, &args.output).map(drop),
        Emit::So => {
            return driver::write_artifact(&program, &cpu, Kind::SharedLibrary, &args.output).map(drop);
        }
    };
    write_text(args, &text)
}

/// Writes the folder with PTX and its launcher; of texts the graph and the kernels.
fn for_gpu(args: &Args, gpu: &aic_ir::target::Target) -> Result<()> {
    let source = args.model.load()?;
    let progress = Progress::start("compiling");
    let options = args.optimise.options(args.code.options())?;
    let program = driver::lower_for(import(&source, args)?, &options, gpu.clone())?;
    let text = match args.emit {
        None if args.output.as_os_str() == "-" => {
            return Err(Error::new("an artifact for a GPU is a folder")
                .help("name it with -o, or say --emit kernels"));
        }
        None => {
            let usages = package::cuda::write(&program, gpu, &args.output)?;
            drop(progress);
            print::note(&taken(&program, &usages));
            return Ok(());
        }
        Some(Emit::Graph) => program.graph.to_string(),
        Some(Emit::Kernels) => kernels(&program),
        Some(Emit::Llvm) => ptx::text(&ptx::optimized(&program.kernels, gpu)?)?,
        Some(Emit::Asm) => ptx::assemble(&ptx::optimized(&program.kernels, gpu)?, gpu)?,
        Some(Emit::Obj | Emit::So) => {
            return Err(Error::new("for a GPU a folder is written").help("leave --emit out"));
        }
    };
    drop(progress);
    write_text(args, &text)
}

/// What the kernels of a program take, in a line.
fn taken(program: &Program, usages: &[ptx::Usage]) -> String {
    let launches = program.steps.iter().filter(|s| matches!(s, Step::Launch { .. })).count();
    let mut line = format!("{} kernels, {launches} launches", program.kernels.len());
    for (what, unit, of) in [
        ("registers", "", (|u| u.registers) as fn(&ptx::Usage) -> u32),
        ("shared memory", " bytes", |u| u.shared),
        ("spilled", " bytes", |u| u.spilled),
    ] {
        if let Some(u) = usages.iter().max_by_key(|u| of(u)) {
            let name = if of(u) > 0 { format!(" ({})", u.name) } else { String::new() };
            line += &format!("; {what}: at most {}{unit}{name}", of(u));
        }
    }
    line
}

/// Writes the folder with Ascend C and its launcher; of texts the graph and the kernels.
fn for_npu(args: &Args, npu: &aic_ir::target::Target) -> Result<()> {
    let source = args.model.load()?;
    let progress = Progress::start("compiling");
    let options = args.optimise.options(args.code.options())?;
    let program = driver::lower_for(import(&source, args)?, &options, npu.clone())?;
    let text = match args.emit {
        None if args.output.as_os_str() == "-" => {
            return Err(Error::new("an artifact for an NPU is a folder")
                .help("name it with -o, or say --emit kernels"));
        }
        None => {
            let compiled = ascend::compile(program, npu)?;
            package::ascend::write(&compiled, npu, &args.output)?;
            drop(progress);
            args::report_host_steps(&compiled, false)?;
            print::note(&format!("{} kernels", compiled.kernels.len()));
            return Ok(());
        }
        Some(Emit::Graph) => program.graph.to_string(),
        Some(Emit::Kernels) => kernels(&program),
        Some(Emit::Llvm | Emit::Asm | Emit::Obj | Emit::So) => {
            return Err(Error::new("for an NPU a folder of sources is written").help("leave --emit out"));
        }
    };
    drop(progress);
    write_text(args, &text)
}

/// Writes MLIR.
fn export(args: &Args) -> Result<()> {
    if args.emit.is_some() {
        return Err(Error::new("--target mlir emits MLIR and nothing else").help("leave --emit out"));
    }
    let source = args.model.load()?;
    let progress = Progress::start("compiling");
    let options = args.optimise.options(args.code.options())?;
    let graph = import(&source, args)?;
    let module = match args.level {
        Level::Graph => driver::export(graph, &options)?,
        Level::Loops => driver::export_kernels(graph, &options)?,
    };
    drop(progress);
    match args.output.as_os_str() == "-" {
        true => print::stdout_with(|out| module.write(out)),
        false => file::write(&args.output, |file| {
            // What can't be written is reported when the file is closed.
            let _ = module.write(&mut file.writer());
        }),
    }
}

/// The kernels of a program in text form.
fn kernels(program: &Program) -> String {
    program.kernels.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Writes a text where it is wanted.
fn write_text(args: &Args, text: &str) -> Result<()> {
    match args.output.as_os_str() == "-" {
        true => print::stdout(text),
        false => file::write(&args.output, |file| file.put_slice(text.as_bytes())),
    }
}

fn import(source: &Source, args: &Args) -> Result<Graph> {
    let options = ImportOptions { dims: args.model.dims()?, ..ImportOptions::default() };
    let imported = source.import(&options)?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    Ok(imported.graph)
}

fn program(source: &Source, args: &Args, cpu: &CpuOptions) -> Result<Program> {
    let options = args.records.apply(args.optimise.options(cpu.clone())?, args::n_threads(0))?;
    let program = driver::lower(import(source, args)?, &options)?;
    args.records.report(&program, &options.choices);
    Ok(program)
}

/// What was asked for, or else what the name of the file says.
fn emit(args: &Args) -> Result<Emit> {
    if let Some(emit) = args.emit {
        return match emit {
            Emit::Obj | Emit::So if args.output.as_os_str() == "-" => {
                Err(Error::new("only texts can be written to standard output").help("name a file with -o"))
            }
            _ => Ok(emit),
        };
    }
    let extension = args.output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match extension.as_str() {
        "so" => Ok(Emit::So),
        "o" => Ok(Emit::Obj),
        "aic" => Ok(Emit::Graph),
        "kernels" => Ok(Emit::Kernels),
        "ll" => Ok(Emit::Llvm),
        "s" => Ok(Emit::Asm),
        _ => {
            let error = format!("{}: the name does not say what to emit", args.output.display());
            Err(Error::new(error).help("end it in .so, .o, .aic, .kernels, .ll or .s, or say --emit"))
        }
    }
}

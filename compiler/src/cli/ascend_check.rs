//! `aic ascend-check`: a kernel in Ascend C on the model of the chip.

use super::print::{self, Progress};
use aic::io;
use aic_backends::ascendc::emulator::{Contents, Emulator, Job, KernelFile, Settings, Step};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::{Tensor, numel};
use aic_ir::{bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  aic ascend-check relu.cpp --arg x=f16[16384] --arg y=out:f16[16384]
  aic ascend-check k.cpp --arg x=x.npy --arg z=out:f32[64] --outputs results
  aic ascend-check k.cpp --include tiling.h --arg tiling=u32:64,64,8

Compiles the file's kernel against the model of the API and runs it on all cores of a 910B3, its pipes in a random \
legal order for each seed. Broken rules are named with the line; the exit code is then 1. Which rules there are: \
capacities, alignment, the order of queues' operations, types, ranges, overlap, bytes never written, races between \
pipes and cores, flags, fractal layouts.

What an argument holds: TYPE[DIMS], random numbers; zeros:TYPE[DIMS]; out:TYPE[DIMS], nothing, and it is an output; \
FILE.npy; TYPE:N,N,..., these numbers. Arguments of which nothing is said are a MiB of zeros.";

/// Run a kernel in Ascend C on a model of the chip and report broken rules
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The kernel's file
    #[arg(value_name = "FILE.cpp")]
    file: PathBuf,
    /// What an argument of the kernel holds; may be repeated
    #[arg(long = "arg", value_name = "NAME=WHAT", value_parser = parse_arg)]
    args: Vec<(String, What)>,
    /// A header that its host defines the kernel's tiling in, or another one; may be repeated
    #[arg(long = "include", value_name = "FILE.h")]
    includes: Vec<PathBuf>,
    /// What the build of its project defines, like DTYPE_X=half; may be repeated
    #[arg(long = "define", value_name = "NAME=TEXT")]
    defines: Vec<String>,
    /// Blocks that it is launched on
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=48))]
    blocks: u32,
    /// How many orders of execution to try
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Take for granted what the vendor's compiler adds: the order of vector instructions, and of the scalar unit
    #[arg(long)]
    auto_sync: bool,
    /// A folder to write the outputs to, as NAME.npy
    #[arg(long, value_name = "DIR")]
    outputs: Option<PathBuf>,
}

/// What an argument holds.
#[derive(Clone, Debug, PartialEq)]
enum What {
    Random(DType, Vec<usize>),
    Zeros(DType, Vec<usize>),
    Output(DType, Vec<usize>),
    Numbers(DType, Vec<f64>),
    File(PathBuf),
}

/// Bytes of an argument of which nothing is said.
const BYTES: u64 = 1 << 20;
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(600);

fn parse_arg(text: &str) -> std::result::Result<(String, What), String> {
    let Some((name, what)) = text.split_once('=') else { return Err("expected NAME=WHAT".into()) };
    let shaped = |text: &str| {
        let (dtype, dims) = text.strip_suffix(']')?.split_once('[')?;
        let dims = dims.split(',').map(|d| d.trim().parse().ok()).collect::<Option<Vec<usize>>>()?;
        Some((DType::from_keyword(dtype)?, dims))
    };
    let what = match what.split_once(':') {
        _ if Path::new(what).extension().is_some_and(|e| e == "npy") => Some(What::File(what.into())),
        Some(("zeros", rest)) => shaped(rest).map(|(t, d)| What::Zeros(t, d)),
        Some(("out", rest)) => shaped(rest).map(|(t, d)| What::Output(t, d)),
        Some((dtype, numbers)) => {
            let numbers = numbers.split(',').map(|n| n.trim().parse().ok()).collect::<Option<Vec<f64>>>();
            DType::from_keyword(dtype).zip(numbers).map(|(t, n)| What::Numbers(t, n))
        }
        None => shaped(what).map(|(t, d)| What::Random(t, d)),
    };
    let help = "expected NAME=TYPE[DIMS], zeros:TYPE[DIMS], out:TYPE[DIMS], FILE.npy or TYPE:N,N";
    what.map(|w| (name.to_owned(), w)).ok_or_else(|| help.to_owned())
}

/// Checks.
///
/// # Errors
/// The file holds no kernel, it can't be compiled or run, or it breaks a rule.
pub fn execute(args: &Args) -> Result<()> {
    let path = &args.file;
    let kernel = KernelFile::parse(path.clone(), text(args)?)?;
    if let Some((name, _)) = args.args.iter().find(|(name, _)| !kernel.args.contains(name)) {
        bail!("{} has no argument {name}; it has {}", kernel.name, kernel.args.join(", "));
    }
    let job = job(args, &kernel)?;
    let emulator = {
        let _progress = Progress::start("compiling");
        Emulator::build(std::slice::from_ref(&kernel), &[])?
    };
    let mut rows = vec![["seed", "rule", "where", "what"].map(str::to_owned).to_vec()];
    for seed in 1..=args.seeds {
        let settings = Settings { seed, is_strict: !args.auto_sync, ..Settings::default() };
        let outcome = emulator.run(&job, &settings, LIMIT)?;
        for v in &outcome.violations {
            rows.push(vec![seed.to_string(), v.rule.clone(), v.place.clone(), v.text.clone()]);
        }
        if seed == 1 {
            for t in &outcome.times {
                let us = t.seconds(&settings) * 1e6;
                print::note(&format!("{}: predicted {us:.1} us, bound by {}", t.kernel, t.bound(&settings)));
            }
            write_outputs(args, &kernel, &job, outcome.outputs)?;
        }
    }
    match rows.len() - 1 {
        0 => print::stdout(&format!("{}: no rule is broken in {} orders\n", kernel.name, args.seeds)),
        n => {
            print::stdout(&print::table(&rows))?;
            Err(Error::new(format!("{} breaks rules of the chip: {n} reports", kernel.name)))
        }
    }
}

/// The kernel's text behind definitions and headers; lines are counted as in their files.
fn text(args: &Args) -> Result<String> {
    let mut text = String::new();
    for d in &args.defines {
        text += &format!("#define {}\n", d.replacen('=', " ", 1));
    }
    for path in args.includes.iter().chain([&args.file]) {
        let file = std::fs::read_to_string(path)
            .map_err(|e| Error::new(format!("{}: cannot be read: {e}", path.display())))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("#line 1 \"{name}\"\n{file}\n");
    }
    Ok(text)
}

/// What is said of an argument.
fn what<'a>(args: &'a Args, name: &str) -> Option<&'a What> {
    args.args.iter().find(|(n, _)| n == name).map(|(_, what)| what)
}

/// A launch of the kernel on the arguments.
fn job(args: &Args, kernel: &KernelFile) -> Result<Job> {
    let mut job = Job::default();
    for (k, name) in kernel.args.iter().enumerate() {
        let bytes = |t: Tensor| (t.bytes().len() as u64, Contents::Bytes(t.bytes().to_vec()));
        let size = |t: DType, dims: &[usize]| Ok((t.size() as u64).saturating_mul(numel(dims)? as u64));
        job.buffers.push(match what(args, name) {
            None => (BYTES, Contents::Zeros),
            Some(What::Zeros(t, dims)) => (size(*t, dims)?, Contents::Zeros),
            Some(What::Output(t, dims)) => (size(*t, dims)?, Contents::Undefined),
            Some(What::Random(t, dims)) => bytes(io::random(*t, dims.clone(), k as u64)?),
            Some(What::Numbers(t, numbers)) => bytes(of_numbers(*t, numbers)?),
            Some(What::File(path)) => bytes(io::read_npy(path)?),
        });
        if matches!(what(args, name), Some(What::Output(..))) {
            job.outputs.push(k);
        }
    }
    let (name, task) = (kernel.name.clone(), kernel.task);
    job.steps.push(Step::Launch {
        kernel: name,
        task,
        blocks: args.blocks,
        args: (0..kernel.args.len()).collect(),
    });
    Ok(job)
}

fn of_numbers(dtype: DType, numbers: &[f64]) -> Result<Tensor> {
    Tensor::generate(dtype, vec![numbers.len()], |k| Scalar::F(numbers[k]).cast(dtype))
}

fn write_outputs(args: &Args, kernel: &KernelFile, job: &Job, outputs: Vec<Vec<u8>>) -> Result<()> {
    let Some(folder) = &args.outputs else { return Ok(()) };
    let mut values = Vec::new();
    let mut ports = Vec::new();
    for (k, bytes) in job.outputs.iter().zip(outputs) {
        let name = &kernel.args[*k];
        let Some(What::Output(dtype, dims)) = what(args, name) else { continue };
        ensure!(!dims.is_empty(), "output {name} has no dims");
        values.push(io::Value::Tensor(Tensor::new(*dtype, dims.clone(), bytes.into())?));
        ports.push(io::Port { name: name.clone(), kind: io::Kind::Tensor(None) });
    }
    io::write_outputs(folder, io::Format::Npy, &ports, &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_what_they_hold() {
        let what = |text: &str| parse_arg(text).map(|(_, what)| what);
        assert_eq!(what("x=f16[2,3]"), Ok(What::Random(DType::F16, vec![2, 3])));
        assert_eq!(what("x=out:f32[7]"), Ok(What::Output(DType::F32, vec![7])));
        assert_eq!(what("t=u32:1,2"), Ok(What::Numbers(DType::U32, vec![1.0, 2.0])));
        assert_eq!(what("x=a/b.npy"), Ok(What::File("a/b.npy".into())));
        for wrong in ["x", "x=f16", "x=f16[", "x=f17[1]", "x=out:2", "t=u32:a"] {
            assert!(what(wrong).is_err(), "{wrong}");
        }
    }
}

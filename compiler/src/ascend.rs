//! Programs for NPUs: their kernels as Ascend C, run on the model of the chip.

use aic_backends::ascendc::emulator::{
    Contents, Emulator, Job, KernelFile, Outcome, Settings, Step as JobStep,
};
use aic_backends::ascendc::{self, Source};
use aic_ir::error::{Error, Result};
use aic_ir::program::{BufferDecl, Place, Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use bytes::Bytes;
use std::time::Duration;

/// How long a program may take on the model.
const LIMIT: Duration = Duration::from_secs(600);

/// The kernels of a program, in its order, each with the source nodes that it computes in a comment.
///
/// # Errors
/// A node has no kernel for the chip, or a kernel has no form in Ascend C; the nodes are named.
pub fn sources(program: &Program, target: &Target) -> Result<Vec<Source>> {
    let mut origins: Vec<Vec<String>> = vec![Vec::new(); program.kernels.len()];
    for step in &program.steps {
        match step {
            Step::Host { node, reason, .. } => {
                let node = program.graph.node(*node);
                let error = Error::new(format!("{reason} on {}", target.name));
                return Err(node.origin.iter().fold(error, |e, o| e.node(o.as_ref())));
            }
            Step::Launch { kernel, origin, .. } => {
                origins[*kernel].extend(origin.iter().map(|o| o.to_string()))
            }
            Step::Copy { .. } => {}
        }
    }
    let kernels = program.kernels.iter().zip(&origins);
    kernels
        .map(|(k, nodes)| {
            let about = vec![format!("{}: {}", k.name, nodes.join(", "))];
            ascendc::kernel(k, target, &about).map_err(|e| nodes.iter().fold(e, |e, o| e.node(o)))
        })
        .collect()
}

/// A program's launches and copies on the model, for inputs of known shapes.
///
/// # Errors
/// A size isn't known, or an input doesn't fit.
pub fn job(program: &Program, sources: &[Source], inputs: &[Tensor]) -> Result<Job> {
    ensure!(
        inputs.len() == program.inputs.len(),
        "expected {} inputs, found {}",
        program.inputs.len(),
        inputs.len()
    );
    let mut job = Job::default();
    for b in &program.buffers {
        job.buffers.push((bytes_of(b)?, contents(b, inputs)?));
    }
    for step in &program.steps {
        match step {
            Step::Launch { kernel, args, .. } => {
                let source = &sources[*kernel];
                let mut args: Vec<usize> = args.iter().map(|a| root(program, *a)).collect();
                if source.workspace > 0 {
                    args.push(job.buffers.len());
                    job.buffers.push((source.workspace, Contents::Undefined));
                }
                let (kernel, task, blocks) = (source.name.clone(), source.task, source.blocks);
                job.steps.push(JobStep::Launch { kernel, task, blocks, args });
            }
            Step::Copy { src, dst } => {
                job.steps.push(JobStep::Copy { src: root(program, *src), dst: root(program, *dst) });
            }
            Step::Host { .. } => bail!("the interpreter's steps are not run on the model"),
        }
    }
    job.outputs = program.outputs.iter().map(|p| root(program, p.buffer)).collect();
    Ok(job)
}

/// The buffer whose memory it is.
fn root(program: &Program, k: usize) -> usize {
    match program.buffers[k].place {
        Place::Alias(of) => root(program, of),
        _ => k,
    }
}

fn bytes_of(b: &BufferDecl) -> Result<u64> {
    let n = b.ty.dims.iter().map(|d| d.as_const()).product::<Option<i64>>();
    match n.and_then(|n| u64::try_from(n).ok()) {
        Some(n) => Ok(n * b.ty.dtype.size() as u64),
        None => bail!("{} has no known size", b.ty),
    }
}

fn contents(b: &BufferDecl, inputs: &[Tensor]) -> Result<Contents> {
    Ok(match &b.place {
        Place::Input(k) => {
            let t = &inputs[*k];
            ensure!(t.bytes().len() as u64 == bytes_of(b)?, "input {k} is not {}", b.ty);
            Contents::Bytes(t.bytes().to_vec())
        }
        Place::Constant(t) => Contents::Bytes(t.bytes().to_vec()),
        Place::Output(_) | Place::Arena(_) | Place::Alias(_) => Contents::Undefined,
        Place::Heap => bail!("{} has a size that isn't known before it is run", b.ty),
    })
}

/// The kernels compiled against the model.
///
/// # Errors
/// There is no C++ compiler, or it refuses a kernel.
pub fn emulator(sources: &[Source]) -> Result<Emulator> {
    let files: Vec<KernelFile> = sources
        .iter()
        .map(|s| KernelFile::parse(format!("{}.cpp", s.name).into(), s.text.clone()))
        .collect::<Result<_>>()?;
    Emulator::build(&files)
}

/// Runs a job, and gives its program's outputs and what the model says.
///
/// # Errors
/// The job can't be run.
pub fn run(
    program: &Program,
    emulator: &Emulator,
    job: &Job,
    settings: &Settings,
) -> Result<(Vec<Tensor>, Outcome)> {
    let mut outcome = emulator.run(job, settings, LIMIT)?;
    let bytes = std::mem::take(&mut outcome.outputs);
    let tensor = |(p, b): (&aic_ir::program::Port, Vec<u8>)| {
        let dims: Option<Vec<usize>> = p.ty.dims.iter().map(|d| d.as_const().map(|n| n as usize)).collect();
        Tensor::new(p.ty.dtype, dims.unwrap_or_default(), Bytes::from(b))
    };
    let outputs = program.outputs.iter().zip(bytes).map(tensor).collect::<Result<_>>()?;
    Ok((outputs, outcome))
}

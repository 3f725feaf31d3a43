//! Compiled programs on the model of the chip.

use super::{Compiled, Step, bytes_of, root};
use aic_backends::ascendc::emulator::{
    Contents, Emulator, Job, KernelFile, Outcome, Settings, Step as JobStep, Time,
};
use aic_backends::ascendc::host::HostFunction;
use aic_ir::error::{Error, Result};
use aic_ir::program::{Place, Port};
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use bytes::Bytes;
use std::time::Duration;

/// How long a program may take on the model.
const LIMIT: Duration = Duration::from_secs(3600);
/// How many broken rules are listed.
const N_LISTED: usize = 5;

/// A program whose kernels are compiled against the model.
pub struct Model {
    compiled: Compiled,
    emulator: Emulator,
    settings: Settings,
}

impl Model {
    /// Compiles a program's kernels and functions with the system's C++ compiler.
    ///
    /// # Errors
    /// There is none, or it refuses a kernel.
    pub fn new(compiled: Compiled, settings: Settings) -> Result<Model> {
        let emulator = emulator(std::slice::from_ref(&compiled))?;
        Ok(Model { compiled, emulator, settings })
    }

    /// Runs the program.
    ///
    /// # Errors
    /// An input doesn't fit, or a kernel breaks a rule of the chip; rules, lines and bytes are named.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let (outputs, outcome) =
            run(&self.compiled, &self.emulator, &job(&self.compiled, inputs)?, &self.settings)?;
        let said: Vec<String> = outcome
            .violations
            .iter()
            .take(N_LISTED)
            .map(|v| format!("{} {}: {}", v.rule, v.place, v.text))
            .collect();
        match outcome.violations.len() {
            0 => Ok(outputs),
            n => Err(Error::new(format!(
                "kernels break {n} rules of the chip, first\n  {}",
                said.join("\n  ")
            ))),
        }
    }

    /// What each launch is predicted to take, in the order of the program's launches.
    ///
    /// # Errors
    /// The model can't be run.
    pub fn times(&self) -> Result<Vec<Time>> {
        let settings = Settings { is_timing_only: true, ..self.settings };
        let job = job_of(&self.compiled, &|_| Ok(Contents::Undefined))?;
        Ok(self.emulator.run(&job, &settings, LIMIT)?.times)
    }

    /// How it is run.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is run.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}

/// The kernels and functions of programs, whose names differ, compiled against the model.
///
/// # Errors
/// There is no C++ compiler, or it refuses a kernel.
pub fn emulator(all: &[Compiled]) -> Result<Emulator> {
    let files: Vec<KernelFile> = all
        .iter()
        .flat_map(|c| &c.kernels)
        .map(|s| KernelFile::parse(format!("{}.cpp", s.name).into(), s.text.clone()))
        .collect::<Result<_>>()?;
    let functions: Vec<HostFunction> = all.iter().flat_map(|c| c.functions.clone()).collect();
    Emulator::build(&files, &functions)
}

/// A program's steps on the model, for these inputs.
///
/// # Errors
/// A size isn't known, or an input doesn't fit.
pub fn job(c: &Compiled, inputs: &[Tensor]) -> Result<Job> {
    let n = c.program.inputs.len();
    ensure!(inputs.len() == n, "expected {n} inputs, found {}", inputs.len());
    job_of(c, &|k| {
        let b = &c.program.buffers[k];
        Ok(match &b.place {
            Place::Input(at) => {
                let t = &inputs[*at];
                ensure!(t.bytes().len() as u64 == bytes_of(&c.program, k)?, "input {at} is not {}", b.ty);
                Contents::Bytes(t.bytes().to_vec())
            }
            Place::Constant(t) => Contents::Bytes(t.bytes().to_vec()),
            _ => Contents::Undefined,
        })
    })
}

fn job_of(c: &Compiled, contents: &dyn Fn(usize) -> Result<Contents>) -> Result<Job> {
    let p = &c.program;
    let mut job = Job::default();
    for (k, b) in p.buffers.iter().enumerate() {
        match b.place {
            Place::Heap => bail!("{} has a size that isn't known before it is run", b.ty),
            // Never used: the memory is another buffer's.
            Place::Alias(_) => job.buffers.push((0, Contents::Undefined)),
            _ => job.buffers.push((bytes_of(p, k)?, contents(k)?)),
        }
    }
    let roots = |args: &[usize]| -> Vec<usize> { args.iter().map(|a| root(p, *a)).collect() };
    for step in &c.steps {
        let step = match step {
            Step::Launch { kernel, args, .. } => {
                let source = &c.kernels[*kernel];
                let mut args = roots(args);
                if source.workspace > 0 {
                    args.push(job.buffers.len());
                    job.buffers.push((source.workspace, Contents::Undefined));
                }
                let (kernel, task, blocks) = (source.name.clone(), source.task, source.blocks);
                JobStep::Launch { kernel, task, blocks, args }
            }
            Step::Host { function, args, .. } => {
                JobStep::Host { function: c.functions[*function].name.clone(), args: roots(args) }
            }
            Step::Copy { src, dst } => JobStep::Copy { src: root(p, *src), dst: root(p, *dst) },
        };
        job.steps.push(step);
    }
    job.outputs = p.outputs.iter().map(|o| root(p, o.buffer)).collect();
    Ok(job)
}

/// Runs a job, and gives its program's outputs and what the model says.
///
/// # Errors
/// The job can't be run.
pub fn run(
    c: &Compiled,
    emulator: &Emulator,
    job: &Job,
    settings: &Settings,
) -> Result<(Vec<Tensor>, Outcome)> {
    let mut outcome = emulator.run(job, settings, LIMIT)?;
    let bytes = std::mem::take(&mut outcome.outputs);
    let tensor = |(p, b): (&Port, Vec<u8>)| {
        let dims: Option<Vec<usize>> = p.ty.dims.iter().map(|d| d.as_const().map(|n| n as usize)).collect();
        Tensor::new(p.ty.dtype, dims.unwrap_or_default(), Bytes::from(b))
    };
    let outputs = c.program.outputs.iter().zip(bytes).map(tensor).collect::<Result<_>>()?;
    Ok((outputs, outcome))
}

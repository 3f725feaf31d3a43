//! The process that measures: it compiles kernels, checks that all give the bits of the first, and times them in turn.
//!
//! A kernel is run by the runtime that programs are run by, with its constants where a model's would be: in memory that
//! other launches have pushed out of the nearest caches.

use super::child;
use super::job::{Job, Operand};
use crate::io;
use crate::plan;
use crate::session::{self, Kernels, Session};
use aic_backends::{CpuOptions, Library};
use aic_ir::error::{Error, Result};
use aic_ir::kernel::{Kernel, Scope};
use aic_ir::program::{BufferDecl, Place, Port, Program, Step};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_passes::memory;
use aic_passes::packing::{Packing, pack_all};
use bytes::Bytes;
use serde_json::json;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of constants that are gone through, so that none are left in the nearest caches when their turn comes again.
const CONSTANT_BYTES: usize = 16 << 20;
/// Copies of a kernel's constants at most.
const MAX_COPIES: usize = 8;
/// Seconds that a sample takes at least.
const SAMPLE: f64 = 1e-4;
/// Samples after which a kernel that takes so much longer than the first is not timed further.
const ENOUGH: (usize, f64) = (3, 1.2);

/// What came of a kernel: its seconds, their part of the first kernel's, and how often they were fewer; or why there are
/// none.
pub type Outcome = std::result::Result<[f64; 3], String>;

/// Answers the jobs that come in, a line each, until there are no more.
///
/// # Errors
/// Lines can't be read or written.
pub fn serve(cpu: &CpuOptions, threads: u32, from: impl BufRead, mut to: impl Write) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(format!("the tuner can't be reached: {e}"));
    let mut operands = Operands::default();
    for line in from.lines() {
        let outcomes =
            Job::parse(&line.map_err(failed)?).and_then(|job| answer(&job, cpu, threads, &mut operands));
        let value = match outcomes {
            Ok(all) => child::json(all),
            Err(e) => json!({ "error": e.message }),
        };
        writeln!(to, "{value}").and_then(|()| to.flush()).map_err(failed)?;
    }
    Ok(())
}

/// Values for operands, kept for the next job of the same ones.
#[derive(Default)]
struct Operands(Vec<(Operand, Tensor)>);

impl Operands {
    fn of(&mut self, wanted: &[Operand]) -> Result<Vec<Tensor>> {
        if !self.0.iter().map(|(o, _)| o).eq(wanted) {
            self.0.clear();
            for (k, o) in wanted.iter().enumerate() {
                self.0.push((*o, io::random(o.dtype, vec![o.len], k as u64)?));
            }
        }
        Ok(self.0.iter().map(|(_, t)| t.clone()).collect())
    }
}

fn answer(job: &Job, cpu: &CpuOptions, threads: u32, operands: &mut Operands) -> Result<Vec<Outcome>> {
    let operands = operands.of(&job.inputs)?;
    let mut all: Vec<std::result::Result<Candidate, String>> = Vec::new();
    let kernels: Vec<Kernel> = job.kernels.iter().map(|(k, _)| k.clone()).collect();
    // One that can't be compiled says so by itself.
    let together = code(&kernels, cpu).ok();
    for (kernel, packings) in &job.kernels {
        let alone = || code(std::slice::from_ref(kernel), cpu);
        let code = together.clone().map_or_else(alone, Ok);
        let candidate = code.and_then(|code| {
            let (program, inputs) = program(job, kernel, packings, &operands)?;
            Candidate::new(&program, &inputs, code, cpu, threads)
        });
        all.push(candidate.map_err(|e| e.message));
    }
    let Some((Ok(first), others)) = all.split_first_mut() else {
        return Err(Error::new("the kernel that others are compared with gives no results"));
    };
    let want = std::mem::take(&mut first.results);
    for other in others {
        if other.as_ref().is_ok_and(|c| c.results != want) {
            *other = Err("its results differ".into());
        }
    }
    time(&mut all, job.rounds)?;
    let first = all[0].as_ref().map(|c| c.samples.clone()).unwrap_or_default();
    Ok(all.into_iter().map(|c| c.map(|c| compared(&c.samples, &first))).collect())
}

/// The code of kernels of different names.
fn code(kernels: &[Kernel], cpu: &CpuOptions) -> Result<Arc<Library>> {
    Library::load(&aic_backends::compile(kernels, cpu)?).map(Arc::new)
}

/// Times kernels in turn, forwards and backwards.
fn time(all: &mut [std::result::Result<Candidate, String>], rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let order: Vec<usize> = match round % 2 {
            0 => (0..all.len()).collect(),
            _ => (0..all.len()).rev().collect(),
        };
        let first = all[0].as_ref().map(|c| low(c.samples.clone())).unwrap_or_default();
        for k in order {
            if let Ok(c) = &mut all[k]
                && !(round >= ENOUGH.0 && low(c.samples.clone()) > first * ENOUGH.1)
            {
                let sample = c.sample()?;
                c.samples.push(sample);
            }
        }
    }
    Ok(())
}

/// Seconds, their part of the first kernel's in the same rounds, and how often they were fewer.
fn compared(samples: &[f64], first: &[f64]) -> [f64; 3] {
    let pairs = || samples.iter().zip(first);
    let wins = pairs().filter(|(a, b)| a < b).count() as f64 / samples.len().max(1) as f64;
    let (own, others) = pairs().unzip();
    let seconds = low(own);
    [seconds, seconds / low(others).max(1e-12), wins]
}

/// The value that a quarter is below; what else the machine does makes times longer, never shorter.
fn low(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 4).copied().unwrap_or(0.0)
}

/// The value in the middle; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A kernel that is ready to be timed.
struct Candidate {
    session: Session,
    launches: usize,
    /// Runs of the session for a sample.
    repeats: usize,
    results: Vec<Tensor>,
    samples: Vec<f64>,
}

impl Candidate {
    fn new(
        program: &Program,
        inputs: &[Tensor],
        code: Arc<Library>,
        cpu: &CpuOptions,
        threads: u32,
    ) -> Result<Candidate> {
        let functions = vec![code.get(&program.kernels[0].name)?];
        let kernels = Kernels { functions, code: Box::new(code) };
        let cpu = plan::cpu_bits(aic_backends::cpu_features(cpu)?.names);
        let options = session::Options {
            n_threads: threads,
            cpu,
            weights_in_place: true,
            ..session::Options::default()
        };
        // SAFETY: the function is the kernel, compiled, and `code` holds it.
        let mut session = unsafe { Session::new(program, kernels, &options) }?;
        let results = session.run(inputs)?;
        let launches = program.steps.len();
        let mut c = Candidate { session, launches, repeats: 1, results, samples: Vec::new() };
        let seconds = c.sample()? * launches as f64;
        c.repeats = ((SAMPLE / seconds.max(1e-9)).ceil() as usize).clamp(1, 1000);
        Ok(c)
    }

    /// Seconds of a launch.
    fn sample(&mut self) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..self.repeats {
            self.session.run_bound()?;
        }
        Ok(start.elapsed().as_secs_f64() / (self.repeats * self.launches) as f64)
    }
}

/// A program of launches of one kernel, each with constants of its own, and its inputs.
fn program(
    job: &Job,
    kernel: &Kernel,
    packings: &[(usize, Packing)],
    operands: &[Tensor],
) -> Result<(Program, Vec<Tensor>)> {
    let mut p = Program { name: "tuned".into(), kernels: vec![kernel.clone()], ..Program::default() };
    (p.schedules, p.computes) = (vec![None], vec![None]);
    let constants = || (0..operands.len()).filter(|k| job.inputs[*k].is_constant);
    let bytes: usize = constants().map(|k| operands[k].bytes().len()).sum();
    let copies = if bytes == 0 { 1 } else { CONSTANT_BYTES.div_ceil(bytes).clamp(1, MAX_COPIES) };
    let mut inputs = Vec::new();
    let mut args: Vec<Vec<usize>> = vec![Vec::new(); copies];
    for (k, t) in operands.iter().enumerate() {
        let packing = packings.iter().find(|(at, _)| *at == k).map(|(_, packing)| packing);
        let buffers: Vec<usize> = if job.inputs[k].is_constant {
            copied(t, packing, copies)?.into_iter().map(|t| add(&mut p, &t, None)).collect()
        } else {
            inputs.push(t.clone());
            vec![add(&mut p, t, Some(inputs.len() - 1)); copies]
        };
        args.iter_mut().zip(buffers).for_each(|(args, b)| args.push(b));
    }
    for param in &kernel.params[operands.len()..] {
        let ty = Type::new(param.buffer.dtype, vec![param.buffer.len.clone()]);
        let buffer = p.buffers.len();
        let place = match param.buffer.scope {
            Scope::Global => {
                let name = format!("y{}", p.outputs.len());
                p.outputs.push(Port { name, ty: ty.clone(), buffer });
                Place::Output(p.outputs.len() - 1)
            }
            _ => Place::Arena(0.into()),
        };
        p.buffers.push(BufferDecl { ty, place });
        args.iter_mut().for_each(|args| args.push(buffer));
    }
    let extent = kernel.parallel_extent();
    let launch = |args: Vec<usize>| Step::Launch {
        kernel: 0,
        args,
        symbols: Vec::new(),
        extent: extent.clone(),
        work: job.work.into(),
        origin: Vec::new(),
    };
    p.steps = args.into_iter().map(launch).collect();
    memory::plan(&mut p);
    Ok((p, inputs))
}

/// Adds the buffer of a constant, or of input number `input`.
fn add(p: &mut Program, t: &Tensor, input: Option<usize>) -> usize {
    let (ty, buffer) = (Type::of(t.dtype(), t.shape()), p.buffers.len());
    let place = match input {
        Some(k) => {
            p.inputs.push(Port { name: format!("x{k}"), ty: ty.clone(), buffer });
            Place::Input(k)
        }
        None => Place::Constant(t.clone()),
    };
    p.buffers.push(BufferDecl { ty, place });
    buffer
}

/// So many copies of a constant, packed if it is to be.
fn copied(t: &Tensor, packing: Option<&Packing>, copies: usize) -> Result<Vec<Tensor>> {
    match packing {
        Some(packing) => pack_all(&vec![(t.clone(), packing.clone()); copies]),
        None => {
            let copy = |_| Tensor::new(t.dtype(), t.shape().to_vec(), Bytes::copy_from_slice(t.bytes()));
            (0..copies).map(copy).collect()
        }
    }
}

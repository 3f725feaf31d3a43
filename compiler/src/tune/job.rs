//! Kernels to be measured, as the tuner sends them to the process that does: kernels of one compute by several schedules,
//! in their text form.

use aic_ir::bail;
use aic_ir::compute::Compute;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
use aic_ir::text::parse_kernel;
use aic_passes::packing::{Packing, Span};
use aic_passes::schedule::Scheduled;
use serde_json::{Value, json};

/// Kernels of one compute, the first of which the others are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The kernels, and which of their inputs are packed.
    pub kernels: Vec<(Kernel, Vec<(usize, Packing)>)>,
    /// The operands.
    pub inputs: Vec<Operand>,
    /// Scalar operations.
    pub work: i64,
    /// How often each is timed.
    pub rounds: usize,
}

/// An array that kernels read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Type of its elements.
    pub dtype: DType,
    /// Their number.
    pub len: usize,
    /// Whether it is part of the program.
    pub is_constant: bool,
}

impl Job {
    /// The job of comparing kernels of a compute.
    ///
    /// # Errors
    /// Extents aren't known.
    pub fn new(c: &Compute, made: Vec<Scheduled>, rounds: usize) -> Result<Job> {
        let operand = |(k, ty): (usize, &aic_ir::types::Type)| {
            let len = ty.numel().as_const().and_then(|n| usize::try_from(n).ok())?;
            Some(Operand { dtype: ty.dtype, len, is_constant: c.constants.contains(&k) })
        };
        let Some(inputs) = c.inputs.iter().enumerate().map(operand).collect() else {
            bail!("extents of the kernel's operands aren't known")
        };
        let work = c.flops().as_const().unwrap_or(i64::MAX);
        Ok(Job { kernels: made.into_iter().map(|m| (m.kernel, m.packings)).collect(), inputs, work, rounds })
    }

    /// The first kernel and one other.
    pub fn pair(&self, k: usize) -> Job {
        Job { kernels: vec![self.kernels[0].clone(), self.kernels[k].clone()], ..self.clone() }
    }

    /// The job in a line.
    pub fn json(&self) -> Value {
        let spans = |all: &[Span]| all.iter().map(|s| json!([s.extent, s.stride])).collect::<Vec<_>>();
        let packing = |(k, p): &(usize, Packing)| {
            json!([k, p.offset, spans(&p.outer), spans(&[p.columns]), p.panel, spans(&p.terms)])
        };
        let kernel = |(k, packings): &(Kernel, Vec<(usize, Packing)>)| json!({ "text": k.to_string(), "packings": packings.iter().map(packing).collect::<Vec<_>>() });
        let input = |o: &Operand| json!([o.dtype.keyword(), o.len, o.is_constant]);
        json!({
            "kernels": self.kernels.iter().map(kernel).collect::<Vec<_>>(),
            "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
            "work": self.work, "rounds": self.rounds,
        })
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no job.
    pub fn parse(line: &str) -> Result<Job> {
        let value: Value = serde_json::from_str(line).map_err(|e| Error::new(format!("no job: {e}")))?;
        let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let kernel = |v: &Value| -> Result<(Kernel, Vec<(usize, Packing)>)> {
            let packings: Option<Vec<_>> = list(&v["packings"]).iter().map(packing).collect();
            let Some(packings) = packings else { bail!("no packing: {}", v["packings"]) };
            Ok((parse_kernel(v["text"].as_str().unwrap_or_default())?, packings))
        };
        let input = |v: &Value| {
            let dtype = v[0].as_str().and_then(DType::from_keyword)?;
            Some(Operand { dtype, len: number(&v[1])?, is_constant: v[2].as_bool()? })
        };
        let Some(inputs) = list(&value["inputs"]).iter().map(input).collect() else {
            bail!("no operands: {}", value["inputs"])
        };
        let kernels = list(&value["kernels"]).iter().map(kernel).collect::<Result<_>>()?;
        let (work, rounds) = (value["work"].as_i64().unwrap_or(1), number(&value["rounds"]).unwrap_or(1));
        Ok(Job { kernels, inputs, work, rounds })
    }
}

fn number(v: &Value) -> Option<usize> {
    v.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn packing(v: &Value) -> Option<(usize, Packing)> {
    let span = |v: &Value| Some(Span { extent: number(&v[0])?, stride: v[1].as_i64()? as isize });
    let spans = |v: &Value| v.as_array()?.iter().map(span).collect::<Option<Vec<_>>>();
    let packing = Packing {
        offset: v[1].as_i64()? as isize,
        outer: spans(&v[2])?,
        columns: *spans(&v[3])?.first()?,
        panel: number(&v[4])?,
        terms: spans(&v[5])?,
    };
    Some((number(&v[0])?, packing))
}

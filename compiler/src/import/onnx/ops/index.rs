//! Gathering, scattering, ordering and searching.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{
    Bitcast, GatherElements, GatherNd, NonZero, ScatterElements, ScatterNd, ScatterReduction, TopK, Unique,
};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("BitCast", 26, bit_cast),
    op("Compress", 9, compress),
    op("Gather", 1, gather),
    op("GatherElements", 11, gather_elements),
    op("GatherND", 11, gather_nd),
    op("NonZero", 9, non_zero),
    op("OneHot", 9, one_hot),
    op("ReverseSequence", 10, reverse_sequence),
    op("Scatter", 9, scatter_elements),
    op("ScatterElements", 11, scatter_elements),
    op("ScatterND", 11, scatter_nd),
    op("TopK", 1, top_k),
    op("Unique", 11, unique),
];

fn bit_cast(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let to = c.required("to", c.dtype_attribute("to")?)?;
    c.own_dtype(x)?;
    if c.dtype(x) == to { Ok(x.into()) } else { Ok(c.add(Bitcast { to }, &[x])?.into()) }
}

fn gather(c: &mut Ctx) -> Result<Outputs> {
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    Ok(c.gather(x, indices, axis)?.into())
}

fn gather_elements(c: &mut Ctx) -> Result<Outputs> {
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    Ok(c.add(GatherElements { axis }, &[x, indices])?.into())
}

fn gather_nd(c: &mut Ctx) -> Result<Outputs> {
    let batch_dims = c.int_or("batch_dims", 0)?;
    let Ok(batch_dims) = usize::try_from(batch_dims) else { bail!("batch_dims can't be {batch_dims}") };
    Ok(c.add(GatherNd { batch_dims }, &[c.input(0)?, c.input(1)?])?.into())
}

fn reduction(c: &Ctx) -> Result<ScatterReduction> {
    Ok(match c.text_or("reduction", "none")? {
        "none" => ScatterReduction::None,
        "add" => ScatterReduction::Add,
        "mul" => ScatterReduction::Mul,
        "max" => ScatterReduction::Max,
        "min" => ScatterReduction::Min,
        other => bail!("the reduction {other} is unknown"),
    })
}

fn scatter_elements(c: &mut Ctx) -> Result<Outputs> {
    let (x, indices, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    let reduction = reduction(c)?;
    Ok(c.add(ScatterElements { axis, reduction }, &[x, indices, updates])?.into())
}

fn scatter_nd(c: &mut Ctx) -> Result<Outputs> {
    let reduction = reduction(c)?;
    Ok(c.add(ScatterNd { reduction }, &[c.input(0)?, c.input(1)?, c.input(2)?])?.into())
}

fn non_zero(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let count = Dim::sym(&c.fresh("nonzero"));
    Ok(c.add(NonZero { count }, &[x])?.into())
}

/// The number of elements was an attribute before version 10.
fn top_k(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = c.axis(c.int_or("axis", -1)?, c.rank(x))?;
    let k = match c.int("k")? {
        Some(k) => k.into(),
        None => {
            let k = c.input(1)?;
            match &c.need_dims(k, "the input `K`")?[..] {
                [k] => k.clone(),
                other => bail!("the input `K` must be one number, found {}", other.len()),
            }
        }
    };
    let largest = c.flag("largest", true)?;
    Ok(c.add_all(TopK { axis, k, largest }, &[x])?.into())
}

fn unique(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = match c.int("axis")? {
        Some(axis) => c.axis(axis, c.rank(x))? as i64,
        None => -1,
    };
    let count = Dim::sym(&c.fresh("unique"));
    let sorted = c.flag("sorted", true)?;
    Ok(c.add_all(Unique { axis, sorted, count }, &[x])?.into())
}

/// Indices outside `-depth..depth` give no hot element.
fn one_hot(c: &mut Ctx) -> Result<Outputs> {
    let (indices, depth, values) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let depth = c.cast(depth, DType::I64)?;
    let depth = match &c.need_dims(depth, "the input `depth`")?[..] {
        [depth] => depth.clone(),
        other => bail!("the input `depth` must be one number, found {}", other.len()),
    };
    let rank = c.rank(indices) + 1;
    let axis = c.axis(c.int_or("axis", -1)?, rank)?;
    let indices = c.cast(indices, DType::I64)?;
    let (zero, extent) = (c.number_like(0.0, indices), c.dim_value(&depth, DType::I64)?);
    let (negative, wrapped) = (c.less(indices, zero)?, c.plus(indices, extent)?);
    let indices = c.select(negative, wrapped, indices)?;
    let indices = c.unsqueeze(indices, &[axis])?;
    let positions = c.iota(vec![depth], 0, DType::I64)?;
    let positions = c.along(positions, axis, rank)?;
    let hot = c.equal(indices, positions)?;
    let (off, on) = (c.at(values, 0, 0)?, c.at(values, 0, 1)?);
    Ok(c.select(hot, on, off)?.into())
}

/// The condition may be shorter than the axis.
fn compress(c: &mut Ctx) -> Result<Outputs> {
    let (mut x, condition) = (c.input(0)?, c.input(1)?);
    let axis = match c.int("axis")? {
        Some(axis) => c.axis(axis, c.rank(x))?,
        None => {
            x = c.reshape(x, vec![c.ty(x).numel()])?;
            0
        }
    };
    ensure!(c.rank(condition) == 1, "the condition must be a vector, found {}", c.ty(condition));
    let indices = match c.constant(condition) {
        Some(known) => {
            let chosen = known.scalars().enumerate().filter(|(_, s)| s.as_bool()).map(|(k, _)| k as i64);
            c.integers(&chosen.collect::<Vec<_>>())?
        }
        None => {
            let count = Dim::sym(&c.fresh("compress"));
            let found = c.add(NonZero { count: count.clone() }, &[condition])?;
            c.reshape(found, vec![count])?
        }
    };
    Ok(c.gather(x, indices, axis)?.into())
}

/// Position `t` of a sequence of length `n` takes element `n - 1 - t`, beyond it element `t`.
fn reverse_sequence(c: &mut Ctx) -> Result<Outputs> {
    let (x, lengths) = (c.input(0)?, c.input(1)?);
    let dims = c.dims(x);
    let batch = c.axis(c.int_or("batch_axis", 1)?, dims.len())?;
    let time = c.axis(c.int_or("time_axis", 0)?, dims.len())?;
    ensure!(batch != time, "the batch axis and the time axis are the same");
    let lengths = c.along(lengths, batch, dims.len())?;
    let positions = c.iota(vec![dims[time].clone()], 0, DType::I64)?;
    let positions = c.along(positions, time, dims.len())?;
    let mirrored: ValueId = c.minus(lengths, positions)?;
    let mirrored = c.shifted(mirrored, -1.0)?;
    let within = c.less(positions, lengths)?;
    let indices = c.select(within, mirrored, positions)?;
    let indices = c.expand(indices, dims)?;
    Ok(c.add(GatherElements { axis: time }, &[x, indices])?.into())
}

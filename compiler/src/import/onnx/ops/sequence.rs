//! Sequences and optional values. They exist while importing only: a sequence is a list of tensors whose length is
//! known, an optional value is there or isn't.

use crate::import::onnx::ctx::{Ctx, Item, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("ConcatFromSequence", 11, concat_from_sequence),
    op("Optional", 15, optional),
    op("OptionalGetElement", 15, optional_get_element),
    op("OptionalHasElement", 15, optional_has_element),
    op("SequenceAt", 11, sequence_at),
    op("SequenceConstruct", 11, sequence_construct),
    op("SequenceEmpty", 11, |_| Ok(Item::Sequence(Vec::new()).into())),
    op("SequenceErase", 11, sequence_erase),
    op("SequenceInsert", 11, sequence_insert),
    op("SequenceLength", 11, sequence_length),
    op("SequenceMap", 17, sequence_map),
    op("SplitToSequence", 11, split_to_sequence),
];

/// The most parts that a tensor is split into.
const MAX_PARTS: i64 = 1 << 16;

fn n_parts(n: i64) -> Result<i64> {
    ensure!(n <= MAX_PARTS, "{n} parts are too many");
    Ok(n)
}

/// The elements of input 0, a sequence.
fn sequence(c: &Ctx) -> Result<Vec<Item>> {
    let mut item = c.item(0);
    while let Some(Item::Optional(Some(inner))) = item {
        item = Some(inner);
    }
    match item {
        Some(Item::Sequence(items)) => Ok(items.clone()),
        Some(Item::Optional(_)) => bail!("expected a sequence, found an absent optional value"),
        _ => bail!("expected a sequence, found something else"),
    }
}

/// The position that input `k` holds, counted from the front.
fn position(c: &mut Ctx, k: usize, end: usize) -> Result<Option<usize>> {
    let Some(v) = c.optional(k)? else { return Ok(None) };
    let at = c.need_int(v, "the position in the sequence")?;
    let n = end as i64;
    let from_front = if at < 0 { at + n } else { at };
    match usize::try_from(from_front) {
        Ok(position) if at <= n => Ok(Some(position)),
        _ => bail!("the position {at} is out of range for a sequence of {end} elements"),
    }
}

/// As [`position`], of an element that is there.
fn element_position(c: &mut Ctx, k: usize, len: usize) -> Result<Option<usize>> {
    let at = position(c, k, len)?;
    ensure!(
        at.is_none_or(|at| at < len),
        "the position {len} is out of range for a sequence of {len} elements"
    );
    Ok(at)
}

fn sequence_construct(c: &mut Ctx) -> Result<Outputs> {
    let items = c.inputs()?.into_iter().map(Item::Tensor).collect();
    Ok(Item::Sequence(items).into())
}

fn sequence_at(c: &mut Ctx) -> Result<Outputs> {
    let mut items = sequence(c)?;
    match element_position(c, 1, items.len())? {
        Some(at) => Ok(items.swap_remove(at).into()),
        None => bail!("the position is missing"),
    }
}

fn sequence_erase(c: &mut Ctx) -> Result<Outputs> {
    let mut items = sequence(c)?;
    ensure!(!items.is_empty(), "the sequence is empty");
    let at = element_position(c, 1, items.len())?.unwrap_or(items.len() - 1);
    items.remove(at);
    Ok(Item::Sequence(items).into())
}

fn sequence_insert(c: &mut Ctx) -> Result<Outputs> {
    let mut items = sequence(c)?;
    let at = position(c, 2, items.len())?.unwrap_or(items.len());
    items.insert(at, Item::Tensor(c.input(1)?));
    Ok(Item::Sequence(items).into())
}

fn sequence_length(c: &mut Ctx) -> Result<Outputs> {
    let length = sequence(c)?.len() as i64;
    Ok(c.tensor(Tensor::scalar(DType::I64, Scalar::I(length))).into())
}

/// The body imported once for each element.
fn sequence_map(c: &mut Ctx) -> Result<Outputs> {
    let body = c.graph_attribute("body")?;
    let length = sequence(c)?.len();
    let mut results = vec![Vec::new(); body.output.len()];
    for k in 0..length {
        let inputs = (0..c.n_inputs()).map(|input| match c.item(input) {
            Some(Item::Sequence(items)) if items.len() == length => Ok(items[k].clone()),
            Some(Item::Sequence(items)) => bail!("the sequences have {length} and {} elements", items.len()),
            Some(item) => Ok(item.clone()),
            None => bail!("input {input} is missing"),
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        for (list, item) in results.iter_mut().zip(c.inline(body, inputs)?) {
            list.push(item);
        }
    }
    let item =
        |items: Vec<Item>| if items.contains(&Item::Failed) { Item::Failed } else { Item::Sequence(items) };
    Ok(Outputs(results.into_iter().map(item).collect()))
}

/// Parts of given sizes; of one size, the last one being smaller; or single slices, which may lose the axis.
fn split_to_sequence(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axis = c.axis(c.int_or("axis", 0)?, c.rank(x))?;
    let split = c.optional(1)?;
    let sizes: Vec<Dim> = match split {
        Some(split) if c.rank(split) > 0 => c.need_dims(split, "the input `split`")?,
        Some(split) => {
            let (part, extent) = (c.need_int(split, "the input `split`")?, c.size(x, axis)? as i64);
            ensure!(part > 0, "the size of the parts must be positive, found {part}");
            let parts = n_parts(extent / part + i64::from(extent % part > 0))?;
            (0..parts).map(|k| part.min(extent - k * part).into()).collect()
        }
        None => vec![1.into(); n_parts(c.size(x, axis)? as i64)? as usize],
    };
    let total: Dim = sizes.iter().sum();
    let differs = (total.clone() - c.dim(x, axis)).as_const().is_some_and(|d| d != 0);
    ensure!(!differs, "the sizes {sizes:?} do not add up to extent {} of axis {axis}", c.dim(x, axis));
    let mut parts = c.split(x, axis, &sizes)?;
    if split.is_none() && !c.flag("keepdims", true)? {
        parts = parts.into_iter().map(|part| c.squeeze(part, &[axis])).collect::<Result<_>>()?;
    }
    Ok(Item::Sequence(parts.into_iter().map(Item::Tensor).collect()).into())
}

fn concat_from_sequence(c: &mut Ctx) -> Result<Outputs> {
    let parts: Vec<ValueId> = sequence(c)?.iter().map(|item| c.tensor_of(item)).collect::<Result<_>>()?;
    let Some(&first) = parts.first() else { bail!("the sequence is empty") };
    let axis = c.required("axis", c.int("axis")?)?;
    if !c.flag("new_axis", false)? {
        let axis = c.axis(axis, c.rank(first))?;
        return Ok(c.concat(&parts, axis)?.into());
    }
    let axis = c.axis(axis, c.rank(first) + 1)?;
    let parts = parts.into_iter().map(|part| c.unsqueeze(part, &[axis])).collect::<Result<Vec<_>>>()?;
    Ok(c.concat(&parts, axis)?.into())
}

fn optional(c: &mut Ctx) -> Result<Outputs> {
    Ok(Item::Optional(c.item(0).cloned().map(Box::new)).into())
}

/// Since version 18, what isn't optional may be given too.
fn optional_get_element(c: &mut Ctx) -> Result<Outputs> {
    match c.item(0) {
        Some(Item::Optional(Some(item))) => Ok(item.as_ref().clone().into()),
        Some(Item::Optional(None)) | None => bail!("the optional value is absent"),
        Some(item) => Ok(item.clone().into()),
    }
}

fn optional_has_element(c: &mut Ctx) -> Result<Outputs> {
    let there = !matches!(c.item(0), None | Some(Item::Optional(None)));
    Ok(c.tensor(Tensor::scalar(DType::Bool, Scalar::B(there))).into())
}

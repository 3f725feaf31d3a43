//! Attention and what surrounds it in transformers: rotary embeddings, gates, caches, recurrent forms.

use super::activation::swish_of;
use super::control::failed;
use super::steps::{self, Step, Steps};
use crate::import::onnx::ctx::{Ctx, Item, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{Conv, ScatterElements, ScatterReduction, Softmax};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("Attention", 23, attention),
    op("CausalConvWithState", 27, causal_conv_with_state),
    op("FlexAttention", 1, flex_attention).domain("ai.onnx.preview"),
    op("LinearAttention", 27, linear_attention),
    op("RotaryEmbedding", 23, rotary_embedding),
    op("SwiGLU", 28, swiglu),
    op("TensorScatter", 24, tensor_scatter),
];

/// `x` with symbolic extents taken to equal the given ones, which is checked at every run.
pub(super) fn matched(c: &mut Ctx, x: ValueId, dims: &[Dim]) -> Result<ValueId> {
    let mut own = c.dims(x);
    ensure!(own.len() == dims.len(), "expected extents {dims:?}, found {}", c.ty(x));
    for (d, to) in own.iter_mut().zip(dims) {
        if d == to || d.is(1) || to.is(1) {
            continue;
        }
        let difference = d.clone() - to.clone();
        let equal = c.require(difference.clone()) && c.require(-difference);
        ensure!(equal, "expected extents {dims:?}, found {}", c.ty(x));
        *d = to.clone();
    }
    c.reshape(x, own)
}

/// `[batch, length, heads * size]` as `[batch, heads, length, size]`.
pub(super) fn split_heads(c: &mut Ctx, x: ValueId, heads: i64) -> Result<ValueId> {
    let apart = heads_apart(c, x, heads)?;
    c.transpose(apart, &[0, 2, 1, 3])
}

/// `[batch, length, heads * size]` as `[batch, length, heads, size]`.
pub(super) fn heads_apart(c: &mut Ctx, x: ValueId, heads: i64) -> Result<ValueId> {
    ensure!(c.rank(x) == 3, "expected a tensor of rank 3, found {}", c.ty(x));
    ensure!(heads > 0, "the number of heads must be positive, found {heads}");
    let width = c.dim(x, 2);
    ensure!(width.modulo(&heads.into()).is(0), "{width} elements can't be split into {heads} heads");
    c.reshape(x, vec![c.dim(x, 0), c.dim(x, 1), heads.into(), width.floor_div(&heads.into())])
}

/// `[batch, heads, length, size]` as `[batch, length, heads * size]`.
pub(super) fn join_heads(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    let x = c.transpose(x, &[0, 2, 1, 3])?;
    let (heads, size) = (c.dim(x, 2), c.dim(x, 3));
    c.reshape(x, vec![c.dim(x, 0), c.dim(x, 1), heads * size])
}

/// The product of `a[batch, heads, m, k]` and `b[batch, groups, k, n]`, where each matrix of `b` serves as many
/// consecutive heads: they are taken together as one matrix.
pub(super) fn grouped_matmul(c: &mut Ctx, a: ValueId, b: ValueId) -> Result<ValueId> {
    let (heads, groups) = (c.dim(a, 1), c.dim(b, 1));
    if heads == groups {
        return c.matmul(a, b);
    }
    let (heads, groups) = (c.size(a, 1)?, c.size(b, 1)?);
    ensure!(
        groups > 0 && heads % groups == 0,
        "the number of query heads, {heads}, must be a multiple of the number of key and value heads, {groups}"
    );
    let [batch, _, m, k] = four(c, a)?;
    let n = c.dim(b, 3);
    let rows = Dim::from(heads / groups) * m.clone();
    let together = c.reshape(a, vec![batch.clone(), groups.into(), rows, k])?;
    let product = c.matmul(together, b)?;
    c.reshape(product, vec![batch, heads.into(), m, n])
}

fn four(c: &Ctx, x: ValueId) -> Result<[Dim; 4]> {
    match <[Dim; 4]>::try_from(c.dims(x)) {
        Ok(dims) => Ok(dims),
        Err(_) => bail!("expected a tensor of rank 4, found {}", c.ty(x)),
    }
}

/// `q * k' * scale` over heads; the number of heads of `k` may be a divisor of that of `q`.
pub(super) fn scaled_scores(c: &mut Ctx, q: ValueId, k: ValueId, scale: f64) -> Result<ValueId> {
    let (q, k) = (c.scaled(q, scale)?, c.transpose_last(k)?);
    grouped_matmul(c, q, k)
}

/// `1 / sqrt(size)` of heads whose size is known when compiling.
pub(super) fn default_scale(c: &Ctx, q: ValueId) -> Result<f64> {
    Ok(1.0 / (c.size(q, c.rank(q) - 1)? as f64).sqrt())
}

/// What scores of `[batch, heads, queries, keys]` are masked with.
#[derive(Default)]
pub(super) struct Mask {
    /// Pairs of a query and a key that take part, if not all do.
    pub allowed: Option<ValueId>,
    /// What is added to the scores.
    pub bias: Option<ValueId>,
    /// Whether a query may be left without any key. Its probabilities are zeros then.
    pub may_be_empty: bool,
}

impl Mask {
    /// Leaves out pairs that aren't allowed.
    pub fn and(&mut self, c: &mut Ctx, allowed: ValueId) -> Result<()> {
        self.allowed = Some(match self.allowed {
            Some(before) => c.and(before, allowed)?,
            None => allowed,
        });
        Ok(())
    }

    /// Adds to the scores.
    pub fn plus(&mut self, c: &mut Ctx, bias: ValueId) -> Result<()> {
        self.bias = Some(match self.bias {
            Some(before) => c.plus(before, bias)?,
            None => bias,
        });
        Ok(())
    }

    /// The scores with the mask applied.
    pub fn apply(&self, c: &mut Ctx, scores: ValueId) -> Result<ValueId> {
        let mut y = scores;
        if let Some(bias) = self.bias {
            let bias = c.cast(bias, c.dtype(y))?;
            y = c.plus(y, bias)?;
        }
        if let Some(allowed) = self.allowed {
            let never = c.number_like(f64::NEG_INFINITY, y);
            y = c.select(allowed, y, never)?;
        }
        Ok(y)
    }

    /// The softmax of masked scores.
    pub fn softmax(&self, c: &mut Ctx, masked: ValueId) -> Result<ValueId> {
        let axis = c.rank(masked) - 1;
        let y = c.add(Softmax { axis }, &[masked])?;
        if !self.may_be_empty {
            return Ok(y);
        }
        let some = match (self.allowed, self.bias) {
            (None, None) => return Ok(y),
            (Some(allowed), None) => c.reduce(ReduceOp::Or, allowed, &[c.rank(allowed) - 1], true)?,
            (allowed, Some(bias)) => {
                let never = c.number_like(f64::NEG_INFINITY, bias);
                let bias = match allowed {
                    Some(allowed) => c.select(allowed, bias, never)?,
                    None => bias,
                };
                let most = c.reduce(ReduceOp::Max, bias, &[c.rank(bias) - 1], true)?;
                let none = c.equal(most, never)?;
                c.not(none)?
            }
        };
        let zero = c.number_like(0.0, y);
        c.select(some, y, zero)
    }
}

/// For every query and key how many positions the key is after the query's own, which is at `offset` plus its number.
pub(super) fn distances(c: &mut Ctx, queries: &Dim, keys: &Dim, offset: ValueId) -> Result<ValueId> {
    let shape = vec![queries.clone(), keys.clone()];
    let (row, column) = (c.iota(shape.clone(), 0, DType::I64)?, c.iota(shape, 1, DType::I64)?);
    let distance = c.minus(column, row)?;
    c.minus(distance, offset)
}

/// `x` with its last axis extended to `extent` by a value.
fn extended(c: &mut Ctx, x: ValueId, extent: &Dim, value: Scalar) -> Result<ValueId> {
    let axis = c.rank(x) - 1;
    let missing = extent.clone() - c.dim(x, axis);
    if missing.as_const().is_some_and(|n| n <= 0) {
        return Ok(x);
    }
    let (lo, mut hi) = (vec![Dim::from(0); axis + 1], vec![Dim::from(0); axis + 1]);
    hi[axis] = match missing.as_const() {
        Some(_) => missing,
        None => missing.maximum(&0.into()),
    };
    let padded = c.pad(x, lo, hi, value)?;
    c.slice(padded, axis, 0, extent.clone())
}

/// `cap * tanh(x / cap)`, for a cap other than 0.
fn capped(c: &mut Ctx, x: ValueId, cap: f64) -> Result<ValueId> {
    if cap <= 0.0 {
        return Ok(x);
    }
    let x = c.with_number(ScalarFn::Div, x, cap)?;
    let x = c.tanh(x)?;
    c.scaled(x, cap)
}

/// ONNX `Attention`: grouped heads, a cache inside or outside of the operator, masks, causal and windowed forms. 16-bit
/// floats are computed in `f32` throughout.
fn attention(c: &mut Ctx) -> Result<Outputs> {
    let (mut q, mut k, mut v) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let flat = c.rank(q) == 3;
    if flat {
        let q_heads = c.required("q_num_heads", c.int("q_num_heads")?)?;
        let kv_heads = c.required("kv_num_heads", c.int("kv_num_heads")?)?;
        q = split_heads(c, q, q_heads)?;
        k = split_heads(c, k, kv_heads)?;
        v = split_heads(c, v, kv_heads)?;
    }
    let [batch, _, queries, size] = four(c, q)?;
    let [_, kv_heads, keys, _] = four(c, k)?;
    let [.., value_size] = four(c, v)?;
    k = matched(c, k, &[batch.clone(), kv_heads.clone(), keys.clone(), size.clone()])?;
    v = matched(c, v, &[batch.clone(), kv_heads.clone(), keys, value_size.clone()])?;
    let (past_key, past_value, nonpad) = (c.optional(4)?, c.optional(5)?, c.optional(6)?);
    let mut offset = c.number(0.0, DType::I64);
    match (past_key, past_value) {
        (Some(past_key), Some(past_value)) => {
            let [_, _, past, _] = four(c, past_key)?;
            let past_key = matched(c, past_key, &[batch.clone(), kv_heads.clone(), past.clone(), size])?;
            let past_value = matched(c, past_value, &[batch.clone(), kv_heads, past.clone(), value_size])?;
            k = c.concat(&[past_key, k], 2)?;
            v = c.concat(&[past_value, v], 2)?;
            offset = c.dim_value(&past, DType::I64)?;
            ensure!(nonpad.is_none(), "past keys and `nonpad_kv_seqlen` can't be used together");
        }
        (None, None) => {}
        _ => bail!("past keys and values must be given together"),
    }
    let keys = c.dim(k, 2);
    let mut mask = Mask::default();
    attention_mask(c, &mut mask, [&batch, &c.dim(q, 1), &queries, &keys])?;
    let nonpad = match nonpad {
        Some(n) => Some(c.reshape(n, vec![batch, 1.into(), 1.into(), 1.into()])?),
        None => None,
    };
    if let Some(nonpad) = nonpad {
        let key = c.iota(vec![keys.clone()], 0, DType::I64)?;
        let inside = c.less(key, nonpad)?;
        mask.and(c, inside)?;
        mask.may_be_empty = true;
        let queries = c.dim_value(&queries, DType::I64)?;
        offset = c.minus(nonpad, queries)?;
    }
    attention_range(c, &mut mask, &queries, &keys, offset)?;
    let scale = c.float("scale")?;
    let scale = scale.map_or_else(|| default_scale(c, q), Ok)?;
    let (dtype, present) = (c.dtype(q), [k, v]);
    let (q, k, v) = (c.widened(q)?, c.widened(k)?, c.widened(v)?);
    let raw = scaled_scores(c, q, k, scale)?;
    let soft = capped(c, raw, c.float_or("softcap", 0.0)?)?;
    let masked = mask.apply(c, soft)?;
    let precise = match c.dtype_attribute("softmax_precision")? {
        Some(precision) => c.cast(masked, precision)?,
        None => masked,
    };
    let probabilities = mask.softmax(c, precise)?;
    let shown = match c.int_or("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => soft,
        2 => masked,
        3 => probabilities,
        other => bail!("the attribute `qk_matmul_output_mode` must be from 0 to 3, found {other}"),
    };
    let weights = c.cast(probabilities, c.dtype(v))?;
    let mut y = grouped_matmul(c, weights, v)?;
    if flat {
        y = join_heads(c, y)?;
    }
    let (y, shown) = (c.cast(y, dtype)?, c.cast(shown, dtype)?);
    Ok(vec![y, present[0], present[1], shown].into())
}

/// Input 3 of `Attention`, whose last axis may be shorter than the keys are many.
fn attention_mask(c: &mut Ctx, mask: &mut Mask, dims: [&Dim; 4]) -> Result<()> {
    let Some(given) = c.optional(3)? else { return Ok(()) };
    mask.may_be_empty = true;
    let rank = c.rank(given);
    ensure!((1..=4).contains(&rank), "the mask must have a rank from 1 to 4, found {}", c.ty(given));
    let logical = c.dtype(given) == DType::Bool;
    let value = if logical { Scalar::B(false) } else { Scalar::F(f64::NEG_INFINITY) };
    let given = extended(c, given, dims[3], value)?;
    let dims: Vec<Dim> = dims[4 - rank..].iter().map(|&d| d.clone()).collect();
    let given = matched(c, given, &dims)?;
    if logical { mask.and(c, given) } else { mask.plus(c, given) }
}

/// What the attributes of `Attention` say of the keys that queries see; `offset` is how many keys come before query 0.
fn attention_range(c: &mut Ctx, mask: &mut Mask, queries: &Dim, keys: &Dim, offset: ValueId) -> Result<()> {
    let window = |c: &Ctx, name: &str| -> Result<Option<i64>> {
        let size = c.int_or(name, -1)?;
        ensure!(size >= -1, "the attribute `{name}` must be -1 or not negative, found {size}");
        Ok((size >= 0).then_some(size))
    };
    let (left, right) = (window(c, "left_window_size")?, window(c, "right_window_size")?);
    let causal = c.flag("is_causal", false)?;
    let last = if causal { Some(right.map_or(0, |right| right.min(0))) } else { right };
    if left.is_none() && last.is_none() {
        return Ok(());
    }
    let distance = distances(c, queries, keys, offset)?;
    if let Some(last) = last {
        let allowed = c.with_number(ScalarFn::Le, distance, last as f64)?;
        mask.and(c, allowed)?;
    }
    if let Some(left) = left {
        let allowed = c.with_number(ScalarFn::Ge, distance, -left as f64)?;
        mask.and(c, allowed)?;
        mask.may_be_empty = true;
    }
    Ok(())
}

/// Bodies may change the scores before the softmax, and the probabilities after it.
fn flex_attention(c: &mut Ctx) -> Result<Outputs> {
    let (q, k, v) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (dtype, [.., size]) = (c.dtype(v), four(c, q)?);
    let [batch, kv_heads, keys, _] = four(c, k)?;
    let k = matched(c, k, &[batch.clone(), kv_heads.clone(), keys.clone(), size])?;
    let v = matched(c, v, &[batch, kv_heads, keys, c.dim(v, 3)])?;
    let (q, k) = (c.widened(q)?, c.widened(k)?);
    let work = c.dtype_attribute("softmax_precision")?.unwrap_or(c.dtype(q));
    let scale = c.float("scale")?;
    let scale = scale.map_or_else(|| default_scale(c, q), Ok)?;
    let scores = scaled_scores(c, q, k, scale)?;
    let scores = c.cast(scores, work)?;
    let Some(scores) = modified(c, "score_mod", scores)? else { return Ok(failed()) };
    let probabilities = c.add(Softmax { axis: 3 }, &[scores])?;
    let Some(probabilities) = modified(c, "prob_mod", probabilities)? else { return Ok(failed()) };
    let values = c.cast(v, work)?;
    let y = grouped_matmul(c, probabilities, values)?;
    Ok(c.cast(y, dtype)?.into())
}

/// The result of a body of one input, or the input where there is no body; nothing if the body can't be imported.
fn modified(c: &mut Ctx, body: &str, x: ValueId) -> Result<Option<ValueId>> {
    if !c.has_attribute(body) {
        return Ok(Some(x));
    }
    let results = c.inline(c.graph_attribute(body)?, vec![Item::Tensor(x)])?;
    let [result] = &results[..] else {
        bail!("the body `{body}` must have one output, found {}", results.len())
    };
    if *result == Item::Failed {
        return Ok(None);
    }
    let y = c.tensor_of(result)?;
    ensure!(c.ty(y) == c.ty(x), "the body `{body}` must give {}, found {}", c.ty(x), c.ty(y));
    Ok(Some(y))
}

/// Pairs of elements rotated by angles whose cosines and sines are given, the cache being indexed by positions or not.
fn rotary_embedding(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let positions = c.optional(3)?;
    let flat = c.rank(x) == 3;
    ensure!(flat || c.rank(x) == 4, "expected rank 3 or 4, found {}", c.ty(x));
    let heads = match flat {
        true => {
            let heads = c.required("num_heads", c.int("num_heads")?)?;
            heads_apart(c, x, heads)?
        }
        false => x,
    };
    let mut caches = [c.input(1)?, c.input(2)?];
    for cache in &mut caches {
        if let Some(positions) = positions {
            *cache = c.gather(*cache, positions, 0)?;
        }
        ensure!(c.rank(*cache) == 3, "the cosines and sines must have rank 3, found {}", c.ty(*cache));
        *cache = c.unsqueeze(*cache, &[if flat { 2 } else { 1 }])?;
    }
    let rotation = Rotation {
        cos: caches[0],
        sin: caches[1],
        size: c.int_or("rotary_embedding_dim", 0)?,
        interleaved: c.flag("interleaved", false)?,
    };
    let y = rotation.apply(c, heads)?;
    Ok(c.reshape(y, c.dims(x))?.into())
}

/// A rotation of pairs of elements along the last axis.
pub(super) struct Rotation {
    /// Cosines, which broadcast against half of the elements.
    pub cos: ValueId,
    /// Sines.
    pub sin: ValueId,
    /// How many elements are rotated; 0 for all.
    pub size: i64,
    /// Whether neighbours are paired, else the first half with the second.
    pub interleaved: bool,
}

impl Rotation {
    pub fn apply(&self, c: &mut Ctx, x: ValueId) -> Result<ValueId> {
        let Some(axis) = c.rank(x).checked_sub(1) else { bail!("expected vectors, found {}", c.ty(x)) };
        let all = c.size(x, axis)? as i64;
        let size = if self.size == 0 { all } else { self.size };
        ensure!(
            (0..=all).contains(&size) && size % 2 == 0,
            "{size} of {all} elements can't be rotated in pairs"
        );
        let turned = c.slice(x, axis, 0, size)?;
        let half = Dim::from(size / 2);
        let [a, b] = match self.interleaved {
            true => {
                let mut dims = c.dims(turned);
                dims.splice(axis.., [half, 2.into()]);
                let pairs = c.reshape(turned, dims)?;
                [c.at(pairs, axis + 1, 0)?, c.at(pairs, axis + 1, 1)?]
            }
            false => [c.slice(turned, axis, 0, half.clone())?, c.slice(turned, axis, half.clone(), half)?],
        };
        let (ac, bs) = (c.times(a, self.cos)?, c.times(b, self.sin)?);
        let (bc, as_) = (c.times(b, self.cos)?, c.times(a, self.sin)?);
        let (real, imaginary) = (c.minus(ac, bs)?, c.plus(as_, bc)?);
        let turned = match self.interleaved {
            true => {
                let parts = [c.unsqueeze(real, &[axis + 1])?, c.unsqueeze(imaginary, &[axis + 1])?];
                let pairs = c.concat(&parts, axis + 1)?;
                c.reshape(pairs, c.dims(turned))?
            }
            false => c.concat(&[real, imaginary], axis)?,
        };
        if size == all {
            return Ok(turned);
        }
        let rest = c.slice(x, axis, size, all - size)?;
        c.concat(&[turned, rest], axis)
    }
}

/// A state per head, `[key size, value size]`, to which every position adds a product of its key and value.
fn linear_attention(c: &mut Ctx) -> Result<Outputs> {
    let q_heads = c.required("q_num_heads", c.int("q_num_heads")?)?;
    let heads = c.required("kv_num_heads", c.int("kv_num_heads")?)?;
    ensure!(
        heads > 0 && q_heads > 0 && q_heads % heads == 0,
        "q_num_heads, {q_heads}, must be a multiple of kv_num_heads, {heads}"
    );
    let (gated, corrected) = match c.text_or("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => bail!("the update rule {other} is unknown"),
    };
    let query = c.input(0)?;
    // Each as [length, batch, heads, size].
    let along = |c: &mut Ctx, x: ValueId, heads: i64| -> Result<ValueId> {
        let apart = heads_apart(c, x, heads)?;
        let first = c.transpose(apart, &[1, 0, 2, 3])?;
        c.cast(first, DType::F32)
    };
    let q = along(c, query, q_heads)?;
    let k = along(c, c.input(1)?, heads)?;
    let v = along(c, c.input(2)?, heads)?;
    let mut scanned = vec![q, k, v];
    if gated {
        let decay = along(c, c.input(4)?, heads)?;
        let decay = c.exp(decay)?;
        scanned.push(c.unsqueeze(decay, &[4])?);
    }
    if corrected {
        let beta = c.input(5)?;
        let heads = if c.dim(beta, 2).is(1) { 1 } else { heads };
        scanned.push(along(c, beta, heads)?);
    }
    let (batch, key_size, value_size) = (c.dim(query, 0), c.dim(k, 3), c.dim(v, 3));
    let past = c.optional(3)?;
    let state = match past {
        Some(past) => c.cast(past, DType::F32)?,
        None => {
            let dims = vec![batch.clone(), heads.into(), key_size.clone(), value_size.clone()];
            c.filled(Scalar::F(0.0), DType::F32, dims)?
        }
    };
    let scale = match c.float_or("scale", 0.0)? {
        0.0 => default_scale(c, q)?,
        scale => scale,
    };
    let shared = Vec::new();
    let steps = Steps { states: vec![state], scanned, shared, reverse: false };
    let (states, outputs) = steps::run(c, steps, |c, Step { states, elements, .. }| {
        let mut state = states[0];
        let [query, key, mut value] = [elements[0], elements[1], elements[2]];
        if gated {
            state = c.times(state, elements[3])?;
        }
        if corrected {
            let row = c.unsqueeze(key, &[2])?;
            let found = c.matmul(row, state)?;
            let found = c.squeeze(found, &[2])?;
            let change = c.minus(value, found)?;
            value = c.times(change, elements[elements.len() - 1])?;
        }
        let (column, row) = (c.unsqueeze(key, &[3])?, c.unsqueeze(value, &[2])?);
        let product = c.times(column, row)?;
        state = c.plus(state, product)?;
        let mut rows = c.dims(query);
        rows.splice(1..2, [heads.into(), (q_heads / heads).into()]);
        let queries = c.reshape(query, rows)?;
        let y = c.matmul(queries, state)?;
        Ok((vec![state], vec![c.scaled(y, scale)?]))
    })?;
    let y = c.transpose(outputs[0], &[1, 0, 2, 3, 4])?;
    let y = c.reshape(y, vec![batch, c.dim(query, 1), Dim::from(q_heads) * value_size])?;
    let y = c.cast(y, c.dtype(query))?;
    let state = c.cast(states[0], c.dtype(past.unwrap_or(query)))?;
    Ok(vec![y, state].into())
}

/// A convolution of each channel with what was before it: the end of the last input, or zeros.
fn causal_conv_with_state(c: &mut Ctx) -> Result<Outputs> {
    let (x, weight) = (c.input(0)?, c.input(1)?);
    ensure!(c.rank(x) == 3 && c.rank(weight) == 3, "expected rank 3, found {} and {}", c.ty(x), c.ty(weight));
    let (channels, before) = (c.size(weight, 0)?, c.size(weight, 2)? as i64 - 1);
    ensure!(before >= 0, "the kernel is empty");
    let all = match c.optional(3)? {
        Some(past) => c.concat(&[past, x], 2)?,
        None => c.pad(x, vec![0.into(), 0.into(), before.into()], vec![0.into(); 3], Scalar::F(0.0))?,
    };
    let conv = Conv { strides: vec![1], dilations: vec![1], pads: vec![0, 0], groups: channels };
    let mut y = c.add(conv, &[all, weight])?;
    if let Some(bias) = c.optional(2)? {
        let bias = c.along(bias, 1, 3)?;
        y = c.plus(y, bias)?;
    }
    y = match c.text_or("activation", "none")? {
        "none" => y,
        "silu" | "swish" => swish_of(c, y, 1.0)?,
        other => bail!("the activation {other} is unknown"),
    };
    let state = c.slice(all, 2, c.dim(x, 2), before)?;
    Ok(vec![y, state].into())
}

fn swiglu(c: &mut Ctx) -> Result<Outputs> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let b = matched(c, b, &c.dims(a))?;
    let gate = swish_of(c, a, c.float_or("alpha", 1.0)?)?;
    Ok(c.times(gate, b)?.into())
}

/// Updates written into a cache along an axis, from a position of each batch on.
fn tensor_scatter(c: &mut Ctx) -> Result<Outputs> {
    let (cache, update) = (c.input(0)?, c.input(1)?);
    let rank = c.rank(cache);
    let axis = c.axis(c.int_or("axis", -2)?, rank)?;
    ensure!(
        axis > 0 && c.rank(update) == rank,
        "expected {} like {}, the axis not the batch",
        c.ty(update),
        c.ty(cache)
    );
    let mut dims = c.dims(cache);
    dims[axis] = c.dim(update, axis);
    let update = matched(c, update, &dims)?;
    let mut line = vec![Dim::from(1); rank];
    line[axis] = dims[axis].clone();
    let mut index = c.iota(line, axis, DType::I64)?;
    if let Some(first) = c.optional(2)? {
        let first = c.along(first, 0, rank)?;
        let first = c.cast(first, DType::I64)?;
        index = c.plus(index, first)?;
    }
    match c.text_or("mode", "linear")? {
        "linear" => {}
        "circular" => {
            let extent = c.dim_value(&c.dim(cache, axis), DType::I64)?;
            index = c.apply(ScalarFn::Mod, &[index, extent])?;
        }
        other => bail!("the mode {other} is unknown"),
    }
    let index = c.expand(index, dims)?;
    let reduction = ScatterReduction::None;
    Ok(c.add(ScatterElements { axis, reduction }, &[cache, index, update])?.into())
}

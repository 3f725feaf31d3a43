//! Operators of ONNX Runtime's domain that exporters and optimisers write, as far as no other family has them.

use super::activation::{gelu_of, gelu_tanh_of, named, swish_of};
use super::attention::{Mask, Rotation, default_scale, distances, grouped_matmul, heads_apart, join_heads};
use super::attention::{matched, scaled_scores, split_heads};
use super::conv::{convolution, with_bias};
use super::matmul::gemm;
use super::norm::{inverse_root, layer, moments, rms, root_mean_square, scaled_and_shifted};
use crate::import::onnx::ctx::{Ctx, Item, Outputs};
use crate::import::onnx::table::{Operator, contrib, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    contrib("Attention", attention),
    contrib("BiasGelu", |c| gelu(c, gelu_of)),
    contrib("EmbedLayerNormalization", embed_layer_normalization),
    contrib("FastGelu", |c| gelu(c, gelu_tanh_of)),
    contrib("FusedConv", fused_conv),
    contrib("FusedGemm", fused_gemm),
    contrib("Gelu", |c| gelu(c, gelu_of)),
    contrib("LayerNormalization", layer),
    contrib("MultiHeadAttention", multi_head_attention),
    contrib("QuickGelu", quick_gelu),
    contrib("RotaryEmbedding", rotary_embedding),
    contrib("SimplifiedLayerNormalization", rms),
    contrib("SkipLayerNormalization", |c| skip_normalization(c, false)),
    contrib("SkipSimplifiedLayerNormalization", |c| skip_normalization(c, true)),
    // These were in the default domain before it had them itself.
    op("LayerNormalization", 1, layer).until(16),
    op("SimplifiedLayerNormalization", 1, rms),
];

/// A function of the input, to which a bias may be added.
fn gelu(c: &mut Ctx, f: fn(&mut Ctx, ValueId) -> Result<ValueId>) -> Result<Outputs> {
    c.only_attributes(&[])?;
    let x = c.input(0)?;
    let bias = c.optional(1)?;
    let y = c.in_wide(x, |c, x| {
        let x = match bias {
            Some(bias) => {
                let bias = c.cast(bias, c.dtype(x))?;
                c.plus(x, bias)?
            }
            None => x,
        };
        f(c, x)
    })?;
    Ok(y.into())
}

fn quick_gelu(c: &mut Ctx) -> Result<Outputs> {
    let (x, alpha) = (c.input(0)?, c.float_or("alpha", 1.702)?);
    Ok(c.in_wide(x, |c, x| swish_of(c, x, alpha))?.into())
}

/// Inputs: x, skip, scale, then (but for the simplified form) the shift, then a bias that is added before.
fn skip_normalization(c: &mut Ctx, simplified: bool) -> Result<Outputs> {
    c.only_attributes(&["epsilon"])?;
    let (x, skip, scale) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (shift, bias) = match simplified {
        true => (None, c.optional(3)?),
        false => (c.optional(3)?, c.optional(4)?),
    };
    let dtype = c.dtype(x);
    let mut sum = c.widened(x)?;
    for term in [Some(skip), bias].into_iter().flatten() {
        let term = c.cast(term, c.dtype(sum))?;
        sum = c.plus(sum, term)?;
    }
    let (y, mean, inverse) = normalised(c, sum, scale, shift, simplified, dtype)?;
    Ok(vec![y, mean, inverse, c.cast(sum, dtype)?].into())
}

/// A sum normalised along its last axis; its mean and the factor by which it is scaled.
fn normalised(
    c: &mut Ctx,
    sum: ValueId,
    scale: ValueId,
    shift: Option<ValueId>,
    simplified: bool,
    dtype: DType,
) -> Result<(ValueId, ValueId, ValueId)> {
    let (epsilon, axes) = (c.float_or("epsilon", 1e-12)?, [c.rank(sum).saturating_sub(1)]);
    if simplified {
        let normal = root_mean_square(c, sum, &axes, epsilon)?;
        let y = scaled_and_shifted(c, normal, scale, None, dtype)?;
        ensure!(!c.wants(1) && !c.wants(2), "the mean and the factor are not supported as outputs");
        return Ok((y, y, y));
    }
    let m = moments(c, sum, &axes)?;
    let inverse = inverse_root(c, m.variance, epsilon)?;
    let normal = c.times(m.centred, inverse)?;
    let y = scaled_and_shifted(c, normal, scale, shift, dtype)?;
    Ok((y, m.mean, inverse))
}

/// The sum of the embeddings of words, positions and segments, normalised.
fn embed_layer_normalization(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["epsilon", "mask_index_type"])?;
    let (ids, words, positions) = (c.input(0)?, c.input(2)?, c.input(3)?);
    ensure!(c.rank(ids) == 2, "the word indices must be [batch, length], found {}", c.ty(ids));
    let mut sum = c.gather(words, ids, 0)?;
    let place = match c.optional(8)? {
        Some(places) => c.gather(positions, places, 0)?,
        None => c.slice(positions, 0, 0, c.dim(ids, 1))?,
    };
    sum = c.plus(sum, place)?;
    if let (Some(segments), Some(ids)) = (c.optional(4)?, c.optional(1)?) {
        let segment = c.gather(segments, ids, 0)?;
        sum = c.plus(sum, segment)?;
    }
    let dtype = c.dtype(sum);
    let wide = c.widened(sum)?;
    let (scale, shift) = (c.input(5)?, c.optional(6)?);
    let (y, ..) = normalised(c, wide, scale, shift, false, dtype)?;
    let lengths = match c.optional(7)? {
        Some(mask) => {
            let mask = c.cast(mask, DType::I32)?;
            c.sum(mask, &[1], false)?
        }
        None => c.filled(Scalar::I(0), DType::I32, vec![c.dim(ids, 0)])?,
    };
    Ok(vec![y, lengths, sum].into())
}

/// The activation that the attributes name, if they name one.
fn fused_activation(c: &mut Ctx, x: ValueId, parameters: &[f64]) -> Result<ValueId> {
    let parameter = |k: usize| parameters.get(k).copied();
    match c.text_or("activation", "")? {
        "" => Ok(x),
        "Clip" => match (parameter(0), parameter(1)) {
            (Some(low), Some(high)) => c.clamp(x, low, high),
            _ => bail!("the activation Clip needs two parameters"),
        },
        name => named(c, x, name, parameter(0), parameter(1)),
    }
}

/// Input 3 is added before the activation.
fn fused_conv(c: &mut Ctx) -> Result<Outputs> {
    let (x, w, bias, more) = (c.input(0)?, c.input(1)?, c.optional(2)?, c.optional(3)?);
    let mut y = convolution(c, x, w)?;
    y = with_bias(c, y, bias)?;
    if let Some(more) = more {
        y = c.plus(y, more)?;
    }
    let parameters = c.floats("activation_params")?.unwrap_or_default();
    Ok(fused_activation(c, y, &parameters)?.into())
}

fn fused_gemm(c: &mut Ctx) -> Result<Outputs> {
    let Outputs(items) = gemm(c)?;
    let [Item::Tensor(y)] = items[..] else { bail!("expected one result") };
    let given = [c.float("activation_alpha")?, c.float("activation_beta")?];
    let parameters: Vec<f64> = given.into_iter().map_while(|p| p).collect();
    Ok(fused_activation(c, y, &parameters)?.into())
}

/// Positions are given for every element, or the first one is; the caches are indexed by them.
fn rotary_embedding(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["interleaved", "num_heads", "rotary_embedding_dim", "scale", "is_packed_batching"])?;
    ensure!(!c.flag("is_packed_batching", false)?, "packed batches are not supported");
    ensure!(c.float_or("scale", 1.0)? == 1.0, "a scale other than 1 is not supported");
    let (x, mut positions) = (c.input(0)?, c.input(1)?);
    let mut caches = [c.input(2)?, c.input(3)?];
    let size = c.int_or("rotary_embedding_dim", 0)?;
    let flat = c.rank(x) == 3;
    let heads = match (flat, c.int_or("num_heads", 0)?) {
        (false, _) => x,
        (true, 0) => {
            let width = c.dim(x, 2).floor_div(&(c.dim(caches[0], 1) * 2.into()));
            let Some(heads) = width.as_const() else { bail!("the width of {} must be known", c.ty(x)) };
            heads_apart(c, x, heads)?
        }
        (true, heads) => heads_apart(c, x, heads)?,
    };
    let length = if flat { c.dim(heads, 1) } else { c.dim(heads, 2) };
    if c.rank(positions) == 1 {
        let index = c.iota(vec![1.into(), length], 1, c.dtype(positions))?;
        let first = c.reshape(positions, vec![1.into(), 1.into()])?;
        positions = c.plus(index, first)?;
    }
    for cache in &mut caches {
        let lines = c.gather(*cache, positions, 0)?;
        *cache = c.unsqueeze(lines, &[if flat { 2 } else { 1 }])?;
    }
    let rotation =
        Rotation { cos: caches[0], sin: caches[1], size, interleaved: c.flag("interleaved", false)? };
    let y = rotation.apply(c, heads)?;
    Ok(c.reshape(y, c.dims(x))?.into())
}

/// What the two attention operators share, heads being apart: `[batch, heads, length, size]`.
struct Attention {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    /// `[batch]`: how many keys count; or `[batch, keys]`, `[batch, queries, keys]` and the like: which ones do.
    padding: Option<ValueId>,
    bias: Option<ValueId>,
    /// How many of the keys are from before, if there is a cache.
    past: Dim,
}

impl Attention {
    fn apply(self, c: &mut Ctx) -> Result<ValueId> {
        let dtype = c.dtype(self.q);
        let (queries, keys) = (c.dim(self.q, 2), c.dim(self.k, 2));
        let mut mask = Mask::default();
        if let Some(bias) = self.bias {
            let bias = c.widened(bias)?;
            mask.plus(c, bias)?;
        }
        if let Some(padding) = self.padding {
            let bias = padding_bias(c, padding, &c.dim(self.q, 0), &keys)?;
            mask.plus(c, bias)?;
        }
        if c.flag("unidirectional", false)? {
            let offset = c.dim_value(&self.past, DType::I64)?;
            let distance = distances(c, &queries, &keys, offset)?;
            let allowed = c.with_number(ScalarFn::Le, distance, 0.0)?;
            mask.and(c, allowed)?;
        }
        let scale = match c.float_or("scale", 0.0)? {
            0.0 => default_scale(c, self.q)?,
            scale => scale,
        };
        let (q, k, v) = (c.widened(self.q)?, c.widened(self.k)?, c.widened(self.v)?);
        let scores = scaled_scores(c, q, k, scale)?;
        let masked = mask.apply(c, scores)?;
        let probabilities = mask.softmax(c, masked)?;
        let y = grouped_matmul(c, probabilities, v)?;
        let y = join_heads(c, y)?;
        c.cast(y, dtype)
    }
}

/// What is added to the scores of keys that don't count; broadcasts to `[batch, heads, queries, keys]`.
fn padding_bias(c: &mut Ctx, padding: ValueId, batch: &Dim, keys: &Dim) -> Result<ValueId> {
    let value = c.float_or("mask_filter_value", -10000.0)?;
    let counts = match c.rank(padding) {
        1 => {
            let lengths = matched(c, padding, std::slice::from_ref(batch))?;
            let lengths = c.along(lengths, 0, 4)?;
            let index = c.iota(vec![keys.clone()], 0, c.dtype(lengths))?;
            c.less(index, lengths)?
        }
        rank @ 2..=4 => {
            let axes: &[usize] = [&[1, 2][..], &[1], &[]][rank - 2];
            let wide = c.unsqueeze(padding, axes)?;
            if c.dtype(wide) == DType::Bool { wide } else { c.with_number(ScalarFn::Gt, wide, 0.0)? }
        }
        _ => bail!("the mask {} is not supported", c.ty(padding)),
    };
    let (zero, value) = (c.number(0.0, DType::F32), c.number(value, DType::F32));
    c.select(counts, zero, value)
}

/// The product of the input with one matrix for queries, keys and values; the cache holds keys and values together.
fn attention(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["num_heads", "unidirectional", "qkv_hidden_sizes", "mask_filter_value", "scale"])?;
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    ensure!(c.optional(6)?.is_none(), "the input `past_sequence_length` is not supported");
    let heads = c.required("num_heads", c.int("num_heads")?)?;
    let width = c.dim(w, 1);
    let sizes: Vec<Dim> = match c.ints("qkv_hidden_sizes")? {
        Some(sizes) => sizes.into_iter().map(Dim::from).collect(),
        None => vec![width.floor_div(&3.into()); 3],
    };
    let fits = sizes.len() == 3 && sizes.iter().sum::<Dim>() == width;
    ensure!(fits, "{width} columns can't be split into parts of {sizes:?} for queries, keys and values");
    let mut product = c.matmul(x, w)?;
    if let Some(bias) = bias {
        product = c.plus(product, bias)?;
    }
    let mut parts = c.split(product, 2, &sizes)?;
    for part in &mut parts {
        *part = split_heads(c, *part, heads)?;
    }
    let (mut past, mut present) = (Dim::from(0), None);
    if let Some(cache) = c.optional(4)? {
        past = c.dim(cache, 3);
        for (k, part) in parts[1..].iter_mut().enumerate() {
            let before = c.at(cache, 0, k)?;
            *part = c.concat(&[before, *part], 2)?;
        }
    }
    if c.wants(1) {
        let (k, v) = (c.unsqueeze(parts[1], &[0])?, c.unsqueeze(parts[2], &[0])?);
        present = Some(c.concat(&[k, v], 0)?);
    }
    let (padding, bias) = (c.optional(3)?, c.optional(5)?);
    let y = Attention { q: parts[0], k: parts[1], v: parts[2], padding, bias, past }.apply(c)?;
    Ok([Some(y), present].into_iter().flatten().collect::<Vec<_>>().into())
}

/// Queries, keys and values come apart; keys and values may have their heads apart already.
fn multi_head_attention(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["num_heads", "mask_filter_value", "scale", "unidirectional"])?;
    let heads = c.required("num_heads", c.int("num_heads")?)?;
    let (query, key, value) = (c.input(0)?, c.optional(1)?, c.optional(2)?);
    let (Some(key), Some(value)) = (key, value) else {
        bail!("queries, keys and values packed into one input are not supported")
    };
    ensure!(c.rank(query) == 3 && c.rank(key) != 5, "packed queries, keys and values are not supported");
    ensure!((8..c.n_inputs()).all(|k| c.item(k).is_none()), "the inputs from number 8 on are not supported");
    let mut parts = [query, key, value];
    if let Some(bias) = c.optional(3)? {
        let mut start = Dim::from(0);
        for part in &mut parts {
            ensure!(c.rank(*part) == 3, "a bias needs inputs of rank 3, found {}", c.ty(*part));
            let size = c.dim(*part, 2);
            let own = c.slice(bias, 0, start.clone(), size.clone())?;
            *part = c.plus(*part, own)?;
            start = start + size;
        }
    }
    for part in &mut parts {
        if c.rank(*part) == 3 {
            *part = split_heads(c, *part, heads)?;
        }
    }
    let mut past = Dim::from(0);
    if let (Some(past_key), Some(past_value)) = (c.optional(6)?, c.optional(7)?) {
        past = c.dim(past_key, 2);
        parts[1] = c.concat(&[past_key, parts[1]], 2)?;
        parts[2] = c.concat(&[past_value, parts[2]], 2)?;
    }
    let [q, k, v] = parts;
    let (padding, bias) = (c.optional(4)?, c.optional(5)?);
    let y = Attention { q, k, v, padding, bias, past }.apply(c)?;
    Ok(vec![y, k, v].into())
}

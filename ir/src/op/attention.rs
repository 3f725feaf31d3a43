//! Attention: Vaswani et al., arXiv 1706.03762; with grouped heads: Ainslie et al., arXiv 2305.13245.

use super::elementwise::{broadcast_indices, broadcast_positions};
use super::number::filled;
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, numel};
use crate::types::{Type, broadcast};
use crate::{bail, ensure};

op! {
    /// `softmax(q k' * scale + mask) v` over the keys: `q[.., h, s, d]`, `k[.., g, t, d]`, `v[.., g, t, e]` give
    /// `y[.., h, s, e]`, where each of the `g` heads of keys and values serves `h / g` consecutive ones of queries.
    /// Leading axes are equal.
    ///
    /// At most one mask, which broadcasts to `[.., h, s, t]`: of floats, to be added, or of `bool`, where false hides
    /// a key from a query. A query that sees no key gives NaN, as the softmax of minus infinities does. One float
    /// type; 16-bit floats are computed in `f32` throughout and rounded once. Otherwise it is to the bit what a
    /// matmul, a multiplication, an addition (or selection), a softmax and a matmul give in this order.
    Attention = "attention"(q, k, v; mask ..) {
        /// What products of queries and keys are multiplied by.
        scale: f64,
        /// Whether query `i` sees no key after number `i + t - s`.
        causal: bool,
    }
}

/// The extents of an attention.
struct Extents<'a> {
    batch: &'a [Dim],
    heads: &'a Dim,
    queries: &'a Dim,
    size: &'a Dim,
    keys: &'a Dim,
    value_size: &'a Dim,
    /// How many heads of queries each head of keys serves.
    group: Dim,
}

fn extents<'a>(q: &'a Type, k: &'a Type, v: &'a Type) -> Result<Extents<'a>> {
    let rank = q.rank();
    ensure!(
        rank >= 3 && k.rank() == rank && v.rank() == rank,
        "expected three operands of one rank, 3 or more, found {q}, {k} and {v}"
    );
    let split = |t: &'a Type| t.dims.split_at(rank - 3);
    let ((batch, q_dims), (k_batch, k_dims), (v_batch, v_dims)) = (split(q), split(k), split(v));
    ensure!(batch == k_batch && batch == v_batch, "the leading axes of {q}, {k} and {v} differ");
    let ([heads, queries, size], [groups, keys, k_size], [v_groups, v_keys, value_size]) =
        (q_dims, k_dims, v_dims)
    else {
        bail!("expected rank 3 or more, found {q}")
    };
    ensure!(size == k_size, "queries have {size} elements, keys {k_size}");
    ensure!(
        groups == v_groups && keys == v_keys,
        "there are keys {k} and values {v}; expected as many of each"
    );
    let group = if heads == groups { 1.into() } else { heads.floor_div(groups) };
    let fits = heads == groups
        || heads.as_const().zip(groups.as_const()).is_some_and(|(h, g)| g > 0 && h > 0 && h % g == 0);
    ensure!(fits, "the {heads} heads of {q} are no known multiple of the {groups} heads of {k}");
    Ok(Extents { batch, heads, queries, size, keys, value_size, group })
}

impl Extents<'_> {
    fn scores(&self) -> Vec<Dim> {
        [self.batch, &[self.heads.clone(), self.queries.clone(), self.keys.clone()]].concat()
    }

    fn result(&self) -> Vec<Dim> {
        [self.batch, &[self.heads.clone(), self.queries.clone(), self.value_size.clone()]].concat()
    }
}

impl Operator for Attention {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (q, k, v) = (x[0], x[1], x[2]);
        ensure!(
            q.dtype.is_float() && q.dtype == k.dtype && q.dtype == v.dtype,
            "queries, keys and values must have one float type, found {q}, {k} and {v}"
        );
        let e = extents(q, k, v)?;
        ensure!(x.len() <= 4, "expected at most one mask, found {}", x.len() - 3);
        if let Some(mask) = x.get(3) {
            ensure!(
                mask.dtype == DType::Bool || mask.dtype == q.dtype,
                "a mask must be of bool or {}, found {mask}",
                q.dtype
            );
            let scores = e.scores();
            let fits = broadcast(&[&scores, &mask.dims])? == scores;
            ensure!(fits, "the mask {mask} does not broadcast to {scores:?}");
        }
        Ok(vec![Type::new(q.dtype, e.result())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let rank = shape.len();
        let (heads, queries, size) = (shape[rank - 3], shape[rank - 2], shape[rank - 1]);
        let (groups, keys) = (x[1].shape()[rank - 3], x[1].shape()[rank - 2]);
        let value_size = x[2].shape()[rank - 1];
        let mut scores = [&shape[..rank - 1], &[keys]].concat();
        let at_mask = match x.get(3) {
            Some(mask) => broadcast_positions(mask.shape(), &scores)?,
            None => Vec::new(),
        };
        let mask = x.get(3).map(|m| (m.dtype() == DType::Bool, m.to_f64()));
        let [q, k, v] = [0, 1, 2].map(|p| x[p].to_f64());
        scores.truncate(rank - 1);
        let shape = [&scores[..], &[value_size]].concat();
        let n_rows = numel(&scores)?;
        let mut y = filled(numel(&shape)?, 0.0)?;
        for row in 0..n_rows {
            let (head, query) = (row / queries, row % queries);
            let (batch, group) = (head / heads, head % heads / (heads / groups));
            let first = (batch * groups + group) * keys;
            let score = |t: usize| {
                let (q, k) = (&q[row * size..][..size], &k[(first + t) * size..][..size]);
                let product: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                let hidden = self.causal && t + queries > query + keys;
                let masked = match &mask {
                    None => product * self.scale,
                    Some((is_bool, m)) => match (is_bool, m[at_mask[row * keys + t]]) {
                        (true, 0.0) => f64::NEG_INFINITY,
                        (true, _) => product * self.scale,
                        (false, m) => product * self.scale + m,
                    },
                };
                if hidden { f64::NEG_INFINITY } else { masked }
            };
            let mut weights: Vec<f64> = (0..keys).map(score).collect();
            softmax(&mut weights);
            for (t, weight) in weights.iter().enumerate() {
                let value = &v[(first + t) * value_size..][..value_size];
                y[row * value_size..].iter_mut().zip(value).for_each(|(y, v)| *y += weight * v);
            }
        }
        Ok(vec![Tensor::generate(x[0].dtype(), shape, |p| Scalar::F(y[p]))?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let e = extents(&x[0], &x[1], &x[2]).ok()?;
        let (dtype, work) = (y[0].dtype, y[0].dtype.compute());
        let axes = Axis::outputs(&e.scores());
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let (row, key) = i.split_at(i.len() - 1);
        let (batch, [head, query]) = row.split_at(row.len() - 2) else { return None };
        let group = head.floor_div(&e.group);
        let load = |k: usize, at: [&Dim; 3]| {
            Expr::input(k, batch.iter().chain(at).cloned().collect()).cast(x[k].dtype, work)
        };
        let mul = |a: Expr, b: Expr| Expr::call(ScalarFn::Mul, [a, b]);
        let d = Axis::new("d", e.size.clone());
        let product = mul(load(0, [head, query, &d.dim()]), load(1, [&group, &key[0], &d.dim()]));
        let masked = self.masked(x, &i, &e, work, Expr::stage(0, i.clone()));
        let at = |t: &Axis| [row, &[t.dim()]].concat();
        let exp = |t: Vec<Dim>| {
            let shifted = Expr::call(ScalarFn::Sub, [Expr::stage(1, t), Expr::stage(2, row.to_vec())]);
            Expr::call(ScalarFn::Exp, [shifted])
        };
        let [k, j, t] = ["k", "j", "t"].map(|name| Axis::new(name, e.keys.clone()));
        let rows = axes[..axes.len() - 1].to_vec();
        let inverse = super::softmax::inverse(work, Expr::stage(3, row.to_vec()));
        let share = mul(exp(i.clone()), Expr::stage(4, row.to_vec()));
        let (max, sum) = (Expr::stage(1, at(&k)), exp(at(&j)));
        let results = Axis::outputs(&y[0].dims);
        let weighted = mul(Expr::stage(5, at(&t)), load(2, [&group, &t.dim(), &results[i.len() - 1].dim()]));
        let mut stages = vec![
            Stage::reduce(work, axes.clone(), ReduceOp::Sum, vec![d], product),
            Stage::map(work, axes.clone(), masked),
            Stage::reduce(work, rows.clone(), ReduceOp::Max, vec![k], max),
            Stage::reduce(work, rows.clone(), ReduceOp::Sum, vec![j], sum),
            Stage::map(work, rows, inverse),
            Stage::map(work, axes, share),
        ];
        let product = Stage::reduce(work, results, ReduceOp::Sum, vec![t], weighted);
        super::contract::push_rounded(&mut stages, product, dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
        let mut extent = |most: i64| rng.range(1, most) as usize;
        let (groups, group, size) = (extent(3), extent(4), extent(20));
        let (queries, keys, value_size) = (extent(8), extent(20), extent(20));
        let keys = if rng.one_in(3) { queries } else { keys };
        let batch: Vec<usize> = (0..rng.below(3)).map(|_| 1 + rng.below(3)).collect();
        let heads = groups * group;
        let shape = |heads: usize, n: usize, size: usize| [&batch[..], &[heads, n, size]].concat();
        // Small numbers: the exponential multiplies the errors of scores by the scores.
        let small = |shape: Vec<usize>| Operand { dtype, shape, values: Values::Between(-2, 3) };
        let mut operands = vec![
            small(shape(heads, queries, size)),
            small(shape(groups, keys, size)),
            Operand::finite(dtype, shape(groups, keys, value_size)),
        ];
        if rng.one_in(2) {
            let full = [&batch[..], &[heads, queries, keys]].concat();
            let from = rng.below(full.len());
            let narrow = full[from..].iter().map(|&d| if rng.one_in(3) { 1 } else { d }).collect();
            operands.push(match rng.one_in(2) {
                true => Operand::any(DType::Bool, narrow),
                false => {
                    let values = [0.0, -1.5, f64::NEG_INFINITY, 0.25, -0.5].map(Scalar::F);
                    Operand { dtype, shape: narrow, values: Values::Exactly(values.to_vec()) }
                }
            });
        }
        let scale = rng.pick(&[1.0, 0.5, 0.125, 1.0 / (size as f64).sqrt()]);
        Sample { op: Attention { scale, causal: rng.one_in(3) }.into(), operands }
    }
}

impl Attention {
    /// The score at index `i`, scaled and masked.
    fn masked(&self, x: &[Type], i: &[Dim], e: &Extents, work: DType, score: Expr) -> Expr {
        let mut y = match self.scale {
            1.0 => score,
            scale => Expr::call(ScalarFn::Mul, [score, Expr::float(work, scale)]),
        };
        let never = || Expr::float(work, f64::NEG_INFINITY);
        if let Some(mask) = x.get(3) {
            let at = Expr::input(3, broadcast_indices(&mask.dims, i));
            y = match mask.dtype {
                DType::Bool => y.guarded(at, never()),
                dtype => Expr::call(ScalarFn::Add, [y, at.cast(dtype, work)]),
            };
        }
        if self.causal {
            let (query, key) = (&i[i.len() - 2], &i[i.len() - 1]);
            let last = query.clone() + e.keys.clone() - e.queries.clone();
            let visible = Expr::call(ScalarFn::Le, [Expr::Index(key.clone()), Expr::Index(last)]);
            y = y.guarded(visible, never());
        }
        y
    }
}

/// The softmax of a row, in place.
fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

//! Which convolutions are computed by Winograd's minimal filtering, and how exact that is.
//!
//! It is equal in the real numbers, but its rounding errors are several times those of a convolution. How large depends on
//! the filters, so that it is measured with them before the choice is made.

use super::cost;
use aic_ir::dtype::DType;
use aic_ir::op::{Conv, Winograd, both_sides};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;

/// The largest error that is tolerated, relative to the largest result.
pub const TOLERANCE: f64 = 2e-5;
/// Filters that the error is measured with, and tiles that each is applied to.
const FILTERS: usize = 32;
const TILES: usize = 2;

/// The extent of the tiles with which a convolution of `x` by filters of this shape would be fastest, if that is faster
/// than without them.
pub fn tile(c: &Conv, x: &Type, w: &[usize], y: &Type, target: &Target) -> Option<usize> {
    if !is_plain(c, w) || x.dtype != DType::F32 || block(w[0], target).is_none() {
        return None;
    }
    let time = |m: &usize| cost::winograd(*m, x, y, target);
    let best = [2, 4].into_iter().min_by(|a, b| time(a).total_cmp(&time(b)))?;
    (time(&best) < cost::direct(x, y, w, target)).then_some(best)
}

/// Whether it is a convolution that has such a form, by filters of this shape.
pub fn is_plain(c: &Conv, w: &[usize]) -> bool {
    let has_unit_steps = c.strides.iter().chain(&c.dilations).all(|s| *s == 1);
    matches!(w, [_, _, 3, 3]) && c.groups == 1 && has_unit_steps && c.pads.iter().all(|p| *p <= 2)
}

/// Filters of a block: whole vectors.
fn block(filters: usize, target: &Target) -> Option<usize> {
    let lanes = target.lanes(4) as usize;
    [4, 3, 2, 1].into_iter().map(|n| n * lanes).find(|b| filters.is_multiple_of(*b) && *b <= 2 * lanes)
}

/// The operator for a convolution, and its filters in the domain of the transform, if it is exact enough.
pub fn convert(c: &Conv, w: &Tensor, m: usize, target: &Target) -> Option<(Winograd, Tensor)> {
    let block = block(w.shape()[0], target)?;
    if error(w, m) >= TOLERANCE {
        return None;
    }
    let filters = Winograd::filters(w, m, block).ok()?;
    Some((Winograd { tile: m, pads: c.pads.clone() }, filters))
}

/// The largest error of some results relative to the largest of them.
pub fn error(w: &Tensor, m: usize) -> f64 {
    let (filters, channels) = (w.shape()[0], w.shape()[1]);
    let values = w.to_f64();
    let mut noise = Noise(1);
    let (mut largest, mut worst) = (0.0f64, 0.0f64);
    for _ in 0..TILES {
        let t = m + 2;
        let tiles: Vec<Vec<f64>> =
            (0..channels).map(|_| (0..t * t).map(|_| noise.next()).collect()).collect();
        let matrices = Winograd::matrices(m);
        let input: Vec<Vec<f32>> = tiles.iter().map(|tile| rounded(matrices.input, t, tile)).collect();
        for f in (0..filters).step_by(filters.div_ceil(FILTERS).max(1)) {
            let filter = |c: usize| &values[(f * channels + c) * 9..][..9];
            let mut sums = vec![0.0f32; t * t];
            let mut exact = vec![0.0f64; m * m];
            for c in 0..channels {
                let by = both_sides(matrices.filter, 3, filter(c));
                for (k, sum) in sums.iter_mut().enumerate() {
                    *sum = input[c][k].mul_add(by[k] as f32, *sum);
                }
                for (p, sum) in exact.iter_mut().enumerate() {
                    let at = |k: usize| (p / m + k / 3) * t + p % m + k % 3;
                    *sum += (0..9).map(|k| tiles[c][at(k)] * filter(c)[k]).sum::<f64>();
                }
            }
            let sums: Vec<f64> = sums.into_iter().map(f64::from).collect();
            for (a, b) in rounded(matrices.output, t, &sums).into_iter().zip(exact) {
                largest = largest.max(b.abs());
                worst = worst.max((f64::from(a) - b).abs());
            }
        }
    }
    if largest > 0.0 { worst / largest } else { 0.0 }
}

/// `a x a^T` in single precision.
fn rounded(a: &[f64], columns: usize, tile: &[f64]) -> Vec<f32> {
    let rows = a.len() / columns;
    let sum = |n: usize, f: &dyn Fn(usize) -> (f64, f32)| {
        (0..n).map(f).fold(0.0f32, |sum, (by, v)| (by as f32).mul_add(v, sum))
    };
    let half: Vec<f32> = (0..rows * columns)
        .map(|p| {
            let (r, c) = (p / columns, p % columns);
            sum(columns, &|k| (a[r * columns + k], tile[k * columns + c] as f32))
        })
        .collect();
    (0..rows * rows)
        .map(|p| {
            let (r, s) = (p / rows, p % rows);
            sum(columns, &|k| (a[s * columns + k], half[r * columns + k]))
        })
        .collect()
}

/// Numbers between -1 and 1 that are the same in every run and in single precision.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from(((self.0 >> 40) as f32) / ((1u64 << 23) as f32) - 1.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_random_filters_are_small_and_grow_with_the_tile() {
        let mut noise = Noise(7);
        let w: Vec<f32> = (0..16 * 32 * 9).map(|_| noise.next() as f32).collect();
        let w = Tensor::from_vec(vec![16, 32, 3, 3], &w).unwrap();
        let [small, large] = [2, 4].map(|m| error(&w, m));
        assert!(small > 0.0 && small < large && large < TOLERANCE, "{small} {large}");
    }
}

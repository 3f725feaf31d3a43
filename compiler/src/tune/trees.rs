//! Gradient-boosted regression trees (Friedman, Annals of Statistics 29, 2001): what ranks schedules before they are
//! measured.
//!
//! A few hundred samples of some twenty features, so that every split is tried. Deterministic.

/// Trees.
const N_TREES: usize = 40;
/// Splits on the way to a leaf, and samples that a leaf has at least.
const DEPTH: usize = 4;
const MIN_LEAF: usize = 3;
/// The part of a tree's correction that counts.
const RATE: f64 = 0.2;

/// A sum of trees.
#[derive(Clone, Debug, Default)]
pub struct Ranker {
    mean: f64,
    trees: Vec<Tree>,
}

#[derive(Clone, Debug)]
enum Tree {
    Leaf(f64),
    Split { feature: usize, below: f64, parts: Box<[Tree; 2]> },
}

/// What is learned from: features, and the value that they have.
pub type Sample = (Vec<f64>, f64);

impl Ranker {
    /// Learns from samples, all of as many features.
    pub fn learn(samples: &[Sample]) -> Ranker {
        if samples.is_empty() {
            return Ranker::default();
        }
        let mean = samples.iter().map(|(_, y)| y).sum::<f64>() / samples.len() as f64;
        let mut rest: Vec<f64> = samples.iter().map(|(_, y)| y - mean).collect();
        let mut trees = Vec::with_capacity(N_TREES);
        for _ in 0..N_TREES {
            let all: Vec<usize> = (0..samples.len()).collect();
            let tree = grow(samples, &rest, &all, DEPTH);
            for (r, (x, _)) in rest.iter_mut().zip(samples) {
                *r -= RATE * tree.value(x);
            }
            trees.push(tree);
        }
        Ranker { mean, trees }
    }

    /// The value that is expected for features.
    pub fn value(&self, x: &[f64]) -> f64 {
        self.mean + RATE * self.trees.iter().map(|t| t.value(x)).sum::<f64>()
    }
}

impl Tree {
    fn value(&self, x: &[f64]) -> f64 {
        match self {
            Tree::Leaf(value) => *value,
            Tree::Split { feature, below, parts } => parts[usize::from(x[*feature] >= *below)].value(x),
        }
    }
}

/// The tree that lowers the squares of what is left over most, one split after the other.
fn grow(samples: &[Sample], rest: &[f64], at: &[usize], depth: usize) -> Tree {
    let sum: f64 = at.iter().map(|k| rest[*k]).sum();
    let leaf = Tree::Leaf(sum / at.len() as f64);
    if depth == 0 || at.len() < 2 * MIN_LEAF {
        return leaf;
    }
    let n_features = samples[at[0]].0.len();
    let splits = (0..n_features).filter_map(|f| best_split(samples, rest, at, f));
    let Some((gain, feature, below)) = splits.max_by(|a, b| a.0.total_cmp(&b.0)) else { return leaf };
    if gain <= sum * sum / at.len() as f64 + 1e-12 {
        return leaf;
    }
    let (high, low): (Vec<usize>, Vec<usize>) = at.iter().partition(|k| samples[**k].0[feature] >= below);
    let parts = [low, high].map(|part| grow(samples, rest, &part, depth - 1));
    Tree::Split { feature, below, parts: Box::new(parts) }
}

/// How much a split by a feature explains at best, and where it is.
fn best_split(samples: &[Sample], rest: &[f64], at: &[usize], feature: usize) -> Option<(f64, usize, f64)> {
    let mut sorted: Vec<(f64, f64)> = at.iter().map(|k| (samples[*k].0[feature], rest[*k])).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = sorted.iter().map(|(_, y)| y).sum();
    let (mut low, mut best) = (0.0, None);
    for k in 1..sorted.len() {
        low += sorted[k - 1].1;
        let (n, rest) = (k as f64, (sorted.len() - k) as f64);
        let is_between = sorted[k - 1].0 < sorted[k].0;
        if is_between && k >= MIN_LEAF && sorted.len() - k >= MIN_LEAF {
            let gain = low * low / n + (total - low).powi(2) / rest;
            if best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, (sorted[k - 1].0 + sorted[k].0) / 2.0));
            }
        }
    }
    best.map(|(gain, below)| (gain, feature, below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::op::Rng;

    #[test]
    fn a_function_of_two_of_three_features_is_learned() {
        let f = |x: &[f64]| if x[0] > 0.5 { 1.0 + x[2] } else { -x[2] };
        let mut rng = Rng::new(1);
        let mut samples = |n: usize| -> Vec<Sample> {
            let x = (0..n).map(|_| vec![rng.unit(), rng.unit(), rng.unit()]);
            x.map(|x| (x.clone(), f(&x))).collect()
        };
        let ranker = Ranker::learn(&samples(300));
        let (mut wrong, unseen) = (0.0, samples(200));
        for (x, y) in &unseen {
            wrong += (ranker.value(x) - y).abs() / 200.0;
        }
        // Values are spread over -1 to 2: their mean alone would be wrong by 1 on average.
        assert!(wrong < 0.1, "{wrong}");
    }

    #[test]
    fn few_samples_give_their_mean() {
        assert_eq!(Ranker::learn(&[]).value(&[1.0]), 0.0);
        assert_eq!(Ranker::learn(&[(vec![1.0], 2.0), (vec![3.0], 4.0)]).value(&[9.0]), 3.0);
        let same: Vec<Sample> = (0..20).map(|_| (vec![1.0], 5.0)).collect();
        assert_eq!(Ranker::learn(&same).value(&[1.0]), 5.0);
    }
}

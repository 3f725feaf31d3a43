//! Non-maximum suppression of boxes.

use super::reduce::compare;
use super::search::check_count;
use super::{Operand, Operator, Rng, Sample, op};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::types::{Type, may_agree};

op! {
    /// Non-maximum suppression (ONNX `NonMaxSuppression` 11). For every batch and class, boxes are taken in order of
    /// decreasing score, ties to the lower index; one that overlaps a box already taken by more than `iou` is left
    /// out. Operands: boxes `[batches, boxes, 4]`, scores `[batches, classes, boxes]`. The result, `i64` of shape
    /// `[count, 3]`, lists batch, class and box of all that were taken, in the order of that.
    Nms = "nms"(boxes, scores) {
        /// The most boxes taken of one batch and class.
        max_output: i64,
        /// Intersection over union from which on boxes overlap; more than this.
        iou: f64,
        /// Only boxes of a higher score are taken; minus infinity admits all.
        score: f64,
        /// Whether a box is given as centre x, centre y, width, height, else as two opposite corners y, x, y, x.
        center_point: bool,
        /// How many there are: a symbol that occurs nowhere before, or the known number.
        count: Dim,
    }
}

impl Operator for Nms {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (boxes, scores) = (x[0], x[1]);
        ensure!(boxes.rank() == 3 && boxes.dims[2].is(4), "boxes must be [batches, boxes, 4], found {boxes}");
        ensure!(scores.rank() == 3, "scores must be [batches, classes, boxes], found {scores}");
        ensure!(
            boxes.dtype == scores.dtype && boxes.dtype.is_float(),
            "boxes and scores must have one float type, found {boxes} and {scores}"
        );
        ensure!(
            may_agree(&boxes.dims[..2], &[scores.dims[0].clone(), scores.dims[2].clone()]),
            "batches and boxes must agree, found {boxes} and {scores}"
        );
        ensure!(self.max_output >= 0, "max_output {} is negative", self.max_output);
        ensure!(!self.iou.is_nan() && !self.score.is_nan(), "a threshold is NaN");
        Ok(vec![Type::new(DType::I64, vec![self.count.clone(), 3.into()])])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (boxes, scores) = (&x[0], &x[1]);
        let [n_batches, n_classes, n_boxes] = [0, 1, 2].map(|k| scores.shape()[k]);
        let coordinates = boxes.to_f64();
        let mut found: Vec<i64> = Vec::new();
        for line in 0..n_batches.saturating_mul(n_classes) {
            let (batch, class) = (line / n_classes, line % n_classes);
            let score = |k: usize| scores.get(line * n_boxes + k);
            let corners = |k: usize| {
                let at = (batch * n_boxes + k) * 4;
                self.corners([0, 1, 2, 3].map(|c| coordinates[at + c]))
            };
            for k in self.select(n_boxes, score, corners) {
                found.extend([batch as i64, class as i64, k as i64]);
            }
        }
        check_count(&self.count, found.len() / 3)?;
        Ok(vec![Tensor::from_vec(vec![found.len() / 3, 3], &found)?])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (batches, classes, n) = (rng.below(3), 1 + rng.below(3), rng.extent(true));
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16]);
        let op = Nms {
            max_output: rng.range(0, 8),
            iou: rng.pick(&[0.0, 0.3, 0.5, 1.0]),
            score: rng.pick(&[f64::NEG_INFINITY, 0.0, 0.5]),
            center_point: rng.one_in(2),
            count: Dim::named("count"),
        };
        let operands = vec![
            Operand::finite(dtype, vec![batches, n, 4]),
            Operand::finite(dtype, vec![batches, classes, n]),
        ];
        Sample { op: op.into(), operands }
    }
}

/// A box as its least and greatest y and x.
#[derive(Clone, Copy)]
struct Corners {
    lo: [f64; 2],
    hi: [f64; 2],
}

impl Nms {
    /// The boxes taken of one batch and class, in order.
    fn select(
        &self,
        n_boxes: usize,
        score: impl Fn(usize) -> Scalar,
        corners: impl Fn(usize) -> Corners,
    ) -> Vec<usize> {
        let admitted = |k: &usize| self.score == f64::NEG_INFINITY || score(*k).as_f64() > self.score;
        let mut candidates: Vec<usize> = (0..n_boxes).filter(admitted).collect();
        candidates.sort_by(|&a, &b| compare(score(b), score(a)));
        let most = usize::try_from(self.max_output).unwrap_or(0);
        let mut taken: Vec<usize> = Vec::new();
        for k in candidates {
            if taken.len() >= most {
                break;
            }
            if taken.iter().all(|&t| corners(t).iou(corners(k)) <= self.iou) {
                taken.push(k);
            }
        }
        taken
    }

    fn corners(&self, c: [f64; 4]) -> Corners {
        if self.center_point {
            let [x, y, w, h] = c;
            return Corners { lo: [y - h / 2.0, x - w / 2.0], hi: [y + h / 2.0, x + w / 2.0] };
        }
        let [y1, x1, y2, x2] = c;
        Corners { lo: [y1.min(y2), x1.min(x2)], hi: [y1.max(y2), x1.max(x2)] }
    }
}

impl Corners {
    fn area(self) -> f64 {
        (self.hi[0] - self.lo[0]) * (self.hi[1] - self.lo[1])
    }

    /// Intersection over union; 0 where a box is degenerate.
    fn iou(self, other: Corners) -> f64 {
        let side = |k: usize| (self.hi[k].min(other.hi[k]) - self.lo[k].max(other.lo[k])).max(0.0);
        let intersection = side(0) * side(1);
        let union = self.area() + other.area() - intersection;
        let proper = self.area() > 0.0 && other.area() > 0.0 && union > 0.0;
        if proper { intersection / union } else { 0.0 }
    }
}

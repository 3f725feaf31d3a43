//! Operators that cut tensors apart and put them together: slices, concatenation, padding.

use super::attr::word_attr;
use super::elementwise::positions;
use super::shape::{concrete, position, strides, take, take_by};
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Compute, Expr};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::ScalarFn;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure};

op! {
    /// A strided part: `y[i] = x[starts + i * steps]`. Every element taken must lie in the operand: nothing is
    /// clamped, and negative starts don't count from the back.
    Slice = "slice"(x) {
        /// The first index along each axis.
        starts: Vec<Dim>,
        /// The extents of the result.
        sizes: Vec<Dim>,
        /// The distance between elements along each axis; may be negative, not 0.
        steps: Vec<i64>,
    }
}

impl Operator for Slice {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let x = x[0];
        for (name, n) in
            [("starts", self.starts.len()), ("sizes", self.sizes.len()), ("steps", self.steps.len())]
        {
            ensure!(
                n == x.rank(),
                "{name} must have an entry for each of the {} axes of {x}, found {n}",
                x.rank()
            );
        }
        for (k, d) in x.dims.iter().enumerate() {
            let (start, size, step) = (&self.starts[k], &self.sizes[k], self.steps[k]);
            ensure!(step != 0, "the step of axis {k} is 0");
            ensure!(size.as_const().is_none_or(|n| n >= 0), "the size of axis {k} is {size}, below 0");
            if size.is(0) {
                continue;
            }
            let last = start.clone() + (size.clone() - 1.into()) * step.into();
            for i in [start, &last] {
                let room = d.clone() - 1.into() - i.clone();
                ensure!(
                    i.as_const().is_none_or(|i| i >= 0) && room.as_const().is_none_or(|r| r >= 0),
                    "index {i} of axis {k} is outside of {x}"
                );
            }
        }
        Ok(vec![Type::new(x.dtype, self.sizes.clone())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let starts: Vec<i64> = concrete_i64(&self.starts)?;
        if self.steps.iter().all(|&s| s == 1) {
            let (strides, sizes) = (strides(x[0].shape()), concrete(&self.sizes)?);
            let first: usize = starts.iter().zip(&strides).map(|(&s, stride)| s as usize * stride).sum();
            let at: Vec<usize> = positions(&sizes, &strides)?.into_iter().map(|p| first + p).collect();
            return Ok(vec![take(&x[0], sizes, &at)?]);
        }
        let mut from = vec![0; starts.len()];
        let y = take_by(&x[0], concrete(&self.sizes)?, |i| {
            for k in 0..i.len() {
                from[k] = (starts[k] + i[k] as i64 * self.steps[k]) as usize;
            }
            Ok(position(&from, x[0].shape()))
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| {
            let at = |k: usize| self.starts[k].clone() + i[k].clone() * self.steps[k].into();
            Expr::input(0, (0..i.len()).map(at).collect())
        }))
    }

    fn requires(&self, x: &[Type]) -> Vec<Dim> {
        let mut out = Vec::new();
        for (k, d) in x[0].dims.iter().enumerate().filter(|(k, _)| !self.sizes[*k].is(0)) {
            let first = self.starts[k].clone();
            let last = first.clone() + (self.sizes[k].clone() - 1.into()) * self.steps[k].into();
            let (low, high) = if self.steps[k] > 0 { (first, last) } else { (last, first) };
            out.extend([low, d.clone() - 1.into() - high]);
        }
        out.retain(|d| !d.is_not_negative());
        out
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = rng.below(4);
        let shape = rng.shape(rank);
        let (mut starts, mut sizes, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for &d in &shape {
            let step: i64 = rng.pick(&[1, 1, 1, -1, 2, -2, 3]);
            let start = rng.below(d);
            let room = if step > 0 { d.saturating_sub(start) } else { (start + 1).min(d) };
            let most = room.div_ceil(step.unsigned_abs() as usize);
            starts.push(Dim::from(start));
            sizes.push(Dim::from(rng.below(most + 1)));
            steps.push(step);
        }
        let dtype = rng.pick(&DType::ALL[..13]);
        Sample { op: Slice { starts, sizes, steps }.into(), operands: vec![Operand::any(dtype, shape)] }
    }
}

/// Constant expressions as numbers; an error names the symbolic one.
fn concrete_i64(dims: &[Dim]) -> Result<Vec<i64>> {
    let known = |d: &Dim| match d.as_const() {
        Some(d) => Ok(d),
        None => bail!("{d} is not a known number"),
    };
    dims.iter().map(known).collect()
}

op! {
    /// Operands one after the other along an axis; they agree in the element type and in all other extents.
    Concat = "concat"(; xs ..) {
        /// The axis.
        axis: usize,
    }
}

impl Operator for Concat {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let Some((first, rest)) = x.split_first() else { bail!("expected an operand or more, found none") };
        let axis = self.axis;
        ensure!(axis < first.rank(), "axis {axis} is out of range for {first}");
        let mut dims = first.dims.clone();
        for t in rest {
            let agree = t.dtype == first.dtype
                && t.rank() == first.rank()
                && (0..t.rank()).all(|k| k == axis || t.dims[k] == first.dims[k]);
            ensure!(agree, "operands must agree except in the extent of axis {axis}, found {first} and {t}");
            dims[axis] = dims[axis].clone() + t.dims[axis].clone();
        }
        Ok(vec![Type::new(first.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        // Whatever the extents before the axis, each operand gives one run of bytes per index there.
        let mut shape = x[0].shape().to_vec();
        shape[self.axis] = x.iter().map(|t| t.shape()[self.axis]).sum();
        let outer: usize = shape[..self.axis].iter().product();
        let mut data = Vec::new();
        crate::tensor::reserve(&mut data, x.iter().map(|t| t.bytes().len()).sum())?;
        for k in 0..outer {
            for t in x {
                let run = t.bytes().len() / outer;
                data.extend_from_slice(&t.bytes()[k * run..(k + 1) * run]);
            }
        }
        Ok(vec![Tensor::new(x[0].dtype(), shape, data.into())?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let mut begins = vec![Dim::from(0)];
        for t in x {
            begins.push(begins[begins.len() - 1].clone() + t.dims[self.axis].clone());
        }
        Some(Compute::map(x, &y[0], |i| concat_element(self.axis, &begins, i, 0, x.len())))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let dtype = rng.pick(&DType::ALL[..13]);
        let shape = rng.shape(rank);
        let operands = (0..1 + rng.below(5))
            .map(|_| {
                let mut shape = shape.clone();
                shape[axis] = rng.extent(true);
                Operand::any(dtype, shape)
            })
            .collect();
        Sample { op: Concat { axis }.into(), operands }
    }
}

/// The element of a concatenation where it is known to come from operands `lo..hi`: a balanced tree of choices.
fn concat_element(axis: usize, begins: &[Dim], i: &[Dim], lo: usize, hi: usize) -> Expr {
    if hi - lo == 1 {
        let mut at = i.to_vec();
        at[axis] = i[axis].clone() - begins[lo].clone();
        return Expr::input(lo, at);
    }
    let mid = lo + (hi - lo) / 2;
    let before = Expr::call(ScalarFn::Lt, [Expr::Index(i[axis].clone()), Expr::Index(begins[mid].clone())]);
    concat_element(axis, begins, i, lo, mid).guarded(before, concat_element(axis, begins, i, mid, hi))
}

word_attr! {
    /// What padding is made of.
    PadMode {
        /// A value given.
        Constant = "constant",
        /// The closest element.
        Edge = "edge",
        /// The elements mirrored at the outermost ones, which aren't repeated; as often as needed.
        Reflect = "reflect",
        /// The elements of the opposite end, as often as needed.
        Wrap = "wrap",
    }
}

op! {
    /// Elements added before, after and between those of the operand. `value` has rank 0; it is what `constant`
    /// pads with, and what an empty axis is padded with in any mode.
    Pad = "pad"(x, value) {
        /// What the padding is made of.
        mode: PadMode,
        /// The number of elements put before, along each axis; not negative.
        lo: Vec<Dim>,
        /// The number of elements put after, along each axis; not negative.
        hi: Vec<Dim>,
        /// The number of values put between neighbours, along each axis; 0 unless the mode is `constant`.
        interior: Vec<usize>,
    }
}

impl Operator for Pad {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, value) = (x[0], x[1]);
        ensure!(
            value.rank() == 0 && value.dtype == x.dtype,
            "the value must have rank 0 and the type {}, found {value}",
            x.dtype
        );
        for (name, n) in [("lo", self.lo.len()), ("hi", self.hi.len()), ("interior", self.interior.len())] {
            ensure!(
                n == x.rank(),
                "{name} must have an entry for each of the {} axes of {x}, found {n}",
                x.rank()
            );
        }
        for d in self.lo.iter().chain(&self.hi) {
            ensure!(d.as_const().is_none_or(|d| d >= 0), "the padding {d} is negative; use slice to cut");
        }
        ensure!(
            self.mode == PadMode::Constant || self.interior.iter().all(|&n| n == 0),
            "padding between elements is for mode constant only, found {:?}",
            self.interior
        );
        let dims =
            (0..x.rank()).map(|k| self.lo[k].clone() + self.spread(&x.dims[k], k) + self.hi[k].clone());
        Ok(vec![Type::new(x.dtype, dims.collect())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let types: Vec<Type> = x.iter().map(|t| Type::of(t.dtype(), t.shape())).collect();
        let shape = concrete(&self.infer(&[&types[0], &types[1]])?[0].dims)?;
        let lo = concrete(&self.lo)?;
        let (x, value) = (&x[0], &x[1]);
        let size = x.dtype().size();
        let mut data = Vec::new();
        crate::tensor::reserve(&mut data, crate::tensor::numel(&shape)?.saturating_mul(size))?;
        super::shape::each_index(&shape, |i| {
            let from: Option<Vec<usize>> = (0..i.len())
                .map(|k| pad_source(self.mode, i[k] as i64 - lo[k] as i64, x.shape()[k], self.interior[k]))
                .collect();
            data.extend_from_slice(match from {
                Some(from) => super::shape::element(x, position(&from, x.shape())),
                None => value.bytes(),
            });
            Ok(())
        })?;
        Ok(vec![Tensor::new(x.dtype(), shape, data.into())?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| {
            let (mut at, mut conds) = (Vec::new(), Vec::new());
            for (k, i) in i.iter().enumerate() {
                at.push(self.source(&x[0].dims[k], k, i, &mut conds));
            }
            match conds.is_empty() {
                true => Expr::input(0, at),
                false => Expr::input(0, at).guarded(Expr::all(conds), Expr::input(1, Vec::new())),
            }
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let mode = rng.pick(PadMode::ALL);
        let rank = rng.below(4);
        let shape = rng.shape(rank);
        let amount = |rng: &mut Rng| -> Vec<usize> {
            (0..rank).map(|_| if rng.one_in(2) { 0 } else { rng.below(6) }).collect()
        };
        let (lo, hi) = (amount(rng), amount(rng));
        let interior = match mode {
            PadMode::Constant if rng.one_in(3) => (0..rank).map(|_| rng.below(3)).collect(),
            _ => vec![0; rank],
        };
        let dims = |v: Vec<usize>| v.into_iter().map(Dim::from).collect();
        let dtype = rng.pick(&DType::ALL[..13]);
        Sample {
            op: Pad { mode, lo: dims(lo), hi: dims(hi), interior }.into(),
            operands: vec![Operand::any(dtype, shape), Operand::any(dtype, Vec::new())],
        }
    }
}

impl Pad {
    /// The extent of axis `k` with the values between elements.
    fn spread(&self, d: &Dim, k: usize) -> Dim {
        match self.interior[k] {
            0 => d.clone(),
            n => d.clone() + (d.clone() - 1.into()).maximum(&0.into()) * n.into(),
        }
    }

    /// The index along axis `k` of the operand, of extent `d`, that result index `i` shows. It is valid where the
    /// conditions added hold; elsewhere the result shows the value.
    fn source(&self, d: &Dim, k: usize, i: &Dim, conds: &mut Vec<Expr>) -> Dim {
        let (lo, hi, step) = (&self.lo[k], &self.hi[k], Dim::from(self.interior[k]) + 1.into());
        let at = i.clone() - lo.clone();
        if lo.is(0) && hi.is(0) && step.is(1) {
            return at;
        }
        if self.mode != PadMode::Constant && d.as_const().is_none_or(|d| d < 1) {
            conds.push(Expr::call(ScalarFn::Gt, [Expr::Index(d.clone()), Expr::int(0)]));
        }
        let last = d.clone() - 1.into();
        match self.mode {
            PadMode::Constant => {
                conds.push(Expr::in_bounds(&at, &self.spread(d, k)));
                if !step.is(1) {
                    conds.push(Expr::call(ScalarFn::Eq, [Expr::Index(at.modulo(&step)), Expr::int(0)]));
                }
                at.floor_div(&step)
            }
            PadMode::Edge => at.maximum(&0.into()).minimum(&last),
            PadMode::Wrap => at.modulo(&d.maximum(&1.into())),
            PadMode::Reflect => {
                let period = last.clone() * 2.into();
                let m = at.modulo(&period.maximum(&1.into()));
                // The smaller of the two is at most `last` anyway; said again, it shows in the bounds.
                m.minimum(&(period - m.clone())).minimum(&last)
            }
        }
    }
}

/// The index of an axis of extent `d` that shows at `at`, counted from the operand's first element.
fn pad_source(mode: PadMode, at: i64, d: usize, interior: usize) -> Option<usize> {
    let (d, step) = (d as i64, (interior as i64).saturating_add(1));
    let from = match mode {
        _ if d == 0 => return None,
        PadMode::Constant if at % step != 0 => return None,
        PadMode::Constant => at / step,
        PadMode::Edge => at.clamp(0, d - 1),
        PadMode::Wrap => at.rem_euclid(d),
        PadMode::Reflect if d == 1 => 0,
        PadMode::Reflect => {
            let m = at.rem_euclid(2 * (d - 1));
            if m < d { m } else { 2 * (d - 1) - m }
        }
    };
    (0..d).contains(&from).then_some(from as usize)
}

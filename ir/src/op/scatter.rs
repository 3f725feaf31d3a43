//! Scattering: a copy of a tensor in which elements at indices that are data are replaced or combined.
//!
//! Updates are applied in row-major order, one after the other, so that the last one wins where indices repeat. That
//! order is why scattering is no element expression.

use super::attr::word_attr;
use super::gather::{check_elements, check_indices, elements_operands, vector_len, vector_operand, wrapped};
use super::shape::{each_index, element, position};
use super::{Operand, Operator, Rng, Sample, flatten, loops, op};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::kernel::{Kernel, Stmt};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, read_scalar, write_scalar};
use crate::types::{Type, may_agree};

word_attr! {
    /// How an update meets the element that is there.
    ScatterReduction {
        /// It replaces it.
        None = "none",
        /// The sum, rounded after every update.
        Add = "add",
        /// The product, rounded after every update.
        Mul = "mul",
        /// The larger; NaN if either is.
        Max = "max",
        /// The smaller; NaN if either is.
        Min = "min",
    }
}

impl ScatterReduction {
    /// The function that combines the element with the update, unless the update replaces it.
    pub fn combine(self) -> Option<ScalarFn> {
        match self {
            ScatterReduction::None => None,
            ScatterReduction::Add => Some(ScalarFn::Add),
            ScatterReduction::Mul => Some(ScalarFn::Mul),
            ScatterReduction::Max => Some(ScalarFn::Max),
            ScatterReduction::Min => Some(ScalarFn::Min),
        }
    }

    fn check(self, x: &Type, updates: &Type) -> Result<()> {
        ensure!(x.dtype == updates.dtype, "updates must have the operand's type, found {x} and {updates}");
        ensure!(
            self == ScatterReduction::None || x.dtype.is_num(),
            "a scatter that combines takes numbers, found {x}"
        );
        Ok(())
    }

    /// Applies the update at position `from` to the element of `data` at position `to`.
    fn apply(self, data: &mut [u8], to: usize, updates: &Tensor, from: usize) {
        let n = updates.dtype().size();
        let there = &mut data[to * n..(to + 1) * n];
        match self.combine() {
            None => there.copy_from_slice(element(updates, from)),
            Some(f) => {
                let dtype = updates.dtype();
                let pair: [Scalar; 2] = [read_scalar(dtype, there), updates.get(from)];
                let mut out = Vec::with_capacity(n);
                write_scalar(dtype, f.eval(dtype, &pair), &mut out);
                there.copy_from_slice(&out);
            }
        }
    }

    /// The statement that applies the update at `from` to the element at `to`.
    fn statement(self, dtype: DType, to: Dim, from: Dim) -> Stmt {
        let update = loops::load("x2", from);
        let value = match self.combine() {
            None => update,
            Some(f) => loops::apply(f, dtype, vec![loops::load("y0", to.clone()), update]),
        };
        loops::store("y0", to, value)
    }

    fn sample(rng: &mut Rng) -> (ScatterReduction, DType) {
        let reduction = rng.pick(ScatterReduction::ALL);
        let n = if reduction == ScatterReduction::None { 13 } else { 12 };
        (reduction, rng.pick(&DType::ALL[..n]))
    }
}

op! {
    /// `x` with `y[a, indices[a, i, b], b] = updates[a, i, b]`. All operands have the same rank, updates the extents
    /// of the indices, which along the other axes don't exceed the operand's.
    ScatterElements = "scatter_elements"(x, indices, updates) {
        /// The axis indexed.
        axis: usize,
        /// How an update meets the element that is there.
        reduction: ScatterReduction,
    }
}

/// Pairs of extents, each of which must be at most the second: together, that the shapes are equal.
fn same_extents(a: &[Dim], b: &[Dim]) -> Vec<(Dim, Dim)> {
    a.iter().zip(b).flat_map(|(a, b)| [(a.clone(), b.clone()), (b.clone(), a.clone())]).collect()
}

impl Operator for ScatterElements {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, indices, updates) = (x[0], x[1], x[2]);
        check_elements(x, indices, self.axis)?;
        self.reduction.check(x, updates)?;
        ensure!(
            may_agree(&indices.dims, &updates.dims),
            "updates must have the extents of the indices, found {updates} and {indices}"
        );
        Ok(vec![x.clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, indices, updates) = (&x[0], &x[1], &x[2]);
        let mut data = x.bytes().to_vec();
        let mut p = 0;
        each_index(indices.shape(), |i| {
            let mut to = i.to_vec();
            to[self.axis] = wrapped(indices.get(p).as_i64(), x.shape()[self.axis])?;
            self.reduction.apply(&mut data, position(&to, x.shape()), updates, p);
            p += 1;
            Ok(())
        })?;
        Ok(vec![Tensor::new(x.dtype(), x.shape().to_vec(), data.into())?])
    }

    fn kernel(&self, x: &[Type], y: &[Type]) -> Option<Kernel> {
        let (data, indices) = (&x[0], &x[1]);
        let vars: Vec<(Sym, Dim)> =
            indices.dims.iter().enumerate().map(|(k, d)| (Sym::new(&format!("i{k}")), d.clone())).collect();
        let i: Vec<Dim> = vars.iter().map(|(v, _)| Dim::sym(v)).collect();
        let from = flatten(&i, &indices.dims);
        let mut body = Vec::new();
        let mut to = i;
        to[self.axis] =
            loops::wrapped_index(&mut body, "at", indices.dtype, from.clone(), &data.dims[self.axis]);
        body.push(self.reduction.statement(data.dtype, flatten(&to, &data.dims), from));
        let updates = loops::serial(&vars, body);
        let mut fits = same_extents(&indices.dims, &x[2].dims);
        fits.push((1.into(), data.dims[self.axis].clone()));
        for k in (0..data.rank()).filter(|k| *k != self.axis) {
            fits.push((indices.dims[k].clone(), data.dims[k].clone()));
        }
        Some(loops::kernel(x, y, loops::copy_then(data, loops::if_at_most(&fits, updates))))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (x, indices, axis) = elements_operands(rng);
        let (reduction, dtype) = ScatterReduction::sample(rng);
        let updates = Operand::any(dtype, indices.shape.clone());
        Sample {
            op: ScatterElements { axis, reduction }.into(),
            operands: vec![Operand::any(dtype, x), indices, updates],
        }
    }
}

op! {
    /// `x` with `y[indices[i, :], b] = updates[i, b]`. The last extent of the indices, a known number, says how many
    /// axes a vector indexes.
    ScatterNd = "scatter_nd"(x, indices, updates) {
        /// How an update meets the element that is there.
        reduction: ScatterReduction,
    }
}

impl Operator for ScatterNd {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, indices, updates) = (x[0], x[1], x[2]);
        check_indices(indices)?;
        self.reduction.check(x, updates)?;
        let q = vector_len(indices)?;
        ensure!(q <= x.rank(), "index vectors of {q} are too long for {x}");
        let dims = [&indices.dims[..indices.rank() - 1], &x.dims[q..]].concat();
        ensure!(
            may_agree(&updates.dims, &dims),
            "expected updates {}, found {updates}",
            Type::new(x.dtype, dims)
        );
        Ok(vec![x.clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, indices, updates) = (&x[0], &x[1], &x[2]);
        let r = indices.rank() - 1;
        let q = indices.shape()[r];
        let run: usize = x.shape()[q..].iter().product();
        let mut data = x.bytes().to_vec();
        let mut vector = 0;
        each_index(&indices.shape()[..r], |_| {
            let mut to = 0;
            for (k, &d) in x.shape()[..q].iter().enumerate() {
                to = to * d + wrapped(indices.get(vector * q + k).as_i64(), d)?;
            }
            for e in 0..run {
                self.reduction.apply(&mut data, to * run + e, updates, vector * run + e);
            }
            vector += 1;
            Ok(())
        })?;
        Ok(vec![Tensor::new(x.dtype(), x.shape().to_vec(), data.into())?])
    }

    fn kernel(&self, x: &[Type], y: &[Type]) -> Option<Kernel> {
        let (data, indices) = (&x[0], &x[1]);
        let r = indices.rank() - 1;
        let q = vector_len(indices).ok()?;
        let (vector, e) = (Sym::new("vector"), Sym::new("e1"));
        let run: Dim = data.dims[q..].iter().product();
        let (mut body, mut to) = (Vec::new(), Dim::from(0));
        for (k, d) in data.dims[..q].iter().enumerate() {
            let from = Dim::sym(&vector) * q.into() + k.into();
            let at = loops::wrapped_index(&mut body, &format!("at{k}"), indices.dtype, from, d);
            to = to * d.clone() + at;
        }
        let there = to * run.clone() + Dim::sym(&e);
        let from = Dim::sym(&vector) * run.clone() + Dim::sym(&e);
        body.push(Stmt::serial(&e, run, vec![self.reduction.statement(data.dtype, there, from)]));
        let vectors: Dim = indices.dims[..r].iter().product();
        let updates = loops::serial(&[(vector, vectors)], body);
        let mut fits = same_extents(&[&indices.dims[..r], &data.dims[q..]].concat(), &x[2].dims);
        fits.extend(data.dims[..q].iter().map(|d| (1.into(), d.clone())));
        Some(loops::kernel(x, y, loops::copy_then(data, loops::if_at_most(&fits, updates))))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(3);
        let q = rng.below(rank + 1);
        let mut x = rng.shape(rank);
        for d in &mut x[..q] {
            *d = (*d).max(1);
        }
        let outer: Vec<usize> = (0..rng.below(3)).map(|_| rng.below(6)).collect();
        let (reduction, dtype) = ScatterReduction::sample(rng);
        let updates = [&outer[..], &x[q..]].concat();
        let indices = vector_operand(rng, outer, &x[..q]);
        Sample {
            op: ScatterNd { reduction }.into(),
            operands: vec![Operand::any(dtype, x), indices, Operand::any(dtype, updates)],
        }
    }
}

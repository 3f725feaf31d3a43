//! Operators that order or search elements. Their loops depend on the data, so they are no element expressions; the
//! number of results of some is known only once they have run, and is a symbol of the graph's.
//!
//! Values are ordered as numbers, with NaN equal to itself and above everything else, and zeros equal.

use super::reduce::compare;
use super::shape::{concrete, each_index, position, strides, take, take_by};
use super::{Operand, Operator, Rng, Sample, loops, op};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::kernel::{Expr, Kernel, Stmt};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;
use std::cmp::Ordering;

/// Checks the number of results against the one declared, where that is known.
pub(crate) fn check_count(declared: &Dim, found: usize) -> Result<()> {
    let fits = declared.as_const().is_none_or(|n| n == found as i64);
    ensure!(fits, "found {found} results where {declared} were declared");
    Ok(())
}

op! {
    /// The `k` largest or smallest elements along an axis in order, the best first, and their indices as `i64`. Of
    /// equal elements the one with the lower index comes first.
    TopK = "topk"(x) {
        /// The axis.
        axis: usize,
        /// How many; at most the extent of the axis.
        k: Dim,
        /// Whether the largest are taken, else the smallest.
        largest: bool,
    }
}

/// The most comparisons per line that [`TopK`] makes by selection.
const SELECTION_LIMIT: i64 = 1 << 22;

impl TopK {
    /// Whether `a` comes before `b` for its value alone. NaN is the largest.
    fn beats(&self, dtype: DType, a: &Expr, b: &Expr) -> Expr {
        let (hi, lo) = if self.largest { (a, b) } else { (b, a) };
        let greater = gt(wide(dtype, hi), wide(dtype, lo));
        if !dtype.is_float() {
            return greater;
        }
        or(greater, and(is_nan(dtype, hi), Expr::call(ScalarFn::Not, [is_nan(dtype, lo)])))
    }
}

/// Whether two values are equal, or both NaN.
fn same(dtype: DType, a: &Expr, b: &Expr) -> Expr {
    let equal = Expr::call(ScalarFn::Eq, [wide(dtype, a), wide(dtype, b)]);
    if dtype.is_float() { or(equal, and(is_nan(dtype, a), is_nan(dtype, b))) } else { equal }
}

fn wide(dtype: DType, e: &Expr) -> Expr {
    if dtype.compute() == dtype { e.clone() } else { Expr::Cast(dtype.compute(), e.clone().into()) }
}

fn is_nan(dtype: DType, e: &Expr) -> Expr {
    Expr::call(ScalarFn::IsNan, [wide(dtype, e)])
}

fn gt(a: Expr, b: Expr) -> Expr {
    Expr::call(ScalarFn::Gt, [a, b])
}

fn and(a: Expr, b: Expr) -> Expr {
    Expr::call(ScalarFn::And, [a, b])
}

fn or(a: Expr, b: Expr) -> Expr {
    Expr::call(ScalarFn::Or, [a, b])
}

impl Operator for TopK {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, axis, k) = (x[0], self.axis, &self.k);
        ensure!(axis < x.rank(), "axis {axis} is out of range for {x}");
        ensure!(x.dtype.is_num(), "topk takes numbers, found {x}");
        let room = x.dims[axis].clone() - k.clone();
        ensure!(
            k.as_const().is_none_or(|k| k >= 0) && room.as_const().is_none_or(|r| r >= 0),
            "cannot take {k} elements along axis {axis} of {x}"
        );
        let mut dims = x.dims.clone();
        dims[axis] = k.clone();
        Ok(vec![Type::new(x.dtype, dims.clone()), Type::new(DType::I64, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, axis) = (&x[0], self.axis);
        let mut shape = x.shape().to_vec();
        let n = std::mem::replace(&mut shape[axis], concrete(std::slice::from_ref(&self.k))?[0]);
        let (k, step) = (shape[axis], strides(x.shape())[axis]);
        let to = strides(&shape);
        let count = crate::tensor::numel(&shape)?;
        let (mut at, mut indices) = (vec![0; count], vec![0i64; count]);
        let mut lines = shape.clone();
        lines[axis] = 1;
        each_index(if count == 0 { &[0] } else { &lines }, |i| {
            let dot = |s: &[usize]| i.iter().zip(s).map(|(i, s)| i * s).sum::<usize>();
            let begin = dot(&strides(x.shape()));
            let line: Vec<Scalar> = (0..n).map(|j| x.get(begin + j * step)).collect();
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| match self.largest {
                true => compare(line[b], line[a]),
                false => compare(line[a], line[b]),
            });
            for (j, &from) in order[..k].iter().enumerate() {
                let p = dot(&to) + j * to[axis];
                (at[p], indices[p]) = (begin + from * step, from as i64);
            }
            Ok(())
        })?;
        Ok(vec![take(x, shape.clone(), &at)?, Tensor::from_vec(shape, &indices)?])
    }

    /// A line at a time, by selection: the `j`th result is the best of those that come after the one before it.
    /// That takes `n * k` steps, so there are no loops for large products; those are left to the interpreter's sort.
    fn kernel(&self, x: &[Type], y: &[Type]) -> Option<Kernel> {
        let (x0, dims) = (&x[0], &x[0].dims);
        let n = dims[self.axis].clone();
        if n.as_const()?.checked_mul(self.k.as_const()?)? > SELECTION_LIMIT {
            return None;
        }
        let dtype = x0.dtype;
        let (line, i, j) = (Sym::new("line"), Sym::new("i"), Sym::new("j"));
        let inner: Dim = dims[self.axis + 1..].iter().product();
        let outer: Dim = dims[..self.axis].iter().product();
        let (row, column) = (Dim::sym(&line).floor_div(&inner), Dim::sym(&line).modulo(&inner));
        let address = |extent: &Dim, at: &Sym| {
            (row.clone() * extent.clone() + Dim::sym(at)) * inner.clone() + column.clone()
        };
        let held = |name: &str| loops::load(name, 0.into());
        let keep = |name: &str, value: Expr| loops::store(name, 0.into(), value);

        let mut step = Vec::new();
        let v = loops::bind(&mut step, "v", loops::load("x0", address(&n, &i)), dtype);
        let here = Expr::Index(Dim::sym(&i));
        let later = and(same(dtype, &v, &held("last")), gt(here.clone(), held("last_at")));
        let first = Expr::call(ScalarFn::Lt, [held("last_at"), Expr::int(0)]);
        let candidate = or(first, or(self.beats(dtype, &held("last"), &v), later));
        let none = Expr::call(ScalarFn::Lt, [held("best_at"), Expr::int(0)]);
        let better = and(candidate, or(none, self.beats(dtype, &v, &held("best"))));
        let better = loops::bind(&mut step, "better", better, DType::Bool);
        let choose = |new: Expr, old: Expr| Expr::call(ScalarFn::Select, [better.clone(), new, old]);
        step.push(keep("best", choose(v.clone(), held("best"))));
        step.push(keep("best_at", choose(here, held("best_at"))));

        let round = vec![
            keep("best", Expr::Const(dtype, Scalar::zero(dtype))),
            keep("best_at", Expr::int(-1)),
            Stmt::serial(&i, n, step),
            loops::store("y0", address(&self.k, &j), held("best")),
            loops::store("y1", address(&self.k, &j), held("best_at")),
            keep("last", held("best")),
            keep("last_at", held("best_at")),
        ];
        let body = vec![
            loops::register("best", dtype),
            loops::register("best_at", DType::I64),
            loops::register("last", dtype),
            loops::register("last_at", DType::I64),
            keep("last", Expr::Const(dtype, Scalar::zero(dtype))),
            keep("last_at", Expr::int(-1)),
            Stmt::serial(&j, self.k.clone(), round),
        ];
        Some(loops::kernel(x, y, vec![loops::parallel(&line, outer * inner, body)]))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let shape = rng.shape(rank);
        let k = rng.below(shape[axis] + 1).into();
        let op = TopK { axis, k, largest: rng.one_in(2) }.into();
        Sample { op, operands: vec![Operand::any(rng.pick(&DType::ALL[..12]), shape)] }
    }
}

op! {
    /// The indices of all elements that differ from zero, in row-major order: column `j` of the result, `i64` of
    /// shape `[rank, count]`, is the index of the `j`th one.
    NonZero = "nonzero"(x) {
        /// How many there are: a symbol that occurs nowhere before, or the known number.
        count: Dim,
    }
}

impl Operator for NonZero {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::new(DType::I64, vec![x[0].rank().into(), self.count.clone()])])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &x[0];
        let mut columns: Vec<Vec<usize>> = Vec::new();
        let mut p = 0;
        each_index(x.shape(), |i| {
            if x.get(p).as_bool() {
                columns.push(i.to_vec());
            }
            p += 1;
            Ok(())
        })?;
        check_count(&self.count, columns.len())?;
        let rows = 0..x.rank();
        let y: Vec<i64> = rows.flat_map(|k| columns.iter().map(move |c| c[k] as i64)).collect();
        Ok(vec![Tensor::from_vec(vec![x.rank(), columns.len()], &y)?])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = rng.below(4);
        let shape = rng.shape(rank);
        let values = super::Values::Between(0, 2);
        let dtype = rng.pick(&DType::ALL[..13]);
        let operand = match rng.one_in(2) {
            true => Operand { dtype, shape, values },
            false => Operand::any(dtype, shape),
        };
        Sample { op: NonZero { count: Dim::named("count") }.into(), operands: vec![operand] }
    }
}

op! {
    /// The distinct elements, or distinct slices along an axis. Results: them; the index of the first occurrence of
    /// each; for each element or slice of the operand the index of its equal in the result; how often each occurs.
    /// All indices and counts are `i64`. Of equal ones (zeros of either sign) the result shows the first.
    Unique = "unique"(x) {
        /// The axis, or -1 for the elements of the whole tensor in row-major order.
        axis: i64,
        /// Whether the result is in increasing order (slices lexicographically), else in that of first occurrence.
        sorted: bool,
        /// How many are distinct: a symbol that occurs nowhere before, or the known number.
        count: Dim,
    }
}

impl Operator for Unique {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, count) = (x[0], self.count.clone());
        let (dims, n) = match usize::try_from(self.axis) {
            Ok(axis) => {
                ensure!(axis < x.rank(), "axis {axis} is out of range for {x}");
                let mut dims = x.dims.clone();
                let n = std::mem::replace(&mut dims[axis], count.clone());
                (dims, n)
            }
            Err(_) => {
                ensure!(
                    self.axis == -1,
                    "axis must be -1 (for all elements) or not negative, found {}",
                    self.axis
                );
                (vec![count.clone()], x.numel())
            }
        };
        let index = |d: Dim| Type::new(DType::I64, vec![d]);
        Ok(vec![Type::new(x.dtype, dims), index(count.clone()), index(n), index(count)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &x[0];
        let (axis, shape) = match usize::try_from(self.axis) {
            Ok(axis) => (axis, x.shape().to_vec()),
            Err(_) => (0, vec![x.len()]),
        };
        let all = strides(&shape);
        let mut rest = shape.clone();
        let n = std::mem::replace(&mut rest[axis], 1);
        let within = super::elementwise::positions(&rest, &all)?;
        let (within, step) = (&within, all[axis]);
        let slice = |j: usize| within.iter().map(move |p| x.get(p + j * step));
        let order = |a: usize, b: usize| {
            let differing = slice(a).zip(slice(b)).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
            differing.unwrap_or(Ordering::Equal)
        };
        // Equal ones meet after sorting; the sort is stable, so each group starts with its first occurrence.
        let mut sorted: Vec<usize> = (0..n).collect();
        sorted.sort_by(|&a, &b| order(a, b));
        let mut groups: Vec<Vec<usize>> =
            sorted.chunk_by(|&a, &b| order(a, b).is_eq()).map(<[usize]>::to_vec).collect();
        if !self.sorted {
            groups.sort_by_key(|g| g[0]);
        }
        check_count(&self.count, groups.len())?;
        let mut inverse = vec![0i64; n];
        for (k, group) in groups.iter().enumerate() {
            group.iter().for_each(|&j| inverse[j] = k as i64);
        }
        let first: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
        let counts: Vec<i64> = groups.iter().map(|g| g.len() as i64).collect();
        let mut found = shape.clone();
        found[axis] = groups.len();
        let y = take_by(x, found, |i| {
            let mut from = i.to_vec();
            from[axis] = groups[i[axis]][0];
            Ok(position(&from, &shape))
        })?;
        let index = |v: &[i64]| Tensor::from_vec(vec![v.len()], v);
        Ok(vec![y, index(&first)?, index(&inverse)?, index(&counts)?])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = rng.below(3);
        let mut shape = rng.shape(rank);
        let axis = rng.below(rank + 1) as i64 - 1;
        if axis >= 0 && rng.one_in(2) {
            shape = shape.iter().map(|&d| d.min(2)).collect();
            shape[axis as usize] = 12;
        }
        let operand = Operand {
            dtype: rng.pick(&DType::ALL[..13]),
            shape,
            values: rng.pick(&[super::Values::Any, super::Values::Between(0, 3)]),
        };
        let op = Unique { axis, sorted: rng.one_in(2), count: Dim::named("count") }.into();
        Sample { op, operands: vec![operand] }
    }
}

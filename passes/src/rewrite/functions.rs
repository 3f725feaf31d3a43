//! Attribute functions: what the right side of a rule computes from what is known of its variables.
//!
//! A function gets the facts of its arguments and gives an attribute or a small constant; `None` where it isn't
//! defined, and then the rule doesn't apply.

use super::facts::Facts;
use super::lang::Attribute;
use aic_ir::dim::Dim;
use aic_ir::op::{Attr, AttrValue};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;

/// A registered function.
#[derive(Debug)]
pub struct Function {
    /// Its name in rules, without `@`.
    pub name: &'static str,
    /// What it computes.
    pub run: fn(&[&Facts]) -> Option<Facts>,
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        /// Every function.
        pub const FUNCTIONS: &[Function] = &[$(Function { name: stringify!($name), run: $name }),*];
    };
}

functions! {
    compose, scalar, shape, dtype, splat, number, reciprocal, scaled, permute, inverse, swap_last, swapping,
    without_ones, perm_without_ones, slice_starts, times, sum, minus, starts_in, sizes_in, steps_in,
    start_minus, start_at, one_of, unit_steps, gathered, sum_along, padded, axes_merged, axes_before,
    reduced, axes_before_perm, perm_of_rest, only, per_filter, grouped_filters, grouped_channels,
    filter_axes, per_output, as_column, as_row, row_for, first_two, points, window_pads, followed_by,
    with_last, last_axis, last_as_one, n_rows, rows_axis, one_row, last_start, last_size, last_step, first_start,
    first_size, first_step, starts_before, sizes_before, steps_before, doubled, unstacked,
}

/// The function with this name.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// An attribute as a function's result.
pub fn attr(value: impl Attr) -> Option<Facts> {
    Some(Facts::attr(Attribute::new(value.to_value())))
}

/// An argument that is an attribute of a Rust type: `usize`, `Vec<usize>`, `Vec<Dim>`, `f64`..
pub fn arg<T: Attr>(facts: &Facts) -> Option<T> {
    T::from_value(facts.as_attr()?)
}

/// `(@compose ?outer ?inner)`: the permutation of `(transpose (transpose ?x ?inner) ?outer)`.
fn compose(x: &[&Facts]) -> Option<Facts> {
    let [outer, inner] = x else { return None };
    let (outer, inner) = (arg::<Vec<usize>>(outer)?, arg::<Vec<usize>>(inner)?);
    attr(outer.iter().map(|&k| inner.get(k).copied()).collect::<Option<Vec<usize>>>()?)
}

/// `(@scalar 0.5 ?x)`: a constant of rank 0 in the element type of `?x`.
fn scalar(x: &[&Facts]) -> Option<Facts> {
    let [value, like] = x else { return None };
    let dtype = like.ty()?.dtype;
    let value = match value.as_attr()? {
        AttrValue::Dim(d) => Scalar::I(d.as_const()?),
        other => Scalar::F(f64::from_value(other)?),
    };
    Some(Facts::constant(&Tensor::scalar(dtype, value)))
}

/// `(@shape ?x)`: the extents of `?x`.
fn shape(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.dims()?.to_vec())
}

/// `(@dtype ?x)`: the element type of `?x`.
fn dtype(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.ty()?.dtype)
}

/// `(@splat ?c)`: the one value of all elements of `?c` as a constant of rank 0.
fn splat(x: &[&Facts]) -> Option<Facts> {
    let [c] = x else { return None };
    Some(Facts::constant(&Tensor::scalar(c.ty()?.dtype, c.splat()?)))
}

/// `(@number ?c)`: the same as a float attribute.
fn number(x: &[&Facts]) -> Option<Facts> {
    let [c] = x else { return None };
    attr(c.splat()?.as_f64())
}

/// `(@reciprocal ?c)`: the reciprocal of that, rounded to the element type, as a float attribute.
fn reciprocal(x: &[&Facts]) -> Option<Facts> {
    let [c] = x else { return None };
    attr(Scalar::F(1.0 / c.splat()?.as_f64()).cast(c.ty()?.dtype).as_f64())
}

/// `(@scaled ?f ?c)`: a float attribute times the one value of all elements of `?c`.
fn scaled(x: &[&Facts]) -> Option<Facts> {
    let [f, c] = x else { return None };
    attr(arg::<f64>(f)? * c.splat()?.as_f64())
}

/// Extents: of a tensor, or a list of them.
pub(super) fn extents(x: &Facts) -> Option<Vec<Dim>> {
    x.dims().map(<[Dim]>::to_vec).or_else(|| arg(x))
}

fn permuted<T: Clone>(list: &[T], perm: &[usize]) -> Option<Vec<T>> {
    perm.iter().map(|&k| list.get(k).cloned()).collect()
}

fn inverted(perm: &[usize]) -> Option<Vec<usize>> {
    (0..perm.len()).map(|k| perm.iter().position(|&p| p == k)).collect()
}

/// `(@permute ?list ?perm)`: entry `?perm[k]` of the list becomes entry `k`.
fn permute(x: &[&Facts]) -> Option<Facts> {
    let [list, perm] = x else { return None };
    attr(permuted(&arg::<Vec<Dim>>(list)?, &arg::<Vec<usize>>(perm)?)?)
}

/// `(@inverse ?perm)`: the permutation that undoes it.
fn inverse(x: &[&Facts]) -> Option<Facts> {
    attr(inverted(&arg::<Vec<usize>>(x.first()?)?)?)
}

/// `(@swap_last ?list)`: the last two entries swapped.
fn swap_last(x: &[&Facts]) -> Option<Facts> {
    let mut list = extents(x.first()?)?;
    let n = list.len();
    list.swap(n.checked_sub(2)?, n - 1);
    attr(list)
}

/// `(@swapping ?x)`: the permutation that swaps the last two axes.
fn swapping(x: &[&Facts]) -> Option<Facts> {
    let n = extents(x.first()?)?.len();
    let mut perm: Vec<usize> = (0..n).collect();
    perm.swap(n.checked_sub(2)?, n - 1);
    attr(perm)
}

/// `(@without_ones ?extents)`: those that aren't 1.
fn without_ones(x: &[&Facts]) -> Option<Facts> {
    let mut list = extents(x.first()?)?;
    list.retain(|d| !d.is(1));
    attr(list)
}

/// `(@perm_without_ones ?extents ?perm)`: how the permutation moves the axes that aren't of extent 1.
fn perm_without_ones(x: &[&Facts]) -> Option<Facts> {
    let [list, perm] = x else { return None };
    let (list, perm) = (extents(list)?, arg::<Vec<usize>>(perm)?);
    let ones_before = |k: usize| list[..k].iter().filter(|d| d.is(1)).count();
    let moved = perm.into_iter().filter(|&k| list.get(k).is_some_and(|d| !d.is(1)));
    attr(moved.map(|k| k - ones_before(k)).collect::<Vec<usize>>())
}

/// `(@slice_starts ?s ?t ?u)`: where a slice at `?u` of a slice at `?s` with steps `?t` begins.
fn slice_starts(x: &[&Facts]) -> Option<Facts> {
    let [s, t, u] = x else { return None };
    let (s, t, u) = (arg::<Vec<Dim>>(s)?, arg::<Vec<Dim>>(t)?, arg::<Vec<Dim>>(u)?);
    attr(s.into_iter().zip(t).zip(u).map(|((s, t), u)| s + u * t).collect::<Vec<Dim>>())
}

fn pairwise(x: &[&Facts], f: impl Fn(Dim, Dim) -> Dim) -> Option<Facts> {
    let [a, b] = x else { return None };
    let (a, b) = (arg::<Vec<Dim>>(a)?, arg::<Vec<Dim>>(b)?);
    if a.len() != b.len() {
        return None;
    }
    attr(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect::<Vec<Dim>>())
}

/// `(@times ?a ?b)`: products of entries.
fn times(x: &[&Facts]) -> Option<Facts> {
    pairwise(x, |a, b| a * b)
}

/// `(@sum ?a ?b)`: sums of entries.
fn sum(x: &[&Facts]) -> Option<Facts> {
    pairwise(x, |a, b| a + b)
}

/// `(@minus ?a ?b)`: differences of entries.
fn minus(x: &[&Facts]) -> Option<Facts> {
    pairwise(x, |a, b| a - b)
}

/// A list for the axes of a broadcast result as one for those of an operand, with `value` where its extent is 1.
fn along(x: &[&Facts], value: i64) -> Option<Facts> {
    let [x, list] = x else { return None };
    let (dims, list) = (x.dims()?, arg::<Vec<Dim>>(list)?);
    let skip = list.len().checked_sub(dims.len())?;
    let entry = |(d, v): (&Dim, Dim)| if d.is(1) { value.into() } else { v };
    attr(dims.iter().zip(list.into_iter().skip(skip)).map(entry).collect::<Vec<Dim>>())
}

/// `(@starts_in ?x ?starts)`: where a slice of a result begins in the operand `?x` that broadcasts to it.
fn starts_in(x: &[&Facts]) -> Option<Facts> {
    along(x, 0)
}

/// `(@sizes_in ?x ?sizes)`: its sizes there.
fn sizes_in(x: &[&Facts]) -> Option<Facts> {
    along(x, 1)
}

/// `(@steps_in ?x ?steps)`: its steps there.
fn steps_in(x: &[&Facts]) -> Option<Facts> {
    along(x, 1)
}

fn changed(mut list: Vec<Dim>, axis: &Facts, f: impl Fn(&Dim) -> Option<Dim>) -> Option<Facts> {
    let d = list.get_mut(arg::<usize>(axis)?)?;
    *d = f(d)?;
    attr(list)
}

/// `(@start_minus ?starts ?x ?axis)`: less the extent of `?x` along the axis.
fn start_minus(x: &[&Facts]) -> Option<Facts> {
    let [starts, x, axis] = x else { return None };
    let extent = x.dims()?.get(arg::<usize>(axis)?)?;
    changed(arg(starts)?, axis, |d| Some(d.clone() - extent.clone()))
}

/// `(@start_at ?x ?axis ?i)`: starts of a slice of `?x` at this index along the axis.
fn start_at(x: &[&Facts]) -> Option<Facts> {
    let [x, axis, i] = x else { return None };
    let (rank, n) = (x.dims()?.len(), x.dims()?.get(arg::<usize>(axis)?)?);
    let i = i.value.as_ref().filter(|v| v.len() == 1)?.get(0).as_i64();
    let from = if i < 0 { n.clone() } else { 0.into() };
    changed(vec![0.into(); rank], axis, |_| Some(from.clone() + i.into()))
}

/// `(@one_of ?x ?axis)`: extents of `?x` with 1 along the axis.
fn one_of(x: &[&Facts]) -> Option<Facts> {
    let [x, axis] = x else { return None };
    changed(extents(x)?, axis, |_| Some(1.into()))
}

/// Numbers for every axis of `?w`, the one at `to` taken from a list.
fn one_from(of: Vec<Dim>, list: &Facts, from: usize, to: usize) -> Option<Facts> {
    let list = arg::<Vec<Dim>>(list)?;
    let mut out = of;
    *out.get_mut(to)? = list.get(from)?.clone();
    attr(out)
}

/// The last number of a list for the last axis of `?w`, and the others.
fn for_last(x: &[&Facts], of: impl Fn(Vec<Dim>) -> Vec<Dim>) -> Option<Facts> {
    let [w, list] = x else { return None };
    let n = arg::<Vec<Dim>>(list)?.len();
    let dims = w.dims()?.to_vec();
    let to = dims.len().checked_sub(1)?;
    one_from(of(dims), list, n.checked_sub(1)?, to)
}

/// The second number of a list for the first axis of `?w`, and the others.
fn for_first(x: &[&Facts], of: impl Fn(Vec<Dim>) -> Vec<Dim>) -> Option<Facts> {
    let [w, list] = x else { return None };
    one_from(of(w.dims()?.to_vec()), list, 1, 0)
}

fn all_of(value: i64) -> impl Fn(Vec<Dim>) -> Vec<Dim> {
    move |dims| vec![value.into(); dims.len()]
}

/// `(@last_start ?w ?starts)`: of a slice of `?w` along its last axis, as `?starts` has it along its own.
fn last_start(x: &[&Facts]) -> Option<Facts> {
    for_last(x, all_of(0))
}

/// `(@last_size ?w ?sizes)`: see `last_start`.
fn last_size(x: &[&Facts]) -> Option<Facts> {
    for_last(x, |dims| dims)
}

/// `(@last_step ?w ?steps)`: see `last_start`.
fn last_step(x: &[&Facts]) -> Option<Facts> {
    for_last(x, all_of(1))
}

/// `(@first_start ?w ?starts)`: of a slice of `?w` along its first axis, as `?starts` has it along the second.
fn first_start(x: &[&Facts]) -> Option<Facts> {
    for_first(x, all_of(0))
}

/// `(@first_size ?w ?sizes)`: see `first_start`.
fn first_size(x: &[&Facts]) -> Option<Facts> {
    for_first(x, |dims| dims)
}

/// `(@first_step ?w ?steps)`: see `first_start`.
fn first_step(x: &[&Facts]) -> Option<Facts> {
    for_first(x, all_of(1))
}

/// `(@unit_steps ?x)`: a 1 for every axis.
fn unit_steps(x: &[&Facts]) -> Option<Facts> {
    attr(vec![1usize; x.first()?.dims()?.len()])
}

/// `(@gathered ?x ?i ?axis)`: extents of `?x` with those of `?i` in the place of the axis.
fn gathered(x: &[&Facts]) -> Option<Facts> {
    let [x, i, axis] = x else { return None };
    let (dims, axis) = (extents(x)?, arg::<usize>(axis)?);
    let (before, after) = (dims.get(..axis)?, dims.get(axis + 1..)?);
    attr([before, i.dims()?, after].concat())
}

/// `(@sum_along ?n ?m ?axis)`: `?n` with the entry of `?m` added at the axis.
fn sum_along(x: &[&Facts]) -> Option<Facts> {
    let [n, m, axis] = x else { return None };
    let more = arg::<Vec<Dim>>(m)?.get(arg::<usize>(axis)?)?.clone();
    changed(arg(n)?, axis, |d| Some(d.clone() + more.clone()))
}

/// `(@padded ?c ?x)`: extents of `?c` behind as many 1 as the rank of `?x` needs.
fn padded(x: &[&Facts]) -> Option<Facts> {
    let [c, x] = x else { return None };
    let (c, rank) = (c.dims()?, x.dims()?.len());
    let mut dims = vec![Dim::from(1); rank.checked_sub(c.len())?];
    dims.extend_from_slice(c);
    attr(dims)
}

/// `(@axes_merged ?a ?b)`: axes of a reduction along `?a`, then along `?b`, in one.
fn axes_merged(x: &[&Facts]) -> Option<Facts> {
    let [a, b] = x else { return None };
    let (mut axes, b) = (arg::<Vec<usize>>(a)?, arg::<Vec<usize>>(b)?);
    let highest = axes.iter().chain(&b).max().map_or(0, |k| k + 1) + axes.len();
    let rest: Vec<usize> = (0..=highest).filter(|k| !axes.contains(k)).collect();
    axes.extend(permuted(&rest, &b)?);
    axes.sort_unstable();
    attr(axes)
}

/// `(@axes_before ?x ?extents ?axes)`: axes of `?x` that are these axes of the extents, which differ by ones.
fn axes_before(x: &[&Facts]) -> Option<Facts> {
    let [x, list, axes] = x else { return None };
    let (x, list, axes) = (x.dims()?, extents(list)?, arg::<Vec<usize>>(axes)?);
    let longer = |dims: &[Dim]| (0..dims.len()).filter(|&k| !dims[k].is(1)).collect::<Vec<usize>>();
    let (from, to) = (longer(x), longer(&list));
    let pairs = from.into_iter().zip(to).filter(|(_, k)| axes.contains(k));
    attr(pairs.map(|(axis, _)| axis).collect::<Vec<usize>>())
}

/// `(@reduced ?extents ?axes)`: the other extents.
fn reduced(x: &[&Facts]) -> Option<Facts> {
    let [list, axes] = x else { return None };
    let axes = arg::<Vec<usize>>(axes)?;
    let rest = extents(list)?.into_iter().enumerate().filter(|(k, _)| !axes.contains(k));
    attr(rest.map(|(_, d)| d).collect::<Vec<Dim>>())
}

/// `(@axes_before_perm ?perm ?axes)`: what these axes are before the permutation.
fn axes_before_perm(x: &[&Facts]) -> Option<Facts> {
    let [perm, axes] = x else { return None };
    let mut axes = permuted(&arg::<Vec<usize>>(perm)?, &arg::<Vec<usize>>(axes)?)?;
    axes.sort_unstable();
    attr(axes)
}

/// `(@perm_of_rest ?perm ?axes)`: how the permutation moves the axes that remain when these are gone behind it.
fn perm_of_rest(x: &[&Facts]) -> Option<Facts> {
    let [perm, axes] = x else { return None };
    let (perm, axes) = (arg::<Vec<usize>>(perm)?, arg::<Vec<usize>>(axes)?);
    let rest: Vec<usize> =
        perm.into_iter().enumerate().filter(|(k, _)| !axes.contains(k)).map(|(_, p)| p).collect();
    attr(rest.iter().map(|p| rest.iter().filter(|q| *q < p).count()).collect::<Vec<usize>>())
}

/// `(@only ?axes)`: the one axis of a list.
fn only(x: &[&Facts]) -> Option<Facts> {
    match arg::<Vec<usize>>(x.first()?)?[..] {
        [axis] => attr(axis),
        _ => None,
    }
}

/// Ones but for the first entries.
fn then_ones(first: &[Dim], rank: usize) -> Option<Facts> {
    let mut dims = first.to_vec();
    dims.resize(rank, 1.into());
    attr(dims)
}

fn is_one(x: &Facts) -> Option<bool> {
    Some(x.dims()?.iter().all(|d| d.is(1)))
}

/// `(@per_filter ?w ?s)`: extents in which numbers for each filter, or one for all, broadcast to the weights `?w`.
fn per_filter(x: &[&Facts]) -> Option<Facts> {
    let [w, s] = x else { return None };
    let (w, n) = (w.dims()?, if is_one(s)? { 1.into() } else { w.dims()?.first()?.clone() });
    then_ones(&[n], w.len())
}

/// `(@grouped_filters ?w ?groups)`: extents of weights with an axis of groups in front.
fn grouped_filters(x: &[&Facts]) -> Option<Facts> {
    let [w, groups] = x else { return None };
    let (mut dims, groups) = (extents(w)?, arg::<Dim>(groups)?);
    let per_group = dims.first()?.floor_div(&groups);
    dims.splice(0..1, [groups, per_group]);
    attr(dims)
}

/// `(@grouped_channels ?w ?s ?groups)`: extents in which numbers for each channel, or one for all, broadcast to these.
fn grouped_channels(x: &[&Facts]) -> Option<Facts> {
    let [w, s, groups] = x else { return None };
    let (w, groups) = (w.dims()?, arg::<Dim>(groups)?);
    match is_one(s)? {
        true => then_ones(&[], w.len() + 1),
        false => then_ones(&[groups, 1.into(), w.get(1)?.clone()], w.len() + 1),
    }
}

/// `(@filter_axes ?w)`: all axes of grouped filters but groups and filters.
fn filter_axes(x: &[&Facts]) -> Option<Facts> {
    attr((2..x.first()?.dims()?.len() + 1).collect::<Vec<usize>>())
}

/// `(@per_output ?w)`: extents in which numbers for each filter of `?w` broadcast to a convolution's result.
fn per_output(x: &[&Facts]) -> Option<Facts> {
    let w = x.first()?.dims()?;
    then_ones(&[1.into(), w.first()?.clone()], w.len())
}

/// The extent of the only axis longer than 1, else 1.
fn length(x: &[&Facts]) -> Option<Dim> {
    Some(x.first()?.dims()?.iter().product())
}

/// `(@as_column ?s)`: extents `[n, 1]`.
fn as_column(x: &[&Facts]) -> Option<Facts> {
    attr(vec![length(x)?, 1.into()])
}

/// `(@as_row ?s)`: extents `[1, n]`.
fn as_row(x: &[&Facts]) -> Option<Facts> {
    attr(vec![1.into(), length(x)?])
}

/// `(@row_for ?w)`: extents of a row by which the matrix `?w` can be multiplied.
fn row_for(x: &[&Facts]) -> Option<Facts> {
    let rows = x.first()?.dims()?.iter().rev().nth(1)?;
    attr(vec![1.into(), rows.clone()])
}

/// `(@first_two ?x)`: the first two extents.
fn first_two(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.dims()?.get(..2)?.to_vec())
}

/// `(@points ?x ?w)`: extents of a convolution's result that is one point.
fn points(x: &[&Facts]) -> Option<Facts> {
    let [x, w] = x else { return None };
    then_ones(&[x.dims()?.first()?.clone(), w.dims()?.first()?.clone()], x.dims()?.len())
}

/// `(@window_pads ?pads ?lo ?hi)`: padding of windows and of the spatial axes before them in one.
fn window_pads(x: &[&Facts]) -> Option<Facts> {
    let [pads, lo, hi] = x else { return None };
    let more = [arg::<Vec<usize>>(lo)?.get(2..)?, arg::<Vec<usize>>(hi)?.get(2..)?].concat();
    attr(arg::<Vec<usize>>(pads)?.iter().zip(more).map(|(a, b)| a + b).collect::<Vec<usize>>())
}

/// `(@followed_by ?x 2)`: the extents of `?x` and one more.
fn followed_by(x: &[&Facts]) -> Option<Facts> {
    let [x, more] = x else { return None };
    let mut dims = extents(x)?;
    dims.push(arg(more)?);
    attr(dims)
}

/// `(@doubled ?x)`: the extents of `?x`, the last one twice as long.
fn doubled(x: &[&Facts]) -> Option<Facts> {
    let mut dims = extents(x.first()?)?;
    let last = dims.last_mut()?;
    *last = last.clone() * 2.into();
    attr(dims)
}

/// `(@last_axis ?x)`: the list of the last axis.
fn last_axis(x: &[&Facts]) -> Option<Facts> {
    attr(vec![x.first()?.dims()?.len().checked_sub(1)?])
}

/// `(@with_last ?extents ?w)`: the last of the extents replaced by that of `?w`.
fn with_last(x: &[&Facts]) -> Option<Facts> {
    let [list, w] = x else { return None };
    let mut dims = extents(list)?;
    *dims.last_mut()? = w.dims()?.last()?.clone();
    attr(dims)
}

/// `(@unstacked ?extents ?x)`: the last two extents replaced by those of `?x`.
fn unstacked(x: &[&Facts]) -> Option<Facts> {
    let [list, x] = x else { return None };
    let (list, [.., rows, columns]) = (extents(list)?, x.dims()?) else { return None };
    let outer = &list[..list.len().checked_sub(2)?];
    attr([outer, &[rows.clone(), columns.clone()]].concat())
}

/// `(@last_as_one ?x)`: the extents with 1 as the last.
fn last_as_one(x: &[&Facts]) -> Option<Facts> {
    let mut dims = extents(x.first()?)?;
    *dims.last_mut()? = 1.into();
    attr(dims)
}

/// `(@n_rows ?v)`: the last extent but one.
fn n_rows(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.dims()?.iter().rev().nth(1)?.clone())
}

/// `(@rows_axis ?v)`: the list of the last axis but one.
fn rows_axis(x: &[&Facts]) -> Option<Facts> {
    attr(vec![x.first()?.dims()?.len().checked_sub(2)?])
}

/// `(@one_row ?v)`: the extents with 1 as the last but one.
fn one_row(x: &[&Facts]) -> Option<Facts> {
    let mut dims = extents(x.first()?)?;
    *dims.iter_mut().rev().nth(1)? = 1.into();
    attr(dims)
}

/// A slice of a tensor of other extents as one of the tensor itself: start, size and step along every axis.
///
/// Axes correspond in groups of equal products. A group of one axis of the tensor may be sliced along its outermost
/// part, the other ones must be kept whole.
fn before_reshape(x: &[&Facts]) -> Option<Vec<(Dim, Dim, Dim)>> {
    let [x, list, starts, sizes, steps] = x else { return None };
    let (dims, list) = (x.dims()?, extents(list)?);
    let (starts, sizes) = (arg::<Vec<Dim>>(starts)?, arg::<Vec<Dim>>(sizes)?);
    let steps = arg::<Vec<Dim>>(steps)?;
    if [&starts, &sizes, &steps].iter().any(|l| l.len() != list.len()) {
        return None;
    }
    let is_whole = |k: usize| k < list.len() && starts[k].is(0) && sizes[k] == list[k] && steps[k].is(1);
    let mut found = Vec::with_capacity(dims.len());
    let mut k = 0;
    for d in dims {
        if d.is(1) {
            found.push((0.into(), 1.into(), 1.into()));
            continue;
        }
        while k < list.len() && list[k].is(1) {
            is_whole(k).then_some(())?;
            k += 1;
        }
        let (outermost, mut inner) = (k, Dim::from(1));
        while k < list.len() && inner.clone() * list[outermost].clone() != *d {
            k += 1;
            is_whole(k).then_some(())?;
            inner = inner * list.get(k)?.clone();
        }
        let (start, size, step) = (starts.get(outermost)?, sizes.get(outermost)?, steps.get(outermost)?);
        (step.is(1) || inner.is(1)).then_some(())?;
        found.push((start.clone() * inner.clone(), size.clone() * inner, step.clone()));
        k += 1;
    }
    (k..list.len()).all(is_whole).then_some(found)
}

/// `(@starts_before ?x ?extents ?starts ?sizes ?steps)`: where a slice of the reshaped `?x` begins in `?x`.
fn starts_before(x: &[&Facts]) -> Option<Facts> {
    attr(before_reshape(x)?.into_iter().map(|(start, _, _)| start).collect::<Vec<Dim>>())
}

/// `(@sizes_before ..)`: its sizes there.
fn sizes_before(x: &[&Facts]) -> Option<Facts> {
    attr(before_reshape(x)?.into_iter().map(|(_, size, _)| size).collect::<Vec<Dim>>())
}

/// `(@steps_before ..)`: its steps there.
fn steps_before(x: &[&Facts]) -> Option<Facts> {
    attr(before_reshape(x)?.into_iter().map(|(_, _, step)| step).collect::<Vec<Dim>>())
}

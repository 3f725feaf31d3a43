//! Guards: what must be known of a rule's variables for it to apply.
//!
//! A guard gets the facts of its arguments (attributes written out are facts too), and says whether it holds for
//! certain.

use super::facts::Facts;
use super::functions::{arg, extents};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::op::{Attr, AttrValue, PadMode};
use aic_ir::scalar::Scalar;

/// A registered guard.
#[derive(Debug)]
pub struct Guard {
    /// Its name in rules.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: fn(&[&Facts]) -> bool,
}

impl PartialEq for Guard {
    fn eq(&self, other: &Guard) -> bool {
        self.name == other.name
    }
}

macro_rules! guards {
    ($($name:ident),* $(,)?) => {
        /// Every guard by its name in rules.
        pub const GUARDS: &[Guard] = &[
            Guard { name: "const", holds: |x| x.iter().all(|f| f.is_const) },
            // Where constants alone decide, there is nothing to gain, and each rounding makes another constant.
            Guard { name: "variable", holds: |x| x.iter().all(|f| f.ty().is_some() && !f.is_const) },
            $(Guard { name: stringify!($name), holds: $name }),*
        ];
    };
}

guards! {
    is, whole_along, float, int, signed, nonneg, positive, finite, between, le, power_of_two, has_reciprocal, uniform,
    differ, several, scalar, many, one_element, same_type, same_dims, narrower, holds_all, keeps_low_bits,
    exact_scale, zero_point, covers, softplus_threshold, zeros, ones, identity, keeps_order, has_one,
    swapped_matrices, inside, ends_before, starts_after, adjacent, index_of, adds_up, last_axis_only,
    same_last, splits_first, splits_products, order_free, combines, differs_by_ones, swaps_last, is_matrix,
    one_point, per_channel, per_input_channel, per_column, spatial_pads, neutral, kept, trailing, count, last,
    cuts_only, causal_mask, all_see, causal_positions, causal_ranges, copies_heads, halves, neighbours, stacks,
}

/// The guard with this name.
pub fn find(name: &str) -> Option<&'static Guard> {
    GUARDS.iter().find(|g| g.name == name)
}

/// `is(?c, 0.5)`: a small constant all of whose elements are this number, rounded to its element type.
pub fn is(x: &[&Facts]) -> bool {
    let [c, value] = x else { return false };
    let (Some(found), Some(ty)) = (c.splat(), c.ty()) else { return false };
    let value = match value.as_attr() {
        Some(AttrValue::Dim(d)) => d.as_const().map(Scalar::I),
        Some(AttrValue::Bool(b)) => Some(Scalar::B(*b)),
        Some(other) => f64::from_value(other).map(Scalar::F),
        None => None,
    };
    // An integer's element type holds only what it holds exactly.
    value.is_some_and(|v| v.cast(ty.dtype) == found && (ty.dtype.is_float() || found.as_f64() == v.as_f64()))
}

fn all_types(x: &[&Facts], f: impl Fn(DType) -> bool) -> bool {
    x.iter().all(|facts| facts.ty().is_some_and(|ty| f(ty.dtype)))
}

/// `float(?x)`: of a float type.
fn float(x: &[&Facts]) -> bool {
    all_types(x, DType::is_float)
}

/// `int(?x)`: of an integer type.
fn int(x: &[&Facts]) -> bool {
    all_types(x, DType::is_int)
}

/// `signed(?x)`: of a float or signed integer type.
fn signed(x: &[&Facts]) -> bool {
    all_types(x, |t| t.is_float() || t.is_signed())
}

/// `nonneg(?x)`: no element is below 0 (`-0.0` isn't).
fn nonneg(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.is_nonneg)
}

/// Whether it is a small constant all of whose elements are such numbers.
fn all_elements(x: &Facts, f: impl Fn(f64) -> bool) -> bool {
    match (x.uniform, &x.value) {
        (Some(value), _) => f(value.as_f64()),
        (None, value) => value.as_ref().is_some_and(|v| v.scalars().all(|s| f(s.as_f64()))),
    }
}

/// `positive(?c)`: a small constant of positive finite numbers.
fn positive(x: &[&Facts]) -> bool {
    x.iter().all(|c| all_elements(c, |v| v > 0.0 && v.is_finite()))
}

/// `finite(?c)`: a small constant of finite numbers.
fn finite(x: &[&Facts]) -> bool {
    x.iter().all(|c| all_elements(c, f64::is_finite))
}

/// `between(?c, 0.1, 1)`: a small constant of numbers within these bounds, which are included.
fn between(x: &[&Facts]) -> bool {
    let [c, lo, hi] = x else { return false };
    let (Some(lo), Some(hi)) = (arg::<f64>(lo), arg::<f64>(hi)) else { return false };
    all_elements(c, |v| (lo..=hi).contains(&v))
}

/// `le(?lo, ?hi)`: uniform constants in this order, `-0.0` being below `0.0`.
fn le(x: &[&Facts]) -> bool {
    let [lo, hi] = x else { return false };
    match (lo.splat(), hi.splat()) {
        (Some(Scalar::F(a)), Some(Scalar::F(b))) => !a.is_nan() && !b.is_nan() && a.total_cmp(&b).is_le(),
        (Some(Scalar::I(a)), Some(Scalar::I(b))) => a <= b,
        (Some(Scalar::U(a)), Some(Scalar::U(b))) => a <= b,
        _ => false,
    }
}

/// `power_of_two(?c)`: a small float constant of powers of two (or their negatives) with exact reciprocals.
fn power_of_two(x: &[&Facts]) -> bool {
    let [c] = x else { return false };
    let Some(ty) = c.ty().filter(|ty| ty.dtype.is_float()) else { return false };
    let mantissa = |v: f64| v.to_bits() & ((1 << 52) - 1);
    let is_held = |v: f64| Scalar::F(v).cast(ty.dtype) == Scalar::F(v);
    all_elements(c, |v| v.is_normal() && mantissa(v) == 0 && (1.0 / v).is_normal() && is_held(1.0 / v))
}

/// `has_reciprocal(?c)`: a small float constant whose reciprocals neither overflow nor lose digits.
fn has_reciprocal(x: &[&Facts]) -> bool {
    let [c] = x else { return false };
    let Some(ty) = c.ty().filter(|ty| ty.dtype.is_float()) else { return false };
    let most = if ty.dtype == DType::F16 { 1e4 } else { 1e30 };
    all_elements(c, |v| (1.0 / most..=most).contains(&v.abs()))
}

/// `uniform(?c)`: a small constant all of whose elements are equal.
fn uniform(x: &[&Facts]) -> bool {
    x.iter().all(|c| c.splat().is_some())
}

/// `differ(?a, ?b)`: uniform constants of different numbers.
fn differ(x: &[&Facts]) -> bool {
    let [a, b] = x else { return false };
    let (Some(a), Some(b)) = (a.splat(), b.splat()) else { return false };
    a.as_f64() < b.as_f64() || a.as_f64() > b.as_f64()
}

/// `several(?c)`: of a rank above 0.
fn several(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.dims().is_some_and(|d| !d.is_empty()))
}

/// `scalar(?c)`: of rank 0.
fn scalar(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.dims().is_some_and(<[Dim]>::is_empty))
}

/// `many(?c)`: some extent isn't 1.
fn many(x: &[&Facts]) -> bool {
    !one_element(x)
}

/// `one_element(?x)`: every extent is 1.
fn one_element(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.dims().is_some_and(|d| d.iter().all(|d| d.is(1))))
}

/// `same_type(?x, ?y)`: tensors of one element type and the same extents.
fn same_type(x: &[&Facts]) -> bool {
    x.windows(2).all(|w| w[0].ty().is_some() && w[0].ty() == w[1].ty())
}

/// `same_dims(?x, ?y)`: tensors of the same extents.
fn same_dims(x: &[&Facts]) -> bool {
    x.windows(2).all(|w| w[0].dims().is_some() && w[0].dims() == w[1].dims())
}

/// `narrower(?s, ?x)`: `?s` broadcasts to the extents of `?x` and has fewer elements.
fn narrower(x: &[&Facts]) -> bool {
    let [s, x] = x else { return false };
    let (Some(s), Some(x)) = (s.dims(), x.dims()) else { return false };
    if s.len() > x.len() {
        return false;
    }
    let (outer, inner) = x.split_at(x.len() - s.len());
    let fits = s.iter().zip(inner).all(|(s, x)| s == x || s.is(1));
    fits && (outer.iter().any(|d| !d.is(1)) || s.iter().zip(inner).any(|(s, x)| s != x))
}

/// `holds_all(?type, ?x)`: the type holds every value of the type of `?x`.
fn holds_all(x: &[&Facts]) -> bool {
    let [wide, x] = x else { return false };
    let (Some(wide), Some(narrow)) = (arg::<DType>(wide), x.ty().map(|ty| ty.dtype)) else { return false };
    // Binary digits of integers that a type holds exactly.
    let digits = |t: DType| match t {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        t => 8 * t.size(),
    };
    match (narrow, wide) {
        (a, b) if a == b => true,
        (DType::Bool, b) => b.is_num(),
        (a, b) if a.is_float() => b.is_float() && b.size() > a.size(),
        (a, b) if b.is_float() => a.is_int() && digits(b) >= digits(a) - usize::from(a.is_signed()),
        (a, b) => a.is_int() && b.is_int() && b.size() > a.size() && (a.is_unsigned() || b.is_signed()),
    }
}

/// `keeps_low_bits(?between, ?to)`: integer types, of which the first is no narrower.
fn keeps_low_bits(x: &[&Facts]) -> bool {
    let [between, to] = x else { return false };
    let (Some(between), Some(to)) = (arg::<DType>(between), arg::<DType>(to)) else { return false };
    between.is_int() && to.is_int() && between.size() >= to.size()
}

/// `exact_scale(?q, ?s)`: integers of at most 16 bits, times this scale, divided by it and rounded, are what they were.
fn exact_scale(x: &[&Facts]) -> bool {
    let [q, s] = x else { return false };
    let wide = all_types(&[s], |t| matches!(t, DType::F32 | DType::F64));
    wide && all_types(&[q], |t| t.is_int() && t.size() <= 2)
        && all_elements(s, |v| (1e-30..1e30).contains(&v))
}

/// `zero_point(?z)`: a small constant of integers that any float of 32 bits adds exactly to integers of 16 bits.
fn zero_point(x: &[&Facts]) -> bool {
    x.iter().all(|z| all_elements(z, |v| v.fract() == 0.0 && v.abs() <= 65536.0))
}

/// `covers(?q, ?lo, ?hi)`: the bounds exclude no value of the integer type of `?q`.
fn covers(x: &[&Facts]) -> bool {
    let [q, lo, hi] = x else { return false };
    let Some(t) = q.ty().map(|ty| ty.dtype).filter(|t| t.is_int()) else { return false };
    let (least, most) = (Scalar::lowest(t).as_f64(), Scalar::highest(t).as_f64());
    all_elements(lo, |v| v <= least) && all_elements(hi, |v| v >= most)
}

/// `softplus_threshold(?t)`: above it, `softplus(x)` and `x` are the same number in the type of `?t`.
fn softplus_threshold(x: &[&Facts]) -> bool {
    all_types(x, |t| t != DType::F64) && x.iter().all(|t| all_elements(t, |v| v >= 20.0))
}

fn all_are(x: &[&Facts], value: i64) -> bool {
    x.iter().all(|list| arg::<Vec<Dim>>(list).is_some_and(|l| l.iter().all(|d| d.is(value))))
}

/// `zeros(?list)`: numbers that are all 0.
fn zeros(x: &[&Facts]) -> bool {
    all_are(x, 0)
}

/// `ones(?list)`: numbers that are all 1.
fn ones(x: &[&Facts]) -> bool {
    all_are(x, 1)
}

/// `cuts_only(?starts, ?steps, k)`: a slice leaves axes other than `k`, counted from the end where it is negative, as
/// they are, if it has their extents.
fn cuts_only(x: &[&Facts]) -> bool {
    let [starts, steps, axis] = x else { return false };
    let (Some(s), Some(t), Some(k)) = (arg::<Vec<Dim>>(starts), arg::<Vec<i64>>(steps), arg::<i64>(axis))
    else {
        return false;
    };
    let at = if k < 0 { s.len() as i64 + k } else { k };
    s.len() == t.len() && (0..s.len()).all(|k| k as i64 == at || s[k].is(0) && t[k] == 1)
}

/// `identity(?perm)`: a permutation that moves nothing.
fn identity(x: &[&Facts]) -> bool {
    x.iter().all(|p| arg::<Vec<usize>>(p).is_some_and(|p| p.iter().copied().eq(0..p.len())))
}

/// `keeps_order(?x, ?perm)`: the axes longer than 1 stay in their order.
fn keeps_order(x: &[&Facts]) -> bool {
    let [x, perm] = x else { return false };
    let (Some(dims), Some(perm)) = (x.dims(), arg::<Vec<usize>>(perm)) else { return false };
    let moved: Vec<usize> = perm.into_iter().filter(|&k| dims.get(k).is_some_and(|d| !d.is(1))).collect();
    moved.windows(2).all(|w| w[0] < w[1])
}

/// `has_one(?extents)`: one of them is 1.
fn has_one(x: &[&Facts]) -> bool {
    x.iter().all(|s| extents(s).is_some_and(|s| s.iter().any(|d| d.is(1))))
}

/// `swapped_matrices(?s, ?t)`: `?s` is `[n, a, b]` and `?t` ends in `b, a`.
fn swapped_matrices(x: &[&Facts]) -> bool {
    let [s, t] = x else { return false };
    match (extents(s).as_deref(), extents(t).as_deref()) {
        (Some([_, a, b]), Some([.., c, d])) => a == d && b == c,
        _ => false,
    }
}

/// First and last index, along every axis, of a slice: starts, sizes, steps.
fn slice_ends(x: &[&Facts]) -> Option<Vec<(Dim, Dim)>> {
    let [starts, sizes, steps] = x else { return None };
    let (starts, sizes) = (arg::<Vec<Dim>>(starts)?, arg::<Vec<Dim>>(sizes)?);
    let steps = arg::<Vec<i64>>(steps)?;
    let ends = starts.into_iter().zip(sizes).zip(steps).map(|((first, n), step)| {
        let last = first.clone() + (n - 1.into()) * step.into();
        if step > 0 { (first, last) } else { (last, first) }
    });
    Some(ends.collect())
}

/// `inside(?x, ?lo, ?interior, ?starts, ?sizes, ?steps)`: a slice of the padded `?x` that takes nothing of the padding.
fn inside(x: &[&Facts]) -> bool {
    let [x, lo, interior, slice @ ..] = x else { return false };
    let (Some(dims), Some(lo), Some(ends)) = (x.dims(), arg::<Vec<Dim>>(lo), slice_ends(slice)) else {
        return false;
    };
    zeros(&[interior])
        && ends.into_iter().zip(dims).zip(lo).all(|(((first, last), d), lo)| {
            (first - lo.clone()).is_not_negative() && (lo + d.clone() - 1.into() - last).is_not_negative()
        })
}

/// `ends_before(?x, ?axis, ?starts, ?sizes, ?steps)`: a slice that stays within the extent of `?x` along the axis.
fn ends_before(x: &[&Facts]) -> bool {
    let [x, axis, slice @ ..] = x else { return false };
    let end = || {
        let axis = arg::<usize>(axis)?;
        Some(x.dims()?.get(axis)?.clone() - 1.into() - slice_ends(slice)?.get(axis)?.1.clone())
    };
    end().is_some_and(|room| room.is_not_negative())
}

/// `starts_after(?x, ?axis, ?starts, ?sizes, ?steps)`: a slice that begins behind the extent of `?x` along the axis.
fn starts_after(x: &[&Facts]) -> bool {
    let [x, axis, slice @ ..] = x else { return false };
    let begin = || {
        let axis = arg::<usize>(axis)?;
        Some(slice_ends(slice)?.get(axis)?.0.clone() - x.dims()?.get(axis)?.clone())
    };
    begin().is_some_and(|room| room.is_not_negative())
}

/// `adjacent(?s, ?n, ?t, ?u, ?m, ?axis)`: of slices with steps `?t`, the one at `?u` of sizes `?m` continues the one at
/// `?s` of sizes `?n` along the axis, and is the same along the others.
fn adjacent(x: &[&Facts]) -> bool {
    let lists = || {
        let [s, n, t, u, m, axis] = x else { return None };
        let next = arg::<Vec<Dim>>(s)?.into_iter().zip(arg::<Vec<Dim>>(n)?).zip(arg::<Vec<i64>>(t)?);
        Some((next, arg::<Vec<Dim>>(u)?, arg::<Vec<Dim>>(m)?, arg::<usize>(axis)?))
    };
    let Some((mut next, u, m, axis)) = lists() else { return false };
    next.len() == u.len()
        && (0..u.len()).all(|k| match next.next() {
            Some(((s, n), t)) if k == axis => u[k] == s + n * t.into(),
            Some(((s, n), _)) => u[k] == s && m[k] == n,
            None => false,
        })
}

/// `index_of(?i, ?x, ?axis)`: a constant of one element that is an index along a known extent.
fn index_of(x: &[&Facts]) -> bool {
    let [i, x, axis] = x else { return false };
    let extent = || x.dims()?.get(arg::<usize>(axis)?)?.as_const();
    let (Some(n), Some(value)) = (extent(), &i.value) else { return false };
    value.rank() <= 1 && value.len() == 1 && (-n..n).contains(&value.get(0).as_i64())
}

/// `adds_up(?mode)`: padding twice is padding by the sum.
fn adds_up(x: &[&Facts]) -> bool {
    x.iter().all(|m| matches!(arg::<PadMode>(m), Some(PadMode::Constant | PadMode::Edge)))
}

/// `last_axis_only(?b)`: every extent but the last is 1.
fn last_axis_only(x: &[&Facts]) -> bool {
    let only = |d: &[Dim]| d.iter().rev().skip(1).all(|d| d.is(1));
    x.iter().all(|f| f.dims().is_some_and(only))
}

/// `same_last(?s, ?t)`: the last extents of tensors or lists are equal.
fn same_last(x: &[&Facts]) -> bool {
    let last: Vec<Option<Dim>> = x.iter().map(|f| extents(f)?.pop()).collect();
    last.iter().all(|d| d.is_some() && *d == last[0])
}

/// `splits_first(?s, ?x)`: the extents `?s` are those of the stacked matrices `?x` with the first one split.
fn splits_first(x: &[&Facts]) -> bool {
    let [s, x] = x else { return false };
    match (extents(s).as_deref(), extents(x).as_deref()) {
        (Some([.., a, b]), Some([_, c, d])) => a == c && b == d,
        _ => false,
    }
}

/// `splits_products(?s, ?a, ?b)`: the extents `?s` are those of the products of the stacked matrices `?a` and `?b` with
/// the first one split.
fn splits_products(x: &[&Facts]) -> bool {
    let [s, a, b] = x else { return false };
    match (extents(s).as_deref(), a.dims(), b.dims()) {
        (Some([_, _, .., m, n]), Some([i, rows, _]), Some([j, _, columns])) => {
            i == j && m == rows && n == columns
        }
        _ => false,
    }
}

/// `order_free(?op, ?x)`: a reduction of elements like those of `?x` whose order changes no bit.
fn order_free(x: &[&Facts]) -> bool {
    let [op, x] = x else { return false };
    match arg::<ReduceOp>(op) {
        Some(ReduceOp::Sum | ReduceOp::Prod) => int(&[x]),
        Some(ReduceOp::Max | ReduceOp::Min | ReduceOp::And | ReduceOp::Or) => true,
        _ => false,
    }
}

/// `combines(?op)`: a reduction to a value, not to an index.
fn combines(x: &[&Facts]) -> bool {
    x.iter().all(|op| arg::<ReduceOp>(op).is_some_and(|op| op.combine().is_some()))
}

fn longer_than_one(dims: &[Dim]) -> impl Iterator<Item = &Dim> {
    dims.iter().filter(|d| !d.is(1))
}

/// `differs_by_ones(?x, ?extents)`: apart from extents of 1 they are those of `?x`.
fn differs_by_ones(x: &[&Facts]) -> bool {
    let [x, s] = x else { return false };
    match (extents(x), extents(s)) {
        (Some(x), Some(s)) => longer_than_one(&x).eq(longer_than_one(&s)),
        _ => false,
    }
}

/// `swaps_last(?perm)`: a permutation that swaps the last two axes.
fn swaps_last(x: &[&Facts]) -> bool {
    x.iter().all(|p| match arg::<Vec<usize>>(p) {
        Some(mut p) if p.len() >= 2 => {
            let n = p.len();
            p.swap(n - 2, n - 1);
            p.into_iter().eq(0..n)
        }
        _ => false,
    })
}

/// `whole_along(?axes, ?x, ?starts, ?sizes, ?steps)`: a slice that takes all of `?x` along the axes, in order.
fn whole_along(x: &[&Facts]) -> bool {
    let [axes, x, starts, sizes, steps] = x else { return false };
    let lists = (arg::<Vec<Dim>>(starts), arg::<Vec<Dim>>(sizes), arg::<Vec<Dim>>(steps), x.dims());
    let (Some(starts), Some(sizes), Some(steps), Some(dims)) = lists else { return false };
    let axes = arg::<Vec<usize>>(axes).or_else(|| arg::<usize>(axes).map(|axis| vec![axis]));
    let is_whole =
        |k: &usize| *k < dims.len() && starts[*k].is(0) && steps[*k].is(1) && sizes[*k] == dims[*k];
    axes.is_some_and(|axes| axes.iter().all(is_whole))
}

/// `is_matrix(?w)`: of rank 2.
fn is_matrix(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.dims().is_some_and(|d| d.len() == 2))
}

/// `one_point(?x)`: every extent behind the first two is 1.
fn one_point(x: &[&Facts]) -> bool {
    x.iter().all(|f| f.dims().is_some_and(|d| d.len() > 2 && d[2..].iter().all(|d| d.is(1))))
}

/// Whether `s`, aligned with the last of `rank` axes, is `extent` or 1 along `axis` and 1 along the others.
fn only_along(s: &Facts, rank: usize, axis: usize, extent: &Dim) -> bool {
    let fits = |d: &[Dim]| {
        let skip = rank.checked_sub(d.len())?;
        Some(d.iter().enumerate().all(|(k, d)| d.is(1) || k + skip == axis && d == extent))
    };
    s.dims().and_then(fits).unwrap_or(false)
}

/// `per_channel(?s, ?w)`: `?s` broadcasts to one number for each filter of the weights `?w`.
fn per_channel(x: &[&Facts]) -> bool {
    let [s, w] = x else { return false };
    w.dims().is_some_and(|w| w.len() > 2 && only_along(s, w.len(), 1, &w[0]))
}

/// `per_input_channel(?s, ?x)`: `?s` broadcasts to one number for each channel of `?x`.
fn per_input_channel(x: &[&Facts]) -> bool {
    let [s, x] = x else { return false };
    x.dims().is_some_and(|x| x.len() > 2 && only_along(s, x.len(), 1, &x[1]))
}

/// `per_column(?s, ?w)`: `?s` broadcasts to one number for each index of the last axis of `?w`.
fn per_column(x: &[&Facts]) -> bool {
    let [s, w] = x else { return false };
    w.dims().is_some_and(|w| w.len() > 1 && only_along(s, w.len(), w.len() - 1, &w[w.len() - 1]))
}

/// `spatial_pads(?lo, ?hi)`: known padding of the axes behind the first two only.
fn spatial_pads(x: &[&Facts]) -> bool {
    let fits = |l: Vec<Dim>| {
        l.len() > 2 && l[..2].iter().all(|d| d.is(0)) && l.iter().all(|d| d.as_const().is_some())
    };
    x.iter().all(|list| arg::<Vec<Dim>>(list).is_some_and(fits))
}

/// `neutral(?v, ?op)`: what a reduction ignores, to the bit.
fn neutral(x: &[&Facts]) -> bool {
    let [v, op] = x else { return false };
    let identity = || Some(arg::<ReduceOp>(op)?.identity(v.ty()?.dtype));
    v.splat().is_some() && v.splat() == identity()
}

/// `kept(?extents, ?x, ?axes)`: the extents of `?x` with 1 along the axes.
fn kept(x: &[&Facts]) -> bool {
    let [s, x, axes] = x else { return false };
    let (Some(s), Some(mut dims), Some(axes)) = (extents(s), extents(x), arg::<Vec<usize>>(axes)) else {
        return false;
    };
    axes.into_iter().filter(|&k| k < s.len()).for_each(|k| dims[k] = 1.into());
    s == dims
}

/// `trailing(?axes, ?x)`: the last axes, one or more.
fn trailing(x: &[&Facts]) -> bool {
    let [axes, x] = x else { return false };
    let (Some(axes), Some(dims)) = (arg::<Vec<usize>>(axes), x.dims()) else { return false };
    !axes.is_empty()
        && axes.len() <= dims.len()
        && axes.iter().copied().eq(dims.len() - axes.len()..dims.len())
}

/// `count(?n, ?x, ?axes)`: a constant that is the number of elements along the axes.
fn count(x: &[&Facts]) -> bool {
    let [n, x, axes] = x else { return false };
    let elements = || {
        let dims = x.dims()?;
        let product = arg::<Vec<usize>>(axes)?.into_iter().map(|k| dims.get(k)).product::<Option<Dim>>()?;
        Some(Scalar::I(product.as_const()?).cast(n.ty()?.dtype))
    };
    n.splat().is_some() && n.splat() == elements()
}

/// `last(?axis, ?x)`: the last axis.
fn last(x: &[&Facts]) -> bool {
    let [axis, x] = x else { return false };
    arg::<usize>(axis).zip(x.dims()).is_some_and(|(axis, dims)| axis + 1 == dims.len())
}

/// The numbers of queries and of keys.
fn n_rows(q: &Facts, k: &Facts) -> Option<[Dim; 2]> {
    let of = |x: &Facts| x.dims()?.iter().rev().nth(1).cloned();
    Some([of(q)?, of(k)?])
}

/// `causal_mask(?m, ?q, ?k)`: adds 0 where key `j` is at most `i + t - s` for query `i`, else minus infinity.
fn causal_mask(x: &[&Facts]) -> bool {
    let [m, q, k] = x else { return false };
    let fits = |dims: &[Dim]| n_rows(q, k).is_some_and(|n| dims.ends_with(&n));
    m.is_causal && m.dims().is_some_and(fits)
}

/// `all_see(?q, ?k)`: no more queries than keys, so that each query sees a key that is no later.
fn all_see(x: &[&Facts]) -> bool {
    let [q, k] = x else { return false };
    n_rows(q, k).is_some_and(|[queries, keys]| (keys - queries).is_not_negative())
}

/// `causal_positions(?extents, ?b, ?a, ?q, ?k)`: of extents for as many queries as keys, `?b` is the axis of the keys,
/// `?a` that of the queries.
fn causal_positions(x: &[&Facts]) -> bool {
    let [s, b, a, q, k] = x else { return false };
    let (Some(s), Some(b), Some(a)) = (extents(s), arg::<usize>(b), arg::<usize>(a)) else { return false };
    a + 1 == b && b + 1 == s.len() && n_rows(q, k).is_some_and(|n| n[0] == n[1] && s.ends_with(&n))
}

/// `causal_ranges(?s, ?t, ?q, ?k)`: the extents `[n]` and `[n, 1]` for `n` queries and as many keys.
fn causal_ranges(x: &[&Facts]) -> bool {
    let [s, t, q, k] = x else { return false };
    let (Some(s), Some(t), Some([n, m])) = (extents(s), extents(t), n_rows(q, k)) else { return false };
    n == m && s == [n.clone()] && t == [n, 1.into()]
}

/// `copies_heads(?k, ?s, ?t, ?u)`: `?k[.., g, t, d]` through the extents `[.., g, 1, t, d]`, `[.., g, r, t, d]` and
/// `[.., g*r, t, d]`: each of the `g` heads `r` times.
fn copies_heads(x: &[&Facts]) -> bool {
    let [k, s, t, u] = x else { return false };
    let (Some(k), Some(s), Some(t), Some(u)) = (extents(k), extents(s), extents(t), extents(u)) else {
        return false;
    };
    let Some(at) = k.len().checked_sub(2).filter(|&at| at > 0 && t.len() == k.len() + 1) else {
        return false;
    };
    let with = |n: Dim| [&k[..at], &[n], &k[at..]].concat();
    let merged = [&k[..at - 1], &[k[at - 1].clone() * t[at].clone()], &k[at..]].concat();
    s == with(1.into()) && t == with(t[at].clone()) && u == merged
}

/// Whether two slices of `x` with the sizes `n` are its first and its second part along the last axis, of which each
/// takes every `step`th element.
fn parts(x: &Facts, [first, second, n]: [&Facts; 3], begin: impl Fn(i64) -> i64) -> bool {
    let lists =
        || Some((x.dims()?.to_vec(), arg::<Vec<Dim>>(first)?, arg::<Vec<Dim>>(second)?, arg::<Vec<Dim>>(n)?));
    let Some((mut dims, first, mut second, n)) = lists() else { return false };
    let Some(half) = dims.last().and_then(Dim::as_const).filter(|d| d % 2 == 0).map(|d| d / 2) else {
        return false;
    };
    let last = dims.len() - 1;
    dims[last] = half.into();
    let starts = second.len() == dims.len() && std::mem::take(&mut second[last]).is(begin(half));
    let is_zero = |l: &[Dim]| l.iter().all(|d| d.is(0));
    starts && n == dims && is_zero(&first) && is_zero(&second)
}

/// `halves(?x, ?u, ?s, ?n, ?t, ?axis)`: slices of sizes `?n` at `?u` and `?s` are the halves along the last axis.
fn halves(x: &[&Facts]) -> bool {
    let [x, u, s, n, t, axis] = x else { return false };
    ones(&[t]) && last(&[axis, x]) && parts(x, [u, s, n], |half| half)
}

/// `neighbours(?x, ?u, ?s, ?n, ?t)`: slices of sizes `?n` at `?u` and `?s` are the even and the odd elements along the
/// last axis.
fn neighbours(x: &[&Facts]) -> bool {
    let [x, u, s, n, t] = x else { return false };
    let steps =
        |t: Vec<i64>| t.split_last().is_some_and(|(last, rest)| *last == 2 && rest.iter().all(|&t| t == 1));
    arg(t).is_some_and(steps) && parts(x, [u, s, n], |_| 1)
}

/// `stacks(?r, ?n, ?axis)`: the extents `?r` are `?n` and a 1, and the axis is that of the 1.
fn stacks(x: &[&Facts]) -> bool {
    let [r, n, axis] = x else { return false };
    let (Some(r), Some(n), Some(axis)) = (extents(r), extents(n), arg::<usize>(axis)) else { return false };
    r.split_last().is_some_and(|(one, rest)| one.is(1) && rest == n) && axis == n.len()
}

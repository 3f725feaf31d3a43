//! Simplifies index expressions by what is known of the variables in them.
//!
//! Chains of reshapes and slices, composed, give divisions of sums such as `(64*i + j) / 64`. With `0 <= j < 64` that
//! is `i`. The value is the same wherever every variable is within its range; conditions whose outcome is proved
//! become constants.

use crate::bounds::Bounds;
use crate::compute::{Compute, Expr, Stage};
use crate::dim::{Atom, Dim, Range, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarFn};
use std::collections::BTreeSet;

impl Bounds {
    /// An expression of the same value, with divisions, remainders, minima and maxima resolved where that is proved.
    #[must_use]
    pub fn simplify(&self, e: &Dim) -> Dim {
        if e.is_polynomial() && e.symbols().iter().all(|s| self.only_value(s).is_none()) {
            return e.clone();
        }
        let mut sum = Dim::from(e.constant());
        for (coeff, factors) in e.terms() {
            let product = factors.iter().fold(Dim::from(coeff), |product, a| product * self.simplify_atom(a));
            sum = sum + product;
        }
        sum.join_div_mod()
    }

    fn simplify_atom(&self, a: &Atom) -> Dim {
        match a {
            Atom::Sym(s) => self.only_value(s).map_or_else(|| Dim::sym(s), Dim::from),
            Atom::FloorDiv(a, b) => self.quotient(&self.simplify(a), &self.simplify(b)),
            Atom::Mod(a, b) => self.remainder(&self.simplify(a), &self.simplify(b)),
            Atom::Min(a, b) => {
                let (a, b) = (self.simplify(a), self.simplify(b));
                self.smaller(&a, &b).unwrap_or_else(|| a.minimum(&b))
            }
            Atom::Max(a, b) => {
                let (a, b) = (self.simplify(a), self.simplify(b));
                let larger = self.smaller(&-a.clone(), &-b.clone()).map(|d| -d);
                larger.unwrap_or_else(|| a.maximum(&b))
            }
        }
    }

    /// The value of a variable that has but one.
    fn only_value(&self, s: &Sym) -> Option<i64> {
        let range = self.range(&Dim::sym(s));
        (range.lo == range.hi).then_some(range.lo)
    }

    fn smaller(&self, a: &Dim, b: &Dim) -> Option<Dim> {
        if self.is_nonnegative(&(b.clone() - a.clone())) {
            Some(a.clone())
        } else {
            self.is_nonnegative(&(a.clone() - b.clone())).then(|| b.clone())
        }
    }

    /// `floor(a / b)`
    fn quotient(&self, a: &Dim, b: &Dim) -> Dim {
        let (q, r) = a.split_multiple(b);
        if self.is_within(&r, b) {
            return q;
        }
        // floor((g * x + r) / (g * y)) = floor(x / y) for 0 <= r < g
        if let Some((x, _, y)) = self.common_factor(&r, b) {
            return q + self.quotient(&x, &y);
        }
        // floor(floor(x / y) / b) = floor(x / (y * b)) for positive divisors
        if let Some((Atom::FloorDiv(x, y), b)) = lone_atom(&r).zip(positive(b))
            && let Some(product) = positive(y).and_then(|y| y.checked_mul(b))
        {
            return q + self.quotient(x, &product.into());
        }
        q + r.floor_div(b)
    }

    /// `a` modulo `b`
    fn remainder(&self, a: &Dim, b: &Dim) -> Dim {
        let (_, r) = a.split_multiple(b);
        if self.is_within(&r, b) {
            return r;
        }
        // (g * x + r) mod (g * y) = g * (x mod y) + r for 0 <= r < g
        if let Some((x, rest, y)) = self.common_factor(&r, b) {
            let (Some(b), Some(y)) = (positive(b), positive(&y)) else { return r.modulo(b) };
            return self.remainder(&x, &y.into()) * (b / y).into() + rest;
        }
        // (x mod y) mod b = x mod b where b divides y
        if let Some((Atom::Mod(x, y), b)) = lone_atom(&r).zip(positive(b))
            && positive(y).is_some_and(|y| y % b == 0)
        {
            return self.remainder(x, &b.into());
        }
        r.modulo(b)
    }

    /// `a = g * x + r` and `b = g * y` with `0 <= r < g` for some `g > 1`: `x`, `r` and `y`.
    fn common_factor(&self, a: &Dim, b: &Dim) -> Option<(Dim, Dim, Dim)> {
        let b = positive(b)?;
        let factors: BTreeSet<i64> = a.terms().map(|(c, _)| gcd(c, b)).filter(|g| *g > 1).collect();
        factors.into_iter().rev().find_map(|g| {
            let (x, r) = a.split_multiple(&g.into());
            self.is_within(&r, &g.into()).then(|| (x, r, (b / g).into()))
        })
    }
}

fn positive(d: &Dim) -> Option<i64> {
    d.as_const().filter(|d| *d > 0)
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b > 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(1)
}

/// The only factor of an expression that is nothing else.
fn lone_atom(d: &Dim) -> Option<&Atom> {
    let mut terms = d.terms();
    match (terms.next(), terms.next(), d.constant()) {
        (Some((1, [atom])), None, 0) => Some(atom),
        _ => None,
    }
}

impl Dim {
    /// Whether it has no functions but sums and products.
    fn is_polynomial(&self) -> bool {
        self.terms().all(|(_, factors)| factors.iter().all(|a| matches!(a, Atom::Sym(_))))
    }
}

/// What is known of a stage's variables: axes are within their extents, all other symbols are dims.
fn bounds(s: &Stage) -> Bounds {
    let mut b = Bounds::new();
    let axes: Vec<_> = s.axes.iter().chain(s.reduction.iter().flat_map(|r| &r.axes)).collect();
    let mut symbols: BTreeSet<Sym> = axes.iter().flat_map(|a| a.extent.symbols()).collect();
    s.value.visit(&mut |e| {
        if let Expr::Index(d) = e {
            symbols.extend(d.symbols());
        }
    });
    for s in symbols.iter().filter(|s| !axes.iter().any(|a| a.var == **s)) {
        b.symbol(s, Range::DIM);
    }
    for a in axes {
        b.loop_var(&a.var, &0.into(), &a.extent);
    }
    b
}

/// A stage of the same elements, with index expressions simplified, and conditions and conversions that are decided
/// replaced by their values.
#[must_use]
pub fn stage(s: &Stage) -> Stage {
    Stage { value: expr(&s.value, &bounds(s)), ..s.clone() }
}

/// The same for every stage.
#[must_use]
pub fn compute(c: &Compute) -> Compute {
    Compute { stages: c.stages.iter().map(stage).collect(), ..c.clone() }
}

fn expr(e: &Expr, b: &Bounds) -> Expr {
    let all = |es: &[Expr]| -> Vec<Expr> { es.iter().map(|e| expr(e, b)).collect() };
    match e {
        Expr::Const(..) => e.clone(),
        // An index that is an axis says more than the 0 that it may be known to be.
        Expr::Index(d) if d.as_sym().is_some() => e.clone(),
        Expr::Index(d) => Expr::Index(b.simplify(d)),
        Expr::Load(s, at) => Expr::Load(*s, all(at)),
        Expr::Call(f, args) => call(*f, all(args), b),
        Expr::Cast(to, e) => match expr(e, b) {
            Expr::Const(_, x) => Expr::Const(*to, x.cast(*to)),
            Expr::Index(d) => match d.as_const() {
                Some(n) => Expr::Const(*to, Scalar::I(n).cast(*to)),
                None => Expr::Cast(*to, Expr::Index(d).into()),
            },
            e => Expr::Cast(*to, e.into()),
        },
    }
}

fn call(f: ScalarFn, args: Vec<Expr>, b: &Bounds) -> Expr {
    let truth = |e: &Expr| match e {
        Expr::Const(DType::Bool, x) => Some(x.as_bool()),
        _ => None,
    };
    match (f, &args[..]) {
        (ScalarFn::Select, [c, x, y]) => match truth(c) {
            Some(true) => return x.clone(),
            Some(false) => return y.clone(),
            None => {}
        },
        (ScalarFn::And | ScalarFn::Or, [x, y]) => {
            let neutral = f == ScalarFn::And;
            for (known, other) in [(x, y), (y, x)] {
                match truth(known) {
                    Some(t) if t == neutral => return other.clone(),
                    Some(_) => return known.clone(),
                    None => {}
                }
            }
        }
        (_, [Expr::Index(x), Expr::Index(y)]) => {
            if let Some(t) = outcome(f, x, y, b) {
                return Expr::Const(DType::Bool, Scalar::B(t));
            }
        }
        _ => {}
    }
    Expr::Call(f, args)
}

/// What a comparison of index expressions gives, if that is proved.
fn outcome(f: ScalarFn, x: &Dim, y: &Dim, b: &Bounds) -> Option<bool> {
    let decided =
        |holds: bool, fails: &dyn Fn() -> bool| if holds { Some(true) } else { fails().then_some(false) };
    let below = |x: &Dim, y: &Dim| decided(b.is_below(x, y), &|| b.is_nonnegative(&(x.clone() - y.clone())));
    match f {
        ScalarFn::Lt => below(x, y),
        ScalarFn::Gt => below(y, x),
        ScalarFn::Ge => below(x, y).map(|t| !t),
        ScalarFn::Le => below(y, x).map(|t| !t),
        ScalarFn::Eq => decided(x == y, &|| b.is_below(x, y) || b.is_below(y, x)),
        ScalarFn::Ne => outcome(ScalarFn::Eq, x, y, b).map(|t| !t),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Rng;
    use crate::text::parse_dim;

    fn d(text: &str) -> Dim {
        parse_dim(text).unwrap()
    }

    fn within(loops: &[(&str, &str)]) -> Bounds {
        let mut b = Bounds::new();
        b.symbol(&Sym::new("n"), Range::DIM);
        for (var, extent) in loops {
            b.loop_var(&Sym::new(var), &0.into(), &d(extent));
        }
        b
    }

    #[test]
    fn reshapes() {
        let b = within(&[("i", "128"), ("h", "12"), ("j", "64"), ("m", "n"), ("o", "1")]);
        for (e, expected) in [
            ("floordiv(64*i+j,64)", "i"),
            ("mod(64*i+j,64)", "j"),
            ("floordiv(768*i+64*h+j,768)", "i"),
            ("mod(768*i+64*h+j,768)", "64*h+j"),
            ("floordiv(mod(768*i+64*h+j,768),64)", "h"),
            ("floordiv(64*i+j,128)", "floordiv(i,2)"),
            ("mod(64*i+j,128)", "64*mod(i,2)+j"),
            ("64*floordiv(i,64)+mod(i,64)", "i"),
            ("floordiv(floordiv(i,4),8)", "floordiv(i,32)"),
            ("mod(mod(i,32),8)", "mod(i,8)"),
            ("floordiv(n*i+m,n)", "i"),
            ("mod(n*i+m,n)", "m"),
            ("floordiv(i+h,64)", "floordiv(i+h,64)"),
            ("min(h,11)", "h"),
            ("max(m,0)", "m"),
            ("min(i,h)", "min(i,h)"),
            ("floordiv(12*o+h,12)", "0"),
            ("12*o+h", "h"),
        ] {
            assert_eq!(b.simplify(&d(e)), d(expected), "{e}");
        }
    }

    /// Random expressions in random loops have the same value in every iteration.
    #[test]
    fn values_are_kept() {
        let mut n_simplified = 0;
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let extents: Vec<(Sym, i64)> =
                ["i", "j", "k"].iter().map(|s| (Sym::new(s), rng.pick(&[1, 2, 3, 4, 6, 8, 12]))).collect();
            let mut b = Bounds::new();
            extents.iter().for_each(|(s, n)| b.loop_var(s, &0.into(), &(*n).into()));
            let e = random(&mut rng, 3);
            let simple = b.simplify(&e);
            n_simplified += usize::from(simple != e);
            for p in 0..extents.iter().map(|(_, n)| n).product() {
                let mut rest = p;
                let mut point: Vec<(&Sym, i64)> = Vec::new();
                for (s, n) in &extents {
                    point.push((s, rest % n));
                    rest /= n;
                }
                let value = |e: &Dim| e.eval(&|s| point.iter().find(|(v, _)| *v == s).map(|(_, x)| *x));
                let expected = value(&e);
                assert!(
                    expected.is_none() || value(&simple) == expected,
                    "{e} became {simple}, at {point:?}"
                );
            }
        }
        assert!(n_simplified > 2000, "{n_simplified}");
    }

    fn random(rng: &mut Rng, depth: usize) -> Dim {
        if depth == 0 || rng.one_in(5) {
            return Dim::named(rng.pick(&["i", "j", "k"]));
        }
        let factor = Dim::from(rng.pick(&[-4, -1, 2, 3, 4, 6, 8, 12, 24]));
        let a = random(rng, depth - 1);
        match rng.below(7) {
            0 | 1 => a * factor + random(rng, depth - 1),
            2 | 3 => a.floor_div(&factor),
            4 | 5 => a.modulo(&factor),
            _ => match rng.one_in(2) {
                true => a.minimum(&random(rng, depth - 1)),
                false => a.maximum(&random(rng, depth - 1)),
            },
        }
    }
}

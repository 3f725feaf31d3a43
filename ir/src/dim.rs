//! The index algebra: integer expressions over named symbols.
//!
//! One type serves tensor shapes, loop bounds, guards and addresses. A [`Dim`] is a polynomial in normal form
//! (sorted monomials with non-zero integer coefficients) over [`Atom`]s: symbols and the non-polynomial functions
//! floor division, modulo, minimum and maximum. Equal normal forms are equal expressions, so `==` proves equality
//! (not the reverse). Arithmetic on constants saturates: no input makes it panic.

mod divisor;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A named integer: a dimension such as `batch`, or a loop variable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sym(Arc<str>);

impl Sym {
    /// The symbol with this name.
    pub fn new(name: &str) -> Sym {
        Sym(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Prints the name, between single quotes where it is no identifier.
impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", crate::text::Name(&self.0, '\''))
    }
}

impl fmt::Debug for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A factor of a monomial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    /// A symbol.
    Sym(Sym),
    /// `floor(a / b)`; rounds towards minus infinity.
    FloorDiv(Arc<Dim>, Arc<Dim>),
    /// `a - b * floor(a / b)`; has the sign of `b`.
    Mod(Arc<Dim>, Arc<Dim>),
    /// The smaller one.
    Min(Arc<Dim>, Arc<Dim>),
    /// The larger one.
    Max(Arc<Dim>, Arc<Dim>),
}

/// An integer expression; see the module's text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dim {
    /// Monomials sorted by their factors; no coefficient is zero.
    terms: Vec<Term>,
    constant: i64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    /// Sorted, not empty.
    factors: Vec<Atom>,
    coeff: i64,
}

/// How many monomials the quotient of a long division may have.
const MAX_DIVISION_STEPS: usize = 16;

/// A closed interval of integers; `i64::MIN` and `i64::MAX` stand for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least value.
    pub lo: i64,
    /// The greatest value.
    pub hi: i64,
}

impl Range {
    /// No bound at all.
    pub const ALL: Range = Range { lo: i64::MIN, hi: i64::MAX };

    /// What a tensor dimension can be.
    pub const DIM: Range = Range { lo: 0, hi: i64::MAX };

    /// From `lo` to `hi`, both included.
    pub fn new(lo: i64, hi: i64) -> Range {
        Range { lo, hi }
    }

    fn add(self, o: Range) -> Range {
        let end = |a: i64, b: i64, none: i64| if a == none || b == none { none } else { a.saturating_add(b) };
        Range { lo: end(self.lo, o.lo, i64::MIN), hi: end(self.hi, o.hi, i64::MAX) }
    }

    fn mul(self, o: Range) -> Range {
        let products = [(self.lo, o.lo), (self.lo, o.hi), (self.hi, o.lo), (self.hi, o.hi)]
            .map(|(a, b)| a as i128 * b as i128);
        let clamp = |x: i128| x.clamp(i64::MIN as i128, i64::MAX as i128) as i64;
        let lo = products.iter().copied().min().map_or(i64::MIN, clamp);
        let hi = products.iter().copied().max().map_or(i64::MAX, clamp);
        Range { lo, hi }
    }
}

impl Dim {
    /// The expression that is one symbol.
    pub fn sym(s: &Sym) -> Dim {
        Dim::atom(Atom::Sym(s.clone()))
    }

    /// The expression that is one symbol, by name.
    pub fn named(name: &str) -> Dim {
        Dim::sym(&Sym::new(name))
    }

    pub(crate) fn atom(a: Atom) -> Dim {
        Dim { terms: vec![Term { factors: vec![a], coeff: 1 }], constant: 0 }
    }

    /// The value, if it is a constant.
    pub fn as_const(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The symbol, if it is nothing but one.
    pub fn as_sym(&self) -> Option<&Sym> {
        match (&self.terms[..], self.constant) {
            ([Term { factors, coeff: 1 }], 0) => match &factors[..] {
                [Atom::Sym(s)] => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is the given constant.
    pub fn is(&self, value: i64) -> bool {
        self.as_const() == Some(value)
    }

    /// The part that is a plain number.
    pub fn constant(&self) -> i64 {
        self.constant
    }

    /// The monomials: coefficient and factors.
    pub fn terms(&self) -> impl Iterator<Item = (i64, &[Atom])> {
        self.terms.iter().map(|t| (t.coeff, &t.factors[..]))
    }

    fn from_terms(mut terms: Vec<Term>, constant: i64) -> Dim {
        terms.sort_by(|a, b| a.factors.cmp(&b.factors));
        let mut merged: Vec<Term> = Vec::with_capacity(terms.len());
        for t in terms {
            match merged.last_mut() {
                Some(last) if last.factors == t.factors => last.coeff = last.coeff.saturating_add(t.coeff),
                _ => merged.push(t),
            }
        }
        merged.retain(|t| t.coeff != 0);
        Dim { terms: merged, constant }
    }

    /// `floor(self / by)`. Division by the constant zero is kept as it is and fails when evaluated.
    #[must_use]
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if by.is(1) {
            return self.clone();
        }
        if let (Some(a), Some(b)) = (self.as_const(), by.as_const())
            && b != 0
        {
            return floor_div(a, b).into();
        }
        let (quotient, rest) = self.split_multiple(by);
        if rest.is(0) && !by.is(0) {
            return quotient;
        }
        if let (Some(c), Some(r)) = (by.as_const(), rest.as_const())
            && c > 0
            && (0..c).contains(&r)
        {
            return quotient;
        }
        if by.as_const().is_some_and(|c| c > 0) {
            return quotient + Dim::atom(Atom::FloorDiv(rest.into(), by.clone().into()));
        }
        Dim::atom(Atom::FloorDiv(self.clone().into(), by.clone().into()))
    }

    /// `ceil(self / by)` for a positive `by`.
    #[must_use]
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        (self.clone() + by.clone() - Dim::from(1)).floor_div(by)
    }

    /// `self` modulo `by`, with the sign of `by`.
    #[must_use]
    pub fn modulo(&self, by: &Dim) -> Dim {
        if by.is(1) {
            return 0.into();
        }
        if let (Some(a), Some(b)) = (self.as_const(), by.as_const())
            && b != 0
        {
            return a.wrapping_sub(floor_div(a, b).wrapping_mul(b)).into();
        }
        let (_, rest) = self.split_multiple(by);
        if rest.is(0) && !by.is(0) {
            return rest;
        }
        if let (Some(c), Some(r)) = (by.as_const(), rest.as_const())
            && c > 0
            && (0..c).contains(&r)
        {
            return rest;
        }
        let a = if by.as_const().is_some_and(|c| c > 0) { rest } else { self.clone() };
        Dim::atom(Atom::Mod(a.into(), by.clone().into()))
    }

    /// The smaller of the two.
    #[must_use]
    pub fn minimum(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) => {
                if d <= 0 {
                    self.clone()
                } else {
                    other.clone()
                }
            }
            None => {
                let (a, b) = if self <= other { (self, other) } else { (other, self) };
                Dim::atom(Atom::Min(a.clone().into(), b.clone().into()))
            }
        }
    }

    /// The larger of the two.
    #[must_use]
    pub fn maximum(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) => {
                if d >= 0 {
                    self.clone()
                } else {
                    other.clone()
                }
            }
            None => {
                let (a, b) = if self <= other { (self, other) } else { (other, self) };
                Dim::atom(Atom::Max(a.clone().into(), b.clone().into()))
            }
        }
    }

    /// `self = quotient * by + rest`, with as much as is visibly a multiple of `by` in the quotient.
    pub(crate) fn split_multiple(&self, by: &Dim) -> (Dim, Dim) {
        if let Some(c) = by.as_const() {
            if c == 0 {
                return (0.into(), self.clone());
            }
            let (divisible, rest): (Vec<Term>, Vec<Term>) =
                self.terms.iter().cloned().partition(|t| t.coeff.wrapping_rem(c) == 0);
            let quotient =
                divisible.into_iter().map(|t| Term { coeff: t.coeff.wrapping_div(c), ..t }).collect();
            let q0 = floor_div(self.constant, c);
            let r0 = self.constant.wrapping_sub(q0.wrapping_mul(c));
            return (Dim { terms: quotient, constant: q0 }, Dim { terms: rest, constant: r0 });
        }
        if let [m] = &by.terms[..]
            && by.constant == 0
        {
            let (mut quotient, mut rest) = (Vec::new(), Vec::new());
            let mut q0 = 0i64;
            for t in &self.terms {
                match divide_factors(&t.factors, &m.factors) {
                    Some(factors) if t.coeff.wrapping_rem(m.coeff) == 0 && factors.is_empty() => {
                        q0 = q0.saturating_add(t.coeff.wrapping_div(m.coeff))
                    }
                    Some(factors) if t.coeff.wrapping_rem(m.coeff) == 0 => {
                        quotient.push(Term { factors, coeff: t.coeff.wrapping_div(m.coeff) })
                    }
                    _ => rest.push(t.clone()),
                }
            }
            return (Dim::from_terms(quotient, q0), Dim { terms: rest, constant: self.constant });
        }
        self.divide_polynomial(by).unwrap_or_else(|| (0.into(), self.clone()))
    }

    /// Long division by a sum: quotient and rest, if the rest has fewer monomials than `self`.
    fn divide_polynomial(&self, by: &Dim) -> Option<(Dim, Dim)> {
        let lead = by.terms.iter().max_by_key(|t| t.factors.len())?;
        let (mut quotient, mut rest) = (Dim::from(0), self.clone());
        for _ in 0..MAX_DIVISION_STEPS {
            let next = rest.terms.iter().find_map(|t| {
                let factors = divide_factors(&t.factors, &lead.factors)?;
                let coeff =
                    (t.coeff.wrapping_rem(lead.coeff) == 0).then(|| t.coeff.wrapping_div(lead.coeff))?;
                Some(match factors.is_empty() {
                    true => Dim::from(coeff),
                    false => Dim { terms: vec![Term { factors, coeff }], constant: 0 },
                })
            });
            let Some(next) = next else {
                return (rest.terms.len() < self.terms.len()).then_some((quotient, rest));
            };
            rest = rest - next.clone() * by.clone();
            quotient = quotient + next;
        }
        None
    }

    /// Replaces symbols by expressions, and simplifies again.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Dim {
        if self.terms.is_empty() {
            return self.clone();
        }
        let mut sum: Dim = self.constant.into();
        for t in &self.terms {
            let mut product: Dim = t.coeff.into();
            for a in &t.factors {
                product = product * subst_atom(a, f);
            }
            sum = sum + product;
        }
        sum
    }

    /// Replaces one symbol.
    #[must_use]
    pub fn replace(&self, s: &Sym, by: &Dim) -> Dim {
        self.subst(&|x| (x == s).then(|| by.clone()))
    }

    /// The value under an assignment of the symbols; `None` where a symbol is unknown or a divisor is zero.
    pub fn eval(&self, env: &dyn Fn(&Sym) -> Option<i64>) -> Option<i64> {
        let mut sum = self.constant;
        for t in &self.terms {
            let mut product = t.coeff;
            for a in &t.factors {
                product = product.saturating_mul(eval_atom(a, env)?);
            }
            sum = sum.saturating_add(product);
        }
        Some(sum)
    }

    /// Every symbol in it, sorted.
    pub fn symbols(&self) -> BTreeSet<Sym> {
        let mut out = BTreeSet::new();
        self.visit_symbols(&mut |s| {
            out.insert(s.clone());
        });
        out
    }

    /// Whether the symbol occurs in it.
    pub fn mentions(&self, s: &Sym) -> bool {
        let mut found = false;
        self.visit_symbols(&mut |x| found |= x == s);
        found
    }

    fn visit_symbols(&self, f: &mut dyn FnMut(&Sym)) {
        for a in self.terms.iter().flat_map(|t| &t.factors) {
            match a {
                Atom::Sym(s) => f(s),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    a.visit_symbols(f);
                    b.visit_symbols(f);
                }
            }
        }
    }

    /// `self = coeff * s + rest` with neither part mentioning `s`; `None` where `self` isn't affine in `s`.
    pub fn affine_in(&self, s: &Sym) -> Option<(Dim, Dim)> {
        let (mut coeff, mut rest) = (Vec::new(), Vec::new());
        let mut c0 = 0i64;
        for t in &self.terms {
            match t.factors.iter().position(|a| matches!(a, Atom::Sym(x) if x == s)) {
                Some(at) => {
                    let mut factors = t.factors.clone();
                    factors.remove(at);
                    if factors.is_empty() {
                        c0 = c0.saturating_add(t.coeff);
                    } else {
                        coeff.push(Term { factors, coeff: t.coeff });
                    }
                }
                None => rest.push(t.clone()),
            }
        }
        let coeff = Dim::from_terms(coeff, c0);
        let rest = Dim { terms: rest, constant: self.constant };
        (!coeff.mentions(s) && !rest.mentions(s)).then_some((coeff, rest))
    }

    /// Every factor of a monomial, once.
    pub(crate) fn atoms(&self) -> BTreeSet<&Atom> {
        self.terms.iter().flat_map(|t| &t.factors).collect()
    }

    /// `self = coeff * atom + rest` with the atom a factor in neither part (it may occur within other atoms); `None`
    /// where it is squared.
    pub(crate) fn split_atom(&self, atom: &Atom) -> Option<(Dim, Dim)> {
        let (mut coeff, mut rest, mut c0) = (Vec::new(), Vec::new(), 0i64);
        for t in &self.terms {
            let Some(at) = t.factors.iter().position(|a| a == atom) else {
                rest.push(t.clone());
                continue;
            };
            let mut factors = t.factors.clone();
            factors.remove(at);
            match factors.contains(atom) {
                true => return None,
                false if factors.is_empty() => c0 = c0.saturating_add(t.coeff),
                false => coeff.push(Term { factors, coeff: t.coeff }),
            }
        }
        Some((Dim::from_terms(coeff, c0), Dim { terms: rest, constant: self.constant }))
    }

    /// The same value with `b * floordiv(a, b) + mod(a, b)` written as `a` wherever both parts are there.
    #[must_use]
    pub fn join_div_mod(&self) -> Dim {
        let mut out = self.clone();
        while let Some(next) = out.join_one() {
            out = next;
        }
        out
    }

    fn join_one(&self) -> Option<Dim> {
        self.atoms().into_iter().find_map(|m| {
            let Atom::Mod(a, b) = m else { return None };
            let quotient = Atom::FloorDiv(a.clone(), b.clone());
            let (c, rest) = self.split_atom(m)?;
            let (d, rest) = rest.split_atom(&quotient)?;
            let left = d.clone() - c.clone() * (**b).clone();
            let size = |d: &Dim| d.terms.len() + usize::from(d.constant != 0);
            (size(&left) < size(&d)).then(|| c * (**a).clone() + left * Dim::atom(quotient) + rest)
        })
    }

    /// Whether it can't be below 0 where no symbol is.
    pub fn is_not_negative(&self) -> bool {
        self.range(&|_| Range::DIM).lo >= 0
    }

    /// An interval that holds every value, given one for every symbol.
    pub fn range(&self, of: &dyn Fn(&Sym) -> Range) -> Range {
        let mut sum = Range::new(self.constant, self.constant);
        for t in &self.terms {
            let mut product = Range::new(t.coeff, t.coeff);
            for a in &t.factors {
                product = product.mul(range_atom(a, of));
            }
            sum = sum.add(product);
        }
        sum
    }
}

fn divide_factors(of: &[Atom], by: &[Atom]) -> Option<Vec<Atom>> {
    let mut rest = of.to_vec();
    for a in by {
        let at = rest.iter().position(|b| b == a)?;
        rest.remove(at);
    }
    Some(rest)
}

/// `floor(a / b)` for `b != 0`; the one overflow (`i64::MIN / -1`) wraps.
pub fn floor_div(a: i64, b: i64) -> i64 {
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && ((a < 0) != (b < 0)) { q - 1 } else { q }
}

fn subst_atom(a: &Atom, f: &dyn Fn(&Sym) -> Option<Dim>) -> Dim {
    match a {
        Atom::Sym(s) => f(s).unwrap_or_else(|| Dim::sym(s)),
        Atom::FloorDiv(a, b) => a.subst(f).floor_div(&b.subst(f)),
        Atom::Mod(a, b) => a.subst(f).modulo(&b.subst(f)),
        Atom::Min(a, b) => a.subst(f).minimum(&b.subst(f)),
        Atom::Max(a, b) => a.subst(f).maximum(&b.subst(f)),
    }
}

fn eval_atom(a: &Atom, env: &dyn Fn(&Sym) -> Option<i64>) -> Option<i64> {
    let both = |a: &Dim, b: &Dim| Some((a.eval(env)?, b.eval(env)?));
    match a {
        Atom::Sym(s) => env(s),
        Atom::FloorDiv(a, b) => both(a, b).filter(|(_, b)| *b != 0).map(|(a, b)| floor_div(a, b)),
        Atom::Mod(a, b) => {
            both(a, b).filter(|(_, b)| *b != 0).map(|(a, b)| a.wrapping_sub(floor_div(a, b).wrapping_mul(b)))
        }
        Atom::Min(a, b) => both(a, b).map(|(a, b)| a.min(b)),
        Atom::Max(a, b) => both(a, b).map(|(a, b)| a.max(b)),
    }
}

fn range_atom(a: &Atom, of: &dyn Fn(&Sym) -> Range) -> Range {
    match a {
        Atom::Sym(s) => of(s),
        Atom::FloorDiv(a, b) => {
            let (a, b) = (a.range(of), b.range(of));
            if b.lo <= 0 {
                return Range::ALL;
            }
            let end = |x: i64, none: i64, small: i64, large: i64| {
                if x == none {
                    none
                } else if x >= 0 {
                    floor_div(x, small)
                } else {
                    floor_div(x, large)
                }
            };
            Range::new(end(a.lo, i64::MIN, b.hi, b.lo), end(a.hi, i64::MAX, b.lo, b.hi))
        }
        Atom::Mod(a, b) => {
            let (a, b) = (a.range(of), b.range(of));
            match b.lo > 0 {
                true if a.lo >= 0 => Range::new(0, a.hi.min(b.hi.saturating_sub(1))),
                true => Range::new(0, if b.hi == i64::MAX { i64::MAX } else { b.hi - 1 }),
                false => Range::ALL,
            }
        }
        Atom::Min(a, b) => {
            let (a, b) = (a.range(of), b.range(of));
            Range::new(a.lo.min(b.lo), a.hi.min(b.hi))
        }
        Atom::Max(a, b) => {
            let (a, b) = (a.range(of), b.range(of));
            Range::new(a.lo.max(b.lo), a.hi.max(b.hi))
        }
    }
}

impl From<i64> for Dim {
    fn from(constant: i64) -> Dim {
        Dim { terms: Vec::new(), constant }
    }
}

impl From<i32> for Dim {
    fn from(constant: i32) -> Dim {
        Dim::from(i64::from(constant))
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::from(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl std::ops::Add for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        let constant = self.constant.saturating_add(other.constant);
        if other.terms.is_empty() {
            return Dim { constant, ..self };
        }
        Dim::from_terms([self.terms, other.terms].concat(), constant)
    }
}

impl std::ops::Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self * Dim::from(-1)
    }
}

impl std::ops::Sub for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        self + -other
    }
}

impl std::ops::Mul for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        if other.is(1) {
            return self;
        }
        let mut terms = Vec::new();
        for t in &self.terms {
            for u in &other.terms {
                let mut factors = [&t.factors[..], &u.factors[..]].concat();
                factors.sort();
                terms.push(Term { factors, coeff: t.coeff.saturating_mul(u.coeff) });
            }
            if other.constant != 0 {
                terms
                    .push(Term { factors: t.factors.clone(), coeff: t.coeff.saturating_mul(other.constant) });
            }
        }
        if self.constant != 0 {
            terms.extend(
                other.terms.iter().map(|u| Term {
                    factors: u.factors.clone(),
                    coeff: u.coeff.saturating_mul(self.constant),
                }),
            );
        }
        Dim::from_terms(terms, self.constant.saturating_mul(other.constant))
    }
}

impl<'a> std::iter::Product<&'a Dim> for Dim {
    fn product<I: Iterator<Item = &'a Dim>>(dims: I) -> Dim {
        dims.fold(1.into(), |a, d| a * d.clone())
    }
}

impl<'a> std::iter::Sum<&'a Dim> for Dim {
    fn sum<I: Iterator<Item = &'a Dim>>(dims: I) -> Dim {
        dims.fold(0.into(), |a, d| a + d.clone())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prints without spaces: `4*batch*seq+i-1`, `floordiv(i+3,2)`, `mod(i,4)`, `min(a,b)`. `text` parses it.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for t in &self.terms {
            let sign = match (t.coeff < 0, first) {
                (true, _) => "-",
                (false, true) => "",
                (false, false) => "+",
            };
            f.write_str(sign)?;
            first = false;
            let magnitude = t.coeff.unsigned_abs();
            if magnitude != 1 {
                write!(f, "{magnitude}*")?;
            }
            for (k, a) in t.factors.iter().enumerate() {
                if k > 0 {
                    f.write_str("*")?;
                }
                fmt_atom(a, f)?;
            }
        }
        match (first, self.constant.cmp(&0)) {
            (true, _) => write!(f, "{}", self.constant),
            (false, Ordering::Greater) => write!(f, "+{}", self.constant),
            (false, Ordering::Less) => write!(f, "{}", self.constant),
            (false, Ordering::Equal) => Ok(()),
        }
    }
}

fn fmt_atom(a: &Atom, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match a {
        Atom::Sym(s) => write!(f, "{s}"),
        Atom::FloorDiv(a, b) => write!(f, "floordiv({a},{b})"),
        Atom::Mod(a, b) => write!(f, "mod({a},{b})"),
        Atom::Min(a, b) => write!(f, "min({a},{b})"),
        Atom::Max(a, b) => write!(f, "max({a},{b})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_dim;
    use proptest::prelude::*;

    /// An expression before simplification.
    #[derive(Clone, Debug)]
    enum Tree {
        Const(i64),
        Sym(usize),
        Node(usize, Box<Tree>, Box<Tree>),
    }

    const NAMES: [&str; 4] = ["a", "b", "n", "'x y'"];

    fn sym(k: usize) -> Sym {
        Sym::new(NAMES[k].trim_matches('\''))
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![(-6i64..10).prop_map(Tree::Const), (0..NAMES.len()).prop_map(Tree::Sym)];
        leaf.prop_recursive(4, 24, 2, |inner| {
            (0usize..7, inner.clone(), inner).prop_map(|(f, a, b)| Tree::Node(f, a.into(), b.into()))
        })
    }

    impl Tree {
        fn dim(&self) -> Dim {
            match self {
                Tree::Const(c) => (*c).into(),
                Tree::Sym(k) => Dim::sym(&sym(*k)),
                Tree::Node(f, a, b) => {
                    let (a, b) = (a.dim(), b.dim());
                    match f {
                        0 => a + b,
                        1 => a - b,
                        2 => a * b,
                        3 => a.floor_div(&b),
                        4 => a.modulo(&b),
                        5 => a.minimum(&b),
                        _ => a.maximum(&b),
                    }
                }
            }
        }

        /// The value computed step by step; `None` where a divisor is zero.
        fn eval(&self, values: &[i64]) -> Option<i64> {
            Some(match self {
                Tree::Const(c) => *c,
                Tree::Sym(k) => values[*k],
                Tree::Node(f, a, b) => {
                    let (a, b) = (a.eval(values)?, b.eval(values)?);
                    match f {
                        0 => a + b,
                        1 => a - b,
                        2 => a * b,
                        3 if b == 0 => return None,
                        3 => (a as f64 / b as f64).floor() as i64,
                        4 if b == 0 => return None,
                        4 => a - b * (a as f64 / b as f64).floor() as i64,
                        5 => a.min(b),
                        _ => a.max(b),
                    }
                }
            })
        }
    }

    fn env(values: &[i64]) -> impl Fn(&Sym) -> Option<i64> + '_ {
        move |s| (0..NAMES.len()).find(|&k| sym(k) == *s).map(|k| values[k])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn simplified_equals_naive(t in tree(), values in proptest::array::uniform4(-9i64..10)) {
            // Simplification may drop a division by zero, never make one up.
            if let Some(expected) = t.eval(&values).filter(|v| v.abs() < 1 << 50) {
                prop_assert_eq!(t.dim().eval(&env(&values)), Some(expected), "{}", t.dim());
                prop_assert_eq!(t.dim().join_div_mod().eval(&env(&values)), Some(expected), "{}", t.dim());
            }
        }

        #[test]
        fn normal_form(t in tree(), u in tree()) {
            let (a, b) = (t.dim(), u.dim());
            prop_assert_eq!(a.clone() + b.clone(), b.clone() + a.clone());
            prop_assert_eq!(a.clone() * b.clone(), b.clone() * a.clone());
            prop_assert_eq!(a.minimum(&b), b.minimum(&a));
            prop_assert_eq!(a.maximum(&b), b.maximum(&a));
            prop_assert!((a.clone() - a.clone()).is(0));
            prop_assert_eq!(a.clone() + b.clone() - b.clone(), a.clone());
            prop_assert_eq!((a.clone() + 1.into()) * b.clone(), a.clone() * b.clone() + b.clone());
            prop_assert!(a.subst(&|_| None) == a);
        }

        #[test]
        fn text_reads_back(t in tree()) {
            let d = t.dim();
            prop_assert_eq!(parse_dim(&d.to_string()), Ok(d));
        }

        #[test]
        fn ranges_are_sound(t in tree(), lo in proptest::array::uniform4(-5i64..5), at in proptest::array::uniform4(0i64..4)) {
            let values: Vec<i64> = lo.iter().zip(at).map(|(l, a)| l + a).collect();
            let d = t.dim();
            let closed = d.range(&|s| (0..4).find(|&k| sym(k) == *s).map_or(Range::ALL, |k| Range::new(lo[k], lo[k] + 3)));
            let open = d.range(&|s| (0..4).find(|&k| sym(k) == *s).map_or(Range::ALL, |k| Range::new(lo[k], i64::MAX)));
            if let Some(v) = t.eval(&values) {
                prop_assert!((closed.lo..=closed.hi).contains(&v), "{v} of {d} is not in {closed:?}");
                prop_assert!((open.lo..=open.hi).contains(&v), "{v} of {d} is not in {open:?}");
            }
        }

        #[test]
        fn substitution_is_evaluation(t in tree(), values in proptest::array::uniform4(-9i64..10)) {
            let d = t.dim().subst(&|s| env(&values)(s).map(Dim::from));
            if let Some(expected) = t.eval(&values) {
                prop_assert_eq!(d.as_const(), Some(expected));
            }
        }

        #[test]
        fn extremes_do_not_panic(t in tree(), c in prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), Just(0)]) {
            let (d, c) = (t.dim(), Dim::from(c));
            for e in [d.clone() + c.clone(), d.clone() * c.clone(), d.floor_div(&c), d.modulo(&c), c.floor_div(&d), d.minimum(&c) - c.clone()] {
                e.range(&|_| Range::ALL);
                e.eval(&|_| Some(i64::MIN));
                prop_assert_eq!(e.join_div_mod().as_const().is_some(), e.as_const().is_some());
                prop_assert_eq!(parse_dim(&e.to_string()), Ok(e.clone()));
                let _ = (e.clone() * e).floor_div(&c);
            }
        }
    }
}

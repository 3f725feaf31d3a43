//! Proves that index expressions are never negative, from what is known of the variables in them.
//!
//! A [`Bounds`] holds variables from the outermost to the innermost: symbols with constant ranges, loop variables
//! between symbolic ends, values that are one of a few. To prove `e >= 0`, the innermost variable or function in `e`
//! is replaced by the end of its range that makes `e` least, which leaves an expression in what is further out, until
//! interval arithmetic decides. Functions are eliminated by the inequalities that define them. `true` is a proof;
//! `false` means that none was found.

use crate::dim::{Atom, Dim, Range, Sym};
use std::cell::Cell;

/// How many steps a proof may take.
const MAX_STEPS: u32 = 4000;
/// How many steps may depend on one another.
const MAX_DEPTH: u32 = 80;

/// What is known of variables; see the module's text.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    vars: Vec<Var>,
    /// Constant bounds that were learnt after a variable's declaration.
    refined: Vec<(Sym, Range)>,
    /// Expressions that are not negative.
    facts: Vec<Dim>,
}

#[derive(Clone, Debug)]
struct Var {
    sym: Sym,
    /// Holds every value.
    range: Range,
    known: Known,
}

#[derive(Clone, Debug)]
enum Known {
    /// Nothing but the range.
    Range,
    /// `begin <= s < end`
    Between(Dim, Dim),
    /// One of these.
    OneOf(Vec<Dim>),
}

/// What is left of the limits of a proof.
struct Fuel {
    steps: Cell<u32>,
    depth: Cell<u32>,
}

/// A point to return to when a scope ends.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize, usize, usize);

impl Bounds {
    /// Nothing is known.
    pub fn new() -> Bounds {
        Bounds::default()
    }

    /// The state now.
    pub fn mark(&self) -> Mark {
        Mark(self.vars.len(), self.refined.len(), self.facts.len())
    }

    /// Forgets everything that was declared or learnt since.
    pub fn reset(&mut self, to: Mark) {
        self.vars.truncate(to.0);
        self.refined.truncate(to.1);
        self.facts.truncate(to.2);
    }

    /// Declares a variable of constant range.
    pub fn symbol(&mut self, s: &Sym, range: Range) {
        self.vars.push(Var { sym: s.clone(), range, known: Known::Range });
    }

    /// Declares the variable of a loop from `begin` to before `end`. What follows is only asked about iterations, so
    /// there is one: `begin < end`.
    pub fn loop_var(&mut self, s: &Sym, begin: &Dim, end: &Dim) {
        self.assume(&(end.clone() - begin.clone() - Dim::from(1)));
        let (lo, hi) = (self.range(begin).lo, self.range(end).hi);
        let range = Range::new(lo, if hi == i64::MAX { hi } else { hi.saturating_sub(1) });
        let known = Known::Between(begin.clone(), end.clone());
        self.vars.push(Var { sym: s.clone(), range, known });
    }

    /// Declares a variable that is one of a few values.
    pub fn one_of(&mut self, s: &Sym, values: Vec<Dim>) {
        let ranges = values.iter().map(|v| self.range(v));
        let hull = ranges.reduce(|a, b| Range::new(a.lo.min(b.lo), a.hi.max(b.hi)));
        let range = hull.unwrap_or(Range::ALL);
        self.vars.push(Var { sym: s.clone(), range, known: Known::OneOf(values) });
    }

    /// Takes an expression to be not negative. Where it is, nothing happens, and anything can be proved about it.
    pub fn assume(&mut self, e: &Dim) {
        if self.range(e).lo < 0 {
            self.learn(e, 8);
            self.facts.push(e.clone());
        }
    }

    /// Tightens constant ranges by `e >= 0`.
    fn learn(&mut self, e: &Dim, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let k = e.constant();
        let mut terms = e.terms();
        match (terms.next(), terms.next()) {
            // c * a + k >= 0
            (Some((c, [a])), None) if c > 0 => self.learn_least(a, -crate::dim::floor_div(k, c), depth),
            (Some((c, [Atom::Sym(s)])), None) if c < 0 => {
                let most = crate::dim::floor_div(k, c.saturating_neg());
                self.refined.push((s.clone(), Range::new(i64::MIN, most)));
            }
            (Some(_), _) if k < 0 => self.learn_factors(&(e.clone() - k.into()), depth),
            _ => {}
        }
    }

    /// Tightens constant ranges by `e >= 1`, where `e` is visibly a product of factors that are not negative, or of two
    /// one of which isn't.
    fn learn_factors(&mut self, e: &Dim, depth: u32) {
        let mut terms = e.terms();
        if let (Some((1.., factors)), None) = (terms.next(), terms.next())
            && factors.iter().all(|a| self.range(&Dim::atom(a.clone())).lo >= 0)
        {
            factors.iter().for_each(|a| self.learn_least(a, 1, depth));
            return;
        }
        for atom in e.atoms() {
            let Some((c, rest)) = e.split_atom(atom) else { continue };
            let (m, rest) = if rest.is(0) { (rest, Dim::from(0)) } else { rest.split_multiple(&c) };
            let other = Dim::atom(atom.clone()) + m;
            if !rest.is(0) || c.is(1) {
                continue;
            }
            // e = c * other
            if self.is_plainly_nonnegative(&c) || self.is_plainly_nonnegative(&other) {
                for factor in [c - 1.into(), other - 1.into()] {
                    self.learn(&factor, depth);
                    self.facts.push(factor);
                }
                return;
            }
        }
    }

    /// Learns `a >= least`.
    fn learn_least(&mut self, a: &Atom, least: i64, depth: u32) {
        match a {
            Atom::Sym(s) => self.refined.push((s.clone(), Range::new(least, i64::MAX))),
            Atom::FloorDiv(x, by) if by.as_const().is_some_and(|b| b > 0) => {
                self.learn(&((**x).clone() - (**by).clone() * least.into()), depth);
            }
            Atom::Min(x, y) => {
                self.learn(&((**x).clone() - least.into()), depth);
                self.learn(&((**y).clone() - least.into()), depth);
            }
            _ => {}
        }
    }

    /// Whether the variable is declared.
    pub fn is_declared(&self, s: &Sym) -> bool {
        self.rank(s).is_some()
    }

    fn rank(&self, s: &Sym) -> Option<usize> {
        self.vars.iter().rposition(|v| v.sym == *s)
    }

    fn range_of(&self, s: &Sym) -> Range {
        let declared = self.rank(s).map_or(Range::ALL, |k| self.vars[k].range);
        let learnt = self.refined.iter().filter(|(r, _)| r == s).map(|(_, r)| *r);
        learnt.fold(declared, |a, b| Range::new(a.lo.max(b.lo), a.hi.min(b.hi)))
    }

    /// An interval that holds every value of the expression.
    pub fn range(&self, e: &Dim) -> Range {
        e.range(&|s| self.range_of(s))
    }

    /// Proves `e >= 0`.
    pub fn is_nonnegative(&self, e: &Dim) -> bool {
        let full = || Fuel { steps: Cell::new(MAX_STEPS), depth: Cell::new(MAX_DEPTH) };
        let fuel = full();
        // A fact from which a part of the expression follows may lead to a short proof, however long others are.
        let follows = |f: &Dim| match common_multiple(e, f) {
            _ if self.range(f).hi < 0 => true,
            0 => self.prove(&(e.clone() - f.clone()), &fuel),
            by => {
                let fuel = full();
                self.prove(&(e.clone() - f.clone() * by.into()), &fuel)
                    || by > 1 && self.prove(&(e.clone() - f.clone()), &fuel)
            }
        };
        self.prove(e, &fuel) || self.facts.iter().rev().any(follows)
    }

    /// Proves `0 <= e < len`.
    pub fn is_within(&self, e: &Dim, len: &Dim) -> bool {
        self.is_nonnegative(e) && self.is_below(e, len)
    }

    /// Proves `a < b`.
    pub fn is_below(&self, a: &Dim, b: &Dim) -> bool {
        self.is_nonnegative(&(b.clone() - a.clone() - Dim::from(1)))
    }

    fn prove(&self, e: &Dim, fuel: &Fuel) -> bool {
        let (steps, depth) = (fuel.steps.get(), fuel.depth.get());
        if steps == 0 || depth == 0 {
            return false;
        }
        fuel.steps.set(steps - 1);
        fuel.depth.set(depth - 1);
        let e = e.join_div_mod();
        let proved = self.is_plainly_nonnegative(&e) || self.prove_by_elimination(&e, fuel);
        fuel.depth.set(depth);
        proved
    }

    fn prove_by_elimination(&self, e: &Dim, fuel: &Fuel) -> bool {
        let Some(atom) = self.innermost(e) else { return false };
        match e.split_atom(&atom) {
            Some((c, rest)) => self.eliminate(&atom, &c, &rest, fuel),
            None => false,
        }
    }

    fn is_plainly_nonnegative(&self, e: &Dim) -> bool {
        let follows = |f: &Dim| (e.clone() - f.clone()).as_const().is_some_and(|d| d >= 0);
        self.range(e).lo >= 0 || self.is_sum_of_nonnegatives(e) || self.facts.iter().any(follows)
    }

    /// Whether the expression is proved to be positive or zero (`Some(true)`), or negative or zero.
    fn sign(&self, e: &Dim, fuel: &Fuel) -> Option<bool> {
        let minus = -e.clone();
        if self.is_plainly_nonnegative(e) {
            Some(true)
        } else if self.is_plainly_nonnegative(&minus) {
            Some(false)
        } else if self.prove(e, fuel) {
            Some(true)
        } else {
            self.prove(&minus, fuel).then_some(false)
        }
    }

    fn is_positive(&self, e: &Dim, fuel: &Fuel) -> bool {
        self.prove(&(e.clone() - Dim::from(1)), fuel)
    }

    /// Whether every monomial is, once every symbol is counted from its least value.
    fn is_sum_of_nonnegatives(&self, e: &Dim) -> bool {
        let least = |s: &Sym| Some(self.range_of(s).lo).filter(|lo| *lo != i64::MIN && *lo != 0);
        let shifted = e.subst(&|s| least(s).map(|lo| Dim::sym(s) + lo.into()));
        let range = |s: &Sym| {
            let r = self.range_of(s);
            match least(s) {
                Some(lo) if r.hi != i64::MAX => Range::new(0, r.hi.saturating_sub(lo)),
                Some(_) => Range::DIM,
                None => r,
            }
        };
        shifted.constant() >= 0
            && shifted.terms().all(|(c, factors)| {
                c >= 0 && factors.iter().all(|a| Dim::atom(a.clone()).range(&range).lo >= 0)
            })
    }

    /// The factor to eliminate next: the one with the innermost variable in it; of several a function before the
    /// variable itself, because the variable may cancel against what the function is replaced by.
    fn innermost(&self, e: &Dim) -> Option<Atom> {
        let key = |a: &Atom| {
            let rank = Dim::atom(a.clone()).symbols().iter().map(|s| self.rank(s)).max().flatten();
            let kind = match a {
                Atom::Sym(_) => 0,
                Atom::FloorDiv(..) => 1,
                Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => 2,
            };
            (rank, kind)
        };
        e.atoms().into_iter().max_by_key(|a| key(a)).cloned()
    }

    /// Proves `c * atom + rest >= 0`.
    fn eliminate(&self, atom: &Atom, c: &Dim, rest: &Dim, fuel: &Fuel) -> bool {
        let with = |value: &Dim| self.prove(&(c.clone() * value.clone() + rest.clone()), fuel);
        // The mean of two values lies between the smaller and the larger.
        let mean = |a: &Dim, b: &Dim| {
            self.prove(&(c.clone() * (a.clone() + b.clone()) + rest.clone() * 2.into()), fuel)
        };
        let sign = self.sign(c, fuel);
        match atom {
            Atom::Sym(s) => self.eliminate_symbol(s, sign, &with),
            Atom::Min(a, b) if sign == Some(false) => with(a) || with(b) || mean(a, b),
            Atom::Max(a, b) if sign == Some(true) => with(a) || with(b) || mean(a, b),
            Atom::Min(a, b) | Atom::Max(a, b) => with(a) && with(b),
            Atom::Mod(_, b) | Atom::FloorDiv(_, b) if !self.is_positive(b, fuel) => false,
            Atom::Mod(a, b) => {
                let most = (**b).clone() - 1.into();
                let is_rest = || {
                    self.is_plainly_nonnegative(a)
                        && self.is_plainly_nonnegative(&(most.clone() - (**a).clone()))
                };
                match sign {
                    Some(true) => with(&0.into()) || is_rest() && with(a),
                    Some(false) => with(&most) || self.is_plainly_nonnegative(a) && with(a),
                    None => is_rest() && with(a),
                }
            }
            Atom::FloorDiv(a, b) => self.eliminate_div(a, b, c, rest, sign, fuel),
        }
    }

    fn eliminate_symbol(&self, s: &Sym, sign: Option<bool>, with: &dyn Fn(&Dim) -> bool) -> bool {
        let Some(rank) = self.rank(s) else { return false };
        let known = &self.vars[rank].known;
        if let Known::OneOf(values) = known {
            return values.iter().all(with);
        }
        let range = self.range_of(s);
        let (symbolic, constant) = match (known, sign) {
            (_, None) => return false,
            (Known::Between(begin, _), Some(true)) => (Some(begin.clone()), range.lo),
            (Known::Between(_, end), Some(false)) => (Some(end.clone() - 1.into()), range.hi),
            (_, Some(rises)) => (None, if rises { range.lo } else { range.hi }),
        };
        let is_finite = constant != i64::MIN && constant != i64::MAX;
        symbolic.is_some_and(|end| with(&end))
            || is_finite && with(&constant.into())
            || self
                .facts
                .iter()
                .any(|f| sign.and_then(|rises| bound_by(f, s, rises)).is_some_and(|end| with(&end)))
    }

    /// Proves `c * floordiv(a, b) + rest >= 0` for `b > 0`.
    fn eliminate_div(&self, a: &Dim, b: &Dim, c: &Dim, rest: &Dim, sign: Option<bool>, fuel: &Fuel) -> bool {
        let with = |value: &Dim| self.prove(&(c.clone() * value.clone() + rest.clone()), fuel);
        let quotient = self.divide(a, b);
        if quotient != Dim::atom(Atom::FloorDiv(a.clone().into(), b.clone().into())) {
            return with(&quotient);
        }
        let Some(rises) = sign else { return false };
        // c = k * b: b * floordiv(a, b) lies between a - b + 1 and a.
        let (k, remainder) = c.split_multiple(b);
        if remainder.is(0) {
            let value = if rises { a.clone() - b.clone() + 1.into() } else { a.clone() };
            if self.prove(&(k * value + rest.clone()), fuel) {
                return true;
            }
        }
        // It is monotone in a.
        if self.extreme(a, rises, fuel).is_some_and(|end| with(&self.divide(&end, b))) {
            return true;
        }
        // 0 <= floordiv(a, b) <= a for a >= 0.
        self.is_plainly_nonnegative(a) && if rises { with(&0.into()) } else { with(a) }
    }

    /// `floordiv(a, b)` for `b > 0`, simplified where the rest of the division has a known range.
    fn divide(&self, a: &Dim, b: &Dim) -> Dim {
        let (q, r) = a.split_multiple(b);
        let is_plain = |e: Dim| self.is_plainly_nonnegative(&e);
        let below_zero = -r.clone() - 1.into();
        if is_plain(r.clone()) && is_plain(b.clone() + below_zero.clone()) {
            q
        } else if is_plain(below_zero) && is_plain(r + b.clone()) {
            q - 1.into()
        } else {
            a.floor_div(b)
        }
    }

    /// A bound of `e` (the lower one if `least`) without its innermost variable.
    fn extreme(&self, e: &Dim, least: bool, fuel: &Fuel) -> Option<Dim> {
        let atom = self.innermost(e)?;
        let (c, rest) = e.split_atom(&atom)?;
        let downwards = self.sign(&c, fuel)? == least;
        let value = match &atom {
            Atom::Sym(s) => {
                let range = self.range_of(s);
                match &self.vars[self.rank(s)?].known {
                    Known::Between(begin, _) if downwards => begin.clone(),
                    Known::Between(_, end) => end.clone() - 1.into(),
                    _ if downwards => Some(range.lo).filter(|lo| *lo != i64::MIN)?.into(),
                    _ => Some(range.hi).filter(|hi| *hi != i64::MAX)?.into(),
                }
            }
            Atom::Mod(_, b) | Atom::FloorDiv(_, b) if !self.is_positive(b, fuel) => return None,
            Atom::FloorDiv(a, b) => self.divide(&self.extreme(a, downwards, fuel)?, b),
            Atom::Mod(..) if downwards => 0.into(),
            Atom::Mod(_, b) => (**b).clone() - 1.into(),
            Atom::Min(a, _) if !downwards => (**a).clone(),
            Atom::Max(a, _) if downwards => (**a).clone(),
            Atom::Min(..) | Atom::Max(..) => return None,
        };
        Some(c * value + rest)
    }
}

/// How many times `f` must be taken from `e` for a monomial to vanish; 0 if there is none.
fn common_multiple(e: &Dim, f: &Dim) -> i64 {
    let times = |(c, factors): (i64, &[Atom])| {
        let (of_e, _) = e.terms().find(|(_, other)| *other == factors)?;
        let times = of_e.checked_div(c)?;
        (times.checked_mul(c)? == of_e && times > 0).then_some(times)
    };
    f.terms().find_map(times).unwrap_or(0)
}

/// The bound that the fact `f >= 0` sets to a symbol: from below if `least`.
fn bound_by(f: &Dim, s: &Sym, least: bool) -> Option<Dim> {
    let (c, rest) = f.affine_in(s)?;
    match (least, c.as_const()?) {
        (true, 1) => Some(-rest),
        (false, -1) => Some(rest),
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

    /// Symbols (`n: 1..`), then loops (`i in 0..n`), then what is asked (`i < n`, `i >= 0`).
    fn check(symbols: &[(&str, i64)], loops: &[(&str, &str, &str)], queries: &[(&str, bool)]) {
        let mut b = Bounds::new();
        for (s, lo) in symbols {
            b.symbol(&Sym::new(s), Range::new(*lo, i64::MAX));
        }
        for (s, begin, end) in loops {
            b.loop_var(&Sym::new(s), &d(begin), &d(end));
        }
        for (query, expected) in queries {
            let found = match query.split_once(" < ") {
                Some((x, y)) => b.is_below(&d(x), &d(y)),
                None => b.is_nonnegative(&d(query.trim_end_matches(" >= 0"))),
            };
            assert_eq!(found, *expected, "{query} within {loops:?}");
        }
    }

    #[test]
    fn constant_loops() {
        let loops = [("i", "0", "4"), ("j", "0", "8")];
        check(
            &[],
            &loops,
            &[("8*i+j < 32", true), ("8*i+j < 31", false), ("8*i-j+7 >= 0", true), ("i-j >= 0", false)],
        );
        check(
            &[],
            &[("p", "0", "30")],
            &[("6*mod(p,5)+floordiv(p,5) < 30", true), ("5-mod(p,6) >= 0", true)],
        );
    }

    #[test]
    fn symbolic_loops() {
        let loops = [("i", "0", "n"), ("j", "0", "m")];
        let sizes = [("n", 0), ("m", 0)];
        check(
            &sizes,
            &loops,
            &[("m*i+j < n*m", true), ("n*j+i < n*m", true), ("n*i+j < n*m", false), ("m-1 >= 0", true)],
        );
        check(
            &[("n", 0)],
            &[("i", "0", "n"), ("j", "0", "i+1")],
            &[("i-j >= 0", true), ("j < n", true), ("n-j-2 >= 0", false)],
        );
    }

    #[test]
    fn flattened_loops() {
        let sizes = [("a", 0), ("b", 0), ("c", 0)];
        let loops = [("p", "0", "a*b*c")];
        let (x, y, z) = ("floordiv(floordiv(p,c),b)", "mod(floordiv(p,c),b)", "mod(p,c)");
        let at = |order: [&str; 3], e: [&str; 2]| {
            format!("({}*{}+{})*{}+{} < a*b*c", order[0], e[0], order[1], e[1], order[2])
        };
        check(
            &sizes,
            &loops,
            &[
                (&at([x, y, z], ["b", "c"]), true),
                (&at([z, y, x], ["b", "a"]), true),
                (&at([y, x, z], ["a", "c"]), true),
                (&at([x, z, y], ["c", "b"]), true),
                (&format!("{x} < a"), true),
                (&format!("{z} < b"), false),
                (&format!("{x} >= 0"), true),
            ],
        );
    }

    #[test]
    fn tiles() {
        let loops = [("t", "0", "floordiv(n+15,16)"), ("j", "0", "min(16,n-16*t)")];
        check(&[("n", 0)], &loops, &[("16*t+j < n", true), ("16*t+j >= 0", true), ("16*t+j+1 < n", false)]);
        check(
            &[("n", 1)],
            &[("i", "0", "16")],
            &[("max(min(i,n-1),0) < n", true), ("min(max(0,x),n-1) >= 0", true)],
        );
        let last = [("it", "0", "floordiv(n,8)+1"), ("k", "0", "8")];
        check(
            &[("n", 0)],
            &last,
            &[("min(8*it+k,n) < n+1", true), ("8*it+k < n+8", true), ("8*it+k < n+7", false)],
        );
    }

    #[test]
    fn conditions() {
        let mut b = Bounds::new();
        b.symbol(&Sym::new("n"), Range::DIM);
        b.symbol(&Sym::new("x"), Range::ALL);
        assert!(!b.is_within(&d("x"), &d("n")));
        let mark = b.mark();
        b.assume(&d("x"));
        b.assume(&d("n-x-1"));
        assert!(b.is_within(&d("x"), &d("n")));
        b.reset(mark);
        b.symbol(&Sym::new("p"), Range::DIM);
        b.assume(&d("4-mod(p,n+8)"));
        assert!(b.is_nonnegative(&d("29-7*mod(p,n+8)")) && !b.is_nonnegative(&d("27-7*mod(p,n+8)")));
        b.one_of(&Sym::new("y"), vec![d("3"), d("n+1")]);
        assert!(b.is_nonnegative(&d("y-1")) && !b.is_nonnegative(&d("y-2")));
    }

    /// Random expressions in random loops: what is proved holds in every iteration.
    #[test]
    fn proofs_hold() {
        let mut n_proved = 0;
        for seed in 0..4000 {
            let mut rng = Rng::new(seed);
            let mut loops: Vec<(Sym, Dim, Dim)> = Vec::new();
            let mut names = vec![Sym::new("n")];
            let mut b = Bounds::new();
            b.symbol(&names[0], Range::DIM);
            for name in ["i", "j", "k"] {
                let (begin, end) = match rng.below(3) {
                    0 => (random(&mut rng, &names, 1), random(&mut rng, &names, 2)),
                    _ => (0.into(), random(&mut rng, &names, 2)),
                };
                b.loop_var(&Sym::new(name), &begin, &end);
                loops.push((Sym::new(name), begin, end));
                names.push(Sym::new(name));
            }
            let e = match rng.below(2) {
                0 => random(&mut rng, &names, 3),
                _ => loops[2].2.clone() - random(&mut rng, &names, 2),
            };
            if b.is_nonnegative(&e) {
                n_proved += 1;
                for n in 0..4 {
                    holds(&e, &loops, &mut vec![(names[0].clone(), n)]);
                }
            }
        }
        assert!(n_proved > 400, "{n_proved}");
    }

    fn random(rng: &mut Rng, names: &[Sym], depth: usize) -> Dim {
        if depth == 0 || rng.one_in(4) {
            return if rng.one_in(3) { rng.range(-2, 6).into() } else { Dim::sym(&rng.pick(names)) };
        }
        let (a, b) = (random(rng, names, depth - 1), random(rng, names, depth - 1));
        match rng.below(8) {
            0 | 1 => a + b,
            2 => a - b,
            3 => a * b,
            4 => a.floor_div(&b),
            5 => a.modulo(&b),
            6 => a.minimum(&b),
            _ => a.maximum(&b),
        }
    }

    /// Checks `e >= 0` in every iteration; small ones only.
    fn holds(e: &Dim, loops: &[(Sym, Dim, Dim)], values: &mut Vec<(Sym, i64)>) {
        let eval = |d: &Dim, values: &[(Sym, i64)]| {
            d.eval(&|s| values.iter().find(|(v, _)| v == s).map(|(_, x)| *x))
        };
        let Some(((var, begin, end), inner)) = loops.split_first() else {
            let value = eval(e, values);
            assert!(value.is_none_or(|v| v >= 0), "{e} is {value:?} at {values:?}");
            return;
        };
        let (Some(begin), Some(end)) = (eval(begin, values), eval(end, values)) else { return };
        for i in (begin..end.min(begin.saturating_add(12))).chain(end.saturating_sub(2).max(begin)..end) {
            values.push((var.clone(), i));
            holds(e, inner, values);
            values.pop();
        }
    }
}

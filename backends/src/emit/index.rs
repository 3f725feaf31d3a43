//! Index expressions ([`Dim`]) as 64-bit integer instructions.
//!
//! Sums are added up in the order in which their variables are bound, so that each loop's part is computed outside of
//! it; the number at the end is left to the address. Divisions that are provably of non-negative operands are
//! unsigned. An index doesn't overflow.

use super::Emitter;
use super::build::{Binary, Build, Compare, V};
use aic_ir::dim::{Atom, Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::VType;

impl<B: Build> Emitter<B> {
    /// The expression with the variables of unrolled loops replaced by their values.
    pub(super) fn fold(&self, d: &Dim) -> Dim {
        if self.unrolled.is_empty() || d.as_const().is_some() {
            return d.clone();
        }
        d.subst(&|s| self.unrolled.get(s).map(|v| Dim::from(*v)))
    }

    /// An interval that holds the value.
    pub(super) fn range(&self, d: &Dim) -> Range {
        d.range(&|s| self.ranges.get(s).copied().unwrap_or(Range::ALL))
    }

    /// The value of an index expression.
    pub(super) fn dim(&mut self, d: &Dim) -> Result<V<B>> {
        let d = self.fold(d);
        let mut sum: Option<V<B>> = None;
        for (term, negative) in self.signed_terms(&d)? {
            sum = Some(match (sum, negative) {
                (None, false) => term,
                (None, true) => self.b.neg(term)?,
                (Some(s), false) => self.b.index_binary(Binary::Add, s, term)?,
                (Some(s), true) => self.b.index_binary(Binary::Sub, s, term)?,
            });
        }
        let constant = self.b.i64(d.constant())?;
        match sum {
            Some(v) if d.constant() == 0 => Ok(v),
            Some(v) => self.b.index_binary(Binary::Add, v, constant),
            None => Ok(constant),
        }
    }

    /// What a folded expression is the sum of, but for its constant: first what changes least often.
    pub(super) fn terms(&mut self, d: &Dim) -> Result<Vec<V<B>>> {
        let terms = self.signed_terms(d)?;
        terms.into_iter().map(|(v, negative)| if negative { self.b.neg(v) } else { Ok(v) }).collect()
    }

    /// As above; with whether a term is to be subtracted.
    fn signed_terms(&mut self, d: &Dim) -> Result<Vec<(V<B>, bool)>> {
        let mut terms: Vec<(usize, i64, &[Atom])> =
            d.terms().map(|(c, factors)| (self.depth_of(factors), c, factors)).collect();
        terms.sort_by_key(|(depth, ..)| *depth);
        let of = |(_, coeff, factors): (usize, i64, &[Atom])| {
            Ok((self.product(coeff.unsigned_abs(), factors)?, coeff < 0))
        };
        terms.into_iter().map(of).collect()
    }

    fn depth_of(&self, factors: &[Atom]) -> usize {
        factors.iter().map(|a| self.depth_of_atom(a)).max().unwrap_or(0)
    }

    fn depth_of_atom(&self, a: &Atom) -> usize {
        let depth = |s: &Sym| self.depths.get(s).copied().unwrap_or(0);
        match a {
            Atom::Sym(s) => depth(s),
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                a.symbols().iter().chain(&b.symbols()).map(depth).max().unwrap_or(0)
            }
        }
    }

    fn product(&mut self, coeff: u64, factors: &[Atom]) -> Result<V<B>> {
        let mut by_depth: Vec<&Atom> = factors.iter().collect();
        by_depth.sort_by_key(|a| self.depth_of_atom(a));
        let mut value: Option<V<B>> = if coeff == 1 { None } else { Some(self.b.i64(coeff as i64)?) };
        for a in by_depth {
            let atom = self.atom(a)?;
            value = Some(match value {
                Some(v) => self.b.index_binary(Binary::Mul, v, atom)?,
                None => atom,
            });
        }
        value.map_or_else(|| self.b.i64(1), Ok)
    }

    fn atom(&mut self, a: &Atom) -> Result<V<B>> {
        match a {
            Atom::Sym(s) => self.symbol(s),
            Atom::FloorDiv(a, b) => self.divide(a, b, true),
            Atom::Mod(a, b) => self.divide(a, b, false),
            Atom::Min(a, b) => self.extremum(a, b, Binary::Min),
            Atom::Max(a, b) => self.extremum(a, b, Binary::Max),
        }
    }

    fn symbol(&self, s: &Sym) -> Result<V<B>> {
        match self.vars.get(s) {
            Some(v) if v.ty == VType::scalar(DType::I64) => Ok(*v),
            Some(_) => Err(Error::new(format!("variable {s} is in an index, but isn't a scalar i64"))),
            None => Err(Error::new(format!("variable {s} is in an index, but isn't bound"))),
        }
    }

    fn extremum(&mut self, a: &Dim, b: &Dim, op: Binary) -> Result<V<B>> {
        let (a, b) = (self.dim(a)?, self.dim(b)?);
        self.b.binary(op, a, b)
    }

    /// `floor(a / b)`, or what is left of `a` then.
    fn divide(&mut self, a: &Dim, b: &Dim, quotient: bool) -> Result<V<B>> {
        let unsigned = self.range(a).lo >= 0 && self.range(b).lo > 0;
        let (n, d) = (self.dim(a)?, self.dim(b)?);
        match b.as_const() {
            Some(c) if c > 0 && c.count_ones() == 1 && quotient => {
                self.b.shift(Binary::Shr, n, c.trailing_zeros())
            }
            Some(c) if c > 0 && c.count_ones() == 1 => {
                let below = self.b.i64(c - 1)?;
                self.b.and(n, below)
            }
            _ if unsigned => {
                let op = if quotient { Binary::Div } else { Binary::Rem };
                let (n, d) = (self.b.bits(n, DType::U64)?, self.b.bits(d, DType::U64)?);
                let result = self.b.binary(op, n, d)?;
                self.b.bits(result, DType::I64)
            }
            _ => self.divide_signed(n, d, self.range(b).lo > 0, quotient),
        }
    }

    /// The remainder is moved to the divisor's sign. A divisor that may be zero is replaced by 1 then: it doesn't
    /// occur in a verified kernel, but must not trap where the result is unused.
    fn divide_signed(&mut self, n: V<B>, d: V<B>, d_positive: bool, quotient: bool) -> Result<V<B>> {
        let b = &mut self.b;
        let (zero, one) = (b.i64(0)?, b.i64(1)?);
        let d = if d_positive {
            d
        } else {
            let is_zero = b.compare(Compare::Eq, d, zero)?;
            b.select(is_zero, one, d)?
        };
        let rest = b.binary(Binary::Rem, n, d)?;
        let signs = b.xor(rest, d)?;
        let differ = b.compare(Compare::Lt, signs, zero)?;
        let not_exact = b.compare(Compare::Ne, rest, zero)?;
        let adjust = b.and(differ, not_exact)?;
        if quotient {
            let q = b.div(n, d)?;
            let less = b.sub(q, one)?;
            b.select(adjust, less, q)
        } else {
            let moved = b.add(rest, d)?;
            b.select(adjust, moved, rest)
        }
    }
}

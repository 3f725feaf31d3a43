//! Index expressions ([`Dim`]) as 64-bit integer instructions.
//!
//! Sums are added up in the order in which their variables are bound, so that each loop's part is computed outside of
//! it; the number at the end is left to the address. Divisions that are provably of non-negative operands are
//! unsigned. An index doesn't overflow (`nsw`).

use super::build::{Raw, internal};
use super::emit::Emitter;
use aic_ir::dim::{Atom, Dim, Range, Sym};
use aic_ir::error::{Error, Result};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode, IntValue};

impl<'c> Emitter<'_, 'c> {
    /// The expression with the variables of unrolled loops replaced by their values.
    pub fn fold(&self, d: &Dim) -> Dim {
        if self.unrolled.is_empty() || d.as_const().is_some() {
            return d.clone();
        }
        d.subst(&|s| self.unrolled.get(s).map(|v| Dim::from(*v)))
    }

    /// An interval that holds the value.
    pub fn range(&self, d: &Dim) -> Range {
        d.range(&|s| self.ranges.get(s).copied().unwrap_or(Range::ALL))
    }

    /// The value of an index expression.
    pub fn dim(&mut self, d: &Dim) -> Result<IntValue<'c>> {
        let d = self.fold(d);
        let value = self.terms(&d)?;
        let constant = self.b.i64(d.constant());
        match value {
            Some(v) if d.constant() == 0 => Ok(v),
            Some(v) => self.b.builder.build_int_nsw_add(v, constant, "").map_err(internal),
            None => Ok(constant),
        }
    }

    /// The value without its constant part; `None` if that is zero.
    pub fn terms(&mut self, d: &Dim) -> Result<Option<IntValue<'c>>> {
        let mut terms: Vec<(usize, i64, &[Atom])> =
            d.terms().map(|(c, factors)| (self.depth_of(factors), c, factors)).collect();
        terms.sort_by_key(|(depth, ..)| *depth);
        let mut sum: Option<IntValue> = None;
        for (_, coeff, factors) in terms {
            let product = self.product(coeff.unsigned_abs(), factors)?;
            sum = Some(match (sum, coeff < 0) {
                (None, false) => product,
                (None, true) => self.b.builder.build_int_nsw_neg(product, "").map_err(internal)?,
                (Some(s), false) => self.b.builder.build_int_nsw_add(s, product, "").map_err(internal)?,
                (Some(s), true) => self.b.builder.build_int_nsw_sub(s, product, "").map_err(internal)?,
            });
        }
        Ok(sum)
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

    fn product(&mut self, coeff: u64, factors: &[Atom]) -> Result<IntValue<'c>> {
        let mut by_depth: Vec<&Atom> = factors.iter().collect();
        by_depth.sort_by_key(|a| self.depth_of_atom(a));
        let mut value: Option<IntValue> = (coeff != 1).then(|| self.b.i64(coeff as i64));
        for a in by_depth {
            let atom = self.atom(a)?;
            value = Some(match value {
                Some(v) => self.b.builder.build_int_nsw_mul(v, atom, "").map_err(internal)?,
                None => atom,
            });
        }
        Ok(value.unwrap_or(self.b.i64(1)))
    }

    fn atom(&mut self, a: &Atom) -> Result<IntValue<'c>> {
        match a {
            Atom::Sym(s) => self.symbol(s),
            Atom::FloorDiv(a, b) => self.divide(a, b, true),
            Atom::Mod(a, b) => self.divide(a, b, false),
            Atom::Min(a, b) => self.extremum(a, b, IntPredicate::SLT),
            Atom::Max(a, b) => self.extremum(a, b, IntPredicate::SGT),
        }
    }

    fn symbol(&self, s: &Sym) -> Result<IntValue<'c>> {
        match self.vars.get(s).map(|v| v.raw) {
            Some(Raw::IntValue(v)) if v.get_type().get_bit_width() == 64 => Ok(v),
            Some(_) => Err(Error::new(format!("variable {s} is in an index, but isn't a scalar i64"))),
            None => Err(Error::new(format!("variable {s} is in an index, but isn't bound"))),
        }
    }

    fn extremum(&mut self, a: &Dim, b: &Dim, first_if: IntPredicate) -> Result<IntValue<'c>> {
        let (a, b) = (self.dim(a)?.into(), self.dim(b)?.into());
        let first = self.b.icmp(first_if, a, b)?;
        Ok(self.b.select(first, a, b)?.into_int_value())
    }

    /// `floor(a / b)`, or what is left of `a` then.
    fn divide(&mut self, a: &Dim, b: &Dim, quotient: bool) -> Result<IntValue<'c>> {
        let unsigned = self.range(a).lo >= 0 && self.range(b).lo > 0;
        let (n, d): (Raw, Raw) = (self.dim(a)?.into(), self.dim(b)?.into());
        let result = match b.as_const() {
            Some(c) if c > 0 && c.count_ones() == 1 => {
                let (op, by) = if quotient {
                    (InstructionOpcode::AShr, c.trailing_zeros().into())
                } else {
                    (InstructionOpcode::And, c - 1)
                };
                self.b.bin(op, n, self.b.i64(by).into())?
            }
            _ if unsigned => {
                let op = if quotient { InstructionOpcode::UDiv } else { InstructionOpcode::URem };
                self.b.bin(op, n, d)?
            }
            _ => self.divide_signed(n, d, self.range(b).lo > 0, quotient)?,
        };
        Ok(result.into_int_value())
    }

    /// The remainder is moved to the divisor's sign. A divisor that may be zero is replaced by 1 then: it doesn't
    /// occur in a verified kernel, but must not trap where the result is unused.
    fn divide_signed(&mut self, n: Raw<'c>, d: Raw<'c>, d_positive: bool, quotient: bool) -> Result<Raw<'c>> {
        let (zero, one): (Raw, Raw) = (self.b.i64(0).into(), self.b.i64(1).into());
        let d = if d_positive {
            d
        } else {
            let is_zero = self.b.icmp(IntPredicate::EQ, d, zero)?;
            self.b.select(is_zero, one, d)?
        };
        let rest = self.b.bin(InstructionOpcode::SRem, n, d)?;
        let signs = self.b.bin(InstructionOpcode::Xor, rest, d)?;
        let differ = self.b.icmp(IntPredicate::SLT, signs, zero)?;
        let not_exact = self.b.icmp(IntPredicate::NE, rest, zero)?;
        let adjust = self.b.bin(InstructionOpcode::And, differ, not_exact)?;
        if quotient {
            let q = self.b.bin(InstructionOpcode::SDiv, n, d)?;
            let less = self.b.bin(InstructionOpcode::Sub, q, one)?;
            self.b.select(adjust, less, q)
        } else {
            let moved = self.b.bin(InstructionOpcode::Add, rest, d)?;
            self.b.select(adjust, moved, rest)
        }
    }
}

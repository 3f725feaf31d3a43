//! What expressions are surely multiples of.

use super::{Atom, Dim};

impl Dim {
    /// The largest number that the expression is visibly a multiple of, whatever its symbols are; 0 for zero.
    pub fn divisor(&self) -> i64 {
        let of_term = |(c, atoms): (i64, &[Atom])| {
            atoms.iter().fold(c.saturating_abs(), |n, a| n.saturating_mul(of_atom(a)))
        };
        self.terms().map(of_term).fold(self.constant().saturating_abs(), gcd)
    }

    /// Whether it is visibly a multiple of `n`.
    pub fn is_multiple(&self, n: i64) -> bool {
        n != 0 && self.divisor() % n == 0
    }
}

fn of_atom(a: &Atom) -> i64 {
    match a {
        Atom::Sym(_) | Atom::FloorDiv(..) => 1,
        Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => gcd(a.divisor(), b.divisor()),
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors() {
        let n = |name: &str| Dim::named(name);
        let c = |k: i64| Dim::from(k);
        assert_eq!((n("i") * c(12) + n("j") * c(18) + c(30)).divisor(), 6);
        assert_eq!((n("i").modulo(&c(4)) * c(8)).divisor(), 8);
        assert_eq!((n("i") * c(8)).modulo(&c(20)).divisor(), 4);
        assert_eq!(c(64).minimum(&(c(48) - n("i") * c(32))).divisor(), 16);
        assert_eq!(c(0).divisor(), 0);
        assert!(c(0).is_multiple(7) && !n("i").is_multiple(2));
    }
}

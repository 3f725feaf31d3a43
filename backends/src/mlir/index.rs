//! Index expressions: as operations on `index` values, and as affine expressions of a linalg operation's loops.

use super::text::Writer;
use aic_ir::dim::{Atom, Dim, Sym};
use std::collections::HashMap;

/// What the symbols in scope stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    values: HashMap<Sym, String>,
    /// Whether some may be negative.
    pub signed: bool,
}

impl Symbols {
    /// Gives a symbol a value of type `index`.
    pub fn define(&mut self, s: &Sym, name: String) {
        self.values.insert(s.clone(), name);
    }

    /// Whether a symbol has a value.
    pub fn knows(&self, s: &Sym) -> bool {
        self.values.contains_key(s)
    }

    /// The value of an expression; the writer remembers symbols that have none.
    pub fn index(&self, w: &mut Writer, d: &Dim) -> String {
        let mut terms: Vec<String> = Vec::new();
        for (coeff, factors) in d.terms() {
            let mut product: Vec<String> = factors.iter().map(|a| self.atom(w, a)).collect();
            if coeff != 1 {
                product.push(w.index(coeff));
            }
            terms.extend(product.into_iter().reduce(|a, b| binary(w, "arith.muli", &a, &b)));
        }
        if d.constant() != 0 || terms.is_empty() {
            terms.push(w.index(d.constant()));
        }
        terms.into_iter().reduce(|a, b| binary(w, "arith.addi", &a, &b)).unwrap_or_default()
    }

    fn atom(&self, w: &mut Writer, a: &Atom) -> String {
        let mut both = |a: &Dim, b: &Dim| (self.index(w, a), self.index(w, b));
        match a {
            Atom::Sym(s) => self.values.get(s).cloned().unwrap_or_else(|| w.unknown(s)),
            Atom::Min(a, b) => {
                let (a, b) = both(a, b);
                binary(w, "arith.minsi", &a, &b)
            }
            Atom::Max(a, b) => {
                let (a, b) = both(a, b);
                binary(w, "arith.maxsi", &a, &b)
            }
            Atom::FloorDiv(a, b) => {
                let is_plain = self.is_plain(a, b);
                let (a, b) = both(a, b);
                binary(w, if is_plain { "arith.divui" } else { "arith.floordivsi" }, &a, &b)
            }
            Atom::Mod(a, b) if self.is_plain(a, b) => {
                let (a, b) = both(a, b);
                binary(w, "arith.remui", &a, &b)
            }
            Atom::Mod(a, b) => {
                let (a, b) = both(a, b);
                let quotient = binary(w, "arith.floordivsi", &a, &b);
                let multiple = binary(w, "arith.muli", &quotient, &b);
                binary(w, "arith.subi", &a, &multiple)
            }
        }
    }

    /// Whether neither can be negative.
    fn is_plain(&self, a: &Dim, b: &Dim) -> bool {
        !self.signed && a.is_not_negative() && b.is_not_negative()
    }
}

/// An operation on two values of type `index`.
pub(crate) fn binary(w: &mut Writer, name: &str, a: &str, b: &str) -> String {
    w.value(format!("{name} {a}, {b} : index"))
}

/// A sum of loops, each times a positive number, and a constant that isn't negative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affine {
    /// Factors and loops, in the order of loops.
    pub terms: Vec<(i64, usize)>,
    /// What is added.
    pub constant: i64,
}

impl Affine {
    /// One loop.
    pub fn plain(k: usize) -> Affine {
        Affine { terms: vec![(1, k)], constant: 0 }
    }

    /// The loop, if it is nothing but one.
    pub fn as_plain(&self) -> Option<usize> {
        match (&self.terms[..], self.constant) {
            ([(1, k)], 0) => Some(*k),
            _ => None,
        }
    }

    fn text(&self) -> String {
        let term = |(c, k): &(i64, usize)| if *c == 1 { format!("d{k}") } else { format!("d{k} * {c}") };
        let mut terms: Vec<String> = self.terms.iter().map(term).collect();
        if self.constant != 0 || terms.is_empty() {
            terms.push(self.constant.to_string());
        }
        terms.join(" + ")
    }
}

/// `affine_map<(d0, d1) -> (d1)>`
pub(crate) fn affine_map(n_loops: usize, results: &[Affine]) -> String {
    let loops: Vec<String> = (0..n_loops).map(|k| format!("d{k}")).collect();
    let results: Vec<String> = results.iter().map(Affine::text).collect();
    format!("affine_map<({}) -> ({})>", loops.join(", "), results.join(", "))
}

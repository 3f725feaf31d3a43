//! Axes cut into tiles, and the loops over them.

use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{LoopKind, Stmt};

/// How an axis is cut into tiles: whole ones, and one partial one at the end.
pub(in crate::schedule) struct Tiles {
    /// Elements of a whole tile.
    width: i64,
    /// Whole tiles.
    whole: Dim,
    /// Elements of the last, partial tile.
    rest: i64,
    /// An axis of unknown extent is cut into units, each possibly partial.
    unknown: bool,
    /// Rows after the whole tiles of an unknown number.
    elements: Dim,
    /// What the loop over the last tile is called.
    name: &'static str,
}

/// The part of a tile that is there.
#[derive(Clone, Copy)]
pub(in crate::schedule) struct Part {
    /// Elements of the tile.
    pub width: i64,
    /// Whether some of them may lie beyond the end.
    pub partial: bool,
}

impl Tiles {
    pub fn new(extent: &Dim, width: i64, unit: i64) -> Tiles {
        let (elements, name) = (Dim::from(0), "last");
        match extent.as_const() {
            Some(n) => {
                let (whole, rest) = ((n / width).into(), n % width);
                Tiles { width, whole, rest, unknown: false, elements, name }
            }
            None => {
                let whole = extent.ceil_div(&unit.into());
                Tiles { width: unit, whole, rest: 0, unknown: true, elements, name }
            }
        }
    }

    /// The same tiles, with another name for the loop over the last one.
    pub fn named(self, name: &'static str) -> Tiles {
        Tiles { name, ..self }
    }

    /// Tiles of rows, for [`Tiles::each`]; those that are left of an unknown number are tiles of one row.
    pub fn rows(extent: &Dim, width: i64) -> Tiles {
        if extent.as_const().is_some() {
            return Tiles::new(extent, width, 1);
        }
        let whole = extent.floor_div(&width.into());
        let elements = extent.clone() - whole.clone() * width.into();
        Tiles { width, whole, rest: 0, unknown: false, elements, name: "last" }
    }

    /// The number of tiles, if it is known.
    pub fn count(&self) -> Option<i64> {
        self.whole.as_const().filter(|_| self.elements.is(0)).map(|n| n + i64::from(self.rest > 0))
    }

    /// Iterations of a loop over whole tiles, of which the last also does the partial one.
    pub fn steps(&self) -> Dim {
        if self.whole.is(0) { 1.into() } else { self.whole.clone() }
    }

    /// The statements of step `at` of [`Tiles::steps`].
    pub fn visit(&self, at: &Dim, make: &mut dyn FnMut(Dim, Part) -> Vec<Stmt>) -> Vec<Stmt> {
        let mut out = Vec::new();
        if !self.whole.is(0) {
            let part = Part { width: self.width, partial: self.unknown && self.width > 1 };
            out.extend(make(at.clone() * self.width.into(), part));
        }
        if self.rest > 0 {
            let last = make(self.whole.clone() * self.width.into(), Part { width: self.rest, partial: true });
            match self.steps().is(1) {
                true => out.extend(last),
                // One iteration in the last step, none before.
                false => {
                    let once = (at.clone() + 1.into()).floor_div(&self.steps());
                    out.push(Stmt::serial(&Sym::new(&format!("{}{}", self.name, self.width)), once, last));
                }
            }
        }
        out
    }

    /// A serial loop over all tiles.
    pub fn each(&self, var: &Sym, make: &mut dyn FnMut(Dim, Part) -> Vec<Stmt>) -> Vec<Stmt> {
        self.passes(var, 0, &mut |at, part, _| make(at, part))
    }

    /// Serial loops over all tiles, of which the first `n` are told their numbers; if there is an unknown number of
    /// tiles, they are all told that they are the first, unless `n` is 0.
    pub fn passes(
        &self,
        var: &Sym,
        n: i64,
        make: &mut dyn FnMut(Dim, Part, Option<Dim>) -> Vec<Stmt>,
    ) -> Vec<Stmt> {
        let mut out = Vec::new();
        let part = Part { width: self.width, partial: self.unknown && self.width > 1 };
        let at = || Dim::sym(var) * self.width.into();
        let Some(whole) = self.whole.as_const() else {
            let number = (n > 0).then(|| Dim::from(0));
            out.push(Stmt::serial(var, self.whole.clone(), make(at(), part, number.clone())));
            if !self.elements.is(0) {
                let at = self.whole.clone() * self.width.into() + Dim::sym(var);
                let body = make(at, Part { width: 1, partial: false }, number);
                out.push(Stmt::serial(var, self.elements.clone(), body));
            }
            return out;
        };
        let told = n.min(whole);
        for (begin, end, number) in [(0, told, Some(Dim::sym(var))), (told, whole, None)] {
            if begin < end {
                let body = make(at(), part, number);
                let (begin, end) = (begin.into(), end.into());
                out.push(Stmt::For { var: var.clone(), begin, end, kind: LoopKind::Serial, body });
            }
        }
        if self.rest > 0 {
            let number = (whole < n).then(|| whole.into());
            out.extend(make((whole * self.width).into(), Part { width: self.rest, partial: true }, number));
        }
        out
    }
}

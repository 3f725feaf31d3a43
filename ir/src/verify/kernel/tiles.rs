//! Tiles: copies, matrix instructions, and the groups of those that are asynchronous.

use super::{Checker, Entity, visit};
use crate::dim::{Atom, Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Copy, Layout, Mma, Operand, Scope, Steps, Stmt, Tile};
use crate::target::MatrixUnit;

impl Checker {
    /// The groups of a kernel.
    pub(super) fn tokens(&mut self, body: &[Stmt]) {
        let (mut begun, mut closed, mut waited) = (Vec::new(), Vec::new(), Vec::new());
        visit(body, &mut |s| match s {
            Stmt::Copy(Copy { token: Some(token), .. }) | Stmt::Mma(Mma { token: Some(token), .. }) => {
                begun.push(token.clone());
            }
            Stmt::Commit { token } => closed.push(token.clone()),
            Stmt::Wait { token, .. } => waited.push(token.clone()),
            _ => {}
        });
        for tokens in [&mut begun, &mut closed, &mut waited] {
            tokens.dedup();
        }
        let mut lacks = |of: &[Sym], there: &[Sym], message: &dyn Fn(&Sym) -> String| {
            for token in of.iter().filter(|t| !there.contains(t)) {
                self.fail(message(token));
            }
        };
        lacks(&begun, &closed, &|t| format!("the copies of group {t} are never committed"));
        lacks(&begun, &waited, &|t| format!("the copies of group {t} are never waited for"));
        lacks(&closed, &begun, &|t| format!("there are no copies of group {t} to commit"));
        lacks(&waited, &begun, &|t| format!("there are no copies of group {t} to wait for"));
    }

    pub(super) fn copy(&mut self, c: &Copy) {
        let (dst, src) = (self.array(&c.dst.buffer, true), self.array(&c.src.buffer, false));
        let (Some((dst, _)), Some((src, _))) = (dst, src) else { return };
        let is_number = |t: DType| t != DType::String && t != DType::Bool;
        let converts = dst == src || is_number(dst) && is_number(src);
        self.check(converts, format_args!("a copy from {src} to {dst}"));
        let extent = [0, 1].map(|k| self.dim(&c.extent[k]));
        let valid = match &c.valid {
            None => extent.clone(),
            Some(valid) => [0, 1].map(|k| self.dim(&valid[k])),
        };
        for (read, written) in valid.iter().zip(&extent) {
            let fits = self.values.bounds.is_nonnegative(&(written.clone() - read.clone()));
            self.check(
                fits,
                format_args!("cannot prove that it reads no more than it writes: {read} <= {written}"),
            );
        }
        self.tile(&c.dst, &extent);
        self.tile(&c.src, &valid);
        if c.dst.is_fragment() || c.src.is_fragment() {
            self.check(c.token.is_none(), "a copy of a fragment is not asynchronous");
            self.check(c.valid.is_none(), "a copy of a fragment is one of the whole");
            self.together(false);
        }
    }

    pub(super) fn mma(&mut self, m: &Mma) {
        if let Some(fresh) = &m.fresh {
            self.condition(fresh);
        }
        for (operand, tile) in m.operands() {
            if self.array(&tile.buffer, operand == Operand::C).is_none() {
                continue;
            }
            if let Layout::Fragment { intrinsic, operand: found } = &tile.layout {
                let fits = *intrinsic == m.intrinsic && *found == operand;
                let role = operand.keyword();
                self.check(fits, format_args!("operand {role} is laid out as another one's: {tile}"));
            }
            let extent = operand.extent(m.extent).map(|n| Dim::from(i64::from(n)));
            self.tile(tile, &extent);
        }
        if m.operands().iter().any(|(_, tile)| tile.is_fragment()) {
            self.together(false);
        }
    }

    /// Whether a tile of so many rows and columns lies within its buffer.
    pub(super) fn tile(&mut self, tile: &Tile, extent: &[Dim; 2]) {
        match &tile.layout {
            Layout::Steps { rows, columns } => self.steps(tile, [rows, columns], extent),
            Layout::Fragment { intrinsic, operand } => self.fragment(tile, intrinsic, *operand, extent),
        }
    }

    fn steps(&mut self, tile: &Tile, steps: [&Steps; 2], extent: &[Dim; 2]) {
        let mut resolved = |d: &Dim| self.dim(d);
        let first = resolved(&tile.first);
        let steps = steps.map(|s| Steps {
            step: resolved(&s.step),
            block: s.block.as_ref().map(|(n, outer)| (*n, resolved(outer))),
        });
        let has_blocks = steps.iter().all(|s| s.block.as_ref().is_none_or(|(n, _)| *n > 0));
        if !self.check(has_blocks, "a block has an index or more") {
            return;
        }
        let scope = self.enter();
        // An element is asked about, so that there is one: all that the extents are the least of are positive.
        for part in extent.iter().flat_map(least) {
            self.values.bounds.assume(&(part - 1.into()));
        }
        if !self.corners_are_within(tile, &first, &steps, extent) {
            let vars = [Sym::new("row of tile"), Sym::new("column of tile")];
            let mut at = first;
            for ((var, extent), steps) in vars.iter().zip(extent).zip(&steps) {
                self.values.bounds.loop_var(var, &0.into(), extent);
                at = at + steps.at(&Dim::sym(var));
            }
            self.access_at(&tile.buffer, &at.clone(), &at, false);
        }
        self.leave(scope);
    }

    /// Whether the first element and the last one of a tile are proved to lie within the buffer, and all others between.
    fn corners_are_within(&self, tile: &Tile, first: &Dim, steps: &[Steps; 2], extent: &[Dim; 2]) -> bool {
        let Some(Entity::Array { len, scope, .. }) = self.get(&tile.buffer) else { return false };
        let bounds = &self.values.bounds;
        let rises = |s: &Steps| s.block.is_none() && bounds.is_nonnegative(&s.step);
        if *scope == Scope::Register || !steps.iter().all(rises) || !bounds.is_nonnegative(first) {
            return false;
        }
        let last = |k: usize, n: &Dim| (n.clone() - 1.into()) * steps[k].step.clone();
        let [rows, columns] = [0, 1].map(|k| least(&extent[k]));
        rows.iter()
            .any(|r| columns.iter().any(|c| bounds.is_below(&(first.clone() + last(0, r) + last(1, c)), len)))
    }

    fn fragment(&mut self, tile: &Tile, intrinsic: &str, operand: Operand, extent: &[Dim; 2]) {
        let Some(unit) = MatrixUnit::named(intrinsic) else {
            return self.fail(format_args!("there is no matrix intrinsic {intrinsic}"));
        };
        let constant = |d: &Dim| d.as_const().and_then(|n| u32::try_from(n).ok());
        let [rows, columns] = Operand::extent(operand, unit.extents);
        let shown = format!("{} x {}", extent[0], extent[1]);
        let fits = |n: Option<u32>, of: crate::target::Extents| n.is_some_and(|n| of.contains(n));
        let (r, c) = (constant(&extent[0]), constant(&extent[1]));
        let role = operand.keyword();
        if !self.check(
            fits(r, rows) && fits(c, columns),
            format_args!("operand {role} of {intrinsic} has {rows} x {columns} elements, not {shown}"),
        ) {
            return;
        }
        if let Some(Entity::Array { scope, dtype, .. }) = self.get(&tile.buffer).cloned() {
            let name = &tile.buffer;
            self.check(scope == Scope::Register, format_args!("{name} holds a fragment, but is in {scope}"));
            let expected = unit.dtype(operand);
            self.check(
                dtype == expected,
                format_args!("operand {role} of {intrinsic} is {expected}, {name} is {dtype}"),
            );
        }
        let n = unit.elements([r.unwrap_or(0), c.unwrap_or(0)]);
        let first = self.dim(&tile.first);
        for at in [first.clone(), first + Dim::from(i64::from(n) - 1)] {
            self.access_at(&tile.buffer, &at.clone(), &at, false);
        }
    }
}

/// The expressions that a minimum is the least of; the expression itself if it is none.
fn least(d: &Dim) -> Vec<Dim> {
    let mut terms = d.terms();
    match (terms.next(), terms.next()) {
        (Some((1, [Atom::Min(a, b)])), None) if d.constant() == 0 => [least(a), least(b)].concat(),
        _ => vec![d.clone()],
    }
}

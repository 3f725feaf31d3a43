//! Multiplying a panel, and sums that wait between blocks of terms.

use super::super::contract::{Part, Roles, Sums, TileMaker, Tiles, best_rows};
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{finish, lanes_at, read};
use super::{Layout, Maker, tile_widths};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};

/// The most rows of a register tile.
const MAX_ROWS: i64 = 14;

impl Maker<'_> {
    /// The statements for one panel.
    pub fn panel(&mut self, layout: &Layout) -> Vec<Stmt> {
        let (copy, dtype) = self.copy(layout);
        self.panel.dtype = dtype;
        let nest = self.multiplied(layout);
        if self.terms == self.parts.terms {
            return [copy, self.tiles(&nest, layout, None)].concat();
        }
        let at = nest.axes[0].dim() * layout.multiplied.into() + nest.axes[1].dim();
        let sums = Sums { buffer: self.sums.name.clone(), at };
        let mut out = self.clear(&nest, layout, &sums);
        let tiles = self.tiles(&nest, layout, Some(&sums));
        let blocks = self.parts.terms / self.terms;
        out.push(Stmt::serial(&Sym::new("kb"), blocks.into(), [copy, tiles].concat()));
        out.extend(self.finish(&nest, layout, &sums));
        out
    }

    /// The arrays that all panels of the kernel use.
    pub fn arrays(&self) -> Vec<Stmt> {
        let waits = self.terms < self.parts.terms;
        [Some(&self.panel), Some(&self.sums).filter(|_| waits)]
            .into_iter()
            .flatten()
            .cloned()
            .map(Stmt::Alloc)
            .collect()
    }

    /// The nest of a plain contraction: rows of the other factor by columns of the panel.
    fn multiplied(&self, layout: &Layout) -> Nest {
        let (m, column) = (&self.nest.axes[self.parts.m], &self.nest.axes[self.parts.column]);
        let (k, over) = (Sym::new("kk"), self.nest.over());
        let last = over.last().map(|a| &a.var);
        let term = |s: &Sym| match over.iter().any(|a| a.var == *s) {
            true if Some(s) == last => Some(self.block.clone() * self.terms.into() + Dim::sym(&k)),
            true => Some(0.into()),
            false => None,
        };
        let local = |s: &Sym| match s {
            s if *s == m.var => Some(self.first_row.clone() + m.dim()),
            s if *s == column.var => Some(self.first_column.clone() + column.dim()),
            _ => None,
        };
        let load = Flat::Load {
            input: self.nest.inputs.len(),
            address: Dim::sym(&k) * layout.stride.into() + column.dim(),
            terms: Vec::new(),
        };
        let scalar = self.parts.scalar.subst(&term).subst(&local);
        let mut nest = self.nest.clone();
        nest.inputs.push(self.panel.clone());
        nest.axes = vec![
            Axis { var: m.var.clone(), extent: self.n_rows.into() },
            Axis { var: column.var.clone(), extent: layout.width.into() },
        ];
        nest.reduction = Some((ReduceOp::Sum, vec![Axis { var: k.clone(), extent: self.terms.into() }]));
        nest.value = Flat::Call(ScalarFn::Mul, vec![scalar, load]);
        nest.at = nest.at.subst(&local);
        nest.epilogue = nest.epilogue.map(|e| e.subst(&local));
        nest
    }

    /// The register tiles over a panel: all of one width in a loop, but the last one where it is partial.
    fn tiles(&mut self, nest: &Nest, layout: &Layout, sums: Option<&Sums>) -> Vec<Stmt> {
        let Flat::Call(_, factors) = &nest.value else { return Vec::new() };
        let roles = Roles { n: 1, m: Some(0), scalar: &factors[0], vector: &factors[1] };
        let (lanes, nr) = (i64::from(self.s.lanes), i64::from(self.s.nr));
        let widths = tile_widths(layout.width, self.s.lanes, nr);
        let is_partial = |k: usize| k + 1 == widths.len() && layout.width < layout.multiplied;
        let (mut out, mut done, mut first) = (Vec::new(), 0, 0);
        while done < widths.len() {
            let v = widths[done];
            let alike = |k: &usize| widths[*k] == v && (*k == done || !is_partial(*k));
            let count = (done..widths.len()).take_while(alike).count();
            let end = first + count as i64 * v * lanes;
            let columns = Part { width: end.min(layout.width) - first, partial: true };
            let columns = if is_partial(done) { columns } else { Part { width: v * lanes, partial: false } };
            let most = (i64::from(self.s.mr) * nr / v).min(MAX_ROWS);
            let mr = best_rows(self.n_rows as u64, most as u32);
            let rows = Tiles::new(&self.n_rows.into(), mr.into(), 1);
            let (it, jt) = (Sym::new("it"), Sym::new("jt"));
            let n0 = Dim::from(first) + if count > 1 { Dim::sym(&jt) * (v * lanes).into() } else { 0.into() };
            let (s, axes, frame) = (self.s, self.axes.clone(), &mut *self.frame);
            let (sums, terms, ask) = (sums.cloned(), None, None);
            let mut tile =
                TileMaker { nest, s, roles: &roles, axes, sums, terms, finishes: false, ask, frame };
            let body = rows.each(&it, &mut |m0, part| tile.make(m0, part, n0.clone(), columns));
            out.extend(if count > 1 { vec![Stmt::serial(&jt, (count as i64).into(), body)] } else { body });
            (done, first) = (done + count, end);
        }
        out
    }

    /// Sets the sums to zero.
    fn clear(&self, nest: &Nest, layout: &Layout, sums: &Sums) -> Vec<Stmt> {
        let (it, lanes) = (Sym::new("it"), self.s.lanes);
        let zero = Value::new(Expr::Const(nest.acc, Scalar::zero(nest.acc)), nest.acc, 1);
        let at = lanes_at(Dim::sym(&it) * i64::from(lanes).into(), lanes);
        let count = self.n_rows * layout.multiplied / i64::from(lanes);
        vec![Stmt::serial(&it, count.into(), vec![Stmt::store(&sums.buffer, at, zero.widen(lanes))])]
    }

    /// Stores what is made of the sums.
    fn finish(&mut self, nest: &Nest, layout: &Layout, sums: &Sums) -> Vec<Stmt> {
        let (it, lanes) = (Sym::new("it"), i64::from(self.s.lanes));
        let (m, column) = (&nest.axes[0], &nest.axes[1]);
        let mut row = Vec::new();
        for first in (0..layout.multiplied).step_by(lanes as usize) {
            let mut axes = self.axes.clone();
            axes.insert(m.var.clone(), Dim::sym(&it));
            axes.insert(column.var.clone(), Dim::from(first) + Dim::sym(&lane()));
            let mut e = Emitter::new(nest, axes, self.s.lanes, self.frame);
            let is_partial = first + lanes > layout.width;
            let mask = is_partial.then(|| e.tail(&column.dim(), &column.extent));
            row.extend(e.take_lets());
            let at = Dim::sym(&it) * layout.multiplied.into() + first.into();
            let sum = e.bind(read(&sums.buffer, at, self.s.lanes, nest.acc));
            row.extend(finish(&mut e, nest, sum, mask.as_ref()));
        }
        vec![Stmt::serial(&it, self.n_rows.into(), row)]
    }
}

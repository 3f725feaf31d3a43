//! What differs between threads, and where control flow parts them.

use super::{Checker, Entity};
use crate::dim::{Dim, Sym};
use crate::kernel::{Expr, Level, LoopKind, Scope};

/// Between which threads of a block a value may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spread {
    /// It is the same in all of them.
    #[default]
    None,
    /// It differs between warps only.
    Warps,
    /// It differs within a warp.
    Threads,
}

impl Checker {
    /// Notes what a loop's variable or a bound variable is.
    pub(super) fn spread_out(&mut self, var: &Sym, spread: Spread) {
        self.spreads.insert(var.clone(), spread);
    }

    /// The spread of a loop's variable.
    pub(super) fn spread_of_loop(&self, kind: LoopKind, begin: &Dim, end: &Dim) -> Spread {
        let own = match kind {
            LoopKind::Bind(Level::Warp) => Spread::Warps,
            LoopKind::Bind(Level::Thread(_) | Level::VectorCore) => Spread::Threads,
            _ => Spread::None,
        };
        own.max(self.spread_of_dim(begin)).max(self.spread_of_dim(end))
    }

    pub(super) fn spread_of_dim(&self, d: &Dim) -> Spread {
        d.symbols().iter().filter_map(|s| self.spreads.get(s)).max().copied().unwrap_or_default()
    }

    pub(super) fn spread_of(&self, e: &Expr) -> Spread {
        let most = |parts: &[&Expr]| parts.iter().map(|e| self.spread_of(e)).max().unwrap_or_default();
        match e {
            Expr::Const(..) => Spread::None,
            Expr::Index(d) => self.spread_of_dim(d),
            Expr::Ramp { base, stride, .. } => self.spread_of_dim(base).max(self.spread_of_dim(stride)),
            Expr::Broadcast(e, _) | Expr::Cast(_, e) | Expr::Horizontal(_, e) => self.spread_of(e),
            Expr::Var(name, _) => self.spreads.get(name).copied().unwrap_or_default(),
            Expr::Load { buffer, index, mask } => {
                let private = match self.get(buffer) {
                    Some(Entity::Array { scope: Scope::Register | Scope::Stack, .. }) => Spread::Threads,
                    _ => Spread::None,
                };
                let mask = mask.as_ref().map_or(Spread::None, |m| self.spread_of(m));
                private.max(self.spread_of(index)).max(mask)
            }
            Expr::Call(_, args) => most(&args.iter().collect::<Vec<_>>()),
        }
    }

    /// Checks what is within a condition or a loop's extent that may differ between threads.
    pub(super) fn parted(&mut self, by: Spread, check: impl FnOnce(&mut Self)) {
        let before = self.spread;
        self.spread = before.max(by);
        check(self);
        self.spread = before;
    }

    /// Checks that all threads of a block, or of a warp, come here.
    pub(super) fn together(&mut self, of_block: bool) {
        let (threads, most) = match of_block {
            true => ("a block", Spread::None),
            false => ("a warp", Spread::Warps),
        };
        self.check(
            self.spread <= most,
            format_args!("not all threads of {threads} come here: a condition around differs between them"),
        );
    }
}

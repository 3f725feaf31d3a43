//! Barriers in shared memory, and copies whose bytes come to them.

use super::{Checker, Entity};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Along, Element, Event, Fetch, Phase, Scope};

impl Checker {
    pub(super) fn phase(&mut self, p: &Phase) {
        self.barrier(&p.barrier);
        match &p.event {
            Event::Begin { arrivals } => drop(self.check(*arrivals > 0, "no warp ever arrives")),
            Event::Arrive { .. } => {}
            Event::Wait { parity } => drop(self.dim(parity)),
        }
        self.together(false);
    }

    fn barrier(&mut self, b: &Element) {
        let name = &b.buffer;
        let is_barrier =
            matches!(self.get(name), Some(Entity::Array { dtype: DType::U64, scope: Scope::Shared, .. }));
        if self.check(is_barrier, format_args!("{name} is no array of u64 in shared memory")) {
            let at = self.dim(&b.at);
            self.access_at(name, &at, &b.at, false);
        }
    }

    pub(super) fn fetch(&mut self, f: &Fetch) {
        self.barrier(&f.barrier);
        self.together(false);
        let (dst, src) = (self.array(&f.dst.buffer, true), self.array(&f.src.buffer, false));
        let (Some((dst, _)), Some((src, _))) = (dst, src) else { return };
        self.check(dst == src, format_args!("a box of {src} is copied to {dst}"));
        self.check(f.axes.len() >= 2, "a box has two axes or more");
        self.check(!f.dst.is_fragment(), "a box is copied to memory");
        self.tile(&f.dst, &f.extent.map(|n| Dim::from(i64::from(n))));
        f.axes.iter().for_each(|a| drop(self.dim(&a.at)));
        self.check_array(f);
    }

    /// Checks that the array lies within the buffer, if it has an element.
    fn check_array(&mut self, f: &Fetch) {
        let scope = self.enter();
        let mut at = self.dim(&f.src.at);
        for (k, Along { extent, step, .. }) in f.axes.iter().enumerate() {
            let (extent, step) = (self.dim(extent), self.dim(step));
            let var = Sym::new(&format!("axis {k} of array"));
            self.values.bounds.loop_var(&var, &0.into(), &extent);
            at = at + Dim::sym(&var) * step;
        }
        self.access_at(&f.src.buffer, &at.clone(), &at, false);
        self.leave(scope);
    }
}

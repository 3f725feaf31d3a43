//! A loop nest to be scheduled: one stage of a compute, with flat addresses and as few axes as possible.
//!
//! Loads and the store become linear addresses into their buffers, and adjacent axes that every address and condition treats as
//! one (`a * n + b`) are merged, so that schedules see the true contiguity of memory.

use super::phase::{Part, Phase, phases};
use aic_ir::bail;
use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Source};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Scope};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::types::Type;
use std::collections::{BTreeSet, HashMap};

/// A phase of a compute, ready for scheduling.
#[derive(Clone, Debug)]
pub struct Nest {
    /// The buffers that it loads.
    pub inputs: Vec<Buffer>,
    /// Those of them that may be laid out for it: constants of which the kernel has but one load.
    pub constants: BTreeSet<usize>,
    /// Output axes, outermost first.
    pub axes: Vec<Axis>,
    /// How values are combined, and over what.
    pub reduction: Option<(ReduceOp, Vec<Axis>)>,
    /// Type of the reduction's result, or of the element.
    pub acc: DType,
    /// The element, or the reduction's summand.
    pub value: Flat,
    /// What is stored, in terms of [`Flat::Acc`]; `None` for the accumulator itself.
    pub epilogue: Option<Flat>,
    /// Where results are stored.
    pub output: Buffer,
    /// The address of a result there, different at every point of the axes.
    pub at: Dim,
    /// Where summands are stored too: the address is different at every point of the axes and those reduced over.
    pub kept: Option<(Buffer, Dim)>,
    /// The output axis of which it has only a part.
    pub part: Option<Part>,
}

/// Where arrays lie: operands and results of stages.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrays {
    /// The buffers that hold them.
    pub buffers: Vec<Buffer>,
    /// Those of them that may be laid out for a kernel.
    pub constants: BTreeSet<usize>,
    /// The place of each.
    pub places: HashMap<Source, Place>,
}

/// The place of an array: `offset + sum of stride * index` in a buffer.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Which of the buffers.
    pub buffer: usize,
    /// One per dimension of the array.
    pub strides: Vec<Dim>,
    /// Where the first element is.
    pub offset: Dim,
}

impl Arrays {
    /// Puts an array into a buffer of its own, row-major.
    pub fn push(&mut self, source: Source, name: &str, ty: &Type) {
        let strides = strides(ty.dims.iter());
        self.places.insert(source, Place { buffer: self.buffers.len(), strides, offset: 0.into() });
        let (name, dtype) = (Sym::new(name), ty.dtype);
        self.buffers.push(Buffer { name, dtype, len: ty.numel(), scope: Scope::Global });
    }

    /// All arrays of a compute, each as a whole.
    pub fn whole(c: &Compute) -> Arrays {
        let mut arrays = Arrays { constants: free_constants(c), ..Arrays::default() };
        for (k, ty) in c.inputs.iter().enumerate() {
            arrays.push(Source::Input(k), &format!("x{k}"), ty);
        }
        for (k, s) in c.stages.iter().enumerate() {
            arrays.push(Source::Stage(k), &format!("s{k}"), &s.ty());
        }
        arrays
    }

    fn address(&self, place: &Place, at: &[Dim]) -> Dim {
        let terms = place.strides.iter().zip(at);
        terms.fold(place.offset.clone(), |sum, (stride, i)| sum + i.clone() * stride.clone())
    }

    fn stored(&self, stage: usize, at: &[Dim]) -> Result<(Buffer, Dim)> {
        let place = self.place(Source::Stage(stage))?;
        Ok((self.buffers[place.buffer].clone(), self.address(place, at)))
    }

    fn place(&self, source: Source) -> Result<&Place> {
        match self.places.get(&source) {
            Some(place) => Ok(place),
            None => bail!("the kernel holds no array {source}"),
        }
    }
}

/// An element expression with linear addresses.
#[derive(Clone, Debug, PartialEq)]
pub enum Flat {
    /// A constant.
    Const(DType, Scalar),
    /// An index expression.
    Index(Dim),
    /// The finished reduction, in an epilogue.
    Acc,
    /// An element of an input at `address + sum of stride * term`.
    Load {
        /// Which input.
        input: usize,
        /// The part of the address that is an index expression.
        address: Dim,
        /// Data-dependent parts: stride and index.
        terms: Vec<(Dim, Flat)>,
    },
    /// A scalar function; `select` evaluates one side.
    Call(ScalarFn, Vec<Flat>),
    /// A conversion.
    Cast(DType, Box<Flat>),
}

impl Nest {
    /// The nest of a compute that is one phase: a stage, or a reduction and a map over its result.
    pub fn new(c: &Compute) -> Result<Nest> {
        let [phase] = &phases(c)[..] else {
            bail!("expected a stage, or a reduction and a map over it, found {} stages", c.stages.len())
        };
        let mut arrays = Arrays { constants: free_constants(c), ..Arrays::default() };
        for (k, ty) in c.inputs.iter().enumerate() {
            arrays.push(Source::Input(k), &format!("x{k}"), ty);
        }
        arrays.push(Source::Stage(phase.result), "y", &c.stages[phase.result].ty());
        Nest::of(phase, &arrays, &|_| None)
    }

    /// The nest of a phase within loops: `outer` says what the axes are that it isn't to loop over.
    pub(super) fn of(p: &Phase, arrays: &Arrays, outer: &dyn Fn(&Sym) -> Option<Dim>) -> Result<Nest> {
        let (output, at) = arrays.stored(p.result, &p.at)?;
        let flat = |e: &Expr| flatten(e, p.main, arrays);
        let mut nest = Nest {
            inputs: arrays.buffers.clone(),
            constants: arrays.constants.clone(),
            axes: p.axes.clone(),
            reduction: p.reduction.clone(),
            acc: p.acc,
            value: flat(&p.value)?,
            epilogue: p.epilogue.as_ref().map(flat).transpose()?,
            output,
            at,
            kept: p.kept.as_ref().map(|(stage, at)| arrays.stored(*stage, at)).transpose()?,
            part: p.part.clone(),
        };
        nest.axes.retain(|a| outer(&a.var).is_none());
        nest.subst(outer);
        nest.rename_axes();
        nest.collapse();
        Ok(nest)
    }

    /// Replaces symbols everywhere.
    fn subst(&mut self, f: &dyn Fn(&Sym) -> Option<Dim>) {
        self.value = self.value.subst(f);
        self.epilogue = self.epilogue.as_ref().map(|e| e.subst(f));
        self.at = self.at.subst(f);
        if let Some((_, at)) = &mut self.kept {
            *at = at.subst(f);
        }
        for a in self.reduction.iter_mut().flat_map(|(_, over)| over) {
            a.extent = a.extent.subst(f);
        }
    }

    /// Calls the output axes `i0, i1, ..` and those reduced over `k0, k1, ..`: names that no schedule uses otherwise,
    /// and equal for equal nests.
    fn rename_axes(&mut self) {
        let mut names: Vec<(Sym, Sym)> = Vec::new();
        let mut rename = |axes: &mut [Axis], prefix: &str| {
            for (k, a) in axes.iter_mut().enumerate() {
                let name = Sym::new(&format!("{prefix}{k}"));
                names.push((std::mem::replace(&mut a.var, name.clone()), name));
            }
        };
        rename(&mut self.axes, "i");
        if let Some((_, over)) = &mut self.reduction {
            rename(over, "k");
        }
        let renamed = |s: &Sym| names.iter().find(|(old, _)| old == s).map(|(_, new)| new);
        self.part = self.part.take().and_then(|p| Some(Part { var: renamed(&p.var)?.clone(), ..p }));
        self.subst(&|s| renamed(s).map(Dim::sym));
    }

    /// Axes reduced over.
    pub fn over(&self) -> &[Axis] {
        self.reduction.as_ref().map_or(&[], |(_, axes)| axes)
    }

    /// Bytes of the widest element that the nest loads, computes with, or stores.
    pub fn widest(&self) -> usize {
        let mut widest = self.output.dtype.size().max(self.acc.size());
        for e in std::iter::once(&self.value).chain(&self.epilogue) {
            e.visit(&mut |e| match e {
                Flat::Load { input, .. } => widest = widest.max(self.inputs[*input].dtype.size()),
                Flat::Cast(t, _) | Flat::Const(t, _) => widest = widest.max(t.size()),
                _ => {}
            });
        }
        widest
    }

    /// Every index expression and address in the nest.
    fn visit_dims(&self, f: &mut dyn FnMut(&Dim)) {
        f(&self.at);
        self.kept.iter().for_each(|(_, at)| f(at));
        for e in std::iter::once(&self.value).chain(&self.epilogue) {
            e.visit(&mut |e| match e {
                Flat::Index(d) | Flat::Load { address: d, .. } => f(d),
                _ => {}
            });
        }
        for a in self.over() {
            f(&a.extent);
        }
    }

    fn collapse(&mut self) {
        self.drop_unit_axes();
        while let Some((outer, inner, of_output)) = self.mergeable() {
            let extent = outer.extent.clone() * inner.extent.clone();
            self.subst(&|s| (*s == outer.var).then(|| Dim::from(0)));
            let axes = match (&mut self.reduction, of_output) {
                (Some((_, over)), false) => over,
                _ => &mut self.axes,
            };
            axes.retain(|a| a.var != outer.var);
            self.part = self.part.take().filter(|p| ![&outer.var, &inner.var].contains(&&p.var));
            for a in axes.iter_mut().filter(|a| a.var == inner.var) {
                a.extent = extent.clone();
            }
        }
    }

    /// Removes axes of extent 1; their variables are 0 everywhere.
    fn drop_unit_axes(&mut self) {
        let mut dropped: Vec<Sym> = Vec::new();
        let mut drop = |axes: &mut Vec<Axis>| {
            dropped.extend(axes.iter().filter(|a| a.extent.is(1)).map(|a| a.var.clone()));
            axes.retain(|a| !a.extent.is(1));
        };
        drop(&mut self.axes);
        if let Some((op, over)) = &mut self.reduction
            && op.combine().is_some()
        {
            drop(over);
        }
        self.subst(&|s| dropped.contains(s).then(|| Dim::from(0)));
    }

    /// Two adjacent axes that can be one: outer, inner, and whether they are output axes.
    fn mergeable(&self) -> Option<(Axis, Axis, bool)> {
        let reorderable = self.reduction.as_ref().is_some_and(|(op, _)| op.combine().is_some());
        let over = if reorderable { self.over() } else { &[] };
        for (axes, of_output) in [(&self.axes[..], true), (over, false)] {
            for pair in axes.windows(2) {
                if self.acts_as_one(&pair[0], &pair[1]) {
                    return Some((pair[0].clone(), pair[1].clone(), of_output));
                }
            }
        }
        None
    }

    fn acts_as_one(&self, outer: &Axis, inner: &Axis) -> bool {
        if self.over().iter().any(|a| a.extent.mentions(&outer.var) || a.extent.mentions(&inner.var)) {
            return false;
        }
        let mut ok = true;
        self.visit_dims(&mut |d| ok &= is_joint(d, outer, inner));
        ok
    }

    /// Whether results at `outer + 1` follow, in all that the epilogue reads and writes, those along `inner`.
    pub fn continues(&self, outer: &Axis, inner: &Axis) -> bool {
        is_joint(&self.at, outer, inner) && self.epilogue.iter().all(|e| e.is_joint(outer, inner))
    }
}

/// The constants that a compute loads in one place only, so that nothing else minds where their elements are.
pub(super) fn free_constants(c: &Compute) -> BTreeSet<usize> {
    let mut n_loads = vec![0; c.inputs.len()];
    for s in &c.stages {
        s.value.visit(&mut |e| {
            if let Expr::Load(Source::Input(k), _) = e {
                n_loads[*k] += 1;
            }
        });
    }
    c.constants.iter().copied().filter(|k| n_loads[*k] == 1).collect()
}

/// Whether an index expression depends on two axes as if they were one.
fn is_joint(d: &Dim, outer: &Axis, inner: &Axis) -> bool {
    let (Some((co, rest)), Some((ci, _))) = (d.affine_in(&outer.var), d.affine_in(&inner.var)) else {
        return false;
    };
    co == ci * inner.extent.clone() && rest.affine_in(&inner.var).is_some()
}

/// Row-major strides of extents.
pub(super) fn strides<'a>(extents: impl DoubleEndedIterator<Item = &'a Dim>) -> Vec<Dim> {
    let mut out: Vec<Dim> = Vec::new();
    let mut stride = Dim::from(1);
    for e in extents.rev() {
        out.push(stride.clone());
        stride = stride * e.clone();
    }
    out.reverse();
    out
}

/// An expression with linear addresses; loads of stage `main` are those of the accumulator.
fn flatten(e: &Expr, main: usize, arrays: &Arrays) -> Result<Flat> {
    Ok(match e {
        Expr::Const(t, s) => Flat::Const(*t, *s),
        Expr::Index(d) => Flat::Index(d.clone()),
        Expr::Load(Source::Stage(k), _) if *k == main => Flat::Acc,
        Expr::Load(source, at) => {
            let place = arrays.place(*source)?;
            let (mut address, mut terms) = (place.offset.clone(), Vec::new());
            for (stride, i) in place.strides.iter().zip(at) {
                match i {
                    Expr::Index(d) => address = address + d.clone() * stride.clone(),
                    _ => terms.push((stride.clone(), flatten(i, main, arrays)?)),
                }
            }
            Flat::Load { input: place.buffer, address, terms }
        }
        Expr::Call(f, args) => {
            Flat::Call(*f, args.iter().map(|a| flatten(a, main, arrays)).collect::<Result<_>>()?)
        }
        Expr::Cast(t, e) => Flat::Cast(*t, flatten(e, main, arrays)?.into()),
    })
}

impl Flat {
    /// Replaces symbols in every index expression.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Flat {
        match self {
            Flat::Const(..) | Flat::Acc => self.clone(),
            Flat::Index(d) => Flat::Index(d.subst(f)),
            Flat::Load { input, address, terms } => Flat::Load {
                input: *input,
                address: address.subst(f),
                terms: terms.iter().map(|(s, e)| (s.subst(f), e.subst(f))).collect(),
            },
            Flat::Call(g, args) => Flat::Call(*g, args.iter().map(|a| a.subst(f)).collect()),
            Flat::Cast(t, e) => Flat::Cast(*t, e.subst(f).into()),
        }
    }

    /// Calls `f` on this expression and everything below it.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Flat)) {
        f(self);
        match self {
            Flat::Const(..) | Flat::Acc | Flat::Index(_) => {}
            Flat::Load { terms, .. } => terms.iter().for_each(|(_, e)| e.visit(f)),
            Flat::Call(_, args) => args.iter().for_each(|e| e.visit(f)),
            Flat::Cast(_, e) => e.visit(f),
        }
    }

    /// Whether it is an element of an array, possibly converted: zero where its load is masked.
    pub fn is_load(&self) -> bool {
        match self {
            Flat::Load { .. } => true,
            Flat::Cast(_, e) => e.is_load(),
            _ => false,
        }
    }

    /// Every load below.
    pub fn loads(&self) -> Vec<&Flat> {
        let mut out = Vec::new();
        self.visit(&mut |e| {
            if matches!(e, Flat::Load { .. }) {
                out.push(e);
            }
        });
        out
    }

    /// Whether a symbol occurs in any index expression.
    pub fn mentions(&self, s: &Sym) -> bool {
        let mut found = false;
        self.visit(&mut |e| match e {
            Flat::Index(d) | Flat::Load { address: d, .. } => found |= d.mentions(s),
            _ => {}
        });
        found
    }

    /// Whether every index expression in it depends on two axes as if they were one.
    pub fn is_joint(&self, outer: &Axis, inner: &Axis) -> bool {
        let mut joint = true;
        self.visit(&mut |e| match e {
            Flat::Index(d) | Flat::Load { address: d, .. } => joint &= is_joint(d, outer, inner),
            _ => {}
        });
        joint
    }

    /// The step of every load's address from one value of `s` to the next; `None` where it isn't affine in `s`.
    pub fn steps(&self, s: &Sym) -> Vec<Option<Dim>> {
        self.loads()
            .into_iter()
            .map(|e| match e {
                Flat::Load { address, terms, .. } if !terms.iter().any(|(_, t)| t.mentions(s)) => {
                    address.affine_in(s).map(|(step, _)| step)
                }
                _ => None,
            })
            .collect()
    }
}

//! A loop nest to be scheduled: one stage of a compute, with flat addresses and as few axes as possible.
//!
//! Loads and the store become linear addresses into their buffers, and adjacent axes that every address and condition treats as
//! one (`a * n + b`) are merged, so that schedules see the true contiguity of memory.

use aic_ir::bail;
use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Source};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Scope};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::types::Type;

/// A stage ready for scheduling.
#[derive(Clone, Debug)]
pub struct Nest {
    /// The buffers that it loads.
    pub inputs: Vec<Buffer>,
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
    /// The nest of a compute of one stage, or of a reduction and a map over its result.
    pub fn new(c: &Compute) -> Result<Nest> {
        let (stage, epilogue) = match &c.stages[..] {
            [stage] => (stage, None),
            [stage, epilogue] => (stage, Some(epilogue)),
            stages => bail!("a kernel has one or two stages, found {}", stages.len()),
        };
        let mut nest = Nest {
            inputs: c.inputs.iter().enumerate().map(|(k, t)| param(&format!("x{k}"), t)).collect(),
            axes: stage.axes.clone(),
            reduction: stage.reduction.as_ref().map(|r| (r.op, r.axes.clone())),
            acc: stage.dtype,
            value: flatten(&stage.value, &c.inputs)?,
            epilogue: None,
            output: param("y", &stage.ty()),
            at: row_major(&stage.axes),
        };
        if let Some(e) = epilogue {
            let rename = |s: &Sym| e.axes.iter().position(|a| a.var == *s).map(|k| stage.axes[k].dim());
            nest.epilogue = Some(flatten(&e.value.subst(&rename), &c.inputs)?);
            nest.output.dtype = e.dtype;
        }
        nest.rename_axes();
        nest.collapse();
        Ok(nest)
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
        let new = |s: &Sym| names.iter().find(|(old, _)| old == s).map(|(_, new)| Dim::sym(new));
        self.value = self.value.subst(&new);
        self.epilogue = self.epilogue.as_ref().map(|e| e.subst(&new));
        self.at = self.at.subst(&new);
        for a in self.reduction.iter_mut().flat_map(|(_, over)| over) {
            a.extent = a.extent.subst(&new);
        }
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
            let drop_outer = |s: &Sym| (*s == outer.var).then(|| Dim::from(0));
            self.value = self.value.subst(&drop_outer);
            self.epilogue = self.epilogue.as_ref().map(|e| e.subst(&drop_outer));
            self.at = self.at.subst(&drop_outer);
            let axes = match (&mut self.reduction, of_output) {
                (Some((_, over)), false) => over,
                _ => &mut self.axes,
            };
            axes.retain(|a| a.var != outer.var);
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
        let zero = |s: &Sym| dropped.contains(s).then(|| Dim::from(0));
        self.value = self.value.subst(&zero);
        self.epilogue = self.epilogue.as_ref().map(|e| e.subst(&zero));
        self.at = self.at.subst(&zero);
        for a in self.reduction.iter_mut().flat_map(|(_, over)| over) {
            a.extent = a.extent.subst(&zero);
        }
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
        self.visit_dims(&mut |d| {
            let (Some((co, rest)), Some((ci, _))) = (d.affine_in(&outer.var), d.affine_in(&inner.var)) else {
                ok = false;
                return;
            };
            ok &= co == ci * inner.extent.clone() && rest.affine_in(&inner.var).is_some();
        });
        ok
    }
}

/// A buffer passed by the caller.
fn param(name: &str, ty: &Type) -> Buffer {
    Buffer { name: Sym::new(name), dtype: ty.dtype, len: ty.numel(), scope: Scope::Global }
}

/// The row-major address over axes.
fn row_major(axes: &[Axis]) -> Dim {
    let strides = strides(axes.iter().map(|a| &a.extent));
    axes.iter().zip(strides).fold(0.into(), |at, (a, stride)| at + a.dim() * stride)
}

/// Row-major strides of extents.
fn strides<'a>(extents: impl DoubleEndedIterator<Item = &'a Dim>) -> Vec<Dim> {
    let mut out: Vec<Dim> = Vec::new();
    let mut stride = Dim::from(1);
    for e in extents.rev() {
        out.push(stride.clone());
        stride = stride * e.clone();
    }
    out.reverse();
    out
}

fn flatten(e: &Expr, inputs: &[Type]) -> Result<Flat> {
    Ok(match e {
        Expr::Const(t, s) => Flat::Const(*t, *s),
        Expr::Index(d) => Flat::Index(d.clone()),
        Expr::Load(Source::Stage(_), _) => Flat::Acc,
        Expr::Load(Source::Input(k), at) => {
            let (mut address, mut terms) = (Dim::from(0), Vec::new());
            for (stride, i) in strides(inputs[*k].dims.iter()).into_iter().zip(at) {
                match i {
                    Expr::Index(d) => address = address + d.clone() * stride,
                    _ => terms.push((stride, flatten(i, inputs)?)),
                }
            }
            Flat::Load { input: *k, address, terms }
        }
        Expr::Call(f, args) => {
            Flat::Call(*f, args.iter().map(|a| flatten(a, inputs)).collect::<Result<_>>()?)
        }
        Expr::Cast(t, e) => Flat::Cast(*t, flatten(e, inputs)?.into()),
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

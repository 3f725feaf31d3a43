//! Nests on an NPU's vector cores: some consecutive elements along one axis at a time. What they need of each operand is
//! copied into the unified buffer, or put there element by element where it isn't consecutive; loops over the unified
//! buffer compute, which are single instructions of the machine; results are copied out.

use super::Frame;
use super::emit::Emitter;
use super::nest::{Flat, Nest};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Copy, Level, LoopKind, Scope, Stmt, Tile};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::Target;
use std::collections::HashMap;

/// Elements of a vector instruction's repeat of 256 bytes, of the narrowest type computed with.
const REPEAT: i64 = 64;
/// Bytes that buffers begin at multiples of.
const BLOCK: i64 = 32;
/// The most elements worked on at a time.
const MAX_WIDTH: i64 = 8192;
/// Vector cores of a core.
const VECTOR_CORES: i64 = 2;

/// What a vector core holds of operands, for elements that are consecutive along an axis.
pub(super) struct Unified<'a> {
    nest: &'a Nest,
    /// The axis, its value at the first element, and how many elements there are.
    pub along: &'a Axis,
    pub first: Dim,
    pub n: Dim,
    /// The most that there can be.
    pub width: i64,
    /// What the other axes are.
    pub axes: HashMap<Sym, Dim>,
    /// Begins the names of its buffers.
    prefix: &'static str,
    /// Buffers and what they hold.
    loads: Vec<(Buffer, Flat)>,
    /// Allocations and copies.
    out: Vec<Stmt>,
}

/// The elements' number.
pub(super) fn lane() -> Sym {
    Sym::new("i")
}

pub(super) fn alloc(name: &str, dtype: DType, len: i64) -> Buffer {
    let per_block = BLOCK / dtype.size().max(1) as i64;
    let len = (len + per_block - 1) / per_block * per_block;
    Buffer { name: Sym::new(name), dtype, len: len.into(), scope: Scope::Ub }
}

/// How many elements to work on at a time, where each takes so many bytes of the unified buffer.
pub(super) fn width(target: &Target, bytes: i64, extent: &Dim) -> i64 {
    let all = target.space(Scope::Ub).and_then(|s| s.bytes).unwrap_or(1 << 16) as i64;
    let most = (all / bytes.max(1)).clamp(REPEAT, MAX_WIDTH);
    // A power of two, so that rows of tiles begin well aligned.
    let most = 1i64 << most.ilog2();
    extent.as_const().map_or(most, |n| most.min((n + REPEAT - 1) / REPEAT * REPEAT)).max(REPEAT)
}

/// Bytes of the unified buffer that each element of an expression takes: operands twice, to fill one buffer while the
/// other is used, and values in between.
pub(super) fn bytes_per_element(nest: &Nest) -> i64 {
    let mut bytes = 2 * nest.output.dtype.size().max(4) as i64;
    for e in std::iter::once(&nest.value).chain(&nest.epilogue) {
        for l in e.loads() {
            if let Flat::Load { input, .. } = l {
                bytes += 2 * nest.inputs[*input].dtype.size() as i64;
            }
        }
    }
    bytes + 4 * temporaries(nest).min(10) + 8
}

/// Buffers that hold values in between, at most.
pub(super) fn temporaries(nest: &Nest) -> i64 {
    let mut calls = 0;
    for e in std::iter::once(&nest.value).chain(&nest.epilogue) {
        e.visit(&mut |e| match e {
            Flat::Call(f, _) => calls += if is_expanded(*f) { 4 } else { 1 },
            Flat::Cast(..) => calls += 1,
            _ => {}
        });
    }
    calls
}

/// Calls `f` on every buffer that statements allocate.
pub(super) fn allocations(body: &[Stmt], f: &mut dyn FnMut(&Buffer)) {
    for s in body {
        match s {
            Stmt::Alloc(b) => f(b),
            Stmt::For { body, .. } => allocations(body, f),
            Stmt::If { then, other, .. } => {
                allocations(then, f);
                allocations(other, f);
            }
            _ => {}
        }
    }
}

/// Functions that take many instructions.
fn is_expanded(f: ScalarFn) -> bool {
    use ScalarFn::*;
    !matches!(f, Add | Sub | Mul | Div | Min | Max | Neg | Abs | Exp | Log | Sqrt)
}

/// Items of work that workers take in turn.
pub(super) struct Items {
    /// How many items a worker takes, in a loop over `tile`.
    pub turns: Dim,
    /// Where an item is along each of the extents.
    pub index: Vec<Dim>,
    /// What of that has names.
    names: Vec<(Sym, Dim)>,
}

impl Items {
    /// The points of some extents, which as many workers share.
    pub fn new(extents: &[Dim], workers: i64, worker: &Dim) -> Items {
        let n: Dim = extents.iter().product();
        let id = Dim::named("tile") * workers.into() + worker.clone();
        let turns = (n.clone() - worker.clone() + (workers - 1).into()).floor_div(&workers.into());
        if extents.iter().filter(|e| !e.is(1)).count() < 2 {
            return Items { turns, index: aic_ir::op::unflatten(&id, extents), names: Vec::new() };
        }
        // Plainly one of the items, which the number of turns says too.
        let is_even = n.as_const().is_some_and(|n| n % workers == 0);
        let item = if is_even { id } else { id.minimum(&(n - 1.into())) };
        let (one, mut names) = named("item", vec![item]);
        let (index, more) = named("at", aic_ir::op::unflatten(&one[0], extents));
        names.extend(more);
        Items { turns, index, names }
    }

    /// What is done for an item.
    pub fn each(self, body: Vec<Stmt>) -> Stmt {
        Stmt::serial(&Sym::new("tile"), self.turns, with_names(self.names, body))
    }
}

/// Names for what indices are, where that is more than a number; and what they stand for.
pub(super) fn named(prefix: &str, values: Vec<Dim>) -> (Vec<Dim>, Vec<(Sym, Dim)>) {
    let mut names = Vec::new();
    let name = |(k, value): (usize, Dim)| {
        if value.as_const().is_some() {
            return value;
        }
        let sym = Sym::new(&format!("{prefix}{k}"));
        names.push((sym.clone(), value));
        Dim::sym(&sym)
    };
    let index = values.into_iter().enumerate().map(name).collect();
    (index, names)
}

/// Statements in which names stand for indices: loops of one turn, whose variables' ranges are known.
pub(super) fn with_names(names: Vec<(Sym, Dim)>, body: Vec<Stmt>) -> Vec<Stmt> {
    names.into_iter().rev().fold(body, |body, (var, begin)| {
        let end = begin.clone() + 1.into();
        vec![Stmt::For { var, begin, end, kind: LoopKind::Serial, body }]
    })
}

/// A loop over all vector cores, in which each takes points of the extents in turn: `item` makes what is done for one.
pub(super) fn on_cores(
    extents: &[Dim],
    target_cores: u32,
    item: impl FnOnce(&[Dim]) -> Option<Vec<Stmt>>,
) -> Option<Vec<Stmt>> {
    on_cores_after(extents, target_cores, |index| item(index).map(|body| (Vec::new(), body)))
}

/// As [`on_cores`]: `item` makes what is done for one, and what each core does before its first.
pub(super) fn on_cores_after(
    extents: &[Dim],
    target_cores: u32,
    item: impl FnOnce(&[Dim]) -> Option<(Vec<Stmt>, Vec<Stmt>)>,
) -> Option<Vec<Stmt>> {
    let most = i64::from(target_cores.max(1));
    let n_items: Dim = extents.iter().product();
    let cores = n_items.as_const().map_or(most, |n| most.min((n + VECTOR_CORES - 1) / VECTOR_CORES)).max(1);
    let worker = Dim::named("core") * VECTOR_CORES.into() + Dim::named("half");
    let items = Items::new(extents, cores * VECTOR_CORES, &worker);
    let (mut body, one) = item(&items.index)?;
    body.push(items.each(one));
    let half = Stmt::loop_of(&Sym::new("half"), VECTOR_CORES.into(), LoopKind::Bind(Level::VectorCore), body);
    Some(vec![Stmt::loop_of(&Sym::new("core"), cores.into(), LoopKind::Bind(Level::Core), vec![half])])
}

impl<'a> Unified<'a> {
    pub fn new(
        nest: &'a Nest,
        along: &'a Axis,
        [first, n]: [Dim; 2],
        width: i64,
        axes: HashMap<Sym, Dim>,
        prefix: &'static str,
    ) -> Unified<'a> {
        Unified { nest, along, first, n, width, axes, prefix, loads: Vec::new(), out: Vec::new() }
    }

    /// The statements so far.
    pub fn take(&mut self) -> Vec<Stmt> {
        std::mem::take(&mut self.out)
    }

    /// What axes are, that along which the elements lie among them.
    fn places(&self) -> HashMap<Sym, Dim> {
        let mut all = self.axes.clone();
        all.insert(self.along.var.clone(), self.first.clone() + Dim::sym(&lane()));
        all
    }

    /// An expression over the unified buffer, which what it loads is put into; `None` if the machine can't.
    pub fn localize(&mut self, e: &Flat, frame: &mut Frame) -> Option<Flat> {
        if is_movement(e) && !e.loads().is_empty() {
            return self.load(e, frame);
        }
        Some(match e {
            Flat::Const(..) | Flat::Acc => e.clone(),
            Flat::Index(d) => Flat::Index(d.clone()),
            Flat::Call(f, args) => {
                Flat::Call(*f, args.iter().map(|a| self.localize(a, frame)).collect::<Option<_>>()?)
            }
            Flat::Cast(t, e) => Flat::Cast(*t, self.localize(e, frame)?.into()),
            Flat::Load { .. } => return None,
        })
    }

    /// A load, or a choice among loads and constants by indices alone.
    fn load(&mut self, e: &Flat, frame: &mut Frame) -> Option<Flat> {
        let known = self.loads.iter().position(|(_, known)| known == e);
        let k = match known {
            Some(k) => k,
            None => {
                let buffer = self.fill(e, frame)?;
                self.loads.push((buffer, e.clone()));
                self.loads.len() - 1
            }
        };
        let is_one = !e.mentions(&self.along.var);
        let address = if is_one { 0.into() } else { Dim::sym(&lane()) };
        Some(Flat::Load { input: self.nest.inputs.len() + k, address, terms: Vec::new() })
    }

    fn fill(&mut self, e: &Flat, frame: &mut Frame) -> Option<Buffer> {
        let is_one = !e.mentions(&self.along.var);
        let dtype = self.dtype(e)?;
        let buffer =
            alloc(&format!("{}{}", self.prefix, frame.next()), dtype, if is_one { 1 } else { self.width });
        let n = if is_one { 1.into() } else { self.n.clone() };
        let statements = match self.moved(e, &buffer, &n, frame) {
            Some(statements) => statements,
            None => {
                let mut emitter = Emitter::new(self.nest, self.places(), 1, frame);
                let value = emitter.expr(e, None);
                let mut body = emitter.take_lets();
                body.push(put(&buffer, value.expr));
                vec![Stmt::serial(&lane(), n, body)]
            }
        };
        self.out.push(Stmt::Alloc(buffer.clone()));
        self.out.extend(statements);
        Some(buffer)
    }

    /// The copies, and constants, that fill a buffer, if no element of it has to be fetched by itself; which of them is
    /// the same for all elements.
    fn moved(&mut self, e: &Flat, buffer: &Buffer, n: &Dim, frame: &mut Frame) -> Option<Vec<Stmt>> {
        match e {
            Flat::Call(ScalarFn::Select, args) if !args[0].mentions(&self.along.var) => {
                let then = self.moved(&args[1], buffer, n, frame)?;
                let other = self.moved(&args[2], buffer, n, frame)?;
                let cond = self.scalar(&args[0], frame)?;
                Some(vec![Stmt::If { cond, then, other }])
            }
            Flat::Const(t, value) => {
                let value = aic_ir::kernel::Expr::Const(*t, *value);
                Some(vec![Stmt::serial(&lane(), n.clone(), vec![put(buffer, value)])])
            }
            Flat::Load { .. } if e.mentions(&self.along.var) || n.is(1) => {
                self.copied(e, buffer, n).map(|copy| vec![Stmt::Copy(copy)])
            }
            Flat::Load { .. } => {
                let Flat::Load { input, .. } = self.load(e, frame)? else { return None };
                let (one, _) = &self.loads[input.checked_sub(self.nest.inputs.len())?];
                let value = super::reduce::read(&one.name, 0.into(), 1, one.dtype);
                Some(vec![Stmt::serial(&lane(), n.clone(), vec![put(buffer, value.expr)])])
            }
            _ => None,
        }
    }

    /// The copy that fills a buffer with consecutive elements, if they are.
    fn copied(&self, e: &Flat, buffer: &Buffer, n: &Dim) -> Option<Copy> {
        let Flat::Load { input, address, terms } = e else { return None };
        let (step, base) = address.affine_in(&self.along.var)?;
        if !terms.is_empty() || base.mentions(&self.along.var) || !(step.is(1) || step.is(0)) {
            return None;
        }
        let first = address.subst(&|s| match s {
            s if *s == self.along.var => Some(self.first.clone()),
            s => self.axes.get(s).cloned(),
        });
        let src = Tile::rows(&self.nest.inputs[*input].name, first, n.clone());
        let dst = Tile::rows(&buffer.name, 0, n.clone());
        Some(Copy { dst, src, extent: [1.into(), n.clone()], valid: None, token: None })
    }

    fn dtype(&self, e: &Flat) -> Option<DType> {
        match e {
            Flat::Const(t, _) => Some(*t),
            Flat::Load { input, .. } => Some(self.nest.inputs[*input].dtype),
            Flat::Call(ScalarFn::Select, args) => self.dtype(&args[1]),
            _ => None,
        }
    }

    /// An expression that depends on indices alone, the same for all elements; `None` if it isn't one.
    pub fn scalar(&self, e: &Flat, frame: &mut Frame) -> Option<aic_ir::kernel::Expr> {
        let mut emitter = Emitter::new(self.nest, self.places(), 1, frame);
        let value = emitter.expr(e, None).expr;
        emitter.take_lets().is_empty().then_some(value)
    }

    /// A loop that stores an expression over the unified buffer.
    pub fn compute(
        &self,
        value: &Flat,
        to: &Buffer,
        at: Dim,
        acc: Option<(&Buffer, Dim)>,
        frame: &mut Frame,
    ) -> Stmt {
        let mut inner = self.nest.clone();
        inner.inputs.extend(self.loads.iter().map(|(b, _)| b.clone()));
        let mut emitter = Emitter::new(&inner, self.places(), 1, frame);
        emitter.acc = acc.map(|(b, at)| super::reduce::read(&b.name, at, 1, b.dtype));
        let value = emitter.expr(value, None);
        let mut body = emitter.take_lets();
        body.push(Stmt::store(&to.name, aic_ir::kernel::Expr::Index(at), value.expr));
        Stmt::serial(&lane(), self.n.clone(), body)
    }

    /// The buffer that already holds an expression, element by element.
    pub fn held(&self, value: &Flat) -> Option<Buffer> {
        let Flat::Load { input, address, .. } = value else { return None };
        let (buffer, what) = &self.loads[input.checked_sub(self.nest.inputs.len())?];
        // One that isn't only copied to is not handed on from one copy to the other.
        let is_copied = matches!(what, Flat::Load { .. });
        (is_copied && *address == Dim::sym(&lane())).then(|| buffer.clone())
    }

    /// The copy of the results to where they belong; `None` if they aren't consecutive there.
    pub fn copy_out(&self, from: &Buffer) -> Option<Stmt> {
        let (step, base) = self.nest.at.affine_in(&self.along.var)?;
        let is_consecutive = step.is(1) || self.along.extent.is(1);
        if !is_consecutive || base.mentions(&self.along.var) {
            return None;
        }
        let first = base.subst(&|s| self.axes.get(s).cloned()) + self.first.clone();
        let dst = Tile::rows(&self.nest.output.name, first, self.n.clone());
        let src = Tile::rows(&from.name, 0, self.n.clone());
        Some(Stmt::Copy(Copy { dst, src, extent: [1.into(), self.n.clone()], valid: None, token: None }))
    }
}

/// The store of an element at the position of the lane.
fn put(to: &Buffer, value: aic_ir::kernel::Expr) -> Stmt {
    Stmt::store(&to.name, aic_ir::kernel::Expr::Index(Dim::sym(&lane())), value)
}

/// Whether an expression only moves elements: loads, constants, and choices among them by indices.
pub(super) fn is_movement(e: &Flat) -> bool {
    match e {
        Flat::Const(..) | Flat::Load { .. } => true,
        Flat::Call(ScalarFn::Select, args) => {
            is_index(&args[0]) && is_movement(&args[1]) && is_movement(&args[2])
        }
        _ => false,
    }
}

/// Whether an expression depends on indices alone.
pub(super) fn is_index(e: &Flat) -> bool {
    match e {
        Flat::Const(..) | Flat::Index(_) => true,
        Flat::Call(_, args) => args.iter().all(is_index),
        Flat::Cast(_, e) => is_index(e),
        Flat::Load { .. } | Flat::Acc => false,
    }
}

//! Rows on an NPU: reductions along a row and maps over it, one after the other, by a vector core, which keeps the row
//! in its unified buffer; so a row is read once and written once. What is the same for all rows is copied in once.
//!
//! Of a schedule: `ub` is the elements of a row, `nr` the number of axes that are rows, `cores` how many cores there are.

use super::super::Frame;
use super::super::emit::Emitter;
use super::super::group::{Common, Group};
use super::super::nest::{Arrays, Flat, Nest, Place as At};
use super::super::reduce::read;
use super::super::unified::{alloc, allocations, is_index, lane, on_cores_after, temporaries};
use super::{arrays, of_row, row_length};
use aic_ir::bail;
use aic_ir::compute::{Compute, ReduceOp, Source};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Copy, Expr, Kernel, Level, LoopKind, Param, Scope, Stmt, Tile as Matrix};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use aic_ir::verify;

/// Elements that are combined at a time.
pub(in crate::schedule) const CHUNK: i64 = 2048;
/// Elements of a repeat of the vector unit.
const REPEAT: i64 = 64;
/// Elements of a buffer for what a row has once: 32 bytes, all of which are defined.
const ONE: i64 = 8;

/// The kernel of a compute, if its phases are about rows that fit into the unified buffer.
pub fn kernel(name: &str, g: &Group, target: &Target) -> Option<(Schedule, Kernel)> {
    let distinct = g.outputs.iter().enumerate().all(|(k, o)| !g.outputs[..k].contains(o));
    let is_reduction = g.phases.iter().any(|p| p.reduction.is_some());
    let cores = target.level(LoopKind::Bind(Level::Core))?.units;
    let rows = g.common.iter().filter(|c| c.is_total()).count();
    if !distinct || !is_reduction {
        return None;
    }
    (0..=rows).rev().find_map(|n| {
        let rows = Rows::new(g, n, cores)?;
        let (k, bytes) = rows.kernel(name).ok()?;
        let most = target.space(Scope::Ub).and_then(|s| s.bytes).unwrap_or(0);
        let fits = bytes as u64 <= most && verify::kernel_for(&k, target).is_empty();
        fits.then(|| (rows.schedule(), k))
    })
}

/// Whether a compute is such a kernel.
pub fn is_one(c: &Compute, target: &Target) -> bool {
    Nest::new(c).is_err() && kernel("", &Group::new(c), target).is_some()
}

/// The lanes that a row is combined in.
pub fn lanes(nest: &Nest) -> u32 {
    let len: Dim = nest.over().iter().map(|a| &a.extent).product();
    len.as_const().map_or(0, |n| whole_repeats(n).min(CHUNK) as u32)
}

/// As many elements or a few more.
fn whole_repeats(n: i64) -> i64 {
    (n + REPEAT - 1) / REPEAT * REPEAT
}

struct Rows<'a> {
    group: &'a Group,
    /// The axes of the rows.
    axes: Vec<&'a Common>,
    /// Elements of a row.
    len: i64,
    cores: u32,
}

/// What a row needs of memory.
struct Held {
    buffer: Buffer,
    source: Sym,
    /// In terms of the position in the row.
    address: Dim,
}

/// The statements of a row as they come about.
struct Body {
    held: Vec<Held>,
    /// Copies that are the same for all rows.
    before: Vec<Stmt>,
    statements: Vec<Stmt>,
    counter: usize,
}

impl<'a> Rows<'a> {
    /// Rows along the first `n` axes that all phases have; `None` if the phases are not about rows of one length.
    fn new(group: &'a Group, n: usize, cores: u32) -> Option<Rows<'a>> {
        let axes: Vec<&Common> = group.common.iter().filter(|c| c.is_total()).take(n).collect();
        let len = row_length(group, &axes)?;
        Some(Rows { group, axes, len, cores })
    }

    fn schedule(&self) -> Schedule {
        let tile = Tile { place: Place::Ub, extent: [1, self.width() as u32, 1], buffers: 2 };
        let nr = self.axes.len() as u32;
        Schedule { tiles: vec![tile], nr, cores: self.cores, ..Schedule::new(Class::Staged, 1) }
    }

    /// Elements of a buffer for a row: whole repeats.
    fn width(&self) -> i64 {
        whole_repeats(self.len)
    }

    /// The arrays: operands and results in memory, what lies between phases in the unified buffer.
    fn arrays(&self) -> Result<Arrays> {
        arrays(self.group, &mut |stage, w, at, arrays| self.between(stage, w, at, arrays))
    }

    /// A stage's array in the unified buffer: one element, or a row.
    fn between(&self, stage: usize, writer: usize, at: &[Dim], arrays: &mut Arrays) -> Result<()> {
        let ty = &self.group.stages[stage];
        let (len, strides) = of_row(&self.axes, writer, at, ty);
        if !(len.is(1) || len.is(self.len)) {
            bail!("stage {stage} is no row")
        }
        let place = At { buffer: arrays.buffers.len(), strides, offset: 0.into() };
        let own = if len.is(1) { ONE } else { self.width() };
        arrays.buffers.push(alloc(&format!("row{stage}"), ty.dtype, own));
        arrays.places.insert(Source::Stage(stage), place);
        Ok(())
    }

    /// The kernel, and the bytes of the unified buffer that it takes.
    fn kernel(&self, name: &str) -> Result<(Kernel, i64)> {
        let arrays = self.arrays()?;
        let extents: Vec<Dim> = self.axes.iter().map(|c| c.extent.clone()).collect();
        let is_local = |b: &&Buffer| b.scope == Scope::Ub;
        let statements = arrays.buffers.iter().filter(is_local).cloned().map(Stmt::Alloc).collect();
        let mut body = Body { held: Vec::new(), before: Vec::new(), statements, counter: 0 };
        let mut calls = 0;
        let rows = on_cores_after(&extents, self.cores, |index| {
            for k in 0..self.group.phases.len() {
                let outer = |s: &Sym| {
                    let at = self.axes.iter().position(|c| c.vars[k].as_ref() == Some(s))?;
                    Some(index[at].clone())
                };
                let nest = Nest::of(&self.group.phases[k], &arrays, &outer).ok()?;
                calls = calls.max(temporaries(&nest));
                self.phase(k, &nest, &mut body)?;
            }
            Some((std::mem::take(&mut body.before), std::mem::take(&mut body.statements)))
        });
        let Some(rows) = rows else { bail!("a phase isn't about rows") };
        let mut bytes = 0;
        allocations(&rows, &mut |b| {
            let size = b.len.as_const().unwrap_or(0) * b.dtype.size() as i64;
            // Queues have two buffers.
            let is_queue = b.name.name().starts_with('u');
            bytes += if is_queue { 2 * size } else { size };
        });
        bytes += self.width() * 4 * (calls.min(10) + 2);
        let param =
            |b: &Buffer, k: usize| Param { buffer: b.clone(), writable: k >= self.group.inputs.len() };
        let passed = arrays.buffers.iter().filter(|b| b.scope != Scope::Ub);
        let params: Vec<Param> = passed.enumerate().map(|(k, b)| param(b, k)).collect();
        if params.iter().any(|p| p.buffer.len.as_const().is_none()) {
            bail!("rows of an NPU have known extents")
        }
        Ok((Kernel { name: name.into(), params, symbols: Vec::new(), body: rows }, bytes))
    }

    /// The statements of a phase.
    fn phase(&self, k: usize, nest: &Nest, body: &mut Body) -> Option<()> {
        let column = match (&nest.axes[..], nest.over()) {
            ([], []) => None,
            ([a], []) | ([], [a]) if a.extent.is(self.len) => Some(a.var.clone()),
            _ => return None,
        };
        match (&nest.reduction, column) {
            (Some((op, _)), Some(column)) => self.reduce(k, nest, *op, &column, body),
            (None, Some(column)) => {
                let value = self.local(&nest.value, nest, Some(&column), body)?;
                self.put(nest, &value, self.len, Some(&column), None, body)
            }
            (None, None) => {
                let value = self.local(&nest.value, nest, None, body)?;
                self.put(nest, &value, ONE, None, None, body)
            }
            (Some(_), None) => None,
        }
    }

    /// The reduction of a row, chunk by chunk, and what is made of it.
    fn reduce(&self, k: usize, nest: &Nest, op: ReduceOp, column: &Sym, body: &mut Body) -> Option<()> {
        if nest.acc != DType::F32 || !matches!(op, ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min) {
            return None;
        }
        let mut value = self.local(&nest.value, nest, Some(column), body)?;
        if let Some((kept, at)) = &nest.kept {
            if kept.scope != Scope::Ub || at.as_sym() != Some(column) {
                return None;
            }
            self.store(nest, &value, kept, self.len.into(), None, body);
            let own = nest.inputs.iter().position(|b| b.name == kept.name)?;
            value = Flat::Load { input: own, address: Dim::sym(&lane()), terms: Vec::new() };
        }
        let width = self.width().min(CHUNK);
        let part = alloc(&format!("part{k}"), nest.acc, width);
        body.statements.push(Stmt::Alloc(part.clone()));
        if self.len != width {
            body.statements.push(fill(&part, width, op));
        }
        if self.len <= width {
            self.store(nest, &value, &part, self.len.into(), None, body);
        } else {
            self.chunks(nest, &value, op, &part, width, body)?;
        }
        self.finish(k, nest, op, &part, width, body)
    }

    /// Combines chunks of a row element by element.
    fn chunks(
        &self,
        nest: &Nest,
        value: &Flat,
        op: ReduceOp,
        part: &Buffer,
        width: i64,
        body: &mut Body,
    ) -> Option<()> {
        let step = Sym::new("step");
        let first = Dim::sym(&step) * width.into();
        let at = Dim::sym(&lane());
        let chunk = value.subst(&|s| (*s == lane()).then(|| first.clone() + at.clone()));
        let sum = Flat::Call(op.combine()?, vec![Flat::Acc, chunk]);
        let n = Dim::from(width).minimum(&(Dim::from(self.len) - first.clone()));
        let mut inner =
            Body { held: Vec::new(), before: Vec::new(), statements: Vec::new(), counter: body.counter };
        inner.held.append(&mut body.held);
        self.store(nest, &sum, part, n, Some(part), &mut inner);
        body.held.append(&mut inner.held);
        body.counter = inner.counter;
        body.statements.push(Stmt::serial(&step, ((self.len + width - 1) / width).into(), inner.statements));
        Some(())
    }

    /// A row combined into one element, and what is made of it.
    fn finish(
        &self,
        k: usize,
        nest: &Nest,
        op: ReduceOp,
        part: &Buffer,
        width: i64,
        body: &mut Body,
    ) -> Option<()> {
        // One of 32 bytes, of which the others are defined too.
        let acc = alloc(&format!("part_acc{k}"), nest.acc, ONE);
        body.statements.extend([Stmt::Alloc(acc.clone()), fill(&acc, ONE, ReduceOp::Sum)]);
        let lanes = u32::try_from(width).ok()?;
        let ramp = Expr::Ramp { base: 0.into(), stride: 1.into(), lanes };
        let all = Expr::Load { buffer: part.name.clone(), index: ramp.into(), mask: None };
        body.statements.push(Stmt::store(&acc.name, Expr::int(0), Expr::Horizontal(op, all.into())));
        let value = match &nest.epilogue {
            Some(e) => self.local(e, nest, None, body)?,
            None => Flat::Acc,
        };
        self.put(nest, &value, ONE, None, Some(&acc), body)
    }

    /// Stores what a phase computes where it belongs: `n` elements, of which a row that has but one gives the first.
    fn put(
        &self,
        nest: &Nest,
        value: &Flat,
        n: i64,
        column: Option<&Sym>,
        acc: Option<&Buffer>,
        body: &mut Body,
    ) -> Option<()> {
        if nest.output.scope == Scope::Ub {
            let is_own = match column {
                Some(c) => nest.at.as_sym() == Some(c),
                None => nest.at.is(0),
            };
            is_own.then(|| self.store(nest, value, &nest.output, n.into(), acc, body))
        } else {
            let (step, base) = match column {
                Some(c) => nest.at.affine_in(c)?,
                None => (1.into(), nest.at.clone()),
            };
            if !step.is(1) || column.is_some_and(|c| base.mentions(c)) {
                return None;
            }
            let len = if column.is_some() { self.width() } else { ONE };
            let y = alloc(&format!("uy{}", body.next()), nest.output.dtype, len);
            body.statements.push(Stmt::Alloc(y.clone()));
            self.store(nest, value, &y, n.into(), acc, body);
            let n = if column.is_some() { self.len } else { 1 };
            body.statements.push(copy(&nest.output.name, base, &y.name, 0.into(), n));
            Some(())
        }
    }

    /// A loop that stores an expression over the unified buffer.
    fn store(&self, nest: &Nest, value: &Flat, to: &Buffer, n: Dim, acc: Option<&Buffer>, body: &mut Body) {
        let mut inner = nest.clone();
        inner.inputs.extend(body.held.iter().map(|h| h.buffer.clone()));
        let mut frame = Frame { stage: Some(0), counter: body.counter, threads: None };
        let places = std::iter::once((lane(), Dim::sym(&lane()))).collect();
        let mut emitter = Emitter::new(&inner, places, 1, &mut frame);
        emitter.acc = acc.map(|b| read(&b.name, Dim::sym(&lane()), 1, b.dtype));
        let value = emitter.expr(value, None);
        let mut statements = emitter.take_lets();
        statements.push(Stmt::store(&to.name, Expr::Index(Dim::sym(&lane())), value.expr));
        body.counter = frame.counter;
        body.statements.push(Stmt::serial(&lane(), n, statements));
    }

    /// An expression over the unified buffer, which what it loads of memory is copied to; its elements are counted by
    /// [`lane`]. `None` if they lie apart in memory, or where data or conditions say.
    fn local(&self, e: &Flat, nest: &Nest, column: Option<&Sym>, body: &mut Body) -> Option<Flat> {
        let all = |args: &[Flat], body: &mut Body| -> Option<Vec<Flat>> {
            args.iter().map(|a| self.local(a, nest, column, body)).collect()
        };
        let placed = |d: &Dim| d.subst(&|s| (Some(s) == column).then(|| Dim::sym(&lane())));
        Some(match e {
            Flat::Const(..) | Flat::Acc => e.clone(),
            Flat::Index(d) => Flat::Index(placed(d)),
            Flat::Call(ScalarFn::Select, args) if is_index(&args[0]) => return None,
            Flat::Call(f, args) => Flat::Call(*f, all(args, body)?),
            Flat::Cast(t, e) => Flat::Cast(*t, self.local(e, nest, column, body)?.into()),
            Flat::Load { terms, .. } if !terms.is_empty() => return None,
            Flat::Load { input, address, .. } => {
                let address = placed(address);
                let (step, base) = address.affine_in(&lane())?;
                if base.mentions(&lane()) || !(step.is(0) || step.is(1)) {
                    return None;
                }
                match nest.inputs[*input].scope {
                    // In a phase about single elements these are rows of all that is defined.
                    Scope::Ub if column.is_none() => {
                        Flat::Load { input: *input, address: Dim::sym(&lane()), terms: Vec::new() }
                    }
                    Scope::Ub => Flat::Load { input: *input, address, terms: Vec::new() },
                    _ => self.held(nest, *input, address, step.is(1), body),
                }
            }
        })
    }

    /// The load of what is copied in of memory.
    fn held(&self, nest: &Nest, input: usize, address: Dim, is_row: bool, body: &mut Body) -> Flat {
        let source = &nest.inputs[input];
        let known = body.held.iter().position(|h| h.source == source.name && h.address == address);
        let k = known.unwrap_or_else(|| {
            let (n, len) = if is_row { (self.len, self.width()) } else { (1, 1) };
            let buffer = alloc(&format!("u{}", body.next()), source.dtype, len);
            let first = address.subst(&|s| (*s == lane()).then(|| 0.into()));
            let is_same = first.symbols().is_empty();
            let copies = [Stmt::Alloc(buffer.clone()), copy(&buffer.name, 0.into(), &source.name, first, n)];
            if is_same {
                body.before.extend(copies)
            } else {
                body.statements.extend(copies)
            }
            body.held.push(Held { buffer, source: source.name.clone(), address: address.clone() });
            body.held.len() - 1
        });
        let address = if is_row { Dim::sym(&lane()) } else { 0.into() };
        Flat::Load { input: nest.inputs.len() + k, address, terms: Vec::new() }
    }
}

impl Body {
    fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter - 1
    }
}

/// A copy of consecutive elements.
fn copy(dst: &Sym, to: Dim, src: &Sym, from: Dim, n: i64) -> Stmt {
    let (dst, src) = (Matrix::rows(dst, to, n), Matrix::rows(src, from, n));
    Stmt::Copy(Copy { dst, src, extent: [1.into(), n.into()], valid: None, token: None })
}

/// A loop that stores the value of an empty reduction.
fn fill(to: &Buffer, n: i64, op: ReduceOp) -> Stmt {
    let value = Expr::Const(to.dtype, op.identity(to.dtype));
    Stmt::serial(&lane(), n.into(), vec![Stmt::store(&to.name, Expr::Index(Dim::sym(&lane())), value)])
}

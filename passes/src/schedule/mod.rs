//! Schedules: which loop nest evaluates a compute, and the kernel that it becomes.
//!
//! [`choose`] picks a [`Schedule`] for a nest and a target, [`apply`] makes the kernel; between the two a schedule is
//! plain data. One file per class of nest.

mod attention;
mod choices;
mod contract;
mod emit;
mod grid;
mod group;
mod map;
mod matrices;
mod nest;
mod panel;
mod phase;
mod pieces;
mod prepare;
mod reduce;
mod rows;
mod rows_ahead;
mod slide;
pub mod space;
mod staged;
mod unified;
mod window;
mod winograd;

pub use choices::{Choices, key};
use contract::packed_buffer;
pub use matrices::as_packing;
pub use nest::{Flat, Nest};
pub use pieces::{Cut, Piece, Signature, cut, pieces, signatures};

use crate::packing::Packing;
use group::Group;

use aic_ir::bail;
use aic_ir::compute::{Compute, ReduceOp};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Param, Stmt};
use aic_ir::schedule::{Class, Place, Schedule};
use aic_ir::target::Target;
use std::collections::BTreeSet;

/// A kernel, and how it came about.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// The schedule that was chosen.
    pub schedule: Schedule,
    /// The kernel.
    pub kernel: Kernel,
    /// What is passed in place of operands that are constants, by their positions.
    pub packings: Vec<(usize, Packing)>,
}

/// The kernel of a compute on a target: of one phase, or of several that can be one kernel.
///
/// # Errors
/// Where it can't be one kernel.
pub fn kernel(name: &str, c: &Compute, target: &Target) -> Result<Scheduled> {
    if let Some((schedule, kernel)) = on_gpu(name, c, target) {
        return Ok(Scheduled { schedule, kernel, packings: Vec::new() });
    }
    if let Some((schedule, kernel)) = winograd::kernel(name, c, target) {
        return Ok(Scheduled { schedule, kernel, packings: Vec::new() });
    }
    if let Ok(nest) = Nest::new(c) {
        let Some(schedule) = choose_for(&nest, target) else {
            bail!("{} has no schedule for {}", target.name, said(c))
        };
        let kernel = apply(name, &nest, &schedule);
        let packings = packings(&nest, &schedule).into_iter().collect();
        return Ok(Scheduled { schedule, kernel, packings });
    }
    let group = Group::new(c);
    if let Some((schedule, kernel)) = rows::npu::kernel(name, &group, target) {
        return Ok(Scheduled { schedule, kernel, packings: Vec::new() });
    }
    if !target.is_cpu() {
        bail!("{} has no schedule for {}", target.name, said(c))
    }
    let Some(schedule) = staged::choose(&group, target) else {
        bail!("{} phases can't be one kernel", group.phases.len())
    };
    let (kernel, packings) = staged::apply(name, &group, &schedule)?;
    Ok(Scheduled { schedule, kernel, packings })
}

/// The kernel of a compute on a CPU by a schedule of its [`space::Space`].
///
/// # Errors
/// The schedule is not one of them, or its kernel would break the contract of kernels.
pub fn kernel_by(name: &str, c: &Compute, target: &Target, s: &Schedule) -> Result<Scheduled> {
    let Some(space) = space::Space::new(c, target) else {
        bail!("{} has no choice of schedules for this compute", target.name)
    };
    space.kernel(name, s)
}

/// A compute's stages in a line.
fn said(c: &Compute) -> String {
    c.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Whether a compute is Winograd's filtering that has a kernel of its own.
pub fn is_filtering(c: &Compute, target: &Target) -> bool {
    winograd::fits(c, target)
}

/// The kernel of a compute whose phases the threads of a GPU share, if it is one.
fn on_gpu(name: &str, c: &Compute, target: &Target) -> Option<(Schedule, Kernel)> {
    rows_on_gpu(name, c, target).or_else(|| attention_on_gpu(name, c, target))
}

/// The kernel of a compute that is attention.
fn attention_on_gpu(name: &str, c: &Compute, target: &Target) -> Option<(Schedule, Kernel)> {
    target.level(LoopKind::Bind(Level::Warp))?;
    attention::kernel(name, c, target)
}

/// The kernel of a compute whose reductions are along rows.
fn rows_on_gpu(name: &str, c: &Compute, target: &Target) -> Option<(Schedule, Kernel)> {
    target.level(LoopKind::Bind(Level::Warp))?;
    let product = Nest::new(c).ok().and_then(|nest| product_on_gpu(&nest, target));
    if product.is_some() { None } else { rows::kernel(name, &Group::new(c), target) }
}

/// The schedule of a contraction on a GPU: by matrix instructions, or by threads.
fn product_on_gpu(nest: &Nest, target: &Target) -> Option<Schedule> {
    contract::gpu::choose(nest, target)
        .or_else(|| contract::implicit::choose(nest, target))
        .or_else(|| contract::simt::choose(nest, target))
}

/// The schedule of a nest on any target; `None` where there is none yet.
pub fn choose_for(nest: &Nest, target: &Target) -> Option<Schedule> {
    if target.level(LoopKind::Bind(Level::Warp)).is_some() {
        match nest.reduction {
            None => map::turn::choose(nest, target).or_else(|| Some(map::gpu::choose(nest, target))),
            Some(_) => product_on_gpu(nest, target).or_else(|| Some(grid::choose(nest))),
        }
    } else if target.is_npu() {
        match nest.reduction {
            None => map::npu::choose(nest, target),
            Some(_) => contract::npu::choose(nest, target).or_else(|| reduce::npu::choose(nest, target)),
        }
    } else {
        target.is_cpu().then(|| choose(nest, target))
    }
}

/// The largest distance of elements whose vectors are shuffled together from contiguous ones.
const SHUFFLED: i64 = 4;

/// The first schedule: on a CPU a choice by the shape of the nest, on other machines that of [`choose_for`] or, where
/// there is none, one without effect.
pub fn choose(nest: &Nest, target: &Target) -> Schedule {
    if !target.is_cpu() {
        return choose_for(nest, target).unwrap_or_else(|| Schedule::new(Class::Map, 1));
    }
    // The lanes of a reduction decide about its bits, so that nothing fused to it may change them.
    let lanes = target.lanes(nest.acc.size());
    let Some((_, over)) = &nest.reduction else { return map::choose(nest, target) };
    if reduce::running_axis(nest).is_some() {
        return Schedule::new(Class::Prefix, 1);
    }
    if let Some(s) = slide::choose(nest, target, lanes) {
        return s;
    }
    if let Some(s) = contract::choose_packed(nest, target, lanes) {
        return s;
    }
    if let Some(s) = panel::choose(nest, target, lanes) {
        return s;
    }
    if let Some(s) = window::choose(nest, target, lanes) {
        return s;
    }
    if let Some(s) = contract::choose(nest, target, lanes) {
        return s;
    }
    let vectorizable = nest.axes.last().is_some_and(|a| {
        let steps = nest.value.steps(&a.var);
        let close = |s: &Dim| s.as_const().is_some_and(|s| (0..=SHUFFLED).contains(&s));
        steps.iter().all(|s| s.as_ref().is_some_and(close)) && !over.iter().any(|o| o.extent.mentions(&a.var))
    });
    let extent = nest.axes.last().map(|a| &a.extent);
    if runs_inside(nest) {
        let lanes = fit(lanes, over.last().map(|a| &a.extent));
        return Schedule { mr: 4, ..Schedule::new(Class::ReduceInner, lanes) };
    }
    let lanes = if vectorizable { fit(lanes, extent) } else { 1 };
    Schedule { nr: reduce::columns(nest, lanes), ..Schedule::new(Class::ReduceOuter, lanes) }
}

/// Whether the terms of a reduction follow one another in memory, so that they are combined in vectors.
fn runs_inside(nest: &Nest) -> bool {
    let Some((op, over)) = &nest.reduction else { return false };
    let is_triangular = over.iter().any(|a| nest.axes.iter().any(|o| a.extent.mentions(&o.var)));
    let is_contiguous = over.last().is_some_and(|a| {
        let steps = nest.value.steps(&a.var);
        !steps.is_empty() && steps.iter().all(|s| s.as_ref().is_some_and(|s| s.is(1) || s.is(0)))
    });
    let has_lanes = op.combine().is_some() && !matches!(op, ReduceOp::And | ReduceOp::Or);
    is_contiguous && has_lanes && !is_triangular
}

/// The kernel that evaluates a nest by a schedule that [`choose_for`] could have given for it.
pub fn apply(name: &str, nest: &Nest, schedule: &Schedule) -> Kernel {
    let body = body(nest, schedule, &mut Frame::kernel());
    let packing = packings(nest, schedule);
    let buffer = |(k, b): (usize, &Buffer)| match &packing {
        Some((input, packing)) if *input == k => packed_buffer(b, packing),
        _ => b.clone(),
    };
    let param = |buffer: Buffer| Param { writable: buffer.name == nest.output.name, buffer };
    let params = nest.inputs.iter().enumerate().map(buffer).map(param).collect();
    let symbols = nest.symbols().into_iter().map(|s| (s, Range::DIM)).collect();
    Kernel { name: name.into(), params, symbols, body }
}

/// The statements that evaluate a nest.
fn body(nest: &Nest, schedule: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    match schedule.class {
        _ if nest.axes.iter().any(|a| a.extent.is(0)) => Vec::new(),
        Class::Map if schedule.tile(Place::Block).is_some() && schedule.mr > 1 => {
            map::turn::body(nest, frame)
        }
        Class::Map if schedule.tile(Place::Block).is_some() => map::gpu::body(nest, schedule, frame),
        Class::ReduceOuter if schedule.tile(Place::Block).is_some() => {
            reduce::outer(nest, schedule, &mut grid::frame(schedule))
        }
        Class::Prefix if schedule.tile(Place::Block).is_some() => {
            reduce::prefix(nest, &mut grid::frame(schedule))
        }
        _ if schedule.tile(Place::Block).is_some() && schedule.unit.is_empty() => {
            contract::simt::body(nest, schedule, frame)
        }
        _ if schedule.tile(Place::Block).is_some() => contract::gpu::body(nest, schedule, frame),
        _ if schedule.tile(Place::L1).is_some() => contract::npu::body(nest, schedule, frame),
        Class::Map if schedule.tile(Place::Ub).is_some() => map::npu::body(nest, schedule, frame),
        _ if schedule.tile(Place::Ub).is_some() => reduce::npu::body(nest, schedule, frame),
        _ => match form(nest, schedule) {
            None => Vec::new(),
            Some(Form::Map) => map::body(nest, schedule, frame),
            Some(Form::Inner) => reduce::inner(nest, schedule, frame),
            Some(Form::Outer) => reduce::outer(nest, schedule, frame),
            Some(Form::Prefix) => reduce::prefix(nest, frame),
            Some(Form::Slide) => slide::body(nest, schedule, frame),
            Some(Form::Packed) => contract::packed_body(nest, schedule, frame),
            Some(Form::Panel) => panel::body(nest, schedule, frame),
            Some(Form::Window) => window::body(nest, schedule, frame),
            Some(Form::Tile) => contract::body(nest, schedule, frame),
        },
    }
}

/// Which code evaluates a nest on a CPU.
enum Form {
    Map,
    Inner,
    Outer,
    Prefix,
    Slide,
    Packed,
    Panel,
    Window,
    Tile,
}

/// The form of a nest by a schedule; `None` for classes of several nests.
fn form(nest: &Nest, schedule: &Schedule) -> Option<Form> {
    Some(match schedule.class {
        Class::Map => Form::Map,
        Class::ReduceInner => Form::Inner,
        Class::Contract | Class::ReduceOuter if slide::fits(nest) => Form::Slide,
        Class::Contract if schedule.pack > 0 => Form::Packed,
        Class::Contract if schedule.panel > 0 => Form::Panel,
        Class::Contract | Class::ReduceOuter if window::fits(nest) => Form::Window,
        Class::ReduceOuter => Form::Outer,
        Class::Prefix => Form::Prefix,
        Class::Contract => Form::Tile,
        Class::Winograd | Class::Staged => return None,
    })
}

impl Nest {
    /// The symbols that a kernel of this nest takes: those in types, extents, conditions and addresses.
    fn symbols(&self) -> BTreeSet<Sym> {
        let mut all: BTreeSet<Sym> = self.inputs.iter().flat_map(|b| b.len.symbols()).collect();
        all.extend(self.output.len.symbols());
        all.extend(self.at.symbols());
        all.extend(self.kept.iter().flat_map(|(b, at)| [b.len.symbols(), at.symbols()]).flatten());
        all.extend(self.axes.iter().chain(self.over()).flat_map(|a| a.extent.symbols()));
        for e in std::iter::once(&self.value).chain(&self.epilogue) {
            e.visit(&mut |e| match e {
                Flat::Index(d) | Flat::Load { address: d, .. } => all.extend(d.symbols()),
                _ => {}
            });
        }
        for a in self.axes.iter().chain(self.over()) {
            all.remove(&a.var);
        }
        all
    }
}

/// What an input of a nest is to be for a schedule, if it is to be packed.
pub fn packings(nest: &Nest, s: &Schedule) -> Option<(usize, Packing)> {
    if slide::fits(nest) { slide::packing(nest, s) } else { contract::packings(nest, s) }
}

/// Lanes for an axis: not many more than its extent.
fn fit(lanes: u32, extent: Option<&Dim>) -> u32 {
    match extent.map(Dim::as_const) {
        None => 1,
        Some(None) => lanes,
        Some(Some(n)) => {
            let n = u32::try_from(n.max(1)).unwrap_or(u32::MAX).min(lanes);
            n.next_power_of_two().min(lanes)
        }
    }
}

/// The place of a nest's statements in its kernel.
struct Frame {
    /// Which of the kernel's stages they evaluate; `None` for the only one, whose outermost loop is parallel.
    stage: Option<usize>,
    /// For names that are unique in the kernel.
    counter: usize,
    /// The threads of a block, where the outermost loop is the threads of a GPU.
    threads: Option<i64>,
}

impl Frame {
    /// The only nest of a kernel.
    fn kernel() -> Frame {
        Frame { stage: None, counter: 0, threads: None }
    }

    /// The name of a buffer.
    fn name(&self, base: &str) -> Sym {
        match self.stage {
            None => Sym::new(base),
            Some(k) => Sym::new(&format!("{base}_{k}")),
        }
    }

    /// Whether loops are serial.
    fn is_stage(&self) -> bool {
        self.stage.is_some()
    }

    /// A number that no other part of the kernel has been given.
    fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter - 1
    }

    /// Loops around `body` over an index of the given extents: one that the runtime slices over threads, one of a GPU's
    /// threads, or serial ones.
    fn outermost(&self, extents: &[Dim], body: Vec<Stmt>) -> Vec<Stmt> {
        if let Some(threads) = self.threads {
            return grid::threads(extents, threads, body);
        }
        let total: Dim = extents.iter().product();
        if total.is(1) {
            return body;
        }
        if self.stage.is_none() {
            return vec![Stmt::loop_of(&Sym::new("p"), total, LoopKind::Parallel, body)];
        }
        let loops = extents.iter().enumerate().rev().filter(|(_, e)| !e.is(1));
        loops.fold(body, |body, (k, e)| vec![Stmt::serial(&Frame::serial(k), e.clone(), body)])
    }

    /// The index in terms of the variables of [`Frame::outermost`]: zeros if there is but one iteration.
    fn index(&self, extents: &[Dim]) -> Vec<Dim> {
        let total: Dim = extents.iter().product();
        if let Some(threads) = self.threads {
            return aic_ir::op::unflatten(&grid::id(threads), extents);
        }
        if total.is(1) {
            return vec![0.into(); extents.len()];
        }
        if self.stage.is_none() {
            return aic_ir::op::unflatten(&Dim::named("p"), extents);
        }
        let var = |(k, e): (usize, &Dim)| if e.is(1) { 0.into() } else { Dim::sym(&Frame::serial(k)) };
        extents.iter().enumerate().map(var).collect()
    }

    fn serial(k: usize) -> Sym {
        Sym::new(&format!("p{k}"))
    }
}

/// A store of a result.
fn store(nest: &Nest, index: Expr, value: Expr, mask: Option<Expr>) -> Stmt {
    Stmt::Store { buffer: nest.output.name.clone(), index, value, mask }
}

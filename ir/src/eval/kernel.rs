//! Interprets a kernel, and distrusts it.
//!
//! Every access is checked against its buffer; fresh buffers are poisoned; iterations that may run in parallel run in
//! a shuffled order, and two of them that touch the same element without a barrier between, one of them writing, are
//! an error; asynchronous copies happen at the wait that needs them and not before, and what they use until then is
//! used by nothing else.
//!
//! Loops bound to a GPU's threads run in lockstep from barrier to barrier: a barrier must be met by all of them, in
//! the same iteration of every loop around it. What a warp does together is met by its threads in the same way.

mod expr;
mod memory;
mod phases;
mod thread;
mod tiles;

use super::races::Shadow;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Event, Expr, Kernel, Level, LoopKind, Phase, Scope, Stmt};
use crate::op::Rng;
use crate::target::MatrixUnit;
use crate::tensor::Tensor;
use crate::{bail, ensure};
use memory::Array;
use phases::Barrier;
use std::collections::VecDeque;
use thread::{Binding, Thread};

/// How many statements a kernel may execute before it is taken to run forever.
const MAX_STEPS: u64 = 1 << 30;
/// How many iterations a parallel loop may have.
const MAX_PARALLEL: i64 = 1 << 24;
/// Threads of a warp.
const WARP: u32 = 32;

/// An array handed to a kernel: a parameter's contents.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelBuffer {
    /// Its element type.
    pub dtype: DType,
    /// Its elements, little-endian.
    pub data: Vec<u8>,
}

impl KernelBuffer {
    /// A copy of a tensor's elements.
    pub fn from_tensor(t: &Tensor) -> KernelBuffer {
        KernelBuffer { dtype: t.dtype(), data: t.bytes().to_vec() }
    }

    /// A buffer of `len` elements that hold nothing sensible.
    pub fn poisoned(dtype: DType, len: usize) -> KernelBuffer {
        let byte = if dtype.is_float() { 0xFF } else { 0xAA };
        KernelBuffer { dtype, data: vec![byte; len.saturating_mul(dtype.size())] }
    }

    /// Its elements as a tensor of the given shape.
    pub fn to_tensor(&self, shape: Vec<usize>) -> Result<Tensor> {
        Tensor::new(self.dtype, shape, self.data.clone().into())
    }
}

/// Runs a kernel on a buffer for each parameter and a value for each symbol.
pub fn kernel(k: &Kernel, buffers: &mut [KernelBuffer], symbols: &[i64]) -> Result<()> {
    run(k, buffers, symbols).map_err(|e| e.context(format!("kernel {}", k.name)))
}

fn run(k: &Kernel, buffers: &mut [KernelBuffer], symbols: &[i64]) -> Result<()> {
    ensure!(
        symbols.len() == k.symbols.len(),
        "expected {} symbols, found {}",
        k.symbols.len(),
        symbols.len()
    );
    ensure!(buffers.len() == k.params.len(), "expected {} buffers, found {}", k.params.len(), buffers.len());
    let mut thread = Thread::default();
    for ((s, range), &value) in k.symbols.iter().zip(symbols) {
        ensure!(
            (range.lo..=range.hi).contains(&value),
            "symbol {s} = {value} is outside of its range {}..={}",
            range.lo,
            range.hi
        );
        thread.vars.push((s.clone(), Binding::Int(value)));
    }
    let mut machine = Machine::new();
    for (p, b) in k.params.iter().zip(buffers.iter()) {
        let len = machine.len(&p.buffer, &thread)?;
        let fits =
            b.dtype == p.buffer.dtype && len.checked_mul(b.dtype.size()).is_some_and(|n| n <= b.data.len());
        ensure!(
            fits,
            "buffer {}: expected {len} elements of {}, found {} bytes of {}",
            p.buffer.name,
            p.buffer.dtype,
            b.data.len(),
            b.dtype
        );
        thread.vars.push((p.buffer.name.clone(), Binding::Array(machine.arrays.len())));
        machine.arrays.push(Array::new(&p.buffer, len, p.writable, Vec::new()));
    }
    for (array, b) in machine.arrays.iter_mut().zip(buffers.iter_mut()) {
        array.data = std::mem::take(&mut b.data);
    }
    let result = machine.block(&k.body, &mut [&mut thread]).and_then(|()| thread.check_none_left());
    for (array, b) in machine.arrays.iter_mut().zip(buffers) {
        b.data = std::mem::take(&mut array.data);
    }
    result
}

struct Machine {
    arrays: Vec<Array>,
    rng: Rng,
    steps: u64,
    /// How many loops around the current statement may run in parallel.
    n_parallel: u32,
    /// The current iteration of parallel loops, the current stretch between barriers, the last thread made.
    block: u32,
    epoch: u32,
    last_thread: u32,
    /// What threads that feed others are yet to do, and whether that is being listed.
    fed: Option<VecDeque<phases::Step>>,
    is_recording: bool,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            arrays: Vec::new(),
            rng: Rng::new(1),
            steps: 0,
            n_parallel: 0,
            block: 0,
            epoch: 0,
            last_thread: 0,
            fed: None,
            is_recording: false,
        }
    }

    /// Runs statements by all threads; what they bind and allocate ends with the block.
    fn block(&mut self, stmts: &[Stmt], threads: &mut [&mut Thread]) -> Result<()> {
        let n_arrays = self.arrays.len();
        let n_vars: Vec<usize> = threads.iter().map(|t| t.vars.len()).collect();
        for s in stmts {
            self.steps += 1;
            ensure!(
                self.steps <= MAX_STEPS,
                "more than {MAX_STEPS} statements were executed: an endless loop?"
            );
            self.stmt(s, threads)?;
        }
        for (t, n) in threads.iter_mut().zip(n_vars) {
            t.vars.truncate(n);
            if let Some(group) = t.groups.iter().find(|g| !g.is_within(n_arrays)) {
                bail!("a buffer ends before group {}, which uses it, is waited for", group.token);
            }
        }
        if let Some(a) = self.arrays[n_arrays..].iter().find(|a| a.barriers.values().any(Barrier::is_awaited))
        {
            bail!("copies to {} are never waited for", a.name);
        }
        self.arrays.truncate(n_arrays);
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt, threads: &mut [&mut Thread]) -> Result<()> {
        match s {
            Stmt::For {
                var,
                begin,
                end,
                kind: LoopKind::Bind(Level::Warp | Level::Thread(_) | Level::VectorCore),
                body,
            } => self.spawn(var, begin, end, body, threads),
            Stmt::Alloc(b) if !matches!(b.scope, Scope::Register | Scope::Stack | Scope::Ub) => {
                self.alloc(b, threads)
            }
            Stmt::Barrier(_) => {
                self.epoch += 1;
                Ok(())
            }
            Stmt::If { cond, then, other } if threads.len() > 1 && phases::is_parting(then, other) => {
                self.part(cond, [then, other], threads)
            }
            _ => match together(s)
                .map(|of| if self.is_recording { of.min(Together::Threads(WARP)) } else { of })
            {
                _ if threads.len() <= 1 => threads.iter_mut().try_for_each(|t| self.single(s, t)),
                Some(Together::All) => self.lockstep(s, threads),
                Some(Together::Threads(n)) => {
                    // Each group of threads comes to it for itself.
                    let group = |t: &&mut Thread| t.index.div_euclid(i64::from(n));
                    threads.sort_by_key(|t| t.index);
                    let groups = threads.chunk_by_mut(|a, b| group(a) == group(b));
                    groups.into_iter().try_for_each(|threads| self.lockstep(s, threads))
                }
                None => threads.iter_mut().try_for_each(|t| self.single(s, t)),
            },
        }
    }

    /// Runs a loop's iterations as threads of their own.
    fn spawn(
        &mut self,
        var: &Sym,
        begin: &Dim,
        end: &Dim,
        body: &[Stmt],
        threads: &mut [&mut Thread],
    ) -> Result<()> {
        let mut spawned = Vec::new();
        for t in threads.iter() {
            t.check_none_left()?;
            let range = t.dim(begin)?..t.dim(end)?;
            let n = range.end.saturating_sub(range.start);
            ensure!(n <= MAX_PARALLEL, "loop {var} has {n} threads, more than the interpreter takes");
            let range_start = range.start;
            for i in range {
                self.last_thread += 1;
                let index = t.index.saturating_mul(n).saturating_add(i - range_start);
                let mut new =
                    Thread { id: self.last_thread, index, vars: t.vars.clone(), groups: Vec::new() };
                new.vars.push((var.clone(), Binding::Int(i)));
                spawned.push(new);
            }
        }
        shuffled(&mut spawned, &mut self.rng);
        self.epoch += 1;
        self.n_parallel += 1;
        self.block(body, &mut spawned.iter_mut().collect::<Vec<_>>())?;
        self.n_parallel -= 1;
        self.epoch += 1;
        spawned.iter().try_for_each(Thread::check_none_left)
    }

    /// A statement with something in it that these threads do together.
    fn lockstep(&mut self, s: &Stmt, threads: &mut [&mut Thread]) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, kind: LoopKind::Serial | LoopKind::Unroll, body } => {
                let (begin, end) = (uniform(threads, |t| t.dim(begin))?, uniform(threads, |t| t.dim(end))?);
                for i in begin..end {
                    threads.iter_mut().for_each(|t| t.vars.push((var.clone(), Binding::Int(i))));
                    self.block(body, threads)?;
                    threads.iter_mut().for_each(|t| drop(t.vars.pop()));
                }
                Ok(())
            }
            Stmt::If { cond, then, other } => {
                let is_taken = uniform(threads, |t| self.cond(cond, t))?;
                self.block(if is_taken { then } else { other }, threads)
            }
            Stmt::While { cond, body } => {
                while uniform(threads, |t| self.cond(cond, t))? {
                    self.block(body, threads)?;
                }
                Ok(())
            }
            Stmt::Phase(p) => self.phase(p, threads),
            Stmt::Fetch(f) => self.fetch(f, threads[0]),
            Stmt::Mma(m) => self.mma(m, threads),
            Stmt::Copy(c) => threads.iter_mut().try_for_each(|t| self.copy(c, t)),
            Stmt::Shuffle { var, value, lane } => self.shuffle(var, value, lane, threads),
            _ => bail!("a barrier within a loop that is not serial"),
        }
    }

    fn single(&mut self, s: &Stmt, t: &mut Thread) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, kind, body } => {
                let range = t.dim(begin)?..t.dim(end)?;
                if matches!(kind, LoopKind::Parallel | LoopKind::Bind(_)) {
                    return self.parallel(var, range, body, t);
                }
                range.into_iter().try_for_each(|i| self.iteration(var, i, body, t))
            }
            Stmt::If { cond, then, other } => {
                let is_taken = self.cond(cond, t)?;
                self.block(if is_taken { then } else { other }, &mut [t])
            }
            Stmt::While { cond, body } => {
                while self.cond(cond, t)? {
                    self.block(body, &mut [t])?;
                }
                Ok(())
            }
            Stmt::Let { var, value } => {
                let value = self.expr(value, t)?;
                t.vars.push((var.clone(), Binding::Value(value)));
                Ok(())
            }
            Stmt::Store { buffer, index, value, mask } => self.store(buffer, index, value, mask.as_ref(), t),
            Stmt::Alloc(b) => self.alloc(b, &mut [t]),
            Stmt::Barrier(_) => Ok(()),
            Stmt::Copy(c) => self.copy(c, t),
            Stmt::Commit { token } => {
                t.commit(token);
                Ok(())
            }
            Stmt::Wait { token, pending } => self.wait(token, *pending as usize, t),
            Stmt::Phase(p) => self.phase(p, &mut [t]),
            Stmt::Fetch(f) => self.fetch(f, t),
            Stmt::Mma(m) => self.mma(m, &mut [t]),
            Stmt::Shuffle { var, value, lane } => self.shuffle(var, value, lane, &mut [t]),
            // A hint without effect, whatever its address.
            Stmt::Call { name, .. } if name == "prefetch" || name == "registers" => Ok(()),
            Stmt::Call { name, .. } => bail!("unknown intrinsic {name}"),
        }
    }

    fn iteration(&mut self, var: &Sym, i: i64, body: &[Stmt], t: &mut Thread) -> Result<()> {
        t.vars.push((var.clone(), Binding::Int(i)));
        self.block(body, &mut [t])?;
        t.vars.pop();
        Ok(())
    }

    /// Runs the iterations of a parallel loop in a shuffled order.
    fn parallel(
        &mut self,
        var: &Sym,
        range: std::ops::Range<i64>,
        body: &[Stmt],
        t: &mut Thread,
    ) -> Result<()> {
        if self.n_parallel == 0 {
            self.arrays.iter_mut().for_each(|a| a.shadow = Shadow::default());
        }
        self.n_parallel += 1;
        let n = range.end.saturating_sub(range.start);
        ensure!(n <= MAX_PARALLEL, "loop {var} has {n} parallel iterations, more than the interpreter takes");
        let mut order: Vec<i64> = range.collect();
        shuffled(&mut order, &mut self.rng);
        t.check_none_left()?;
        for i in order {
            self.block += 1;
            self.iteration(var, i, body, t)?;
            t.check_none_left()?;
        }
        self.n_parallel -= 1;
        Ok(())
    }

    /// Gives each thread of a warp the value that another one has.
    fn shuffle(&mut self, var: &Sym, value: &Expr, lane: &Dim, threads: &mut [&mut Thread]) -> Result<()> {
        let values = threads.iter().map(|t| self.expr(value, t)).collect::<Result<Vec<_>>>()?;
        let lanes: Vec<i64> = threads.iter().map(|t| t.index.rem_euclid(i64::from(WARP))).collect();
        for t in threads {
            let from = t.dim(lane)?;
            let Some(k) = lanes.iter().position(|l| *l == from) else {
                bail!("a shuffle takes the value of thread {from} of a warp, where there is none")
            };
            t.vars.push((var.clone(), Binding::Value(values[k].clone())));
        }
        Ok(())
    }
}

/// What all threads agree about.
fn uniform<T: PartialEq>(threads: &mut [&mut Thread], mut f: impl FnMut(&Thread) -> Result<T>) -> Result<T> {
    let mut common = None;
    for t in threads.iter() {
        let value = f(t)?;
        ensure!(
            common.as_ref().is_none_or(|c| *c == value),
            "threads part before a barrier or a shared buffer"
        );
        common = Some(value);
    }
    common.ok_or_else(|| Error::new("no thread is left to run this"))
}

/// Who executes a statement together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Together {
    /// So many threads of consecutive numbers.
    Threads(u32),
    /// All threads of a block.
    All,
}

/// Who must come to a statement together; `None` if each thread may for itself.
fn together(s: &Stmt) -> Option<Together> {
    let of = |stmts: &[Stmt]| stmts.iter().filter_map(together).max();
    let unit = |name: &str| Together::Threads(MatrixUnit::named(name).map_or(WARP, |u| u.threads));
    match s {
        Stmt::Barrier(_) | Stmt::Phase(Phase { event: Event::Wait { .. }, .. }) => Some(Together::All),
        Stmt::Shuffle { .. } | Stmt::Phase(_) | Stmt::Fetch(_) => Some(Together::Threads(WARP)),
        Stmt::Mma(m) => m.operands().iter().any(|(_, tile)| tile.is_fragment()).then(|| unit(&m.intrinsic)),
        Stmt::Copy(c) => (c.dst.is_fragment() || c.src.is_fragment()).then_some(Together::Threads(WARP)),
        Stmt::For { body, .. } | Stmt::While { body, .. } => of(body),
        Stmt::If { then, other, .. } => of(then).max(of(other)),
        _ => None,
    }
}

fn shuffled<T>(items: &mut [T], rng: &mut Rng) {
    for k in (1..items.len()).rev() {
        items.swap(k, rng.below(k + 1));
    }
}

#[cfg(test)]
mod tests;

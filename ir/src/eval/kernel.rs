//! Interprets a kernel, and distrusts it.
//!
//! Every access is checked against its buffer; fresh buffers are poisoned; iterations that may run in parallel run in
//! a shuffled order, and two of them that touch the same element without a barrier between, one of them writing, are
//! an error; asynchronous copies happen at the wait that needs them and not before.
//!
//! Loops bound to a GPU's threads run in lockstep from barrier to barrier: a barrier must be met by all of them, in
//! the same iteration of every loop around it.

use super::races::{Access, Shadow};
use crate::compute::ReduceOp;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Copy, Expr, Kernel, Level, LoopKind, Mma, Scope, Stmt};
use crate::op::Rng;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, read_scalar, write_scalar};
use crate::{bail, ensure};

/// How many statements a kernel may execute before it is taken to run forever.
const MAX_STEPS: u64 = 1 << 30;
/// How many iterations a parallel loop may have.
const MAX_PARALLEL: i64 = 1 << 24;
/// How many bytes a buffer within a kernel may have.
const MAX_ALLOC: usize = 1 << 32;
/// How many lanes a vector may have.
const MAX_LANES: u32 = 1 << 12;

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
    let result = machine.block(&k.body, &mut [&mut thread]).and_then(|()| thread.check_no_pending());
    for (array, b) in machine.arrays.iter_mut().zip(buffers) {
        b.data = std::mem::take(&mut array.data);
    }
    result
}

/// A buffer in memory.
struct Array {
    name: Sym,
    dtype: DType,
    len: usize,
    writable: bool,
    data: Vec<u8>,
    shadow: Shadow,
}

impl Array {
    fn new(b: &Buffer, len: usize, writable: bool, data: Vec<u8>) -> Array {
        Array { name: b.name.clone(), dtype: b.dtype, len, writable, data, shadow: Shadow::default() }
    }
}

/// What a name stands for.
#[derive(Clone)]
enum Binding {
    Int(i64),
    Value(Value),
    Array(usize),
}

/// A scalar or vector with its element type.
#[derive(Clone, Debug)]
struct Value {
    dtype: DType,
    lanes: Vec<Scalar>,
}

impl Value {
    fn ints(lanes: Vec<i64>) -> Value {
        Value { dtype: DType::I64, lanes: lanes.into_iter().map(Scalar::I).collect() }
    }

    fn one(self, what: &str) -> Result<Scalar> {
        match self.lanes[..] {
            [x] => Ok(x),
            _ => bail!("{what} must be a scalar, found {} lanes", self.lanes.len()),
        }
    }
}

/// What one thread of execution knows.
#[derive(Clone, Default)]
struct Thread {
    id: u32,
    vars: Vec<(Sym, Binding)>,
    /// Asynchronous copies not yet done, the oldest first.
    pending: Vec<(Sym, Rows)>,
}

/// A copy with its operands evaluated: arrays, first elements, distances of rows.
#[derive(Clone)]
struct Rows {
    dst: (usize, i64, i64),
    src: (usize, i64, i64),
    len: i64,
    n_rows: i64,
}

impl Thread {
    fn get(&self, name: &Sym) -> Option<&Binding> {
        self.vars.iter().rev().find(|(s, _)| s == name).map(|(_, b)| b)
    }

    fn array(&self, name: &Sym) -> Result<usize> {
        match self.get(name) {
            Some(Binding::Array(k)) => Ok(*k),
            _ => bail!("there is no buffer {name} here"),
        }
    }

    fn dim(&self, d: &Dim) -> Result<i64> {
        if let Some(c) = d.as_const() {
            return Ok(c);
        }
        let value = d.eval(&|s| match self.get(s)? {
            Binding::Int(v) => Some(*v),
            Binding::Value(v) if v.dtype == DType::I64 && v.lanes.len() == 1 => Some(v.lanes[0].as_i64()),
            _ => None,
        });
        match value {
            Some(v) => Ok(v),
            None => bail!("{d} has no value: an unknown variable or a division by zero"),
        }
    }

    /// The values of integer variables, for messages.
    fn place(&self) -> String {
        let ints = self.vars.iter().filter_map(|(s, b)| match b {
            Binding::Int(v) => Some(format!("{s}={v}")),
            _ => None,
        });
        ints.collect::<Vec<_>>().join(", ")
    }

    fn check_no_pending(&self) -> Result<()> {
        match self.pending.first() {
            Some((token, _)) => bail!("an asynchronous copy of group {token} is never waited for"),
            None => Ok(()),
        }
    }
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
        }
    }

    fn len(&self, b: &Buffer, t: &Thread) -> Result<usize> {
        let len = t.dim(&b.len)?;
        match usize::try_from(len) {
            Ok(len) => Ok(len),
            Err(_) => bail!("buffer {} has a length of {len}", b.name),
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
            let is_gone = |r: &Rows| r.dst.0 >= n_arrays || r.src.0 >= n_arrays;
            if let Some((token, _)) = t.pending.iter().find(|(_, r)| is_gone(r)) {
                bail!("a buffer ends before an asynchronous copy of group {token} is waited for");
            }
        }
        self.arrays.truncate(n_arrays);
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt, threads: &mut [&mut Thread]) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, kind: LoopKind::Bind(Level::Warp | Level::Thread(_)), body } => {
                self.spawn(var, begin, end, body, threads)
            }
            Stmt::Alloc(b) if !matches!(b.scope, Scope::Register | Scope::Stack) => self.alloc(b, threads),
            Stmt::Barrier(_) => {
                self.epoch += 1;
                Ok(())
            }
            _ if threads.len() > 1 && has_barrier(s) => self.lockstep(s, threads),
            _ => threads.iter_mut().try_for_each(|t| self.single(s, t)),
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
            t.check_no_pending()?;
            let range = t.dim(begin)?..t.dim(end)?;
            let n = range.end.saturating_sub(range.start);
            ensure!(n <= MAX_PARALLEL, "loop {var} has {n} threads, more than the interpreter takes");
            for i in range {
                self.last_thread += 1;
                let mut new = Thread { id: self.last_thread, vars: t.vars.clone(), pending: Vec::new() };
                new.vars.push((var.clone(), Binding::Int(i)));
                spawned.push(new);
            }
        }
        shuffle(&mut spawned, &mut self.rng);
        self.epoch += 1;
        self.n_parallel += 1;
        self.block(body, &mut spawned.iter_mut().collect::<Vec<_>>())?;
        self.n_parallel -= 1;
        self.epoch += 1;
        spawned.iter().try_for_each(Thread::check_no_pending)
    }

    /// A statement with a barrier in it, by all threads at once.
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
            Stmt::Wait { token, pending } => self.wait(token, *pending as usize, t),
            Stmt::Mma(m) => self.mma(m, t),
            // A hint without effect, whatever its address.
            Stmt::Call { name, .. } if name == "prefetch" => Ok(()),
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
        shuffle(&mut order, &mut self.rng);
        t.check_no_pending()?;
        for i in order {
            self.block += 1;
            self.iteration(var, i, body, t)?;
            t.check_no_pending()?;
        }
        self.n_parallel -= 1;
        Ok(())
    }

    /// A buffer of poisoned elements, one for all threads.
    fn alloc(&mut self, b: &Buffer, threads: &mut [&mut Thread]) -> Result<()> {
        let len = uniform(threads, |t| self.len(b, t))?;
        let bytes = len.saturating_mul(b.dtype.size());
        ensure!(bytes <= MAX_ALLOC, "buffer {} has {bytes} bytes, more than the interpreter takes", b.name);
        let poison = KernelBuffer::poisoned(b.dtype, len);
        let id = self.arrays.len();
        self.arrays.push(Array::new(b, len, true, poison.data));
        threads.iter_mut().for_each(|t| t.vars.push((b.name.clone(), Binding::Array(id))));
        Ok(())
    }

    /// Checks that an element exists, and that nobody else interferes.
    fn check(&mut self, array: usize, at: i64, is_write: bool, t: &Thread) -> Result<usize> {
        let access = Access { block: self.block, thread: t.id, epoch: self.epoch };
        let is_shared = self.n_parallel > 0;
        let a = &mut self.arrays[array];
        let index = usize::try_from(at).ok().filter(|&i| i < a.len);
        let verb = if is_write { "writes" } else { "reads" };
        let Some(index) = index else {
            bail!("it {verb} element {at} of {}, which has {} (at {})", a.name, a.len, t.place())
        };
        ensure!(a.writable || !is_write, "it writes {}, an input", a.name);
        if is_shared && !a.shadow.record(index, a.len, is_write, access) {
            bail!(
                "a race: it {verb} element {at} of {}, which another iteration uses (at {})",
                a.name,
                t.place()
            );
        }
        Ok(index)
    }

    fn read(&mut self, array: usize, at: i64, t: &Thread) -> Result<Scalar> {
        let index = self.check(array, at, false, t)?;
        let a = &self.arrays[array];
        Ok(read_scalar(a.dtype, &a.data[index * a.dtype.size()..][..a.dtype.size()]))
    }

    fn write(&mut self, array: usize, at: i64, value: Scalar, t: &Thread) -> Result<()> {
        let index = self.check(array, at, true, t)?;
        let a = &mut self.arrays[array];
        let mut bytes = Vec::with_capacity(8);
        write_scalar(a.dtype, value, &mut bytes);
        a.data[index * a.dtype.size()..][..a.dtype.size()].copy_from_slice(&bytes);
        Ok(())
    }

    fn store(
        &mut self,
        buffer: &Sym,
        index: &Expr,
        value: &Expr,
        mask: Option<&Expr>,
        t: &Thread,
    ) -> Result<()> {
        let array = t.array(buffer)?;
        let (index, value) = (self.expr(index, t)?, self.expr(value, t)?);
        let mask = mask.map(|m| self.expr(m, t)).transpose()?;
        let n = index.lanes.len();
        let dtype = self.arrays[array].dtype;
        let fits = index.dtype == DType::I64
            && value.dtype == dtype
            && value.lanes.len() == n
            && mask.as_ref().is_none_or(|m| m.lanes.len() == n);
        ensure!(
            fits,
            "a store of {} x {} to {n} elements of {buffer}: {dtype}",
            value.dtype,
            value.lanes.len()
        );
        for k in 0..n {
            if mask.as_ref().is_none_or(|m| m.lanes[k].as_bool()) {
                self.write(array, index.lanes[k].as_i64(), value.lanes[k], t)?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, c: &Copy, t: &mut Thread) -> Result<()> {
        let (n_rows, dst_step, src_step) = &c.rows;
        let rows = Rows {
            dst: (t.array(&c.dst.0)?, t.dim(&c.dst.1)?, t.dim(dst_step)?),
            src: (t.array(&c.src.0)?, t.dim(&c.src.1)?, t.dim(src_step)?),
            len: t.dim(&c.len)?,
            n_rows: t.dim(n_rows)?,
        };
        let (dst, src) = (self.arrays[rows.dst.0].dtype, self.arrays[rows.src.0].dtype);
        ensure!(dst == src, "a copy from {}: {src} to {}: {dst}", c.src.0, c.dst.0);
        match &c.token {
            Some(token) => t.pending.push((token.clone(), rows)),
            None => self.copy_rows(&rows, t)?,
        }
        Ok(())
    }

    fn copy_rows(&mut self, r: &Rows, t: &Thread) -> Result<()> {
        for row in 0..r.n_rows {
            for k in 0..r.len {
                let from = r.src.1.saturating_add(row.saturating_mul(r.src.2)).saturating_add(k);
                let to = r.dst.1.saturating_add(row.saturating_mul(r.dst.2)).saturating_add(k);
                let x = self.read(r.src.0, from, t)?;
                self.write(r.dst.0, to, x, t)?;
            }
        }
        Ok(())
    }

    /// Does the oldest copies of the group until at most `pending` are left.
    fn wait(&mut self, token: &Sym, pending: usize, t: &mut Thread) -> Result<()> {
        let in_group = t.pending.iter().filter(|(s, _)| s == token).count();
        for _ in pending..in_group {
            let Some(k) = t.pending.iter().position(|(s, _)| s == token) else { break };
            let (_, rows) = t.pending.remove(k);
            self.copy_rows(&rows, t)?;
        }
        Ok(())
    }

    fn mma(&mut self, m: &Mma, t: &Thread) -> Result<()> {
        let place = |(buffer, first, step): &(Sym, Dim, Dim)| -> Result<(usize, i64, i64)> {
            Ok((t.array(buffer)?, t.dim(first)?, t.dim(step)?))
        };
        let (c, a, b) = (place(&m.c)?, place(&m.a)?, place(&m.b)?);
        let dtype = self.arrays[c.0].dtype;
        let work = dtype.compute();
        let [rows, columns, depth] = m.tile.map(i64::from);
        for i in 0..rows {
            for j in 0..columns {
                let at = c.1.saturating_add(i.saturating_mul(c.2)).saturating_add(j);
                let mut terms = vec![self.read(c.0, at, t)?];
                for k in 0..depth {
                    let x = self.read(a.0, a.1.saturating_add(i.saturating_mul(a.2)).saturating_add(k), t)?;
                    let y = self.read(b.0, b.1.saturating_add(k.saturating_mul(b.2)).saturating_add(j), t)?;
                    terms.push(ScalarFn::Mul.eval(work, &[x.cast(work), y.cast(work)]));
                }
                self.write(c.0, at, ReduceOp::Sum.apply(dtype, terms.into_iter()), t)?;
            }
        }
        Ok(())
    }

    fn cond(&mut self, e: &Expr, t: &Thread) -> Result<bool> {
        Ok(self.expr(e, t)?.one("a condition")?.as_bool())
    }

    fn expr(&mut self, e: &Expr, t: &Thread) -> Result<Value> {
        if let Expr::Ramp { lanes, .. } | Expr::Broadcast(_, lanes) = e {
            ensure!(*lanes <= MAX_LANES, "a vector of {lanes} lanes");
        }
        Ok(match e {
            Expr::Const(dtype, x) => Value { dtype: *dtype, lanes: vec![x.cast(*dtype)] },
            Expr::Index(d) => Value::ints(vec![t.dim(d)?]),
            Expr::Ramp { base, stride, lanes } => {
                let (base, stride) = (t.dim(base)?, t.dim(stride)?);
                Value::ints(
                    (0..i64::from(*lanes)).map(|k| base.saturating_add(k.saturating_mul(stride))).collect(),
                )
            }
            Expr::Broadcast(e, lanes) => {
                let v = self.expr(e, t)?;
                let dtype = v.dtype;
                Value { dtype, lanes: vec![v.one("the operand of a broadcast")?; *lanes as usize] }
            }
            Expr::Var(name, _) => match t.get(name) {
                Some(Binding::Int(v)) => Value::ints(vec![*v]),
                Some(Binding::Value(v)) => v.clone(),
                _ => bail!("there is no variable {name} here"),
            },
            Expr::Load { buffer, index, mask } => self.load(buffer, index, mask.as_deref(), t)?,
            Expr::Call(f, args) => {
                let args = args.iter().map(|a| self.expr(a, t)).collect::<Result<Vec<_>>>()?;
                call(*f, &args)?
            }
            Expr::Cast(dtype, e) => {
                let v = self.expr(e, t)?;
                Value { dtype: *dtype, lanes: v.lanes.into_iter().map(|x| x.cast(*dtype)).collect() }
            }
            Expr::Horizontal(op, e) => horizontal(*op, self.expr(e, t)?)?,
        })
    }

    fn load(&mut self, buffer: &Sym, index: &Expr, mask: Option<&Expr>, t: &Thread) -> Result<Value> {
        let array = t.array(buffer)?;
        let index = self.expr(index, t)?;
        let mask = mask.map(|m| self.expr(m, t)).transpose()?;
        let dtype = self.arrays[array].dtype;
        let n = index.lanes.len();
        let fits = index.dtype == DType::I64 && mask.as_ref().is_none_or(|m| m.lanes.len() == n);
        ensure!(fits, "a load of {buffer} at {n} x {}: its mask has another number of lanes", index.dtype);
        let mut lanes = Vec::with_capacity(n);
        for k in 0..n {
            lanes.push(match mask.as_ref().is_none_or(|m| m.lanes[k].as_bool()) {
                true => self.read(array, index.lanes[k].as_i64(), t)?,
                false => Scalar::zero(dtype),
            });
        }
        Ok(Value { dtype, lanes })
    }
}

fn call(f: ScalarFn, args: &[Value]) -> Result<Value> {
    let dtypes: Vec<DType> = args.iter().map(|a| a.dtype).collect();
    let Some(dtype) = f.result(&dtypes) else { bail!("{} is not defined for {dtypes:?}", f.keyword()) };
    let n = args[0].lanes.len();
    ensure!(args.iter().all(|a| a.lanes.len() == n), "the operands of {} differ in lanes", f.keyword());
    let operand = if f == ScalarFn::Select { dtypes[1] } else { dtypes[0] };
    let lane = |k: usize| f.eval(operand, &args.iter().map(|a| a.lanes[k]).collect::<Vec<_>>());
    Ok(Value { dtype, lanes: (0..n).map(lane).collect() })
}

/// All lanes combined, halves with each other until one is left.
fn horizontal(op: ReduceOp, v: Value) -> Result<Value> {
    let Some(f) = op.combine() else { bail!("{} does not combine lanes", op.keyword()) };
    ensure!(f.result(&[v.dtype, v.dtype]) == Some(v.dtype), "{} does not combine {}", op.keyword(), v.dtype);
    let mut lanes = v.lanes;
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len().div_ceil(2));
        for (a, b) in lanes.iter_mut().zip(upper) {
            *a = f.eval(v.dtype, &[*a, b]);
        }
    }
    Ok(Value { dtype: v.dtype, lanes })
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

fn has_barrier(s: &Stmt) -> bool {
    match s {
        Stmt::Barrier(_) => true,
        Stmt::For { body, .. } | Stmt::While { body, .. } => body.iter().any(has_barrier),
        Stmt::If { then, other, .. } => then.iter().chain(other).any(has_barrier),
        _ => false,
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for k in (1..items.len()).rev() {
        items.swap(k, rng.below(k + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_kernel;

    /// Runs a kernel on `f32` buffers and gives their contents afterwards.
    fn run(src: &str, buffers: &[&[f32]], symbols: &[i64]) -> Result<Vec<Vec<f32>>> {
        let k = parse_kernel(src).unwrap_or_else(|e| panic!("{e}"));
        let tensor = |x: &&[f32]| Tensor::from_vec(vec![x.len()], x).unwrap();
        let mut b: Vec<KernelBuffer> =
            buffers.iter().map(|x| KernelBuffer::from_tensor(&tensor(x))).collect();
        kernel(&k, &mut b, symbols)?;
        Ok(b.iter()
            .zip(buffers)
            .map(|(b, x)| b.to_tensor(vec![x.len()]).unwrap().to_vec().unwrap())
            .collect())
    }

    fn error(src: &str, buffers: &[&[f32]], symbols: &[i64]) -> String {
        run(src, buffers, symbols).unwrap_err().message
    }

    #[test]
    fn vectors_masks_and_reductions() {
        let src = "kernel @k(in x: f32[n], out y: f32[n], out s: f32[1]; n: 0..) {
          alloc acc: f32[4] register
          acc[ramp(0, 1, 4)] = broadcast(f32(0.0), 4)
          for i in 0..floordiv(n+3,4) {
            let m = lt(ramp(4*i, 1, 4), broadcast(n, 4))
            let v = x[ramp(4*i, 1, 4) if m]
            y[ramp(4*i, 1, 4) if m] = mul(v, broadcast(f32(2.0), 4))
            acc[ramp(0, 1, 4)] = add(acc[ramp(0, 1, 4)], v)
          }
          s[0] = reduce(sum, acc[ramp(0, 1, 4)])
        }";
        let out = run(src, &[&[1., 2., 3., 4., 5.], &[0.; 5], &[0.]], &[5]).unwrap();
        assert_eq!(out[1..], [vec![2., 4., 6., 8., 10.], vec![15.]]);
    }

    #[test]
    fn control_flow_and_scopes() {
        let src = "kernel @k(out y: f32[8]) {
          alloc at: i64[1] stack
          at[0] = 0
          while lt(at[0], 8) {
            let i: i64 = at[0]
            if eq(mod(i, 2), 0) { y[i] = f32(1.0) } else { y[i] = cast(f32, var(i)) }
            at[0] = add(at[0], 1)
          }
        }";
        assert_eq!(run(src, &[&[9.; 8]], &[]).unwrap()[0], [1., 1., 1., 3., 1., 5., 1., 7.]);
    }

    #[test]
    fn fresh_buffers_are_poisoned() {
        let src = "kernel @k(out y: f32[1]) { alloc a: f32[2] stack y[0] = a[1] }";
        assert!(run(src, &[&[0.]], &[]).unwrap()[0][0].is_nan());
    }

    #[test]
    fn accesses_are_checked() {
        let src = "kernel @k(in x: f32[n], out y: f32[n]; n: 0..) { for i in 0..n { y[i] = x[i+1] } }";
        let message = error(src, &[&[1.; 3], &[0.; 3]], &[3]);
        assert_eq!(message, "kernel k: it reads element 3 of x, which has 3 (at n=3, i=2)");
        let message = error("kernel @k(in x: f32[1]) { x[0] = f32(1) }", &[&[0.]], &[]);
        assert_eq!(message, "kernel k: it writes x, an input");
        let message =
            error("kernel @k(out x: f32[2]) { x[ramp(0, -1, 2)] = broadcast(f32(1), 2) }", &[&[0.; 2]], &[]);
        assert!(message.contains("writes element -1"), "{message}");
        assert!(
            error("kernel @k(out x: f32[2]) { call @dance(x[0]) }", &[&[0.; 2]], &[])
                .contains("unknown intrinsic")
        );
        assert!(
            error("kernel @k(out x: f32[2]; n: 1..=4) { }", &[&[0.; 2]], &[5])
                .contains("outside of its range")
        );
    }

    #[test]
    fn races_are_found() {
        let racy = [
            "y[0] = cast(f32, i)",
            "y[floordiv(i,2)] = f32(0)",
            "y[i] = y[mod(i+1,8)]",
            "if eq(i, 3) { y[0] = y[7] }  y[i] = f32(0)",
        ];
        for body in racy {
            let src = format!("kernel @k(out y: f32[8]) {{ parallel for i in 0..8 {{ {body} }} }}");
            assert!(error(&src, &[&[0.; 8]], &[]).contains("a race"), "{body}");
        }
        let fine = "kernel @k(out y: f32[8]) {
          parallel for i in 0..8 { alloc t: f32[1] stack t[0] = y[i] y[i] = add(t[0], f32(1)) }
          parallel for i in 0..8 { y[7-i] = cast(f32, i) }
        }";
        assert_eq!(run(fine, &[&[0.; 8]], &[]).unwrap()[0], [7., 6., 5., 4., 3., 2., 1., 0.]);
    }

    #[test]
    fn threads_meet_at_barriers() {
        let src = |barrier: &str| {
            format!(
                "kernel @k(in x: f32[16], out y: f32[2]) {{
                  bind(block, 0) for b in 0..2 {{
                    bind(thread, 0) for t in 0..8 {{
                      alloc s: f32[8] shared
                      s[t] = x[8*b+t]
                      for r in 0..3 {{
                        let v: f32 = f32(0)
                        {barrier}
                        let w: f32 = s[mod(t+1,8)]
                        {barrier}
                        s[t] = add(s[t], w)
                      }}
                      {barrier}
                      if eq(t, 0) {{ y[b] = s[0] }}
                    }}
                  }}
                }}"
            )
        };
        let x: Vec<f32> = (0..16u8).map(f32::from).collect();
        let y = run(&src("barrier shared"), &[&x, &[0.; 2]], &[]).unwrap();
        // Three rounds of adding the neighbour: binomial weights 1 3 3 1.
        assert_eq!(y[1], [0. + 3. + 6. + 3., 8. + 27. + 30. + 11.]);
        assert!(error(&src(""), &[&x, &[0.; 2]], &[]).contains("a race"));
    }

    #[test]
    fn copies_happen_at_the_wait() {
        let src = |wait: &str| {
            format!(
                "kernel @k(in x: f32[8], out y: f32[8]) {{
                  alloc a: f32[8] shared
                  copy a[0] from x[0] len 2 rows 2 strides 4, 2 async g
                  {wait}
                  y[0] = a[0] y[1] = a[1] y[2] = a[4] y[3] = a[5]
                  wait g pending 0
                }}"
            )
        };
        let x: Vec<f32> = (1..9u8).map(f32::from).collect();
        let y = run(&src("wait g pending 0"), &[&x, &[0.; 8]], &[]).unwrap();
        assert_eq!(y[1][..4], [1., 2., 3., 4.]);
        let y = run(&src("wait g pending 1"), &[&x, &[0.; 8]], &[]).unwrap();
        assert!(y[1][..4].iter().all(|v| v.is_nan()));
        let never = "kernel @k(in x: f32[8], out y: f32[8]) { copy y[0] from x[0] len 8 async g }";
        assert!(error(never, &[&x, &[0.; 8]], &[]).contains("never waited for"));
    }

    #[test]
    fn matrix_tiles() {
        let src = "kernel @k(in a: f32[6], in b: f32[6], out c: f32[8]) { mma @any [2, 2, 3] c[0, 4] += a[0, 3] * b[0, 2] }";
        let c = run(src, &[&[1., 2., 3., 4., 5., 6.], &[1., 0., 0., 1., 1., 1.], &[1.; 8]], &[]).unwrap();
        assert_eq!(c[2], [5., 6., 1., 1., 11., 12., 1., 1.]);
    }
}

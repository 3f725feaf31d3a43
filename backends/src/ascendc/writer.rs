//! Statements of the loop IR as C++: loops, rows of the vector unit, and where each pipe waits for another.

use super::roles::{Local, Role, loads};
use super::text::{Ranges, Text, ctype, index, name};
use super::values::{Place, Value};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Scope, Stmt};
use aic_ir::{bail, ensure};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Which units a part of a kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A kernel of vector cores alone.
    Vector,
    /// The cube unit.
    Cube,
    /// The vector cores that belong to a cube unit.
    Finish,
}

/// Writes the body of a kernel, or of its part for some units.
pub(super) struct Writer<'a> {
    pub kernel: &'a Kernel,
    pub locals: &'a [Local],
    pub part: Part,
    pub text: Text,
    pub ranges: Ranges,
    /// Elements of the row at hand, and the variable that counts them.
    pub n: String,
    pub lane: Option<Sym>,
    /// Scalars that `let` binds.
    pub lets: HashMap<Sym, Expr>,
    /// Temporaries by their types.
    temporaries: BTreeMap<&'static str, Vec<Rc<String>>>,
    /// Tensors that vector instructions since the last barrier read and wrote.
    pending_reads: BTreeSet<String>,
    pending_writes: BTreeSet<String>,
    /// Names of extents that are more than a number, by scope.
    extents: Vec<Vec<(Dim, String)>>,
    n_extents: usize,
    /// The most elements of a row.
    longest: i64,
    /// Steps in bytes by which rows are gathered from the unified buffer.
    pub steps: BTreeSet<i64>,
    /// Events whose flags are used.
    pub events: BTreeSet<&'static str>,
    /// Queues of the cube unit's buffers that the current block has taken tensors from.
    pub taken: Vec<Vec<String>>,
    /// Buffers that asynchronous copies of a token have filled.
    pub filled: HashMap<Sym, Vec<Sym>>,
}

impl<'a> Writer<'a> {
    pub fn new(kernel: &'a Kernel, locals: &'a [Local], part: Part) -> Writer<'a> {
        Writer {
            kernel,
            locals,
            part,
            text: Text::new(1),
            ranges: HashMap::new(),
            n: String::new(),
            lane: None,
            lets: HashMap::new(),
            temporaries: BTreeMap::new(),
            pending_reads: BTreeSet::new(),
            pending_writes: BTreeSet::new(),
            extents: vec![Vec::new()],
            n_extents: 0,
            longest: 0,
            steps: BTreeSet::new(),
            events: BTreeSet::new(),
            taken: vec![Vec::new()],
            filled: HashMap::new(),
        }
    }

    pub fn local(&self, name: &Sym) -> Option<&'a Local> {
        self.locals.iter().find(|l| l.buffer.name == *name)
    }

    pub fn dtype(&self, name: &Sym) -> Option<DType> {
        let param = self.kernel.params.iter().find(|p| p.buffer.name == *name);
        self.local(name).map(|l| l.buffer.dtype).or(param.map(|p| p.buffer.dtype))
    }

    pub fn index(&self, d: &Dim) -> String {
        index(d, &self.ranges)
    }

    /// The number of elements of rows, for temporaries: whole repeats.
    pub fn width(&self) -> i64 {
        (self.longest.max(64) + 63) / 64 * 64
    }

    /// Notes how many elements the row at hand has at most.
    fn measure(&mut self, n: &Dim) {
        let of = |s: &Sym| self.ranges.get(s).copied().unwrap_or(Range::ALL);
        let held =
            self.locals.iter().filter(|l| l.buffer.scope == Scope::Ub).map(|l| l.len).max().unwrap_or(64);
        self.longest = self.longest.max(n.range(&of).hi.min(held));
    }

    /// Temporaries: a letter for each type, and how many.
    pub fn temporaries(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        self.temporaries.iter().map(|(t, all)| (*t, all.len()))
    }

    /// A temporary that nothing holds.
    pub fn temporary(&mut self, dtype: DType) -> Result<Rc<String>> {
        let ty = ctype(dtype)?;
        let all = self.temporaries.entry(ty).or_default();
        if let Some(free) = all.iter().find(|t| Rc::strong_count(t) == 1) {
            return Ok(free.clone());
        }
        let fresh = Rc::new(format!("{}{}", letter(ty), all.len()));
        all.push(fresh.clone());
        Ok(fresh)
    }

    /// A vector instruction, after a barrier if one before it conflicts.
    pub fn vector(&mut self, reads: &[&str], write: &str, line: &str) {
        let base = |t: &str| t.split(['[', '.']).next().unwrap_or(t).to_owned();
        let conflicts = self.pending_reads.contains(&base(write))
            || self.pending_writes.contains(&base(write))
            || reads.iter().any(|r| self.pending_writes.contains(&base(r)));
        if conflicts {
            self.barrier();
        }
        self.vector_beside(reads, write, line);
    }

    /// A vector instruction that conflicts with none since the last barrier.
    pub fn vector_beside(&mut self, reads: &[&str], write: &str, line: &str) {
        let base = |t: &str| t.split(['[', '.']).next().unwrap_or(t).to_owned();
        self.pending_reads.extend(reads.iter().map(|r| base(r)));
        self.pending_writes.insert(base(write));
        self.text.line(line);
    }

    /// Orders vector instructions, if there are any to be ordered.
    pub fn barrier(&mut self) {
        if !self.pending_writes.is_empty() || !self.pending_reads.is_empty() {
            self.text.line("PipeBarrier<PIPE_V>();");
        }
        self.pending_reads.clear();
        self.pending_writes.clear();
    }

    /// One pipe waits until another has done all that it was given.
    pub fn flag(&mut self, event: &'static str) {
        self.events.insert(event);
        self.text.line(format!("SetFlag<HardEvent::{event}>(event{event});"));
        self.text.line(format!("WaitFlag<HardEvent::{event}>(event{event});"));
    }

    /// An extent as an operand: a number, or a name for it.
    pub fn extent(&mut self, d: &Dim) -> String {
        if d.as_const().is_some() || d.as_sym().is_some() {
            return self.index(d);
        }
        if let Some((_, name)) = self.extents.iter().flatten().find(|(e, _)| e == d) {
            return name.clone();
        }
        let name = match self.n_extents {
            0 => "n".to_owned(),
            k => format!("n{k}"),
        };
        self.n_extents += 1;
        let value = self.index(d);
        self.text.line(format!("const int64_t {name} = {value};"));
        if let Some(scope) = self.extents.last_mut() {
            scope.push((d.clone(), name.clone()));
        }
        name
    }

    pub fn block(&mut self, body: &'a [Stmt]) -> Result<()> {
        self.extents.push(Vec::new());
        self.taken.push(Vec::new());
        self.take_sums(body)?;
        for s in body {
            self.stmt(s)?;
        }
        self.extents.pop();
        let taken = self.taken.pop().unwrap_or_default();
        if !taken.is_empty() && self.part != Part::Cube {
            self.barrier();
        }
        for t in taken {
            self.text.line(format!("{t}Queue.FreeTensor({t});"));
        }
        let of_ring = |s: &Stmt| matches!(s, Stmt::Alloc(b) if b.scope == Scope::Workspace);
        if body.iter().any(of_ring) {
            self.text.line("++turn;");
        }
        Ok(())
    }

    /// The sums of a block that copies them out.
    fn take_sums(&mut self, body: &[Stmt]) -> Result<()> {
        for s in body {
            let Stmt::Copy(c) = s else { continue };
            let sums = self.local(&c.src.buffer).filter(|l| l.buffer.scope == Scope::L0C);
            if let (Some(local), Part::Cube) = (sums, self.part) {
                let (n, t) = (name(&c.src.buffer), ctype(local.buffer.dtype)?);
                self.text.line(format!("LocalTensor<{t}> {n} = {n}Queue.AllocTensor<{t}>();"));
            }
        }
        Ok(())
    }

    fn stmt(&mut self, s: &'a Stmt) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(s, var, [begin, end], *kind, body),
            Stmt::If { cond, then, other } => {
                let cond = self.scalar(cond)?;
                self.barrier();
                self.text.open(format!("if ({cond}) {{"));
                self.block(then)?;
                self.barrier();
                if !other.is_empty() {
                    self.text.other();
                    self.block(other)?;
                    self.barrier();
                }
                self.text.close();
                Ok(())
            }
            Stmt::Let { var, value } => {
                let of = |s: &Sym| self.dtype(s);
                let is_scalar = value.ty(&of).is_none_or(|t| t.lanes == 1);
                if is_scalar && !loads(value).is_empty() && self.lane.is_none() {
                    let value = self.scalar(value)?;
                    self.text.line(format!("const int64_t {} = {value};", name(var)));
                } else {
                    self.lets.insert(var.clone(), value.clone());
                }
                Ok(())
            }
            Stmt::Store { buffer, index, value, mask: None } => self.store(buffer, index, value),
            Stmt::Alloc(b) => self.alloc(b),
            Stmt::Copy(c) => self.copy(c),
            Stmt::Commit { token } => {
                self.commit(token);
                Ok(())
            }
            Stmt::Wait { token, pending: 0 } => self.wait(token),
            Stmt::Mma(m) => self.mma(m),
            _ => bail!("Ascend C has no form of `{s}`"),
        }
    }

    fn for_loop(
        &mut self,
        s: &'a Stmt,
        var: &Sym,
        [begin, end]: [&Dim; 2],
        kind: LoopKind,
        body: &'a [Stmt],
    ) -> Result<()> {
        let last = end.clone() - Dim::from(1);
        let of = |s: &Sym| self.ranges.get(s).copied().unwrap_or(Range::ALL);
        let range = Range::new(begin.range(&of).lo, last.range(&of).hi);
        let outer = self.ranges.insert(var.clone(), range);
        match kind {
            LoopKind::Bind(Level::Core) => self.bound(var, &self.core(), body)?,
            LoopKind::Bind(Level::VectorCore) if self.part != Part::Cube => {
                self.vector_core(var, body)?;
            }
            LoopKind::Bind(Level::VectorCore) => {}
            LoopKind::Serial | LoopKind::Unroll => match self.row(s) {
                Some(true) => self.elements(var, end, body)?,
                Some(false) => self.rows(var, end, body)?,
                None => self.serial(var, begin, end, body)?,
            },
            _ => bail!("the 910B has no loops like `{var}`'s"),
        }
        match outer {
            Some(r) => self.ranges.insert(var.clone(), r),
            None => self.ranges.remove(var),
        };
        Ok(())
    }

    fn core(&self) -> String {
        match self.part {
            Part::Cube => "GetBlockIdx()".into(),
            _ => "GetBlockIdx() / 2".into(),
        }
    }

    /// A loop variable that is a core's number.
    fn bound(&mut self, var: &Sym, value: &str, body: &'a [Stmt]) -> Result<()> {
        self.text.line(format!("const int64_t {} = {value};", name(var)));
        body.iter().try_for_each(|s| self.stmt(s))
    }

    fn vector_core(&mut self, var: &Sym, body: &'a [Stmt]) -> Result<()> {
        if self.part == Part::Vector {
            return self.bound(var, "GetBlockIdx() % 2", body);
        }
        self.text.line("CrossCoreWaitFlag(READY);");
        self.text.open("{");
        self.text.line(format!("const int64_t {} = GetSubBlockIdx();", name(var)));
        self.block(body)?;
        self.text.close();
        self.text.line("CrossCoreSetFlag<2, PIPE_MTE2>(READ);");
        Ok(())
    }

    fn serial(&mut self, var: &Sym, begin: &Dim, end: &Dim, body: &'a [Stmt]) -> Result<()> {
        if self.part == Part::Finish && !has_vector_cores(body) && !self.is_finishing(body) {
            return Ok(());
        }
        let (from, to, v) = (self.index(begin), self.index(end), name(var));
        if (end.clone() - begin.clone()).is(1) {
            // A name.
            self.text.line(format!("const int64_t {v} = {from};"));
            return self.block(body);
        }
        self.barrier();
        self.text.open(format!("for (int64_t {v} = {from}; {v} < {to}; ++{v}) {{"));
        self.block(body)?;
        self.barrier();
        self.text.close();
        Ok(())
    }

    /// Whether statements are vector cores' work within a mixed kernel.
    fn is_finishing(&self, body: &[Stmt]) -> bool {
        let mut found = false;
        super::roles::visit(body, &mut |s| {
            let of = |name: &Sym| self.local(name).is_some_and(|l| l.buffer.scope == Scope::Ub);
            found |= match s {
                Stmt::Store { buffer, .. } => of(buffer),
                Stmt::Copy(c) => of(&c.dst.buffer) || of(&c.src.buffer),
                _ => false,
            };
        });
        found
    }

    /// Whether a loop is over the elements of a row: `Some(true)` if the scalar unit moves them one by one.
    fn row(&self, s: &Stmt) -> Option<bool> {
        let Stmt::For { var, begin, body, .. } = s else { return None };
        let [lets @ .., Stmt::Store { buffer, index: Expr::Index(at), value, .. }] = &body[..] else {
            return None;
        };
        let are_lets = lets.iter().all(|s| matches!(s, Stmt::Let { .. }));
        let is_row = at.affine_in(var).is_some_and(|(step, _)| step.is(1)) && begin.is(0);
        let local = self.local(buffer)?;
        if !are_lets || !is_row || matches!(value, Expr::Horizontal(..)) || local.buffer.scope != Scope::Ub {
            return None;
        }
        Some(local.role == Role::Scalar)
    }

    /// A row of the vector unit.
    fn rows(&mut self, var: &Sym, end: &Dim, body: &'a [Stmt]) -> Result<()> {
        self.n = self.extent(end);
        self.measure(end);
        self.lane = Some(var.clone());
        let scope = self.lets.clone();
        let result = body.iter().try_for_each(|s| self.stmt(s));
        self.lets = scope;
        self.lane = None;
        result
    }

    fn store(&mut self, buffer: &Sym, at: &Expr, value: &Expr) -> Result<()> {
        if let Expr::Horizontal(op, row) = value {
            return self.horizontal(buffer, at, *op, row);
        }
        let to = match at {
            Expr::Index(d) => self.element(buffer, d)?,
            Expr::Ramp { base, stride, lanes } if stride.is(1) => {
                self.n = lanes.to_string();
                self.measure(&i64::from(*lanes).into());
                self.tensor(buffer, base)
            }
            _ => bail!("Ascend C has no form of stores to {buffer} apart"),
        };
        // A queue's buffer that isn't copied to is handed over all the same.
        if let Some(local) = self.local(buffer).filter(|l| l.role == Role::In) {
            self.hand_over(&name(buffer), ctype(local.buffer.dtype)?);
        }
        let v = self.value(value, Some(&to))?;
        self.put(&v, &to)
    }

    /// A tensor from an element on.
    fn tensor(&self, buffer: &Sym, base: &Dim) -> String {
        let n = name(buffer);
        if base.is(0) { n } else { format!("{n}[{}]", self.index(base)) }
    }

    /// The tensor that begins where the row does.
    fn element(&self, buffer: &Sym, at: &Dim) -> Result<String> {
        let Some(lane) = &self.lane else { return Ok(self.tensor(buffer, at)) };
        match at.affine_in(lane) {
            Some((step, base)) if step.is(1) => Ok(self.tensor(buffer, &base)),
            _ => bail!("elements of {buffer} are apart"),
        }
    }

    /// All lanes of a row combined into one element: within repeats of 64 first.
    fn horizontal(&mut self, buffer: &Sym, at: &Expr, op: ReduceOp, row: &Expr) -> Result<()> {
        let (Expr::Load { buffer: from, index: ramp, mask: None }, Expr::Index(at)) = (row, at) else {
            bail!("Ascend C has no form of this reduction")
        };
        let Some((base, _, lanes)) = ramp.as_ramp() else { bail!("a reduction of elements apart") };
        let (name_of, order) = match op {
            ReduceOp::Sum => ("Sum", ""),
            ReduceOp::Max => ("Max", ", ReduceOrder::ORDER_ONLY_VALUE"),
            ReduceOp::Min => ("Min", ", ReduceOrder::ORDER_ONLY_VALUE"),
            _ => bail!("the vector unit doesn't reduce by {}", op.keyword()),
        };
        let (from, to) = (self.tensor(from, &base), self.tensor(buffer, at));
        let pairwise = if op == ReduceOp::Sum { "Add" } else { name_of };
        let mut lanes = lanes;
        ensure!(
            lanes.is_power_of_two() && lanes >= 64 || lanes % 64 == 0,
            "rows of {lanes} elements aren't reduced"
        );
        while lanes > 64 * 64 {
            lanes /= 2;
            self.vector(&[&from], &from, &format!("{pairwise}({from}, {from}, {from}[{lanes}], {lanes});"));
        }
        let repeats = lanes / 64;
        if repeats == 1 {
            self.vector(
                &[&from],
                &to,
                &format!("WholeReduce{name_of}({to}, {from}, 64, 1, 1, 1, 8{order});"),
            );
            return Ok(());
        }
        let part = self.temporary(DType::F32)?;
        self.vector(
            &[&from],
            &part,
            &format!("WholeReduce{name_of}({part}, {from}, 64, {repeats}, 1, 1, 8{order});"),
        );
        self.vector(
            &[&part],
            &to,
            &format!("WholeReduce{name_of}({to}, {part}, {repeats}, 1, 1, 1, 8{order});"),
        );
        Ok(())
    }

    /// An expression over the elements of a row.
    fn value(&mut self, e: &Expr, wish: super::values::Wish) -> Result<Value> {
        match e {
            Expr::Const(t, s) => Ok(Value::number(s.as_f64(), *t)),
            Expr::Broadcast(e, _) => self.value(e, wish),
            Expr::Var(v, _) => match self.lets.get(v).cloned() {
                Some(bound) => self.value(&bound, wish),
                None => bail!("{v} isn't a row"),
            },
            Expr::Index(d) => self.indices(d),
            Expr::Ramp { base, stride, .. } => match stride.as_const() {
                Some(step) => {
                    let base = self.index(base);
                    let mut v = self.ramp(&base, step)?;
                    v.dtype = DType::I64;
                    Ok(v)
                }
                None => bail!("steps of indices that aren't constant"),
            },
            Expr::Load { buffer, index, mask: None } => self.load(buffer, index, wish),
            Expr::Call(f, args) => {
                let mut values = Vec::new();
                for a in args {
                    let mut v = self.value(a, None)?;
                    // Indices are computed with as floats.
                    if v.dtype == DType::I64 && !matches!(v.place, Place::Row(ref t) if self.is_buffer(t)) {
                        v.dtype = DType::F32;
                    }
                    values.push(v);
                }
                self.call(*f, &values, wish)
            }
            Expr::Cast(t, e) => {
                let v = self.value(e, None)?;
                if v.dtype == DType::I64
                    && *t == DType::F32
                    && !matches!(v.place, Place::Row(ref t) if self.is_buffer(t))
                {
                    return Ok(Value { dtype: DType::F32, ..v });
                }
                self.cast(&v, *t, wish)
            }
            _ => bail!("the vector unit has no form of this expression"),
        }
    }

    fn is_buffer(&self, tensor: &str) -> bool {
        let base = tensor.split('[').next().unwrap_or(tensor);
        self.locals.iter().any(|l| name(&l.buffer.name) == base)
    }

    fn indices(&mut self, d: &Dim) -> Result<Value> {
        let lane = self.lane.clone();
        let affine = lane.as_ref().and_then(|l| d.affine_in(l));
        match affine {
            Some((step, base)) => match step.as_const() {
                Some(0) => {
                    let base = self.index(&base);
                    Ok(Value { place: Place::Scalar(base), dtype: DType::I64, hold: None })
                }
                Some(step) => {
                    let base = self.index(&base);
                    let mut v = self.ramp(&base, step)?;
                    v.dtype = DType::I64;
                    Ok(v)
                }
                None => bail!("steps of indices that aren't constant"),
            },
            None => bail!("indices that aren't linear"),
        }
    }

    fn load(&mut self, buffer: &Sym, at: &Expr, wish: super::values::Wish) -> Result<Value> {
        let Some(local) = self.local(buffer) else { bail!("the vector unit doesn't load from memory") };
        let dtype = local.buffer.dtype;
        match (at, self.lane.clone()) {
            (Expr::Ramp { base, stride, .. }, _) if stride.is(1) => {
                Ok(Value::row(self.tensor(buffer, base), dtype))
            }
            (Expr::Index(d), Some(lane)) if d.mentions(&lane) => {
                match d.affine_in(&lane).and_then(|(step, base)| Some((step.as_const()?, base))) {
                    Some((step, base)) if step > 1 => {
                        let (tensor, base) = (name(buffer), self.index(&base));
                        self.gather(&tensor, dtype, step, &base, wish)
                    }
                    _ => Ok(Value::row(self.element(buffer, d)?, dtype)),
                }
            }
            (Expr::Index(d), _) => {
                let tensor = self.tensor(buffer, d);
                self.spread(&tensor, dtype)
            }
            _ => bail!("elements of {buffer} are apart"),
        }
    }

    /// The name of a tensor: of global memory, or of a buffer.
    pub fn place(&self, buffer: &Sym) -> String {
        match self.local(buffer) {
            Some(_) => name(buffer),
            None => format!("{}Gm", name(buffer)),
        }
    }

    fn alloc(&mut self, b: &'a Buffer) -> Result<()> {
        let Some(local) = self.local(&b.name) else { return Ok(()) };
        let (n, t) = (name(&b.name), ctype(b.dtype)?);
        match local.role {
            Role::In | Role::Out | Role::Through => {
                self.text.line(format!("LocalTensor<{t}> {n} = {n}Queue.AllocTensor<{t}>();"));
                if let Some(taken) = self.taken.last_mut() {
                    taken.push(n);
                }
            }
            Role::Temporary | Role::Scalar | Role::Cube | Role::Ring => {}
        }
        Ok(())
    }
}

/// Whether there are loops over the vector cores of a core.
pub(super) fn has_vector_cores(body: &[Stmt]) -> bool {
    let mut found = false;
    super::roles::visit(body, &mut |s| {
        found |= matches!(s, Stmt::For { kind: LoopKind::Bind(Level::VectorCore), .. });
    });
    found
}

/// The letter that names of temporaries of a type begin with.
pub(super) fn letter(ctype: &str) -> &'static str {
    match ctype {
        "float" => "t",
        "half" => "h",
        "bfloat16_t" => "b",
        "int32_t" => "i",
        "uint8_t" => "m",
        "int8_t" => "c",
        "int16_t" => "s",
        _ => "l",
    }
}

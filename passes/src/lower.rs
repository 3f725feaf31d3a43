//! Lowering: from a graph to a program.
//!
//! Every node becomes kernel launches (if it has a compute definition), an alias (reshapes), a constant, or a host
//! step that interprets it. Equal kernels are made once. Constants are laid out as kernels read them; as they were,
//! they stay only for those that read them so. Buffers get their places in the arena from `memory`.

pub use crate::schedule::{Cut, Piece, pieces};

use crate::packing::{self, Packing};
use crate::schedule::{self, Choices, Scheduled};
use aic_ir::compute::{Compute, Source};
use aic_ir::dim::{Dim, Range, Sym, floor_div};
use aic_ir::error::Result;
use aic_ir::graph::{Def, Graph, Node, NodeId, ValueId};
use aic_ir::kernel::{Buffer, Kernel};
use aic_ir::op::Op;
use aic_ir::program::{BufferDecl, Place, Port, Program, Step};
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_ir::verify;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Lowers a graph whose nodes are all wanted (dead ones removed). Buffers have no offsets yet.
pub fn lower(graph: Graph, target: &Target) -> Result<Program> {
    lower_with(graph, target, &Choices::default())
}

/// As [`lower`], with schedules that were chosen before where they are legal.
pub fn lower_with(graph: Graph, target: &Target, choices: &Choices) -> Result<Program> {
    let graph = Arc::new(graph);
    let inputs: BTreeSet<Sym> = graph.input_symbols().into_iter().map(|(s, _, _)| s).collect();
    let mut l = Lowering {
        graph: &graph,
        target,
        choices,
        program: Program { name: graph.name.clone(), ..Program::default() },
        buffers: HashMap::new(),
        kernels: HashMap::new(),
        packed: HashMap::new(),
        known: inputs.clone(),
        inputs,
    };
    l.program.requires = graph.requires.clone();
    for (_, n) in graph.nodes() {
        l.require(n);
    }
    for (k, p) in graph.inputs.iter().enumerate() {
        let ty = graph.ty(p.value).clone();
        let buffer = l.buffer(ty.clone(), Place::Input(k));
        l.buffers.insert(p.value, buffer);
        l.program.inputs.push(Port { name: p.name.clone(), ty, buffer });
    }
    for (id, n) in graph.nodes() {
        l.node(id, n).map_err(|e| n.origin.iter().fold(e, |e, o| e.node(o.as_ref())))?;
    }
    for (k, p) in graph.outputs.iter().enumerate() {
        l.output(k, &p.name, p.value);
    }
    let (mut program, packed) = (l.program, l.packed);
    pack(&mut program, packed)?;
    remove_unused(&mut program);
    program.graph = graph.clone();
    Ok(program)
}

/// Whether a value is a constant, in whatever shape.
pub fn is_constant(g: &Graph, v: ValueId) -> bool {
    let Def::Node(id, _) = g.value(v).def else { return false };
    let n = g.node(id);
    match n.op {
        Op::Const(_) => true,
        Op::Reshape(_) => is_constant(g, n.inputs[0]),
        _ => false,
    }
}

/// The operands of a node that are constants.
pub fn constants(g: &Graph, n: &Node) -> BTreeSet<usize> {
    (0..n.inputs.len()).filter(|k| is_constant(g, n.inputs[*k])).collect()
}

/// Makes the packed constants.
fn pack(program: &mut Program, packed: HashMap<(usize, Packing), usize>) -> Result<()> {
    let mut jobs = Vec::new();
    let mut buffers = Vec::new();
    for ((from, packing), to) in packed {
        if let Place::Constant(t) = &program.buffers[from].place {
            jobs.push((t.clone(), packing));
            buffers.push(to);
        }
    }
    for (to, t) in buffers.into_iter().zip(packing::pack_all(&jobs)?) {
        program.buffers[to].place = Place::Constant(t);
    }
    Ok(())
}

/// Removes buffers of constants that nothing reads, and aliases of them.
fn remove_unused(program: &mut Program) {
    let mut used = vec![false; program.buffers.len()];
    let mut mark = |mut b: usize| {
        used[b] = true;
        while let Place::Alias(of) = program.buffers[b].place {
            (used[of], b) = (true, of);
        }
    };
    program.inputs.iter().chain(&program.outputs).for_each(|p| mark(p.buffer));
    program.steps.iter().flat_map(operands).for_each(&mut mark);
    let count = |n: &mut usize, used: &bool| {
        *n += usize::from(*used);
        Some(*n - usize::from(*used))
    };
    let positions: Vec<usize> = used.iter().scan(0, count).collect();
    let mut used = used.into_iter();
    program.buffers.retain(|_| used.next().unwrap_or(true));
    let moved = |b: &mut usize| *b = positions[*b];
    program.inputs.iter_mut().chain(&mut program.outputs).for_each(|p| moved(&mut p.buffer));
    for b in &mut program.buffers {
        if let Place::Alias(of) = &mut b.place {
            moved(of);
        }
    }
    for step in &mut program.steps {
        match step {
            Step::Launch { args, .. } => args.iter_mut().for_each(moved),
            Step::Host { inputs, outputs, .. } => inputs.iter_mut().chain(outputs).for_each(moved),
            Step::Copy { src, dst } => [src, dst].into_iter().for_each(moved),
        }
    }
}

/// The buffers that a step reads or writes.
fn operands(step: &Step) -> Vec<usize> {
    match step {
        Step::Launch { args, .. } => args.clone(),
        Step::Host { inputs, outputs, .. } => [&inputs[..], outputs].concat(),
        Step::Copy { src, dst } => vec![*src, *dst],
    }
}

/// The buffers of a node's results, or why it has no kernels.
type Launched = std::result::Result<Vec<usize>, String>;

/// What a piece of a compute becomes.
enum Made {
    Kernel(Scheduled),
    /// This constant in this order, laid out when the program is made.
    LaidOut(usize, Packing),
}

struct Lowering<'a> {
    graph: &'a Graph,
    target: &'a Target,
    choices: &'a Choices,
    program: Program,
    buffers: HashMap<ValueId, usize>,
    /// Kernels by their text without the name.
    kernels: HashMap<String, usize>,
    /// Packed constants by what they are made of.
    packed: HashMap<(usize, Packing), usize>,
    /// Symbols whose values are known before the program runs.
    inputs: BTreeSet<Sym>,
    /// Symbols whose values are known before the step at hand.
    known: BTreeSet<Sym>,
}

impl Lowering<'_> {
    /// What a node's compute definition relies on is required of every run, where the inputs decide it.
    fn require(&mut self, n: &Node) {
        let types: Vec<Type> = n.inputs.iter().map(|v| self.graph.ty(*v).clone()).collect();
        for d in n.op.requires(&types) {
            if d.symbols().is_subset(&self.known) && !self.program.requires.contains(&d) {
                self.program.requires.push(d);
            }
        }
    }

    /// What is known of a symbol in every run: dims aren't negative, and some are required to be larger.
    fn range(&self, s: &Sym) -> Range {
        let bound = |d: &Dim| {
            let (coeff, rest) = d.affine_in(s)?;
            let (coeff, rest) = (coeff.as_const().filter(|c| *c > 0)?, rest.as_const()?);
            Some(-floor_div(rest, coeff))
        };
        let lo = self.program.requires.iter().filter_map(bound).max().unwrap_or(0);
        Range::new(lo.max(0), i64::MAX)
    }

    fn buffer(&mut self, ty: Type, place: Place) -> usize {
        self.program.buffers.push(BufferDecl { ty, place });
        self.program.buffers.len() - 1
    }

    /// A buffer for a result: in the arena, or on the heap where its size isn't known before the program runs.
    fn result(&mut self, ty: &Type) -> usize {
        let early = ty.dims.iter().all(|d| d.symbols().is_subset(&self.inputs));
        let place = if early { Place::Arena(0.into()) } else { Place::Heap };
        self.buffer(ty.clone(), place)
    }

    fn node(&mut self, id: NodeId, n: &Node) -> Result<()> {
        let types = |vs: &[ValueId]| -> Vec<Type> { vs.iter().map(|v| self.graph.ty(*v).clone()).collect() };
        let (x, y) = (types(&n.inputs), types(&n.outputs));
        match &n.op {
            Op::Const(c) => {
                let b = self.buffer(y[0].clone(), Place::Constant(c.value.clone()));
                self.buffers.insert(n.outputs[0], b);
                return Ok(());
            }
            Op::Reshape(_) => {
                let from = self.buffers[&n.inputs[0]];
                let b = self.buffer(y[0].clone(), Place::Alias(from));
                self.buffers.insert(n.outputs[0], b);
                return Ok(());
            }
            _ => {}
        }
        let inputs: Vec<usize> = n.inputs.iter().map(|v| self.buffers[v]).collect();
        match self.launched(n, &x, &y, &inputs)? {
            Ok(outputs) => self.buffers.extend(n.outputs.iter().copied().zip(outputs)),
            Err(reason) => self.host(id, n, inputs, &y, reason),
        }
        Ok(())
    }

    /// Launches kernels for a node and gives the buffers of its results, or the reason why it has none that are safe for
    /// whatever the extents turn out to be.
    fn launched(&mut self, n: &Node, x: &[Type], y: &[Type], inputs: &[usize]) -> Result<Launched> {
        let unfit = || Ok(Err(format!("operator {} has no kernel for these operands", n.op.keyword())));
        let sizes_known = y.iter().flat_map(|t| &t.dims).all(|d| d.symbols().is_subset(&self.known));
        if !sizes_known || !n.op.requires(x).iter().all(|d| self.program.requires.contains(d)) {
            return unfit();
        }
        if let Some(c) = n.op.compute(x, y) {
            let c = Compute { constants: constants(self.graph, n), ..c };
            let cut = schedule::cut(&c, self.target);
            let made = |p: &Piece| match self.laid_out(p, inputs) {
                Some((constant, packing)) => Ok(Made::LaidOut(constant, packing)),
                None => self.kernel(p).map(Made::Kernel),
            };
            let made = cut.pieces.iter().map(made).collect::<Result<Vec<_>>>();
            let made = match made {
                // Not every class has schedules for every machine.
                Err(e) if !self.target.is_cpu() => return Ok(Err(e.message)),
                found => found?,
            };
            let unsound = made.iter().find_map(|made| match made {
                Made::Kernel(k) => self.unsound(&k.kernel),
                Made::LaidOut(..) => None,
            });
            return Ok(match unsound {
                Some(reason) => Err(format!("its kernel isn't sound: {reason}")),
                None => Ok(self.launches(n, &cut, made, inputs)),
            });
        }
        let Some(kernel) = n.op.kernel(x, y).filter(|k| self.unsound(k).is_none()) else { return unfit() };
        let outputs: Vec<usize> = y.iter().map(|t| self.result(t)).collect();
        let work = kernel.params.iter().map(|p| &p.buffer.len).sum();
        self.push(n, None, kernel, [inputs, &outputs].concat(), work);
        Ok(Ok(outputs))
    }

    /// How a kernel breaks the contract for some values of its symbols. On a CPU one without symbols never does, which
    /// tests check.
    fn unsound(&self, k: &Kernel) -> Option<String> {
        if k.symbols.is_empty() && self.target.is_cpu() {
            return None;
        }
        verify::kernel_for(k, self.target).into_iter().next()
    }

    fn host(&mut self, id: NodeId, n: &Node, inputs: Vec<usize>, y: &[Type], reason: String) {
        let outputs: Vec<usize> = y.iter().map(|t| self.result(t)).collect();
        let mut defines = Vec::new();
        for (k, t) in y.iter().enumerate() {
            for (axis, d) in t.dims.iter().enumerate() {
                if let Some(s) = d.as_sym()
                    && self.known.insert(s.clone())
                {
                    defines.push((s.clone(), k, axis));
                }
            }
        }
        self.buffers.extend(n.outputs.iter().copied().zip(outputs.iter().copied()));
        self.program.steps.push(Step::Host { node: id, inputs, outputs, defines, reason });
    }

    /// The kernel of a piece, with what is known of its symbols.
    fn kernel(&self, piece: &Piece) -> Result<Scheduled> {
        let mut made = self.choices.kernel("", &piece.compute, self.target)?;
        for (s, range) in &mut made.kernel.symbols {
            *range = self.range(s);
        }
        Ok(made)
    }

    /// The constant that a piece only puts into another order, and that order: nothing is launched for it. On a CPU
    /// schedules themselves say what is packed.
    fn laid_out(&self, piece: &Piece, inputs: &[usize]) -> Option<(usize, Packing)> {
        let [Source::Input(k)] = &piece.sources[..] else { return None };
        let constant = *inputs.get(*k)?;
        let is_constant = matches!(self.program.buffers[self.root(constant)].place, Place::Constant(_));
        if self.target.is_cpu() || !is_constant || piece.results.len() != 1 {
            return None;
        }
        schedule::as_packing(&piece.compute).map(|(_, packing)| (constant, packing))
    }

    /// One launch per piece of a compute, of those that have kernels; gives the buffers of its outputs.
    fn launches(&mut self, n: &Node, cut: &Cut, made: Vec<Made>, inputs: &[usize]) -> Vec<usize> {
        let mut stages: HashMap<usize, usize> = HashMap::new();
        for (piece, made) in cut.pieces.iter().zip(made) {
            let Scheduled { schedule, kernel, packings } = match made {
                Made::Kernel(scheduled) => scheduled,
                Made::LaidOut(constant, packing) => {
                    let buffer = self.packed(constant, packing);
                    stages.extend(piece.results.iter().map(|result| (*result, buffer)));
                    continue;
                }
            };
            let source = |s: &Source| match s {
                Source::Input(k) => inputs.get(*k).copied(),
                Source::Stage(k) => stages.get(k).copied(),
            };
            let mut args: Vec<usize> = piece.sources.iter().filter_map(source).collect();
            for (k, packing) in packings {
                args[k] = self.packed(args[k], packing);
            }
            let mut work = piece.compute.flops();
            for &result in &piece.results {
                let ty = cut.compute.stages[result].ty();
                work = work + ty.numel();
                let buffer = self.result(&ty);
                stages.insert(result, buffer);
                args.push(buffer);
            }
            for scratch in &kernel.params[args.len()..] {
                let Buffer { dtype, len, .. } = &scratch.buffer;
                args.push(self.result(&Type::new(*dtype, vec![len.clone()])));
            }
            self.push(n, Some((schedule, &piece.compute)), kernel, args, work);
        }
        cut.compute.outputs.iter().filter_map(|k| stages.get(k).copied()).collect()
    }

    /// The buffer whose memory it is.
    fn root(&self, mut buffer: usize) -> usize {
        while let Place::Alias(of) = self.program.buffers[buffer].place {
            buffer = of;
        }
        buffer
    }

    /// The buffer of a packed constant; its elements follow when all are known.
    fn packed(&mut self, constant: usize, packing: Packing) -> usize {
        let root = self.root(constant);
        if let Some(b) = self.packed.get(&(root, packing.clone())) {
            return *b;
        }
        let dtype = self.program.buffers[root].ty.dtype;
        let len = packing.numel().unwrap_or_default();
        let b = self.buffer(Type::new(dtype, vec![len.into()]), Place::Heap);
        self.packed.insert((root, packing), b);
        b
    }

    /// Adds a launch; an equal kernel that is there already serves again.
    fn push(
        &mut self,
        n: &Node,
        made_by: Option<(Schedule, &Compute)>,
        kernel: Kernel,
        args: Vec<usize>,
        work: Dim,
    ) {
        let key = format!("{kernel:?}");
        let next = self.program.kernels.len();
        let at = *self.kernels.entry(key).or_insert(next);
        self.program.steps.push(Step::Launch {
            kernel: at,
            args,
            symbols: kernel.symbols.iter().map(|(s, _)| Dim::sym(s)).collect(),
            extent: kernel.parallel_extent(),
            work,
            origin: n.origin.clone(),
        });
        if at == next {
            let (schedule, compute) = made_by.map(|(s, c)| (s, Arc::new(c.clone()))).unzip();
            self.program.schedules.push(schedule);
            self.program.computes.push(compute);
            self.program.kernels.push(Kernel { name: format!("{}_{at}", n.op.keyword()), ..kernel });
        }
    }

    /// Makes `value` output `k`: its buffer moves to the caller's memory, or is copied there where it can't.
    fn output(&mut self, k: usize, name: &str, value: ValueId) {
        let ty = self.graph.ty(value).clone();
        let from = self.buffers[&value];
        let movable = matches!(self.graph.value(value).def, Def::Node(..))
            && matches!(self.program.buffers[from].place, Place::Arena(_));
        let buffer = if movable {
            self.program.buffers[from].place = Place::Output(k);
            from
        } else {
            let b = self.buffer(ty.clone(), Place::Output(k));
            self.program.steps.push(Step::Copy { src: from, dst: b });
            b
        };
        self.program.outputs.push(Port { name: name.into(), ty, buffer });
    }
}

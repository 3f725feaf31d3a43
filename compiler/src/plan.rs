//! Writes the plan of a program: the table of words that the C runtime interprets.
//!
//! `runtime/plan.h` describes the format. A program is checked on the way, so that the runtime may trust the plan: every
//! reference lies within what it refers to, every symbol has one definition, nothing is used before its size is known,
//! and ports are where their buffers say. A violation is a bug of the compiler, reported as an error.
//!
//! The *stage* of an expression or buffer is the number of host steps that must have run before it is known; stage 0
//! follows from the inputs.

use aic_ir::dim::{Atom, Dim, Range, Sym};
use aic_ir::error::{Error, Result};
use aic_ir::graph::NodeId;
use aic_ir::program::{Place, Port, Program, Step};
use aic_ir::tensor::Tensor;
use aic_ir::types::{Layout, Type};
use aic_ir::{bail, ensure};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the runtime executes, and what it refers to.
#[derive(Debug, Default)]
pub struct Plan {
    /// The table.
    pub words: Vec<i64>,
    /// Constants in the order of the runtime's table of pointers.
    pub constants: Vec<Tensor>,
    /// Symbols by their numbers.
    pub symbols: Vec<Sym>,
    /// Host steps by the numbers that the runtime gives to the callback.
    pub hosts: Vec<HostStep>,
}

/// A step that the host computes.
#[derive(Clone, Debug, PartialEq)]
pub struct HostStep {
    /// The node of the program's graph.
    pub node: NodeId,
    /// Its operands: the constant, where it is one.
    pub inputs: Vec<Option<Tensor>>,
    /// The number of results.
    pub n_outputs: usize,
}

/// Instruction sets that the runtime can check, by LLVM's names; the order is that of `runtime/cpu.h`.
pub use aic_backends::x86::FEATURES as CPU_FEATURES;

/// The bits of features given by LLVM's names, with or without a `+` before them. Names that are switched off by a `-`
/// or that the runtime doesn't know (none that a compiler uses unasked) have no bit.
pub fn cpu_bits<'a>(features: impl IntoIterator<Item = &'a str>) -> u64 {
    let bit = |name: &str| CPU_FEATURES.iter().position(|f| *f == name).map_or(0, |k| 1 << k);
    features.into_iter().map(|f| bit(f.strip_prefix('+').unwrap_or(f))).fold(0, |a, b| a | b)
}

/// The bytes that a value of this type takes in memory; the channels of a blocked layout are padded.
pub fn bytes(ty: &Type) -> Dim {
    let mut dims = ty.dims.clone();
    if let (Layout::ChannelsBlocked(n), Some(d)) = (ty.layout, dims.get_mut(1)) {
        let n = Dim::from(i64::from(n));
        *d = d.ceil_div(&n) * n;
    }
    dims.iter().product::<Dim>() * Dim::from(ty.dtype.size())
}

/// Writes the plan of a program that needs the given [`cpu_bits`].
///
/// # Errors
/// The program breaks one of the rules in the module's text.
pub fn encode(program: &Program, cpu: u64) -> Result<Plan> {
    Encoder::new(program)
        .and_then(|e| e.encode(cpu))
        .map_err(|e| e.context("the compiled program is not sound"))
}

const MAGIC: i64 = 0x6e61_6c70_6369_6131;
const VERSION: i64 = 1;
const HEADER_WORDS: usize = 31;

const INPUT: i64 = 0;
const OUTPUT: i64 = 1;
const CONSTANT: i64 = 2;
const ARENA: i64 = 3;
const ALIAS: i64 = 4;
const HEAP: i64 = 5;

const LAUNCH: i64 = 0;
const HOST: i64 = 1;
const COPY: i64 = 2;

const STACK: usize = 64;
const END: i64 = 0;
const CONST: i64 = 1;
const SYM: i64 = 2;
const ADD: i64 = 3;
const MUL: i64 = 4;
const DIV: i64 = 5;
const MOD: i64 = 6;
const MIN: i64 = 7;
const MAX: i64 = 8;

/// Where a symbol gets its value.
struct Symbol {
    name: Sym,
    /// The input, or -1 for a host step.
    input: i64,
    axis: usize,
    stage: usize,
    range: Range,
}

struct Encoder<'a> {
    program: &'a Program,
    words: Vec<i64>,
    text: Vec<u8>,
    symbols: Vec<Symbol>,
    numbers: HashMap<Sym, usize>,
    /// Expressions sorted by stage, and their numbers.
    exprs: Vec<Dim>,
    expr_numbers: HashMap<Dim, usize>,
    /// For each buffer, the one whose memory it lies in.
    roots: Vec<usize>,
    buffer_stages: Vec<usize>,
    constants: Vec<Tensor>,
}

impl<'a> Encoder<'a> {
    fn new(program: &'a Program) -> Result<Encoder<'a>> {
        let mut e = Encoder {
            program,
            words: vec![0; HEADER_WORDS],
            text: Vec::new(),
            symbols: Vec::new(),
            numbers: HashMap::new(),
            exprs: Vec::new(),
            expr_numbers: HashMap::new(),
            roots: Vec::new(),
            buffer_stages: Vec::new(),
            constants: Vec::new(),
        };
        check_references(program)?;
        e.roots = (0..program.buffers.len()).map(|b| root(program, b)).collect::<Result<_>>()?;
        e.define_symbols()?;
        e.number_exprs()?;
        e.stage_buffers()?;
        e.check_order()?;
        e.check_ports()?;
        Ok(e)
    }

    fn encode(mut self, cpu: u64) -> Result<Plan> {
        let p = self.program;
        let name = self.string(&p.name);
        let symbols = self.write_symbols();
        let exprs = self.write_exprs()?;
        let inputs = self.write_ports(&p.inputs);
        let outputs = self.write_ports(&p.outputs);
        let (buffers, n_heaps) = self.write_buffers();
        let requires = self.write_requires();
        let first = self.resolved_at(0);
        let first_buffers = self.list(first.iter().map(|&b| b as i64));
        let (steps, hosts) = self.write_steps();
        let text = self.write_text();
        let first_exprs = self.exprs_until(0);
        let header: [i64; HEADER_WORDS] = [
            MAGIC,
            VERSION,
            self.words.len() as i64,
            cpu.cast_signed(),
            text,
            name,
            self.symbols.len() as i64,
            symbols,
            self.exprs.len() as i64,
            exprs,
            first_exprs as i64,
            p.inputs.len() as i64,
            inputs,
            p.outputs.len() as i64,
            outputs,
            p.buffers.len() as i64,
            buffers,
            first.len() as i64,
            first_buffers,
            p.steps.len() as i64,
            steps,
            self.number(&p.arena_bytes),
            p.requires.len() as i64,
            requires,
            p.kernels.len() as i64,
            self.constants.len() as i64,
            n_heaps,
            most(p.steps.iter().map(|s| launch_sizes(s).0)),
            most(p.steps.iter().map(|s| launch_sizes(s).1)),
            most(p.steps.iter().map(|s| operand_counts(s).iter().sum())),
            most(p.buffers.iter().map(|b| b.ty.rank()).chain(ports(p).map(|q| q.ty.rank()))),
        ];
        self.words[..HEADER_WORDS].copy_from_slice(&header);
        let symbols = self.symbols.into_iter().map(|s| s.name).collect();
        Ok(Plan { words: self.words, constants: self.constants, symbols, hosts })
    }

    /// Input dims that are one symbol give it its value; then host steps do.
    fn define_symbols(&mut self) -> Result<()> {
        for (k, port) in self.program.inputs.iter().enumerate() {
            for (axis, d) in port.ty.dims.iter().enumerate() {
                if let Some(name) = d.as_sym().filter(|s| !self.numbers.contains_key(s)) {
                    self.define(name, k as i64, axis, 0)?;
                }
            }
        }
        let mut stage = 0;
        for step in &self.program.steps {
            if let Step::Host { defines, .. } = step {
                stage += 1;
                for (name, _, axis) in defines {
                    self.define(name, -1, *axis, stage)?;
                }
            }
        }
        self.narrow_ranges()
    }

    fn define(&mut self, name: &Sym, input: i64, axis: usize, stage: usize) -> Result<()> {
        let number = self.symbols.len();
        ensure!(self.numbers.insert(name.clone(), number).is_none(), "symbol {name} is defined twice");
        self.symbols.push(Symbol { name: name.clone(), input, axis, stage, range: Range::DIM });
        Ok(())
    }

    /// Kernels take ranges of symbols for granted; so the runtime has to check them.
    fn narrow_ranges(&mut self) -> Result<()> {
        for step in &self.program.steps {
            let Step::Launch { kernel, symbols, .. } = step else { continue };
            let kernel = &self.program.kernels[*kernel];
            for (value, (_, range)) in symbols.iter().zip(&kernel.symbols) {
                let Some(&number) = value.as_sym().and_then(|s| self.numbers.get(s)) else { continue };
                let have = &mut self.symbols[number].range;
                *have = Range::new(have.lo.max(range.lo), have.hi.min(range.hi));
            }
        }
        Ok(())
    }

    fn stage(&self, d: &Dim) -> Result<usize> {
        d.symbols().iter().try_fold(0, |stage, s| match self.numbers.get(s) {
            Some(&number) => Ok(stage.max(self.symbols[number].stage)),
            None => bail!("symbol {s} has no value: it is neither an input's dim nor defined by a host step"),
        })
    }

    /// Numbers every expression of the program, sorted by stage.
    fn number_exprs(&mut self) -> Result<()> {
        let p = self.program;
        let mut all = vec![p.arena_bytes.clone()];
        all.extend(p.requires.iter().cloned());
        let mut add_type = |ty: &Type| {
            all.extend(ty.dims.iter().cloned());
            all.push(bytes(ty));
        };
        ports(p).for_each(|port| add_type(&port.ty));
        p.buffers.iter().for_each(|b| add_type(&b.ty));
        all.extend(p.buffers.iter().filter_map(|b| match &b.place {
            Place::Arena(at) => Some(at.clone()),
            _ => None,
        }));
        for step in &p.steps {
            if let Step::Launch { symbols, extent, work, .. } = step {
                all.extend(symbols.iter().chain([extent, work]).cloned());
            }
        }
        let mut seen = HashSet::new();
        all.retain(|d| seen.insert(d.clone()));
        let mut staged: Vec<(usize, Dim)> =
            all.into_iter().map(|d| Ok((self.stage(&d)?, d))).collect::<Result<_>>()?;
        staged.sort_by_key(|(stage, _)| *stage);
        self.exprs = staged.into_iter().map(|(_, d)| d).collect();
        self.expr_numbers = self.exprs.iter().enumerate().map(|(k, d)| (d.clone(), k)).collect();
        Ok(())
    }

    /// The number of an expression of the program; all of them have one.
    fn number(&self, d: &Dim) -> i64 {
        self.expr_numbers.get(d).map_or(-1, |&k| k as i64)
    }

    /// How many expressions are known at a stage.
    fn exprs_until(&self, stage: usize) -> usize {
        self.exprs.partition_point(|d| self.stage(d).is_ok_and(|s| s <= stage))
    }

    fn stage_buffers(&mut self) -> Result<()> {
        let p = self.program;
        ensure!(
            self.stage(&p.arena_bytes)? == 0,
            "the arena's size {} is known only after a host step",
            p.arena_bytes
        );
        for d in &p.requires {
            ensure!(self.stage(d)? == 0, "{d} >= 0 can be checked only after a host step");
        }
        for (k, &root) in self.roots.iter().enumerate() {
            let mut stage = 0;
            for d in p.buffers[k].ty.dims.iter().chain(&p.buffers[root].ty.dims) {
                stage = stage.max(self.stage(d)?);
            }
            if let Place::Arena(at) = &p.buffers[root].place {
                stage = stage.max(self.stage(at)?);
            }
            self.buffer_stages.push(stage);
        }
        Ok(())
    }

    /// Buffers that become known at a stage, roots before aliases.
    fn resolved_at(&self, stage: usize) -> Vec<usize> {
        let at_stage = |&b: &usize| self.buffer_stages[b] == stage;
        let mut buffers: Vec<usize> = (0..self.roots.len()).filter(at_stage).collect();
        buffers.sort_by_key(|&b| self.roots[b] != b);
        buffers
    }

    /// Nothing is used before it is known.
    fn check_order(&self) -> Result<()> {
        let known = |at: usize, buffers: &[usize], stage: usize| match buffers
            .iter()
            .find(|&&b| self.buffer_stages[b] > stage)
        {
            Some(b) => Err(Error::new(format!("step {at} uses buffer {b}, whose size is known only later"))),
            None => Ok(()),
        };
        let mut stage = 0;
        for (at, step) in self.program.steps.iter().enumerate() {
            match step {
                Step::Launch { args, symbols, extent, work, .. } => {
                    known(at, args, stage)?;
                    for d in symbols.iter().chain([extent, work]) {
                        ensure!(self.stage(d)? <= stage, "step {at} needs {d}, which is known only later");
                    }
                }
                Step::Host { inputs, outputs, .. } => {
                    known(at, inputs, stage)?;
                    stage += 1;
                    known(at, outputs, stage)?;
                }
                Step::Copy { src, dst } => known(at, &[*src, *dst], stage)?,
            }
        }
        Ok(())
    }

    /// Ports lie in the memory of the caller that their position says.
    fn check_ports(&self) -> Result<()> {
        let p = self.program;
        let place = |port: &Port| &p.buffers[self.roots[port.buffer]].place;
        for (k, port) in p.inputs.iter().enumerate() {
            ensure!(*place(port) == Place::Input(k), "input {:?} is not in its place", port.name);
        }
        for (k, port) in p.outputs.iter().enumerate() {
            ensure!(*place(port) == Place::Output(k), "output {:?} is not in its place", port.name);
        }
        for port in ports(p) {
            ensure!(port.ty.layout == Layout::RowMajor, "{:?} has the layout of {}", port.name, port.ty);
        }
        let mut outputs = HashSet::new();
        for (b, decl) in p.buffers.iter().enumerate() {
            let (k, n) = match decl.place {
                Place::Input(k) => (k, p.inputs.len()),
                Place::Output(k) => {
                    ensure!(outputs.insert(k), "two buffers are output {k}");
                    (k, p.outputs.len())
                }
                _ => continue,
            };
            ensure!(k < n, "buffer {b} is port {k} of {n}");
        }
        Ok(())
    }

    fn list(&mut self, words: impl IntoIterator<Item = i64>) -> i64 {
        let at = self.words.len() as i64;
        self.words.extend(words);
        at
    }

    fn string(&mut self, s: &str) -> i64 {
        let at = self.text.len() as i64;
        self.text.extend(s.bytes().filter(|b| *b != 0));
        self.text.push(0);
        at
    }

    fn write_text(&mut self) -> i64 {
        let text = std::mem::take(&mut self.text);
        let words = text.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            i64::from_ne_bytes(word)
        });
        self.list(words)
    }

    fn dims(&mut self, ty: &Type) -> i64 {
        let numbers: Vec<i64> = ty.dims.iter().map(|d| self.number(d)).collect();
        self.list(numbers)
    }

    fn write_symbols(&mut self) -> i64 {
        let mut rows = Vec::new();
        for k in 0..self.symbols.len() {
            let name = self.string(self.symbols[k].name.clone().name());
            let s = &self.symbols[k];
            rows.extend([name, s.input, s.axis as i64, s.range.lo, s.range.hi]);
        }
        self.list(rows)
    }

    fn write_exprs(&mut self) -> Result<i64> {
        let mut starts = Vec::with_capacity(self.exprs.len());
        for d in std::mem::take(&mut self.exprs) {
            let mut code = Vec::new();
            let depth = postfix(&d, &self.numbers, &mut code);
            ensure!(depth <= STACK, "the expression {d} is nested too deeply");
            code.push(END);
            starts.push(self.list(code));
            self.exprs.push(d);
        }
        Ok(self.list(starts))
    }

    fn write_requires(&mut self) -> i64 {
        let mut rows = Vec::new();
        for d in &self.program.requires {
            rows.extend([self.number(d), self.string(&d.to_string())]);
        }
        self.list(rows)
    }

    fn write_ports(&mut self, ports: &[Port]) -> i64 {
        let mut rows = Vec::new();
        for port in ports {
            let (name, ty) = (self.string(&port.name), self.string(&port.ty.to_string()));
            let (dims, size) = (self.dims(&port.ty), self.number(&bytes(&port.ty)));
            rows.extend([name, ty, port.ty.dtype.onnx().into(), port.ty.rank() as i64, dims, size]);
        }
        self.list(rows)
    }

    /// Gives the position of the list, and the number of blocks on the heap.
    fn write_buffers(&mut self) -> (i64, i64) {
        let mut rows = Vec::new();
        let mut n_heaps = 0;
        for (b, decl) in self.program.buffers.iter().enumerate() {
            let (place, at) = match &decl.place {
                Place::Input(k) => (INPUT, *k as i64),
                Place::Output(k) => (OUTPUT, *k as i64),
                Place::Constant(t) => {
                    self.constants.push(t.clone());
                    (CONSTANT, self.constants.len() as i64 - 1)
                }
                Place::Arena(offset) => (ARENA, self.number(offset)),
                Place::Alias(_) => (ALIAS, self.roots[b] as i64),
                Place::Heap => {
                    n_heaps += 1;
                    (HEAP, n_heaps - 1)
                }
            };
            let (dims, size) = (self.dims(&decl.ty), self.number(&bytes(&decl.ty)));
            rows.extend([decl.ty.dtype.onnx().into(), decl.ty.rank() as i64, dims, size, place, at]);
        }
        (self.list(rows), n_heaps)
    }

    fn write_steps(&mut self) -> (i64, Vec<HostStep>) {
        let at = self.words.len() as i64;
        let mut hosts: Vec<HostStep> = Vec::new();
        for step in &self.program.steps {
            let mut words = match step {
                Step::Launch { kernel, args, symbols, extent, work, .. } => {
                    self.launch_words([*kernel as i64, self.number(extent), self.number(work)], args, symbols)
                }
                Step::Host { node, inputs, outputs, defines, .. } => {
                    let words = self.host_words(hosts.len(), inputs, outputs, defines);
                    let inputs = inputs.iter().map(|&b| self.constant(b)).collect();
                    hosts.push(HostStep { node: *node, inputs, n_outputs: outputs.len() });
                    words
                }
                Step::Copy { src, dst } => vec![COPY, 0, *src as i64, *dst as i64],
            };
            words[1] = words.len() as i64;
            self.list(words);
        }
        (at, hosts)
    }

    fn launch_words(&self, head: [i64; 3], args: &[usize], symbols: &[Dim]) -> Vec<i64> {
        let mut words = vec![LAUNCH, 0];
        words.extend(head);
        words.extend([args.len() as i64, symbols.len() as i64]);
        words.extend(args.iter().map(|&b| b as i64));
        words.extend(symbols.iter().map(|d| self.number(d)));
        words
    }

    fn host_words(
        &self,
        host: usize,
        inputs: &[usize],
        outputs: &[usize],
        defines: &[(Sym, usize, usize)],
    ) -> Vec<i64> {
        let resolves = self.resolved_at(host + 1);
        let (first, end) = (self.exprs_until(host), self.exprs_until(host + 1));
        let counts = [inputs.len(), outputs.len(), defines.len(), resolves.len(), first, end];
        let mut words = vec![HOST, 0, host as i64];
        words.extend(counts.map(|n| n as i64));
        words.extend(inputs.iter().chain(outputs).map(|&b| b as i64));
        for (s, output, axis) in defines {
            let number = self.numbers.get(s).map_or(-1, |&k| k as i64);
            words.extend([number, *output as i64, *axis as i64]);
        }
        words.extend(resolves.iter().map(|&b| b as i64));
        words
    }

    /// The constant that a buffer is, in the buffer's shape.
    fn constant(&self, b: usize) -> Option<Tensor> {
        match &self.program.buffers[self.roots[b]].place {
            Place::Constant(t) => t.reshape(self.program.buffers[b].ty.shape()?).ok(),
            _ => None,
        }
    }
}

fn ports(p: &Program) -> impl Iterator<Item = &Port> {
    p.inputs.iter().chain(&p.outputs)
}

fn most(counts: impl Iterator<Item = usize>) -> i64 {
    counts.max().unwrap_or(0) as i64
}

fn launch_sizes(step: &Step) -> (usize, usize) {
    match step {
        Step::Launch { args, symbols, .. } => (args.len(), symbols.len()),
        _ => (0, 0),
    }
}

fn operand_counts(step: &Step) -> [usize; 2] {
    match step {
        Step::Host { inputs, outputs, .. } => [inputs.len(), outputs.len()],
        _ => [0, 0],
    }
}

/// The buffer whose memory `b` lies in.
fn root(p: &Program, b: usize) -> Result<usize> {
    let mut at = b;
    for _ in 0..=p.buffers.len() {
        match p.buffers[at].place {
            Place::Alias(of) if of < p.buffers.len() => at = of,
            Place::Alias(of) => bail!("buffer {at} is an alias of buffer {of}, which doesn't exist"),
            _ => return Ok(at),
        }
    }
    bail!("buffer {b} is an alias of itself")
}

/// Every position in the program's lists is within them.
fn check_references(p: &Program) -> Result<()> {
    let check = |at: usize, buffers: &[usize]| match buffers.iter().find(|&&b| b >= p.buffers.len()) {
        Some(b) => Err(Error::new(format!("step {at} uses buffer {b}, which doesn't exist"))),
        None => Ok(()),
    };
    for port in ports(p) {
        ensure!(port.buffer < p.buffers.len(), "{:?} has no buffer", port.name);
    }
    let mut names = BTreeMap::new();
    for (k, kernel) in p.kernels.iter().enumerate() {
        let before = names.insert(&kernel.name, k);
        ensure!(before.is_none(), "two kernels are named {}", kernel.name);
    }
    for (at, step) in p.steps.iter().enumerate() {
        match step {
            Step::Launch { kernel, args, symbols, .. } => {
                check(at, args)?;
                let Some(k) = p.kernels.get(*kernel) else { bail!("step {at} launches no kernel") };
                let expected = (k.params.len(), k.symbols.len());
                let found = (args.len(), symbols.len());
                ensure!(
                    expected == found,
                    "step {at} gives {found:?} arguments and symbols to kernel {}, which takes {expected:?}",
                    k.name
                );
            }
            Step::Host { node, inputs, outputs, defines, .. } => {
                check(at, inputs)?;
                check(at, outputs)?;
                ensure!(node.index() < p.graph.nodes().len(), "step {at} interprets no node");
                for (s, output, axis) in defines {
                    let ty = outputs.get(*output).map(|&b| &p.buffers[b].ty);
                    ensure!(ty.is_some_and(|t| *axis < t.rank()), "step {at} doesn't define {s}");
                }
            }
            Step::Copy { src, dst } => check(at, &[*src, *dst])?,
        }
    }
    Ok(())
}

/// Appends the code of an expression; gives the stack it needs. Operations are in the order of [`Dim::eval`], so that
/// they saturate alike.
fn postfix(d: &Dim, numbers: &HashMap<Sym, usize>, out: &mut Vec<i64>) -> usize {
    let mut depth = 1;
    let mut first = true;
    if d.constant() != 0 || d.terms().next().is_none() {
        out.extend([CONST, d.constant()]);
        first = false;
    }
    for (coeff, factors) in d.terms() {
        let base = usize::from(!first);
        let mut held = 0;
        if coeff != 1 {
            out.extend([CONST, coeff]);
            held = 1;
        }
        for f in factors {
            depth = depth.max(base + held + atom(f, numbers, out));
            if held == 1 {
                out.push(MUL);
            }
            held = 1;
        }
        if !first {
            out.push(ADD);
        }
        first = false;
    }
    depth
}

fn atom(a: &Atom, numbers: &HashMap<Sym, usize>, out: &mut Vec<i64>) -> usize {
    let (op, a, b) = match a {
        Atom::Sym(s) => {
            out.extend([SYM, numbers.get(s).map_or(-1, |&k| k as i64)]);
            return 1;
        }
        Atom::FloorDiv(a, b) => (DIV, a, b),
        Atom::Mod(a, b) => (MOD, a, b),
        Atom::Min(a, b) => (MIN, a, b),
        Atom::Max(a, b) => (MAX, a, b),
    };
    let depth = postfix(a, numbers, out).max(1 + postfix(b, numbers, out));
    out.push(op);
    depth
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN_H: &str = include_str!("../runtime/plan.h");
    const CPU_H: &str = include_str!("../runtime/cpu.h");

    #[test]
    fn the_header_has_the_same_numbers() {
        let numbers = [
            ("MAGIC", MAGIC),
            ("VERSION", VERSION),
            ("INPUT", INPUT),
            ("OUTPUT", OUTPUT),
            ("CONSTANT", CONSTANT),
            ("ARENA", ARENA),
            ("ALIAS", ALIAS),
            ("HEAP", HEAP),
            ("LAUNCH", LAUNCH),
            ("HOST", HOST),
            ("COPY", COPY),
            ("STACK", STACK as i64),
            ("END", END),
            ("CONST", CONST),
            ("SYM", SYM),
            ("ADD", ADD),
            ("MUL", MUL),
            ("DIV", DIV),
            ("MOD", MOD),
            ("MIN", MIN),
            ("MAX", MAX),
        ];
        let define = |line: &str| {
            let mut words = line.strip_prefix("#define AIC_PLAN_")?.split_whitespace();
            let (name, value) = (words.next()?, words.next()?);
            let hex = value.strip_prefix("0x").map(|h| i64::from_str_radix(h, 16));
            Some((name.to_owned(), hex.unwrap_or_else(|| value.parse()).ok()?))
        };
        let defined: Vec<(String, i64)> = PLAN_H.lines().filter_map(define).collect();
        assert_eq!(defined, numbers.map(|(name, value)| (name.to_owned(), value)));
        let header = &PLAN_H[..PLAN_H.find("} plan_header").unwrap()];
        let fields = header.lines().filter_map(|l| l.trim().strip_prefix("int64_t "));
        let n: usize = fields.map(|l| l[..l.find(';').unwrap()].split(',').count()).sum();
        assert_eq!(n, HEADER_WORDS);
    }

    #[test]
    fn the_runtime_has_the_same_features() {
        let row = |line: &str| Some(line.trim().strip_prefix("{\"")?.split('"').next()?.to_owned());
        assert_eq!(CPU_H.lines().filter_map(row).collect::<Vec<_>>(), CPU_FEATURES);
        assert_eq!(cpu_bits(["+sse3", "-pclmul", "ssse3", "tbm"]), 0b101);
    }

    #[test]
    fn blocked_layouts_are_padded() {
        let mut ty = Type::of(aic_ir::dtype::DType::F32, &[2, 20, 3]);
        assert!(bytes(&ty).is(480));
        ty.layout = Layout::ChannelsBlocked(16);
        assert!(bytes(&ty).is(768));
    }

    #[test]
    fn code_has_the_values_and_the_depth_of_its_expression() {
        let sym = |k: usize| Sym::new(["a", "b", "c"][k]);
        let numbers: HashMap<Sym, usize> = (0..3).map(|k| (sym(k), k)).collect();
        let mut rng = 1u64;
        let mut next = |n: u64| {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (rng >> 33) % n
        };
        for _ in 0..3000 {
            let mut d = Dim::sym(&sym(next(3) as usize));
            for _ in 0..next(9) {
                let e =
                    if next(2) == 0 { Dim::sym(&sym(next(3) as usize)) } else { (next(9) as i64 - 4).into() };
                let (x, y) = if next(2) == 0 { (d, e) } else { (e, d) };
                d = match next(7) {
                    0 | 1 => x + y,
                    2 => x * y,
                    3 => x.floor_div(&y),
                    4 => x.modulo(&y),
                    5 => x.minimum(&y),
                    _ => x.maximum(&y),
                };
            }
            let values = [0, 1, 2].map(|k| [i64::MAX, i64::MIN, 3, -7, 1 << 40][(k + next(5) as usize) % 5]);
            let mut code = Vec::new();
            let depth = postfix(&d, &numbers, &mut code);
            let found = run(&code, &values, depth);
            assert_eq!(found, d.eval(&|s| numbers.get(s).map(|&k| values[k])), "{d} at {values:?}");
        }
    }

    /// As the runtime's `expr_value`.
    fn run(code: &[i64], symbols: &[i64], depth: usize) -> Option<i64> {
        let (mut stack, mut at, mut deepest) = (Vec::new(), 0, 0);
        while at < code.len() {
            let op = code[at];
            at += 1;
            if op == CONST || op == SYM {
                stack.push(if op == CONST { code[at] } else { symbols[code[at] as usize] });
                at += 1;
                deepest = deepest.max(stack.len());
                continue;
            }
            let (b, a) = (stack.pop().unwrap(), stack.pop().unwrap());
            stack.push(match op {
                ADD => a.saturating_add(b),
                MUL => a.saturating_mul(b),
                MIN => a.min(b),
                MAX => a.max(b),
                _ if b == 0 => return None,
                DIV => aic_ir::dim::floor_div(a, b),
                _ => a.wrapping_sub(aic_ir::dim::floor_div(a, b).wrapping_mul(b)),
            });
        }
        assert_eq!((stack.len(), deepest), (1, depth));
        stack.pop()
    }
}

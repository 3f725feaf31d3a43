//! What has no form on the chip, as plain C++ for its host: the loop IR statement by statement, slow and right.
//!
//! Such a step costs copies from and to the device and a scalar loop; it keeps a model whole where one of its operators
//! has no schedule for the chip, or its kernel something that the chip has no instructions for.

use super::text::{Text, index, name};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Expr, Kernel, Layout, Stmt, Tile};
use aic_ir::program::{Place, Program, Step};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};
use std::collections::HashMap;
use std::fmt::Write;

/// What functions on the host begin with: the scalar functions.
pub const FUNCTIONS: &str = include_str!("host.h");

/// A function `void NAME(uint8_t* const* a)` over arrays: those that it reads, then those that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    /// Its name.
    pub name: String,
    /// How many arrays it reads.
    pub n_inputs: usize,
    /// How many it writes.
    pub n_outputs: usize,
    /// Its definition, behind [`FUNCTIONS`].
    pub text: String,
}

/// The function of a kernel, whose parameters it takes in their order.
///
/// # Errors
/// It has symbols, writes a parameter that another one follows which it reads, or has a statement without a form in C++.
pub fn kernel(k: &Kernel) -> Result<HostFunction> {
    let n_inputs = k.params.iter().filter(|p| !p.writable).count();
    ensure!(k.params.iter().take(n_inputs).all(|p| !p.writable), "parameters of {} are mixed", k.name);
    let n_outputs = k.params.len() - n_inputs;
    Ok(HostFunction { name: k.name.clone(), n_inputs, n_outputs, text: definition(k, &k.name)? })
}

/// The function of a program: from its inputs to its outputs.
///
/// # Errors
/// As of [`kernel`], or a step has no kernel.
pub fn program(function: &str, p: &Program) -> Result<HostFunction> {
    let mut text = format!("namespace {function}_steps {{\n\n");
    for k in &p.kernels {
        text += &definition(k, &k.name)?;
    }
    let _ = write!(text, "}}  // namespace {function}_steps\n\nvoid {function}(uint8_t* const* a) {{\n");
    for (k, b) in p.buffers.iter().enumerate() {
        let n = b.ty.dims.iter().map(|d| d.as_const()).product::<Option<i64>>();
        let Some(n) = n else { bail!("{} has no known size", b.ty) };
        let bytes = n * b.ty.dtype.size() as i64;
        let value = match b.place {
            Place::Input(at) => format!("a[{at}]"),
            Place::Output(at) => format!("a[{}]", p.inputs.len() + at),
            Place::Alias(of) => format!("b{of}"),
            Place::Arena(_) => {
                let _ = writeln!(text, "    std::unique_ptr<uint8_t[]> m{k}(new uint8_t[{bytes} + 1]);");
                format!("m{k}.get()")
            }
            Place::Constant(_) | Place::Heap => bail!("{} is no array of a step on the host", b.ty),
        };
        let _ = writeln!(text, "    uint8_t* const b{k} = {value};");
    }
    for step in &p.steps {
        let line = match step {
            Step::Launch { kernel, args, .. } => {
                let args: Vec<String> = args.iter().map(|a| format!("b{a}")).collect();
                let list = if args.is_empty() { "nullptr".to_owned() } else { args.join(", ") };
                format!(
                    "{{ uint8_t* const c[] = {{{list}}}; {function}_steps::{}(c); }}",
                    p.kernels[*kernel].name
                )
            }
            Step::Copy { src, dst } => {
                let ty = &p.buffers[*dst].ty;
                let n: i64 = ty.dims.iter().filter_map(Dim::as_const).product();
                format!("std::memcpy(b{dst}, b{src}, {});", n * ty.dtype.size() as i64)
            }
            Step::Host { reason, .. } => bail!("{reason}"),
        };
        let _ = writeln!(text, "    {line}");
    }
    text += "}\n\n";
    let (n_inputs, n_outputs) = (p.inputs.len(), p.outputs.len());
    Ok(HostFunction { name: function.to_owned(), n_inputs, n_outputs, text })
}

fn definition(k: &Kernel, function: &str) -> Result<String> {
    if let Some((s, _)) = k.symbols.first() {
        bail!("kernels on the host have known shapes, but {s} is any number");
    }
    let mut w = Writer { kernel: k, text: Text::new(0), dtypes: HashMap::new() };
    w.text.open(format!("void {function}(uint8_t* const* a) {{"));
    for (at, p) in k.params.iter().enumerate() {
        let (t, n) = (ctype(p.buffer.dtype)?, name(&p.buffer.name));
        let qualifier = if p.writable { "" } else { "const " };
        w.text.line(format!("{qualifier}{t}* const {n} = ({qualifier}{t}*)a[{at}];"));
    }
    w.block(&k.body)?;
    w.text.close();
    Ok(w.text.lines + "\n")
}

struct Writer<'a> {
    kernel: &'a Kernel,
    text: Text,
    /// Of the buffers that it allocates.
    dtypes: HashMap<Sym, DType>,
}

impl Writer<'_> {
    fn dtype(&self, buffer: &Sym) -> Option<DType> {
        let param = self.kernel.params.iter().find(|p| p.buffer.name == *buffer);
        param.map(|p| p.buffer.dtype).or_else(|| self.dtypes.get(buffer).copied())
    }

    fn block(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, s: &Stmt) -> Result<()> {
        match s {
            Stmt::For { var, begin, end, body, .. } => {
                let v = name(var);
                self.nested(&format!("for (int64_t {v} = {}; {v} < {}; ++{v}) {{", at(begin), at(end)), body)
            }
            Stmt::If { cond, then, other } => {
                let cond = self.expr(cond)?;
                self.text.open(format!("if ({cond}) {{"));
                self.block(then)?;
                if !other.is_empty() {
                    self.text.other();
                    self.block(other)?;
                }
                self.text.close();
                Ok(())
            }
            Stmt::While { cond, body } => {
                let cond = self.expr(cond)?;
                self.nested(&format!("while ({cond}) {{"), body)
            }
            Stmt::Let { var, value } => self.bind(var, value),
            Stmt::Store { buffer, index, value, mask } => self.store(buffer, index, value, mask.as_ref()),
            Stmt::Alloc(b) => {
                let (t, n, len) = (ctype(b.dtype)?, name(&b.name), at(&b.len));
                self.dtypes.insert(b.name.clone(), b.dtype);
                self.text.line(format!("std::unique_ptr<{t}[]> {n}(new {t}[{len}]);"));
                Ok(())
            }
            Stmt::Copy(c) => self.copy(c),
            Stmt::Barrier(_) | Stmt::Commit { .. } | Stmt::Wait { .. } => Ok(()),
            Stmt::Call { name, .. } if name == "prefetch" => Ok(()),
            _ => bail!("the host has no form of `{s}`"),
        }
    }

    fn nested(&mut self, head: &str, body: &[Stmt]) -> Result<()> {
        self.text.open(head);
        self.block(body)?;
        self.text.close();
        Ok(())
    }

    /// The type and the lanes of an expression.
    fn ty(&self, e: &Expr) -> Result<(DType, u32)> {
        match e.ty(&|b| self.dtype(b)) {
            Some(t) => Ok((t.dtype, t.lanes)),
            None => bail!("an expression without a type"),
        }
    }

    fn bind(&mut self, var: &Sym, value: &Expr) -> Result<()> {
        let (dtype, lanes) = self.ty(value)?;
        let (t, v, text) = (ctype(dtype)?, name(var), self.expr(value)?);
        match lanes {
            1 => self.text.line(format!("const {t} {v} = {text};")),
            n => self.text.line(format!("{t} {v}[{n}]; for (int l = 0; l < {n}; ++l) {v}[l] = {text};")),
        }
        Ok(())
    }

    fn store(&mut self, buffer: &Sym, index: &Expr, value: &Expr, mask: Option<&Expr>) -> Result<()> {
        let (_, lanes) = self.ty(index)?;
        let guard = match mask {
            Some(m) => format!("if ({}) ", self.expr(m)?),
            None => String::new(),
        };
        let line = format!("{guard}{}[{}] = {};", name(buffer), self.expr(index)?, self.expr(value)?);
        match lanes {
            1 => self.text.line(line),
            n => self.text.line(format!("for (int l = 0; l < {n}; ++l) {line}")),
        }
        Ok(())
    }

    fn copy(&mut self, c: &Copy) -> Result<()> {
        let (Some(to), Some(from)) = (self.dtype(&c.dst.buffer), self.dtype(&c.src.buffer)) else {
            bail!("a copy between undeclared buffers")
        };
        let (t, f) = (ctype(to)?, ctype(from)?);
        let place = |tile: &Tile| match &tile.layout {
            Layout::Steps { rows, columns } => {
                let (r, k) = (rows.at(&Dim::named("row")), columns.at(&Dim::named("column")));
                Ok(format!("{}[{}]", name(&tile.buffer), at(&(tile.first.clone() + r + k))))
            }
            Layout::Fragment { .. } => bail!("the host has no registers of matrix instructions"),
        };
        let [rows, columns] = c.extent.each_ref().map(at);
        let value = format!("cast<{t}, {f}>({})", place(&c.src)?);
        let value = match &c.valid {
            Some([r, k]) => format!("row < {} && column < {} ? {value} : {t}{{}}", at(r), at(k)),
            None => value,
        };
        self.text.line(format!(
            "for (int64_t row = 0; row < {rows}; ++row) for (int64_t column = 0; column < {columns}; ++column) {} = {value};",
            place(&c.dst)?
        ));
        Ok(())
    }

    /// An expression, of vectors that for lane `l`.
    fn expr(&self, e: &Expr) -> Result<String> {
        Ok(match e {
            Expr::Const(t, s) => constant(*t, *s)?,
            Expr::Index(d) => format!("int64_t({})", at(d)),
            Expr::Ramp { base, stride, .. } => format!("int64_t({} + l * ({}))", at(base), at(stride)),
            Expr::Broadcast(e, _) => self.expr(e)?,
            Expr::Var(v, t) if t.lanes == 1 => name(v),
            Expr::Var(v, _) => format!("{}[l]", name(v)),
            Expr::Load { buffer, index, mask } => {
                let load = format!("{}[{}]", name(buffer), self.expr(index)?);
                match mask {
                    Some(m) => {
                        let t = ctype(self.ty(e)?.0)?;
                        format!("({} ? {load} : {t}{{}})", self.expr(m)?)
                    }
                    None => load,
                }
            }
            Expr::Call(ScalarFn::Select, args) => {
                let [c, x, y] = [&args[0], &args[1], &args[2]].map(|a| self.expr(a));
                format!("({} ? {} : {})", c?, x?, y?)
            }
            Expr::Call(f, args) => {
                let args: Vec<String> = args.iter().map(|a| self.expr(a)).collect::<Result<_>>()?;
                format!("fn_{}({})", f.keyword(), args.join(", "))
            }
            Expr::Cast(t, x) => {
                format!("cast<{}, {}>({})", ctype(*t)?, ctype(self.ty(x)?.0)?, self.expr(x)?)
            }
            Expr::Horizontal(op, x) => {
                let (dtype, lanes) = self.ty(x)?;
                let (t, x) = (ctype(dtype)?, self.expr(x)?);
                let sum = combine(*op, "all", &format!("{t}({x})"))?;
                format!(
                    "[&] {{ int l = 0; {t} all = {x}; for (l = 1; l < {lanes}; ++l) all = {sum}; return all; }}()"
                )
            }
        })
    }
}

fn combine(op: ReduceOp, a: &str, b: &str) -> Result<String> {
    match op.combine() {
        Some(f) => Ok(format!("fn_{}({a}, {b})", f.keyword())),
        None => bail!("the host has no form of this reduction"),
    }
}

/// An index.
fn at(d: &Dim) -> String {
    index(d, &HashMap::new())
}

fn ctype(t: DType) -> Result<&'static str> {
    Ok(match t {
        DType::F64 => "double",
        DType::F16 => "half_t",
        DType::BF16 => "bfloat_t",
        DType::Bool => "bool",
        t => super::text::ctype(t)?,
    })
}

fn constant(t: DType, s: Scalar) -> Result<String> {
    let c = ctype(t)?;
    Ok(match s {
        Scalar::F(x) if x.is_nan() => format!("cast<{c}, double>(std::nan(\"\"))"),
        Scalar::F(x) if x.is_infinite() => {
            format!("cast<{c}, double>({}INFINITY)", if x < 0.0 { "-" } else { "" })
        }
        Scalar::F(x) => format!("cast<{c}, double>({x:?})"),
        Scalar::I(i64::MIN) => "std::numeric_limits<int64_t>::min()".to_owned(),
        Scalar::I(x) => format!("{c}({x}LL)"),
        Scalar::U(x) => format!("{c}({x}ULL)"),
        Scalar::B(x) => x.to_string(),
    })
}

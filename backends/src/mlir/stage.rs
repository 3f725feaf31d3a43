//! A stage of a compute definition as one linalg operation: named where it is exactly that, generic elsewhere.
//!
//! What a stage loads at sums of its axes becomes an operand ([`super::view`]); what it loads elsewhere is extracted in
//! the body, where guarded loads have their indices clamped.

use super::graph::{Emitter, Value};
use super::index::{Affine, affine_map, binary};
use super::named;
use super::scalar;
use super::split::without_single_terms;
use super::text::{element, tensor};
use super::view::{Loops, View};
use aic_ir::compute::{Compute, Expr, ReduceOp, Source, Stage};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::VType;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::types::Type;
use std::collections::BTreeSet;

/// A stage under translation, and where its operands are.
pub(crate) struct Body<'a> {
    pub compute: &'a Compute,
    pub stage: &'a Stage,
    pub inputs: &'a [Value],
    pub stages: &'a [Value],
    pub loops: Loops,
}

impl Body<'_> {
    pub fn source(&self, s: Source) -> &Value {
        match s {
            Source::Input(k) => &self.inputs[k],
            Source::Stage(k) => &self.stages[k],
        }
    }

    fn dtype(&self, e: &Expr) -> DType {
        e.dtype(&self.compute.inputs, &self.compute.stages).unwrap_or(DType::I64)
    }
}

/// Block arguments for the expressions that operands stand for.
type Args = Vec<(Expr, String)>;

impl Emitter {
    /// One linalg operation for a stage.
    pub fn linalg(&mut self, b: &Body) -> Value {
        let ty = b.stage.ty();
        if ty.dims.iter().any(|d| d.is(0)) {
            return self.empty(&ty);
        }
        let identity = b.stage.reduction.as_ref().map(|r| r.op.identity(b.stage.dtype));
        let no_terms = b.stage.over().iter().any(|a| a.extent.is(0));
        if let Some(identity) = identity.filter(|_| no_terms) {
            return self.filled(&ty, identity);
        }
        let mut views = Vec::new();
        self.views(b, &b.stage.value, false, &mut views);
        if let Some(op) = named::recognise(b, &views) {
            return self.named(b, &op);
        }
        let Some(smaller) = without_single_terms(b.stage) else { return self.reduce_or_map(b, views) };
        let loops = Loops::new(&smaller, b.loops.splits());
        let b = Body { stage: &smaller, loops, ..*b };
        views.clear();
        self.views(&b, &smaller.value, false, &mut views);
        match named::depthwise(&b, &views) {
            Some(op) => self.named(&b, &op),
            None => self.reduce_or_map(&b, views),
        }
    }

    fn reduce_or_map(&mut self, b: &Body, views: Vec<View>) -> Value {
        let ty = b.stage.ty();
        match b.stage.reduction.as_ref().map(|r| r.op) {
            None => {
                let init = self.empty(&ty);
                let init = self.name(&init);
                self.generic(b, views, &[(init, ty.clone())], &[], |e, args, _| {
                    vec![e.expr(b, args, &b.stage.value, false)]
                })
            }
            Some(ReduceOp::ArgMax { last }) => self.arg_reduce(b, views, true, last),
            Some(ReduceOp::ArgMin { last }) => self.arg_reduce(b, views, false, last),
            Some(op) => {
                let init = self.filled(&ty, op.identity(ty.dtype));
                let init = self.name(&init);
                self.generic(b, views, &[(init, ty.clone())], &[], |e, args, sum| {
                    let value = e.expr(b, args, &b.stage.value, false);
                    let f = op.combine().unwrap_or(ScalarFn::Add);
                    vec![scalar::call(&mut e.w, f, VType::scalar(ty.dtype), &[sum[0].clone(), value])]
                })
            }
        }
    }

    /// The index of the greatest or least element: the best one so far goes along.
    fn arg_reduce(&mut self, b: &Body, views: Vec<View>, greatest: bool, last: bool) -> Value {
        let (ty, of) = (b.stage.ty(), b.dtype(&b.stage.value));
        let Some(over) = b.stage.over().first().cloned() else { return self.filled(&ty, Scalar::I(0)) };
        let worst = if greatest { Scalar::lowest(of) } else { Scalar::highest(of) };
        let best_ty = ty.with_dtype(of);
        let (index, best) = (self.filled(&ty, Scalar::I(0)), self.filled(&best_ty, worst));
        let inits = [(self.name(&index), ty), (self.name(&best), best_ty)];
        self.generic(b, views, &inits, std::slice::from_ref(&over.var), |e, args, so_far| {
            let value = e.expr(b, args, &b.stage.value, false);
            let here = e.expr(b, args, &Expr::Index(over.dim()), false);
            let compare = match (greatest, last) {
                (true, false) => ScalarFn::Gt,
                (true, true) => ScalarFn::Ge,
                (false, false) => ScalarFn::Lt,
                (false, true) => ScalarFn::Le,
            };
            let (t, truth) = (VType::scalar(of), VType::scalar(DType::Bool));
            let (index, best) = (&so_far[0], &so_far[1]);
            let w = &mut e.w;
            let mut takes = scalar::call(w, compare, t, &[value.clone(), best.clone()]);
            if of.is_float() {
                let mut nan = scalar::call(w, ScalarFn::IsNan, t, std::slice::from_ref(&value));
                if !last {
                    let seen = scalar::call(w, ScalarFn::IsNan, t, std::slice::from_ref(best));
                    let unseen = scalar::call(w, ScalarFn::Not, truth, &[seen]);
                    nan = scalar::call(w, ScalarFn::And, truth, &[nan, unseen]);
                }
                takes = scalar::call(w, ScalarFn::Or, truth, &[takes, nan]);
            }
            let choose = |w: &mut _, t, a: &str, b: &str| {
                scalar::call(w, ScalarFn::Select, t, &[takes.clone(), a.to_owned(), b.to_owned()])
            };
            vec![choose(w, VType::scalar(DType::I64), &here, index), choose(w, t, &value, best)]
        })
    }

    /// A `linalg.generic`; gives its first result. `body` gets the block's arguments and the outputs' elements, and uses
    /// `indices` beside what the stage's expression does.
    fn generic(
        &mut self,
        b: &Body,
        mut views: Vec<View>,
        inits: &[(String, Type)],
        indices: &[Sym],
        body: impl FnOnce(&mut Self, &Args, &[String]) -> Vec<String>,
    ) -> Value {
        let (n, n_outputs) = (b.loops.len(), b.stage.axes.len());
        views.extend(self.window(b, &views));
        let identity: Vec<Affine> = (0..n_outputs).map(Affine::plain).collect();
        let mut maps: Vec<String> = views.iter().map(|v| affine_map(n, &v.map)).collect();
        maps.extend(inits.iter().map(|_| affine_map(n, &identity)));
        let kind = |k: usize| if k < n_outputs { "\"parallel\"" } else { "\"reduction\"" };
        let kinds: Vec<&str> = (0..n).map(kind).collect();
        let ins = match operands(&views) {
            text if views.is_empty() => text,
            text => format!(" ins({text})"),
        };
        let names: Vec<&str> = inits.iter().map(|(name, _)| name.as_str()).collect();
        let types: Vec<String> = inits.iter().map(|(_, ty)| tensor(ty)).collect();
        let result = self.w.fresh();
        let (count, first) = match inits.len() {
            1 => (String::new(), result.clone()),
            n => (format!(":{n}"), format!("{result}#0")),
        };
        self.w.open(&format!(
            "{result}{count} = linalg.generic {{indexing_maps = [{}], iterator_types = [{}]}}{ins} outs({} : {}) {{",
            maps.join(", "),
            kinds.join(", "),
            names.join(", "),
            types.join(", "),
        ));
        let args: Args = views.iter().map(|v| (v.of.clone(), self.w.fresh())).collect();
        let outs: Vec<String> = inits.iter().map(|_| self.w.fresh()).collect();
        let in_types = views.iter().map(|v| element(v.ty.dtype).to_owned());
        let block: Vec<(String, String)> = args.iter().map(|(_, name)| name.clone()).zip(in_types).collect();
        let out_types = inits.iter().map(|(_, ty)| element(ty.dtype).to_owned());
        self.w.block(&[block, outs.iter().cloned().zip(out_types.clone()).collect()].concat());
        let outer = self.symbols.clone();
        let mut used: BTreeSet<Sym> = indices.iter().cloned().collect();
        used_symbols(&args, &b.stage.value, &mut used);
        b.loops.define(&mut self.w, &mut self.symbols, &used);
        let results = body(self, &args, &outs);
        self.symbols = outer;
        let out_types: Vec<String> = out_types.collect();
        self.w.line(&format!("linalg.yield {} : {}", results.join(", "), out_types.join(", ")));
        let types = if types.len() == 1 { types[0].clone() } else { format!("({})", types.join(", ")) };
        self.w.close(&format!("}} -> {types}"));
        Value::new(first, inits[0].1.clone())
    }

    /// An operand that no element is taken of, for the extents of loops that no other operand has alone.
    fn window(&mut self, b: &Body, views: &[View]) -> Option<View> {
        let is_plain = |k: usize| views.iter().flat_map(|v| &v.map).any(|a| a.as_plain() == Some(k));
        let free: Vec<usize> = (b.stage.axes.len()..b.loops.len()).filter(|k| !is_plain(*k)).collect();
        if free.is_empty() {
            return None;
        }
        let dims = free.iter().map(|k| b.loops.extent(*k).clone()).collect();
        let ty = Type::new(b.stage.dtype, dims);
        let empty = self.empty(&ty);
        let of = Expr::Load(Source::Stage(usize::MAX), Vec::new());
        let map = free.into_iter().map(Affine::plain).collect();
        Some(View { of, name: self.name(&empty), ty, map })
    }

    /// The operation that was recognised.
    fn named(&mut self, b: &Body, op: &named::Named) -> Value {
        let ty = b.stage.ty();
        let identity = b.stage.reduction.as_ref().map_or(Scalar::I(0), |r| r.op.identity(ty.dtype));
        let init = self.filled(&ty, identity);
        let mut views = op.operands.clone();
        for (view, dims) in views.iter_mut().zip(&op.shapes) {
            let from = Value::new(view.name.clone(), view.ty.clone());
            let reshaped = self.reshape(&from, dims);
            (view.name, view.ty) = (self.name(&reshaped), reshaped.ty);
        }
        if op.has_window {
            views.extend(self.window(b, &views));
        }
        let init = self.name(&init);
        let result = tensor(&ty);
        let name = self.w.value(format!(
            "{} ins({}) outs({init} : {result}) -> {result}",
            op.name,
            operands(&views)
        ));
        Value::new(name, ty)
    }

    /// Collects operands for what an expression loads at sums of loops. A guarded load is one only if it is proved to
    /// lie within its tensor, or if the guard is about its own indices.
    pub fn views(&mut self, b: &Body, e: &Expr, guarded: bool, out: &mut Vec<View>) {
        if out.iter().any(|v| v.of == *e) {
            return;
        }
        match e {
            Expr::Const(..) | Expr::Index(_) => {}
            Expr::Cast(_, e) => self.views(b, e, guarded, out),
            Expr::Load(source, at) => {
                let from = b.source(*source).clone();
                let is_within = |(at, d): (&Expr, &Dim)| b.loops.is_within(at, d);
                if from.scalar().is_some() {
                    return;
                }
                if (!guarded || at.iter().zip(&from.ty.dims).all(is_within))
                    && let Some(view) = self.view(&b.loops, e, &from, at)
                {
                    out.push(view);
                    return;
                }
                at.iter().for_each(|e| self.views(b, e, guarded, out));
            }
            Expr::Call(ScalarFn::Select, args) => {
                if let (Expr::Load(source, at), Some(other)) = (&args[1], self.padding(b, &args[2])) {
                    let from = b.source(*source).clone();
                    if let Some(view) = self.padded(&b.loops, e, &from, at, &args[0], &other) {
                        out.push(view);
                        return;
                    }
                }
                self.views(b, &args[0], guarded, out);
                args[1..].iter().for_each(|e| self.views(b, e, true, out));
            }
            Expr::Call(_, args) => args.iter().for_each(|e| self.views(b, e, guarded, out)),
        }
    }

    /// A value that padding can be made of: one that is the same everywhere.
    fn padding(&mut self, b: &Body, e: &Expr) -> Option<String> {
        match e {
            Expr::Const(dtype, value) => Some(self.w.scalar(VType::scalar(*dtype), *value)),
            Expr::Load(source, at) if at.is_empty() => {
                let from = b.source(*source).clone();
                Some(match from.scalar() {
                    Some(value) => self.w.scalar(VType::scalar(from.ty.dtype), value),
                    None => self.extract(&from, &[]),
                })
            }
            _ => None,
        }
    }

    /// An element of a tensor.
    pub fn extract(&mut self, from: &Value, at: &[String]) -> String {
        let x = self.name(from);
        self.w.value(format!("tensor.extract {x}[{}] : {}", at.join(", "), tensor(&from.ty)))
    }

    /// The value of an expression in a body. Loads in what is `guarded` may lie outside of their tensors.
    fn expr(&mut self, b: &Body, args: &Args, e: &Expr, guarded: bool) -> String {
        if let Some((_, name)) = args.iter().find(|(of, _)| of == e) {
            return name.clone();
        }
        match e {
            Expr::Const(dtype, value) => self.w.scalar(VType::scalar(*dtype), *value),
            Expr::Index(d) if d.as_const().is_some() => {
                self.w.scalar(VType::scalar(DType::I64), Scalar::I(d.constant()))
            }
            Expr::Index(d) => {
                let index = self.symbols.index(&mut self.w, d);
                self.w.value(format!("arith.index_cast {index} : index to i64"))
            }
            Expr::Load(source, at) => self.load(b, args, *source, at, guarded),
            Expr::Cast(to, x) => {
                let from = VType::scalar(b.dtype(x));
                let x = self.expr(b, args, x, guarded);
                scalar::cast(&mut self.w, from, *to, &x)
            }
            Expr::Call(ScalarFn::Select, x) => {
                let ty = VType::scalar(b.dtype(&x[1]));
                let cond = self.expr(b, args, &x[0], guarded);
                if x[1..].iter().any(|e| may_fail(b, args, e)) {
                    return self.branch(b, args, &cond, x, ty);
                }
                let sides = [&x[1], &x[2]].map(|e| self.expr(b, args, e, true));
                scalar::call(&mut self.w, ScalarFn::Select, ty, &[&[cond], &sides[..]].concat())
            }
            Expr::Call(f, x) => {
                let ty = VType::scalar(b.dtype(&x[0]));
                let x: Vec<String> = x.iter().map(|e| self.expr(b, args, e, guarded)).collect();
                scalar::call(&mut self.w, *f, ty, &x)
            }
        }
    }

    /// A choice of which only the side taken may be evaluated.
    fn branch(&mut self, b: &Body, args: &Args, cond: &str, x: &[Expr], ty: VType) -> String {
        let t = element(ty.dtype);
        let result = self.w.fresh();
        self.w.open(&format!("{result} = scf.if {cond} -> ({t}) {{"));
        let yes = self.expr(b, args, &x[1], false);
        self.w.line(&format!("scf.yield {yes} : {t}"));
        self.w.reopen("} else {");
        let no = self.expr(b, args, &x[2], false);
        self.w.line(&format!("scf.yield {no} : {t}"));
        self.w.close("}");
        result
    }

    fn load(&mut self, b: &Body, args: &Args, source: Source, at: &[Expr], guarded: bool) -> String {
        let from = b.source(source).clone();
        if let Some(value) = from.scalar() {
            return self.w.scalar(VType::scalar(from.ty.dtype), value);
        }
        if from.ty.dims.iter().any(|d| d.is(0)) {
            return self.w.scalar(VType::scalar(from.ty.dtype), Scalar::zero(from.ty.dtype));
        }
        let mut indices = Vec::new();
        for (e, d) in at.iter().zip(&from.ty.dims) {
            let mut index = match e {
                Expr::Index(d) => self.symbols.index(&mut self.w, d),
                data => {
                    let data = self.expr(b, args, data, guarded);
                    self.w.value(format!("arith.index_cast {data} : i64 to index"))
                }
            };
            if guarded && !b.loops.is_within(e, d) {
                let zero = self.w.index(0);
                let last = self.symbols.index(&mut self.w, &(d.clone() - 1.into()));
                index = binary(&mut self.w, "arith.minsi", &index, &last);
                index = binary(&mut self.w, "arith.maxsi", &index, &zero);
            }
            indices.push(index);
        }
        self.extract(&from, &indices)
    }
}

/// Whether an expression loads something at indices that no clamping puts into its tensor, because that may be empty.
fn may_fail(b: &Body, args: &Args, e: &Expr) -> bool {
    if args.iter().any(|(of, _)| of == e) {
        return false;
    }
    match e {
        Expr::Const(..) | Expr::Index(_) => false,
        Expr::Cast(_, e) => may_fail(b, args, e),
        Expr::Call(_, x) => x.iter().any(|e| may_fail(b, args, e)),
        Expr::Load(source, at) => {
            let from = b.source(*source);
            let open = |(e, d): (&Expr, &Dim)| d.as_const().is_none() && !b.loops.is_within(e, d);
            from.scalar().is_none() && at.iter().zip(&from.ty.dims).any(open)
                || at.iter().any(|e| may_fail(b, args, e))
        }
    }
}

/// The symbols in what a body evaluates.
fn used_symbols(args: &Args, e: &Expr, out: &mut BTreeSet<Sym>) {
    if args.iter().any(|(of, _)| of == e) {
        return;
    }
    match e {
        Expr::Const(..) => {}
        Expr::Index(d) => out.extend(d.symbols()),
        Expr::Cast(_, e) => used_symbols(args, e, out),
        Expr::Load(_, x) | Expr::Call(_, x) => x.iter().for_each(|e| used_symbols(args, e, out)),
    }
}

/// Names, then types, of operands.
fn operands(views: &[View]) -> String {
    let names: Vec<&str> = views.iter().map(|v| v.name.as_str()).collect();
    let types: Vec<String> = views.iter().map(|v| tensor(&v.ty)).collect();
    match views.is_empty() {
        true => String::new(),
        false => format!("{} : {}", names.join(", "), types.join(", ")),
    }
}

//! Verifies kernels.

use super::index::Values;
use crate::bounds::Mark;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Buffer, Copy, Expr, Kernel, Level, LoopKind, Mma, Scope, Stmt, VType};
use crate::scalar::ScalarFn;

/// Checks a kernel; gives a message for every violation of this contract:
///
/// - *Names.* The kernel's name is a C identifier (or empty, before it is given one). Symbols, parameters, loop
///   variables, `let` variables and buffers have names that nothing else in scope has. What is used is in scope.
/// - *Types.* Every expression is well typed and constants are values of their types; vectors have a lane or more.
///   Indices are `i64`, masks `bool`, with a lane for each lane accessed; stored values have the buffer's type;
///   conditions are scalar `bool`s. Index expressions mention integers only: loop variables, symbols and scalar `i64`
///   variables. 16-bit floats are moved (loaded, stored, selected, broadcast, bound) and cast, never computed with.
/// - *Loops.* A parallel loop is all of the kernel's body and starts at 0. Unrolled and vector loops have a constant
///   number of iterations. A GPU's axes are 0, 1 and 2.
/// - *Buffers.* Parameters are global or workspace memory, buffers allocated within the kernel aren't global.
///   Parameters that aren't writable are not written. Buffers in registers have a constant length and are indexed by
///   constants, given the variables of unrolled and vector loops.
/// - *Bounds.* Every access without a mask is proved to lie within its buffer, from the ranges of variables, the
///   conditions around it and clamps by minimum and maximum; those of copies and matrix instructions too. Arguments
///   of intrinsics are addresses at most and are not accessed.
/// - *Copies.* Between buffers of one element type; a group of asynchronous copies is waited for somewhere, and what
///   is waited for is a group of copies. Barriers are about memory that threads share.
pub fn kernel(k: &Kernel) -> Vec<String> {
    let mut c = Checker::default();
    c.kernel(k);
    c.found
}

/// What a name in scope stands for.
#[derive(Clone)]
enum Entity {
    /// A symbol or a loop variable; `true` if it is a constant once loops are unrolled.
    Int(bool),
    Let(VType),
    Array {
        dtype: DType,
        len: Dim,
        scope: Scope,
        writable: bool,
    },
}

#[derive(Default)]
struct Checker {
    found: Vec<String>,
    names: Vec<(Sym, Entity)>,
    values: Values,
    /// The statement being checked, for messages.
    place: String,
}

type Ty = Option<VType>;

impl Checker {
    fn fail(&mut self, message: impl std::fmt::Display) {
        let place = &self.place;
        self.found.push(if place.is_empty() { message.to_string() } else { format!("`{place}`: {message}") });
    }

    fn check(&mut self, holds: bool, message: impl std::fmt::Display) -> bool {
        if !holds {
            self.fail(message);
        }
        holds
    }

    fn get(&self, name: &Sym) -> Option<&Entity> {
        self.names.iter().rev().find(|(s, _)| s == name).map(|(_, e)| e)
    }

    fn declare(&mut self, name: &Sym, entity: Entity) {
        if self.get(name).is_some() {
            self.fail(format_args!("the name {name} is taken"));
        }
        self.values.forget(name);
        self.names.push((name.clone(), entity));
    }

    /// The scope now; [`Checker::leave`] returns to it.
    fn enter(&self) -> (usize, Mark) {
        (self.names.len(), self.values.bounds.mark())
    }

    fn leave(&mut self, to: (usize, Mark)) {
        self.names.truncate(to.0);
        self.values.bounds.reset(to.1);
    }

    fn kernel(&mut self, k: &Kernel) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_identifier = !k.name.starts_with(|c: char| c.is_ascii_digit()) && k.name.chars().all(is_plain);
        self.check(is_identifier, format_args!("the name {:?} is no C identifier", k.name));
        for (s, range) in &k.symbols {
            self.check(range.lo <= range.hi, format_args!("symbol {s} has the empty range {range:?}"));
            self.declare(s, Entity::Int(false));
            self.values.bounds.symbol(s, *range);
        }
        for p in &k.params {
            let b = &p.buffer;
            self.place = format!("{}: {}[{}] {}", b.name, b.dtype, b.len, b.scope);
            let scope_fits = matches!(b.scope, Scope::Global | Scope::Workspace);
            self.check(scope_fits, "a parameter is global or workspace memory");
            self.buffer(b, p.writable);
        }
        self.place.clear();
        let n_parallel = count(&k.body, &|s| matches!(s, Stmt::For { kind: LoopKind::Parallel, .. }));
        if n_parallel > 0 {
            let is_all =
                matches!(&k.body[..], [Stmt::For { kind: LoopKind::Parallel, begin, .. }] if begin.is(0));
            self.check(is_all && n_parallel == 1, "a parallel loop must be the whole body and start at 0");
        }
        self.tokens(&k.body);
        self.block(&k.body);
    }

    fn tokens(&mut self, body: &[Stmt]) {
        let (mut copied, mut waited) = (Vec::new(), Vec::new());
        visit(body, &mut |s| match s {
            Stmt::Copy(Copy { token: Some(token), .. }) => copied.push(token.clone()),
            Stmt::Wait { token, .. } => waited.push(token.clone()),
            _ => {}
        });
        for token in copied.iter().filter(|t| !waited.contains(t)) {
            self.fail(format_args!("the copies of group {token} are never waited for"));
        }
        for token in waited.iter().filter(|t| !copied.contains(t)) {
            self.fail(format_args!("there are no copies of group {token} to wait for"));
        }
    }

    /// Declares a buffer.
    fn buffer(&mut self, b: &Buffer, writable: bool) {
        self.check(b.dtype != DType::String, "a buffer cannot hold strings");
        let len = self.dim(&b.len);
        let entity = Entity::Array { dtype: b.dtype, len, scope: b.scope, writable };
        self.declare(&b.name, entity);
    }

    fn block(&mut self, stmts: &[Stmt]) {
        let scope = self.enter();
        for s in stmts {
            self.stmt(s);
        }
        self.leave(scope);
    }

    fn stmt(&mut self, s: &Stmt) {
        self.place = summary(s);
        match s {
            Stmt::For { var, begin, end, kind, body } => self.for_loop(var, begin, end, *kind, body),
            Stmt::If { cond, then, other } => {
                self.condition(cond);
                for (branch, truth) in [(then, true), (other, false)] {
                    let scope = self.enter();
                    self.values.assume(cond, truth);
                    self.block(branch);
                    self.leave(scope);
                }
            }
            Stmt::While { cond, body } => {
                self.condition(cond);
                self.block(body);
            }
            Stmt::Let { var, value } => {
                let ty = self.expr(value);
                self.declare(var, Entity::Let(ty.unwrap_or(VType::scalar(DType::Bool))));
                if let Some(ty) = ty {
                    self.values.bind(var, ty, value);
                }
            }
            Stmt::Store { buffer, index, value, mask } => {
                let (at, value) = (self.expr(index), self.expr(value));
                let mask_ty = mask.as_ref().map(|m| self.expr(m));
                if let Some((dtype, true)) = self.array(buffer, true) {
                    self.mask(at, mask_ty);
                    if let (Some(at), Some(value)) = (at, value) {
                        let expected = VType { dtype, lanes: at.lanes };
                        self.check(
                            value == expected,
                            format_args!("expected a value {expected}, found {value}"),
                        );
                    }
                    self.access(buffer, index, mask.is_some());
                }
            }
            Stmt::Alloc(b) => {
                self.check(b.scope != Scope::Global, "global memory is not allocated by a kernel");
                let is_constant = b.len.as_const().is_some() || b.scope != Scope::Register;
                self.check(is_constant, "a buffer in registers has a constant length");
                self.buffer(b, true);
            }
            Stmt::Barrier(scope) => {
                let is_private = matches!(scope, Scope::Register | Scope::Stack);
                self.check(!is_private, "threads do not share this memory");
            }
            Stmt::Copy(c) => self.copy(c),
            Stmt::Wait { .. } => {}
            Stmt::Mma(m) => self.mma(m),
            Stmt::Call { args, .. } => {
                // Addresses, whose bounds don't matter.
                for a in args {
                    let operand = if let Expr::Load { index, .. } = a { index } else { a };
                    self.expr(operand);
                }
            }
        }
    }

    fn for_loop(&mut self, var: &Sym, begin: &Dim, end: &Dim, kind: LoopKind, body: &[Stmt]) {
        let (begin, end) = (self.dim(begin), self.dim(end));
        let is_unrolled = matches!(kind, LoopKind::Unroll | LoopKind::Vector);
        if is_unrolled {
            let is_constant = (end.clone() - begin.clone()).as_const().is_some();
            self.check(is_constant, "an unrolled loop has a constant number of iterations");
        }
        if let LoopKind::Bind(Level::Block(axis) | Level::Thread(axis)) = kind {
            self.check(axis < 3, "there are three axes: 0, 1 and 2");
        }
        let scope = self.enter();
        self.declare(var, Entity::Int(is_unrolled && self.is_unrolled_constant(&begin)));
        self.values.bounds.loop_var(var, &begin, &end);
        self.block(body);
        self.leave(scope);
    }

    /// An index expression in terms of loop variables, symbols and data.
    fn dim(&mut self, d: &Dim) -> Dim {
        for s in d.symbols() {
            let is_int = match self.get(&s) {
                Some(Entity::Int(_)) => true,
                Some(Entity::Let(ty)) => *ty == VType::scalar(DType::I64),
                _ => false,
            };
            self.check(is_int, format_args!("{s} is no integer in scope"));
        }
        self.values.resolve(d)
    }

    fn is_unrolled_constant(&self, d: &Dim) -> bool {
        d.symbols().iter().all(|s| Values::is_lane(s) || matches!(self.get(s), Some(Entity::Int(true))))
    }

    /// The type of a buffer that is accessed, and whether it may be.
    fn array(&mut self, name: &Sym, is_write: bool) -> Option<(DType, bool)> {
        let Some(Entity::Array { dtype, writable, .. }) = self.get(name) else {
            self.fail(format_args!("there is no buffer {name} in scope"));
            return None;
        };
        let (dtype, writable) = (*dtype, *writable);
        Some((dtype, self.check(writable || !is_write, format_args!("{name} is not writable"))))
    }

    fn condition(&mut self, e: &Expr) {
        let expected = VType::scalar(DType::Bool);
        if let Some(found) = self.expr(e) {
            self.check(found == expected, format_args!("a condition is a bool, found {found}"));
        }
    }

    fn mask(&mut self, at: Ty, mask: Option<Ty>) {
        let Some(at) = at else { return };
        self.check(at.dtype == DType::I64, format_args!("an index is i64, found {at}"));
        if let Some(Some(mask)) = mask {
            let expected = VType { dtype: DType::Bool, lanes: at.lanes };
            self.check(mask == expected, format_args!("expected a mask {expected}, found {mask}"));
        }
    }

    /// Whether an access lies within its buffer, which is known; and is constant, in registers.
    fn access(&mut self, name: &Sym, index: &Expr, is_masked: bool) {
        let scope = self.enter();
        let at = self.values.value(index);
        self.access_at(name, &at, index, is_masked);
        self.leave(scope);
    }

    fn access_at(&mut self, name: &Sym, at: &Dim, shown: &dyn std::fmt::Display, is_masked: bool) {
        let Some(Entity::Array { len, scope, .. }) = self.get(name).cloned() else { return };
        if scope == Scope::Register {
            let is_constant = self.is_unrolled_constant(at);
            self.check(
                is_constant,
                format_args!("{name}[{shown}] is in registers, but its index is no constant"),
            );
        }
        if is_masked {
            return;
        }
        if !self.values.bounds.is_nonnegative(at) {
            self.fail(format_args!("{name}[{shown}]: cannot prove {at} >= 0"));
        }
        if !self.values.bounds.is_below(at, &len) {
            self.fail(format_args!("{name}[{shown}]: cannot prove {at} < {len}"));
        }
    }

    /// Checks an expression and everything below it; gives its type.
    fn expr(&mut self, e: &Expr) -> Ty {
        match e {
            Expr::Const(dtype, x) => {
                self.check(*x == x.cast(*dtype), format_args!("{x} is no value of type {dtype}"));
                self.check(*dtype != DType::String, "a constant cannot be a string");
            }
            Expr::Index(d) => drop(self.dim(d)),
            Expr::Ramp { base, stride, lanes } => {
                self.dim(base);
                self.dim(stride);
                self.check(*lanes > 0, "a vector has a lane or more");
            }
            Expr::Broadcast(e, lanes) => {
                let ty = self.expr(e)?;
                self.check(*lanes > 0, "a vector has a lane or more");
                self.check(ty.lanes == 1, format_args!("a scalar is broadcast, found {ty}")).then_some(())?;
            }
            Expr::Var(name, ty) => match self.get(name) {
                Some(Entity::Let(found)) => {
                    let found = *found;
                    self.check(found == *ty, format_args!("variable {name} is {found}, not {ty}"));
                }
                Some(Entity::Int(_)) => {
                    self.check(
                        *ty == VType::scalar(DType::I64),
                        format_args!("variable {name} is i64, not {ty}"),
                    );
                }
                _ => self.fail(format_args!("there is no variable {name} in scope")),
            },
            Expr::Load { buffer, index, mask } => {
                let at = self.expr(index);
                let mask_ty = mask.as_ref().map(|m| self.expr(m));
                self.array(buffer, false)?;
                self.mask(at, mask_ty);
                self.access(buffer, index, mask.is_some());
            }
            Expr::Call(f, args) => {
                let types: Vec<Ty> = args.iter().map(|a| self.expr(a)).collect();
                self.call(*f, &types.into_iter().collect::<Option<Vec<_>>>()?)?;
            }
            Expr::Cast(dtype, e) => {
                let ty = self.expr(e)?;
                let has_string = *dtype == DType::String || ty.dtype == DType::String;
                self.check(!has_string, "strings are not cast");
            }
            Expr::Horizontal(op, e) => {
                let ty = self.expr(e)?;
                let combines = op.combine().and_then(|f| f.result(&[ty.dtype, ty.dtype])) == Some(ty.dtype);
                let fits = combines && ty.dtype == ty.dtype.compute();
                self.check(fits, format_args!("{} does not combine {ty}", op.keyword())).then_some(())?;
            }
        }
        let names = &self.names;
        e.ty(&|b| {
            names.iter().rev().find(|(s, _)| s == b).and_then(|(_, e)| match e {
                Entity::Array { dtype, .. } => Some(*dtype),
                _ => None,
            })
        })
    }

    fn call(&mut self, f: ScalarFn, types: &[VType]) -> Option<()> {
        let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
        let is_wide = f == ScalarFn::Select || dtypes.iter().all(|t| t.compute() == *t);
        let found: Vec<String> = types.iter().map(VType::to_string).collect();
        let same_lanes = types.windows(2).all(|w| w[0].lanes == w[1].lanes);
        let fits = f.result(&dtypes).is_some() && same_lanes;
        self.check(fits, format_args!("{} is not defined for {}", f.keyword(), found.join(", ")))
            .then_some(())?;
        self.check(is_wide, format_args!("{} is not computed in {}", f.keyword(), dtypes[0])).then_some(())
    }

    fn copy(&mut self, c: &Copy) {
        let (Some((dst, _)), Some((src, _))) = (self.array(&c.dst.0, true), self.array(&c.src.0, false))
        else {
            return;
        };
        self.check(dst == src, format_args!("a copy from {src} to {dst}"));
        let (rows, dst_step, src_step) = &c.rows;
        self.tile(&c.dst.0, &c.dst.1, [rows, &c.len], dst_step);
        self.tile(&c.src.0, &c.src.1, [rows, &c.len], src_step);
    }

    fn mma(&mut self, m: &Mma) {
        let [rows, columns, depth] = m.tile.map(|n| Dim::from(i64::from(n)));
        for ((name, first, step), extents, is_write) in [
            (&m.c, [&rows, &columns], true),
            (&m.a, [&rows, &depth], false),
            (&m.b, [&depth, &columns], false),
        ] {
            if self.array(name, is_write).is_some() {
                self.tile(name, first, extents, step);
            }
        }
    }

    /// Rows of consecutive elements, `step` apart.
    fn tile(&mut self, name: &Sym, first: &Dim, [rows, len]: [&Dim; 2], step: &Dim) {
        let [first, rows, len, step] = [first, rows, len, step].map(|d| self.dim(d));
        let scope = self.enter();
        let (row, k) = (Sym::new("row of tile"), Sym::new("element of row"));
        self.values.bounds.loop_var(&row, &0.into(), &rows);
        self.values.bounds.loop_var(&k, &0.into(), &len);
        let at = first + Dim::sym(&row) * step + Dim::sym(&k);
        self.access_at(name, &at.clone(), &at, false);
        self.leave(scope);
    }
}

/// The statement's first line.
fn summary(s: &Stmt) -> String {
    let header = match s {
        Stmt::For { var, begin, end, kind, .. } => Stmt::For {
            var: var.clone(),
            begin: begin.clone(),
            end: end.clone(),
            kind: *kind,
            body: Vec::new(),
        },
        Stmt::If { cond, .. } => Stmt::If { cond: cond.clone(), then: Vec::new(), other: Vec::new() },
        Stmt::While { cond, .. } => Stmt::While { cond: cond.clone(), body: Vec::new() },
        other => other.clone(),
    };
    let text = header.to_string();
    text.lines().next().unwrap_or_default().trim_end_matches(" {").to_string()
}

fn visit(stmts: &[Stmt], f: &mut dyn FnMut(&Stmt)) {
    for s in stmts {
        f(s);
        match s {
            Stmt::For { body, .. } | Stmt::While { body, .. } => visit(body, f),
            Stmt::If { then, other, .. } => {
                visit(then, f);
                visit(other, f);
            }
            _ => {}
        }
    }
}

fn count(stmts: &[Stmt], fits: &dyn Fn(&Stmt) -> bool) -> usize {
    let mut n = 0;
    visit(stmts, &mut |s| n += usize::from(fits(s)));
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_kernel;

    fn violations(src: &str) -> Vec<String> {
        kernel(&parse_kernel(src).unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn sound() {
        let src = "kernel @k(in x: f32[n*m], in at: i64[m], out y: f32[n*m], out z: f32[m]; n: 0.., m: 0..) {
          parallel for p in 0..n*m {
            alloc acc: f32[8] register
            unroll for u in 0..2 { acc[ramp(4*u, 1, 4)] = broadcast(f32(0), 4) }
            let q: i64 = at[mod(p,m)]
            let c: i64 = max(min(var(q), n-1), 0)
            y[p] = add(x[c*m+mod(p,m)], x[(mod(p,m)*n+floordiv(p,m))])
            for v in 0..floordiv(m,4) {
              acc[ramp(0, 1, 4)] = x[ramp(m*floordiv(p,m)+4*v, 1, 4)]
              z[add(ramp(4*v, 1, 4), broadcast(0, 4))] = mul(acc[ramp(4, 1, 4)], acc[ramp(0, 1, 4)])
            }
            if and(lt(q, m), ge(q, 0)) { z[q] = f32(0) }
            z[q if lt(q, m)] = f32(1)
            call @prefetch(x[p+1000])
          }
        }";
        assert_eq!(violations(src), Vec::<String>::new());
    }

    #[test]
    fn bounds() {
        let cases = [
            ("for i in 0..n { y[i+1] = f32(0) }", "`y[i+1] = f32(0.0)`: y[i+1]: cannot prove i+1 < n"),
            ("for i in 0..n { y[i-1] = f32(0) }", "`y[i-1] = f32(0.0)`: y[i-1]: cannot prove i-1 >= 0"),
            ("y[0] = f32(0)", "`y[0] = f32(0.0)`: y[0]: cannot prove 0 < n"),
            (
                "for i in 0..n { let j: i64 = mul(i, 2) y[j] = f32(0) }",
                "`y[j] = f32(0.0)`: y[j]: cannot prove 2*i < n",
            ),
            (
                "for i in 0..floordiv(n,4) { y[ramp(4*i, 2, 4)] = broadcast(f32(0), 4) }",
                "`y[ramp(4*i, 2, 4)] = broadcast(f32(0.0), 4)`: y[ramp(4*i, 2, 4)]: cannot prove 4*i+2*'lane of 4' < n",
            ),
            (
                "for i in 0..n { if gt(i, 3) { } else { y[n-i-1] = y[i+1] } }",
                "`y[-i+n-1] = y[i+1]`: y[i+1]: cannot prove i+1 < n",
            ),
            (
                "copy y[0] from x[0] len 4 rows 2 strides 4, 5",
                "`copy y[0] from x[0] len 4 rows 2 strides 4, 5`: x['element of row'+5*'row of tile']: cannot prove 'element of row'+5*'row of tile' < 8",
            ),
        ];
        for (body, message) in cases {
            let src = format!("kernel @k(in x: f32[8], out y: f32[n]; n: 0..) {{ {body} }}");
            assert_eq!(violations(&src).last().map(String::as_str), Some(message));
        }
        let copy = "kernel @k(in x: f32[8], out y: f32[n]; n: 8..) { copy y[n-8] from x[0] len 3 rows 2 strides 3, 5 }";
        assert_eq!(violations(copy), Vec::<String>::new());
    }

    #[test]
    fn every_violation_is_reported() {
        let src = "kernel @'1k'(in x: f32[8], out y: f16[4] shared) { }".replace("'1k'", "\"1 k\"");
        assert_eq!(
            violations(&src),
            [
                "the name \"1 k\" is no C identifier",
                "`y: f16[4] shared`: a parameter is global or workspace memory"
            ]
        );
        let src = "kernel @k(in x: f32[8], out y: f16[4]; n: 0..) {
          x[0] = f32(0)
          y[0] = f32(0)
          y[1] = add(y[0], y[0])
          parallel for x in 0..n { }
          alloc r: f32[n] register
          for i in 0..4 { alloc s: f32[4] register s[i] = x[k] }
          unroll for u in 0..n { }
          if 3 { y[0] = cast(f16, i8(3)) }
          wait g pending 0
          barrier register
          let v: f32x4 = x[ramp(0, 1, 4) if broadcast(bool(true), 8)]
          y[2] = reduce(argmax, y[1])
        }";
        assert!(parse_kernel(src).is_err());
        let src = src.replace("let v: f32x4 =", "y[ramp(0, 1, 4)] =");
        assert_eq!(
            violations(&src),
            [
                "a parallel loop must be the whole body and start at 0",
                "there are no copies of group g to wait for",
                "`x[0] = f32(0.0)`: x is not writable",
                "`y[0] = f32(0.0)`: expected a value f16, found f32",
                "`y[1] = add(y[0], y[0])`: add is not computed in f16",
                "`parallel for x in 0..n`: the name x is taken",
                "`alloc r: f32[n] register`: a buffer in registers has a constant length",
                "`s[i] = x[k]`: k is no integer in scope",
                "`s[i] = x[k]`: x[k]: cannot prove k >= 0",
                "`s[i] = x[k]`: x[k]: cannot prove k < 8",
                "`s[i] = x[k]`: s[i] is in registers, but its index is no constant",
                "`unroll for u in 0..n`: an unrolled loop has a constant number of iterations",
                "`if 3`: a condition is a bool, found i64",
                "`barrier register`: threads do not share this memory",
                "`y[ramp(0, 1, 4)] = x[ramp(0, 1, 4) if broadcast(bool(true), 8)]`: expected a mask boolx4, found boolx8",
                "`y[2] = reduce(argmax, y[1])`: argmax does not combine f16",
            ]
        );
    }
}

//! What each buffer of a kernel is for: which pipes fill and use it decides whether it is a queue's or a temporary.

use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, Scope, Stmt};
use aic_ir::{bail, ensure};
use std::collections::BTreeMap;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Filled by copies from memory, used by the vector unit.
    In,
    /// Filled by the vector unit, copied to memory.
    Out,
    /// Filled by copies, and copied to memory.
    Through,
    /// Filled and used by the vector unit.
    Temporary,
    /// Filled by the scalar unit.
    Scalar,
    /// Of the cube unit: L1, L0A, L0B, L0C.
    Cube,
    /// In memory, between the cube unit and its vector cores.
    Ring,
}

/// A buffer that a kernel allocates.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub buffer: Buffer,
    pub role: Role,
    /// Elements.
    pub len: i64,
    /// Buffers used in turn.
    pub turns: i64,
    /// Whether the vector unit reads single elements of it as if they were rows.
    pub is_spread: bool,
}

#[derive(Default)]
struct Uses {
    copied_in: bool,
    copied_out: bool,
    computed: bool,
    scalar: bool,
    read: bool,
    turns: i64,
}

/// The buffers that a kernel allocates, in order.
///
/// # Errors
/// A buffer's length isn't known, or it is used in a way that no queue is for.
pub(super) fn locals(k: &Kernel) -> Result<Vec<Local>> {
    let mut buffers: Vec<Buffer> = Vec::new();
    visit(&k.body, &mut |s| {
        if let Stmt::Alloc(b) = s {
            buffers.push(b.clone());
        }
    });
    let is_local = |name: &Sym| buffers.iter().any(|b| b.name == *name && b.scope != Scope::Workspace);
    let mut uses: BTreeMap<String, Uses> = BTreeMap::new();
    visit(&k.body, &mut |s| match s {
        Stmt::Copy(c) => {
            let dst = uses.entry(c.dst.buffer.name().into()).or_default();
            dst.copied_in = true;
            dst.turns = dst.turns.max(super::text::turns(&c.dst.first));
            if !is_local(&c.dst.buffer) {
                uses.entry(c.src.buffer.name().into()).or_default().copied_out = true;
            }
        }
        Stmt::Store { buffer, value, .. } => {
            let is_scalar = loads(value).iter().any(|b| !is_local(b));
            let of = uses.entry(buffer.name().into()).or_default();
            of.scalar |= is_scalar;
            of.computed |= !is_scalar;
            for b in loads(value) {
                uses.entry(b.name().into()).or_default().read = true;
            }
        }
        _ => {}
    });
    let none = Uses::default();
    let local = |b: Buffer| {
        let Some(len) = b.len.as_const() else { bail!("{} has no constant length", b.name) };
        let of = uses.get(b.name.name()).unwrap_or(&none);
        let role = match b.scope {
            Scope::Workspace => Role::Ring,
            Scope::Ub => role(&b, of)?,
            _ => Role::Cube,
        };
        let size = b.dtype.size().max(1) as i64;
        ensure!(len * size < 1 << 22, "{} is too large", b.name);
        let is_spread = of.read && role == Role::In && len * size <= 32 && b.dtype != DType::I64;
        Ok(Local { buffer: b, role, len, turns: of.turns.max(1), is_spread })
    };
    buffers.into_iter().map(local).collect()
}

fn role(b: &Buffer, of: &Uses) -> Result<Role> {
    Ok(match (of.copied_in, of.copied_out, of.computed, of.scalar) {
        (_, _, false, true) if !of.copied_in => Role::Scalar,
        (true, true, false, false) if !of.read => Role::Through,
        // Computed where there is nothing to copy.
        (true, false, _, false) => Role::In,
        (false, true, true, false) => Role::Out,
        (false, false, true, false) => Role::Temporary,
        _ => bail!("{} is filled and used by too many units", b.name),
    })
}

/// Calls `f` on every statement.
pub(super) fn visit<'a>(body: &'a [Stmt], f: &mut dyn FnMut(&'a Stmt)) {
    for s in body {
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

/// The buffers that an expression loads.
pub(super) fn loads(e: &Expr) -> Vec<Sym> {
    let mut out = Vec::new();
    collect(e, &mut out);
    out
}

fn collect(e: &Expr, out: &mut Vec<Sym>) {
    match e {
        Expr::Load { buffer, index, mask } => {
            out.push(buffer.clone());
            collect(index, out);
            mask.iter().for_each(|m| collect(m, out));
        }
        Expr::Call(_, args) => args.iter().for_each(|a| collect(a, out)),
        Expr::Cast(_, e) | Expr::Broadcast(e, _) | Expr::Horizontal(_, e) => collect(e, out),
        Expr::Const(..) | Expr::Index(_) | Expr::Ramp { .. } | Expr::Var(..) => {}
    }
}

//! Cutting a compute into kernels, and what the bits of its reductions depend on.

use super::nest::Nest;
use super::{choose, reduce};
use aic_ir::compute::{Compute, Expr, Source, Stage};
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;

/// A part of a compute that is one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// What the kernel computes, as a compute of its own.
    pub compute: Compute,
    /// What the part's inputs are in the whole.
    pub sources: Vec<Source>,
    /// The stages of the whole that the part holds, in order.
    pub members: Vec<usize>,
    /// The stage of the whole that it gives.
    pub result: usize,
}

/// The kernels that a compute is cut into on a target, in order of execution.
pub fn pieces(c: &Compute, _target: &Target) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut k = 0;
    while k < c.stages.len() {
        let epilogue = k + 1 < c.stages.len() && is_epilogue(c, k);
        pieces.push(piece(c, k, if epilogue { Some(k + 1) } else { None }));
        k += if epilogue { 2 } else { 1 };
    }
    pieces
}

/// How the terms of a reduction are associated: two reductions of the same terms whose signatures are equal give the
/// same bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Signature {
    /// One term after the other, by this class of kernel; contractions round once per multiply-add.
    Sequential(Class),
    /// In vectors along the innermost extent.
    Lanewise {
        /// Lanes of a vector.
        lanes: u32,
        /// Vectors that are accumulated independently.
        accumulators: i64,
        /// Extents reduced over, as few as can be made of them.
        extents: Vec<Dim>,
    },
}

/// The signature of stage `k` of a compute in the kernel that it becomes part of; `None` where that is no reduction.
///
/// # Errors
/// If there is no such kernel.
pub fn signature(c: &Compute, k: usize, target: &Target) -> Result<Option<Signature>> {
    let parts = pieces(c, target);
    let Some(part) = parts.iter().find(|p| p.members.contains(&k)) else { return Ok(None) };
    if c.stages[k].reduction.is_none() {
        return Ok(None);
    }
    let nest = Nest::new(&part.compute)?;
    Ok(Some(signature_of(&nest, &choose(&nest, target))))
}

fn signature_of(nest: &Nest, s: &Schedule) -> Signature {
    match (s.class, nest.over().last()) {
        (Class::ReduceInner, Some(along)) => Signature::Lanewise {
            lanes: s.lanes,
            accumulators: reduce::copies(along, s),
            extents: nest.over().iter().map(|a| a.extent.clone()).collect(),
        },
        (class, _) => Signature::Sequential(class),
    }
}

/// Whether stage `k + 1` maps the reduction of stage `k` element by element, and nothing else reads that.
fn is_epilogue(c: &Compute, k: usize) -> bool {
    let (s, e) = (&c.stages[k], &c.stages[k + 1]);
    if s.reduction.is_none() || e.reduction.is_some() || c.outputs.contains(&k) {
        return false;
    }
    let same_extents =
        s.axes.len() == e.axes.len() && s.axes.iter().zip(&e.axes).all(|(a, b)| a.extent == b.extent);
    let here: Vec<Expr> = e.indices().into_iter().map(Expr::Index).collect();
    let mut reads_in_place = true;
    e.value.visit(&mut |x| {
        if let Expr::Load(Source::Stage(j), at) = x {
            reads_in_place &= *j != k || *at == here;
        }
    });
    let mut read_later = false;
    for later in &c.stages[k + 2..] {
        later.value.visit(&mut |x| read_later |= matches!(x, Expr::Load(Source::Stage(j), _) if *j == k));
    }
    same_extents && reads_in_place && !read_later
}

fn piece(c: &Compute, main: usize, epilogue: Option<usize>) -> Piece {
    let mut sources: Vec<Source> = Vec::new();
    let members: Vec<usize> = std::iter::once(main).chain(epilogue).collect();
    for &m in &members {
        c.stages[m].value.visit(&mut |x| {
            if let Expr::Load(s, _) = x
                && *s != Source::Stage(main)
                && !sources.contains(s)
            {
                sources.push(*s);
            }
        });
    }
    let inputs = sources
        .iter()
        .map(|s| match s {
            Source::Input(k) => c.inputs[*k].clone(),
            Source::Stage(k) => c.stages[*k].ty(),
        })
        .collect();
    let rename = |s: Source| match sources.iter().position(|t| *t == s) {
        Some(at) => Source::Input(at),
        None => Source::Stage(0),
    };
    let stages: Vec<Stage> = members
        .iter()
        .map(|&m| Stage { value: map_sources(&c.stages[m].value, &rename), ..c.stages[m].clone() })
        .collect();
    let outputs = vec![stages.len() - 1];
    Piece { compute: Compute { inputs, stages, outputs }, sources, members, result: epilogue.unwrap_or(main) }
}

fn map_sources(e: &Expr, f: &dyn Fn(Source) -> Source) -> Expr {
    let all = |es: &[Expr]| es.iter().map(|e| map_sources(e, f)).collect();
    match e {
        Expr::Const(..) | Expr::Index(_) => e.clone(),
        Expr::Load(s, at) => Expr::Load(f(*s), all(at)),
        Expr::Call(g, args) => Expr::Call(*g, all(args)),
        Expr::Cast(t, e) => Expr::Cast(*t, map_sources(e, f).into()),
    }
}

//! Cutting a compute into kernels, and what the bits of its reductions depend on.

use super::group::Group;
use super::nest::Nest;
use super::phase::{Phase, map_sources, phases};
use super::prepare::Transposed;
use super::{attention_on_gpu, choose, kernel, prepare, reduce, rows, rows_on_gpu, winograd};
use aic_ir::compute::{Compute, Expr, Source, Stage};
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::schedule::{Class, Place, Schedule};
use aic_ir::target::Target;
use aic_ir::verify;

/// A compute and the kernels that it is cut into.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The same compute, possibly in other stages.
    pub compute: Compute,
    /// Its kernels in order of execution.
    pub pieces: Vec<Piece>,
}

/// A part of a compute that is one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// What the kernel computes, as a compute of its own.
    pub compute: Compute,
    /// What the part's inputs are in the whole.
    pub sources: Vec<Source>,
    /// The stages of the whole that the part evaluates, in order.
    pub members: Vec<usize>,
    /// The stages of the whole that are the part's outputs.
    pub results: Vec<usize>,
}

/// The kernels that a compute is cut into on a target.
pub fn pieces(c: &Compute, target: &Target) -> Vec<Piece> {
    cut(c, target).pieces
}

/// Cuts a compute into kernels: one if there is one for the whole, else one for as many phases as possible, then for
/// as many of the others.
pub fn cut(c: &Compute, target: &Target) -> Cut {
    if winograd::fits(c, target) {
        return Cut { compute: c.clone(), pieces: vec![piece(c, &phases(c))] };
    }
    let (c, _) = prepare::contractions(c, target, Transposed::Necessary);
    let phases = phases(&c);
    let (mut pieces, mut from) = (Vec::new(), 0);
    while from < phases.len() {
        let several = (from + 2..=phases.len()).rev().find_map(|to| {
            let part = piece(&c, &phases[from..to]);
            let compute = one_kernel(&part.compute, target)?;
            Some((to, Piece { compute, ..part }))
        });
        let (to, part) = several.unwrap_or_else(|| (from + 1, piece(&c, &phases[from..=from])));
        pieces.push(part);
        from = to;
    }
    Cut { compute: c, pieces }
}

/// The stages by which a compute of several phases is one kernel, whatever its symbols are.
fn one_kernel(c: &Compute, target: &Target) -> Option<Compute> {
    let transposed = prepare::contractions(c, target, Transposed::All).0;
    let fits = |c: &Compute| kernel("", c, target).is_ok_and(|k| verify::kernel(&k.kernel).is_empty());
    [&transposed, c].into_iter().map(prepare::share).find(fits)
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
    /// By a matrix unit, in parts of this many terms along the last extent for each point of the others.
    Parts {
        /// Terms of a part.
        terms: u32,
        /// Extents reduced over.
        extents: Vec<Dim>,
    },
}

impl Signature {
    /// Whether a contraction is computed as such.
    pub fn is_contraction(&self) -> bool {
        matches!(self, Signature::Sequential(Class::Contract) | Signature::Parts { .. })
    }
}

/// The signatures of a compute's reductions, in their order, as its kernels evaluate them.
///
/// # Errors
/// If the compute is invalid.
pub fn signatures(cut: &Cut, target: &Target) -> Result<Vec<Signature>> {
    let mut found: Vec<(usize, Signature)> = Vec::new();
    for p in &cut.pieces {
        // Stages may have been added for the kernel, but no reductions.
        let group = Group::new(&p.compute);
        let mut reductions: Vec<&Phase> = group.phases.iter().filter(|p| p.reduction.is_some()).collect();
        reductions.sort_by_key(|p| p.main);
        let places = p.members.iter().filter(|m| cut.compute.stages[**m].reduction.is_some());
        let has_any = !reductions.is_empty();
        let is_of_rows = has_any && rows_on_gpu("", &p.compute, target).is_some();
        let is_attention = has_any && !is_of_rows && attention_on_gpu("", &p.compute, target).is_some();
        let is_on_npu = has_any && rows::npu::is_one(&p.compute, target);
        for (phase, place) in reductions.into_iter().zip(places) {
            let nest = Nest::of(phase, &group.arrays, &|_| None)?;
            let signature = match (is_of_rows, is_attention, is_on_npu) {
                (true, ..) => row_signature(&nest),
                (_, true, _) => Signature::Sequential(Class::Staged),
                (_, _, true) => vector_core_signature(&nest, rows::npu::lanes(&nest)),
                _ => signature_of(&nest, &choose(&nest, target)),
            };
            found.push((*place, signature));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, signature)| signature).collect())
}

/// Of a row that the threads of a GPU share.
fn row_signature(nest: &Nest) -> Signature {
    let extents: Vec<Dim> = nest.over().iter().map(|a| a.extent.clone()).collect();
    let len: Dim = extents.iter().product();
    Signature::Lanewise { lanes: rows::lanes(len.as_const().unwrap_or(1)), accumulators: 1, extents }
}

/// Of a row that a vector core combines: lane by lane, then all lanes.
fn vector_core_signature(nest: &Nest, lanes: u32) -> Signature {
    let extents = nest.over().iter().map(|a| a.extent.clone()).collect();
    Signature::Lanewise { lanes, accumulators: 1, extents }
}

pub(super) fn signature_of(nest: &Nest, s: &Schedule) -> Signature {
    if let (Class::ReduceInner, Some(tile)) = (s.class, s.tile(Place::Ub)) {
        return vector_core_signature(nest, tile.extent[1]);
    }
    if let (Class::Contract, Some(tile)) = (s.class, s.tile(Place::L0)) {
        let extents = nest.over().iter().map(|a| a.extent.clone()).collect();
        return Signature::Parts { terms: tile.extent[2], extents };
    }
    match (s.class, nest.over().last()) {
        (Class::ReduceInner, Some(along)) => Signature::Lanewise {
            lanes: s.lanes,
            accumulators: reduce::copies(along, s),
            extents: nest.over().iter().map(|a| a.extent.clone()).collect(),
        },
        (class, _) => Signature::Sequential(class),
    }
}

/// The piece of these phases.
fn piece(c: &Compute, phases: &[Phase]) -> Piece {
    let mut members: Vec<usize> = phases.iter().flat_map(Phase::members).collect();
    members.sort_unstable();
    let mut sources: Vec<Source> = Vec::new();
    for &m in &members {
        visit_loads(&c.stages[m], &mut |s| {
            if !matches!(s, Source::Stage(k) if members.contains(&k)) && !sources.contains(&s) {
                sources.push(s);
            }
        });
    }
    let is_read = |stage: usize| {
        let outside = (0..c.stages.len()).filter(|k| !members.contains(k));
        let mut read = false;
        outside.for_each(|k| visit_loads(&c.stages[k], &mut |s| read |= s == Source::Stage(stage)));
        read
    };
    let mut results: Vec<usize> =
        members.iter().copied().filter(|m| c.outputs.contains(m) || is_read(*m)).collect();
    if results.is_empty() {
        results.extend(members.last());
    }
    let ty = |s: &Source| match s {
        Source::Input(k) => c.inputs[*k].clone(),
        Source::Stage(k) => c.stages[*k].ty(),
    };
    let is_constant = |s: &Source| matches!(s, Source::Input(k) if c.constants.contains(k));
    let inside = |stage: usize| members.iter().position(|m| *m == stage);
    let rename = |s: Source| match s {
        Source::Stage(k) if members.contains(&k) => inside(k).map_or(s, Source::Stage),
        _ => sources.iter().position(|t| *t == s).map_or(s, Source::Input),
    };
    let renamed =
        |&m: &usize| Stage { value: map_sources(&c.stages[m].value, &rename), ..c.stages[m].clone() };
    let compute = Compute {
        inputs: sources.iter().map(ty).collect(),
        stages: members.iter().map(renamed).collect(),
        outputs: results.iter().filter_map(|r| inside(*r)).collect(),
        constants: (0..sources.len()).filter(|k| is_constant(&sources[*k])).collect(),
    };
    Piece { compute, sources, members, results }
}

/// Calls `f` on the source of every load of a stage.
fn visit_loads(s: &Stage, f: &mut dyn FnMut(Source)) {
    s.value.visit(&mut |e| {
        if let Expr::Load(source, _) = e {
            f(*source);
        }
    });
}

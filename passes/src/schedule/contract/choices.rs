//! Which schedules a contraction may have on a CPU, and what they should cost.

use super::pack::{choose_roles, has_layout};
use super::plan::Shape;
use super::{Nest, Roles, roles};
use crate::schedule::space::Prediction;
use aic_ir::compute::Axis;
use aic_ir::schedule::Schedule;
use aic_ir::target::{MAX_ARRAY_BYTES, Target};

/// Numbers of blocks that rows or terms are cut into.
const COUNTS: [i64; 9] = [2, 3, 4, 6, 8, 12, 16, 32, 64];
/// Terms ahead of which a packed factor may be asked for.
const AHEAD: [i64; 5] = [0, 16, 64, 128, 256];

/// Values that parameters of blocks may have.
pub(in crate::schedule) struct Blocks {
    pub rows: Vec<u32>,
    pub terms: Vec<u32>,
    pub ahead: Vec<u32>,
}

/// The blocks that a contraction can be cut into, and the distances of what it asks for.
pub(in crate::schedule) fn blocks(nest: &Nest) -> Blocks {
    let rows = choose_roles(nest).and_then(|r| known_rows(nest, &r)).unwrap_or(1);
    let outermost = nest.over().first().and_then(|a| a.extent.as_const()).unwrap_or(1);
    let terms = known_terms(nest).unwrap_or(1);
    let inner = terms / outermost.max(1);
    let parts = |n: i64, unit: i64| {
        let sizes = COUNTS.into_iter().map(move |c| (n + c - 1) / c * unit);
        let values = [0].into_iter().chain(sizes.filter(move |s| *s < n * unit));
        values.filter_map(|n| u32::try_from(n).ok()).collect()
    };
    let ahead = AHEAD.into_iter().chain([terms]).filter(|n| *n <= terms);
    Blocks {
        rows: parts(rows, 1),
        terms: parts(outermost, inner),
        ahead: ahead.filter_map(|n| u32::try_from(n).ok()).collect(),
    }
}

/// The rows of a contraction, if their number is known.
fn known_rows(nest: &Nest, roles: &Roles) -> Option<i64> {
    roles.m.map_or(Some(1), |m| nest.axes[m].extent.as_const())
}

/// Terms of the sum, if their number is known.
fn known_terms(nest: &Nest) -> Option<i64> {
    nest.over().iter().try_fold(1i64, |n, a| n.checked_mul(a.extent.as_const()?))
}

/// Whether a register tile, and blocks of rows, are possible.
fn allows_tile(nest: &Nest, roles: &Roles, s: &Schedule) -> bool {
    let rows = known_rows(nest, roles);
    let is_block = match rows {
        _ if s.mc == 0 => true,
        Some(rows) => s.mc.is_multiple_of(s.mr) && i64::from(s.mc) < rows,
        None => false,
    };
    // Addresses in tiles of many unknown extents are beyond the verifier's proofs.
    let is_proved = rows.is_some() || nest.over().len() <= 1 || s.mr == 1;
    let is_known = |a: &Axis| a.extent.as_const().is_some();
    is_block && is_proved && (s.nr == 1 || is_known(&nest.axes[roles.n]))
}

/// Whether a schedule evaluates a contraction that reads its factors as they are.
pub(in crate::schedule) fn allows(nest: &Nest, s: &Schedule) -> bool {
    let is_plain = [s.kc, s.panel, s.pack, s.ahead].iter().all(|n| *n == 0);
    is_plain && roles(nest).is_some_and(|r| allows_tile(nest, &r, s))
}

/// Whether a schedule evaluates a contraction with a packed factor.
pub(in crate::schedule) fn allows_packed(nest: &Nest, s: &Schedule) -> bool {
    let Some(roles) = choose_roles(nest) else { return false };
    let has_place = s.panel == 0 && s.pack == s.nr * s.lanes && has_layout(nest, &roles, s.pack);
    has_place && allows_tile(nest, &roles, s) && allows_terms(nest, &roles, s)
}

/// Whether blocks of terms are possible, and what waits between them fits on the stack.
fn allows_terms(nest: &Nest, roles: &Roles, s: &Schedule) -> bool {
    let (Some(rows), Some(terms)) = (known_rows(nest, roles), known_terms(nest)) else { return s.kc == 0 };
    let outermost = nest.over().first().and_then(|a| a.extent.as_const()).unwrap_or(1);
    let (inner, kc) = (terms / outermost.max(1), i64::from(s.kc));
    let rows = if s.mc > 0 { i64::from(s.mc) } else { rows };
    let sums = rows.saturating_mul(i64::from(s.pack)).saturating_mul(nest.acc.size() as i64);
    let is_block = inner > 0 && kc % inner == 0 && kc < terms && sums <= MAX_ARRAY_BYTES as i64;
    i64::from(s.ahead) <= terms && (kc == 0 || is_block)
}

/// What a schedule of a contraction should cost.
pub(in crate::schedule) fn predict(nest: &Nest, s: &Schedule, target: &Target) -> Option<Prediction> {
    let roles = if s.pack > 0 { choose_roles(nest)? } else { roles(nest)? };
    Some(Shape::new(nest, &roles, target, s.lanes).predict(s))
}

//! Memory planning: one arena for all intermediate buffers.
//!
//! A buffer lives from the first step that writes it to the last that reads it or an alias of it. Buffers of known
//! size are placed largest first, each at the lowest offset where it meets no buffer that lives at the same time;
//! buffers of symbolic size follow, sharing a place where their size expressions are equal and their lifetimes apart.
//! [`check`] proves that no two live buffers overlap.

use aic_ir::dim::Dim;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::program::{Place, Program, Step};

/// Alignment of every buffer in the arena, in bytes.
const ALIGN: i64 = 64;

/// An arena buffer with its aliases.
struct Life {
    buffer: usize,
    /// Bytes, rounded up to the alignment.
    size: Dim,
    /// Steps, both included.
    first: usize,
    last: usize,
}

impl Life {
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Fills in the offsets of all arena buffers and the arena's size.
pub fn plan(p: &mut Program) {
    let mut lives = lifetimes(p);
    // Largest first; symbolic sizes last, in order of first use.
    lives.sort_by_key(|l| (l.size.as_const().map_or((1, 0), |n| (0, -n)), l.first, l.buffer));
    let mut placed: Vec<(Life, i64)> = Vec::new();
    let mut slots: Vec<(Dim, Vec<Life>)> = Vec::new();
    for life in lives {
        match life.size.as_const() {
            Some(size) => {
                let at = lowest_gap(&placed, &life, size);
                p.buffers[life.buffer].place = Place::Arena(at.into());
                placed.push((life, at));
            }
            None => {
                let free = slots
                    .iter_mut()
                    .find(|(size, users)| *size == life.size && !users.iter().any(|u| u.meets(&life)));
                match free {
                    Some((_, users)) => users.push(life),
                    None => slots.push((life.size.clone(), vec![life])),
                }
            }
        }
    }
    let known = placed.iter().filter_map(|(l, at)| Some(at + l.size.as_const()?)).max().unwrap_or(0);
    let mut end = Dim::from(known);
    for (size, users) in slots {
        for u in users {
            p.buffers[u.buffer].place = Place::Arena(end.clone());
        }
        end = end + size;
    }
    p.arena_bytes = end;
}

/// The lowest offset at which `size` bytes meet no buffer that lives at the same time.
fn lowest_gap(placed: &[(Life, i64)], life: &Life, size: i64) -> i64 {
    let mut taken: Vec<(i64, i64)> = placed
        .iter()
        .filter(|(other, _)| other.meets(life))
        .filter_map(|(other, at)| Some((*at, at + other.size.as_const()?)))
        .collect();
    taken.sort_unstable();
    let mut at = 0;
    for (from, to) in taken {
        if at + size <= from {
            break;
        }
        at = at.max(to);
    }
    at
}

fn lifetimes(p: &Program) -> Vec<Life> {
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; p.buffers.len()];
    let mut touch = |b: usize, step: usize| {
        let span = spans[root(p, b)].get_or_insert((step, step));
        *span = (span.0.min(step), span.1.max(step));
    };
    for (step, s) in p.steps.iter().enumerate() {
        let (a, b): (&[usize], &[usize]) = match s {
            Step::Launch { args, .. } => (args, &[]),
            Step::Host { inputs, outputs, .. } => (inputs, outputs),
            Step::Copy { src, dst } => (std::slice::from_ref(src), std::slice::from_ref(dst)),
        };
        a.iter().chain(b).for_each(|&b| touch(b, step));
    }
    let mut out = Vec::new();
    for (buffer, span) in spans.into_iter().enumerate() {
        let decl = &p.buffers[buffer];
        if let (Some((first, last)), Place::Arena(_)) = (span, &decl.place) {
            let bytes = decl.ty.numel() * (decl.ty.dtype.size() as i64).into();
            let size = bytes.ceil_div(&ALIGN.into()) * ALIGN.into();
            out.push(Life { buffer, size, first, last });
        }
    }
    out
}

/// The buffer whose memory `b` is.
fn root(p: &Program, mut b: usize) -> usize {
    while let Place::Alias(of) = p.buffers[b].place {
        b = of;
    }
    b
}

/// Proves that no two arena buffers which live at the same time overlap, and that all lie within the arena.
pub fn check(p: &Program) -> Result<()> {
    let lives = lifetimes(p);
    let offset = |l: &Life| match &p.buffers[l.buffer].place {
        Place::Arena(at) => at.clone(),
        _ => 0.into(),
    };
    // Differences of offsets and sizes are sums of sizes, so that "not negative" shows in the coefficients.
    let not_negative = |d: Dim| d.constant() >= 0 && d.terms().all(|(c, _)| c >= 0);
    for (k, a) in lives.iter().enumerate() {
        let end = offset(a) + a.size.clone();
        ensure!(
            not_negative(p.arena_bytes.clone() - end.clone()),
            "buffer {} ends at {end}, beyond the arena's {} bytes",
            a.buffer,
            p.arena_bytes
        );
        for b in lives[k + 1..].iter().filter(|b| a.meets(b)) {
            let apart =
                not_negative(offset(b) - end.clone()) || not_negative(offset(a) - offset(b) - b.size.clone());
            ensure!(apart, "buffers {} and {} overlap while both are live", a.buffer, b.buffer);
        }
    }
    Ok(())
}

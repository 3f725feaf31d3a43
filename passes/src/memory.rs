//! Memory planning: one arena for all intermediate buffers.
//!
//! A buffer lives from the first step that writes it to the last that reads it or an alias of it. Buffers of known
//! size are placed largest first, each at the lowest offset where it meets no buffer that lives at the same time.
//! Buffers of symbolic size follow, in the same way among those whose sizes are multiples of the same expression.
//! [`check`] proves of any plan, however made, that no buffer is written over while it is needed.

use aic_ir::dim::Dim;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::program::{Place, Program, Step};
use aic_ir::types::Type;

/// Alignment of every buffer in the arena, in bytes.
const ALIGN: i64 = 64;

/// An arena buffer with its aliases.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// Position in [`Program::buffers`].
    pub buffer: usize,
    /// Bytes, rounded up to the alignment.
    pub size: Dim,
    /// The first and the last step that touches it.
    pub first: usize,
    /// As above.
    pub last: usize,
}

impl Life {
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Fills in the offsets of all arena buffers and the arena's size.
pub fn plan(p: &mut Program) {
    let mut lives = lifetimes(p);
    lives.sort_by_key(|l| (l.first, l.buffer));
    let mut regions: Vec<(Dim, Vec<(i64, Life)>)> = vec![(1.into(), Vec::new())];
    for life in lives {
        let (n, unit) = multiple(&life.size);
        match regions.iter_mut().find(|(u, _)| *u == unit) {
            Some((_, members)) => members.push((n, life)),
            None => regions.push((unit, vec![(n, life)])),
        }
    }
    let mut begin = Dim::from(0);
    for (unit, mut members) in regions {
        members.sort_by_key(|(n, life)| (-n, life.first, life.buffer));
        let mut placed: Vec<Placed> = Vec::new();
        for (n, life) in members {
            let at = lowest_gap(&placed, &life, n);
            p.buffers[life.buffer].place = Place::Arena(begin.clone() + unit.clone() * at.into());
            placed.push(Placed { life, from: at, to: at + n });
        }
        begin = begin + unit * placed.iter().map(|p| p.to).max().unwrap_or(0).into();
    }
    p.arena_bytes = begin;
}

/// A size as a multiple of an expression whose terms have no common factor.
fn multiple(size: &Dim) -> (i64, Dim) {
    if let Some(n) = size.as_const() {
        return (n, 1.into());
    }
    let factor = size.terms().fold(size.constant(), |n, (c, _)| gcd(n, c)).max(1);
    let unit = size.floor_div(&factor.into());
    match unit.clone() * factor.into() == *size {
        true => (factor, unit),
        false => (1, size.clone()),
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// A buffer with its place, in units of its region.
struct Placed {
    life: Life,
    from: i64,
    to: i64,
}

/// The lowest offset at which so many units meet no buffer that lives at the same time.
fn lowest_gap(placed: &[Placed], life: &Life, size: i64) -> i64 {
    let mut taken: Vec<(i64, i64)> =
        placed.iter().filter(|p| p.life.meets(life)).map(|p| (p.from, p.to)).collect();
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

/// The largest sum of the bytes of buffers that live at the same time, which no plan can do with less than.
pub fn least_bytes(p: &Program, value: &dyn Fn(&Dim) -> i64) -> i64 {
    let lives = lifetimes(p);
    let at = |step: usize| -> i64 {
        lives.iter().filter(|l| (l.first..=l.last).contains(&step)).map(|l| value(&l.size)).sum()
    };
    // What lives at the same time does so when the last of it begins.
    lives.iter().map(|l| at(l.first)).max().unwrap_or(0)
}

/// When each arena buffer is in use, in the order of the buffers.
pub fn lifetimes(p: &Program) -> Vec<Life> {
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
            out.push(Life { buffer, size: size(&decl.ty), first, last });
        }
    }
    out
}

/// Bytes of a tensor, rounded up to the alignment.
fn size(ty: &Type) -> Dim {
    let bytes = ty.numel() * (ty.dtype.size() as i64).into();
    bytes.ceil_div(&ALIGN.into()) * ALIGN.into()
}

/// The buffer whose memory `b` is.
fn root(p: &Program, mut b: usize) -> usize {
    while let Place::Alias(of) = p.buffers[b].place {
        b = of;
    }
    b
}

/// An arena buffer that holds what a step wrote to it.
struct Held {
    buffer: usize,
    from: Dim,
    to: Dim,
}

/// Proves by following the steps, without a notion of lifetimes, that no step touches a buffer which another has been
/// written over, that the buffers of one step are apart where one of them is written, and that all lie within the
/// arena.
pub fn check(p: &Program) -> Result<()> {
    let mut held: Vec<Held> = Vec::new();
    let mut written = vec![false; p.buffers.len()];
    for (step, s) in p.steps.iter().enumerate() {
        let touched = touched(p, s)?;
        for t in &touched {
            let is_held = held.iter().any(|h| h.buffer == t.held.buffer);
            ensure!(
                is_held || !written[t.held.buffer],
                "step {step} touches buffer {}, which another was written over",
                t.held.buffer
            );
        }
        for (k, t) in touched.iter().enumerate().filter(|(_, t)| t.is_written) {
            let Held { buffer, to, .. } = &t.held;
            ensure!(
                is_not_negative(p.arena_bytes.clone() - to.clone()),
                "buffer {buffer} ends at {to}, beyond the arena's {} bytes",
                p.arena_bytes
            );
            for other in touched[..k].iter().chain(&touched[k + 1..]).map(|o| &o.held) {
                ensure!(
                    other.buffer == *buffer || are_apart(other, &t.held),
                    "buffers {} and {buffer} overlap, and step {step} writes one of them",
                    other.buffer
                );
            }
        }
        for t in touched.into_iter().filter(|t| t.is_written) {
            written[t.held.buffer] = true;
            held.retain(|h| h.buffer != t.held.buffer && are_apart(h, &t.held));
            held.push(t.held);
        }
    }
    Ok(())
}

/// An arena buffer that a step reads or writes.
struct Touched {
    held: Held,
    is_written: bool,
}

fn touched(p: &Program, step: &Step) -> Result<Vec<Touched>> {
    let args: Vec<(usize, bool)> = match step {
        Step::Launch { kernel, args, .. } => {
            let params = &p.kernels[*kernel].params;
            ensure!(params.len() == args.len(), "{} buffers for {} parameters", args.len(), params.len());
            args.iter().zip(params).map(|(&b, param)| (b, param.writable)).collect()
        }
        Step::Host { inputs, outputs, .. } => {
            inputs.iter().map(|&b| (b, false)).chain(outputs.iter().map(|&b| (b, true))).collect()
        }
        Step::Copy { src, dst } => vec![(*src, false), (*dst, true)],
    };
    let in_arena = args.into_iter().filter_map(|(b, is_written)| {
        let buffer = root(p, b);
        let Place::Arena(from) = &p.buffers[buffer].place else { return None };
        let to = from.clone() + size(&p.buffers[buffer].ty);
        Some(Touched { held: Held { buffer, from: from.clone(), to }, is_written })
    });
    Ok(in_arena.collect())
}

fn are_apart(a: &Held, b: &Held) -> bool {
    is_not_negative(b.from.clone() - a.to.clone()) || is_not_negative(a.from.clone() - b.to.clone())
}

/// Whether it shows in the coefficients: differences of offsets and sizes are sums of sizes.
fn is_not_negative(d: Dim) -> bool {
    d.constant() >= 0 && d.terms().all(|(c, _)| c >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::dtype::DType;
    use aic_ir::program::BufferDecl;

    const INPUT: usize = 0;
    const OUTPUT: usize = 1;

    /// Copies between an input, an output, and buffers in the arena (2 onwards) at the offsets given.
    fn copies(steps: &[(usize, usize)], offsets: &[i64]) -> Program {
        let arena = offsets.iter().map(|&at| Place::Arena(at.into()));
        let places = [Place::Input(0), Place::Output(0)].into_iter().chain(arena);
        let ty = Type::new(DType::F32, vec![8.into()]);
        Program {
            buffers: places.map(|place| BufferDecl { ty: ty.clone(), place }).collect(),
            steps: steps.iter().map(|&(src, dst)| Step::Copy { src, dst }).collect(),
            arena_bytes: 128.into(),
            ..Program::default()
        }
    }

    #[test]
    fn check_refuses_what_is_overwritten() {
        let both_live = [(INPUT, 2), (INPUT, 3), (2, OUTPUT), (3, OUTPUT)];
        let one_after_another = [(INPUT, 2), (2, OUTPUT), (INPUT, 3), (3, OUTPUT)];
        let one_into_another = [(INPUT, 2), (2, 3), (3, OUTPUT)];
        let refused = |steps: &[_], offsets| check(&copies(steps, offsets)).is_err();
        assert!(refused(&both_live, &[0, 0]) && !refused(&both_live, &[0, 64]));
        assert!(!refused(&one_after_another, &[0, 0]));
        assert!(refused(&one_into_another, &[0, 0]) && !refused(&one_into_another, &[64, 0]));
        assert!(refused(&one_into_another, &[0, 128]), "beyond the arena's end");
    }

    #[test]
    fn symbolic_sizes_share_memory_too() {
        let mut program = copies(&[(INPUT, 2), (2, 3), (3, 4), (4, OUTPUT)], &[0, 0, 0]);
        for (k, n) in [(2, 16), (3, 48), (4, 32)] {
            program.buffers[k].ty.dims = vec![Dim::named("n") * n.into()];
        }
        plan(&mut program);
        check(&program).unwrap();
        assert_eq!(program.arena_bytes, Dim::named("n") * (80 * 4).into());
        assert_eq!(least_bytes(&program, &|d| d.eval(&|_| Some(1)).unwrap()), 80 * 4);
    }

    #[test]
    fn plans_share_memory_and_pass() {
        let mut program = copies(&[(INPUT, 2), (2, 3), (3, 4), (4, OUTPUT)], &[0, 0, 0]);
        plan(&mut program);
        check(&program).unwrap();
        assert_eq!(program.arena_bytes, 128.into());
        assert_eq!(least_bytes(&program, &|d| d.as_const().unwrap()), 128);
    }
}

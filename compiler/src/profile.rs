//! Where the time of a run goes, kernel by kernel, beside what the machine would allow.
//!
//! The bound of a launch is the roofline of the target's tables: its scalar operations at the peak of the vector units,
//! or the bytes of its arrays, each moved once, at the bandwidth of the nearest memory that holds them all; whichever
//! takes longer, and not less than what starting a kernel takes.

use aic_ir::dim::{Dim, Sym};
use aic_ir::program::{Place, Program, Step};
use aic_ir::target::Target;
use aic_passes::rewrite::cost;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The launches of one kernel, the interpretations of one operator, or the copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The kernel's name; for other steps what they do.
    pub name: String,
    /// Its schedule, if it has one.
    pub schedule: Option<String>,
    /// Steps that it stands for.
    pub launches: usize,
    /// Seconds that they take together.
    pub seconds: f64,
    /// Scalar operations, two for each multiplication with addition; 0 where that isn't counted.
    pub flops: f64,
    /// Bytes of the arrays that are read or written.
    pub bytes: f64,
    /// The least seconds that the target's tables allow, and which of them says so.
    pub bound: Option<(f64, String)>,
    /// Source nodes of the first step.
    pub origin: String,
}

/// A machine, and how much of it a session uses.
pub struct Machine<'a> {
    /// Its tables.
    pub target: &'a Target,
    /// Threads that work at a time.
    pub n_threads: u32,
}

/// A row for each kernel, those that take longest first. `times` are those of the program's steps.
pub fn rows(p: &Program, times: &[Duration], symbols: &HashMap<Sym, i64>, machine: &Machine) -> Vec<Row> {
    let value = |d: &Dim| d.eval(&|s| symbols.get(s).copied()).map_or(0.0, |n| n.max(0) as f64);
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (step, time) in p.steps.iter().zip(times) {
        let one = row(p, step, &value, machine);
        let all = rows.entry(one.name.clone()).or_insert_with(|| Row { bound: None, ..one.clone() });
        if let Some((seconds, by)) = one.bound {
            let bound = all.bound.get_or_insert((0.0, by));
            bound.0 += seconds;
        }
        if all.launches > 0 {
            all.flops += one.flops;
            all.bytes += one.bytes;
        }
        all.launches += 1;
        all.seconds += time.as_secs_f64();
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

/// What is known of one step before it is timed.
fn row(p: &Program, step: &Step, value: &dyn Fn(&Dim) -> f64, machine: &Machine) -> Row {
    let bytes = |buffers: &[usize]| {
        let roots: BTreeSet<usize> = buffers.iter().map(|b| root(p, *b)).collect();
        let of = |b: usize| value(&p.buffers[b].ty.numel()) * p.buffers[b].ty.dtype.size() as f64;
        roots.into_iter().map(of).sum()
    };
    match step {
        Step::Launch { kernel, args, work, origin, .. } => {
            let mut row = Row {
                name: p.kernels[*kernel].name.clone(),
                schedule: p.schedules.get(*kernel).and_then(Option::as_ref).map(ToString::to_string),
                flops: value(work),
                bytes: bytes(args),
                origin: origin.join(", "),
                ..Row::default()
            };
            row.bound = args.last().map(|b| bound(&row, p, *b, machine));
            row
        }
        Step::Host { node, inputs, outputs, .. } => {
            let node = p.graph.node(*node);
            let name = format!("{} (interpreted)", node.op.keyword());
            let bytes = bytes(&[&inputs[..], outputs].concat());
            Row { name, bytes, origin: node.origin.join(", "), ..Row::default() }
        }
        Step::Copy { src, dst } => Row { name: "copy".into(), bytes: bytes(&[*src, *dst]), ..Row::default() },
    }
}

/// The buffer whose memory `b` is.
fn root(p: &Program, mut b: usize) -> usize {
    while let Place::Alias(of) = p.buffers[b].place {
        b = of;
    }
    b
}

/// The least seconds of a launch whose result is `output`, and what bounds it.
fn bound(row: &Row, p: &Program, output: usize, machine: &Machine) -> (f64, String) {
    let threads = f64::from(machine.n_threads.max(1));
    let peak = cost::peak_of(machine.target, p.buffers[output].ty.dtype);
    let arithmetic = (row.flops / peak / threads, "arithmetic".to_owned());
    let memory = cost::level_of(row.bytes, machine.target)
        .map_or((0.0, String::new()), |level| (row.bytes / level.bandwidth / threads, level.name.clone()));
    let launch = (cost::LAUNCH, "launch".to_owned());
    [memory, launch].into_iter().fold(arithmetic, |a, b| if b.0 > a.0 { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::dtype::DType;
    use aic_ir::program::BufferDecl;
    use aic_ir::types::Type;

    #[test]
    fn equal_steps_are_one_row_and_the_slowest_come_first() {
        let ty = Type::new(DType::F32, vec![Dim::named("n")]);
        let buffer = |place| BufferDecl { ty: ty.clone(), place };
        let p = Program {
            buffers: vec![buffer(Place::Input(0)), buffer(Place::Alias(0)), buffer(Place::Output(0))],
            steps: vec![Step::Copy { src: 0, dst: 2 }, Step::Copy { src: 1, dst: 0 }],
            ..Program::default()
        };
        let times = [Duration::from_micros(2), Duration::from_micros(3)];
        let symbols = HashMap::from([(Sym::new("n"), 10)]);
        let rows = rows(&p, &times, &symbols, &Machine { target: &Target::x86_avx2(), n_threads: 1 });
        assert_eq!((rows.len(), rows[0].launches, &*rows[0].name), (1, 2, "copy"));
        assert!((rows[0].seconds - 5e-6).abs() < 1e-12);
        assert_eq!(rows[0].bytes, 80.0 + 40.0, "an alias is the same memory");
    }

    #[test]
    fn what_bounds_a_launch_is_named() {
        let output = BufferDecl { ty: Type::new(DType::F32, vec![4.into()]), place: Place::Output(0) };
        let p = Program { buffers: vec![output], ..Program::default() };
        let machine = Machine { target: &Target::x86_avx512(), n_threads: 2 };
        let by = |flops, bytes| bound(&Row { flops, bytes, ..Row::default() }, &p, 0, &machine).1;
        assert_eq!(
            [by(1e9, 1e6), by(1e6, 1e6), by(1e6, 1e9), by(1.0, 1.0)],
            ["arithmetic", "L2", "memory", "launch"]
        );
    }
}

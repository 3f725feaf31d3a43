//! `aic ops`: the tables of operators, made from the compiler's own.
//!
//! What a core operator can do is found by trying: random instances are lowered, and the element types that come up are
//! those of its definition.

use super::print;
use aic::import::onnx;
use aic_backends::BACKENDS;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::{Op, Rng, Sample};
use aic_ir::program::Step;
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_passes::lower;
use std::collections::{BTreeMap, BTreeSet};

const EXAMPLES: &str = "\
Examples:
  aic ops
  aic ops | grep -i pool
  aic ops --core

The first table has the operators of ONNX that can be imported, with the versions of the operator set (a model's \
opset_import) that they are known in. The second has the core operators that they are made of, the element types \
they take, and the backends that compute them.";

/// How many random instances an operator is tried on; an elementwise function has a type per function and more.
const N_TRIES: usize = 300;
const N_ELEMENTWISE_TRIES: usize = 10_000;

/// List the operators, with element types and backends
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only the operators of ONNX
    #[arg(long, conflicts_with = "core")]
    onnx: bool,
    /// Only the core operators
    #[arg(long)]
    core: bool,
}

/// Prints the tables.
///
/// # Errors
/// Standard output can't be written.
pub fn execute(args: &Args) -> Result<()> {
    let mut texts = Vec::new();
    if !args.core {
        texts.push(print::table(&onnx_rows()));
    }
    if !args.onnx {
        texts.push(print::table(&core_rows()?));
    }
    print::stdout(&texts.join("\n"))
}

fn cells(texts: [&str; 3]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

fn onnx_rows() -> Vec<Vec<String>> {
    let mut versions: BTreeMap<(&str, &str), Vec<(i64, i64)>> = BTreeMap::new();
    for op in onnx::operators() {
        versions.entry((op.domain, op.name)).or_default().push((op.since, op.until));
    }
    let mut rows = vec![cells(["ONNX operator", "versions", "domain"])];
    for ((domain, name), mut ranges) in versions {
        ranges.sort();
        let range = |&(since, until): &(i64, i64)| match until {
            i64::MAX => format!("{since}+"),
            _ if since == until => since.to_string(),
            _ => format!("{since}-{until}"),
        };
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        rows.push(cells([name, &joined(&ranges).iter().map(range).collect::<Vec<_>>().join(", "), domain]));
    }
    rows
}

/// Ranges with those that follow one another made one.
fn joined(sorted: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    for &(since, until) in sorted {
        match out.last_mut() {
            Some(last) if since <= last.1.saturating_add(1) => last.1 = last.1.max(until),
            _ => out.push((since, until)),
        }
    }
    out
}

/// What the instances of an operator have shown.
#[derive(Default)]
struct Seen {
    /// Element types of the first operand, or of the result.
    dtypes: BTreeSet<DType>,
    /// Whether an instance of that type has a kernel.
    compiled: BTreeMap<DType, bool>,
}

fn core_rows() -> Result<Vec<Vec<String>>> {
    let mut seen: BTreeMap<&'static str, Seen> = BTreeMap::new();
    for (keyword, sampler) in Op::SAMPLERS {
        let mut rng = Rng::new(1);
        let n = if *keyword == "elementwise" { N_ELEMENTWISE_TRIES } else { N_TRIES };
        for _ in 0..n {
            let sample = sampler(&mut rng);
            let seen = seen.entry(sample.op.keyword()).or_default();
            try_sample(&sample, seen)?;
        }
    }
    let compiled = BACKENDS.iter().map(|b| b.name).collect::<Vec<_>>().join(", ");
    let mut rows = vec![cells(["core operator", "element types", "backends"])];
    for (keyword, seen) in seen {
        let backends = match seen.compiled.values().filter(|compiled| **compiled).count() {
            0 => "reference".to_owned(),
            n if n == seen.compiled.len() => format!("reference, {compiled}"),
            _ => format!("reference, {compiled} in part"),
        };
        rows.push(cells([keyword, &dtype_names(&seen.dtypes), &backends]));
    }
    Ok(rows)
}

fn try_sample(sample: &Sample, seen: &mut Seen) -> Result<()> {
    let mut graph = Graph::new("sample");
    let operand = |o: &aic_ir::op::Operand| Type::of(o.dtype, &o.shape);
    let x: Vec<_> = sample.operands.iter().map(|o| graph.add_input("", operand(o))).collect();
    let y = graph.add(sample.op.clone(), &x, &[])?;
    let dtype_of = |values: &[ValueId]| values.first().map(|v| graph.ty(*v).dtype);
    // The first operand's type tells, unless that is a condition.
    let dtype = match (dtype_of(&x), dtype_of(&y)) {
        (Some(DType::Bool) | None, Some(result)) => result,
        (Some(operand), _) => operand,
        (None, None) => return Ok(()),
    };
    if !seen.dtypes.insert(dtype) {
        return Ok(());
    }
    y.iter().for_each(|v| graph.add_output("", *v));
    let program = lower::lower(graph, &Target::x86_avx2())?;
    let interpreted = program.steps.iter().any(|step| matches!(step, Step::Host { .. }));
    seen.compiled.insert(dtype, !interpreted);
    Ok(())
}

/// Element types in short: groups of which all are there by their name.
fn dtype_names(dtypes: &BTreeSet<DType>) -> String {
    let mut left = dtypes.clone();
    let mut names = Vec::new();
    let mut shorten = |name: &'static str, belongs: fn(DType) -> bool| {
        let group = || DType::ALL.iter().copied().filter(|d| belongs(*d));
        if group().all(|d| left.contains(&d)) {
            left.retain(|d| !belongs(*d));
            names.push(name);
        }
    };
    shorten("floats", DType::is_float);
    shorten("signed", DType::is_signed);
    shorten("unsigned", DType::is_unsigned);
    names.extend(left.iter().map(|d| d.keyword()));
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_a_row_are_one_range() {
        assert_eq!(joined(&[(1, 6), (7, 12), (14, i64::MAX)]), [(1, 12), (14, i64::MAX)]);
    }

    #[test]
    fn whole_groups_of_types_have_a_name() {
        let of = |dtypes: &[DType]| dtype_names(&dtypes.iter().copied().collect());
        assert_eq!(of(&[DType::F16, DType::BF16, DType::F32, DType::F64, DType::Bool]), "floats bool");
        assert_eq!(of(&[DType::I64, DType::I32]), "i32 i64");
    }

    #[test]
    fn every_core_operator_is_listed() {
        let rows = core_rows().unwrap();
        let keywords: Vec<&str> = rows.iter().map(|r| r[0].as_str()).collect();
        for (keyword, _) in Op::SAMPLERS.iter().filter(|(k, _)| *k != "elementwise") {
            assert!(keywords.contains(keyword), "{keyword}");
        }
        for f in ["add", "sqrt", "select", "erf"] {
            assert!(keywords.contains(&f), "{f}");
        }
    }
}

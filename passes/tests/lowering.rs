//! Random instances of every operator are lowered and interpreted; the kernels must mean what the operator means.

use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::graph::Graph;
use aic_ir::op::{Op, Operand, Rng, Sample};
use aic_ir::scalar::Scalar;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{error::Result, eval, verify};

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 600 } else { 40 }
}

/// A graph of the sample's operator. With `symbolic` every extent is a symbol, the same for equal extents, so that
/// the kernels know nothing but the rank.
fn one_node(s: &Sample, symbolic: bool) -> Result<Graph> {
    let ty = |o: &Operand| match symbolic {
        true => Type::new(o.dtype, o.shape.iter().map(|d| Dim::named(&format!("d{d}"))).collect()),
        false => Type::of(o.dtype, &o.shape),
    };
    let mut g = Graph::new("g");
    let x: Vec<_> =
        s.operands.iter().enumerate().map(|(k, o)| g.add_input(&format!("x{k}"), ty(o))).collect();
    let y = g.add(s.op.clone(), &x, &[])?;
    for (k, y) in y.iter().enumerate() {
        g.add_output(&format!("y{k}"), *y);
    }
    Ok(g)
}

/// How far float results may lie apart, relative to the largest operand and result: the sums of the largest samples
/// have about a thousand terms, each rounded once, and 16-bit results are rounded once more.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-10,
        DType::F32 => 2e-4,
        DType::F16 => 4e-3,
        _ => 2e-2,
    }
}

fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    if want.dtype() != got.dtype() || want.shape() != got.shape() {
        return Some(format!(
            "expected {}{:?}, found {}{:?}",
            want.dtype(),
            want.shape(),
            got.dtype(),
            got.shape()
        ));
    }
    let scale = want.to_f64().iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
    (0..want.len()).find_map(|i| {
        let (a, b) = (want.get(i), got.get(i));
        let same = match (a, b) {
            (Scalar::F(x), Scalar::F(y)) => {
                x == y
                    || (x.is_nan() && y.is_nan())
                    || (x - y).abs() <= bound(want.dtype()) * x.abs().max(1e-3 * scale)
            }
            _ => a == b,
        };
        (!same).then(|| format!("element {i}: expected {a}, found {b}"))
    })
}

fn check(symbolic: bool) {
    let mut failures = Vec::new();
    let mut lowered = 0;
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..samples(name) {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            for target in [Target::x86_avx512(), Target::x86_avx2()] {
                let case = || format!("{name} seed {seed} {:?} on {x:?}", s.op);
                let program = aic_passes::pipeline::compile(graph.clone(), &target);
                lowered += 1;
                for k in program.iter().flat_map(|p| &p.kernels) {
                    let found = verify::kernel(k);
                    if let Some(violation) = found.first() {
                        failures.push(format!("{name} seed {seed} {:?}: {violation}\n{k}", s.op));
                    }
                }
                match program.and_then(|p| eval::program(&p, &x)) {
                    Err(e) => failures.push(format!("{}: {e}", case())),
                    Ok(got) => failures.extend(
                        want.iter()
                            .zip(&got)
                            .filter_map(|(a, b)| difference(a, b))
                            .map(|d| format!("{}: {d}", case())),
                    ),
                }
            }
        }
    }
    for f in failures.iter().take(12) {
        eprintln!("{}", f.chars().take(1200).collect::<String>());
    }
    assert!(failures.is_empty(), "{} of {lowered} failed", failures.len());
    assert!(lowered > 2000, "only {lowered} samples could be lowered");
}

#[test]
fn kernels_mean_what_the_operators_mean() {
    check(false);
}

#[test]
fn kernels_of_symbolic_extents_mean_what_the_operators_mean() {
    check(true);
}

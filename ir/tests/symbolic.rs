//! Types and compute definitions of operators on operands of symbolic extents: under the values of the symbols they
//! must give what the operator gives on the concrete operands.

#![allow(clippy::unwrap_used)]

use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::eval;
use aic_ir::op::{Op, Rng};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;

/// Which extents of an operand (number, axis, rank) are symbols, by operator. Equal names are equal extents.
fn symbol(op: &str, operand: usize, axis: usize, rank: usize) -> Option<String> {
    let own = Some(format!("d{operand}_{axis}"));
    match op {
        "conv" => own.filter(|_| operand == 0 && axis != 1),
        "pool" | "pool_index" | "softmax" | "cumulative" => own,
        "grid_sample" if axis == 0 => Some("n".into()),
        "grid_sample" => own.filter(|_| operand == 0 || axis + 1 < rank),
        _ => None,
    }
}

#[test]
fn symbolic_extents() {
    let mut n_tested = 0;
    for (name, sampler) in Op::SAMPLERS {
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let sample = sampler(&mut rng);
            let inputs: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let mut symbols = HashMap::new();
            let mut dim = |operand, axis, t: &Tensor| match symbol(name, operand, axis, t.rank()) {
                Some(s) => {
                    symbols.insert(Sym::new(&s), t.shape()[axis] as i64);
                    Dim::named(&s)
                }
                None => t.shape()[axis].into(),
            };
            let types: Vec<Type> = (inputs.iter().enumerate())
                .map(|(k, t)| Type::new(t.dtype(), (0..t.rank()).map(|axis| dim(k, axis, t)).collect()))
                .collect();
            if !symbols.is_empty() {
                agrees(&sample.op, &types, &inputs, &symbols);
                n_tested += 1;
            }
        }
    }
    assert!(n_tested > 200, "{n_tested}");
}

fn agrees(op: &Op, types: &[Type], inputs: &[Tensor], symbols: &HashMap<Sym, i64>) {
    let y = op.infer(&types.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{op:?} {types:?}: {e}"));
    let expected = op.eval(inputs).unwrap();
    for (ty, t) in y.iter().zip(&expected) {
        let shape = ty.subst(&|s| symbols.get(s).map(|&v| v.into())).shape();
        assert_eq!(shape.as_deref(), Some(t.shape()), "{op:?} {types:?}");
    }
    let Some(c) = op.compute(types, &y) else { return };
    let found = eval::compute(&c, inputs, symbols).unwrap_or_else(|e| panic!("{op:?} {types:?}: {e}"));
    for (a, b) in expected.iter().zip(&found) {
        let tolerance = match a.dtype() {
            DType::F16 | DType::BF16 => 1e-2,
            DType::F32 => 1e-5,
            DType::F64 => 1e-13,
            _ => 0.0,
        };
        for (p, q) in a.to_f64().into_iter().zip(b.to_f64()) {
            let near = p == q || p.is_nan() && q.is_nan() || (p - q).abs() <= tolerance * p.abs().max(1.0);
            assert!(near, "{op:?} {types:?}: {p} {q}");
        }
    }
}

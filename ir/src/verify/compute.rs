//! Verifies compute definitions.

use crate::compute::{Compute, Expr, Source, Stage};
use crate::dtype::DType;
use crate::scalar::ScalarFn;
use std::collections::HashSet;

/// Checks a compute; gives a message for every violation of this contract:
///
/// - *Stages.* A stage loads operands and earlier stages only. Its axes have different variables. An index reduction
///   is over one axis. Outputs are stages.
/// - *Types.* Expressions are well typed and of their stage's type; index reductions give `i64`. Constants are values
///   of their types. A load has an `i64` index for each dimension. 16-bit floats are loaded, stored, selected and
///   cast, never computed with.
pub fn compute(c: &Compute) -> Vec<String> {
    let mut found = Vec::new();
    for (k, s) in c.stages.iter().enumerate() {
        let mut checker = Checker { c, k, found: &mut found };
        checker.stage(s);
    }
    for &k in c.outputs.iter().filter(|&&k| k >= c.stages.len()) {
        found.push(format!("output %s{k} is no stage"));
    }
    found
}

struct Checker<'a> {
    c: &'a Compute,
    k: usize,
    found: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn expect(&mut self, holds: bool, message: impl std::fmt::Display) {
        if !holds {
            self.found.push(format!("stage %s{}: {message}", self.k));
        }
    }

    fn stage(&mut self, s: &Stage) {
        let over = s.reduction.iter().flat_map(|r| &r.axes);
        let mut vars = HashSet::new();
        for a in s.axes.iter().chain(over) {
            self.expect(vars.insert(&a.var), format_args!("two axes have the variable {}", a.var));
        }
        let index_reduction = s.reduction.as_ref().filter(|r| r.op.combine().is_none());
        if let Some(r) = index_reduction {
            let message =
                format_args!("{} is over one axis, not {}", r.op.keyword(), r.axes.len()).to_string();
            self.expect(r.axes.len() == 1, message);
            self.expect(s.dtype == DType::I64, format_args!("{} gives i64, not {}", r.op.keyword(), s.dtype));
        }
        if let Some(found) = self.expr(&s.value) {
            let fits = index_reduction.is_some() || found == s.dtype;
            self.expect(fits, format_args!("it is {}, but its expression is {found}", s.dtype));
        }
        let combine = s.reduction.as_ref().and_then(|r| r.op.combine());
        if let Some(f) = combine {
            let fits = f.result(&[s.dtype, s.dtype]) == Some(s.dtype);
            self.expect(fits, format_args!("{} does not combine {}", f.keyword(), s.dtype));
        }
    }

    /// Checks an expression and everything below it; gives its type.
    fn expr(&mut self, e: &Expr) -> Option<DType> {
        match e {
            Expr::Const(dtype, x) => {
                self.expect(*x == x.cast(*dtype), format_args!("{x} is no value of type {dtype}"));
            }
            Expr::Index(_) => {}
            Expr::Load(source, index) => {
                let rank = match *source {
                    Source::Input(k) => self.c.inputs.get(k).map(|t| t.rank()),
                    Source::Stage(k) => self.c.stages[..self.k].get(k).map(|s| s.axes.len()),
                };
                let Some(rank) = rank else {
                    self.expect(false, format_args!("{source} is neither an operand nor an earlier stage"));
                    return None;
                };
                self.expect(rank == index.len(), format_args!("{e}: expected {rank} indices"));
                for i in index {
                    let found = self.expr(i);
                    self.expect(found.is_none_or(|t| t == DType::I64), format_args!("{e}: an index is i64"));
                }
            }
            Expr::Call(f, args) => {
                let types: Vec<Option<DType>> = args.iter().map(|a| self.expr(a)).collect();
                let types = types.into_iter().collect::<Option<Vec<_>>>()?;
                if f.result(&types).is_none() {
                    self.expect(false, format_args!("{e}: {} is not defined for {types:?}", f.keyword()));
                    return None;
                }
                let is_wide = *f == ScalarFn::Select || types.iter().all(|t| t.compute() == *t);
                self.expect(is_wide, format_args!("{e}: {} is not computed in {}", f.keyword(), types[0]));
            }
            Expr::Cast(_, e) => {
                self.expr(e)?;
            }
        }
        e.dtype(&self.c.inputs, &self.c.stages[..self.k])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::op::{Op, Rng};
    use crate::types::Type;

    #[test]
    fn samples_of_every_operator() {
        for (name, sampler) in Op::SAMPLERS {
            for seed in 0..40 {
                let sample = sampler(&mut Rng::new(seed));
                let x: Vec<Type> = sample.operands.iter().map(|o| Type::of(o.dtype, &o.shape)).collect();
                let Ok(y) = sample.op.infer(&x.iter().collect::<Vec<_>>()) else { continue };
                if let Some(c) = sample.op.compute(&x, &y) {
                    assert_eq!(compute(&c), Vec::<String>::new(), "{name}: {c}");
                }
            }
        }
    }

    #[test]
    fn every_violation_is_reported() {
        let x = Type::of(DType::F16, &[4]);
        let load = || Expr::input(0, vec![Dim::named("i0"), 0.into()]);
        let value = Expr::call(ScalarFn::Add, [load(), Expr::stage(0, vec![0.into()])]);
        let mut c = Compute::map(std::slice::from_ref(&x), &x, |_| value);
        assert_eq!(
            compute(&c),
            [
                "stage %s0: %0[i0, 0]: expected 1 indices",
                "stage %s0: %s0 is neither an operand nor an earlier stage"
            ]
        );
        c.stages[0].value =
            Expr::call(ScalarFn::Add, [Expr::float(DType::F16, 0.5), Expr::input(0, vec![0.into()])]);
        assert_eq!(compute(&c), ["stage %s0: add(f16(0.5), %0[0]): add is not computed in f16"]);
    }
}

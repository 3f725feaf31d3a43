//! Stages that only move elements, as the operations of `tensor` that other compilers see through: casts of extents,
//! reshapes, slices, transposes, concatenations.

use super::graph::{Emitter, Value};
use super::index::Affine;
use super::stage::Body;
use super::text::{element, tensor};
use aic_ir::compute::Expr;
use aic_ir::dim::Dim;
use aic_ir::kernel::VType;
use aic_ir::op::{flatten, unflatten};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::types::Type;

impl Emitter {
    /// The stage as a movement of elements; `None` if it is none that has an operation.
    pub fn movement(&mut self, b: &Body) -> Option<Value> {
        if b.stage.reduction.is_some() || b.stage.axes.iter().any(|a| a.extent.is(0)) {
            return None;
        }
        match &b.stage.value {
            Expr::Const(_, value) => Some(self.filled(&b.stage.ty(), *value)),
            Expr::Load(source, at) => {
                let from = b.source(*source).clone();
                from.scalar().is_none().then_some(())?;
                self.moved(b, &from, &plain(at)?)
            }
            Expr::Call(ScalarFn::Select, _) => {
                self.concatenated(b, &b.stage.value).or_else(|| self.surrounded(b))
            }
            _ => None,
        }
    }

    fn moved(&mut self, b: &Body, from: &Value, at: &[Dim]) -> Option<Value> {
        let (i, dims) = (b.stage.indices(), b.stage.ty().dims);
        if at == i && dims == from.ty.dims {
            return Some(from.clone());
        }
        if at == unflatten(&flatten(&i, &dims), &from.ty.dims) && from.ty.numel() == b.stage.ty().numel() {
            return Some(self.reshape(from, &dims));
        }
        self.transposed(b, from, at).or_else(|| {
            let (mut offsets, mut steps) = (Vec::new(), Vec::new());
            (at.len() == i.len()).then_some(())?;
            for (at, axis) in at.iter().zip(&b.stage.axes) {
                let (step, offset) = at.affine_in(&axis.var)?;
                let others = b.stage.axes.iter().any(|a| offset.mentions(&a.var));
                steps.push(step.as_const().filter(|s| *s > 0 && !others)?);
                offsets.push(offset);
            }
            Some(self.slice(from, &offsets, &dims, &steps))
        })
    }

    fn transposed(&mut self, b: &Body, from: &Value, at: &[Dim]) -> Option<Value> {
        let i = b.stage.indices();
        (at.len() == i.len()).then_some(())?;
        let perm: Vec<usize> = i.iter().map(|i| at.iter().position(|a| a == i)).collect::<Option<_>>()?;
        let ty = b.stage.ty();
        perm.iter().zip(&ty.dims).all(|(k, d)| from.ty.dims[*k] == *d).then_some(())?;
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        sorted.iter().copied().eq(0..perm.len()).then_some(())?;
        let init = self.empty(&ty);
        let (x, init) = (self.name(from), self.name(&init));
        let name = self.w.value(format!(
            "linalg.transpose ins({x} : {}) outs({init} : {}) permutation = {perm:?}",
            tensor(&from.ty),
            tensor(&ty)
        ));
        Some(Value::new(name, ty))
    }

    /// Operands one after the other along an axis.
    fn concatenated(&mut self, b: &Body, e: &Expr) -> Option<Value> {
        let mut parts = Vec::new();
        let axis = parts_of(b, e, &mut parts)?;
        let i = b.stage.indices();
        let mut begin = Dim::from(0);
        for (from, at) in &parts {
            let mut expected = i.clone();
            expected[axis] = i[axis].clone() - begin.clone();
            let mut dims = b.stage.ty().dims;
            dims[axis] = from.ty.dims.get(axis)?.clone();
            (*at == expected && from.ty.dims == dims).then_some(())?;
            begin = begin + dims[axis].clone();
        }
        let ty = b.stage.ty();
        (begin == ty.dims[axis]).then_some(())?;
        let names: Vec<String> = parts.iter().map(|(from, _)| self.name(from)).collect();
        let types: Vec<String> = parts.iter().map(|(from, _)| tensor(&from.ty)).collect();
        let name = self.w.value(format!(
            "tensor.concat dim({axis}) {} : ({}) -> {}",
            names.join(", "),
            types.join(", "),
            tensor(&ty)
        ));
        Some(Value::new(name, ty))
    }

    /// A tensor with elements of one value around it, and nothing else.
    fn surrounded(&mut self, b: &Body) -> Option<Value> {
        let mut views = Vec::new();
        self.views(b, &b.stage.value, false, &mut views);
        let [view] = &views[..] else { return None };
        let is_whole = view.map.iter().map(Affine::as_plain).eq((0..b.loops.len()).map(Some));
        (view.of == b.stage.value && is_whole && view.ty.dims == b.stage.ty().dims).then_some(())?;
        Some(Value::new(view.name.clone(), view.ty.clone()))
    }

    /// A tensor whose elements are undefined.
    pub fn empty(&mut self, ty: &Type) -> Value {
        let dynamic: Vec<Dim> = ty.dims.iter().filter(|d| d.as_const().is_none()).cloned().collect();
        let sizes = self.sizes(&dynamic);
        Value::new(self.w.value(format!("tensor.empty({sizes}) : {}", tensor(ty))), ty.clone())
    }

    /// A tensor of one value everywhere.
    pub fn filled(&mut self, ty: &Type, value: Scalar) -> Value {
        let value = self.w.scalar(VType::scalar(ty.dtype), value);
        let empty = self.empty(ty);
        let (t, empty) = (tensor(ty), self.name(&empty));
        let name = self
            .w
            .value(format!("linalg.fill ins({value} : {}) outs({empty} : {t}) -> {t}", element(ty.dtype)));
        Value::new(name, ty.clone())
    }

    /// The same tensor, of which more or less extents are known.
    pub fn cast(&mut self, x: &str, from: &Type, to: &Type) -> String {
        let (from, to) = (tensor(from), tensor(to));
        match from == to {
            true => x.to_owned(),
            false => self.w.value(format!("tensor.cast {x} : {from} to {to}")),
        }
    }

    /// The same elements in row-major order under other extents.
    pub fn reshape(&mut self, from: &Value, dims: &[Dim]) -> Value {
        if from.ty.dims == dims {
            return from.clone();
        }
        let groups = groups(&from.ty.dims, dims);
        let ty = Type::new(from.ty.dtype, dims.to_vec());
        let sizes = |of: &Type, part: fn(&Group) -> &Vec<usize>| {
            let size = |g| part(g).iter().map(|k| &of.dims[*k]).product();
            Type::new(of.dtype, groups.iter().map(size).collect())
        };
        let (collapsed, middle) = (sizes(&from.ty, |g| &g.0), sizes(&ty, |g| &g.1));
        let mut x = self.name(from);
        if collapsed.rank() != from.ty.rank() {
            let sources: Vec<&Vec<usize>> = groups.iter().map(|g| &g.0).collect();
            let (from, to) = (tensor(&from.ty), tensor(&collapsed));
            x = self.w.value(format!("tensor.collapse_shape {x} {sources:?} : {from} into {to}"));
        }
        x = self.cast(&x, &collapsed, &middle);
        if middle.rank() != ty.rank() {
            let results: Vec<&Vec<usize>> = groups.iter().map(|g| &g.1).collect();
            let sizes = self.sizes(dims);
            let (from, to) = (tensor(&middle), tensor(&ty));
            x = self.w.value(format!(
                "tensor.expand_shape {x} {results:?} output_shape [{sizes}] : {from} into {to}"
            ));
        }
        Value::new(x, ty)
    }
}

/// Plain index expressions.
fn plain(at: &[Expr]) -> Option<Vec<Dim>> {
    at.iter()
        .map(|e| match e {
            Expr::Index(d) => Some(d.clone()),
            _ => None,
        })
        .collect()
}

/// The operands that a tree of choices by an index takes its elements from, in order, and the axis of that index.
fn parts_of(b: &Body, e: &Expr, out: &mut Vec<(Value, Vec<Dim>)>) -> Option<usize> {
    let Expr::Call(ScalarFn::Select, x) = e else {
        let Expr::Load(source, at) = e else { return None };
        out.push((b.source(*source).clone(), plain(at)?));
        return Some(usize::MAX);
    };
    let Expr::Call(ScalarFn::Lt, cond) = &x[0] else { return None };
    let Expr::Index(i) = &cond[0] else { return None };
    let axis = b.stage.indices().iter().position(|a| a == i)?;
    for side in &x[1..] {
        let found = parts_of(b, side, out)?;
        (found == usize::MAX || found == axis).then_some(())?;
    }
    Some(axis)
}

/// Dimensions of one shape, and those of another that are of the same size together.
type Group = (Vec<usize>, Vec<usize>);

/// Dimensions of two shapes of equal size, in groups of equal size that are as small as can be; where none can be
/// found, everything is one group. Extents of 1 that are left over join the last group.
fn groups(from: &[Dim], to: &[Dim]) -> Vec<Group> {
    let all = || match from.is_empty() || to.is_empty() {
        true => Vec::new(),
        false => vec![((0..from.len()).collect(), (0..to.len()).collect())],
    };
    let (mut out, mut a, mut b): (Vec<Group>, usize, usize) = (Vec::new(), 0, 0);
    while a < from.len() && b < to.len() {
        let found = (2..=from.len() - a + to.len() - b).find_map(|n| {
            let first = n.saturating_sub(to.len() - b).max(1);
            (first..n.min(from.len() - a + 1)).find_map(|k| {
                let (end_a, end_b) = (a + k, b + n - k);
                let size = |d: &[Dim]| -> Dim { d.iter().product() };
                (size(&from[a..end_a]) == size(&to[b..end_b])).then_some((end_a, end_b))
            })
        });
        let Some((end_a, end_b)) = found else { return all() };
        out.push(((a..end_a).collect(), (b..end_b).collect()));
        (a, b) = (end_a, end_b);
    }
    let rest = from[a..].iter().chain(&to[b..]);
    if !rest.clone().all(|d| d.is(1)) {
        return all();
    }
    match out.last_mut() {
        Some((x, y)) => {
            x.extend(a..from.len());
            y.extend(b..to.len());
            out
        }
        None => all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &[Dim], to: &[Dim], expected: &[(&[usize], &[usize])]) {
        let found = groups(from, to);
        let found: Vec<(&[usize], &[usize])> = found.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(found, expected, "{from:?} {to:?}");
    }

    #[test]
    fn groups_are_small() {
        let d = |n: i64| Dim::from(n);
        let n = Dim::named("n");
        check(&[d(2), d(3), d(4)], &[d(6), d(4)], &[(&[0, 1], &[0]), (&[2], &[1])]);
        check(&[n.clone(), d(12)], &[n.clone(), d(3), d(4)], &[(&[0], &[0]), (&[1], &[1, 2])]);
        check(&[d(4), d(6)], &[d(3), d(8)], &[(&[0, 1], &[0, 1])]);
        check(&[d(4), d(1), d(1)], &[d(4)], &[(&[0, 1, 2], &[0])]);
        check(&[], &[d(1), d(1)], &[]);
        check(&[d(0), d(3)], &[d(0), d(5)], &[(&[0, 1], &[0, 1])]);
    }
}

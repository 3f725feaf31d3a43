//! Operands of linalg operations: what a stage loads, as a tensor and an index map.
//!
//! Where indices are sums of loops, a load becomes an operand. Guards become padding, offsets and steps become slices,
//! so that most maps are permutations of loops; sums of loops remain in windows.

use super::graph::{Emitter, Value};
use super::index::{Affine, Symbols};
use super::text::{Writer, tensor};
use aic_ir::bounds::Bounds;
use aic_ir::compute::{Axis, Expr, Stage};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::types::Type;
use std::collections::BTreeSet;

/// An operand.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The expression that it stands for.
    pub of: Expr,
    /// The tensor.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its index map: one sum per dimension.
    pub map: Vec<Affine>,
}

/// The loops of a linalg operation: a stage's output axes, then those that it reduces over.
pub(crate) struct Loops {
    axes: Vec<Axis>,
    bounds: Bounds,
    /// Whether dimensions indexed by `outer * n + inner`, with `n` the extent of `inner`, are better split in two.
    splits: bool,
}

/// An index as a sum: what no loop changes, and loops times positive numbers.
struct Sum {
    offset: Dim,
    terms: Vec<(i64, usize)>,
}

impl Loops {
    /// The loops of a stage.
    pub fn new(s: &Stage, splits: bool) -> Loops {
        let axes: Vec<Axis> = s.axes.iter().chain(s.over()).cloned().collect();
        let mut bounds = Bounds::new();
        for symbol in axes.iter().flat_map(|a| a.extent.symbols()) {
            bounds.symbol(&symbol, Range::DIM);
        }
        for a in &axes {
            bounds.loop_var(&a.var, &0.into(), &a.extent);
        }
        Loops { axes, bounds, splits }
    }

    /// As given to [`Loops::new`].
    pub fn splits(&self) -> bool {
        self.splits
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.axes.len()
    }

    /// The number of iterations of a loop.
    pub fn extent(&self, k: usize) -> &Dim {
        &self.axes[k].extent
    }

    /// Gives those loops' variables a meaning in the body that are used there.
    pub fn define(&self, w: &mut Writer, symbols: &mut Symbols, used: &BTreeSet<Sym>) {
        for (k, a) in self.axes.iter().enumerate().filter(|(_, a)| used.contains(&a.var)) {
            symbols.define(&a.var, w.value(format!("linalg.index {k} : index")));
        }
    }

    /// Whether an index is proved to lie within an extent.
    pub fn is_within(&self, at: &Expr, extent: &Dim) -> bool {
        let Expr::Index(at) = at else { return false };
        if let (Some(at), Some(extent)) = (at.as_const(), extent.as_const()) {
            return (0..extent).contains(&at);
        }
        let mut bounds = self.bounds.clone();
        for s in at.symbols().iter().chain(&extent.symbols()) {
            if !bounds.is_declared(s) {
                return false;
            }
        }
        bounds.assume(&0.into());
        bounds.is_within(at, extent)
    }

    fn sum(&self, d: &Dim) -> Option<Sum> {
        let (mut offset, mut terms) = (d.clone(), Vec::new());
        for (k, a) in self.axes.iter().enumerate() {
            let (coeff, rest) = offset.affine_in(&a.var)?;
            match coeff.as_const()? {
                0 => {}
                c if c > 0 => terms.push((c, k)),
                _ => return None,
            }
            offset = rest;
        }
        Some(Sum { offset, terms })
    }

    /// Outer and inner loop of a dimension of this extent, if it can be split.
    fn halves(&self, s: &Sum, extent: &Dim) -> Option<[usize; 2]> {
        let mut terms = s.terms.clone();
        terms.sort_unstable();
        let [(1, inner), (n, outer)] = terms[..] else { return None };
        let fits = *self.extent(inner) == n.into() && *extent == self.extent(outer).clone() * n.into();
        (self.splits && s.offset.is(0) && fits).then_some([outer, inner])
    }

    /// The largest value of a sum.
    fn last(&self, s: &Sum) -> Dim {
        let end = |(c, k): &(i64, usize)| (self.extent(*k).clone() - 1.into()) * (*c).into();
        s.terms.iter().map(end).fold(s.offset.clone(), |sum, end| sum + end)
    }
}

impl Emitter {
    /// An element that is loaded wherever the stage is evaluated; `None` if its indices aren't sums of loops.
    pub fn view(&mut self, loops: &Loops, of: &Expr, from: &Value, at: &[Expr]) -> Option<View> {
        let sums = sums(loops, at)?;
        Some(self.sliced(loops, of, from.clone(), sums))
    }

    /// `select(inside, load, other)`, where `inside` are guards of the load's own indices, as an operand that is padded
    /// with `other`.
    pub fn padded(
        &mut self,
        loops: &Loops,
        of: &Expr,
        from: &Value,
        at: &[Expr],
        guard: &Expr,
        other: &str,
    ) -> Option<View> {
        let mut sums = sums(loops, at)?;
        let dims = from.ty.dims.clone();
        is_guard(guard, at, &dims).then_some(())?;
        let zero = Dim::from(0);
        let low: Vec<Dim> = sums.iter().map(|s| (-s.offset.clone()).maximum(&zero)).collect();
        let over = |(s, d): (&Sum, &Dim)| (loops.last(s) + 1.into() - d.clone()).maximum(&zero);
        let high: Vec<Dim> = sums.iter().zip(&dims).map(over).collect();
        sums.iter_mut().zip(&low).for_each(|(s, low)| s.offset = s.offset.clone() + low.clone());
        let padded = self.pad(from, &low, &high, other);
        Some(self.sliced(loops, of, padded, sums))
    }

    /// A tensor with elements of one value around it.
    pub fn pad(&mut self, from: &Value, low: &[Dim], high: &[Dim], value: &str) -> Value {
        if low.iter().chain(high).all(|d| d.is(0)) {
            return from.clone();
        }
        let dims = from.ty.dims.iter().zip(low).zip(high);
        let dims = dims.map(|((d, low), high)| d.clone() + low.clone() + high.clone()).collect();
        let ty = Type::new(from.ty.dtype, dims);
        let x = self.name(from);
        let (low, high) = (self.sizes(low), self.sizes(high));
        let [name, args @ ..] =
            &vec![(); ty.rank() + 1].iter().map(|()| self.w.fresh()).collect::<Vec<_>>()[..]
        else {
            return from.clone();
        };
        self.w.open(&format!("{name} = tensor.pad {x} low[{low}] high[{high}] {{"));
        let args: Vec<(String, String)> = args.iter().map(|a| (a.clone(), "index".into())).collect();
        self.w.block(&args);
        self.w.line(&format!("tensor.yield {value} : {}", super::text::element(ty.dtype)));
        self.w.close(&format!("}} : {} to {}", tensor(&from.ty), tensor(&ty)));
        Value::new(name.clone(), ty)
    }

    /// The operand for an element at these sums, sliced so that single loops stand alone.
    fn sliced(&mut self, loops: &Loops, of: &Expr, from: Value, sums: Vec<Sum>) -> View {
        let (from, sums) = self.split(loops, from, sums);
        let (mut offsets, mut sizes, mut steps, mut map) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (s, d) in sums.into_iter().zip(&from.ty.dims) {
            let (offset, size, step) = match &s.terms[..] {
                [] if d.is(1) => (0.into(), d.clone(), 1),
                [] if d.as_const().is_some() && s.offset.as_const().is_some() => {
                    map.push(Affine { terms: Vec::new(), constant: s.offset.constant() });
                    (0.into(), d.clone(), 1)
                }
                [] => (s.offset, 1.into(), 1),
                [(step, k)] => (s.offset, loops.extent(*k).clone(), *step),
                _ => (s.offset.clone(), d.clone() - s.offset, 1),
            };
            if map.len() == offsets.len() {
                let one = s.terms.len() == 1;
                let terms = s.terms.iter().map(|(c, k)| (if one { 1 } else { *c }, *k)).collect();
                map.push(Affine { terms, constant: 0 });
            }
            offsets.push(offset);
            sizes.push(size);
            steps.push(step);
        }
        let x = self.slice(&from, &offsets, &sizes, &steps);
        View { of: of.clone(), name: self.name(&x), ty: x.ty, map }
    }

    /// Splits dimensions in two that are indexed by an outer and an inner loop.
    fn split(&mut self, loops: &Loops, from: Value, sums: Vec<Sum>) -> (Value, Vec<Sum>) {
        let (mut dims, mut split) = (Vec::new(), Vec::new());
        for (s, d) in sums.into_iter().zip(&from.ty.dims) {
            match loops.halves(&s, d) {
                Some([outer, inner]) => {
                    for k in [outer, inner] {
                        dims.push(loops.extent(k).clone());
                        split.push(Sum { offset: 0.into(), terms: vec![(1, k)] });
                    }
                }
                None => {
                    dims.push(d.clone());
                    split.push(s);
                }
            }
        }
        (self.reshape(&from, &dims), split)
    }

    /// Every `steps`-th element from `offsets` on, `sizes` of them.
    pub fn slice(&mut self, from: &Value, offsets: &[Dim], sizes: &[Dim], steps: &[i64]) -> Value {
        if offsets.iter().all(|o| o.is(0)) && sizes == from.ty.dims && steps.iter().all(|s| *s == 1) {
            return from.clone();
        }
        let ty = Type::new(from.ty.dtype, sizes.to_vec());
        let x = self.name(from);
        let (offsets, sizes) = (self.sizes(offsets), self.sizes(sizes));
        let steps: Vec<String> = steps.iter().map(i64::to_string).collect();
        let name = self.w.value(format!(
            "tensor.extract_slice {x}[{offsets}] [{sizes}] [{}] : {} to {}",
            steps.join(", "),
            tensor(&from.ty),
            tensor(&ty)
        ));
        Value::new(name, ty)
    }

    /// Expressions between commas: numbers where they are known, else values.
    pub fn sizes(&mut self, dims: &[Dim]) -> String {
        let one = |d: &Dim| match d.as_const() {
            Some(n) => n.to_string(),
            None => self.symbols.index(&mut self.w, d),
        };
        dims.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn sums(loops: &Loops, at: &[Expr]) -> Option<Vec<Sum>> {
    at.iter()
        .map(|e| match e {
            Expr::Index(d) => loops.sum(d),
            _ => None,
        })
        .collect()
}

/// Whether a condition says of some of the indices `at`, and nothing else, that they lie within their extents.
fn is_guard(cond: &Expr, at: &[Expr], dims: &[Dim]) -> bool {
    match cond {
        Expr::Const(_, value) => *value == Scalar::B(true),
        Expr::Call(ScalarFn::And, args) => args.iter().all(|c| is_guard(c, at, dims)),
        Expr::Call(f, args) => {
            let [index, Expr::Index(limit)] = &args[..] else { return false };
            at.iter().zip(dims).any(|(a, d)| {
                a == index
                    && match f {
                        ScalarFn::Ge => limit.is(0),
                        ScalarFn::Lt => limit == d,
                        _ => false,
                    }
            })
        }
        _ => false,
    }
}

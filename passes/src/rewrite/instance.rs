//! Random instances of rules, for the rule checker: types and attributes first, then elements.

use super::facts::{Facts, with_dims};
use super::lang::Attribute;
use super::plan::{self, Plan};
use super::rule::{Binding, Condition, Domain, ElementType, Example, Rule};
use super::term::Term;
use crate::runner::Numerics;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::op::{AttrValue, Op, Rng};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use egg::Var;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Types for the names of element types in an example.
pub type ElementTypes = BTreeMap<String, DType>;

/// An instance of a rule: both sides with the facts of every part.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The left side.
    pub left: Plan,
    /// The right side.
    pub right: Plan,
    variables: Vec<Variable>,
}

/// A variable of an instance.
#[derive(Clone, Debug)]
struct Variable {
    var: Var,
    domain: Domain,
    facts: Facts,
    /// The elements, if it is a constant.
    value: Option<Tensor>,
}

impl Instance {
    /// Elements of the operands.
    pub fn values(&self, rule: &Rule, rng: &mut Rng) -> BTreeMap<Var, Tensor> {
        let mode = Mode::draw(rule.class, rng);
        let operand = |v: &Variable| {
            let value = match &v.value {
                Some(t) => Some(t.clone()),
                None => v.facts.ty().and_then(|ty| elements(ty, v.domain, mode, rng)),
            };
            value.map(|t| (v.var, t))
        };
        self.variables.iter().filter_map(operand).collect()
    }

    /// The instance for these values of its symbols.
    pub fn at(&self, extents: &BTreeMap<Sym, i64>) -> Instance {
        let value = |s: &Sym| extents.get(s).map(|&n| n.into());
        let variable = |v: &Variable| Variable { facts: v.facts.subst(&value), ..v.clone() };
        Instance {
            left: self.left.subst(&value),
            right: self.right.subst(&value),
            variables: self.variables.iter().map(variable).collect(),
        }
    }

    /// Values for the symbols in the extents of operands and in attributes; none for an instance of known extents.
    pub fn extents(&self, rng: &mut Rng) -> BTreeMap<Sym, i64> {
        let symbols = RefCell::new(BTreeSet::new());
        for v in &self.variables {
            v.facts.subst(&|s| {
                symbols.borrow_mut().insert(s.clone());
                None
            });
        }
        symbols.into_inner().into_iter().map(|s| (s, draw::extent(rng))).collect()
    }

    /// The value of a variable that is a constant.
    pub fn constant(&self, var: Var) -> Option<&Tensor> {
        self.variables.iter().find(|v| v.var == var)?.value.as_ref()
    }

    /// Whether guards hold.
    pub fn holds(&self, guards: &[Condition]) -> bool {
        let facts = |v: Var| self.variables.iter().find(|x| x.var == v).map(|x| x.facts.clone());
        plan::guards_hold(guards, &facts, Numerics::Fast)
    }

    /// What the variables are, for a message.
    pub fn describe(&self, values: &BTreeMap<Var, Tensor>) -> Vec<(Var, String)> {
        let text = |v: &Variable| match (values.get(&v.var), v.facts.as_attr()) {
            (Some(t), _) => format!("{t:?}"),
            (None, Some(a)) => a.to_string(),
            _ => "nothing".into(),
        };
        self.variables.iter().map(|v| (v.var, text(v))).collect()
    }
}

/// Drawing instances.
pub mod draw {
    use super::*;

    /// How often an instance is drawn before an example counts as having none.
    const TRIES: usize = 40;

    /// The element types with which an example has instances.
    pub fn element_types(rule: &Rule, example: &Example, rng: &mut Rng) -> Vec<ElementTypes> {
        let fits =
            |types: &ElementTypes| instance(rule, example, types, Extents::Known, &mut rng.clone()).is_some();
        let found: Vec<ElementTypes> = assignments(example).into_iter().filter(fits).collect();
        rng.next_u64();
        found
    }

    /// What the extents of an instance are.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Extents {
        /// Numbers.
        Known,
        /// The example's names, but for those in the extents of constants.
        Symbolic,
    }

    /// An instance, if one is found.
    pub fn instance(
        rule: &Rule,
        example: &Example,
        types: &ElementTypes,
        extents: Extents,
        rng: &mut Rng,
    ) -> Option<Instance> {
        (0..TRIES).find_map(|_| {
            let variables = variables(rule, example, types, extents, rng)?;
            let (left, right) = sides(rule, &variables)?;
            let right = right.filter(|r| has_type_of(r, &left))?;
            Some(Instance { left, right, variables })
        })
    }

    /// An instance whose sides differ in type, so that the rule doesn't apply to it.
    pub fn mistyped(rule: &Rule, example: &Example, rng: &mut Rng) -> Option<Instance> {
        assignments(example).iter().find_map(|types| {
            let variables = variables(rule, example, types, Extents::Known, rng)?;
            let (left, right) = sides(rule, &variables)?;
            let right = right.filter(|r| !has_type_of(r, &left))?;
            Some(Instance { left, right, variables })
        })
    }

    /// Whether no instance of an example is one of the rule, though some are of its left side.
    pub fn refused(rule: &Rule, example: &Example, rng: &mut Rng) -> bool {
        let mut seen = false;
        for types in assignments(example) {
            for _ in 0..TRIES {
                let Some(variables) = variables(rule, example, &types, Extents::Known, rng) else { continue };
                match sides(rule, &variables) {
                    Some((left, Some(right))) if has_type_of(&right, &left) => return false,
                    Some(_) => seen = true,
                    None => {}
                }
            }
        }
        seen
    }

    /// The left side, and the right side if the guards hold.
    fn sides(rule: &Rule, variables: &[Variable]) -> Option<(Plan, Option<Plan>)> {
        let facts = |v: Var| variables.iter().find(|x| x.var == v).map(|x| x.facts.clone());
        let numerics = Numerics::Fast;
        let left = Plan::of(&rule.lhs, &facts, numerics)?;
        if !plan::guards_hold(&rule.guards, &facts, numerics) {
            return Some((left, None));
        }
        let right = Plan::of(&rule.rhs, &facts, numerics);
        Some((left, right))
    }

    fn has_type_of(right: &Plan, left: &Plan) -> bool {
        let ty = |p: &Plan| p.root().and_then(Facts::ty).cloned();
        ty(left).is_some() && ty(left) == ty(right)
    }

    /// A small extent.
    pub fn extent(rng: &mut Rng) -> i64 {
        rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    }

    /// The names in the extents of constants.
    fn in_constants(example: &Example) -> BTreeSet<Sym> {
        let extents = example.variables.iter().filter_map(|(_, binding)| match binding {
            Binding::Tensor { dims, is_const: true, .. } => Some(dims),
            _ => None,
        });
        extents.flatten().flat_map(Dim::symbols).collect()
    }

    fn assignments(example: &Example) -> Vec<ElementTypes> {
        let mut lists = vec![ElementTypes::new()];
        for (_, binding) in &example.variables {
            let Binding::Tensor { dtype: ElementType::Any(name), .. } = binding else { continue };
            if lists[0].contains_key(name) {
                continue;
            }
            let with = |list: &ElementTypes, t: DType| {
                let mut list = list.clone();
                list.insert(name.clone(), t);
                list
            };
            let types = || DType::ALL.iter().copied().filter(|t| *t != DType::String);
            lists = lists.iter().flat_map(|list| types().map(move |t| with(list, t))).collect();
        }
        lists
    }

    fn variables(
        rule: &Rule,
        example: &Example,
        types: &ElementTypes,
        extents: Extents,
        rng: &mut Rng,
    ) -> Option<Vec<Variable>> {
        let constants = in_constants(example);
        let mut drawn: BTreeMap<Sym, i64> = BTreeMap::new();
        let mut known = |d: &Dim, rng: &mut Rng| {
            for s in d.symbols().into_iter().filter(|s| extents == Extents::Known || constants.contains(s)) {
                drawn.entry(s).or_insert_with(|| extent(rng));
            }
            d.subst(&|s| drawn.get(s).map(|&n| n.into()))
        };
        let mut found = Vec::new();
        for (var, binding) in &example.variables {
            found.push(match binding {
                Binding::Attr(value) => {
                    let value = with_dims(&attribute(rule, *var, value)?, &mut |d| known(d, rng));
                    let facts = Facts::attr(Attribute::new(value));
                    Variable { var: *var, domain: Domain::Any, facts, value: None }
                }
                Binding::Tensor { dtype, dims, is_const, fill, domain } => {
                    let dtype = match dtype {
                        ElementType::Known(t) => *t,
                        ElementType::Any(name) => types.get(name).copied()?,
                    };
                    let ty = Type::new(dtype, dims.iter().map(|d| known(d, rng)).collect());
                    let value = constant(&ty, *is_const, *fill, *domain, rule.class, rng)?;
                    let facts = match &value {
                        Some(t) => Facts::constant(t),
                        None => Facts { is_nonneg: *domain == Domain::Nonneg, ..Facts::tensor(ty) },
                    };
                    Variable { var: *var, domain: *domain, facts, value }
                }
            });
        }
        Some(found)
    }

    fn constant(
        ty: &Type,
        is_const: bool,
        fill: Option<f64>,
        domain: Domain,
        class: Numerics,
        rng: &mut Rng,
    ) -> Option<Option<Tensor>> {
        if !is_const {
            return Some(None);
        }
        let value = match fill {
            Some(x) => Tensor::full(ty.dtype, ty.shape()?, Scalar::F(x)).ok()?,
            None if class == Numerics::Exact => elements(ty, domain, Mode::Special, rng)?,
            None => elements(ty, domain, Mode::Moderate, rng)?,
        };
        Some(Some(value))
    }

    /// An attribute as the operator on the left side has it whose attribute the variable is.
    fn attribute(rule: &Rule, var: Var, value: &AttrValue) -> Option<AttrValue> {
        let mut found = None;
        rule.lhs.visit(&mut |t| {
            let Term::Op(keyword, items) = t else { return };
            let Some(signature) = Op::signature(keyword.0) else { return };
            let attrs = &items[items.len() - signature.attrs.len()..];
            if let Some(k) = attrs.iter().position(|a| *a == Term::Var(var)) {
                found = found.take().or(Some(signature.attr_value(signature.attrs[k], value)));
            }
        });
        found.flatten()
    }
}

/// Which elements a case has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Of moderate size.
    Moderate,
    /// Of any exponent.
    Wide,
    /// Of moderate size, with NaN, infinities and zeros among them.
    NotFinite,
    /// Any of the special values too.
    Special,
}

impl Mode {
    fn draw(class: Numerics, rng: &mut Rng) -> Mode {
        match (class, rng.below(4)) {
            (Numerics::Exact, 0) => Mode::Moderate,
            (Numerics::Exact, 1) => Mode::Wide,
            (Numerics::Exact, _) => Mode::Special,
            (_, 0 | 1) => Mode::Moderate,
            (_, 2) => Mode::Wide,
            _ => Mode::NotFinite,
        }
    }
}

fn elements(ty: &Type, domain: Domain, mode: Mode, rng: &mut Rng) -> Option<Tensor> {
    let shape = ty.shape()?;
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let rows = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    let mut element = |p: usize| match domain {
        Domain::Mask if p.is_multiple_of(columns) => Scalar::F(0.0),
        Domain::Mask => Scalar::F(rng.pick(&[0.0, -1.5, f64::NEG_INFINITY])),
        Domain::Causal => match (p % columns + rows > p / columns % rows + columns, ty.dtype) {
            (hidden, DType::Bool) => Scalar::B(!hidden),
            (true, _) => Scalar::F(f64::NEG_INFINITY),
            (false, _) => Scalar::F(0.0),
        },
        Domain::Positive => Scalar::F(rng.unit() * 10.0 + 0.1),
        Domain::Small => Scalar::F((rng.unit() - 0.5) * 4.0),
        _ => confined(ty.dtype, domain, mode, rng),
    };
    Tensor::generate(ty.dtype, shape, |p| element(p).cast(ty.dtype)).ok()
}

fn confined(dtype: DType, domain: Domain, mode: Mode, rng: &mut Rng) -> Scalar {
    let x = scalar(dtype, mode, rng).cast(dtype);
    match (domain, x) {
        (_, Scalar::F(x)) if x.is_infinite() && (domain == Domain::Finite || mode == Mode::Wide) => {
            Scalar::F(1.0)
        }
        (Domain::Nonneg, Scalar::F(x)) if x < 0.0 => Scalar::F(-x),
        (Domain::Nonneg, Scalar::I(x)) => Scalar::I(x.max(0)),
        _ => x,
    }
}

fn scalar(dtype: DType, mode: Mode, rng: &mut Rng) -> Scalar {
    if dtype == DType::Bool {
        return Scalar::B(rng.one_in(2));
    }
    if !dtype.is_float() {
        return integer(dtype, mode, rng);
    }
    let moderate = |rng: &mut Rng| (rng.unit() - 0.5) * rng.pick(&[1.0, 4.0, 20.0]);
    Scalar::F(match mode {
        Mode::Moderate => moderate(rng),
        Mode::Wide => moderate(rng) * 2f64.powi(rng.range(-40, 41) as i32),
        Mode::NotFinite if rng.one_in(4) => {
            rng.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0])
        }
        Mode::Special if rng.one_in(2) => special(dtype, rng),
        _ => moderate(rng),
    })
}

fn special(dtype: DType, rng: &mut Rng) -> f64 {
    let (least, most) = match dtype {
        DType::F64 => (5e-324, f64::MAX),
        DType::F32 => (1e-45, f64::from(f32::MAX)),
        DType::F16 => (6e-8, 65504.0),
        _ => (1e-40, 3.38e38),
    };
    let signless =
        [f64::NAN, f64::INFINITY, 0.0, 0.0, 1.0, 0.5, 1.5, 2.5, 3.0, least, 3.0 * least, most, 1e30, 255.0];
    let sign = if rng.one_in(2) { -1.0 } else { 1.0 };
    sign * rng.pick(&signless)
}

fn integer(dtype: DType, mode: Mode, rng: &mut Rng) -> Scalar {
    let extremes = [Scalar::lowest(dtype), Scalar::highest(dtype), Scalar::I(-1), Scalar::I(1), Scalar::I(0)];
    match mode {
        Mode::Special | Mode::NotFinite if rng.one_in(2) => rng.pick(&extremes).cast(dtype),
        Mode::Wide => Scalar::U(rng.next_u64()).cast(dtype),
        _ => Scalar::I(rng.range(if dtype.is_unsigned() { 0 } else { -20 }, 21)).cast(dtype),
    }
}

//! Instances of terms: what a term becomes when its variables are known, with the facts of every part, before
//! anything is added to an e-graph.

use super::facts::{self, Facts};
use super::lang::{Attribute, Constant, EGraph, ENode, Keyword};
use super::term::Term;
use crate::runner::Numerics;
use aic_ir::dim::{Dim, Sym};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use egg::{ENodeOrVar, Id, PatternAst, Subst, Var};

/// An instance of a term: steps in which operands come first; the last one is the term.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What is known of the result of each.
    pub facts: Vec<Facts>,
}

/// A part of a term; numbers are those of earlier steps.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// What a variable stands for.
    Var(Var),
    /// An attribute.
    Attr(Attribute),
    /// A small constant.
    Const(Tensor),
    /// An operator applied to operands, then attributes.
    Op(Keyword, Vec<usize>),
    /// One result of an operator that has several.
    Result(u32, usize),
}

impl Plan {
    /// The instance of a term; `None` where a function isn't defined or operands don't fit an operator.
    pub fn of(term: &Term, variable: &dyn Fn(Var) -> Option<Facts>, numerics: Numerics) -> Option<Plan> {
        let mut plan = Plan::default();
        plan.add(term, &Environment { variable, numerics })?;
        Some(plan)
    }

    /// The instance with symbols replaced.
    pub fn subst(&self, value: &dyn Fn(&Sym) -> Option<Dim>) -> Plan {
        let facts: Vec<Facts> = self.facts.iter().map(|f| f.subst(value)).collect();
        let step = |(step, facts): (&Step, &Facts)| match (step, &facts.kind) {
            (Step::Attr(_), facts::Kind::Attr(a)) => Step::Attr(a.clone()),
            _ => step.clone(),
        };
        Plan { steps: self.steps.iter().zip(&facts).map(step).collect(), facts }
    }

    /// What is known of the whole.
    pub fn root(&self) -> Option<&Facts> {
        self.facts.last()
    }

    fn push(&mut self, step: Step, facts: Facts) -> usize {
        self.steps.push(step);
        self.facts.push(facts);
        self.steps.len() - 1
    }

    fn push_facts(&mut self, facts: Facts) -> Option<usize> {
        let step = match (facts.as_attr(), &facts.value) {
            (Some(a), _) => Step::Attr(Attribute::new(a.clone())),
            (None, Some(value)) => Step::Const(value.clone()),
            _ => return None,
        };
        Some(self.push(step, facts))
    }

    fn add(&mut self, term: &Term, env: &Environment<'_>) -> Option<usize> {
        match term {
            Term::Var(v) => Some(self.push(Step::Var(*v), (env.variable)(*v)?)),
            Term::Attr(a) => Some(self.push(Step::Attr(a.clone()), Facts::attr(a.clone()))),
            Term::Call(function, args) => {
                let args = evaluate(args, env)?;
                self.push_facts((function.run)(&args.iter().collect::<Vec<_>>())?)
            }
            Term::Result(k, of) => {
                let of = self.add(of, env)?;
                let facts::Kind::Tuple(types) = &self.facts[of].kind else { return None };
                let ty = types.get(*k as usize)?.clone();
                Some(self.push(Step::Result(*k, of), Facts::tensor(ty)))
            }
            Term::Op(keyword, items) => self.add_op(*keyword, items, env),
            Term::Number(_) => None,
        }
    }

    fn add_op(&mut self, keyword: Keyword, items: &[Term], env: &Environment<'_>) -> Option<usize> {
        let mut children = vec![usize::MAX; items.len()];
        for (child, item) in children.iter_mut().zip(items).filter(|(_, t)| !matches!(t, Term::Number(_))) {
            *child = self.add(item, env)?;
        }
        // A number has the element type of the operands beside it; a condition is none of them.
        let skip = usize::from(keyword.0 == "select");
        let dtype = children[skip..].iter().filter(|&&k| k != usize::MAX).find_map(|&k| self.facts[k].ty());
        let dtype = dtype.map(|ty| ty.dtype);
        for (child, item) in children.iter_mut().zip(items) {
            if let Term::Number(x) = item {
                let value = Tensor::scalar(dtype?, Scalar::F(*x));
                *child = self.push(Step::Const(value.clone()), Facts::constant(&value));
            }
        }
        let of: Vec<&Facts> = children.iter().map(|&k| &self.facts[k]).collect();
        let facts = facts::of_op(keyword, &of, env.numerics).ok()?;
        Some(self.push(Step::Op(keyword, children), facts))
    }

    /// Puts the operands of commutative operators in the order that the e-graph has them in; else constants last.
    pub fn order(&mut self, g: &EGraph, subst: &Subst) {
        let mut ids: Vec<Option<Id>> = Vec::with_capacity(self.steps.len());
        for k in 0..self.steps.len() {
            let look = |node: ENode| g.lookup(node);
            let id = match &self.steps[k] {
                Step::Var(v) => subst.get(*v).map(|id| g.find(*id)),
                Step::Attr(a) => look(ENode::Attr(a.clone())),
                Step::Const(t) => look(ENode::Const(Constant::new(t.clone()))),
                Step::Result(k, c) => ids[*c].and_then(|c| look(ENode::Result(*k, [c]))),
                Step::Op(keyword, children) => {
                    let (keyword, mut children) = (*keyword, children.clone());
                    let at = |children: &[usize]| {
                        let ids: Option<Vec<Id>> = children.iter().map(|c| ids[*c]).collect();
                        ids.and_then(|ids| look(ENode::op(keyword, ids)))
                    };
                    let mut id = at(&children);
                    if keyword.is_commutative() && id.is_none() {
                        let swapped = [children[1], children[0]];
                        let is_const = children.iter().map(|c| self.facts[*c].is_const).collect::<Vec<_>>();
                        id = at(&swapped);
                        if id.is_some() || is_const == [true, false] {
                            children = swapped.into();
                        }
                    }
                    self.steps[k] = Step::Op(keyword, children);
                    id
                }
            };
            ids.push(id);
        }
    }

    /// The instance as a pattern of which the variables are open.
    pub fn pattern(&self) -> PatternAst<ENode> {
        let mut ast = PatternAst::default();
        let id = |k: &usize| Id::from(*k);
        for step in &self.steps {
            ast.add(match step {
                Step::Var(v) => ENodeOrVar::Var(*v),
                Step::Attr(a) => ENodeOrVar::ENode(ENode::Attr(a.clone())),
                Step::Const(t) => ENodeOrVar::ENode(ENode::Const(Constant::new(t.clone()))),
                Step::Op(k, c) => ENodeOrVar::ENode(ENode::op(*k, c.iter().map(id).collect())),
                Step::Result(k, c) => ENodeOrVar::ENode(ENode::Result(*k, [Id::from(*c)])),
            });
        }
        ast
    }

    /// Adds the instance to an e-graph.
    pub fn add_to(&self, g: &mut EGraph, subst: &Subst) -> Id {
        let mut ids: Vec<Id> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let id = match step {
                Step::Var(v) => subst[*v],
                Step::Attr(a) => g.add(ENode::Attr(a.clone())),
                Step::Const(t) => g.add(ENode::Const(Constant::new(t.clone()))),
                Step::Op(k, c) => g.add(ENode::op(*k, c.iter().map(|&k| ids[k]).collect())),
                Step::Result(k, c) => g.add(ENode::Result(*k, [ids[*c]])),
            };
            ids.push(id);
        }
        ids[ids.len() - 1]
    }
}

/// What a term's parts are made from.
struct Environment<'a> {
    variable: &'a dyn Fn(Var) -> Option<Facts>,
    numerics: Numerics,
}

/// What is known of arguments of a function or a guard.
fn evaluate(args: &[Term], env: &Environment<'_>) -> Option<Vec<Facts>> {
    args.iter().map(|t| Plan::of(t, env.variable, env.numerics)?.facts.pop()).collect()
}

/// Whether a rule's guards hold.
pub fn guards_hold(
    conditions: &[super::rule::Condition],
    variable: &dyn Fn(Var) -> Option<Facts>,
    numerics: Numerics,
) -> bool {
    let env = Environment { variable, numerics };
    conditions.iter().all(|c| {
        evaluate(&c.args, &env).is_some_and(|args| (c.guard.holds)(&args.iter().collect::<Vec<_>>()))
    })
}

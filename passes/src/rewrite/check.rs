//! Checks certificates without searching: every instance against its rule, then congruence.

use super::certificate::{COMMUTE, CertTerm, Certificate, Collector, Instance, constant, large_constants};
use super::facts::{Analysis, Facts};
use super::lang::{Attribute, EGraph, ENode};
use super::plan::{self, Plan, Step};
use super::rule::Rule;
use super::saturate::FOLD;
use crate::runner::Numerics;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::{bail, ensure};
use egg::{ENodeOrVar, Id, Language, PatternAst, Var};
use std::collections::{BTreeMap, HashMap};

/// Verifies that a certificate proves two graphs equal by these rules.
///
/// # Errors
/// The first thing that is wrong: an instance that its rule doesn't justify, or an output that the instances don't
/// make equal.
pub fn check(
    certificate: &Certificate,
    before: &Graph,
    after: &Graph,
    rules: &[&Rule],
    numerics: Numerics,
) -> Result<()> {
    same_ports(before, after)?;
    let mut collector = Collector::default();
    let [before_terms, after_terms] = [before, after].map(|g| collector.graph(g));
    let of_graphs = collector.finish().terms;
    let mut checker = Checker::new([before, after], numerics)?;
    let of_graphs = checker.add(&of_graphs)?;
    let terms = checker.add(&certificate.terms)?;
    checker.verify(certificate, &terms, rules)?;
    for (a, b) in before.outputs.iter().zip(&after.outputs) {
        let class = |terms: &HashMap<ValueId, u32>, v| checker.g.find(of_graphs[terms[&v] as usize]);
        let (x, y) = (class(&before_terms, a.value), class(&after_terms, b.value));
        ensure!(x == y, "the certificate doesn't prove that output {:?} stays the same", a.name);
    }
    Ok(())
}

fn same_ports(before: &Graph, after: &Graph) -> Result<()> {
    for (what, a, b) in
        [("inputs", &before.inputs, &after.inputs), ("outputs", &before.outputs, &after.outputs)]
    {
        let same = a.len() == b.len()
            && a.iter().zip(b).all(|(x, y)| x.name == y.name && before.ty(x.value) == after.ty(y.value));
        ensure!(same, "the graphs have other {what}");
    }
    ensure!(before.requires == after.requires, "the graphs require other things of their inputs");
    Ok(())
}

struct Checker {
    g: EGraph,
    /// The leaf that each large constant is.
    large: HashMap<String, u32>,
    n_inputs: usize,
    numerics: Numerics,
}

impl Checker {
    fn new(graphs: [&Graph; 2], numerics: Numerics) -> Result<Checker> {
        let [before, after] = graphs;
        let mut leaves: Vec<Facts> =
            before.inputs.iter().map(|p| Facts::tensor(before.ty(p.value).clone())).collect();
        let (n_inputs, mut large) = (leaves.len(), HashMap::new());
        let in_before = large_constants(before);
        for (g, found) in [(before, in_before.clone()), (after, large_constants(after))] {
            for (text, v) in found.into_iter().collect::<BTreeMap<_, _>>() {
                let Some(t) = g.as_const(v) else { bail!("{v} is no constant") };
                let twin = in_before.get(&text).and_then(|v| before.as_const(*v));
                ensure!(twin.is_none_or(|twin| twin == t), "two constants have the hash {text}");
                large.entry(text).or_insert_with(|| {
                    leaves.push(Facts::constant(t));
                    leaves.len() as u32 - 1
                });
            }
        }
        let g = EGraph::new(Analysis { leaves, opaques: Vec::new(), numerics });
        Ok(Checker { g, large, n_inputs, numerics })
    }

    /// Adds terms; their classes.
    fn add(&mut self, terms: &[CertTerm]) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> = Vec::with_capacity(terms.len());
        for term in terms {
            let node = match term {
                CertTerm::Input(k) => {
                    ensure!((*k as usize) < self.n_inputs, "there is no input {k}");
                    ENode::Leaf(*k)
                }
                CertTerm::Const(c) => ENode::Const(c.clone()),
                CertTerm::Large(text) => match self.large.get(text) {
                    Some(k) => ENode::Leaf(*k),
                    None => bail!("neither graph has the constant {text}"),
                },
                CertTerm::Result(k, of) => ENode::Result(*k, [ids[*of as usize]]),
                CertTerm::Op(keyword, attrs, x) => {
                    let mut children: Vec<Id> = x.iter().map(|k| ids[*k as usize]).collect();
                    children.extend(attrs.iter().map(|a| self.g.add(ENode::Attr(a.clone()))));
                    ENode::op(*keyword, children)
                }
            };
            let id = self.g.add(node);
            ids.push(id);
        }
        self.g.rebuild();
        Ok(ids)
    }

    /// Verifies instances, each as soon as its guards are known to hold; the order is that of the certificate.
    fn verify(&mut self, certificate: &Certificate, ids: &[Id], rules: &[&Rule]) -> Result<()> {
        let mut open: Vec<&Instance> = certificate.instances.iter().collect();
        while !open.is_empty() {
            let (mut left, mut problem) = (Vec::new(), None);
            for instance in &open {
                match self.justified(&certificate.terms, ids, instance, rules) {
                    Ok(()) => {
                        self.g.union(ids[instance.before as usize], ids[instance.after as usize]);
                    }
                    Err(e) => {
                        problem.get_or_insert(e.context(format!("an instance of {}", instance.rule)));
                        left.push(*instance);
                    }
                }
            }
            self.g.rebuild();
            match problem {
                Some(e) if left.len() == open.len() => return Err(e),
                _ => open = left,
            }
        }
        Ok(())
    }

    fn justified(&self, terms: &[CertTerm], ids: &[Id], i: &Instance, rules: &[&Rule]) -> Result<()> {
        let known = |k: u32| (k as usize) < terms.len();
        ensure!(known(i.before) && known(i.after), "it names terms that don't exist");
        let (before, after) = (&terms[i.before as usize], &terms[i.after as usize]);
        match &i.rule[..] {
            FOLD => return self.is_value(terms, ids, i),
            COMMUTE => {
                let swapped = match (before, after) {
                    (CertTerm::Op(k, a, x), CertTerm::Op(l, b, y)) => {
                        k == l && k.is_commutative() && a == b && x[..] == [y[1], y[0]]
                    }
                    _ => false,
                };
                ensure!(swapped, "the terms differ by more than the order of two operands");
                return Ok(());
            }
            _ => {}
        }
        let mut named = rules.iter().filter(|r| r.name == i.rule && r.class <= self.numerics).peekable();
        ensure!(named.peek().is_some(), "there is no such rule, or it isn't admitted");
        let mut problem = "the left side doesn't match";
        for rule in named {
            for pattern in &rule.patterns {
                let mut bound = Bound::new();
                if matches(&pattern.ast, pattern.ast.root(), &Part::Term(i.before), terms, &mut bound) {
                    match self.gives(rule, terms, ids, &bound, i) {
                        Ok(()) => return Ok(()),
                        Err(why) => problem = why,
                    }
                }
            }
        }
        bail!("{problem}")
    }

    /// Whether the right side, with variables bound, is a term, and the guards hold.
    fn gives(
        &self,
        rule: &Rule,
        terms: &[CertTerm],
        ids: &[Id],
        bound: &Bound,
        i: &Instance,
    ) -> std::result::Result<(), &'static str> {
        let facts = |v: Var| {
            Some(match bound.get(&v)? {
                Part::Term(k) => self.g[ids[*k as usize]].data.clone(),
                Part::Attr(a) => Facts::attr(a.clone()),
            })
        };
        if !plan::guards_hold(&rule.guards, &facts, self.numerics) {
            return Err("a guard doesn't hold");
        }
        let Some(plan) = Plan::of(&rule.rhs, &facts, self.numerics) else {
            return Err("the right side isn't defined");
        };
        let ty = |k: u32| self.g[ids[k as usize]].data.ty();
        if ty(i.before).is_none() || plan.root().and_then(Facts::ty) != ty(i.before) {
            return Err("the right side has another type");
        }
        match is_instance(&plan, plan.steps.len() - 1, &Part::Term(i.after), terms, bound) {
            true => Ok(()),
            false => Err("the right side is another term"),
        }
    }

    /// Whether the second term is the value of the first, an operator on constants.
    fn is_value(&self, terms: &[CertTerm], ids: &[Id], i: &Instance) -> Result<()> {
        let CertTerm::Op(_, _, x) = &terms[i.before as usize] else {
            bail!("what is evaluated is no operator")
        };
        let is_const = |k: &u32| matches!(terms[*k as usize], CertTerm::Const(_));
        ensure!(x.iter().all(is_const), "an operand is no constant");
        let node = &terms[i.before as usize];
        let found = self.facts(node, ids).value;
        let same = found.is_some_and(|t| constant(&t) == terms[i.after as usize]);
        ensure!(same, "the value is another one");
        Ok(())
    }

    /// What follows for a term from what it is made of alone.
    fn facts(&self, term: &CertTerm, ids: &[Id]) -> Facts {
        let CertTerm::Op(keyword, attrs, x) = term else { return Facts::results(Vec::new()) };
        let operands = x.iter().map(|k| self.g[ids[*k as usize]].data.clone());
        let all: Vec<Facts> = operands.chain(attrs.iter().map(|a| Facts::attr(a.clone()))).collect();
        let all: Vec<&Facts> = all.iter().collect();
        super::facts::of_op(*keyword, &all, self.numerics).unwrap_or_else(|_| Facts::results(Vec::new()))
    }
}

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Term(u32),
    Attr(Attribute),
}

type Bound = HashMap<Var, Part>;

/// The parts of a term: operands, then attributes.
fn parts(x: &[u32], attrs: &[Attribute]) -> Vec<Part> {
    x.iter().map(|k| Part::Term(*k)).chain(attrs.iter().cloned().map(Part::Attr)).collect()
}

/// Whether a term has the form of a pattern; binds its variables.
fn matches(ast: &PatternAst<ENode>, at: Id, part: &Part, terms: &[CertTerm], bound: &mut Bound) -> bool {
    let node = match &ast[at] {
        ENodeOrVar::Var(v) => return bound.entry(*v).or_insert_with(|| part.clone()) == part,
        ENodeOrVar::ENode(node) => node,
    };
    let all = |parts: Vec<Part>, bound: &mut Bound| {
        parts.len() == node.len()
            && node.children().iter().zip(&parts).all(|(c, p)| matches(ast, *c, p, terms, bound))
    };
    match (node, part) {
        (ENode::Attr(a), Part::Attr(b)) => a == b,
        (_, Part::Attr(_)) => false,
        (_, Part::Term(k)) => match (node, &terms[*k as usize]) {
            (ENode::Op(k, _), CertTerm::Op(l, attrs, x)) => k == l && all(parts(x, attrs), bound),
            (ENode::Result(k, _), CertTerm::Result(l, of)) => k == l && all(vec![Part::Term(*of)], bound),
            (ENode::Const(c), CertTerm::Const(d)) => c == d,
            _ => false,
        },
    }
}

/// Whether a part is that step of a plan; operands of commutative operators in either order.
fn is_instance(plan: &Plan, step: usize, part: &Part, terms: &[CertTerm], bound: &Bound) -> bool {
    match (&plan.steps[step], part) {
        (Step::Var(v), _) => bound.get(v) == Some(part),
        (Step::Attr(a), Part::Attr(b)) => a == b,
        (Step::Const(t), Part::Term(k)) => constant(t) == terms[*k as usize],
        (Step::Op(keyword, children), Part::Term(k)) => {
            let CertTerm::Op(found, attrs, x) = &terms[*k as usize] else { return false };
            let in_order = |x: &[u32]| {
                let parts = parts(x, attrs);
                parts.len() == children.len()
                    && children.iter().zip(&parts).all(|(c, p)| is_instance(plan, *c, p, terms, bound))
            };
            let swapped = || keyword.is_commutative() && x.len() == 2 && in_order(&[x[1], x[0]]);
            keyword == found && (in_order(x) || swapped())
        }
        (Step::Result(k, of), Part::Term(t)) => match &terms[*t as usize] {
            CertTerm::Result(l, x) => k == l && is_instance(plan, *of, &Part::Term(*x), terms, bound),
            _ => false,
        },
        _ => false,
    }
}

//! Rules as data: one line of text each, with examples below it.
//!
//! ```text
//! # comment
//! mul-one exact (mul ?x ?c) => ?x if is(?c, 1.0)
//!     ?x: T[a,b]  ?c: T[] = 1.0
//!     | ?x: f32[a]  ?c: T[a] = 1.0
//! ```
//!
//! A line that starts without a blank is a rule: name, class, left side, `=>`, right side, and guards behind `if`.
//! Lines that start with a blank continue it with examples, separated by `|`: a type for every operand (`T` and `U`
//! stand for element types, names for extents), `= NUMBER` behind it for a constant of that value, `const` before it
//! for a constant of any value, a word of [`Domain`] behind it for the values to which the law is confined; and a value
//! for every attribute. An example behind `!` is an instance to which the rule must not apply.
//!
//! `{a|b}` in a rule stands for one rule with each of the words; `{unary}` and `{binary}` are all scalar functions of
//! one and of two operands.
//!
//! A rule says that the two sides are equal wherever the guards hold and the right side has the left side's type. It
//! is applied from left to right. Both orders of a commutative operator's operands are matched. A rule with `...`
//! stands for one rule for each number of operands up to [`MAX_REST`].

use super::guards::{self, Guard};
use super::lang::ENode;
use super::term::{self, Sexpr, Term};
use crate::runner::Numerics;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::op::AttrValue;
use aic_ir::scalar::ScalarFn;
use aic_ir::text::{parse_attr, parse_type};
use aic_ir::{bail, ensure};
use egg::{ENodeOrVar, Id, Pattern, PatternAst, Var};

/// How many operands `...` stands for at most.
pub const MAX_REST: usize = 8;
/// How many orders of commutative operators' operands are matched at most.
const MAX_VARIANTS: usize = 32;

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The least class of numerics that admits it.
    pub class: Numerics,
    /// The left side; a number in it has become a variable with a guard.
    pub lhs: Term,
    /// The right side.
    pub rhs: Term,
    /// What must hold.
    pub guards: Vec<Condition>,
    /// Instances for which it is checked.
    pub examples: Vec<Example>,
    /// Where it is written: file and line.
    pub place: String,
    /// The left side in every order of commutative operators' operands.
    pub patterns: Vec<Pattern<ENode>>,
}

/// A guard applied to arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The guard.
    pub guard: &'static Guard,
    /// Variables, attributes and calls of functions.
    pub args: Vec<Term>,
}

/// Types and values of a rule's variables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// What each variable is.
    pub variables: Vec<(Var, Binding)>,
    /// Whether the rule must apply, else it must not.
    pub applies: bool,
}

/// What a variable is in an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// An operand.
    Tensor {
        /// The element type, or the name of one to be chosen.
        dtype: ElementType,
        /// The extents over names.
        dims: Vec<Dim>,
        /// Whether it is a constant.
        is_const: bool,
        /// The value of all elements.
        fill: Option<f64>,
        /// Which values it takes.
        domain: Domain,
    },
    /// An attribute.
    Attr(AttrValue),
}

/// Which values a variable takes in an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Domain {
    /// All.
    #[default]
    Any,
    /// No infinity: the law is about real numbers, and an infinity may cancel on one side only.
    Finite,
    /// Small finite numbers: results of exponentials and products of many stay in range.
    Small,
    /// Moderate numbers above zero.
    Positive,
    /// None below zero, which is known of the variable.
    Nonneg,
    /// 0 or minus infinity, with a 0 in every row.
    Mask,
    /// Such a mask in which every row shows one more key than the one before.
    Causal,
}

impl Domain {
    fn from_keyword(word: &str) -> Option<Domain> {
        Some(match word {
            "finite" => Domain::Finite,
            "small" => Domain::Small,
            "positive" => Domain::Positive,
            "nonneg" => Domain::Nonneg,
            "mask" => Domain::Mask,
            "causal" => Domain::Causal,
            _ => return None,
        })
    }
}

/// The element type of a variable in an example.
#[derive(Clone, Debug, PartialEq)]
pub enum ElementType {
    /// This one.
    Known(DType),
    /// Any one, the same wherever this name stands.
    Any(String),
}

/// Reads a file of rules; errors name the line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut first = 0;
    for (k, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", k + 1);
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if line.starts_with(char::is_whitespace) {
            let written = examples(content).map_err(|e| e.context(&place))?;
            if first == rules.len() {
                bail!("{place}: an example without a rule before it");
            }
            for rule in &mut rules[first..] {
                add_examples(rule, &written).map_err(|e| e.context(&place))?;
            }
        } else {
            first = rules.len();
            for content in alternatives(content) {
                let read = rule(&content, &place).map_err(|e| e.context(&place))?;
                if let Some(twin) = rules.iter().find(|r| r.name == read[0].name) {
                    bail!("{place}: the rule {} stands at {} too", twin.name, twin.place);
                }
                rules.extend(read);
            }
        }
    }
    match rules.iter().find(|r| r.examples.is_empty()) {
        Some(r) => Err(Error::new(format!("{}: the rule {} has no example", r.place, r.name))),
        None => Ok(rules),
    }
}

/// The line with every word of its first `{..}` in all places where that stands, and so on. Where the name has no
/// such place, the word is added to it.
fn alternatives(text: &str) -> Vec<String> {
    let Some((start, end)) = text.find('{').zip(text.find('}')) else { return vec![text.into()] };
    let braces = &text[start..=end];
    let words: Vec<&str> = match &braces[1..braces.len() - 1] {
        "unary" => functions_of(1),
        "binary" => functions_of(2),
        list => list.split('|').collect(),
    };
    let (name, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(0));
    let line = |word: &&str| match name.contains(braces) {
        true => text.replace(braces, word),
        false => format!("{name}-{word}{}", rest.replace(braces, word)),
    };
    words.iter().map(line).flat_map(|line| alternatives(&line)).collect()
}

fn functions_of(arity: usize) -> Vec<&'static str> {
    ScalarFn::ALL.iter().filter(|f| f.arity() == arity).map(|f| f.keyword()).collect()
}

/// `NAME CLASS LHS => RHS [if GUARD, GUARD ..]`; more than one where `...` occurs.
fn rule(text: &str, place: &str) -> Result<Vec<Rule>> {
    let (name, rest) = word(text);
    let (class, rest) = word(rest);
    let class = match class {
        "exact" => Numerics::Exact,
        "reassociating" => Numerics::Reassociate,
        "approximate" => Numerics::Fast,
        _ => bail!(
            "expected a class (exact, reassociating or approximate) behind the name {name}, found {class:?}"
        ),
    };
    let (lhs, rest) = Sexpr::read(rest)?;
    let Some(rest) = rest.trim_start().strip_prefix("=>") else {
        bail!("expected `=>` behind the left side, found `{}`", rest.trim())
    };
    let (rhs, rest) = Sexpr::read(rest)?;
    let guards = match rest.trim() {
        "" => Vec::new(),
        rest => match rest.strip_prefix("if ") {
            Some(list) => conditions(list)?,
            None => bail!("expected `if` or the end of the line behind the right side, found `{rest}`"),
        },
    };
    let counts = if lhs.has_rest() { 1..=MAX_REST } else { 1..=1 };
    counts.map(|n| compile(name, class, place, [&lhs, &rhs], &guards, n)).collect()
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// `name(arg, arg), name(arg)` as written.
fn conditions(mut text: &str) -> Result<Vec<(&'static Guard, Vec<Sexpr>)>> {
    let mut found = Vec::new();
    loop {
        let Some((name, mut rest)) = text.split_once('(') else {
            bail!("expected a guard `name(..)`, found `{}`", text.trim())
        };
        let Some(guard) = guards::find(name.trim()) else { bail!("unknown guard {}", name.trim()) };
        let mut args = Vec::new();
        loop {
            let (arg, after) = Sexpr::read(rest)?;
            args.push(arg);
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix(')') {
                rest = after.trim_start();
                break;
            }
            let Some(after) = rest.strip_prefix(',') else {
                bail!("expected `,` or `)` in the arguments of {}, found `{rest}`", guard.name)
            };
            rest = after;
        }
        found.push((guard, args));
        match rest.strip_prefix(',') {
            Some(after) => text = after,
            None if rest.is_empty() => return Ok(found),
            None => bail!("expected `,` or the end of the line behind a guard, found `{rest}`"),
        }
    }
}

fn compile(
    name: &str,
    class: Numerics,
    place: &str,
    [lhs, rhs]: [&Sexpr; 2],
    guards: &[(&'static Guard, Vec<Sexpr>)],
    n: usize,
) -> Result<Rule> {
    let one = |s: &Sexpr| match &s.expand(n)[..] {
        [s] => term::operand(s),
        _ => bail!("`...` stands where one term is expected"),
    };
    let mut conditions = Vec::new();
    let lhs = numbers_to_variables(&one(lhs)?, &mut conditions)?;
    let rhs = one(rhs)?;
    for (guard, args) in guards {
        let args =
            args.iter().flat_map(|s| s.expand(n)).map(|s| term::argument(&s)).collect::<Result<_>>()?;
        conditions.push(Condition { guard, args });
    }
    check_variables(&lhs, &rhs, &conditions)?;
    let patterns = orders(&lhs).iter().map(pattern).collect::<Result<_>>()?;
    let (name, place) = (name.into(), place.into());
    Ok(Rule { name, class, lhs, rhs, guards: conditions, examples: Vec::new(), place, patterns })
}

/// Numbers on the left become variables that must have that value.
fn numbers_to_variables(lhs: &Term, conditions: &mut Vec<Condition>) -> Result<Term> {
    let Some(is) = guards::find("is") else { bail!("there is no guard `is`") };
    ensure!(matches!(lhs, Term::Op(..) | Term::Result(..)), "the left side must be an operator, found {lhs}");
    let mut n = 0;
    Ok(lhs.map(&mut |t| {
        let Term::Number(x) = t else { return t };
        let var = Term::Var(Var::from_u32(n));
        n += 1;
        let value = Term::Attr(super::lang::Attribute::new(AttrValue::Float(x)));
        conditions.push(Condition { guard: is, args: vec![var.clone(), value] });
        var
    }))
}

fn check_variables(lhs: &Term, rhs: &Term, conditions: &[Condition]) -> Result<()> {
    let known = lhs.vars();
    let mut calls = false;
    lhs.visit(&mut |t| calls |= matches!(t, Term::Call(..)));
    ensure!(!calls, "a function stands on the left side");
    for term in conditions.iter().flat_map(|c| &c.args).chain([rhs]) {
        for v in term.vars() {
            ensure!(known.contains(&v), "{v} does not occur on the left side");
        }
    }
    Ok(())
}

/// The term with the operands of its commutative operators in every order, without repetitions, those with the fewest
/// swaps first.
fn orders(t: &Term) -> Vec<Term> {
    let mut found = swapped(t);
    found.sort_by_key(|(n_swaps, _)| *n_swaps);
    let mut terms: Vec<Term> = Vec::new();
    for (_, t) in found {
        if !terms.contains(&t) && terms.len() < MAX_VARIANTS {
            terms.push(t);
        }
    }
    terms
}

/// Every order with its number of swaps.
fn swapped(t: &Term) -> Vec<(usize, Term)> {
    match t {
        Term::Op(k, items) => {
            let mut found = Vec::new();
            for (n, list) in choices(items) {
                if k.is_commutative() && list[0] != list[1] {
                    found.push((n + 1, Term::Op(*k, vec![list[1].clone(), list[0].clone()])));
                }
                found.push((n, Term::Op(*k, list)));
            }
            found
        }
        Term::Result(k, inner) => {
            swapped(inner).into_iter().map(|(n, t)| (n, Term::Result(*k, t.into()))).collect()
        }
        other => vec![(0, other.clone())],
    }
}

/// Every combination of the orders of several terms.
fn choices(items: &[Term]) -> Vec<(usize, Vec<Term>)> {
    items.iter().fold(vec![(0, Vec::new())], |lists, item| {
        let orders = swapped(item);
        let longer = |(n, list): &(usize, Vec<Term>)| {
            let with = |(m, t): &(usize, Term)| (n + m, [&list[..], std::slice::from_ref(t)].concat());
            orders.iter().map(with).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = lists.iter().flat_map(longer).collect();
        all.sort_by_key(|(n, _)| *n);
        all.truncate(MAX_VARIANTS);
        all
    })
}

/// A left side as `egg` searches it.
fn pattern(t: &Term) -> Result<Pattern<ENode>> {
    let mut ast = PatternAst::default();
    add_pattern(&mut ast, t)?;
    Ok(Pattern::new(ast))
}

fn add_pattern(ast: &mut PatternAst<ENode>, t: &Term) -> Result<Id> {
    let node = match t {
        Term::Var(v) => ENodeOrVar::Var(*v),
        Term::Attr(a) => ENodeOrVar::ENode(ENode::Attr(a.clone())),
        Term::Op(k, items) => {
            let children = items.iter().map(|i| add_pattern(ast, i)).collect::<Result<Vec<_>>>()?;
            ENodeOrVar::ENode(ENode::op(*k, children))
        }
        Term::Result(k, inner) => ENodeOrVar::ENode(ENode::Result(*k, [add_pattern(ast, inner)?])),
        Term::Number(_) | Term::Call(..) => bail!("{t} cannot stand on the left side"),
    };
    Ok(ast.add(node))
}

/// `?x: T[a,b]  ?p = [1,0] | ?x: ..`
fn examples(text: &str) -> Result<Vec<Written>> {
    let read = |one: &str| {
        let variables = one.split('?').skip(1).map(|item| binding(item.trim())).collect::<Result<_>>()?;
        Ok(Written { variables, applies: !one.trim_start().starts_with('!') })
    };
    text.trim_start_matches('|').split('|').map(read).collect()
}

/// An example by the names of the variables.
struct Written {
    variables: Vec<(String, Binding)>,
    applies: bool,
}

fn binding(text: &str) -> Result<(String, Binding)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start_matches("...").trim_start();
    let value = if let Some(ty) = rest.strip_prefix(':') {
        tensor_binding(ty.trim())?
    } else if let Some(value) = rest.strip_prefix('=') {
        Binding::Attr(parse_attr(value.trim()).map_err(|e| e.context(value.trim()))?)
    } else {
        bail!("expected `?NAME: TYPE` or `?NAME = VALUE`, found `?{text}`")
    };
    Ok((format!("?{name}"), value))
}

/// `T[a,b]`, `const f32[a]`, `T[] = 0.5`
fn tensor_binding(text: &str) -> Result<Binding> {
    let (text, fill) = match text.split_once('=') {
        Some((ty, value)) => match value.trim().parse() {
            Ok(x) => (ty.trim(), Some(x)),
            Err(_) => bail!("expected a number behind `=`, found `{}`", value.trim()),
        },
        None => (text, None),
    };
    let (is_const, text) = match text.strip_prefix("const ") {
        Some(ty) => (true, ty.trim()),
        None => (fill.is_some(), text),
    };
    let (text, domain) = match text.rsplit_once(char::is_whitespace) {
        Some((ty, word)) => match Domain::from_keyword(word) {
            Some(domain) => (ty.trim(), domain),
            None => bail!("unknown values {word}"),
        },
        None => (text, Domain::Any),
    };
    let Some((dtype, dims)) = text.split_once('[') else {
        bail!("expected a type such as T[a,b], found `{text}`")
    };
    let is_name = dtype.len() == 1 && dtype.bytes().all(|b| b.is_ascii_uppercase());
    let (dtype, ty) = match DType::from_keyword(dtype) {
        Some(t) => (ElementType::Known(t), parse_type(text)?),
        None if is_name => (ElementType::Any(dtype.into()), parse_type(&format!("f32[{dims}"))?),
        None => bail!("expected an element type or a capital letter, found `{dtype}`"),
    };
    Ok(Binding::Tensor { dtype, dims: ty.dims, is_const, fill, domain })
}

/// Gives the variables of a rule their types; `?x` stands for `?x0`, `?x1`.. where the rule has `?x...`.
fn add_examples(rule: &mut Rule, written: &[Written]) -> Result<()> {
    for Written { variables: list, applies } in written {
        let mut variables = Vec::new();
        for v in rule.lhs.vars() {
            match v.as_u32() {
                Some(_) => variables.push((v, number_binding(rule, v, list))),
                None => variables.push((v, find_binding(list, v, &rule.name)?)),
            }
        }
        for (name, _) in list {
            let is_used = variables.iter().any(|(v, _)| stands_for(name, &v.to_string()));
            ensure!(is_used, "the rule {} has no variable {name}", rule.name);
        }
        rule.examples.push(Example { variables, applies: *applies });
    }
    Ok(())
}

fn stands_for(name: &str, variable: &str) -> bool {
    variable.strip_prefix(name).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
}

fn find_binding(list: &[(String, Binding)], v: Var, rule: &str) -> Result<Binding> {
    let name = v.to_string();
    let exact = list.iter().find(|(n, _)| *n == name);
    match exact.or_else(|| list.iter().find(|(n, _)| stands_for(n, &name))) {
        Some((_, binding)) => Ok(binding.clone()),
        None => bail!("the example gives no type or value for {v} of the rule {rule}"),
    }
}

/// A number on the left side: a constant of rank 0 in the element type of the first operand that isn't `bool`.
fn number_binding(rule: &Rule, v: Var, list: &[(String, Binding)]) -> Binding {
    let dtype = list.iter().find_map(|(_, b)| match b {
        Binding::Tensor { dtype, .. } if *dtype != ElementType::Known(DType::Bool) => Some(dtype.clone()),
        _ => None,
    });
    let value =
        rule.guards.iter().find(|c| c.args.first() == Some(&Term::Var(v))).and_then(|c| match &c.args[1] {
            Term::Attr(a) => match a.value() {
                AttrValue::Float(x) => Some(*x),
                _ => None,
            },
            _ => None,
        });
    let dtype = dtype.unwrap_or_else(|| ElementType::Any("T".into()));
    Binding::Tensor { dtype, dims: Vec::new(), is_const: true, fill: value, domain: Domain::Any }
}

impl Rule {
    /// The rule as one line.
    pub fn to_line(&self) -> String {
        let mut line = format!("{} => {}", self.lhs, self.rhs);
        for (k, c) in self.guards.iter().enumerate() {
            let args: Vec<String> = c.args.iter().map(Term::to_string).collect();
            line += &format!("{} {}({})", if k == 0 { " if" } else { "," }, c.guard.name, args.join(", "));
        }
        line
    }
}

//! Terms of rules: what stands on either side of a rule and in its guards, and how they are read.
//!
//! ```text
//! ?x  (matmul ?a ?b)  (transpose ?x [1,0])  (reduce ?x sum ?axes)  (result 0 (topk ?x ..))  0.5  (@compose ?p ?q)
//! ```
//!
//! Operands come first, then attributes in the order of their declaration. A number in an operand's place is a
//! constant: on the left a small one all of whose elements are that number, on the right one of rank 0 in the element
//! type of the operands beside it. `@name` is an attribute function. `?xs...` stands for any number of operands.

use super::functions::{self, Function};
use super::lang::{Attribute, Keyword};
use aic_ir::error::{Error, Result};
use aic_ir::op::{AttrValue, Op, OpSignature};
use aic_ir::text::parse_attr;
use aic_ir::{bail, ensure};
use egg::Var;
use std::fmt;

/// A term with variables.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A variable: an operand or an attribute.
    Var(Var),
    /// An attribute written out.
    Attr(Attribute),
    /// A number in an operand's place.
    Number(f64),
    /// An operator applied to operands, then attributes.
    Op(Keyword, Vec<Term>),
    /// One result of an operator that has several.
    Result(u32, Box<Term>),
    /// An attribute function applied to what is known of its arguments.
    Call(&'static Function, Vec<Term>),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, items: &[Term]| {
            write!(f, "({name}")?;
            items.iter().try_for_each(|t| write!(f, " {t}"))?;
            f.write_str(")")
        };
        match self {
            Term::Var(v) => write!(f, "{v}"),
            Term::Attr(a) => write!(f, "{}", a.value()),
            Term::Number(x) => write!(f, "{x:?}"),
            Term::Op(k, items) => list(f, k.0, items),
            Term::Result(k, t) => write!(f, "(result {k} {t})"),
            Term::Call(function, items) => list(f, &format!("@{}", function.name), items),
        }
    }
}

impl Term {
    /// Every variable in order of first occurrence.
    pub fn vars(&self) -> Vec<Var> {
        let mut found = Vec::new();
        self.visit(&mut |t| {
            if let Term::Var(v) = t
                && !found.contains(v)
            {
                found.push(*v);
            }
        });
        found
    }

    /// Calls `f` with this term and every one within it, outer ones first.
    pub fn visit(&self, f: &mut impl FnMut(&Term)) {
        f(self);
        match self {
            Term::Op(_, items) | Term::Call(_, items) => items.iter().for_each(|t| t.visit(f)),
            Term::Result(_, t) => t.visit(f),
            _ => {}
        }
    }

    /// Replaces terms from the inside out.
    #[must_use]
    pub fn map(&self, f: &mut impl FnMut(Term) -> Term) -> Term {
        let inner = match self {
            Term::Op(k, items) => Term::Op(*k, items.iter().map(|t| t.map(f)).collect()),
            Term::Call(c, items) => Term::Call(c, items.iter().map(|t| t.map(f)).collect()),
            Term::Result(k, t) => Term::Result(*k, t.map(f).into()),
            other => other.clone(),
        };
        f(inner)
    }
}

/// An s-expression as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Sexpr {
    /// A variable, a number, an attribute.
    Atom(String),
    /// Parentheses, and whether `...` follows them.
    List(Vec<Sexpr>, bool),
}

impl Sexpr {
    /// Reads one s-expression from the start of a text; gives what follows it too.
    pub fn read(text: &str) -> Result<(Sexpr, &str)> {
        let text = text.trim_start();
        let Some(mut rest) = text.strip_prefix('(') else { return Sexpr::atom(text) };
        let mut items = Vec::new();
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix(')') {
                let (repeats, after) = match after.strip_prefix("...") {
                    Some(after) => (true, after),
                    None => (false, after),
                };
                return Ok((Sexpr::List(items, repeats), after));
            }
            ensure!(!rest.is_empty(), "`)` is missing at the end of `{text}`");
            let (item, after) = Sexpr::read(rest)?;
            items.push(item);
            rest = after;
        }
    }

    /// Up to a blank or a parenthesis that is not within brackets.
    fn atom(text: &str) -> Result<(Sexpr, &str)> {
        let mut depth = 0;
        let end = text.find(|c: char| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0 && (c.is_whitespace() || "(),".contains(c))
        });
        let (atom, rest) = text.split_at(end.unwrap_or(text.len()));
        ensure!(!atom.is_empty(), "expected a term, found `{text}`");
        Ok((Sexpr::Atom(atom.into()), rest))
    }

    /// The number of operands for which `...` stands is chosen: variables are numbered, repeated terms copied.
    pub fn expand(&self, n: usize) -> Vec<Sexpr> {
        match self {
            Sexpr::Atom(a) => match a.strip_suffix("...") {
                Some(name) => (0..n).map(|k| Sexpr::Atom(format!("{name}{k}"))).collect(),
                None => vec![self.clone()],
            },
            Sexpr::List(items, false) => {
                vec![Sexpr::List(items.iter().flat_map(|i| i.expand(n)).collect(), false)]
            }
            Sexpr::List(items, true) => {
                let copy = |k: usize| items.iter().map(|i| i.numbered(k)).collect();
                (0..n).map(|k| Sexpr::List(copy(k), false)).collect()
            }
        }
    }

    /// Within a repeated term, `?xs...` is its variable of that number.
    fn numbered(&self, k: usize) -> Sexpr {
        match self {
            Sexpr::Atom(a) => match a.strip_suffix("...") {
                Some(name) => Sexpr::Atom(format!("{name}{k}")),
                None => self.clone(),
            },
            Sexpr::List(items, _) => Sexpr::List(items.iter().map(|i| i.numbered(k)).collect(), false),
        }
    }

    /// Whether `...` occurs.
    pub fn has_rest(&self) -> bool {
        match self {
            Sexpr::Atom(a) => a.ends_with("..."),
            Sexpr::List(items, repeats) => *repeats || items.iter().any(Sexpr::has_rest),
        }
    }
}

/// Where a term stands.
enum Place<'a> {
    Operand,
    Attr(&'a OpSignature, &'a str),
    Argument,
}

/// The term that an s-expression denotes where an operand is expected.
pub fn operand(s: &Sexpr) -> Result<Term> {
    term(s, &Place::Operand)
}

/// The term that an s-expression denotes as an argument of a function or a guard.
pub fn argument(s: &Sexpr) -> Result<Term> {
    term(s, &Place::Argument)
}

fn term(s: &Sexpr, place: &Place<'_>) -> Result<Term> {
    match s {
        Sexpr::Atom(a) if a.starts_with('?') => variable(a),
        Sexpr::Atom(a) => literal(a, place),
        Sexpr::List(items, _) => {
            let Some(Sexpr::Atom(head)) = items.first() else { bail!("expected an operator after `(`") };
            list(head, &items[1..], place)
        }
    }
}

fn variable(name: &str) -> Result<Term> {
    let is_name = name[1..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    ensure!(name.len() > 1 && is_name, "{name} is no name of a variable");
    name.parse().map(Term::Var).map_err(|_| Error::new(format!("{name} is no name of a variable")))
}

fn literal(text: &str, place: &Place<'_>) -> Result<Term> {
    match place {
        Place::Operand => match text.parse() {
            Ok(x) => Ok(Term::Number(x)),
            Err(_) => bail!("expected an operand (a variable, a number or a term), found {text}"),
        },
        Place::Argument => Ok(Term::Attr(Attribute::new(attr(text)?))),
        Place::Attr(signature, name) => match signature.attr_value(name, &attr(text)?) {
            Some(value) => Ok(Term::Attr(Attribute::new(value))),
            None => bail!("{text} is no value of attribute {name} of {}", signature.keyword),
        },
    }
}

fn attr(text: &str) -> Result<AttrValue> {
    parse_attr(text).map_err(|e| e.context(text))
}

fn list(head: &str, items: &[Sexpr], place: &Place<'_>) -> Result<Term> {
    if let Some(name) = head.strip_prefix('@') {
        let Some(function) = functions::find(name) else { bail!("unknown function @{name}") };
        return Ok(Term::Call(function, items.iter().map(argument).collect::<Result<_>>()?));
    }
    ensure!(!matches!(place, Place::Attr(..)), "({head} ..) stands in the place of an attribute");
    if head == "result" {
        let [Sexpr::Atom(k), of] = items else { bail!("expected (result NUMBER TERM)") };
        let Ok(k) = k.parse() else { bail!("expected the number of a result, found {k}") };
        return Ok(Term::Result(k, operand(of)?.into()));
    }
    let Some(signature) = Op::signature(head) else { bail!("unknown operator {head}") };
    let n_operands = items.len().saturating_sub(signature.attrs.len());
    let fits = n_operands == signature.n_operands || signature.has_rest && n_operands > signature.n_operands;
    ensure!(
        fits && items.len() >= signature.attrs.len(),
        "{head} takes {}{} operands and the attributes [{}], found {} terms",
        if signature.has_rest { "at least " } else { "" },
        signature.n_operands,
        signature.attrs.join(", "),
        items.len()
    );
    let (x, attrs) = items.split_at(n_operands);
    let mut children: Vec<Term> = x.iter().map(operand).collect::<Result<_>>()?;
    for (s, name) in attrs.iter().zip(signature.attrs) {
        children.push(term(s, &Place::Attr(&signature, name))?);
    }
    Ok(Term::Op(Keyword(signature.keyword), children))
}

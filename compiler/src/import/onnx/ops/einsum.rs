//! Einstein sums.
//!
//! Operands are contracted from left to right. Each contraction of two is a matrix product: axes of both that are
//! needed later lead, axes of both that aren't are summed over, the rest become the rows and columns.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::{bail, ensure};
use std::collections::HashMap;

pub(super) const OPERATORS: &[Operator] = &[op("Einsum", 12, einsum)];

/// What an axis is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Label {
    /// An axis under an ellipsis, counted from the last one.
    Ellipsis(usize),
    Letter(char),
}

/// A value and what its axes are called.
struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

fn einsum(c: &mut Ctx) -> Result<Outputs> {
    let equation: String = c.required("equation", c.text("equation")?)?.split_whitespace().collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let inputs = c.inputs()?;
    let texts: Vec<&str> = left.split(',').collect();
    ensure!(
        texts.len() == inputs.len(),
        "`{equation}` has {} terms for {} inputs",
        texts.len(),
        inputs.len()
    );
    let mut terms = Vec::new();
    for (text, &value) in texts.iter().zip(&inputs) {
        let letters = text.replace("...", "").chars().count();
        let ellipsis = c.rank(value).checked_sub(letters).filter(|&n| n == 0 || text.contains("..."));
        let Some(ellipsis) = ellipsis else { bail!("the term `{text}` doesn't fit {}", c.ty(value)) };
        terms.push(Term { value, labels: labels_of(text, ellipsis)? });
    }
    let output = match right {
        Some(text) => {
            let ellipsis = terms.iter().flat_map(|t| &t.labels).filter_map(|label| match label {
                Label::Ellipsis(k) => Some(k + 1),
                Label::Letter(_) => None,
            });
            labels_of(text, if text.contains("...") { ellipsis.max().unwrap_or(0) } else { 0 })?
        }
        None => implicit_output(&terms),
    };
    for (k, label) in output.iter().enumerate() {
        ensure!(!output[..k].contains(label), "`{equation}` names an axis of the result twice");
        ensure!(
            terms.iter().any(|t| t.labels.contains(label)),
            "`{equation}` makes up an axis of the result"
        );
    }
    broadcast(c, &mut terms)?;
    let mut terms = terms.into_iter().map(|term| diagonal(c, term)).collect::<Result<Vec<_>>>()?;
    while terms.len() > 1 {
        let (a, b) = (terms.remove(0), terms.remove(0));
        let needed = |label: &Label| output.contains(label) || terms.iter().any(|t| t.labels.contains(label));
        let product = contract(c, a, b, &needed)?;
        terms.insert(0, product);
    }
    let Some(last) = terms.pop() else { bail!("at least one input is needed") };
    let last = sum_out(c, last, &|label| output.contains(label))?;
    Ok(in_order(c, &last, &output)?.into())
}

fn labels_of(text: &str, ellipsis: usize) -> Result<Vec<Label>> {
    let (before, after) = text.split_once("...").unwrap_or((text, ""));
    let letter = |ch: char| -> Result<Label> {
        ensure!(ch.is_ascii_alphabetic(), "the term `{text}` has the character {ch:?}");
        Ok(Label::Letter(ch))
    };
    let before: Vec<Label> = before.chars().map(letter).collect::<Result<_>>()?;
    let after: Vec<Label> = after.chars().map(letter).collect::<Result<_>>()?;
    let ellipsis = (0..ellipsis).rev().map(Label::Ellipsis);
    Ok(before.into_iter().chain(ellipsis).chain(after).collect())
}

/// The axes under ellipses, then letters that occur once, in order of the alphabet.
fn implicit_output(terms: &[Term]) -> Vec<Label> {
    let all: Vec<Label> = terms.iter().flat_map(|t| t.labels.iter().copied()).collect();
    let once = |label: &Label| all.iter().filter(|other| *other == label).count() == 1;
    let mut letters: Vec<Label> =
        all.iter().copied().filter(|label| matches!(label, Label::Letter(_)) && once(label)).collect();
    letters.sort_unstable();
    let mut ellipsis: Vec<Label> =
        all.iter().copied().filter(|label| matches!(label, Label::Ellipsis(_))).collect();
    ellipsis.sort_unstable_by(|a, b| b.cmp(a));
    ellipsis.dedup();
    ellipsis.into_iter().chain(letters).collect()
}

/// Expands axes of extent 1 to the extent that axes of the same name have elsewhere.
fn broadcast(c: &mut Ctx, terms: &mut [Term]) -> Result<()> {
    let mut extents: HashMap<Label, Dim> = HashMap::new();
    for term in terms.iter() {
        for (&label, d) in term.labels.iter().zip(c.dims(term.value)) {
            let known = extents.entry(label).or_insert_with(|| d.clone());
            if known.is(1) {
                *known = d;
            } else {
                ensure!(d.is(1) || d == *known, "the axis {label:?} has the extents {known} and {d}");
            }
        }
    }
    for term in terms {
        let dims = term.labels.iter().map(|label| extents[label].clone()).collect();
        term.value = c.expand(term.value, dims)?;
    }
    Ok(())
}

/// Keeps what lies on the diagonal of axes that are called the same.
fn diagonal(c: &mut Ctx, mut term: Term) -> Result<Term> {
    while let Some(second) = (1..term.labels.len()).find(|&k| term.labels[..k].contains(&term.labels[k])) {
        let first = term.labels.iter().position(|label| *label == term.labels[second]).unwrap_or(0);
        let dims = c.dims(term.value);
        let (row, column) = (c.iota(dims.clone(), first, DType::I64)?, c.iota(dims, second, DType::I64)?);
        let (on, zero) = (c.equal(row, column)?, c.number_like(0.0, term.value));
        let kept = c.select(on, term.value, zero)?;
        term.value = c.sum(kept, &[second], false)?;
        term.labels.remove(second);
    }
    Ok(term)
}

fn sum_out(c: &mut Ctx, term: Term, needed: &dyn Fn(&Label) -> bool) -> Result<Term> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&k| !needed(&term.labels[k])).collect();
    let value = c.sum(term.value, &axes, false)?;
    Ok(Term { value, labels: term.labels.into_iter().filter(needed).collect() })
}

fn in_order(c: &mut Ctx, term: &Term, labels: &[Label]) -> Result<ValueId> {
    let perm = labels.iter().map(|label| term.labels.iter().position(|other| other == label));
    match perm.collect::<Option<Vec<usize>>>() {
        Some(perm) => c.transpose(term.value, &perm),
        None => bail!("an axis of the result is missing"),
    }
}

fn contract(c: &mut Ctx, a: Term, b: Term, needed: &dyn Fn(&Label) -> bool) -> Result<Term> {
    let a = sum_out(c, a, &|label| needed(label) || b.labels.contains(label))?;
    let b = sum_out(c, b, &|label| needed(label) || a.labels.contains(label))?;
    let part = |of: &Term, other: &Term, shared: bool, kept: bool| -> Vec<Label> {
        let chosen = |label: &&Label| other.labels.contains(label) == shared && needed(label) == kept;
        of.labels.iter().filter(chosen).copied().collect()
    };
    let (batch, summed) = (part(&a, &b, true, true), part(&a, &b, true, false));
    let (rows, columns) = (part(&a, &b, false, true), part(&b, &a, false, true));
    let left = in_order(c, &a, &[&batch[..], &rows, &summed].concat())?;
    let right = in_order(c, &b, &[&batch[..], &summed, &columns].concat())?;
    let (a_dims, b_dims) = (c.dims(left), c.dims(right));
    let n = batch.len();
    let (row_dims, column_dims) = (&a_dims[n..n + rows.len()], &b_dims[n + summed.len()..]);
    let matrix = |lead: &[Dim], m: &[Dim], n: &[Dim]| -> Vec<Dim> {
        [lead, &[m.iter().product(), n.iter().product()]].concat()
    };
    let left = c.reshape(left, matrix(&a_dims[..n], row_dims, &a_dims[n + rows.len()..]))?;
    let right = c.reshape(right, matrix(&b_dims[..n], &b_dims[n..n + summed.len()], column_dims))?;
    let product = if summed.is_empty() { c.times(left, right)? } else { c.matmul(left, right)? };
    let value = c.reshape(product, [&a_dims[..n], row_dims, column_dims].concat())?;
    Ok(Term { value, labels: [batch, rows, columns].concat() })
}

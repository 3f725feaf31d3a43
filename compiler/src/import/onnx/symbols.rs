//! Names of dimensions: what the model calls them, and the symbols they become.
//!
//! Invariants: two names of the model never become one symbol; a symbol is an identifier that the text form can
//! carry and that no loop variable has; a dimension with a given value is that number everywhere.

use crate::import::proto::{DimValue, Dimension, GraphProto, TensorType, TypeValue};
use aic_ir::dim::{Dim, Sym};
use aic_ir::ensure;
use aic_ir::error::Result;
use std::collections::{HashMap, HashSet};

/// The symbols of one import.
pub(super) struct Symbols<'m> {
    /// Dimensions by the model's names for them.
    named: HashMap<String, Dim>,
    /// Identifiers in use.
    used: HashSet<String>,
    /// Names that the model's inputs give to dimensions.
    declared: HashSet<&'m str>,
    /// Values given by the user.
    values: &'m HashMap<String, i64>,
}

impl<'m> Symbols<'m> {
    /// The symbols of a model whose main graph is given.
    pub(super) fn new(graph: &'m GraphProto, values: &'m HashMap<String, i64>) -> Symbols<'m> {
        let reserved = ["min", "max", "mod", "floordiv"];
        let declared = graph.input.iter().filter_map(|i| i.r#type.as_ref()?.value.as_ref());
        let declared = declared.flat_map(dims_of).filter_map(|d| match &d.value {
            Some(DimValue::DimParam(name)) => Some(name.as_str()),
            _ => None,
        });
        Symbols {
            named: HashMap::new(),
            used: reserved.into_iter().map(str::to_owned).collect(),
            declared: declared.collect(),
            values,
        }
    }

    /// A new symbol, named after `stem`.
    pub(super) fn fresh(&mut self, stem: &str) -> Sym {
        let stem = identifier(stem);
        let mut name = stem.clone();
        let mut n = 1;
        while !self.used.insert(name.clone()) {
            n += 1;
            name = format!("{stem}_{n}");
        }
        Sym::new(&name)
    }

    /// A dimension as the model declares it; one without a name or number becomes a symbol named after `stem`.
    pub(super) fn dim(&mut self, dim: &Dimension, stem: &str) -> Dim {
        match &dim.value {
            Some(DimValue::DimValue(n)) if *n >= 0 => (*n).into(),
            Some(DimValue::DimParam(name)) if !name.is_empty() => self.named(name),
            _ => Dim::sym(&self.fresh(stem)),
        }
    }

    /// Gives a dimension that the model declares the value it has in an input.
    ///
    /// # Errors
    /// It has another value.
    pub(super) fn bind(&mut self, dim: &Dimension, value: usize) -> Result<()> {
        let name = match &dim.value {
            Some(DimValue::DimValue(n)) => {
                ensure!(*n < 0 || *n == value as i64, "the model declares {n}, not {value}");
                return Ok(());
            }
            Some(DimValue::DimParam(name)) if !name.is_empty() => name,
            _ => return Ok(()),
        };
        let known = self.named(name);
        match known.as_const() {
            Some(n) => ensure!(n == value as i64, "`{name}` is {n}, not {value}"),
            None if known.as_sym().is_some() => {
                self.named.insert(name.clone(), value.into());
            }
            None => {}
        }
        Ok(())
    }

    /// The dimension with a name, or with an expression of names that the inputs have (`past + 1`).
    fn named(&mut self, name: &str) -> Dim {
        if let Some(dim) = self.named.get(name) {
            return dim.clone();
        }
        let dim = match self.values.get(name) {
            Some(&value) => value.into(),
            None => match self.expression(name) {
                Some(dim) => dim,
                None => self.symbol(name),
            },
        };
        self.named.insert(name.to_owned(), dim.clone());
        dim
    }

    fn symbol(&mut self, name: &str) -> Dim {
        let sym = self.fresh(name);
        match self.values.get(sym.name()) {
            Some(&value) => value.into(),
            None => Dim::sym(&sym),
        }
    }

    fn expression(&mut self, text: &str) -> Option<Dim> {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        if text.chars().all(is_name) || text.len() > 200 {
            return None;
        }
        let declared = |token: &str| token.parse::<i64>().is_ok() || self.declared.contains(token);
        if !text.split(|c| !is_name(c)).filter(|token| !token.is_empty()).all(declared) {
            return None;
        }
        let mut parser = Parser { rest: text, symbols: self };
        let dim = parser.sum()?;
        parser.rest.trim().is_empty().then_some(dim)
    }
}

/// The dimensions of a tensor type, none for other types.
fn dims_of(value: &TypeValue) -> &[Dimension] {
    match value {
        TypeValue::Tensor(TensorType { shape: Some(shape), .. }) => &shape.dim,
        _ => &[],
    }
}

/// A valid identifier close to the name. Names such as `i0` and `k` are loop variables.
fn identifier(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let text: String = name.chars().map(plain).collect();
    let text = text.trim_matches('_');
    let mut chars = text.chars();
    let starts_well = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    let loop_variable =
        text.starts_with(|c: char| c.is_ascii_lowercase()) && chars.all(|c| c.is_ascii_digit());
    match starts_well && !loop_variable {
        true => text.to_owned(),
        false if text.is_empty() => "dim".to_owned(),
        false => format!("dim_{text}"),
    }
}

/// Sums, differences, products and quotients of names and numbers.
struct Parser<'a, 's, 'm> {
    rest: &'a str,
    symbols: &'s mut Symbols<'m>,
}

impl Parser<'_, '_, '_> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<Dim> {
        let mut left = self.product()?;
        loop {
            if self.eat("+") {
                left = left + self.product()?;
            } else if self.eat("-") {
                left = left - self.product()?;
            } else {
                return Some(left);
            }
        }
    }

    fn product(&mut self) -> Option<Dim> {
        let mut left = self.factor()?;
        loop {
            if self.eat("*") {
                left = left * self.factor()?;
            } else if self.eat("//") || self.eat("/") {
                left = left.floor_div(&self.factor()?);
            } else {
                return Some(left);
            }
        }
    }

    fn factor(&mut self) -> Option<Dim> {
        if self.eat("(") {
            let inner = self.sum()?;
            return self.eat(")").then_some(inner);
        }
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        self.rest = rest;
        match token.parse::<i64>() {
            Ok(number) => Some(number.into()),
            Err(_) if token.is_empty() => None,
            Err(_) => Some(self.symbols.named(token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::proto::{TensorShapeProto, TypeProto, ValueInfoProto};

    fn named(name: &str) -> Dimension {
        Dimension { value: Some(DimValue::DimParam(name.into())), denotation: None }
    }

    fn graph(names: &[&str]) -> GraphProto {
        let shape = TensorShapeProto { dim: names.iter().map(|n| named(n)).collect() };
        let value = TypeValue::Tensor(TensorType { elem_type: Some(1), shape: Some(shape) });
        let r#type = Some(TypeProto { value: Some(value), denotation: None });
        GraphProto { input: vec![ValueInfoProto { r#type, ..Default::default() }], ..Default::default() }
    }

    #[test]
    fn names_become_identifiers() {
        let (graph, values) = (graph(&[]), HashMap::new());
        let mut s = Symbols::new(&graph, &values);
        let texts =
            ["batch", "batch size", "batch_size", "k", "i0", "s12", "1st", "長さ", "batch", "N", "min"];
        let dims: Vec<String> = texts.iter().map(|t| s.dim(&named(t), "").to_string()).collect();
        let expected = [
            "batch",
            "batch_size",
            "batch_size_2",
            "dim_k",
            "dim_i0",
            "dim_s12",
            "dim_1st",
            "dim",
            "batch",
            "N",
            "min_2",
        ];
        assert_eq!(dims, expected);
    }

    #[test]
    fn expressions_of_declared_names_are_expressions() {
        let graph = graph(&["past", "seq", "past + seq", "2*(seq+1)//2", "batch-size"]);
        let values = HashMap::from([("seq".to_owned(), 4)]);
        let mut s = Symbols::new(&graph, &values);
        assert_eq!(s.dim(&named("past + seq"), "").to_string(), "past+4");
        assert_eq!(s.dim(&named("2*(seq+1)//2"), "").to_string(), "5");
        assert_eq!(s.dim(&named("batch-size"), "").to_string(), "batch_size");
        assert_eq!(s.dim(&named("past +"), "").to_string(), "past_2");
    }

    #[test]
    fn unknown_dims_are_named_after_where_they_are() {
        let (graph, values) = (graph(&[]), HashMap::new());
        let mut s = Symbols::new(&graph, &values);
        assert_eq!(s.dim(&Dimension::default(), "x_0").to_string(), "x_0");
        let negative = Dimension { value: Some(DimValue::DimValue(-1)), denotation: None };
        assert_eq!(s.dim(&negative, "x_0").to_string(), "x_0_2");
    }
}

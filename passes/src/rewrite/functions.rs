//! Attribute functions: what the right side of a rule computes from what is known of its variables.
//!
//! A function gets the facts of its arguments and gives an attribute or a small constant; `None` where it isn't
//! defined, and then the rule doesn't apply.

use super::facts::Facts;
use super::lang::Attribute;
use aic_ir::op::{Attr, AttrValue};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;

/// A registered function.
#[derive(Debug)]
pub struct Function {
    /// Its name in rules, without `@`.
    pub name: &'static str,
    /// What it computes.
    pub run: fn(&[&Facts]) -> Option<Facts>,
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        /// Every function.
        pub const FUNCTIONS: &[Function] = &[$(Function { name: stringify!($name), run: $name }),*];
    };
}

functions! { compose, scalar, shape, dtype }

/// The function with this name.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// An attribute as a function's result.
pub fn attr(value: impl Attr) -> Option<Facts> {
    Some(Facts::attr(Attribute::new(value.to_value())))
}

/// An argument that is an attribute of a Rust type: `usize`, `Vec<usize>`, `Vec<Dim>`, `f64`..
pub fn arg<T: Attr>(facts: &Facts) -> Option<T> {
    T::from_value(facts.as_attr()?)
}

/// `(@compose ?outer ?inner)`: the permutation of `(transpose (transpose ?x ?inner) ?outer)`.
fn compose(x: &[&Facts]) -> Option<Facts> {
    let [outer, inner] = x else { return None };
    let (outer, inner) = (arg::<Vec<usize>>(outer)?, arg::<Vec<usize>>(inner)?);
    attr(outer.iter().map(|&k| inner.get(k).copied()).collect::<Option<Vec<usize>>>()?)
}

/// `(@scalar 0.5 ?x)`: a constant of rank 0 in the element type of `?x`.
fn scalar(x: &[&Facts]) -> Option<Facts> {
    let [value, like] = x else { return None };
    let dtype = like.ty()?.dtype;
    let value = match value.as_attr()? {
        AttrValue::Dim(d) => Scalar::I(d.as_const()?),
        other => Scalar::F(f64::from_value(other)?),
    };
    Some(Facts::constant(&Tensor::scalar(dtype, value)))
}

/// `(@shape ?x)`: the extents of `?x`.
fn shape(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.dims()?.to_vec())
}

/// `(@dtype ?x)`: the element type of `?x`.
fn dtype(x: &[&Facts]) -> Option<Facts> {
    attr(x.first()?.ty()?.dtype)
}

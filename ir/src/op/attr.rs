//! Attribute values: what the text form can print and parse, and how Rust types map to it.

use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::{bail, ensure};
use std::sync::Arc;

/// An attribute as the text form has it.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrValue {
    /// An integer, or an expression over symbols.
    Dim(Dim),
    /// A float; always printed with a point, an exponent, or as `nan`, `inf`, `-inf`.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A quoted string.
    Str(String),
    /// A bare word: an element type or one of a few choices.
    Word(String),
    /// `[a, b, c]`
    List(Vec<AttrValue>),
    /// A constant: `f32[2] [1.0, 2.0]`
    Tensor(Tensor),
    /// A body.
    Graph(Arc<Graph>),
}

impl AttrValue {
    /// What it is, for error messages.
    fn kind(&self) -> &'static str {
        match self {
            AttrValue::Dim(_) => "an integer expression",
            AttrValue::Float(_) => "a float",
            AttrValue::Bool(_) => "true or false",
            AttrValue::Str(_) => "a string",
            AttrValue::Word(_) => "a word",
            AttrValue::List(_) => "a list",
            AttrValue::Tensor(_) => "a constant",
            AttrValue::Graph(_) => "a graph",
        }
    }
}

/// A Rust type that can be an attribute.
pub trait Attr: Sized + Clone {
    /// As the text form has it.
    fn to_value(&self) -> AttrValue;
    /// The reverse; `None` if it is of another kind.
    fn from_value(value: &AttrValue) -> Option<Self>;
    /// What is expected, for error messages.
    const EXPECTED: &'static str;
    /// A copy with symbols replaced.
    #[must_use]
    fn subst(&self, _f: &dyn Fn(&Sym) -> Option<Dim>) -> Self {
        self.clone()
    }
}

/// The attribute `name` of operator `op`.
pub(crate) fn get<T: Attr>(op: &str, attrs: &[(String, AttrValue)], name: &str) -> Result<T> {
    let Some((_, value)) = attrs.iter().find(|(n, _)| n == name) else {
        bail!("{op}: missing attribute {name} ({})", T::EXPECTED)
    };
    match T::from_value(value) {
        Some(v) => Ok(v),
        None => bail!("{op}: attribute {name} must be {}, found {}", T::EXPECTED, value.kind()),
    }
}

fn list_of(known: &[&str]) -> String {
    if known.is_empty() { "it has none".into() } else { format!("it has {}", known.join(", ")) }
}

/// Refuses attributes that the operator doesn't have.
pub(crate) fn check_names(op: &str, attrs: &[(String, AttrValue)], known: &[&str]) -> Result<()> {
    for (name, _) in attrs {
        ensure!(known.contains(&name.as_str()), "{op}: unknown attribute {name}; {}", list_of(known));
    }
    Ok(())
}

impl Attr for Dim {
    const EXPECTED: &'static str = "an integer expression";
    fn to_value(&self) -> AttrValue {
        AttrValue::Dim(self.clone())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Dim(d) => Some(d.clone()),
            AttrValue::Word(w) => Some(Dim::named(w)),
            _ => None,
        }
    }
    fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Self {
        Dim::subst(self, f)
    }
}

macro_rules! int_attrs {
    ($($t:ty),*) => { $(
        impl Attr for $t {
            const EXPECTED: &'static str = "an integer";
            fn to_value(&self) -> AttrValue { AttrValue::Dim(Dim::from(*self as i64)) }
            fn from_value(value: &AttrValue) -> Option<Self> {
                match value { AttrValue::Dim(d) => d.as_const()?.try_into().ok(), _ => None }
            }
        }
    )* };
}

int_attrs!(i64, usize);

impl Attr for f64 {
    const EXPECTED: &'static str = "a float";
    fn to_value(&self) -> AttrValue {
        AttrValue::Float(*self)
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Float(x) => Some(*x),
            AttrValue::Dim(d) => d.as_const().map(|i| i as f64),
            _ => None,
        }
    }
}

impl Attr for bool {
    const EXPECTED: &'static str = "true or false";
    fn to_value(&self) -> AttrValue {
        AttrValue::Bool(*self)
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Bool(b) => Some(*b),
            _ => None,
        }
    }
}

impl Attr for DType {
    const EXPECTED: &'static str = "an element type";
    fn to_value(&self) -> AttrValue {
        AttrValue::Word(self.keyword().into())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Word(w) => DType::from_keyword(w),
            _ => None,
        }
    }
}

impl Attr for Tensor {
    const EXPECTED: &'static str = "a tensor";
    fn to_value(&self) -> AttrValue {
        AttrValue::Tensor(self.clone())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Tensor(t) => Some(t.clone()),
            _ => None,
        }
    }
}

impl Attr for Arc<Graph> {
    const EXPECTED: &'static str = "a graph";
    fn to_value(&self) -> AttrValue {
        AttrValue::Graph(self.clone())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Graph(g) => Some(g.clone()),
            _ => None,
        }
    }
    fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Self {
        Arc::new(Graph::subst(self, f))
    }
}

impl<T: Attr> Attr for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn to_value(&self) -> AttrValue {
        AttrValue::List(self.iter().map(Attr::to_value).collect())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::List(items) => items.iter().map(T::from_value).collect(),
            _ => None,
        }
    }
    fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Self {
        self.iter().map(|x| x.subst(f)).collect()
    }
}

/// Implements [`Attr`] for an enum of bare words.
macro_rules! word_attr {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $kw:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every choice.
            pub const ALL: &[$name] = &[$($name::$variant),*];
        }

        impl $crate::op::Attr for $name {
            const EXPECTED: &'static str = concat!("one of", $(" ", $kw),*);
            fn to_value(&self) -> $crate::op::AttrValue {
                $crate::op::AttrValue::Word(match self { $($name::$variant => $kw),* }.into())
            }
            fn from_value(value: &$crate::op::AttrValue) -> Option<Self> {
                match value {
                    $($crate::op::AttrValue::Word(w) if w == $kw => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use word_attr;

impl Attr for crate::compute::ReduceOp {
    const EXPECTED: &'static str = "one of sum prod max min and or argmax argmax_last argmin argmin_last";
    fn to_value(&self) -> AttrValue {
        AttrValue::Word(self.keyword().into())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Word(w) => Self::from_keyword(w),
            _ => None,
        }
    }
}

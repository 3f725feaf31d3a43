//! Core operators: a closed enum, each operator in one place.
//!
//! An operator is a struct declared by [`op!`] (text keyword, operands, attributes) with an [`Operator`] impl beside
//! it (types, reference meaning, compute definition, samples), and one line in [`ops!`] below. Nothing else in the
//! compiler lists operators.

mod activation;
mod attention;
mod attr;
mod bodies;
mod channels_last;
mod collect;
mod contract;
mod control;
mod conv;
mod det;
mod elementwise;
mod fused;
mod gather;
mod grid_sample;
mod index;
mod loops;
mod nms;
mod normalize;
mod number;
mod pool;
mod random;
mod reduce;
mod roi_align;
mod rotary;
mod sample;
mod scatter;
mod search;
mod shape;
mod slice;
mod softmax;
mod window;
mod winograd;

pub use activation::*;
pub use attention::*;
pub use attr::{Attr, AttrValue};
pub use channels_last::*;
pub use contract::*;
pub use control::*;
pub use conv::*;
pub use det::*;
pub use elementwise::*;
pub use fused::*;
pub use gather::*;
pub use grid_sample::*;
pub use index::*;
pub use nms::*;
pub use normalize::*;
pub use pool::*;
pub use random::*;
pub use reduce::*;
pub use roi_align::*;
pub use rotary::*;
pub use sample::{Operand, Rng, Sample, Values};
pub use scatter::*;
pub use search::*;
pub use shape::*;
pub use slice::*;
pub use softmax::*;
pub use winograd::*;

use crate::compute::Compute;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::scalar::ScalarFn;
use crate::tensor::{Tensor, numel};
use crate::types::Type;
use crate::{bail, ensure};
use std::collections::BTreeSet;

/// What every operator provides.
pub trait Operator: Sized {
    /// The types of the results; an error says which operand is wrong, what was expected and what was found.
    /// The number of operands has been checked.
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>>;

    /// The reference meaning: slow, obvious, and independent of [`Operator::compute`]. Operands have the types that
    /// `infer` accepted, with every symbol in types and attributes replaced by a number.
    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>>;

    /// The compute definition, for operators that are expressions.
    fn compute(&self, _x: &[Type], _y: &[Type]) -> Option<Compute> {
        None
    }

    /// The loops themselves, over operands `x0, x1, ..` and results `y0, y1, ..`, for operators that are no
    /// expressions. Indices that are data are clamped, never followed out of bounds.
    fn kernel(&self, _x: &[Type], _y: &[Type]) -> Option<Kernel> {
        None
    }

    /// Expressions that must be at least 0 for the compute definition to stay within its operands; `infer` refuses
    /// operands for which one can't be.
    fn requires(&self, _x: &[Type]) -> Vec<Dim> {
        Vec::new()
    }

    /// A random instance for the differential tests: every attribute and operand type should turn up.
    fn sample(rng: &mut Rng) -> Sample;
}

/// Declares an operator's struct, text keyword, operands and attributes. `(xs..)` takes one operand or more.
macro_rules! op {
    ($(#[$doc:meta])* $name:ident = $kw:literal ($($input:ident),* $(; $rest:ident ..)?) { $($(#[$adoc:meta])* $attr:ident : $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$adoc])* pub $attr: $ty),* }

        impl $name {
            /// The keyword in the text form.
            pub const KEYWORD: &'static str = $kw;
            /// Names of the operands.
            pub const INPUTS: &'static [&'static str] = &[$(stringify!($input)),*];
            /// The name of the operands that may follow in any number, if they may.
            pub const REST: Option<&'static str> = $crate::op::op!(@rest $($rest)?);
            /// Names of the attributes.
            pub const ATTRS: &'static [&'static str] = &[$(stringify!($attr)),*];

            #[allow(unused_mut, unused_variables, clippy::vec_init_then_push)]
            pub(crate) fn attrs(&self) -> Vec<(&'static str, $crate::op::AttrValue)> {
                vec![$((stringify!($attr), $crate::op::Attr::to_value(&self.$attr))),*]
            }

            #[allow(unused_variables)]
            pub(crate) fn from_attrs(attrs: &[(String, $crate::op::AttrValue)]) -> $crate::error::Result<Self> {
                $crate::op::attr::check_names($kw, attrs, &[$(stringify!($attr)),*])?;
                Ok(Self { $($attr: $crate::op::attr::get($kw, attrs, stringify!($attr))?),* })
            }

            #[allow(unused_variables)]
            pub(crate) fn attr_value(name: &str, value: &$crate::op::AttrValue) -> Option<$crate::op::AttrValue> {
                $(if name == stringify!($attr) {
                    return <$ty as $crate::op::Attr>::from_value(value).map(|v| $crate::op::Attr::to_value(&v));
                })*
                None
            }

            #[allow(unused_variables)]
            pub(crate) fn subst(&self, f: &dyn Fn(&$crate::dim::Sym) -> Option<$crate::dim::Dim>) -> Self {
                Self { $($attr: $crate::op::Attr::subst(&self.$attr, f)),* }
            }
        }
    };
    (@rest) => { None };
    (@rest $rest:ident) => { Some(stringify!($rest)) };
}
pub(crate) use op;

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name)),*
        }

        impl Op {
            /// Text keywords of all operators but the elementwise functions, which have their own.
            pub const KEYWORDS: &[&str] = &[$($name::KEYWORD),*];

            /// Attributes in order of declaration.
            pub fn attrs(&self) -> Vec<(&'static str, AttrValue)> { match self { $(Op::$name(o) => o.attrs()),* } }

            /// Names of the operands, and of those that may follow in any number.
            pub fn operands(&self) -> (&'static [&'static str], Option<&'static str>) {
                match self { $(Op::$name(_) => ($name::INPUTS, $name::REST)),* }
            }

            /// A copy with symbols replaced in its attributes.
            #[must_use]
            pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Op { match self { $(Op::$name(o) => Op::$name(o.subst(f))),* } }

            fn compute_of_struct(&self, x: &[Type], y: &[Type]) -> Option<Compute> { match self { $(Op::$name(o) => o.compute(x, y)),* } }

            /// The loops, for operators that build them themselves; its name is empty.
            pub fn kernel(&self, x: &[Type], y: &[Type]) -> Option<Kernel> { match self { $(Op::$name(o) => o.kernel(x, y)),* } }

            /// Expressions that must be at least 0 for the compute definition to stay within its operands.
            pub fn requires(&self, x: &[Type]) -> Vec<Dim> { match self { $(Op::$name(o) => o.requires(x)),* } }

            /// Random instances, one sampler per operator.
            pub const SAMPLERS: &[(&str, fn(&mut Rng) -> Sample)] = &[$(($name::KEYWORD, $name::sample)),*];

            fn keyword_of_struct(&self) -> &'static str { match self { $(Op::$name(_) => $name::KEYWORD),* } }

            fn infer_checked(&self, x: &[&Type]) -> Result<Vec<Type>> { match self { $(Op::$name(o) => o.infer(x)),* } }

            fn eval_unchecked(&self, x: &[Tensor]) -> Result<Vec<Tensor>> { match self { $(Op::$name(o) => o.eval(x)),* } }

            fn struct_signature(keyword: &str) -> Option<OpSignature> {
                $(if keyword == $name::KEYWORD {
                    return Some(OpSignature {
                        keyword: $name::KEYWORD,
                        n_operands: $name::INPUTS.len(),
                        has_rest: $name::REST.is_some(),
                        attrs: $name::ATTRS,
                        attr_value: $name::attr_value,
                    });
                })*
                None
            }

            fn from_struct_keyword(keyword: &str, attrs: &[(String, AttrValue)]) -> Option<Result<Op>> {
                $(if keyword == $name::KEYWORD { return Some($name::from_attrs(attrs).map(Op::$name)) })*
                None
            }
        }

        $(impl From<$name> for Op { fn from(o: $name) -> Op { Op::$name(o) } })*
    };
}

ops! {
    Const, Elementwise, Cast, Bitcast, Reshape, Transpose, Expand, Matmul, Reduce,
    Slice, Concat, Pad, Gather, GatherElements, GatherNd, ScatterElements, ScatterNd, Iota, DimValue,
    TopK, NonZero, Unique, Nms,
    Conv, Pool, PoolIndex, ChannelsLastConv, ChannelsLastPool, Winograd, Softmax, LogSoftmax, Cumulative, Activation, Normalize, Rotary, Attention, Fused, If, Loop, Scan,
    Random, GridSample, RoiAlign, Det,
}

/// What operators of a keyword take.
#[derive(Clone, Copy, Debug)]
pub struct OpSignature {
    /// The keyword.
    pub keyword: &'static str,
    /// The number of operands; the least number where more may follow.
    pub n_operands: usize,
    /// Whether more operands may follow.
    pub has_rest: bool,
    /// Names of the attributes in order of declaration.
    pub attrs: &'static [&'static str],
    attr_value: fn(&str, &AttrValue) -> Option<AttrValue>,
}

impl OpSignature {
    /// The form that [`Op::attrs`] gives to a value of attribute `name`; `None` where it is no value of that attribute.
    pub fn attr_value(&self, name: &str, value: &AttrValue) -> Option<AttrValue> {
        (self.attr_value)(name, value)
    }
}

impl Op {
    /// The compute definition, for operators that are expressions; `x` and `y` are the types of operands and results.
    pub fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let used: BTreeSet<Sym> = x.iter().chain(y).flat_map(|t| &t.dims).flat_map(Dim::symbols).collect();
        if used.is_empty() {
            return self.compute_of_struct(x, y);
        }
        // Definitions name axes as they like; a dim may have the same name.
        let dim = |s: &Sym| Sym::new(&format!("dim {}", s.name()));
        let apart = |t: &Type| t.subst(&|s| Some(Dim::sym(&dim(s))));
        let [x, y] = [x, y].map(|types| types.iter().map(apart).collect::<Vec<Type>>());
        let mut c = self.subst(&|s| Some(Dim::sym(&dim(s)))).compute_of_struct(&x, &y)?;
        let axis = |s: &Sym| used.contains(s).then(|| Dim::named(&format!("{}'", s.name())));
        c.subst_axes(&axis);
        c.subst(&|s| s.name().strip_prefix("dim ").map(Dim::named));
        Some(c)
    }

    /// What operators of a keyword take; `None` for unknown keywords.
    pub fn signature(keyword: &str) -> Option<OpSignature> {
        let Some(f) = ScalarFn::from_keyword(keyword) else { return Op::struct_signature(keyword) };
        Some(OpSignature {
            keyword: f.keyword(),
            n_operands: f.arity(),
            has_rest: false,
            attrs: &[],
            attr_value: |_, _| None,
        })
    }

    /// The keyword in the text form; for an elementwise operator the name of its function.
    pub fn keyword(&self) -> &'static str {
        match self {
            Op::Elementwise(e) => e.f.keyword(),
            _ => self.keyword_of_struct(),
        }
    }

    /// The operator with the given keyword and attributes.
    pub fn parse(keyword: &str, attrs: &[(String, AttrValue)]) -> Result<Op> {
        if let Some(f) = ScalarFn::from_keyword(keyword) {
            attr::check_names(keyword, attrs, &[])?;
            return Ok(Op::Elementwise(Elementwise { f }));
        }
        match Op::from_struct_keyword(keyword, attrs) {
            Some(op) => op,
            None => bail!("unknown operator {keyword}"),
        }
    }

    /// The types of the results.
    pub fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        self.check_arity(x.len())?;
        for t in x {
            check_type(t)?;
        }
        let y = self.infer_checked(x)?;
        y.iter().try_for_each(check_type)?;
        Ok(y)
    }

    /// The reference meaning on concrete operands, which are checked first.
    pub fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let types: Vec<Type> = x.iter().map(|t| Type::of(t.dtype(), t.shape())).collect();
        self.infer(&types.iter().collect::<Vec<_>>())?;
        self.eval_unchecked(x)
    }

    fn check_arity(&self, n: usize) -> Result<()> {
        if let Op::Elementwise(e) = self {
            ensure!(n == e.f.arity(), "expected {} operands, found {n}", e.f.arity());
            return Ok(());
        }
        let (fixed, rest) = self.operands();
        let fits = if rest.is_some() { n >= fixed.len() } else { n == fixed.len() };
        ensure!(
            fits,
            "expected {}{} operands, found {n}",
            if rest.is_some() { "at least " } else { "" },
            fixed.len()
        );
        Ok(())
    }
}

/// Whether a type can be that of a tensor, as far as its extents are known.
fn check_type(t: &Type) -> Result<()> {
    ensure!(t.dtype != DType::String, "strings are not supported, found {t}");
    let known: Vec<i64> = t.dims.iter().filter_map(Dim::as_const).collect();
    ensure!(known.iter().all(|&d| d >= 0), "an extent of {t} is negative");
    numel(&known.iter().map(|&d| d as usize).collect::<Vec<_>>())?;
    Ok(())
}

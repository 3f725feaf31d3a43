//! Guards: what must be known of a rule's variables for it to apply.
//!
//! A guard gets the facts of its arguments (attributes written out are facts too), and says whether it holds for
//! certain.

use super::facts::Facts;
use aic_ir::op::{Attr, AttrValue};
use aic_ir::scalar::Scalar;

/// A registered guard.
#[derive(Debug)]
pub struct Guard {
    /// Its name in rules.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: fn(&[&Facts]) -> bool,
}

impl PartialEq for Guard {
    fn eq(&self, other: &Guard) -> bool {
        self.name == other.name
    }
}

/// Every guard by its name in rules.
pub const GUARDS: &[Guard] = &[
    Guard { name: "is", holds: is },
    Guard { name: "const", holds: |x| x.iter().all(|f| f.is_const) },
    Guard { name: "float", holds: |x| x.iter().all(|f| f.ty().is_some_and(|ty| ty.dtype.is_float())) },
    Guard { name: "int", holds: |x| x.iter().all(|f| f.ty().is_some_and(|ty| ty.dtype.is_int())) },
    Guard { name: "nonneg", holds: |x| x.iter().all(|f| f.is_nonneg) },
    Guard { name: "same_type", holds: same_type },
];

/// The guard with this name.
pub fn find(name: &str) -> Option<&'static Guard> {
    GUARDS.iter().find(|g| g.name == name)
}

/// `is(?c, 0.5)`: a small constant all of whose elements are this number, rounded to its element type.
pub fn is(x: &[&Facts]) -> bool {
    let [c, value] = x else { return false };
    let (Some(found), Some(ty)) = (c.splat(), c.ty()) else { return false };
    let value = match value.as_attr() {
        Some(AttrValue::Dim(d)) => d.as_const().map(Scalar::I),
        Some(AttrValue::Bool(b)) => Some(Scalar::B(*b)),
        Some(other) => f64::from_value(other).map(Scalar::F),
        None => None,
    };
    // An integer's element type holds only what it holds exactly.
    value.is_some_and(|v| v.cast(ty.dtype) == found && (ty.dtype.is_float() || found.as_f64() == v.as_f64()))
}

/// `same_type(?x, ?y)`: tensors of one element type and the same extents.
fn same_type(x: &[&Facts]) -> bool {
    x.windows(2).all(|w| w[0].ty().is_some() && w[0].ty() == w[1].ty())
}

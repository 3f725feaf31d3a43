//! A line of the operator table.

use super::ctx::{Ctx, Outputs};
use aic_ir::error::Result;

/// How one operator of ONNX is imported, in the versions of its domain given.
pub struct Operator {
    /// The domain; empty for the default one.
    pub domain: &'static str,
    /// The operator's name.
    pub name: &'static str,
    /// The first version of the operator set to which this line applies.
    pub since: i64,
    /// The last version to which it applies.
    pub until: i64,
    pub(super) import: Import,
}

/// Adds the core operators that a node stands for, and gives its results.
pub(super) type Import = fn(&mut Ctx<'_>) -> Result<Outputs>;

/// An operator of the default domain.
pub(super) const fn op(name: &'static str, since: i64, import: Import) -> Operator {
    Operator { domain: "", name, since, until: i64::MAX, import }
}

/// An operator of ONNX Runtime's domain.
pub(super) const fn contrib(name: &'static str, import: Import) -> Operator {
    Operator { domain: "com.microsoft", name, since: 1, until: i64::MAX, import }
}

impl Operator {
    pub(super) const fn until(self, until: i64) -> Operator {
        Operator { until, ..self }
    }

    pub(super) const fn domain(self, domain: &'static str) -> Operator {
        Operator { domain, ..self }
    }
}

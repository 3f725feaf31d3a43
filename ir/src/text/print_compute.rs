//! Prints compute definitions.

use super::print_kernel::{constant, index, list};
use crate::compute::{Axis, Compute, Expr, Source, Stage};
use std::fmt::{Display, Formatter, Result, Write};

impl Display for Compute {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("compute(")?;
        for (k, ty) in self.inputs.iter().enumerate() {
            write!(f, "{}%{k}: {ty}", if k == 0 { "" } else { ", " })?;
        }
        f.write_str(") {\n")?;
        for (k, s) in self.stages.iter().enumerate() {
            writeln!(f, "  stage %s{k}: {s}")?;
        }
        f.write_str("  return ")?;
        list(f, &self.outputs.iter().map(|&k| Source::Stage(k)).collect::<Vec<_>>())?;
        f.write_str("\n}\n")
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}[", self.dtype)?;
        list(f, &self.axes)?;
        f.write_str("] = ")?;
        if let Some(r) = &self.reduction {
            write!(f, "{}[", r.op.keyword())?;
            list(f, &r.axes)?;
            f.write_str("] ")?;
        }
        write!(f, "{}", self.value)
    }
}

impl Display for Axis {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}: {}", self.var, self.extent)
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Source::Input(k) => write!(f, "%{k}"),
            Source::Stage(k) => write!(f, "%s{k}"),
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expr::Const(dtype, x) => constant(f, *dtype, *x),
            Expr::Index(d) => index(f, d),
            Expr::Load(source, at) => {
                write!(f, "{source}[")?;
                list(f, at)?;
                f.write_char(']')
            }
            Expr::Call(function, args) => {
                write!(f, "{}(", function.keyword())?;
                list(f, args)?;
                f.write_char(')')
            }
            Expr::Cast(dtype, e) => write!(f, "cast({dtype}, {e})"),
        }
    }
}

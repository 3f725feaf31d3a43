//! What the scalar unit does: elements that it fetches one by one, conditions and values that indices depend on.

use super::roles::loads;
use super::text::{constant, ctype, name};
use super::writer::Writer;
use aic_ir::bail;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Expr, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};

impl<'a> Writer<'a> {
    /// A row of which the scalar unit fetches each element.
    pub(super) fn elements(&mut self, var: &Sym, end: &Dim, body: &'a [Stmt]) -> Result<()> {
        let Some(Stmt::Store { buffer, index: Expr::Index(at), value, .. }) = body.last() else {
            bail!("a row without a store")
        };
        let (n, v) = (self.extent(end), name(var));
        // What used the buffer before is done with it, and what uses it now finds all of it.
        self.barrier();
        self.flag("V_S");
        self.flag("MTE3_S");
        self.text.open(format!("for (int64_t {v} = 0; {v} < {n}; ++{v}) {{"));
        let scope = self.lets.clone();
        for s in &body[..body.len() - 1] {
            if let Stmt::Let { var, value } = s {
                let ty = self.scalar_type(value);
                if loads(value).is_empty() {
                    self.lets.insert(var.clone(), value.clone());
                } else {
                    let value = self.scalar(value)?;
                    self.text.line(format!("const {} {} = {value};", ctype(ty)?, name(var)));
                }
            }
        }
        let value = self.scalar(value)?;
        self.text.line(format!("{}.SetValue({}, {value});", name(buffer), self.index(at)));
        self.lets = scope;
        self.text.close();
        self.flag("S_V");
        self.flag("S_MTE3");
        Ok(())
    }

    fn scalar_type(&self, e: &Expr) -> DType {
        let of = |s: &Sym| self.dtype(s);
        e.ty(&of).map_or(DType::I64, |t| t.dtype)
    }

    /// An expression of the scalar unit.
    pub(super) fn scalar(&mut self, e: &Expr) -> Result<String> {
        Ok(match e {
            Expr::Const(DType::I64, s) => s.as_i64().to_string(),
            Expr::Const(DType::Bool, Scalar::B(b)) => b.to_string(),
            Expr::Const(t, s) => constant(*t, *s)?,
            Expr::Index(d) => self.index(d),
            Expr::Var(v, _) => match self.lets.get(v).cloned() {
                Some(bound) => self.scalar(&bound)?,
                None => name(v),
            },
            Expr::Load { buffer, index, mask } => {
                let Expr::Index(at) = &**index else { bail!("the scalar unit loads single elements") };
                let load = format!("{}.GetValue({})", self.place(buffer), self.index(at));
                match mask {
                    Some(m) => {
                        let t = self.dtype(buffer).unwrap_or(DType::F32);
                        format!("({} ? {load} : {})", self.scalar(m)?, constant(t, Scalar::zero(t))?)
                    }
                    None => load,
                }
            }
            Expr::Cast(t, e) => format!("({})({})", ctype(*t)?, self.scalar(e)?),
            Expr::Call(f, args) => {
                let args: Vec<String> = args.iter().map(|a| self.scalar(a)).collect::<Result<_>>()?;
                operation(*f, &args)?
            }
            _ => bail!("the scalar unit has no form of this expression"),
        })
    }
}

/// A function of scalars.
fn operation(f: ScalarFn, args: &[String]) -> Result<String> {
    let binary = |op: &str| format!("({} {op} {})", args[0], args[1]);
    Ok(match f {
        ScalarFn::Add => binary("+"),
        ScalarFn::Sub => binary("-"),
        ScalarFn::Mul => binary("*"),
        ScalarFn::Lt => binary("<"),
        ScalarFn::Le => binary("<="),
        ScalarFn::Gt => binary(">"),
        ScalarFn::Ge => binary(">="),
        ScalarFn::Eq => binary("=="),
        ScalarFn::Ne => binary("!="),
        ScalarFn::And => binary("&&"),
        ScalarFn::Or => binary("||"),
        ScalarFn::Not => format!("!{}", args[0]),
        ScalarFn::Neg => format!("-{}", args[0]),
        ScalarFn::Min => format!("Lesser({}, {})", args[0], args[1]),
        ScalarFn::Max => format!("Greater({}, {})", args[0], args[1]),
        ScalarFn::Select => format!("({} ? {} : {})", args[0], args[1], args[2]),
        ScalarFn::Mod => format!("FloorMod({}, {})", args[0], args[1]),
        ScalarFn::Div => binary("/"),
        _ => bail!("the scalar unit has no {}", f.keyword()),
    })
}

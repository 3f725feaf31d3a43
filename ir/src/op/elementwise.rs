//! Elementwise operators: a scalar function applied under broadcasting, and conversions.

use super::{AttrValue, Operand, Operator, Rng, Sample, attr, op};
use crate::compute::{Compute, Expr};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn, Signature};
use crate::tensor::{Tensor, numel, reserve};
use crate::types::{Type, broadcast};
use crate::{bail, ensure};

/// A [`ScalarFn`] applied to every element, with multidirectional broadcasting. Its keyword is the function's.
#[derive(Clone, Debug, PartialEq)]
pub struct Elementwise {
    /// The function.
    pub f: ScalarFn,
}

impl Elementwise {
    /// Stands for all functions in tables; the text form has the function's keyword.
    pub const KEYWORD: &'static str = "elementwise";
    /// The number of operands is the function's arity.
    pub const INPUTS: &'static [&'static str] = &["x"];
    /// See `INPUTS`.
    pub const REST: Option<&'static str> = Some("more");
    /// It has none.
    pub const ATTRS: &'static [&'static str] = &[];

    pub(crate) fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
        Vec::new()
    }

    pub(crate) fn from_attrs(attrs: &[(String, AttrValue)]) -> Result<Self> {
        attr::check_names(Self::KEYWORD, attrs, &[])?;
        bail!("write the function's name instead of {}", Self::KEYWORD)
    }

    pub(crate) fn attr_value(_name: &str, _value: &AttrValue) -> Option<AttrValue> {
        None
    }

    pub(crate) fn subst(&self, _f: &dyn Fn(&Sym) -> Option<Dim>) -> Self {
        self.clone()
    }
}

impl Operator for Elementwise {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let dtypes: Vec<DType> = x.iter().map(|t| t.dtype).collect();
        let Some(dtype) = self.f.result(&dtypes) else {
            let found: Vec<String> = dtypes.iter().map(DType::to_string).collect();
            bail!("expected {}, found {}", expected(self.f), found.join(", "))
        };
        let dims: Vec<&[Dim]> = x.iter().map(|t| &t.dims[..]).collect();
        Ok(vec![Type::new(dtype, broadcast(&dims)?)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shapes: Vec<Vec<Dim>> = x.iter().map(|t| t.shape().iter().map(|&d| d.into()).collect()).collect();
        let dims = broadcast(&shapes.iter().map(|s| &s[..]).collect::<Vec<_>>())?;
        let shape = Type::new(DType::Bool, dims).shape().unwrap_or_default();
        let dtypes: Vec<DType> = x.iter().map(Tensor::dtype).collect();
        let Some(result) = self.f.result(&dtypes) else { bail!("operand types were not checked") };
        let at: Vec<Vec<usize>> =
            x.iter().map(|t| broadcast_positions(t.shape(), &shape)).collect::<Result<_>>()?;
        if let Some(y) = arithmetic(self.f, x, &at, &shape) {
            return Ok(vec![y?]);
        }
        let operand_type = if self.f == ScalarFn::Select { dtypes[1] } else { dtypes[0] };
        let y = Tensor::generate(result, shape, |i| {
            let args: Vec<Scalar> = x.iter().zip(&at).map(|(t, at)| t.get(at[i])).collect();
            self.f.eval(operand_type, &args)
        })?;
        Ok(vec![y])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        // 16-bit floats are computed in f32 and rounded once.
        let work = |t: DType| if self.f == ScalarFn::Select { t } else { t.compute() };
        let result = match self.f.signature() {
            Signature::Compare | Signature::Test => DType::Bool,
            _ => work(y[0].dtype),
        };
        Some(Compute::map(x, &y[0], |i| {
            let args = x
                .iter()
                .enumerate()
                .map(|(k, t)| Expr::input(k, broadcast_indices(&t.dims, i)).cast(t.dtype, work(t.dtype)));
            Expr::Call(self.f, args.collect()).cast(result, y[0].dtype)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let f = rng.pick(ScalarFn::ALL);
        let mut dtype = rng.pick(&DType::ALL[..13]);
        if f.result(&vec![dtype; f.arity()]).is_none() && f != ScalarFn::Select {
            dtype = match f.signature() {
                Signature::Bool => DType::Bool,
                Signature::Int => rng.pick(&[DType::I32, DType::U8, DType::I64]),
                _ => rng.pick(&[DType::F32, DType::F64, DType::F16]),
            };
        }
        let rank = rng.below(4);
        let shape = rng.shape(rank);
        let operands = (0..f.arity())
            .map(|k| {
                let dtype = if f == ScalarFn::Select && k == 0 { DType::Bool } else { dtype };
                Operand::any(dtype, narrowed(rng, &shape))
            })
            .collect();
        Sample { op: Elementwise { f }.into(), operands }
    }
}

/// Arithmetic on `f32`, which is most of what constant folding evaluates: in `f64` and rounded, as [`ScalarFn::eval`]
/// does it for one element.
fn arithmetic(f: ScalarFn, x: &[Tensor], at: &[Vec<usize>], shape: &[usize]) -> Option<Result<Tensor>> {
    let f: fn(f64, f64) -> f64 = match f {
        ScalarFn::Add => |a, b| a + b,
        ScalarFn::Sub => |a, b| a - b,
        ScalarFn::Mul => |a, b| a * b,
        ScalarFn::Div => |a, b| a / b,
        _ => return None,
    };
    let (a, b) = (x[0].to_vec::<f32>().ok()?, x[1].to_vec::<f32>().ok()?);
    let y = at[0].iter().zip(&at[1]).map(|(&i, &j)| f(a[i].into(), b[j].into()) as f32);
    Some(Tensor::from_vec(shape.to_vec(), &y.collect::<Vec<f32>>()))
}

fn expected(f: ScalarFn) -> &'static str {
    match f.signature() {
        Signature::Float | Signature::Test => "one float type",
        Signature::Num => "one number type",
        Signature::Int => "one integer type",
        Signature::Bool => "bool",
        Signature::Compare => "one type twice",
        Signature::Select => "bool and one type twice",
    }
}

/// The shape, with some extents replaced by 1 and perhaps without its first axes.
fn narrowed(rng: &mut Rng, shape: &[usize]) -> Vec<usize> {
    if rng.one_in(2) {
        return shape.to_vec();
    }
    let from = rng.below(shape.len() + 1);
    shape[from..].iter().map(|&d| if rng.one_in(3) { 1 } else { d }).collect()
}

/// Indices into an operand of extents `dims` at the output indices `i`: right-aligned, 0 where the extent is 1.
pub(crate) fn broadcast_indices(dims: &[Dim], i: &[Dim]) -> Vec<Dim> {
    let skip = i.len() - dims.len();
    dims.iter().zip(&i[skip..]).map(|(d, i)| if d.is(1) { 0.into() } else { i.clone() }).collect()
}

/// For each position of the broadcast shape, the position in an operand of the narrower shape.
pub(crate) fn broadcast_positions(from: &[usize], to: &[usize]) -> Result<Vec<usize>> {
    ensure!(from.len() <= to.len(), "cannot broadcast {from:?} to {to:?}");
    let skip = to.len() - from.len();
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for k in (0..from.len()).rev() {
        ensure!(from[k] == 1 || from[k] == to[skip + k], "cannot broadcast {from:?} to {to:?}");
        strides[skip + k] = if from[k] == 1 { 0 } else { stride };
        stride *= from[k];
    }
    positions(to, &strides)
}

/// Row-major enumeration of a shape: the dot product of the index with `strides`.
pub(crate) fn positions(shape: &[usize], strides: &[usize]) -> Result<Vec<usize>> {
    let n = numel(shape)?;
    let mut out = Vec::new();
    reserve(&mut out, n)?;
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..n {
        out.push(at);
        for k in (0..shape.len()).rev() {
            index[k] += 1;
            at += strides[k];
            if index[k] < shape[k] {
                break;
            }
            at -= strides[k] * shape[k];
            index[k] = 0;
        }
    }
    Ok(out)
}

op! {
    /// Conversion to another element type, as [`Scalar::cast`] defines it.
    Cast = "cast"(x) {
        /// The target type.
        to: DType,
    }
}

impl Operator for Cast {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        for t in [x[0].dtype, self.to] {
            ensure!(t != DType::String, "casts from or to strings are not supported");
        }
        Ok(vec![x[0].with_dtype(self.to)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![x[0].cast(self.to)?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        Some(Compute::map(x, &y[0], |i| Expr::input(0, i.to_vec()).cast(x[0].dtype, self.to)))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (from, to) = (rng.pick(&DType::ALL[..13]), rng.pick(&DType::ALL[..13]));
        let rank = rng.below(4);
        // Floats beyond the integer type's range have no portable meaning.
        let values = if from.is_float() && !to.is_float() {
            super::Values::Between(0, 100)
        } else {
            super::Values::Any
        };
        Sample {
            op: Cast { to }.into(),
            operands: vec![Operand { dtype: from, shape: rng.shape(rank), values }],
        }
    }
}

op! {
    /// The same bytes as another element type of equal size. As `bool`, every byte but 0 is true.
    Bitcast = "bitcast"(x) {
        /// The type.
        to: DType,
    }
}

impl Operator for Bitcast {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        ensure!(
            self.to != DType::String && self.to.size() == x[0].dtype.size(),
            "the elements of {} and {} differ in size",
            x[0],
            self.to
        );
        Ok(vec![x[0].with_dtype(self.to)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &x[0];
        let bytes = match self.to {
            DType::Bool => x.bytes().iter().map(|&b| u8::from(b != 0)).collect::<Vec<u8>>().into(),
            _ => x.bytes().clone(),
        };
        Ok(vec![Tensor::new(self.to, x.shape().to_vec(), bytes)?])
    }

    /// Among integers and `bool` it is a conversion; between floats and others it has no expression.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let from = x[0].dtype;
        let converts = from == self.to || !(from.is_float() || self.to.is_float());
        converts.then(|| Compute::map(x, &y[0], |i| Expr::input(0, i.to_vec()).cast(from, self.to)))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let from = rng.pick(&DType::ALL[..13]);
        let same: Vec<DType> = DType::ALL.iter().copied().filter(|t| t.size() == from.size()).collect();
        let op = Bitcast { to: rng.pick(&same) }.into();
        let rank = rng.below(3);
        Sample { op, operands: vec![Operand::any(from, rng.shape(rank))] }
    }
}

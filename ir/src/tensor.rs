//! Dense tensors of known shape: constants, inputs, outputs and every value of the interpreter.
//!
//! The payload is little-endian, row-major, and shared ([`Bytes`]): cloning a tensor copies no element, and a
//! constant may lie in a memory-mapped file at any alignment.

use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::{bail, ensure};
use bytes::Bytes;
use half::{bf16, f16};

/// A dense tensor.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// A Rust type that is the memory form of an element type.
pub trait Element: Copy + 'static {
    /// The element type.
    const DTYPE: DType;
    /// Reads one element.
    fn read(bytes: &[u8]) -> Self;
    /// Appends one element.
    fn write(self, out: &mut Vec<u8>);
}

macro_rules! elements {
    ($($t:ty = $dtype:ident;)*) => { $(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn read(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
            fn write(self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()) }
        }
    )* };
}

elements! {
    f64 = F64; f32 = F32; f16 = F16; bf16 = BF16;
    i8 = I8; i16 = I16; i32 = I32; i64 = I64;
    u8 = U8; u16 = U16; u32 = U32; u64 = U64;
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
    fn write(self, out: &mut Vec<u8>) {
        out.push(self.into());
    }
}

/// The number of elements of a shape; an error where its extents other than 0 multiply to more than an address
/// space holds. So products of extents never overflow, even beside an extent of 0.
pub fn numel(shape: &[usize]) -> Result<usize> {
    let bound = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match bound.filter(|&n| n <= isize::MAX as usize) {
        Some(n) => Ok(if shape.contains(&0) { 0 } else { n }),
        None => bail!("a tensor of shape {shape:?} has too many elements"),
    }
}

impl Tensor {
    /// A tensor over shared bytes, which must be exactly as many as the shape needs.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Tensor> {
        ensure!(dtype != DType::String, "tensors of strings are not supported");
        let expected = numel(&shape)?.checked_mul(dtype.size());
        ensure!(
            expected == Some(data.len()),
            "a tensor {dtype}{shape:?} needs {} bytes, found {}",
            expected.map_or("too many".into(), |n| n.to_string()),
            data.len()
        );
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of the given elements, which must be as many as the shape needs.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: &[T]) -> Result<Tensor> {
        let mut data = Vec::with_capacity(values.len() * T::DTYPE.size());
        for v in values {
            v.write(&mut data);
        }
        Tensor::new(T::DTYPE, shape, data.into())
    }

    /// A tensor whose elements are computed from their row-major positions.
    pub fn generate(dtype: DType, shape: Vec<usize>, mut f: impl FnMut(usize) -> Scalar) -> Result<Tensor> {
        let n = numel(&shape)?;
        let mut data = Vec::new();
        reserve(&mut data, n.saturating_mul(dtype.size()))?;
        for i in 0..n {
            write_scalar(dtype, f(i), &mut data);
        }
        Tensor::new(dtype, shape, data.into())
    }

    /// A tensor of one value everywhere.
    pub fn full(dtype: DType, shape: Vec<usize>, value: Scalar) -> Result<Tensor> {
        Tensor::generate(dtype, shape, |_| value)
    }

    /// A tensor of rank 0.
    pub fn scalar(dtype: DType, value: Scalar) -> Tensor {
        let mut data = Vec::new();
        write_scalar(dtype, value, &mut data);
        Tensor { dtype, shape: Vec::new(), data: data.into() }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The payload: little-endian, row-major.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The element at a row-major position, which must be below [`Tensor::len`].
    pub fn get(&self, i: usize) -> Scalar {
        let n = self.dtype.size();
        read_scalar(self.dtype, &self.data[i * n..(i + 1) * n])
    }

    /// Every element in order.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Every element as `f64`.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::F32 => self.elements::<f32>().map(f64::from).collect(),
            DType::F64 => self.elements::<f64>().collect(),
            _ => self.scalars().map(Scalar::as_f64).collect(),
        }
    }

    /// Every element as `i64`.
    pub fn to_i64(&self) -> Vec<i64> {
        self.scalars().map(Scalar::as_i64).collect()
    }

    /// Every element, given the right element type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        ensure!(T::DTYPE == self.dtype, "expected a tensor of {}, found {}", T::DTYPE, self.dtype);
        Ok(self.elements().collect())
    }

    fn elements<T: Element>(&self) -> impl Iterator<Item = T> + '_ {
        self.data.chunks_exact(T::DTYPE.size()).map(T::read)
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Tensor> {
        ensure!(
            numel(&shape)? == self.len(),
            "cannot reshape {:?} ({} elements) to {shape:?}",
            self.shape,
            self.len()
        );
        Ok(Tensor { dtype: self.dtype, shape, data: self.data.clone() })
    }

    /// Every element cast as [`Scalar::cast`] says.
    pub fn cast(&self, to: DType) -> Result<Tensor> {
        if to == self.dtype {
            return Ok(self.clone());
        }
        Tensor::generate(to, self.shape.clone(), |i| self.get(i).cast(to))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?} ", self.dtype, self.shape)?;
        f.debug_list().entries(self.scalars().take(32).map(|s| s.to_string())).finish()
    }
}

/// Reserves memory or fails with an error, never with an abort.
pub(crate) fn reserve<T>(data: &mut Vec<T>, n: usize) -> Result<()> {
    match data.try_reserve_exact(n) {
        Ok(()) => Ok(()),
        Err(_) => bail!("cannot allocate {n} elements of {} bytes for a tensor", size_of::<T>()),
    }
}

/// Reads the element stored at the start of `b`.
pub fn read_scalar(dtype: DType, b: &[u8]) -> Scalar {
    match dtype {
        DType::F64 => Scalar::F(f64::read(b)),
        DType::F32 => Scalar::F(f32::read(b).into()),
        DType::F16 => Scalar::F(f16::read(b).into()),
        DType::BF16 => Scalar::F(bf16::read(b).into()),
        DType::I8 => Scalar::I(i8::read(b).into()),
        DType::I16 => Scalar::I(i16::read(b).into()),
        DType::I32 => Scalar::I(i32::read(b).into()),
        DType::I64 => Scalar::I(i64::read(b)),
        DType::U8 => Scalar::U(u8::read(b).into()),
        DType::U16 => Scalar::U(u16::read(b).into()),
        DType::U32 => Scalar::U(u32::read(b).into()),
        DType::U64 => Scalar::U(u64::read(b)),
        DType::Bool | DType::String => Scalar::B(bool::read(b)),
    }
}

/// Appends an element, cast to the given type.
pub fn write_scalar(dtype: DType, value: Scalar, out: &mut Vec<u8>) {
    let value = value.cast(dtype);
    match dtype {
        DType::F64 => value.as_f64().write(out),
        DType::F32 => (value.as_f64() as f32).write(out),
        DType::F16 => f16::from_f64(value.as_f64()).write(out),
        DType::BF16 => bf16::from_f64(value.as_f64()).write(out),
        DType::I8 => (value.as_i64() as i8).write(out),
        DType::I16 => (value.as_i64() as i16).write(out),
        DType::I32 => (value.as_i64() as i32).write(out),
        DType::I64 => value.as_i64().write(out),
        DType::U8 => (value.as_u64() as u8).write(out),
        DType::U16 => (value.as_u64() as u16).write(out),
        DType::U32 => (value.as_u64() as u32).write(out),
        DType::U64 => value.as_u64().write(out),
        DType::Bool | DType::String => value.as_bool().write(out),
    }
}

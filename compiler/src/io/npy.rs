//! Tensors as NumPy arrays.
//!
//! NumPy has no bfloat16; arrays of it come and go as two raw bytes per element (`V2`), as `ml_dtypes` saves them.

use crate::import::file;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::tensor::{Tensor, numel};
use aic_ir::{bail, ensure};
use bytes::{BufMut, Bytes};
use npyz::npz::NpzArchive;
use npyz::{Endianness, NpyHeader, Order, TypeChar, WriteOptions, WriterBuilder};
use std::io::{Cursor, Read};
use std::path::Path;

/// Reads a `.npy` file.
///
/// # Errors
/// The file can't be read, or isn't an array of a type that `aic` has.
pub fn read(path: &Path) -> Result<Tensor> {
    array(file::map(path)?).map_err(|error| error.context(path.display()))
}

/// Reads those arrays of a `.npz` file whose names are wanted.
///
/// # Errors
/// As of [`read`].
pub fn read_archive(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>> {
    let failed = |error: std::io::Error| Error::new(format!("{}: {error}", path.display()));
    let mut archive = NpzArchive::new(Cursor::new(file::map(path)?)).map_err(failed)?;
    let names: Vec<String> = archive.array_names().filter(|n| wanted(n)).map(str::to_owned).collect();
    let mut arrays = Vec::with_capacity(names.len());
    for name in names {
        let Some(array) = archive.by_name(&name).map_err(failed)? else { continue };
        let tensor = stored(array).map_err(|e| e.context(format!("{}: array {name:?}", path.display())))?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// Writes a `.npy` file.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, t: &Tensor) -> Result<()> {
    let header = header(t).map_err(|error| error.context(path.display()))?;
    file::write(path, |file| {
        file.put_slice(&header);
        file.put(t.bytes().clone());
    })
}

fn array(bytes: Bytes) -> Result<Tensor> {
    let mut cursor = Cursor::new(&bytes[..]);
    let header = NpyHeader::from_reader(&mut cursor).map_err(not_an_array)?;
    let at = (cursor.position() as usize).min(bytes.len());
    let layout = Layout::of(&header)?;
    let data = bytes.slice(at..);
    layout.ensure_filled(data.len())?;
    layout.tensor(data.slice(..layout.n_bytes))
}

fn stored(array: npyz::NpyFile<impl Read>) -> Result<Tensor> {
    let layout = Layout::of(array.header())?;
    let mut data = Vec::new();
    array.into_inner().take(layout.n_bytes as u64).read_to_end(&mut data).map_err(not_an_array)?;
    layout.ensure_filled(data.len())?;
    layout.tensor(data.into())
}

fn not_an_array(error: std::io::Error) -> Error {
    Error::new(format!("not a readable NumPy array: {error}"))
}

/// How the elements of an array lie in a file.
struct Layout {
    dtype: DType,
    shape: Vec<usize>,
    n_bytes: usize,
    big_endian: bool,
    fortran: bool,
}

impl Layout {
    fn of(header: &NpyHeader) -> Result<Layout> {
        let npyz::DType::Plain(ty) = header.dtype() else {
            bail!("expected an array of numbers, found records {}", header.dtype().descr())
        };
        let dtype = match (ty.type_char(), ty.size_field()) {
            (TypeChar::Bool, 1) => DType::Bool,
            (TypeChar::Float, 2) => DType::F16,
            (TypeChar::Float, 4) => DType::F32,
            (TypeChar::Float, 8) => DType::F64,
            (TypeChar::Int, 1) => DType::I8,
            (TypeChar::Int, 2) => DType::I16,
            (TypeChar::Int, 4) => DType::I32,
            (TypeChar::Int, 8) => DType::I64,
            (TypeChar::Uint, 1) => DType::U8,
            (TypeChar::Uint, 2) => DType::U16,
            (TypeChar::Uint, 4) => DType::U32,
            (TypeChar::Uint, 8) => DType::U64,
            (TypeChar::RawData, 2) => DType::BF16,
            _ => bail!("arrays of NumPy's type '{ty}' are not supported"),
        };
        let shape: Option<Vec<usize>> = header.shape().iter().map(|&d| d.try_into().ok()).collect();
        let Some(shape) = shape else { bail!("shape {:?} is too large", header.shape()) };
        let Some(n_bytes) = numel(&shape)?.checked_mul(dtype.size()) else {
            bail!("shape {shape:?} is too large")
        };
        let big_endian = ty.endianness() == Endianness::Big;
        Ok(Layout { dtype, shape, n_bytes, big_endian, fortran: header.order() == Order::Fortran })
    }

    fn ensure_filled(&self, found: usize) -> Result<()> {
        let Layout { dtype, shape, n_bytes, .. } = self;
        ensure!(
            found >= *n_bytes,
            "an array {dtype}{shape:?} takes {n_bytes} bytes, found {found}; the file may be truncated"
        );
        Ok(())
    }

    fn tensor(&self, data: Bytes) -> Result<Tensor> {
        let size = self.dtype.size();
        let data = match self.big_endian && size > 1 {
            true => data.chunks_exact(size).flat_map(|element| element.iter().rev().copied()).collect(),
            false => data,
        };
        let data = if self.fortran { row_major(&self.shape, size, &data) } else { data };
        // Any byte but 0 is true to NumPy.
        let plain = self.dtype != DType::Bool || data.iter().all(|&byte| byte <= 1);
        let data = if plain { data } else { data.iter().map(|&byte| u8::from(byte != 0)).collect() };
        Tensor::new(self.dtype, self.shape.clone(), data)
    }
}

/// Elements in row-major order, from column-major order.
fn row_major(shape: &[usize], size: usize, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..data.len() / size {
        let at = index.iter().zip(shape).rev().fold(0, |at, (i, extent)| at * extent + i);
        out.extend_from_slice(&data[at * size..(at + 1) * size]);
        for (i, extent) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *extent {
                break;
            }
            *i = 0;
        }
    }
    out.into()
}

fn header(t: &Tensor) -> Result<Vec<u8>> {
    let descr = match t.dtype() {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 => "|V2",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        DType::String => bail!("strings are not supported"),
    };
    let ty = descr.parse().map_err(|_| Error::new(format!("NumPy has no type '{descr}'")))?;
    let shape: Vec<u64> = t.shape().iter().map(|&d| d as u64).collect();
    let options = WriteOptions::new_header_only().dtype(npyz::DType::new_scalar(ty)).shape(&shape);
    options.writer(Vec::new()).write_header_only().map_err(|error| Error::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::scalar::Scalar;

    fn file_of(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Bytes {
        let fortran = if fortran { "True" } else { "False" };
        let mut dict = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (dict.len() + 11) % 64 != 0 {
            dict.push(' ');
        }
        dict.push('\n');
        let len = (dict.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &len[..], dict.as_bytes(), data].concat().into()
    }

    fn message(bytes: Bytes) -> String {
        array(bytes).unwrap_err().message
    }

    #[test]
    fn every_type_and_rank_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for dtype in DType::ALL.iter().copied().filter(|d| *d != DType::String) {
            for shape in [vec![], vec![3], vec![0, 2], vec![2, 3, 1]] {
                let t = Tensor::generate(dtype, shape, |i| Scalar::I(i as i64 % 3)).unwrap();
                write(&path, &t).unwrap();
                assert_eq!(read(&path).unwrap(), t);
            }
        }
    }

    #[test]
    fn other_orders_are_turned() {
        let t = array(file_of("<i2", true, "(2, 3)", &[0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5, 0])).unwrap();
        assert_eq!(t.to_i64(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(array(file_of(">i2", false, "(2,)", &[1, 2, 3, 4])).unwrap().to_i64(), [0x102, 0x304]);
        assert_eq!(array(file_of("|b1", false, "(3,)", &[0, 1, 7])).unwrap().to_i64(), [0, 1, 1]);
    }

    #[test]
    fn what_is_no_tensor_is_an_error() {
        assert!(message(file_of("<f4", false, "(2,)", &[0; 7])).contains("takes 8 bytes, found 7"));
        assert!(message(file_of("<c8", false, "(1,)", &[0; 8])).contains("'<c8' are not supported"));
        assert!(message(file_of("|O", false, "(1,)", &[0; 8])).contains("not supported"));
        assert!(message(file_of("<f4", false, "(1099511627776, 1099511627776)", &[])).contains("too many"));
        assert!(message(Bytes::from_static(b"hello")).contains("not a readable NumPy array"));
        assert!(message(Bytes::new()).contains("not a readable NumPy array"));
        let whole = file_of("<f4", false, "(2,)", &[0; 8]);
        for len in 0..whole.len() {
            assert!(array(whole.slice(..len)).is_err(), "{len}");
        }
    }

    #[test]
    fn archives_give_what_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let mut archive = npyz::npz::NpzWriter::create(&path).unwrap();
        for name in ["a", "b/c"] {
            let array = archive.array::<f32>(name, Default::default()).unwrap();
            let mut array = array.default_dtype().shape(&[2]).begin_nd().unwrap();
            array.extend([1.0, 2.0]).unwrap();
            array.finish().unwrap();
        }
        drop(archive);
        let arrays = read_archive(&path, &|name| name != "a").unwrap();
        assert_eq!(arrays.len(), 1);
        assert_eq!((arrays[0].0.as_str(), arrays[0].1.to_f64()), ("b/c", vec![1.0, 2.0]));
        std::fs::write(&path, b"PK\x03\x04nonsense").unwrap();
        assert!(read_archive(&path, &|_| true).unwrap_err().message.contains("x.npz"));
    }
}

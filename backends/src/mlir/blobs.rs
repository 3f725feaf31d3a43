//! Constant tensors: small ones in the text, large ones as resources whose bytes follow it.

use super::text::{Writer, literal, tensor};
use aic_ir::dtype::DType;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;
use std::io::{self, Write};

/// Constants with more elements than this are resources.
const MAX_LISTED: usize = 32;
/// Alignment of resources in memory, in bytes.
const ALIGNMENT: u32 = 64;
/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 15;

/// The resources of a module.
#[derive(Default)]
pub(crate) struct Blobs {
    tensors: Vec<Tensor>,
    /// Positions by address and length of the contents.
    known: HashMap<(usize, usize), usize>,
}

impl Blobs {
    /// Writes a constant, unless it is there already; gives its name.
    pub fn constant(&mut self, w: &mut Writer, t: &Tensor) -> String {
        let ty = Type::of(t.dtype(), t.shape());
        if let Some(value) = uniform(t) {
            return w.constant(format!("arith.constant dense<{value}> : {}", tensor(&ty)));
        }
        if t.len() <= MAX_LISTED {
            return w.constant(format!("arith.constant dense<{}> : {}", list(t, 0, 0), tensor(&ty)));
        }
        let next = self.tensors.len();
        let key = (t.bytes().as_ptr() as usize, t.bytes().len());
        let at = *self.known.entry(key).or_insert(next);
        if at == next {
            self.tensors.push(t.clone());
        }
        let resource = |ty: &Type| format!("arith.constant dense_resource<c{at}> : {}", tensor(ty));
        if t.dtype() != DType::Bool {
            return w.constant(resource(&ty));
        }
        // There is no agreement on how many bits of a resource a truth value takes.
        let bytes = ty.with_dtype(DType::U8);
        let name = w.constant(resource(&bytes));
        w.constant(format!("arith.trunci {name} : {} to {}", tensor(&bytes), tensor(&ty)))
    }

    /// The part of the file that follows the module.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        out.write_all(b"\n{-#\n  dialect_resources: {\n    builtin: {\n")?;
        for (k, t) in self.tensors.iter().enumerate() {
            write!(out, "      c{k}: \"0x")?;
            write_hex(&ALIGNMENT.to_le_bytes(), out)?;
            write_hex(t.bytes(), out)?;
            let comma = if k + 1 < self.tensors.len() { "," } else { "" };
            out.write_all(format!("\"{comma}\n").as_bytes())?;
        }
        out.write_all(b"    }\n  }\n#-}\n")
    }
}

fn write_hex(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = Vec::with_capacity(2 * CHUNK);
    for chunk in bytes.chunks(CHUNK) {
        text.clear();
        for b in chunk {
            text.extend([DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
        }
        out.write_all(&text)?;
    }
    Ok(())
}

/// The one value that all elements have; nothing if there are no elements.
fn uniform(t: &Tensor) -> Option<String> {
    let n = t.dtype().size();
    let Some(first) = t.bytes().get(..n) else { return Some(String::new()) };
    t.bytes().chunks_exact(n).all(|e| e == first).then(|| literal(t.dtype(), t.get(0)))
}

/// Elements as nested lists, from dimension `axis` inwards.
fn list(t: &Tensor, axis: usize, at: usize) -> String {
    let Some(n) = t.shape().get(axis) else { return literal(t.dtype(), t.get(at)) };
    let step: usize = t.shape()[axis + 1..].iter().product();
    let items: Vec<String> = (0..*n).map(|k| list(t, axis + 1, at + k * step)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_constants_are_lists_and_large_ones_resources() {
        let (mut w, mut blobs) = (Writer::default(), Blobs::default());
        w.begin_function();
        w.locate(&[]);
        let small = Tensor::from_vec(vec![2, 2], &[1i32, 2, 3, 4]).unwrap();
        let large = Tensor::from_vec(vec![40], &(0..40).map(|k| k as f32).collect::<Vec<_>>()).unwrap();
        let same = Tensor::from_vec(vec![40], &[7u8; 40]).unwrap();
        for t in [&small, &large, &same, &large] {
            blobs.constant(&mut w, t);
        }
        let text = w.end_function("f");
        assert!(text.contains("dense<[[1, 2], [3, 4]]> : tensor<2x2xi32>"), "{text}");
        assert!(text.contains("dense_resource<c0> : tensor<40xf32>"), "{text}");
        assert!(text.contains("dense<7> : tensor<40xi8>"), "{text}");
        let mut out = Vec::new();
        blobs.write(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("c0: \"0x40000000000000000000803F00000040"));
    }
}

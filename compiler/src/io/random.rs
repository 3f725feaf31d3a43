//! Random values for inputs that nobody gave.

use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::op::Rng;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;

/// A random tensor: floats in `[0, 1)`; bytes in `0..128`, as quantised values are; otherwise 0 and 1, which are valid
/// as tokens, masks, positions and kinds alike. The same seed gives the same tensor.
///
/// # Errors
/// The tensor is too large.
pub fn random(dtype: DType, shape: Vec<usize>, seed: u64) -> Result<Tensor> {
    let mut rng = Rng::new(seed);
    Tensor::generate(dtype, shape, |_| match dtype {
        DType::I8 | DType::U8 => Scalar::I(rng.range(0, 128)),
        _ if dtype.is_float() => Scalar::F(rng.unit()),
        _ => Scalar::I(rng.range(0, 2)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_and_repeat() {
        for dtype in DType::ALL.iter().copied().filter(|d| *d != DType::String) {
            let t = random(dtype, vec![5, 7], 1).unwrap();
            assert_eq!(t, random(dtype, vec![5, 7], 1).unwrap());
            assert_ne!(t, random(dtype, vec![5, 7], 2).unwrap());
            assert!(t.to_f64().iter().all(|x| (0.0..128.0).contains(x)));
        }
    }
}

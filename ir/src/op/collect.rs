//! What loops and scans take apart and put together: elements along an axis.

use super::elementwise::positions;
use super::shape::{strides, take};
use crate::dim::Dim;
use crate::error::Result;
use crate::graph::Graph;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::{ensure, eval};

/// Elements that a body gave, one list per result, to be stacked.
pub(super) struct Collected {
    items: Vec<Vec<Tensor>>,
    /// Element types and shapes where there was no iteration; extents that only an iteration would tell are 0.
    empty: Vec<Tensor>,
}

impl Collected {
    /// For the body's outputs from `first` on, given what it would be passed at first.
    pub fn new(body: &Graph, first: usize, inputs: &[Tensor]) -> Result<Collected> {
        let symbols = eval::bind_symbols(body, inputs)?;
        let empty: Vec<Tensor> = (body.outputs[first..].iter())
            .map(|p| {
                let t = body.ty(p.value);
                let extent =
                    |d: &Dim| d.eval(&|s| symbols.get(s).copied()).and_then(|d| usize::try_from(d).ok());
                let mut shape: Vec<usize> = vec![0];
                shape.extend(t.dims.iter().map(|d| extent(d).unwrap_or(0)));
                Tensor::new(t.dtype, shape, Vec::new().into())
            })
            .collect::<Result<_>>()?;
        Ok(Collected { items: vec![Vec::new(); empty.len()], empty })
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn push(&mut self, elements: Vec<Tensor>) {
        for (list, t) in self.items.iter_mut().zip(elements) {
            list.push(t);
        }
    }

    /// The elements of result `k` along a new axis.
    pub fn stack(&self, k: usize, axis: usize, reverse: bool) -> Result<Tensor> {
        let items = &self.items[k];
        let Some(first) = items.first() else {
            let mut shape = self.empty[k].shape()[1..].to_vec();
            shape.insert(axis, 0);
            return self.empty[k].reshape(shape);
        };
        for (step, t) in items.iter().enumerate() {
            ensure!(
                t.shape() == first.shape(),
                "collected elements must have one shape, found {:?} at first and {:?} at iteration {step}",
                first.shape(),
                t.shape()
            );
        }
        let mut shape = first.shape().to_vec();
        let outer: usize = shape[..axis].iter().product();
        let inner = first.bytes().len() / outer.max(1);
        shape.insert(axis, items.len());
        let mut data = Vec::new();
        for o in 0..outer {
            let mut append = |t: &Tensor| data.extend_from_slice(&t.bytes()[o * inner..(o + 1) * inner]);
            if reverse { items.iter().rev().for_each(&mut append) } else { items.iter().for_each(append) }
        }
        Tensor::new(first.dtype(), shape, data.into())
    }
}

/// Element `at` along an axis, without that axis.
pub(super) fn element(x: &Tensor, axis: usize, at: usize) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    let mut step = strides(&shape);
    shape.remove(axis);
    let first = at * step.remove(axis);
    let at_each = positions(&shape, &step)?;
    take(x, shape, &at_each.iter().map(|p| first + p).collect::<Vec<_>>())
}

/// What has the type of an element along an axis, for want of one.
pub(super) fn empty_element(x: &Tensor, axis: usize) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    Tensor::full(x.dtype(), shape, Scalar::zero(x.dtype()))
}

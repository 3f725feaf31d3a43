//! Interprets a program: kernels by the kernel interpreter, host steps by the graph interpreter.
//!
//! Arena buffers really lie in one arena, poisoned at the start, so that a plan which lets live buffers overlap, or
//! a kernel that reads what nobody wrote, gives a wrong answer here too.

use super::kernel::{KernelBuffer, kernel};
use super::{bind_symbols, node};
use crate::dim::{Dim, Sym};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::program::{Place, Program, Step};
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure};
use std::collections::HashMap;

/// How a kernel is run: on a buffer for each parameter and a value for each symbol.
pub type RunKernel<'a> = &'a dyn Fn(&Kernel, &mut [KernelBuffer], &[i64]) -> Result<()>;

/// Runs a program on concrete inputs.
pub fn program(p: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    program_with(p, inputs, &kernel)
}

/// Runs a program on concrete inputs, with kernels run by the caller: compiled ones, for example.
pub fn program_with(p: &Program, inputs: &[Tensor], run: RunKernel) -> Result<Vec<Tensor>> {
    let symbols = bind_symbols(&p.graph, inputs)?;
    let mut m = Machine { p, inputs, run, symbols, arena: Vec::new(), outside: HashMap::new() };
    m.arena = vec![0xFF; m.number(&p.arena_bytes)?];
    for s in &p.steps {
        m.step(s)?;
    }
    p.outputs.iter().map(|o| m.read(o.buffer, &o.ty)).collect()
}

struct Machine<'a> {
    p: &'a Program,
    inputs: &'a [Tensor],
    run: RunKernel<'a>,
    symbols: HashMap<Sym, i64>,
    arena: Vec<u8>,
    /// Contents of output and heap buffers.
    outside: HashMap<usize, Vec<u8>>,
}

impl Machine<'_> {
    fn number(&self, d: &Dim) -> Result<usize> {
        let value = d.eval(&|s| self.symbols.get(s).copied()).and_then(|n| usize::try_from(n).ok());
        value.ok_or_else(|| Error::new(format!("{d} has no value that is a size")))
    }

    fn shape(&self, ty: &Type) -> Result<Vec<usize>> {
        ty.dims.iter().map(|d| self.number(d)).collect()
    }

    /// The buffer whose memory `b` is.
    fn root(&self, mut b: usize) -> usize {
        while let Place::Alias(of) = self.p.buffers[b].place {
            b = of;
        }
        b
    }

    fn read(&self, b: usize, ty: &Type) -> Result<Tensor> {
        let shape = self.shape(ty)?;
        let bytes = shape.iter().product::<usize>() * ty.dtype.size();
        let root = self.root(b);
        let data = match &self.p.buffers[root].place {
            Place::Input(k) => return self.inputs[*k].reshape(shape),
            Place::Constant(t) => return t.reshape(shape),
            Place::Arena(at) => {
                let at = self.number(at)?;
                ensure!(at + bytes <= self.arena.len(), "buffer {b} ends beyond the arena");
                self.arena[at..at + bytes].to_vec()
            }
            Place::Output(_) | Place::Heap => match self.outside.get(&root) {
                Some(data) => data.clone(),
                None => KernelBuffer::poisoned(ty.dtype, bytes / ty.dtype.size()).data,
            },
            Place::Alias(_) => bail!("buffer {b} is an alias of an alias"),
        };
        Tensor::new(ty.dtype, shape, data.into())
    }

    fn write(&mut self, b: usize, data: &[u8]) -> Result<()> {
        let root = self.root(b);
        match &self.p.buffers[root].place {
            Place::Arena(at) => {
                let at = self.number(at)?;
                ensure!(at + data.len() <= self.arena.len(), "buffer {b} ends beyond the arena");
                self.arena[at..at + data.len()].copy_from_slice(data);
            }
            Place::Output(_) | Place::Heap => {
                self.outside.insert(root, data.to_vec());
            }
            _ => bail!("a step writes buffer {b}, which is an input or a constant"),
        }
        Ok(())
    }

    fn step(&mut self, s: &Step) -> Result<()> {
        let p = self.p;
        match s {
            Step::Launch { kernel: k, args, symbols, .. } => {
                let k = &p.kernels[*k];
                let tensors: Vec<Tensor> =
                    args.iter().map(|&b| self.read(b, &p.buffers[b].ty)).collect::<Result<_>>()?;
                let mut buffers: Vec<KernelBuffer> = tensors.iter().map(KernelBuffer::from_tensor).collect();
                let symbols: Vec<i64> =
                    symbols.iter().map(|d| self.number(d).map(|n| n as i64)).collect::<Result<_>>()?;
                (self.run)(k, &mut buffers, &symbols)?;
                for ((param, &b), buffer) in k.params.iter().zip(args).zip(&buffers) {
                    if param.writable {
                        self.write(b, &buffer.data)?;
                    }
                }
            }
            Step::Host { node: n, inputs, outputs, defines, .. } => {
                let x: Vec<Tensor> =
                    inputs.iter().map(|&b| self.read(b, &p.buffers[b].ty)).collect::<Result<_>>()?;
                let y = node(p.graph.node(*n), &x, &self.symbols)?;
                for (s, k, axis) in defines {
                    self.symbols.insert(s.clone(), y[*k].shape()[*axis] as i64);
                }
                for (&b, t) in outputs.iter().zip(&y) {
                    self.write(b, t.bytes())?;
                }
            }
            Step::Copy { src, dst } => {
                let t = self.read(*src, &p.buffers[*src].ty)?;
                self.write(*dst, t.bytes())?;
            }
        }
        Ok(())
    }
}

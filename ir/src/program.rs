//! A program: what is left of a graph once every node is a kernel.
//!
//! Kernels, constants, a buffer plan and a list of steps. All of it is data: the artifact's runtime interprets the
//! steps, the memory planner fills in the offsets, a checker proves that no two live buffers overlap.

use crate::compute::Compute;
use crate::dim::{Dim, Sym};
use crate::graph::{Graph, NodeId};
use crate::kernel::Kernel;
use crate::schedule::Schedule;
use crate::tensor::Tensor;
use crate::types::Type;
use std::sync::Arc;

/// A compiled graph.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The model's name.
    pub name: String,
    /// Inputs in the order of the model: source name, type, buffer.
    pub inputs: Vec<Port>,
    /// Outputs in the order of the model.
    pub outputs: Vec<Port>,
    /// Distinct kernels; steps refer to them by position.
    pub kernels: Vec<Kernel>,
    /// How each of them was scheduled; `None` for those that an operator makes itself.
    pub schedules: Vec<Option<Schedule>>,
    /// What each of them computes; `None` where an operator makes it itself.
    pub computes: Vec<Option<Arc<Compute>>>,
    /// Every array that steps read or write.
    pub buffers: Vec<BufferDecl>,
    /// What is executed, in order.
    pub steps: Vec<Step>,
    /// Bytes of the arena that holds every [`Place::Arena`] buffer.
    pub arena_bytes: Dim,
    /// What was taken for granted: expressions over the inputs' symbols that are at least 0. The runtime checks them.
    pub requires: Vec<Dim>,
    /// The graph the program was made from; host steps refer to its nodes.
    pub graph: Arc<Graph>,
}

/// An input or output of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name in the source model.
    pub name: String,
    /// Its type; the dims of inputs bind the symbols that occur in them alone.
    pub ty: Type,
    /// Position in [`Program::buffers`].
    pub buffer: usize,
}

/// An array of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferDecl {
    /// Element type and extents.
    pub ty: Type,
    /// Where it lies.
    pub place: Place,
}

/// Where an array lies at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In the caller's memory: input `k`.
    Input(usize),
    /// In the caller's memory: output `k`.
    Output(usize),
    /// A constant of the program.
    Constant(Tensor),
    /// In the arena, at this byte offset (a multiple of 64).
    Arena(Dim),
    /// The same memory as another buffer, from its start.
    Alias(usize),
    /// Allocated when its extents are known, where that is only after a host step.
    Heap,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Launch a kernel.
    Launch {
        /// Position in [`Program::kernels`].
        kernel: usize,
        /// A buffer for each parameter.
        args: Vec<usize>,
        /// A value for each symbol.
        symbols: Vec<Dim>,
        /// Iterations of its parallel loop.
        extent: Dim,
        /// Predicted scalar operations, by which the runtime decides about threads.
        work: Dim,
        /// Source names of the nodes it computes.
        origin: Vec<Arc<str>>,
    },
    /// Interpret a node of [`Program::graph`], for operators that have no kernel.
    Host {
        /// The node.
        node: NodeId,
        /// Buffers of its inputs.
        inputs: Vec<usize>,
        /// Buffers of its outputs.
        outputs: Vec<usize>,
        /// Symbols that it defines: which output, which axis.
        defines: Vec<(Sym, usize, usize)>,
        /// Why it has no kernel.
        reason: String,
    },
    /// Copy a whole buffer.
    Copy {
        /// From.
        src: usize,
        /// To.
        dst: usize,
    },
}

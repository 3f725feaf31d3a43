//! Sessions in this process: a program with its kernels, executed by the C runtime.
//!
//! The same runtime that artifacts carry interprets the same plan; what differs is that constants stay where they are,
//! and that steps without a kernel are computed by the interpreter ([`aic_ir::eval::node`]).

use crate::plan::{self, HostStep, Plan};
pub use aic_backends::KernelFn;

use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::program::{Port, Program};
use aic_ir::tensor::{Tensor, numel};
use aic_ir::{bail, ensure, eval};
use bytes::Bytes;
use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

/// Compiled kernels, in the order of [`Program::kernels`].
pub struct Kernels {
    /// Their addresses.
    pub functions: Vec<KernelFn>,
    /// What keeps the code in memory.
    pub code: Box<dyn Any + Send>,
}

/// How to open a session.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads including the caller's; 0 stands for all cores.
    pub n_threads: u32,
    /// Instruction sets that the kernels use, as [`plan::cpu_bits`] gives them.
    pub cpu: u64,
    /// Whether large weights are used where they lie, rather than copied to huge pages. Packed ones are on such already.
    pub weights_in_place: bool,
    /// Fills memory with `0xff` before it is used, so that reading what no step wrote shows.
    pub poison: bool,
    /// Measures how long each step takes.
    pub profile: bool,
}

/// A program ready to run.
///
/// [`Session::run`] is [`Session::bind`], [`Session::run_bound`] and [`Session::outputs`] in one.
pub struct Session {
    raw: NonNull<RawSession>,
    /// Owned by the session; the runtime has its address.
    host: NonNull<Host>,
    inputs: Vec<Bound>,
    raw_inputs: Vec<RawTensor>,
    raw_outputs: Vec<RawTensor>,
    ports: Vec<Port>,
    n_steps: usize,
    /// What the runtime refers to.
    _plan: Plan,
    _constants: Vec<*const c_void>,
    _copies: Vec<Bytes>,
    _kernels: Kernels,
}

// SAFETY: the runtime's session isn't tied to a thread, and everything else is owned.
unsafe impl Send for Session {}

/// An input with its dims as the runtime wants them.
struct Bound {
    tensor: Tensor,
    dims: Vec<i64>,
}

impl Session {
    /// Opens a session.
    ///
    /// # Safety
    /// The functions are what the program's kernels say: called with buffers of the declared types and sizes they
    /// access nothing else, and they stay valid as long as `kernels.code` lives.
    ///
    /// # Errors
    /// The program is not sound, this machine lacks an instruction set, or memory or threads can't be had.
    pub unsafe fn new(program: &Program, kernels: Kernels, options: &Options) -> Result<Session> {
        ensure!(
            kernels.functions.len() == program.kernels.len(),
            "expected {} compiled kernels, found {}",
            program.kernels.len(),
            kernels.functions.len()
        );
        let plan = plan::encode(program, options.cpu)?;
        let (constants, copies) = constant_pointers(&plan.constants);
        let host = Host {
            graph: program.graph.clone(),
            symbols: plan.symbols.clone(),
            steps: plan.hosts.clone(),
            results: Vec::new(),
            dims: Vec::new(),
            last: None,
            error: None,
        };
        let host = NonNull::from(Box::leak(Box::new(host)));
        let raw_program = RawProgram {
            plan: plan.words.as_ptr(),
            kernels: kernels.functions.as_ptr(),
            constants: constants.as_ptr(),
            info: ptr::null(),
            host: Some(run_host_step),
            host_context: host.as_ptr().cast(),
            flags: u64::from(options.poison) | u64::from(options.profile) << 1,
        };
        let raw_options = RawOptions {
            struct_size: size_of::<RawOptions>() as u32,
            n_threads: options.n_threads,
            weights_in_place: u32::from(options.weights_in_place),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: the program's fields are the runtime's, and point to what the session owns from here on.
        unsafe { aic_open_program(&raw_program, &raw_options, &mut raw) };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: it comes from a box, and nothing else refers to it.
            drop(unsafe { Box::from_raw(host.as_ptr()) });
            return Err(message(ptr::null()));
        };
        Ok(Session {
            raw,
            host,
            inputs: Vec::new(),
            raw_inputs: Vec::new(),
            raw_outputs: vec![RawTensor::EMPTY; program.outputs.len()],
            ports: program.outputs.clone(),
            n_steps: program.steps.len(),
            _plan: plan,
            _constants: constants,
            _copies: copies,
            _kernels: kernels,
        })
    }

    /// Runs the program.
    ///
    /// # Errors
    /// An input has another dtype or other dims than the program's, memory can't be had, or a step that the
    /// interpreter computes fails.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.bind(inputs);
        self.run_bound()?;
        self.outputs()
    }

    /// Keeps the inputs of the runs that follow. They are checked when they run.
    pub fn bind(&mut self, inputs: &[Tensor]) {
        let dims = |t: &Tensor| t.shape().iter().map(|&d| d as i64).collect();
        self.inputs = inputs.iter().map(|t| Bound { tensor: t.clone(), dims: dims(t) }).collect();
        self.raw_inputs = self.inputs.iter().map(|b| RawTensor::new(&b.tensor, &b.dims)).collect();
    }

    /// Runs the program on the inputs that were bound last. Allocates nothing once it has run with inputs of these
    /// dims, unless the interpreter computes a step.
    ///
    /// # Errors
    /// As of [`Session::run`].
    pub fn run_bound(&mut self) -> Result<()> {
        let (inputs, outputs) = (&self.raw_inputs, &mut self.raw_outputs);
        // SAFETY: the inputs point to tensors that the session keeps; outputs lie in the runtime's memory.
        let status = unsafe {
            aic_run(self.raw.as_ptr(), inputs.as_ptr(), inputs.len(), outputs.as_mut_ptr(), outputs.len())
        };
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the runtime isn't running, so nothing else refers to the host.
        let host = unsafe { self.host.as_mut() };
        let error = message(self.raw.as_ptr());
        Err(host.error.take().unwrap_or_else(|| if status == FAILED { host.name(error) } else { error }))
    }

    /// Copies of the outputs of the last run, which must have succeeded.
    ///
    /// # Errors
    /// There was no run.
    pub fn outputs(&self) -> Result<Vec<Tensor>> {
        let outputs = self.raw_outputs.iter().zip(&self.ports);
        outputs
            .map(|(raw, port)| {
                ensure!(!raw.data.is_null(), "output {:?} has no value: the program has not run", port.name);
                // SAFETY: the runtime filled it in, and its memory stays as it is until the next run.
                unsafe { raw.to_tensor() }
            })
            .collect()
    }

    /// Bytes of intermediate memory that the session holds now.
    pub fn arena_bytes(&self) -> usize {
        // SAFETY: the session is open.
        unsafe { aic_arena_bytes(self.raw.as_ptr()) as usize }
    }

    /// How long each step of the last run took, in order; nothing if [`Options::profile`] isn't set.
    pub fn step_times(&self) -> Vec<Duration> {
        // SAFETY: the session is open.
        let times = unsafe { aic_step_times(self.raw.as_ptr()) };
        if times.is_null() {
            return Vec::new();
        }
        // SAFETY: there is a time for each step of the plan, which has those of the program.
        let times = unsafe { std::slice::from_raw_parts(times, self.n_steps) };
        times.iter().map(|&ns| Duration::from_nanos(ns as u64)).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is open, and nothing runs it; the host comes from a box, and is not used after it.
        unsafe {
            aic_close(self.raw.as_ptr());
            drop(Box::from_raw(self.host.as_ptr()));
        }
    }
}

/// The addresses of constants, and copies of those that aren't aligned to their elements.
fn constant_pointers(constants: &[Tensor]) -> (Vec<*const c_void>, Vec<Bytes>) {
    let mut copies = Vec::new();
    let pointers = constants
        .iter()
        .map(|t| {
            let mut pointer = t.bytes().as_ptr();
            if !(pointer as usize).is_multiple_of(t.dtype().size()) {
                let copy = aligned_copy(t.bytes());
                pointer = copy.as_ptr();
                copies.push(copy);
            }
            pointer.cast()
        })
        .collect();
    (pointers, copies)
}

/// A copy at a multiple of 64 bytes.
fn aligned_copy(data: &[u8]) -> Bytes {
    let mut memory: Vec<u8> = Vec::with_capacity(data.len() + 64);
    let at = memory.as_ptr() as usize;
    let start = at.next_multiple_of(64) - at;
    memory.resize(start, 0);
    memory.extend_from_slice(data);
    Bytes::from(memory).slice(start..)
}

/// Computes the steps that have no kernel.
struct Host {
    graph: Arc<Graph>,
    symbols: Vec<Sym>,
    steps: Vec<HostStep>,
    /// The last step's results, which the runtime copies, and their dims.
    results: Vec<Tensor>,
    dims: Vec<Vec<i64>>,
    /// The step at hand.
    last: Option<usize>,
    error: Option<Error>,
}

impl Host {
    /// # Safety
    /// The arrays are the runtime's: a value per symbol, and an operand and a result per input and output of the step.
    unsafe fn step(
        &mut self,
        step: usize,
        symbols: *const i64,
        inputs: *const RawTensor,
        outputs: *mut RawTensor,
    ) -> Result<()> {
        let HostStep { node, inputs: constants, n_outputs } = &self.steps[step];
        let values = self.symbols.iter().enumerate().filter_map(|(k, s)| {
            // SAFETY: there is a value for each symbol.
            let value = unsafe { *symbols.add(k) };
            (value >= 0).then(|| (s.clone(), value))
        });
        let values: HashMap<Sym, i64> = values.collect();
        let operands = constants.iter().enumerate().map(|(k, constant)| match constant {
            Some(t) => Ok(t.clone()),
            // SAFETY: there is an operand for each input, which describes a resolved buffer.
            None => unsafe { (*inputs.add(k)).to_tensor() },
        });
        let operands: Vec<Tensor> = operands.collect::<Result<_>>()?;
        self.results = eval::node(self.graph.node(*node), &operands, &values)?;
        ensure!(
            self.results.len() == *n_outputs,
            "expected {n_outputs} results, found {}",
            self.results.len()
        );
        self.dims = self.results.iter().map(|t| t.shape().iter().map(|&d| d as i64).collect()).collect();
        for (k, (t, dims)) in self.results.iter().zip(&self.dims).enumerate() {
            // SAFETY: there is a result for each output.
            unsafe { *outputs.add(k) = RawTensor::new(t, dims) };
        }
        Ok(())
    }

    /// Names the source nodes of the step at hand.
    fn name(&self, error: Error) -> Error {
        match self.last.and_then(|k| self.steps.get(k)) {
            Some(step) => {
                self.graph.node(step.node).origin.iter().fold(error, |e, name| e.node(name.as_ref()))
            }
            None => error,
        }
    }
}

/// The runtime's callback: computes a step, and keeps the error where it fails.
unsafe extern "C" fn run_host_step(
    context: *mut c_void,
    step: i64,
    symbols: *const i64,
    inputs: *const RawTensor,
    outputs: *mut RawTensor,
) -> i32 {
    // SAFETY: the session gave its host to the runtime, and doesn't touch it during a run.
    let host = unsafe { &mut *context.cast::<Host>() };
    host.last = Some(step as usize);
    // SAFETY: the runtime's arrays have the lengths that the plan gives.
    let computed = AssertUnwindSafe(|| unsafe { host.step(step as usize, symbols, inputs, outputs) });
    let result = catch_unwind(computed).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(host.name(Error::new(format!("the interpreter failed: {text}"))))
    });
    host.error = result.err();
    i32::from(host.error.is_some())
}

/// The runtime's last message about a session, or with null about the last one that wasn't opened.
fn message(session: *const RawSession) -> Error {
    // SAFETY: the session is open or null, and the runtime's messages are C strings.
    let text = unsafe { CStr::from_ptr(aic_error(session)) }.to_string_lossy();
    Error::new(if text.is_empty() { "out of memory".into() } else { text.into_owned() })
}

/// `AIC_FAILED` of `aic.h`.
const FAILED: i32 = 4;

#[repr(C)]
struct RawSession {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawOptions {
    struct_size: u32,
    n_threads: u32,
    weights_in_place: u32,
}

#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    dims: *const i64,
    rank: u32,
    dtype: u32,
}

impl Clone for RawTensor {
    fn clone(&self) -> RawTensor {
        RawTensor { ..*self }
    }
}

impl RawTensor {
    const EMPTY: RawTensor = RawTensor { data: ptr::null_mut(), dims: ptr::null(), rank: 0, dtype: 0 };

    /// Describes a tensor, which must outlive it.
    fn new(t: &Tensor, dims: &[i64]) -> RawTensor {
        let data = t.bytes().as_ptr().cast_mut().cast();
        RawTensor {
            data,
            dims: dims.as_ptr(),
            rank: t.rank() as u32,
            dtype: t.dtype().onnx().cast_unsigned(),
        }
    }

    /// A copy as a tensor.
    ///
    /// # Safety
    /// The fields describe memory that is initialised.
    unsafe fn to_tensor(&self) -> Result<Tensor> {
        let Some(dtype) = DType::from_onnx(self.dtype.cast_signed()) else {
            bail!("unknown element type {}", self.dtype);
        };
        let mut shape = vec![0; self.rank as usize];
        for (k, d) in shape.iter_mut().enumerate() {
            // SAFETY: there is a dim for each axis.
            *d = unsafe { *self.dims.add(k) } as usize;
        }
        let size = numel(&shape)? * dtype.size();
        let data = if size == 0 {
            Bytes::new()
        } else {
            // SAFETY: data is an array of these dims.
            Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(self.data.cast(), size) })
        };
        Tensor::new(dtype, shape, data)
    }
}

type HostFn = unsafe extern "C" fn(*mut c_void, i64, *const i64, *const RawTensor, *mut RawTensor) -> i32;

#[repr(C)]
struct RawProgram {
    plan: *const i64,
    kernels: *const KernelFn,
    constants: *const *const c_void,
    info: *const c_void,
    host: Option<HostFn>,
    host_context: *mut c_void,
    flags: u64,
}

unsafe extern "C" {
    fn aic_open_program(
        program: *const RawProgram,
        options: *const RawOptions,
        session: *mut *mut RawSession,
    ) -> i32;
    fn aic_run(
        session: *mut RawSession,
        inputs: *const RawTensor,
        n_inputs: usize,
        outputs: *mut RawTensor,
        n_outputs: usize,
    ) -> i32;
    fn aic_error(session: *const RawSession) -> *const c_char;
    fn aic_close(session: *mut RawSession);
    fn aic_arena_bytes(session: *const RawSession) -> i64;
    fn aic_step_times(session: *const RawSession) -> *const i64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_interpreter_is_an_error() {
        let mut host = Host {
            graph: Arc::default(),
            symbols: Vec::new(),
            steps: Vec::new(),
            results: Vec::new(),
            dims: Vec::new(),
            last: None,
            error: None,
        };
        let context = (&raw mut host).cast();
        // SAFETY: the host has no steps, so it panics before it looks at the arrays.
        let status = unsafe { run_host_step(context, 0, ptr::null(), ptr::null(), ptr::null_mut()) };
        assert_eq!(status, 1);
        let error = host.error.unwrap();
        assert!(error.message.starts_with("the interpreter failed: index out of bounds"), "{error}");
    }

    #[test]
    fn copies_are_aligned() {
        for n in [0, 1, 63, 1000] {
            let data: Vec<u8> = (0..n).map(|k| k as u8).collect();
            let copy = aligned_copy(&data);
            assert_eq!(copy, data);
            assert!(n == 0 || (copy.as_ptr() as usize).is_multiple_of(64));
        }
    }
}

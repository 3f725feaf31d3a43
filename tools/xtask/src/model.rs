//! A compiled model: a shared library with the C ABI that `aic compile` gives it.
//!
//! This is what a program that uses a compiled model has to contain, and all of it. Invariant: a `Model` holds an open
//! session for as long as it lives, and the library outlives the session.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::ptr;
use std::slice;

use libloading::Library;

use crate::Result;

/// `aic_options`.
#[repr(C)]
struct Options {
    struct_size: u32,
    n_threads: u32,
}

/// `aic_tensor`.
#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    dims: *const i64,
    rank: u32,
    dtype: u32,
}

/// ONNX's `TensorProto.DataType.FLOAT`.
const F32: u32 = 1;

type Session = *mut c_void;
type OpenFn = unsafe extern "C" fn(*const Options, *mut Session) -> i32;
type RunFn = unsafe extern "C" fn(Session, *const RawTensor, usize, *mut RawTensor, usize) -> i32;
type ErrorFn = unsafe extern "C" fn(Session) -> *const c_char;
type CloseFn = unsafe extern "C" fn(Session);

/// A model with one f32 input and one f32 output.
pub struct Model {
    session: Session,
    run: RunFn,
    error: ErrorFn,
    close: CloseFn,
    _library: Library,
}

impl Model {
    /// Loads a library that `aic compile` made and opens a session that uses `n_threads` threads (0: one per core).
    ///
    /// # Errors
    /// The file is no such library, or the session can't be opened on this machine.
    pub fn open(path: &Path, n_threads: u32) -> Result<Self> {
        let explain = |error: libloading::Error| {
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            format!("can't load {}: {reason}", path.display())
        };
        // SAFETY: the library was made by `aic compile`, has no initialisers with requirements of their own, and its
        // functions have the types of the header that lies beside it. The pointers live as long as `_library`.
        let (library, open, run, error, close) = unsafe {
            let library = Library::new(path).map_err(explain)?;
            let open = *library.get::<OpenFn>(c"aic_open").map_err(explain)?;
            let run = *library.get::<RunFn>(c"aic_run").map_err(explain)?;
            let error = *library.get::<ErrorFn>(c"aic_error").map_err(explain)?;
            let close = *library.get::<CloseFn>(c"aic_close").map_err(explain)?;
            (library, open, run, error, close)
        };
        let options = Options { struct_size: size_of::<Options>() as u32, n_threads };
        let mut session = ptr::null_mut();
        // SAFETY: both pointers are valid during the call.
        let status = unsafe { open(&options, &mut session) };
        let model = Self { session, run, error, close, _library: library };
        if status == 0 && !model.session.is_null() {
            Ok(model)
        } else {
            Err(format!("aic_open of {} failed with {status}: {}", path.display(), model.last_error()))
        }
    }

    /// Runs the model on a tensor in row-major order; gives the output's elements and dims.
    ///
    /// # Errors
    /// The model refuses the input, or its output isn't f32.
    pub fn run(&mut self, input: &[f32], dims: &[i64]) -> Result<(Vec<f32>, Vec<i64>)> {
        if dims.iter().product::<i64>() != input.len() as i64 {
            return Err(format!("{} elements don't fill a tensor of dims {dims:?}", input.len()));
        }
        let raw_input = RawTensor {
            data: input.as_ptr().cast_mut().cast(),
            dims: dims.as_ptr(),
            rank: dims.len() as u32,
            dtype: F32,
        };
        let mut output = RawTensor { data: ptr::null_mut(), dims: ptr::null(), rank: 0, dtype: 0 };
        // SAFETY: the session is open, and all pointers are valid during the call; the model only reads its inputs.
        let status = unsafe { (self.run)(self.session, &raw_input, 1, &mut output, 1) };
        if status != 0 {
            return Err(format!("aic_run failed with {status}: {}", self.last_error()));
        }
        if output.dtype != F32 || output.data.is_null() || output.dims.is_null() {
            return Err(format!("expected an f32 output (dtype {F32}), found dtype {}", output.dtype));
        }
        // SAFETY: the output's data and dims belong to the session and are valid until its next run; the dims say how
        // many elements there are.
        unsafe {
            let dims = slice::from_raw_parts(output.dims, output.rank as usize).to_vec();
            let n_elements = dims.iter().product::<i64>() as usize;
            Ok((slice::from_raw_parts(output.data.cast(), n_elements).to_vec(), dims))
        }
    }

    fn last_error(&self) -> String {
        if self.session.is_null() {
            return "no session".to_owned();
        }
        // SAFETY: the session exists; the text is valid until the session's next call and is copied before.
        unsafe {
            let text = (self.error)(self.session);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if !self.session.is_null() {
            // SAFETY: the session was opened by this library and is closed once.
            unsafe { (self.close)(self.session) }
        }
    }
}

//! Artifacts: programs made by hand, with kernels compiled by the system's C compiler, packaged, opened and run through
//! the C interface.
#![allow(clippy::unwrap_used)]

mod programs;

use aic::package::{self, Kind, Parts};
use aic_backends::Object;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::program::{Place, Program, Step};
use aic_ir::tensor::Tensor;
use libloading::{Library, Symbol};
use programs::*;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::ptr::{null, null_mut};

#[repr(C)]
struct CTensor {
    data: *mut c_void,
    dims: *const i64,
    rank: u32,
    dtype: u32,
}

#[repr(C)]
struct CPort {
    name: *const c_char,
    ty: *const c_char,
    dims: *const i64,
    rank: u32,
    dtype: u32,
}

#[repr(C)]
struct CInfo {
    struct_size: u32,
    n_inputs: u32,
    n_outputs: u32,
    reserved: u32,
    name: *const c_char,
    version: *const c_char,
    inputs: *const CPort,
    outputs: *const CPort,
    arena_bytes: i64,
    constant_bytes: i64,
}

const F32: u32 = 1;

/// The C interface of an opened artifact.
struct Model {
    library: Library,
}

type Run = unsafe extern "C" fn(*mut c_void, *const CTensor, usize, *mut CTensor, usize) -> i32;

impl Model {
    fn open(path: &Path) -> Model {
        // SAFETY: the library has no initialisers.
        Model { library: unsafe { Library::new(path) }.unwrap() }
    }

    fn get<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: the callers give the types of aic.h.
        unsafe { self.library.get(name.as_bytes()) }.unwrap()
    }

    fn info(&self) -> &CInfo {
        let info = self.get::<unsafe extern "C" fn() -> *const CInfo>("aic_info");
        // SAFETY: it points to a constant of the library.
        unsafe { &*info() }
    }

    fn session(&self, options: [u32; 2]) -> Result<*mut c_void, String> {
        let open = self.get::<unsafe extern "C" fn(*const [u32; 2], *mut *mut c_void) -> i32>("aic_open");
        let mut session = null_mut();
        // SAFETY: both arguments are valid.
        match unsafe { open(&options, &mut session) } {
            0 => Ok(session),
            _ => Err(self.error(null_mut())),
        }
    }

    fn error(&self, session: *mut c_void) -> String {
        let error = self.get::<unsafe extern "C" fn(*const c_void) -> *const c_char>("aic_error");
        // SAFETY: the session is open or null; messages are C strings.
        unsafe { CStr::from_ptr(error(session)) }.to_str().unwrap().to_owned()
    }

    fn run(&self, session: *mut c_void, x: &[CTensor], y: &mut [CTensor]) -> Result<(), String> {
        let run = self.get::<Run>("aic_run");
        // SAFETY: the callers' tensors describe arrays.
        match unsafe { run(session, x.as_ptr(), x.len(), y.as_mut_ptr(), y.len()) } {
            0 => Ok(()),
            _ => Err(self.error(session)),
        }
    }

    fn close(&self, session: *mut c_void) {
        // SAFETY: the session is open.
        unsafe { self.get::<unsafe extern "C" fn(*mut c_void)>("aic_close")(session) }
    }
}

fn given(data: &mut [f32], dims: &[i64]) -> CTensor {
    CTensor { data: data.as_mut_ptr().cast(), dims: dims.as_ptr(), rank: dims.len() as u32, dtype: F32 }
}

const EMPTY: CTensor = CTensor { data: null_mut(), dims: null(), rank: 0, dtype: 0 };

fn floats(t: &CTensor) -> Vec<f32> {
    // SAFETY: the runtime filled it in.
    unsafe {
        let dims = std::slice::from_raw_parts(t.dims, t.rank as usize);
        let n = dims.iter().product::<i64>() as usize;
        std::slice::from_raw_parts(t.data.cast::<f32>(), n).to_vec()
    }
}

fn c_object(folder: &Path, source: &str) -> Object {
    let (c, o) = (folder.join("kernels.c"), folder.join("kernels.o"));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-O2", "-fPIC", "-c", "-o"]).arg(&o).arg(&c).status().unwrap();
    assert!(status.success());
    let bytes = std::fs::read(&o).unwrap();
    std::fs::remove_file(c).unwrap();
    std::fs::remove_file(o).unwrap();
    Object { bytes }
}

fn write_layers(folder: &Path, p: &Program, kind: Kind, name: &str) -> package::Files {
    let objects = [c_object(folder, LAYERS_C)];
    package::write(&Parts { program: p, objects: &objects, cpu: 0 }, kind, &folder.join(name)).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_shared_library_runs_through_the_c_interface() {
    let folder = tempfile::tempdir().unwrap();
    let weights = some_weights(6, 3);
    let files = write_layers(folder.path(), &layers("batch", &weights), Kind::SharedLibrary, "m.so");
    assert_eq!(names_in(folder.path()), ["m.h", "m.so"]);
    let model = Model::open(&files.library);
    for n_threads in [1, 2, 4] {
        let session = model.session([8, n_threads]).unwrap();
        let mut y = [EMPTY, EMPTY];
        for batch in [3, 1, 0, 500, 2] {
            let x = f32s(&[batch, 6], |i| (i % 11) as f32);
            let mut data: Vec<f32> = x.to_vec().unwrap();
            let dims = [batch as i64, 6];
            model.run(session, &[given(&mut data, &dims)], &mut y).unwrap();
            assert_eq!(floats(&y[0]), layers_expected(&x, &weights));
            assert_eq!((y[0].rank, y[0].dtype, y[1].rank), (1, F32, 2));
            assert_eq!(floats(&y[1]), data);
        }
        model.close(session);
    }
}

#[test]
fn outputs_in_the_callers_memory() {
    let folder = tempfile::tempdir().unwrap();
    let weights = some_weights(4, 2);
    let files = write_layers(folder.path(), &layers("batch", &weights), Kind::SharedLibrary, "m.so");
    let model = Model::open(&files.library);
    let session = model.session([8, 2]).unwrap();
    let x = f32s(&[3, 4], |i| i as f32);
    let mut data: Vec<f32> = x.to_vec().unwrap();
    let dims = [3, 4];
    let (mut a, mut b) = (vec![7.0; 14], [7.0; 12]);
    let mut y = [given(&mut a[1..13], &[12]), given(&mut b, &dims)];
    model.run(session, &[given(&mut data, &dims)], &mut y).unwrap();
    assert_eq!(a[1..13], layers_expected(&x, &weights));
    assert_eq!((a[0], a[13]), (7.0, 7.0));
    assert_eq!(b[..], data);

    let mut y = [CTensor { dims: null(), ..given(&mut a, &[]) }, EMPTY];
    model.run(session, &[given(&mut data, &dims)], &mut y).unwrap();
    assert_eq!(floats(&y[0]), layers_expected(&x, &weights), "dims that are NULL are filled in");

    let mut run = |y: [CTensor; 2]| {
        let mut y = y;
        model.run(session, &[given(&mut data, &dims)], &mut y).unwrap_err()
    };
    let small = given(&mut a[..11], &[11]);
    assert_eq!(run([small, EMPTY]), "output \"y\": expected f32[4*batch] where batch = 3, found f32[11]");
    let flat = CTensor { rank: 1, ..given(&mut b, &[12]) };
    assert_eq!(run([EMPTY, flat]), "output \"same\": expected f32[batch,4], found f32[12]");
    let mut b = [0.0; 12];
    let double = CTensor { dtype: 11, ..given(&mut b, &dims) };
    assert_eq!(run([EMPTY, double]), "output \"same\": expected f32[batch,4], found f64[3,4]");
    let mut c = [0.0; 13];
    let odd = given(&mut c, &dims);
    let odd = CTensor { data: odd.data.wrapping_byte_add(2), ..odd };
    assert_eq!(run([EMPTY, odd]), "output \"same\": data isn't aligned to its elements");
    model.close(session);
}

#[test]
fn wrong_inputs_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let files =
        write_layers(folder.path(), &layers("batch", &some_weights(4, 1)), Kind::SharedLibrary, "m.so");
    let model = Model::open(&files.library);
    assert!(model.session([0, 1]).unwrap_err().contains("struct_size"));
    assert!(model.session([8, 9999]).unwrap_err().contains("at most 1024"));
    let session = model.session([8, 1]).unwrap();
    assert_eq!(model.error(null_mut()), "");
    let mut data = [0.0; 8];
    let mut run = |change: fn(&mut CTensor)| {
        let dims = [2, 4];
        let mut x = given(&mut data, &dims);
        change(&mut x);
        model.run(session, &[x], &mut [EMPTY, EMPTY]).err().unwrap_or_default()
    };
    assert_eq!(run(|_| ()), "");
    assert_eq!(run(|x| x.data = null_mut()), "input \"x\": data is NULL");
    assert_eq!(run(|x| x.dims = null()), "input \"x\": expected f32[batch,4], found f32[dims is NULL]");
    assert_eq!(run(|x| x.rank = 1), "input \"x\": expected f32[batch,4], found f32[2]");
    assert_eq!(run(|x| x.dtype = 77), "input \"x\": expected f32[batch,4], found (unknown dtype)[2,4]");
    assert_eq!(run(|x| x.dims = [-2, 4].as_ptr()), "input \"x\": expected f32[batch,4], found f32[-2,4]");
    assert_eq!(model.run(session, &[], &mut [EMPTY, EMPTY]).unwrap_err(), "expected 1 input, found 0");
    let (mut data, dims) = ([0.0; 8], [2, 4]);
    let x = given(&mut data, &dims);
    assert_eq!(model.run(session, &[x], &mut [EMPTY]).unwrap_err(), "expected 2 outputs, found 1");
    assert_eq!(run(|_| ()), "");
    model.close(session);
}

#[test]
fn several_sessions_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let weights = some_weights(9, 2);
    let files = write_layers(folder.path(), &layers("batch", &weights), Kind::SharedLibrary, "m.so");
    let model = Model::open(&files.library);
    std::thread::scope(|scope| {
        for n_threads in [1, 2, 3] {
            let (model, weights) = (&model, &weights);
            scope.spawn(move || {
                let session = model.session([8, n_threads]).unwrap();
                for batch in (0..60).map(|k| k * 5 % 17) {
                    let x = f32s(&[batch, 9], |i| i as f32);
                    let mut data: Vec<f32> = x.to_vec().unwrap();
                    let mut y = [EMPTY, EMPTY];
                    model.run(session, &[given(&mut data, &[batch as i64, 9])], &mut y).unwrap();
                    assert_eq!(floats(&y[0]), layers_expected(&x, weights));
                }
                model.close(session);
            });
        }
    });
}

#[test]
fn a_library_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let weights = [some_weights(6, 2), some_weights(6, 1)].concat();
    let mut p = layers("batch", &weights);
    p.outputs[0].name = "y */ \n".into();
    let files = write_layers(folder.path(), &p, Kind::SharedLibrary, "model");
    assert_eq!(files.header.file_name().unwrap(), "model.h");
    let model = Model::open(&files.library);
    let text = |p: *const c_char| unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned();
    let info = model.info();
    assert_eq!(info.struct_size as usize, size_of::<CInfo>());
    assert_eq!((text(info.name), text(info.version)), ("layers".into(), env!("CARGO_PKG_VERSION").into()));
    assert_eq!((info.n_inputs, info.n_outputs, info.reserved), (1, 2, 0));
    assert_eq!((info.arena_bytes, info.constant_bytes), (-1, 64 + 24), "equal constants are stored once");
    // SAFETY: there are as many as the counts say.
    let (x, y, same) = unsafe { (&*info.inputs, &*info.outputs, &*info.outputs.add(1)) };
    let dims = |p: &CPort| unsafe { std::slice::from_raw_parts(p.dims, p.rank as usize) }.to_vec();
    assert_eq!(
        (text(x.name), text(x.ty), dims(x), x.dtype),
        ("x".into(), "f32[batch,6]".into(), vec![-1, 6], F32)
    );
    assert_eq!((text(y.name), text(y.ty), dims(y)), ("y */ \n".into(), "f32[6*batch]".into(), vec![-1]));
    assert_eq!((text(same.name), dims(same)), ("same".into(), vec![-1, 6]));

    let header = std::fs::read_to_string(&files.header).unwrap();
    assert!(header.starts_with("/* layers\n *\n * Inputs:\n *   0  f32[batch,6]  x\n"), "{header}");
    assert!(header.contains(" *   0  f32[6*batch]  y * /  \n"));
    let mut check = Command::new("cc");
    check.args(["-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-x", "c"]).arg(&files.header);
    assert!(check.status().unwrap().success());
    let exports = Command::new("nm").args(["-D", "--defined-only"]).arg(&files.library).output().unwrap();
    let exports = String::from_utf8(exports.stdout).unwrap();
    let mut names: Vec<&str> = exports.lines().filter_map(|l| l.split_whitespace().last()).collect();
    names.sort();
    assert_eq!(names, ["aic_close", "aic_error", "aic_info", "aic_open", "aic_run"]);
}

#[test]
fn an_object_links_into_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let weights = [Tensor::from_vec(vec![2], &[2.0f32, 3.0]).unwrap()];
    let files = write_layers(folder.path(), &layers("3", &weights), Kind::Object, "m.o");
    let main = r#"
        #include "m.h"
        #include <stdio.h>
        int main(void) {
            aic_session *session;
            if (aic_open(NULL, &session)) return 1;
            float x[] = {1, 2, 3, 4, 5, 6};
            int64_t dims[] = {3, 2};
            aic_tensor input = {x, dims, 2, AIC_F32}, outputs[2] = {{0}};
            if (aic_run(session, &input, 1, outputs, 2)) return 2;
            for (int i = 0; i < 6; i++) printf("%g ", ((float *)outputs[0].data)[i]);
            printf("%lld", (long long)aic_info()->arena_bytes);
            aic_close(session);
            return 0;
        }"#;
    let (c, program) = (folder.path().join("main.c"), folder.path().join("main"));
    std::fs::write(&c, main).unwrap();
    let link = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(&c)
        .arg(&files.library)
        .args(["-lm", "-pthread"])
        .status();
    assert!(link.unwrap().success());
    let output = Command::new(&program).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3 7 7 13 11 19 128");
}

#[test]
fn a_model_without_constants_or_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let mut p = Program::default();
    let x = input(&mut p, "x", ty(DType::I64, &[]));
    let y = output(&mut p, "y", ty(DType::I64, &[]));
    p.steps = vec![Step::Copy { src: x, dst: y }];
    let path = folder.path().join("m.so");
    package::write(&Parts { program: &p, objects: &[], cpu: 0 }, Kind::SharedLibrary, &path).unwrap();
    let model = Model::open(&path);
    let session = model.session([8, 1]).unwrap();
    let mut value = 42i64;
    let x = CTensor { data: (&raw mut value).cast(), dims: null(), rank: 0, dtype: 7 };
    let mut y = [EMPTY];
    model.run(session, &[x], &mut y).unwrap();
    // SAFETY: a scalar of the library's.
    assert_eq!((y[0].rank, unsafe { *y[0].data.cast::<i64>() }), (0, 42));
    model.close(session);
}

#[test]
fn a_processor_that_lacks_something() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.so");
    let parts = Parts { program: &Program::default(), objects: &[], cpu: u64::MAX };
    package::write(&parts, Kind::SharedLibrary, &path).unwrap();
    let error = Model::open(&path).session([8, 1]).unwrap_err();
    assert!(error.starts_with("the model was compiled for a processor with "), "{error}");
}

#[test]
fn failures_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.so");
    let error = |p: &Program, objects: &[Object], path: &Path| {
        let parts = Parts { program: p, objects, cpu: 0 };
        package::write(&parts, Kind::SharedLibrary, path).unwrap_err()
    };
    let mut p = layers("2", &some_weights(3, 1));
    let unresolved = error(&p, &[], &path);
    assert!(unresolved.message.contains("failed to link"), "{unresolved}");
    assert!(unresolved.message.contains("scale"), "{unresolved}");
    assert!(error(&p, &[Object { bytes: b"no object".to_vec() }], &path).message.contains("failed to link"));
    assert!(error(&p, &[], &folder.path().join("m.h")).message.contains("name of the header"));
    assert!(error(&p, &[], folder.path()).message.contains("name of a file"));
    assert!(error(&p, &[], Path::new("/dev/null")).message.contains("name of a file"));
    assert!(error(&p, &[], &folder.path().join("no/m.so")).message.contains("can't be opened"));
    p.kernels[0].name = "scale it".into();
    assert!(error(&p, &[], &path).message.contains("can't be a symbol"));
    p.kernels[0].name = "scale".into();
    p.buffers[3].place = Place::Alias(3);
    assert!(error(&p, &[], &path).message.contains("not sound"));
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn steps_of_the_interpreter_are_refused() {
    let mut g = aic_ir::graph::Graph::new("g");
    let x = g.add_input("x", ty(DType::F32, &["n"]));
    let op = aic_ir::op::NonZero { count: Dim::named("u") };
    g.add(op.into(), &[x], &["find".into()]).unwrap();
    let reason = "operator nonzero has no kernel yet";
    let step = Step::Host {
        node: aic_ir::graph::NodeId(0),
        inputs: vec![],
        outputs: vec![],
        defines: vec![],
        reason: reason.into(),
    };
    let p = Program { graph: g.into(), steps: vec![step.clone(), step], ..Program::default() };
    let parts = Parts { program: &p, objects: &[], cpu: 0 };
    let error = package::write(&parts, Kind::SharedLibrary, Path::new("m.so")).unwrap_err();
    assert_eq!(error.nodes, ["find"]);
    assert_eq!(error.message, format!("some nodes can't be compiled: {reason}"));
}

#[test]
fn a_missing_linker_is_named() {
    let name = "no_linker_child";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored"])
        .env("CC", "no-such-compiler -m64")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

#[test]
#[ignore = "run by a_missing_linker_is_named, which sets the environment"]
fn no_linker_child() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts { program: &Program::default(), objects: &[], cpu: 0 };
    let error = package::write(&parts, Kind::SharedLibrary, &folder.path().join("m.so")).unwrap_err();
    assert!(error.message.contains("no-such-compiler, which can't be started"), "{error}");
    assert!(error.help.unwrap().contains("CC"));
    assert_eq!(names_in(folder.path()), [""; 0]);
}

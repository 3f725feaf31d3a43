//! Sessions: programs made by hand, run by the C runtime with kernels written in Rust.

#![allow(clippy::unwrap_used)]

mod programs;

use aic::session::{Kernels, Options, Session};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::graph::Graph;
use aic_ir::op;
use aic_ir::program::{Place, Program, Step};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use bytes::Bytes;
use programs::*;
use std::sync::Arc;

fn input_of(batch: usize, cols: usize) -> Tensor {
    f32s(&[batch, cols], |i| (i % 13) as f32 - 6.0)
}

fn check_layers(s: &mut Session, batch: usize, weights: &[Tensor]) {
    let x = input_of(batch, weights[0].len());
    let y = s.run(std::slice::from_ref(&x)).unwrap();
    assert_eq!(y[0].shape(), [x.len()]);
    assert_eq!(y[0].to_vec::<f32>().unwrap(), layers_expected(&x, weights));
    assert_eq!(y[1], x);
}

fn message(s: &mut Session, inputs: &[Tensor]) -> String {
    s.run(inputs).unwrap_err().to_string()
}

#[test]
fn fixed_sizes_on_any_number_of_threads() {
    let weights = some_weights(37, 3);
    for n_threads in [0, 1, 2, 3, 4, 9] {
        let mut s = session(&layers("11", &weights), &LAYERS, n_threads).unwrap();
        assert_eq!(s.arena_bytes(), 2 * 1664, "known when the session is opened");
        for _ in 0..50 {
            check_layers(&mut s, 11, &weights);
        }
    }
}

#[test]
fn a_changing_batch() {
    let weights = some_weights(5, 2);
    for n_threads in [1, 2, 4] {
        let mut s = session(&layers("batch", &weights), &LAYERS, n_threads).unwrap();
        for batch in [3, 1, 0, 1000, 2, 2, 0, 4000, 7] {
            check_layers(&mut s, batch, &weights);
        }
    }
}

#[test]
fn large_memory() {
    let weights = some_weights(64, 1);
    let mut s = session(&layers("batch", &weights), &LAYERS, 2).unwrap();
    for batch in [10, 40_000, 20] {
        check_layers(&mut s, batch, &weights);
    }
    assert!(s.arena_bytes() >= 2 * 40_000 * 64 * 4);
}

#[test]
fn large_weights_wherever_they_lie() {
    let weights = some_weights(3 << 20, 2);
    let program = layers("batch", &weights);
    for weights_in_place in [false, true] {
        let kernels = || Kernels { functions: LAYERS.to_vec(), code: Box::new(()) };
        let options = Options { n_threads: 2, weights_in_place, ..Options::default() };
        // SAFETY: the functions do what the program declares.
        let mut s = unsafe { Session::new(&program, kernels(), &options) }.unwrap();
        check_layers(&mut s, 3, &weights);
    }
}

#[test]
fn sessions_in_several_threads() {
    let weights = some_weights(16, 4);
    let program = layers("batch", &weights);
    std::thread::scope(|scope| {
        for k in 0..3 {
            let (program, weights) = (&program, &weights);
            scope.spawn(move || {
                let mut s = session(program, &LAYERS, 1 + k).unwrap();
                for i in 0..100 {
                    check_layers(&mut s, (i * 7) % 29, weights);
                }
            });
        }
    });
}

#[test]
fn a_session_moves_between_threads() {
    let weights = some_weights(4, 1);
    let mut s = session(&layers("2", &weights), &LAYERS, 2).unwrap();
    check_layers(&mut s, 2, &weights);
    std::thread::spawn(move || check_layers(&mut s, 2, &weights)).join().unwrap();
}

#[test]
fn iterations_are_split_evenly() {
    let program = |extent: i64, work: i64| {
        let mut p = Program { kernels: vec![kernel("slices", 1, &[])], ..Program::default() };
        let y = output(&mut p, "y", ty(DType::I64, &["10"]));
        p.steps = vec![launch(0, &[y], &[], extent.into(), work)];
        p
    };
    let begins = |extent, work, n_threads| {
        let mut s = session(&program(extent, work), &[slices], n_threads).unwrap();
        s.run(&[]).unwrap()[0].to_i64()
    };
    assert_eq!(begins(10, MUCH, 4), [0, 0, 0, 3, 3, 3, 6, 6, 8, 8]);
    assert_eq!(begins(10, MUCH, 20), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(begins(10, MUCH, 1), [0; 10]);
    assert_eq!(begins(10, 1000, 4), [0; 10], "too little work for a second thread");
    assert_eq!(begins(10, 70_000, 4), [0, 0, 0, 0, 0, 5, 5, 5, 5, 5]);
    assert_eq!(begins(0, MUCH, 4), [-1; 10], "nothing runs, and the memory is poisoned");
}

#[test]
fn repeated_runs_give_the_same_memory() {
    let weights = some_weights(8, 2);
    let mut s = session(&layers("batch", &weights), &LAYERS, 2).unwrap();
    assert!(s.outputs().unwrap_err().message.contains("has not run"));
    s.bind(&[input_of(6, 8)]);
    for _ in 0..10 {
        s.run_bound().unwrap();
    }
    assert_eq!(s.outputs().unwrap()[1], input_of(6, 8));
}

#[test]
fn wrong_inputs_are_named() {
    let weights = some_weights(3, 1);
    let mut p = layers("batch", &weights);
    input(&mut p, "mask", ty(DType::Bool, &["batch", "4"]));
    let mut s = session(&p, &LAYERS, 1).unwrap();
    let mask = |n| Tensor::from_vec(vec![n, 4], &vec![true; n * 4]).unwrap();
    let x = input_of(2, 3);
    assert_eq!(message(&mut s, std::slice::from_ref(&x)), "expected 2 inputs, found 1");
    assert_eq!(
        message(&mut s, &[input_of(2, 4), mask(2)]),
        "input \"x\": expected f32[batch,3], found f32[2,4]"
    );
    assert_eq!(
        message(&mut s, &[x.reshape(vec![6]).unwrap(), mask(2)]),
        "input \"x\": expected f32[batch,3], found f32[6]"
    );
    assert_eq!(message(&mut s, &[mask(2), x.clone()]), "input \"x\": expected f32[batch,3], found bool[2,4]");
    assert_eq!(
        message(&mut s, &[x.clone(), mask(5)]),
        "input \"mask\": expected bool[batch,4] where batch = 2, found bool[5,4]"
    );
    let y = s.run(&[x.clone(), mask(2)]).unwrap();
    assert_eq!(y[1], x, "an error leaves the session as it was");
}

#[test]
fn ranges_that_kernels_rely_on_are_checked() {
    let weights = some_weights(3, 1);
    let mut p = layers("batch", &weights);
    p.kernels[0].symbols.push((aic_ir::dim::Sym::new("b"), aic_ir::dim::Range::new(1, 8)));
    for step in &mut p.steps {
        if let Step::Launch { kernel: 0, symbols, .. } = step {
            symbols.push(Dim::named("batch"));
        }
    }
    let mut s = session(&p, &LAYERS, 1).unwrap();
    check_layers(&mut s, 8, &weights);
    assert_eq!(
        message(&mut s, &[input_of(9, 3)]),
        "input \"x\": expected f32[batch,3] with batch in 1..8, found batch = 9"
    );
    assert!(message(&mut s, &[input_of(0, 3)]).ends_with("found batch = 0"));
}

#[test]
fn dims_that_depend_on_others() {
    let mut p = Program { kernels: vec![kernel("increment", 2, &["n"])], ..Program::default() };
    let n = Dim::named("n");
    let odd = n.clone() * 2.into() + 1.into();
    let half = n.floor_div(&2.into()) + n.modulo(&3.into()) * n.clone();
    let ceil = n.minimum(&Dim::from(5)).maximum(&Dim::from(2)) - n.ceil_div(&Dim::from(4));
    input(&mut p, "x", ty(DType::F32, &["n"]));
    let x = input(&mut p, "z", Type::new(DType::F32, vec![odd.clone(), half.clone(), ceil.clone()]));
    let y = output(&mut p, "y", Type::new(DType::F32, vec![odd.clone() * half.clone() * ceil.clone()]));
    let numel = odd * half * ceil;
    p.steps = vec![launch(0, &[x, y], &[1.into()], numel, MUCH)];
    let mut s = session(&p, &[increment], 2).unwrap();
    for n in 0..12usize {
        let shape = [2 * n + 1, n / 2 + n % 3 * n, n.clamp(2, 5) - n.div_ceil(4)];
        let x = f32s(&shape, |i| i as f32);
        let y = s.run(&[f32s(&[n], |_| 0.0), x.clone()]).unwrap();
        assert_eq!(y[0], f32s(&[x.len()], |i| i as f32 + 1.0));
    }
    let wrong = s.run(&[f32s(&[4], |_| 0.0), f32s(&[9, 6, 4], |_| 0.0)]).unwrap_err().to_string();
    assert!(wrong.ends_with("where n = 4, found f32[9,6,4]"), "{wrong}");
}

#[test]
fn what_was_taken_for_granted_is_checked() {
    let weights = some_weights(3, 1);
    let mut p = layers("batch", &weights);
    p.requires = vec![10.into(), Dim::named("batch") * 2.into() - 5.into()];
    let mut s = session(&p, &LAYERS, 1).unwrap();
    check_layers(&mut s, 3, &weights);
    let expected = "the model expects inputs whose dims give 2*batch-5 >= 0, found -1";
    assert_eq!(message(&mut s, &[input_of(2, 3)]), expected);
    assert_eq!(message(&mut s, &[input_of(2, 3)]), expected, "again");
    check_layers(&mut s, 3, &weights);
    let mut p = nonzero();
    p.requires = vec![Dim::named("u")];
    assert!(session(&p, &[double], 1).err().unwrap().message.contains("only after a host step"));
}

#[test]
fn impossible_sizes_are_errors() {
    let mut p = Program::default();
    let n = Dim::named("n");
    input(&mut p, "x", ty(DType::F32, &["n", "0"]));
    let dims = vec![n.clone() - 3.into(), n.clone() * n.clone() * n];
    buffer(&mut p, Type::new(DType::F32, dims.clone()), Place::Heap);
    let mut s = session(&p, &[], 1).unwrap();
    let x = |n| Tensor::from_vec::<f32>(vec![n, 0], &[]).unwrap();
    assert_eq!(s.run(&[x(4)]), Ok(vec![]));
    assert!(message(&mut s, &[x(2)]).contains("negative"));
    assert!(message(&mut s, &[x(1 << 40)]).contains("too large"));
    assert_eq!(s.run(&[x(4)]), Ok(vec![]));
    p.buffers[1].place = Place::Arena(0.into());
    p.buffers[1].ty.dims[0] = 1.into();
    p.arena_bytes = Dim::named("n") * Dim::from(1i64 << 40);
    let mut s = session(&p, &[], 1).unwrap();
    assert!(message(&mut s, &[x(1 << 23)]).contains("too large"), "saturated");
    assert!(message(&mut s, &[x(1 << 10)]).contains("cannot allocate"), "refused by the system");
    p.arena_bytes = 8.into();
    let mut s = session(&p, &[], 1).unwrap();
    assert!(message(&mut s, &[x(2)]).contains("doesn't fit"));
}

#[test]
fn memory_at_any_alignment() {
    let shifted = |t: &Tensor| {
        let mut data = vec![0; 1];
        data.extend_from_slice(t.bytes());
        Tensor::new(t.dtype(), t.shape().to_vec(), Bytes::from(data).slice(1..)).unwrap()
    };
    let weights: Vec<Tensor> = some_weights(7, 2).iter().map(shifted).collect();
    let mut s = session(&layers("batch", &weights), &LAYERS, 2).unwrap();
    for batch in [3, 50] {
        let x = input_of(batch, 7);
        let y = s.run(&[shifted(&x)]).unwrap();
        assert_eq!(y[0].to_vec::<f32>().unwrap(), layers_expected(&x, &weights));
    }
}

/// The indices of the elements that aren't zero, by the interpreter; twice that, by a kernel; both are outputs.
fn nonzero() -> Program {
    let mut g = Graph::new("g");
    let x = g.add_input("x", ty(DType::F32, &["n"]));
    let nonzero = op::NonZero { count: Dim::named("u") };
    let y = g.add(nonzero.into(), &[x], &[Arc::from("find")]).unwrap()[0];
    g.add_output("y", y);
    let mut p = Program { kernels: vec![kernel("double", 2, &[])], graph: Arc::new(g), ..Program::default() };
    let x = input(&mut p, "x", ty(DType::F32, &["n"]));
    let t = ty(DType::I64, &["1", "u"]);
    let found = buffer(&mut p, t.clone(), Place::Heap);
    let flat = buffer(&mut p, ty(DType::I64, &["u"]), Place::Alias(found));
    let copy = output(&mut p, "copy", t);
    let y = output(&mut p, "y", ty(DType::I64, &["u"]));
    p.steps = vec![
        Step::Host {
            node: aic_ir::graph::NodeId(0),
            inputs: vec![x],
            outputs: vec![found],
            defines: vec![(aic_ir::dim::Sym::new("u"), 0, 1)],
            reason: "a test".into(),
        },
        launch(0, &[flat, y], &[], Dim::named("u"), MUCH),
        Step::Copy { src: found, dst: copy },
    ];
    p
}

#[test]
fn host_steps_define_sizes() {
    let mut s = session(&nonzero(), &[double], 2).unwrap();
    for n in [10, 1, 0, 5000, 3] {
        for keep in [1, 2, 3] {
            let x = f32s(&[n], |i| (i % keep) as f32);
            let indices: Vec<i64> = (0..n as i64).filter(|i| i % keep as i64 != 0).collect();
            let y = s.run(&[x]).unwrap();
            assert_eq!(y[0], Tensor::from_vec(vec![1, indices.len()], &indices).unwrap());
            let doubled: Vec<i64> = indices.iter().map(|i| 2 * i).collect();
            assert_eq!(y[1], Tensor::from_vec(vec![indices.len()], &doubled).unwrap());
        }
    }
}

#[test]
fn errors_of_host_steps_name_their_nodes() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", ty(DType::F32, &["n"]));
    let i = g.add_const(Tensor::from_vec(vec![1], &[5i64]).unwrap(), &[]);
    let gathered = g.add(op::Gather { axis: 0 }.into(), &[x, i], &[Arc::from("pick")]).unwrap()[0];
    g.add_output("y", gathered);
    let node = aic_ir::graph::NodeId(1);
    let mut p = Program { graph: Arc::new(g), ..Program::default() };
    let x = input(&mut p, "x", ty(DType::F32, &["n"]));
    let value = Tensor::from_vec(vec![1, 1], &[5i64]).unwrap();
    let matrix = buffer(&mut p, Type::of(DType::I64, &[1, 1]), Place::Constant(value));
    let index = buffer(&mut p, Type::of(DType::I64, &[1]), Place::Alias(matrix));
    let y = output(&mut p, "y", Type::of(DType::F32, &[1]));
    let host = |outputs| Step::Host {
        node,
        inputs: vec![x, index],
        outputs,
        defines: Vec::new(),
        reason: String::new(),
    };
    p.steps = vec![host(vec![y])];
    let mut s = session(&p, &[], 1).unwrap();
    assert_eq!(s.run(&[f32s(&[6], |i| i as f32)]).unwrap()[0].to_f64(), [5.0]);
    let error = s.run(&[f32s(&[5], |i| i as f32)]).unwrap_err();
    assert_eq!(error.nodes, ["pick"]);
    assert!(error.message.contains("out of range"), "{error}");
    assert_eq!(s.run(&[f32s(&[7], |i| i as f32)]).unwrap()[0].to_f64(), [5.0]);
    p.buffers[y].ty.dims[0] = 2.into();
    p.outputs[0].ty.dims[0] = 2.into();
    let error = session(&p, &[], 1).unwrap().run(&[f32s(&[6], |i| i as f32)]).unwrap_err();
    assert_eq!(error.nodes, ["pick"]);
    assert!(error.message.contains("other dims than were inferred"), "{error}");
}

#[test]
fn unsound_programs_are_refused() {
    let error = |p: &Program| session(p, &[double], 1).err().map(|e| e.message).unwrap_or_default();
    let check = |change: fn(&mut Program), expected: &str| {
        let mut p = nonzero();
        change(&mut p);
        let found = error(&p);
        assert!(found.contains(expected), "expected {expected:?}, found {found:?}");
    };
    check(|_| (), "");
    check(|p| p.steps.swap(0, 1), "known only later");
    check(|p| p.steps[1] = launch(0, &[1, 99], &[], 1.into(), 1), "doesn't exist");
    check(|p| p.steps[1] = launch(0, &[1], &[], 1.into(), 1), "arguments");
    check(|p| p.steps[1] = launch(1, &[1, 2], &[], 1.into(), 1), "launches no kernel");
    check(|p| p.steps[1] = launch(0, &[1, 2], &[], Dim::named("v"), 1), "symbol v has no value");
    check(|p| p.buffers[2].place = Place::Alias(2), "alias of itself");
    check(|p| p.buffers[2].place = Place::Alias(50), "doesn't exist");
    check(|p| p.arena_bytes = Dim::named("u"), "only after a host step");
    check(|p| p.outputs[0].buffer = 1, "not in its place");
    check(|p| p.buffers[1].place = Place::Output(0), "two buffers are output 0");
    check(|p| p.buffers[1].place = Place::Output(7), "is port 7 of 2");
    check(|p| p.steps.push(p.steps[0].clone()), "symbol u is defined twice");
    let mut p = nonzero();
    p.kernels.clear();
    assert!(error(&p).contains("expected 0 compiled kernels, found 1"));
}

#[test]
fn missing_instruction_sets_are_named() {
    let p = Program::default();
    let kernels = || aic::session::Kernels { functions: Vec::new(), code: Box::new(()) };
    let options = aic::session::Options { cpu: u64::MAX, ..Default::default() };
    // SAFETY: there are no kernels.
    let error = unsafe { Session::new(&p, kernels(), &options) }.err().unwrap().message;
    assert!(error.contains("compiled for a processor with ") && error.contains("lacks"), "{error}");
    let here: Vec<&str> = std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .contains("avx2")
        .then_some("avx2")
        .into_iter()
        .collect();
    let options = aic::session::Options { cpu: aic::plan::cpu_bits(here), ..Default::default() };
    // SAFETY: there are no kernels.
    assert!(unsafe { Session::new(&p, kernels(), &options) }.is_ok());
}

#[test]
fn too_many_threads_are_refused() {
    let error = session(&Program::default(), &[], 5000).err().unwrap();
    assert_eq!(error.message, "aic_options.n_threads: expected at most 1024, found 5000");
}

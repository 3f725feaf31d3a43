//! The spaces of schedules: every point is a kernel that the verifier accepts, reads back from its text, and gives the bits
//! of the kernel that the model of costs chooses.

#![allow(clippy::unwrap_used)]

use aic_ir::compose::compose;
use aic_ir::compute::Compute;
use aic_ir::dim::{Dim, Sym};
use aic_ir::eval::{self, KernelBuffer};
use aic_ir::op::Rng;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_ir::types::Type;
use aic_passes::packing::pack_all;
use aic_passes::schedule::space::Space;
use aic_passes::schedule::{self, Choices, Scheduled, kernel_by, key};
use std::collections::{BTreeSet, HashMap};

/// Random values, some of them special.
fn tensor(ty: &Type, value: &dyn Fn(&Sym) -> Option<i64>, rng: &mut Rng) -> Tensor {
    let shape = ty.dims.iter().map(|d| d.eval(value).unwrap() as usize).collect();
    let special = [f64::INFINITY, f64::NAN, -0.0, 1e-40, 0.0];
    Tensor::generate(ty.dtype, shape, |_| match ty.dtype.is_float() {
        true if rng.one_in(300) => aic_ir::scalar::Scalar::F(rng.pick(&special)),
        true => aic_ir::scalar::Scalar::F(rng.unit() - 0.5),
        false => aic_ir::scalar::Scalar::I(rng.range(0, 5)),
    })
    .unwrap()
}

/// What a kernel writes.
fn run(made: &Scheduled, x: &[Tensor], value: &dyn Fn(&Sym) -> Option<i64>) -> Vec<Vec<u8>> {
    let mut x = x.to_vec();
    for (at, packing) in &made.packings {
        x[*at] = pack_all(&[(x[*at].clone(), packing.clone())]).unwrap().remove(0);
    }
    let mut buffers: Vec<KernelBuffer> = x.iter().map(KernelBuffer::from_tensor).collect();
    for p in &made.kernel.params[x.len()..] {
        let len = p.buffer.len.eval(value).unwrap() as usize;
        buffers.push(KernelBuffer::poisoned(p.buffer.dtype, len));
    }
    let symbols: Vec<i64> = made.kernel.symbols.iter().map(|(s, _)| value(s).unwrap()).collect();
    eval::kernel(&made.kernel, &mut buffers, &symbols).unwrap_or_else(|e| panic!("{e}\n{}", made.kernel));
    let is_result = |k: &usize| made.kernel.params[*k].buffer.scope == aic_ir::kernel::Scope::Global;
    (x.len()..buffers.len()).filter(is_result).map(|k| buffers[k].data.clone()).collect()
}

/// Checks points on random ways through the spaces of a graph's kernels, input 1 of which is a constant; gives how many
/// different ones there were.
fn check_with(text: &str, n_points: usize, symbols: &[(&str, i64)]) -> usize {
    let g = parse_graph(text).unwrap();
    let values: HashMap<Sym, i64> = symbols.iter().map(|(s, n)| (Sym::new(s), *n)).collect();
    let value = |s: &Sym| values.get(s).copied();
    let constants =
        if g.inputs.len() > 1 && symbols.is_empty() { BTreeSet::from([1]) } else { BTreeSet::new() };
    let compute = Compute { constants, ..compose(&g).unwrap() };
    let mut rng = Rng::new(11);
    let mut n_different = 0;
    for target in [Target::x86_avx512(), Target::x86_avx2(), Target::x86_sse()] {
        for piece in schedule::pieces(&compute, &target) {
            let c = &piece.compute;
            let space = Space::new(c, &target).unwrap();
            let chosen = schedule::kernel("", c, &target).unwrap();
            assert_eq!(*space.first(), chosen.schedule, "{text}");
            let x: Vec<Tensor> = c.inputs.iter().map(|t| tensor(t, &value, &mut rng)).collect();
            let want = run(&chosen, &x, &value);
            let (mut seen, mut at) = (vec![space.first().clone()], space.first().clone());
            for _ in 0..n_points {
                for _ in 0..10 {
                    let Some(knob) = (!space.knobs().is_empty()).then(|| rng.pick(space.knobs())) else {
                        break;
                    };
                    if let Some(next) = space.turned(&at, &knob, rng.pick(&knob.values)) {
                        at = next;
                    }
                }
                if seen.contains(&at) {
                    continue;
                }
                let made =
                    kernel_by("", c, &target, &at).unwrap_or_else(|e| panic!("{at}: {}\n{text}", e.message));
                assert_eq!(run(&made, &x, &value), want, "{at}\n{text}\n{}", made.kernel);
                assert_eq!(at.to_string().parse::<Schedule>(), Ok(at.clone()));
                let predicted = space.predict(&at).seconds;
                assert!(predicted > 0.0 && predicted.is_finite(), "{at} {predicted}");
                seen.push(at.clone());
            }
            n_different += seen.len() - 1;
        }
    }
    n_different
}

fn check(text: &str) {
    assert!(check_with(text, 4, &[]) > 0, "{text}");
}

#[test]
fn products_of_matrices() {
    for (m, k, n) in [(1, 40, 70), (23, 37, 65), (40, 64, 33)] {
        check(&format!(
            "graph(%0: f32[{m},{k}], %1: f32[{k},{n}], %2: f32[{n}]) -> f32[{m},{n}] {{
               %3 = matmul %0 %1 %4 = add %3 %2 %5 = relu %4 return %5 }}"
        ));
        let m = m.max(9);
        check(&format!(
            "graph(%0: f32[{m},{k}], %1: f32[{n},{k}]) -> f32[{m},{n}] {{
               %2 = transpose %1 {{perm=[1,0]}} %3 = matmul %0 %2 return %3 }}"
        ));
    }
    check("graph(%0: f32[3,9,20], %1: f32[3,20,33]) -> f32[3,9,33] { %2 = matmul %0 %1 return %2 }");
}

#[test]
fn products_of_unknown_extents() {
    let text = "graph(%0: f32[m,k], %1: f32[k,48]) -> f32[m,48] { %2 = matmul %0 %1 return %2 }";
    for m in [0, 1, 17] {
        assert!(check_with(text, 6, &[("m", m), ("k", 9)]) > 3);
    }
}

#[test]
fn convolutions() {
    for (c, m, h, w, kernel, stride, pad) in
        [(6, 24, 5, 7, 3, 1, 1), (2, 9, 3, 140, 3, 1, 0), (2, 9, 9, 11, 5, 2, 2)]
    {
        let (oh, ow) = ((h + 2 * pad - kernel) / stride + 1, (w + 2 * pad - kernel) / stride + 1);
        let attributes =
            format!("strides=[{stride},{stride}], dilations=[1,1], pads=[{pad},{pad},{pad},{pad}]");
        check(&format!(
            "graph(%0: f32[2,{c},{h},{w}], %1: f32[{m},{c},{kernel},{kernel}]) -> f32[2,{m},{oh},{ow}] {{
               %2 = conv %0 %1 {{{attributes}, groups=1}} %3 = relu %2 return %3 }}"
        ));
        check(&format!(
            "graph(%0: f32[2,{h},{w},{c}], %1: f32[{kernel},{kernel},{c},{m}]) -> f32[2,{oh},{ow},{m}] {{
               %2 = channels_last_conv %0 %1 {{{attributes}, groups=1}} return %2 }}"
        ));
        check(&format!(
            "graph(%0: f32[2,{h},{w},40], %1: f32[{kernel},{kernel},1,40]) -> f32[2,{oh},{ow},40] {{
               %2 = channels_last_conv %0 %1 {{{attributes}, groups=40}} return %2 }}"
        ));
        check(&format!(
            "graph(%0: f32[1,8,{h},{w}], %1: f32[8,1,{kernel},{kernel}]) -> f32[1,8,{oh},{ow}] {{
               %2 = conv %0 %1 {{{attributes}, groups=8}} return %2 }}"
        ));
    }
}

#[test]
fn winograd() {
    for (h, w, c, m) in [(8, 9, 6, 64), (5, 14, 3, 32)] {
        check(&format!(
            "graph(%0: f32[1,{h},{w},{c}], %1: f32[16,{},{c},32]) -> f32[1,{h},{w},{m}] {{
               %2 = winograd %0 %1 {{tile=2, pads=[1,1,1,1]}} return %2 }}",
            m / 32
        ));
    }
}

#[test]
fn reductions_and_maps() {
    check(
        "graph(%0: f32[3,7,128]) -> f32[3,128] {
             %1 = reduce %0 {op=sum, axes=[1]} %2 = reshape %1 {shape=[3,128]} return %2 }",
    );
    let few = "graph(%0: f32[40,37]) -> f32[37,40] { %1 = transpose %0 {perm=[1,0]} return %1 }";
    assert!(check_with(few, 8, &[]) > 2);
    let none = "graph(%0: f32[40,37]) -> f32[40] {
      %1 = reduce %0 {op=sum, axes=[1]} %2 = reshape %1 {shape=[40]} return %2 }";
    assert_eq!(check_with(none, 8, &[]), 0, "what decides about bits is no knob");
}

#[test]
fn several_stages() {
    check("graph(%0: f32[2,3,37,24], %1: f32[2,3,29,24], %2: f32[2,3,29,20], %3: f32[2,1,1,29]) -> f32[2,3,37,20] {
             %4 = attention %0 %1 %2 %3 {scale=0.2, causal=false} return %4 }");
    check(
        "graph(%0: f32[26,40], %1: f32[40,48], %2: f32[26,48]) -> f32[26,48] {
             %3 = matmul %0 %1 %4 = add %3 %2 %5 = softmax %4 {axis=1} return %5 }",
    );
    let text = "graph(%0: f32[b,4,s,24], %1: f32[b,4,t,24], %2: f32[b,4,t,24]) -> f32[b,4,s,24] {
      %3 = attention %0 %1 %2 {scale=0.2, causal=true} return %3 }";
    assert!(check_with(text, 6, &[("b", 2), ("s", 37), ("t", 29)]) > 3);
}

#[test]
fn choices_are_found_by_what_is_computed() {
    let compute = |text: &str| compose(&parse_graph(text).unwrap()).unwrap();
    let c = compute("graph(%0: f32[23,37], %1: f32[37,65]) -> f32[23,65] { %2 = matmul %0 %1 return %2 }");
    let other =
        compute("graph(%0: f32[23,37], %1: f32[37,64]) -> f32[23,64] { %2 = matmul %0 %1 return %2 }");
    let mut renamed = c.clone();
    {
        let a = &mut renamed.stages[0].axes[0];
        let new = Sym::new(&format!("{}_renamed", a.var.name()));
        let old = std::mem::replace(&mut a.var, new.clone());
        let value = renamed.stages[0].value.clone();
        renamed.stages[0].value = value.subst(&|s| (*s == old).then(|| Dim::sym(&new)));
    }
    assert_eq!(key(&c), key(&renamed));
    assert_ne!(key(&c), key(&other));
    assert_ne!(key(&c), key(&Compute { constants: BTreeSet::from([1]), ..c.clone() }));
    let target = Target::x86_avx512();
    let legal: Schedule = "contract lanes=16 mr=5 nr=2 kc=0".parse().unwrap();
    let choices: Choices = [(key(&c), legal.clone())].into_iter().collect();
    assert_eq!(choices.kernel("k", &c, &target).unwrap().schedule, legal);
    let chosen = schedule::kernel("k", &other, &target).unwrap();
    assert_eq!(choices.kernel("k", &other, &target).unwrap().kernel, chosen.kernel);
    // What isn't legal is left out.
    for wrong in [
        "map lanes=16 mr=1 nr=1 kc=0",
        "contract lanes=16 mr=0 nr=2 kc=0",
        "contract lanes=32 mr=4 nr=2 kc=0",
        "contract lanes=16 mr=4 nr=2 kc=7",
        "contract lanes=16 mr=4 nr=2 kc=0 pack=32",
        "contract lanes=16 mr=4 nr=2 kc=0 mc=7",
        "contract lanes=16 mr=4 nr=2 kc=0 panel=32",
        "contract lanes=16 mr=4 nr=2 kc=0 { map lanes=16 mr=1 nr=1 kc=0 }",
    ] {
        let choices: Choices = [(key(&c), wrong.parse().unwrap())].into_iter().collect();
        let made = choices.kernel("k", &c, &target).unwrap();
        assert_eq!(made.kernel, schedule::kernel("k", &c, &target).unwrap().kernel, "{wrong}");
        assert!(kernel_by("k", &c, &target, &wrong.parse().unwrap()).is_err(), "{wrong}");
    }
}

//! Tests of the interpreter.

use super::*;
use crate::text::parse_kernel;

/// Runs a kernel on `f32` buffers and gives their contents afterwards.
fn run(src: &str, buffers: &[&[f32]], symbols: &[i64]) -> Result<Vec<Vec<f32>>> {
    let k = parse_kernel(src).unwrap_or_else(|e| panic!("{e}"));
    let tensor = |x: &&[f32]| Tensor::from_vec(vec![x.len()], x).unwrap();
    let mut b: Vec<KernelBuffer> = buffers.iter().map(|x| KernelBuffer::from_tensor(&tensor(x))).collect();
    kernel(&k, &mut b, symbols)?;
    Ok(b.iter().zip(buffers).map(|(b, x)| b.to_tensor(vec![x.len()]).unwrap().to_vec().unwrap()).collect())
}

fn error(src: &str, buffers: &[&[f32]], symbols: &[i64]) -> String {
    run(src, buffers, symbols).unwrap_err().message
}

#[test]
fn vectors_masks_and_reductions() {
    let src = "kernel @k(in x: f32[n], out y: f32[n], out s: f32[1]; n: 0..) {
      alloc acc: f32[4] register
      acc[ramp(0, 1, 4)] = broadcast(f32(0.0), 4)
      for i in 0..floordiv(n+3,4) {
        let m = lt(ramp(4*i, 1, 4), broadcast(n, 4))
        let v = x[ramp(4*i, 1, 4) if m]
        y[ramp(4*i, 1, 4) if m] = mul(v, broadcast(f32(2.0), 4))
        acc[ramp(0, 1, 4)] = add(acc[ramp(0, 1, 4)], v)
      }
      s[0] = reduce(sum, acc[ramp(0, 1, 4)])
    }";
    let out = run(src, &[&[1., 2., 3., 4., 5.], &[0.; 5], &[0.]], &[5]).unwrap();
    assert_eq!(out[1..], [vec![2., 4., 6., 8., 10.], vec![15.]]);
}

#[test]
fn control_flow_and_scopes() {
    let src = "kernel @k(out y: f32[8]) {
      alloc at: i64[1] stack
      at[0] = 0
      while lt(at[0], 8) {
        let i: i64 = at[0]
        if eq(mod(i, 2), 0) { y[i] = f32(1.0) } else { y[i] = cast(f32, var(i)) }
        at[0] = add(at[0], 1)
      }
    }";
    assert_eq!(run(src, &[&[9.; 8]], &[]).unwrap()[0], [1., 1., 1., 3., 1., 5., 1., 7.]);
}

#[test]
fn fresh_buffers_are_poisoned() {
    let src = "kernel @k(out y: f32[1]) { alloc a: f32[2] stack y[0] = a[1] }";
    assert!(run(src, &[&[0.]], &[]).unwrap()[0][0].is_nan());
}

#[test]
fn accesses_are_checked() {
    let src = "kernel @k(in x: f32[n], out y: f32[n]; n: 0..) { for i in 0..n { y[i] = x[i+1] } }";
    let message = error(src, &[&[1.; 3], &[0.; 3]], &[3]);
    assert_eq!(message, "kernel k: it reads element 3 of x, which has 3 (at n=3, i=2)");
    let message = error("kernel @k(in x: f32[1]) { x[0] = f32(1) }", &[&[0.]], &[]);
    assert_eq!(message, "kernel k: it writes x, an input");
    let message =
        error("kernel @k(out x: f32[2]) { x[ramp(0, -1, 2)] = broadcast(f32(1), 2) }", &[&[0.; 2]], &[]);
    assert!(message.contains("writes element -1"), "{message}");
    assert!(
        error("kernel @k(out x: f32[2]) { call @dance(x[0]) }", &[&[0.; 2]], &[])
            .contains("unknown intrinsic")
    );
    assert!(
        error("kernel @k(out x: f32[2]; n: 1..=4) { }", &[&[0.; 2]], &[5]).contains("outside of its range")
    );
}

#[test]
fn races_are_found() {
    let racy = [
        "y[0] = cast(f32, i)",
        "y[floordiv(i,2)] = f32(0)",
        "y[i] = y[mod(i+1,8)]",
        "if eq(i, 3) { y[0] = y[7] }  y[i] = f32(0)",
    ];
    for body in racy {
        let src = format!("kernel @k(out y: f32[8]) {{ parallel for i in 0..8 {{ {body} }} }}");
        assert!(error(&src, &[&[0.; 8]], &[]).contains("a race"), "{body}");
    }
    let fine = "kernel @k(out y: f32[8]) {
      parallel for i in 0..8 { alloc t: f32[1] stack t[0] = y[i] y[i] = add(t[0], f32(1)) }
      parallel for i in 0..8 { y[7-i] = cast(f32, i) }
    }";
    assert_eq!(run(fine, &[&[0.; 8]], &[]).unwrap()[0], [7., 6., 5., 4., 3., 2., 1., 0.]);
}

#[test]
fn threads_meet_at_barriers() {
    let src = |barrier: &str| {
        format!(
            "kernel @k(in x: f32[16], out y: f32[2]) {{
              bind(block, 0) for b in 0..2 {{
                bind(thread, 0) for t in 0..8 {{
                  alloc s: f32[8] shared
                  s[t] = x[8*b+t]
                  for r in 0..3 {{
                    let v: f32 = f32(0)
                    {barrier}
                    let w: f32 = s[mod(t+1,8)]
                    {barrier}
                    s[t] = add(s[t], w)
                  }}
                  {barrier}
                  if eq(t, 0) {{ y[b] = s[0] }}
                }}
              }}
            }}"
        )
    };
    let x: Vec<f32> = (0..16u8).map(f32::from).collect();
    let y = run(&src("barrier shared"), &[&x, &[0.; 2]], &[]).unwrap();
    // Three rounds of adding the neighbour: binomial weights 1 3 3 1.
    assert_eq!(y[1], [0. + 3. + 6. + 3., 8. + 27. + 30. + 11.]);
    assert!(error(&src(""), &[&x, &[0.; 2]], &[]).contains("a race"));
}

#[test]
fn copies_happen_at_the_wait() {
    let src = |wait: &str| {
        format!(
            "kernel @k(in x: f32[8], out y: f32[8]) {{
              alloc a: f32[8] shared
              copy a[0; 4] from x[0; 2] size [2, 2] async g
                  commit g
              {wait}
              y[0] = a[0] y[1] = a[1] y[2] = a[4] y[3] = a[5]
              wait g pending 0
            }}"
        )
    };
    let x: Vec<f32> = (1..9u8).map(f32::from).collect();
    let y = run(&src("wait g pending 0"), &[&x, &[0.; 8]], &[]).unwrap();
    assert_eq!(y[1][..4], [1., 2., 3., 4.]);
    let early = error(&src("wait g pending 1"), &[&x, &[0.; 8]], &[]);
    assert!(early.contains("it reads element 0 of a, which group g, not yet waited for, writes"), "{early}");
    let early = error(&src("a[0] = f32(1)"), &[&x, &[0.; 8]], &[]);
    assert!(early.contains("it writes element 0 of a, which group g, not yet waited for, writes"), "{early}");
    let never = "kernel @k(in x: f32[8], out y: f32[8]) { copy y[0] from x[0] size [8] async g commit g }";
    assert!(error(never, &[&x, &[0.; 8]], &[]).contains("never waited for"));
    let source = "kernel @k(in x: f32[8], out y: f32[8]) {
      alloc a: f32[8] stack
      copy a[0] from y[0] size [8] async g
      commit g
      y[3] = f32(0)
      wait g pending 0
    }";
    let early = error(source, &[&x, &[0.; 8]], &[]);
    assert!(early.contains("it writes element 3 of y, which group g, not yet waited for, reads"), "{early}");
}

#[test]
fn matrix_tiles() {
    let src = "kernel @k(in a: f32[6], in b: f32[6], out c: f32[8]) { mma @any [2, 2, 3] c[0; 4] += a[0; 3] * b[0; 2] }";
    let c = run(src, &[&[1., 2., 3., 4., 5., 6.], &[1., 0., 0., 1., 1., 1.], &[1.; 8]], &[]).unwrap();
    assert_eq!(c[2], [5., 6., 1., 1., 11., 12., 1., 1.]);
}

//! Tests of the kernel verifier.

use super::*;
use crate::text::parse_kernel;

fn violations(src: &str) -> Vec<String> {
    kernel(&parse_kernel(src).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn sound() {
    let src = "kernel @k(in x: f32[n*m], in at: i64[m], out y: f32[n*m], out z: f32[m]; n: 0.., m: 0..) {
      parallel for p in 0..n*m {
        alloc acc: f32[8] register
        unroll for u in 0..2 { acc[ramp(4*u, 1, 4)] = broadcast(f32(0), 4) }
        let q: i64 = at[mod(p,m)]
        let c: i64 = max(min(var(q), n-1), 0)
        y[p] = add(x[c*m+mod(p,m)], x[(mod(p,m)*n+floordiv(p,m))])
        for v in 0..floordiv(m,4) {
          acc[ramp(0, 1, 4)] = x[ramp(m*floordiv(p,m)+4*v, 1, 4)]
          z[add(ramp(4*v, 1, 4), broadcast(0, 4))] = mul(acc[ramp(4, 1, 4)], acc[ramp(0, 1, 4)])
        }
        if and(lt(q, m), ge(q, 0)) { z[q] = f32(0) }
        z[q if lt(q, m)] = f32(1)
        call @prefetch(x[p+1000])
      }
    }";
    assert_eq!(violations(src), Vec::<String>::new());
}

#[test]
fn bounds() {
    let cases = [
        ("for i in 0..n { y[i+1] = f32(0) }", "`y[i+1] = f32(0.0)`: y[i+1]: cannot prove i+1 < n"),
        ("for i in 0..n { y[i-1] = f32(0) }", "`y[i-1] = f32(0.0)`: y[i-1]: cannot prove i-1 >= 0"),
        ("y[0] = f32(0)", "`y[0] = f32(0.0)`: y[0]: cannot prove 0 < n"),
        (
            "for i in 0..n { let j: i64 = mul(i, 2) y[j] = f32(0) }",
            "`y[j] = f32(0.0)`: y[j]: cannot prove 2*i < n",
        ),
        (
            "for i in 0..floordiv(n,4) { y[ramp(4*i, 2, 4)] = broadcast(f32(0), 4) }",
            "`y[ramp(4*i, 2, 4)] = broadcast(f32(0.0), 4)`: y[ramp(4*i, 2, 4)]: cannot prove 4*i+2*'lane of 4' < n",
        ),
        (
            "for i in 0..n { if gt(i, 3) { } else { y[n-i-1] = y[i+1] } }",
            "`y[-i+n-1] = y[i+1]`: y[i+1]: cannot prove i+1 < n",
        ),
        (
            "copy y[0; 4] from x[0; 5] size [2, 4]",
            "`copy y[0; 4] from x[0; 5] size [2, 4]`: x['column of tile'+5*'row of tile']: cannot prove 'column of tile'+5*'row of tile' < 8",
        ),
    ];
    for (body, message) in cases {
        let src = format!("kernel @k(in x: f32[8], out y: f32[n]; n: 0..) {{ {body} }}");
        assert_eq!(violations(&src).last().map(String::as_str), Some(message));
    }
    let copy = "kernel @k(in x: f32[8], out y: f32[n]; n: 8..) { copy y[n-8; 3] from x[0; 5] size [2, 3] }";
    assert_eq!(violations(copy), Vec::<String>::new());
}

#[test]
fn every_violation_is_reported() {
    let src = "kernel @'1k'(in x: f32[8], out y: f16[4] shared) { }".replace("'1k'", "\"1 k\"");
    assert_eq!(
        violations(&src),
        [
            "the name \"1 k\" is no C identifier",
            "`y: f16[4] shared`: a parameter is global or workspace memory"
        ]
    );
    let src = "kernel @k(in x: f32[8], out y: f16[4]; n: 0..) {
      x[0] = f32(0)
      y[0] = f32(0)
      y[1] = add(y[0], y[0])
      parallel for x in 0..n { }
      alloc r: f32[n] register
      for i in 0..4 { alloc s: f32[4] register s[i] = x[k] }
      unroll for u in 0..n { }
      if 3 { y[0] = cast(f16, i8(3)) }
      wait g pending 0
      barrier register
      let v: f32x4 = x[ramp(0, 1, 4) if broadcast(bool(true), 8)]
      y[2] = reduce(argmax, y[1])
    }";
    assert!(parse_kernel(src).is_err());
    let src = src.replace("let v: f32x4 =", "y[ramp(0, 1, 4)] =");
    assert_eq!(
        violations(&src),
        [
            "a parallel loop must be the whole body and start at 0",
            "there are no copies of group g to wait for",
            "`x[0] = f32(0.0)`: x is not writable",
            "`y[0] = f32(0.0)`: expected a value f16, found f32",
            "`y[1] = add(y[0], y[0])`: add is not computed in f16",
            "`parallel for x in 0..n`: the name x is taken",
            "`alloc r: f32[n] register`: a buffer in registers has a constant length",
            "`s[i] = x[k]`: k is no integer in scope",
            "`s[i] = x[k]`: x[k]: cannot prove k >= 0",
            "`s[i] = x[k]`: x[k]: cannot prove k < 8",
            "`s[i] = x[k]`: s[i] is in registers, but its index is no constant",
            "`unroll for u in 0..n`: an unrolled loop has a constant number of iterations",
            "`if 3`: a condition is a bool, found i64",
            "`barrier register`: threads do not share this memory",
            "`y[ramp(0, 1, 4)] = x[ramp(0, 1, 4) if broadcast(bool(true), 8)]`: expected a mask boolx4, found boolx8",
            "`y[2] = reduce(argmax, y[1])`: argmax does not combine f16",
        ]
    );
}

//! Tests of the kernels' text form.

use super::*;
use crate::dim::Dim;

/// Every statement and expression, as printed.
const EVERYTHING: &str = r#"kernel @"all of it"(in x: f32[4*n], in 'a b': bf16[n], out y: f32[n] workspace; n: 1..=512, m: 2.., k, l: ..=-3) {
  parallel for i in 0..floordiv(n+15,16) {
    alloc acc: f32[32] register
    let t0: i64 = min(i, (max(0,i-3)))
    let t1: f32 = x[t0+mod(i,4)]
    let t2: boolx16 = lt(ramp(16*i, 1, 16), broadcast(n, 16))
    let t3: f32x16 = x[ramp(16*i, 1, 16) if t2]
    let t4: i64 = add(var(t0), 4*t0)
    let t5: f32x16 = broadcast(t1, 16)
    unroll for j in 0..2 {
      acc[ramp(16*j, 1, 16)] = fma(t3, t5, broadcast(f32(1e-10), 16))
    }
    y[ramp(16*i, -1, 16) if t2] = cast(f32, 'a b'[ramp(0, 0, 16)])
    vector for v in -n+1..m {
      if eq(v, 3) {
        y[0] = f32(nan)
      } else {
        y[1] = f32(nan(0xffc00001))
      }
      if isnan(f32(-inf)) {
      }
    }
    while and(bool(true), not(bool(false))) {
      y[0] = reduce(max, t3)
    }
  }
  bind(block, 1) for b in 0..4 {
    bind(core) for c in 0..4 {
      alloc rows: f32[64] shared
      bind(warp) for w in 0..4 {
        bind(thread, 0) for t in 0..32 {
          copy rows[4*t; 32] from x[t; 16] size [2, 4] async g
          copy rows[0] from x[0] size [n valid min(n,t)]
          copy rows[0; blocks(16, 16, 256), blocks(1, 16, 512)] from x[0; n, 2] size [32, 16 valid n, 16]
          copy acc[0; fragment(@mma_m16n8k16_f16, c)] from rows[0; 8] size [16, 8]
          commit g
          wait g pending 1
          let t4: f32 = shuffle(x[t], mod(t+16,32))
          barrier shared
          rows[0] = cast(f32, u64(18446744073709551615))
          mma @m16n8k16 [16, 8, 16] rows[0; 8] += rows[b; 16] * rows[c; 8]
          mma @m16n8k16 [16, 8, 16] acc[0; fragment(@m16n8k16, c)] += rows[b; 16] * rows[c; 1, 8] fresh if eq(t, 0) async g
          call @prefetch(x[4*i], i64(-9223372036854775808))
        }
      }
    }
  }
}
"#;

#[test]
fn everything_reads_back() {
    let k = parse_kernel(EVERYTHING).unwrap_or_else(|e| panic!("{e}"));
    let printed = k.to_string();
    assert_eq!(printed, EVERYTHING);
    // NaN constants are equal by their bits.
    assert_eq!(parse_kernel(&printed), Ok(k));
}

#[test]
fn calls_and_index_expressions_differ() {
    let src = |e: &str| format!("kernel @k(out y: i64[9]; i) {{ y[0] = {e} }}");
    let value = |e: &str| match parse_kernel(&src(e)).unwrap().body.pop() {
        Some(Stmt::Store { value, .. }) => value,
        other => panic!("{other:?}"),
    };
    let (i, two) = (Dim::named("i"), Dim::from(2));
    assert_eq!(value("(min(i,2))"), Expr::Index(i.minimum(&two)));
    assert_eq!(value("min(i, 2)"), Expr::call(ScalarFn::Min, [Expr::Index(i.clone()), Expr::Index(two)]));
    assert_eq!(value("-min(i,2)+i*i"), Expr::Index(-i.minimum(&2.into()) + i.clone() * i));
}

#[test]
fn errors_have_places() {
    let cases = [
        ("kernel main", "1:8: expected the kernel's name, such as @main, found main"),
        ("kernel @k() { x[0] = }", "1:22: expected an index expression, found `}`"),
        ("kernel @k() { let x = y[0] }", "1:21: the value of x is ill typed"),
        ("kernel @k() {\n  let x: f32 = i64(1)\n}", "2:8: x is declared as f32, but its value is i64"),
        ("kernel @k() { y[0] = sine(0.0) }", "1:22: there is no function sine"),
        ("kernel @k() { goto 3 }", "1:15: expected a statement or `}`, found goto"),
        ("kernel @k() { y[0] = i8(128) }", "1:25: 128 is not a value of type i8"),
        ("kernel @k() { alloc y: f32[2] registers }", "1:31: expected a statement or `}`, found registers"),
    ];
    for (src, message) in cases {
        match parse_kernel(src) {
            Ok(_) => assert_eq!("", message, "{src}"),
            Err(e) => assert_eq!(e.message, message, "{src}"),
        }
    }
    let deep = format!("kernel @k() {}", "{ while b ".repeat(100_000));
    assert!(parse_kernel(&deep).is_err());
    let deep = format!("kernel @k() {{ y[0] = {}", "neg(".repeat(100_000));
    assert!(parse_kernel(&deep).unwrap_err().message.contains("nested more than"));
}

proptest::proptest! {
    #[test]
    fn never_panics(edits in proptest::collection::vec((0usize..2000, ".{0,3}"), 1..4)) {
        let mut text = EVERYTHING.to_string();
        for (at, insert) in edits {
            let at = at % text.len();
            if text.is_char_boundary(at) {
                let end = text.char_indices().find(|(k, _)| *k > at).map_or(text.len(), |c| c.0);
                text.replace_range(at..end, &insert);
            }
            if let Ok(k) = parse_kernel(&text) {
                let printed = k.to_string();
                assert_eq!(parse_kernel(&printed), Ok(k));
            }
        }
    }
}

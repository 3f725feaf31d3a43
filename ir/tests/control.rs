//! Operators with bodies: what they evaluate to, and the types inferred for extents that iterations change.

#![allow(clippy::unwrap_used)]

use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;

fn parse(text: &str) -> Graph {
    parse_graph(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values).unwrap()
}

fn int(value: i64) -> Tensor {
    Tensor::scalar(DType::I64, Scalar::I(value))
}

fn truth(value: bool) -> Tensor {
    Tensor::scalar(DType::Bool, Scalar::B(value))
}

fn types(g: &Graph) -> Vec<String> {
    g.outputs.iter().map(|p| g.ty(p.value).to_string()).collect()
}

const BRANCHES: &str = "graph @f(%0: bool[], %1: f32[n], %2: f32[m]) -> (%3) {
  %3 = if %0 %1 %2 {
    then=graph @a(%0: f32[p], %1: f32[q]) -> (f32[p]) { %2 = neg %0 return %2 },
    other=graph @b(%0: f32[p], %1: f32[q]) -> (f32[q]) { return %1 },
    fresh=FRESH}
  return %3
}";

#[test]
fn branches_may_disagree_on_extents() {
    let g = parse(&BRANCHES.replace("FRESH", "f").replace("(%3)", "(f32[f_0_0])"));
    assert_eq!(types(&g), ["f32[f_0_0]"]);
    let (x, y) = (floats(&[2], &[1., 2.]), floats(&[3], &[3., 4., 5.]));
    let run = |c| eval::graph(&g, &[truth(c), x.clone(), y.clone()]).unwrap()[0].to_f64();
    assert_eq!(run(true), [-1., -2.]);
    assert_eq!(run(false), [3., 4., 5.]);
}

#[test]
fn a_disagreement_needs_a_symbol() {
    let e = parse_graph(&BRANCHES.replace("FRESH", "0").replace("(%3)", "(f32[f_0_0])")).unwrap_err();
    assert!(e.message.contains("result 0 is f32[n] in one body and f32[m] in the other"), "{e}");
}

/// Appends the iteration's number to a list until it reaches 3; the list's extent changes as it goes.
const GROWING: &str = "graph @f(%0: i64[], %1: bool[], %2: i64[k], %3: i64[]) -> (i64[len], i64[count]) {
  %4, %5 = loop %0 %1 %2 %3 {states=1, count=count, body=
    graph @body(%0: i64[], %1: bool[], %2: i64[len], %3: i64[]) -> (bool[], i64[len+1], i64[]) {
      %4 = reshape %0 {shape=[1]}
      %5 = concat %2 %4 {axis=0}
      %6 = lt %0 %3
      %7 = mul %0 %0
      return %6, %5, %7
    }}
  return %4, %5
}";

#[test]
fn a_loop_ends_by_its_condition() {
    let g = parse(GROWING);
    let start = Tensor::from_vec(vec![1], &[7i64]).unwrap();
    let y = eval::graph(&g, &[int(i64::MAX), truth(true), start, int(3)]).unwrap();
    assert_eq!(y[0].to_i64(), [7, 0, 1, 2, 3]);
    assert_eq!(y[1].to_i64(), [0, 1, 4, 9]);
}

#[test]
fn a_loop_ends_by_its_trip_count_or_does_not_begin() {
    let g = parse(GROWING);
    let start = Tensor::from_vec(vec![0], &[0i64; 0]).unwrap();
    let run = |trip, cond| eval::graph(&g, &[int(trip), truth(cond), start.clone(), int(9)]).unwrap();
    assert_eq!(run(2, true)[0].to_i64(), [0, 1]);
    for y in [run(5, false), run(0, true), run(-4, true)] {
        assert_eq!((y[0].shape(), y[1].shape()), (&[0][..], &[0][..]));
    }
}

#[test]
fn a_loop_keeps_invariant_extents() {
    let g = parse(
        "graph @f(%0: i64[], %1: bool[], %2: f32[batch,4]) -> (f32[batch,4], f32[3,batch,4]) {
          %3, %4 = loop %0 %1 %2 {states=1, count=3, body=
            graph @body(%0: i64[], %1: bool[], %2: f32[rows,cols]) -> (bool[], f32[rows,cols], f32[rows,cols]) {
              %3 = add %2 %2
              return %1, %3, %2
            }}
          return %3, %4
        }",
    );
    assert_eq!(types(&g), ["f32[batch,4]", "f32[3,batch,4]"]);
    let x = floats(&[1, 4], &[1., 2., 3., 4.]);
    let y = eval::graph(&g, &[int(3), truth(true), x.clone()]).unwrap();
    assert_eq!(y[0].to_f64(), [8., 16., 24., 32.]);
    assert_eq!(y[1].to_f64(), [1., 2., 3., 4., 2., 4., 6., 8., 4., 8., 12., 16.]);
    // The count is known to be 3, and the interpreter holds it to that.
    let e = eval::graph(&g, &[int(2), truth(true), x]).unwrap_err();
    assert!(e.message.contains("2 iterations were done where 3 were declared"), "{e}");
}

/// Running sums along axis 1 of a matrix, in either direction, stacked along axis 1.
fn running(reverse: bool) -> Result<Vec<Tensor>> {
    let text = "graph @f(%0: f32[n], %1: f32[n,t], %2: f32[]) -> (f32[n], f32[n,t]) {
      %3, %4 = scan %0 %1 %2 {states=1, scanned=1, input_axes=[1], input_reverse=[REV],
        output_axes=[1], output_reverse=[REV], body=
        graph @body(%0: f32[r], %1: f32[r], %2: f32[]) -> (f32[r], f32[r]) {
          %3 = mul %1 %2
          %4 = add %0 %3
          return %4, %4
        }}
      return %3, %4
    }";
    let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let g = parse(&text.replace("REV", if reverse { "true" } else { "false" }));
    eval::graph(&g, &[floats(&[2], &[0., 1.]), x, floats(&[], &[2.])])
}

#[test]
fn scans_run_both_ways() {
    let y = running(false).unwrap();
    assert_eq!(y[0].to_f64(), [12., 31.]);
    assert_eq!(y[1].to_f64(), [2., 6., 12., 9., 19., 31.]);
    let y = running(true).unwrap();
    assert_eq!(y[1].to_f64(), [12., 10., 6., 31., 23., 13.]);
}

#[test]
fn bodies_are_checked() {
    let text = "graph @f(%0: i64[], %1: bool[], %2: f32[4]) -> (f32[4]) {
      %3 = loop %0 %1 %2 {states=1, count=c, body=
        graph @body(%0: i64[], %1: bool[], %2: STATE) -> (bool[], NEXT) { RESULT }}
      return %3
    }";
    let message = |state: &str, next: &str, result: &str| {
        let text = text.replace("STATE", state).replace("NEXT", next).replace("RESULT", result);
        parse_graph(&text).unwrap_err().message
    };
    let same = "return %1, %2";
    assert!(message("f64[4]", "f64[4]", same).contains("is f64[4] but is passed f32[4]"));
    assert!(message("f32[5]", "f32[5]", same).contains("is f32[5] but is passed f32[4]"));
    let cast = "%3 = cast %2 {to=f64} return %1, %3";
    assert!(
        message("f32[4]", "f64[4]", cast).contains("state 0 of the body body is f32[4] but becomes f64[4]")
    );
    let grown = "%3 = concat %2 %2 {axis=0} return %1, %3";
    assert!(message("f32[4]", "f32[8]", grown).contains("an extent that changes must be a symbol"));
}

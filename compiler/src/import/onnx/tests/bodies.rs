//! Tests of what the official cases don't reach: bodies over symbolic extents, unrolled and looped recurrences, and
//! operators whose constants depend on extents that may be known when compiling or not.

use super::*;
use aic_ir::op::Op;
use aic_ir::scalar::Scalar;

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        g: Some(graph),
        r#type: Some(5),
        ..AttributeProto::default()
    }
}

fn text(name: &str, s: &str) -> AttributeProto {
    let s = Some(bytes::Bytes::copy_from_slice(s.as_bytes()));
    AttributeProto { name: Some(name.to_owned()), s, r#type: Some(3), ..AttributeProto::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), f: Some(f), r#type: Some(1), ..AttributeProto::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    payload::tensor(name, DataType::Float, dims, data.into())
}

fn scalar(name: &str, value: i64) -> TensorProto {
    TensorProto { dims: Vec::new(), ..integers(name, &[value]) }
}

/// A graph whose outputs need no type, as that of a body.
fn body_graph(inputs: &[&str], nodes: &[&str], outputs: &str) -> GraphProto {
    let named = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
    GraphProto {
        input: inputs.iter().map(|name| named(name)).collect(),
        output: names(outputs).iter().map(|name| named(name)).collect(),
        ..graph(&[], nodes, &[])
    }
}

fn numbers(shape: &[usize], f: impl Fn(usize) -> f32) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_vec(shape.to_vec(), &(0..n).map(f).collect::<Vec<f32>>()).unwrap()
}

fn truth(value: bool) -> Tensor {
    Tensor::scalar(DType::Bool, Scalar::B(value))
}

fn results(imported: &Imported, inputs: &[Tensor]) -> Vec<Vec<f64>> {
    eval::graph(&imported.graph, inputs).unwrap().iter().map(Tensor::to_f64).collect()
}

fn keywords(imported: &Imported) -> Vec<&str> {
    imported.graph.nodes().map(|(_, n)| n.op.keyword()).collect()
}

fn branches(then: GraphProto, other: GraphProto) -> Model {
    let attribute = vec![body("then_branch", then), body("else_branch", other)];
    let choice = NodeProto { attribute, ..node("y = If c") };
    let mut g = graph(&["c bool", "x f32 seq 2", "z f32 seq 2"], &["s = Shape x"], &["y f32 a 2"]);
    g.node.push(choice);
    g.initializer = vec![floats("one", &[1], &[1.0])];
    model(g)
}

#[test]
fn branches_are_passed_what_they_use_and_what_binds_their_symbols() {
    // One branch uses an extent only, the other one values that no other branch uses.
    let model = branches(body_graph(&[], &["a = Expand one s"], "a"), body_graph(&[], &["b = Add x z"], "b"));
    let imported = imported(&model);
    assert_eq!(output_type(&imported), "f32[seq,2]");
    let x = [numbers(&[3, 2], |i| i as f32), numbers(&[3, 2], |_| 10.0)];
    for (choice, expected) in [(true, vec![1.0; 6]), (false, vec![10.0, 11.0, 12.0, 13.0, 14.0, 15.0])] {
        assert_eq!(results(&imported, &[truth(choice), x[0].clone(), x[1].clone()]), [expected]);
    }
}

#[test]
fn what_a_branch_requires_is_required_where_it_is_taken() {
    let mut taken = body_graph(&[], &["a = Slice x from to"], "a");
    taken.initializer = vec![integers("from", &[-1]), integers("to", &[i64::MAX])];
    let imported = imported(&branches(taken, body_graph(&[], &["b = Identity x"], "b")));
    assert!(imported.graph.requires.is_empty());
    let x = numbers(&[0, 2], |_| 0.0);
    let run = |choice: bool| eval::graph(&imported.graph, &[truth(choice), x.clone(), x.clone()]);
    assert_eq!(run(false).unwrap()[0].shape(), [0, 2]);
    let error = run(true).unwrap_err();
    assert!(error.message.contains("requires"), "{error}");
}

#[test]
fn a_known_condition_takes_its_branch() {
    let mut g = graph(&["x f32 2"], &[], &["y f32 2"]);
    let bodies = [body_graph(&[], &["a = Neg x"], "a"), body_graph(&[], &["b = Nope x"], "b")];
    let [then, other] = bodies;
    let attribute = vec![body("then_branch", then), body("else_branch", other)];
    g.node.push(NodeProto { attribute, ..node("y = If c") });
    g.initializer = vec![payload::tensor("c", DataType::Bool, &[1], vec![1].into())];
    assert_eq!(keywords(&imported(&model(g))), ["const", "neg"]);
}

#[test]
fn a_state_that_grows_has_a_symbol_of_its_own() {
    let concat = with(int("axis", 0), node("next = Concat state x"));
    let mut inner = body_graph(&["i", "c", "state"], &["again = Identity c"], "again next");
    inner.node.push(concat);
    let mut g = graph(&["x f32 seq 2", "trips i64"], &[], &["y f32 a 2"]);
    g.node.push(with(body("body", inner), node("y = Loop trips _ x")));
    let imported = imported(&model(g));
    assert_eq!(output_type(&imported), "f32[state_0_0,2]");
    let trips = Tensor::scalar(DType::I64, Scalar::I(3));
    let y = eval::graph(&imported.graph, &[numbers(&[2, 2], |i| i as f32), trips]).unwrap();
    assert_eq!(y[0].shape(), [8, 2]);
}

#[test]
fn the_number_of_iterations_is_known_where_nothing_ends_them() {
    let loop_over = |again: &str| {
        let nodes = [again, "next = Add state x", "part = Neg next"];
        let inner = body_graph(&["i", "c", "state"], &nodes, "again next part");
        let mut g = graph(&["x f32 seq"], &["s = Shape x"], &["y f32 seq", "parts f32 a seq"]);
        g.node.push(with(body("body", inner), node("y parts = Loop s _ x")));
        g.initializer = vec![scalar("limit", 1)];
        imported(&model(g))
    };
    let counted = loop_over("again = Identity c");
    assert_eq!(counted.graph.ty(counted.graph.outputs[1].value).to_string(), "f32[seq,seq]");
    assert_eq!(
        results(&counted, &[numbers(&[2], |i| i as f32)]),
        [vec![0.0, 3.0], vec![0.0, -2.0, 0.0, -3.0]]
    );
    let ended = loop_over("again = Less i limit");
    assert_eq!(ended.graph.ty(ended.graph.outputs[1].value).to_string(), "f32[trips,seq]");
    assert_eq!(results(&ended, &[numbers(&[3], |i| i as f32)])[0], [0.0, 3.0, 6.0]);
}

#[test]
fn a_loop_over_a_sequence_is_unrolled() {
    let nodes = ["again = Identity c", "row = Gather x i", "next = SequenceInsert state row"];
    let inner = body_graph(&["i", "c", "state"], &nodes, "again next");
    let mut g = graph(&["x f32 3 seq"], &["empty = SequenceEmpty"], &["y f32 a"]);
    g.node.push(with(body("body", inner), node("all = Loop two _ empty")));
    g.node.push(with(int("axis", 0), node("y = ConcatFromSequence all")));
    g.initializer = vec![scalar("two", 2)];
    let imported = imported(&model(g));
    assert_eq!(output_type(&imported), "f32[2*seq]");
    assert!(!keywords(&imported).contains(&"loop"));
}

#[test]
fn bodies_that_fail_name_their_nodes() {
    let nodes = ["again = Identity c", "next = Nope state"];
    let inner = body_graph(&["i", "c", "state"], &nodes, "again next");
    let mut g = graph(&["x f32 seq", "trips i64"], &[], &["y f32 seq"]);
    g.node.push(with(body("body", inner), node("y = Loop trips _ x")));
    let error = failure(&model(g));
    assert_eq!(error.nodes, ["next"]);
}

/// An LSTM of two directions whose sequences have lengths of their own.
fn lstm(length: &str) -> Model {
    let (batch, input, hidden) = (2, 3, 2);
    let gates = 4 * hidden;
    let mut lstm = node("y h c = LSTM x w r b lengths");
    lstm.attribute = vec![text("direction", "bidirectional"), int("hidden_size", hidden), float("clip", 3.0)];
    let mut g = graph(&[&format!("x f32 {length} {batch} {input}")], &[], &["y f32 a 2 2 2", "h f32 2 2 2"]);
    g.node = vec![lstm];
    let weights = |name: &str, dims: &[i64], step: usize| {
        let n: i64 = dims.iter().product();
        let value = |i: usize| ((i * step) % 13) as f32 / 6.0 - 1.0;
        floats(name, dims, &(0..n as usize).map(value).collect::<Vec<f32>>())
    };
    let lengths: Vec<u8> = [3i32, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    g.initializer = vec![
        weights("w", &[2, gates, input], 5),
        weights("r", &[2, gates, hidden], 7),
        weights("b", &[2, 2 * gates], 3),
        payload::tensor("lengths", DataType::Int32, &[batch], lengths.into()),
    ];
    model(g)
}

#[test]
fn recurrences_are_the_same_unrolled_and_looped() {
    let (unrolled, looped) = (imported(&lstm("3")), imported(&lstm("length")));
    assert!(!keywords(&unrolled).contains(&"scan") && keywords(&looped).contains(&"scan"));
    let x = [numbers(&[3, 2, 3], |i| (i % 5) as f32 / 2.0 - 1.0)];
    let (a, b) = (results(&unrolled, &x), results(&looped, &x));
    assert_eq!(a, b);
    // Nothing is shown after the end of the shorter sequence: [length, direction, batch, hidden].
    assert_eq!(a[0][2 * 8 + 2..][..2], [0.0, 0.0]);
    assert!(a[0][8 + 2] != 0.0);
}

#[test]
fn resizing_is_the_same_with_known_and_with_symbolic_extents() {
    let modes = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"];
    for mode in ["nearest", "linear", "cubic"] {
        for (transform, scale) in modes.into_iter().flat_map(|t| [(t, 0.7), (t, 1.0), (t, 2.0), (t, 2.5)]) {
            let resize = |width: &str| {
                let mut resize = node("y = Resize x _ scales");
                resize.attribute =
                    vec![text("mode", mode), text("coordinate_transformation_mode", transform)];
                let mut g = graph(&[&format!("x f32 1 {width}")], &[], &["y f32 1 a"]);
                g.node = vec![resize];
                g.initializer = vec![floats("scales", &[2], &[1.0, scale])];
                imported(&model(g))
            };
            let x = [numbers(&[1, 7], |i| (i * i % 5) as f32)];
            let (known, symbolic) = (results(&resize("7"), &x), results(&resize("width"), &x));
            assert_eq!(known[0].len(), symbolic[0].len());
            let close = known[0].iter().zip(&symbolic[0]).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close, "{mode} {transform} {scale}: {known:?} {symbolic:?}");
        }
    }
}

#[test]
fn attention_extends_a_cache_of_any_length() {
    let inputs =
        ["q f32 1 4 1 2", "k f32 1 2 1 2", "v f32 1 2 1 2", "pk f32 1 2 past 2", "pv f32 1 2 past 2"];
    let mut attention = node("y nk nv = Attention q k v _ pk pv");
    attention.attribute = vec![int("is_causal", 1)];
    let mut g = graph(&inputs, &[], &["y f32 1 4 1 2", "nk f32 1 2 total 2"]);
    g.node = vec![attention];
    let mut model = model(g);
    model.proto.opset_import = vec![opset("", 24)];
    let imported = imported(&model);
    assert_eq!(imported.graph.ty(imported.graph.outputs[1].value).to_string(), "f32[1,2,past+1,2]");
    let zeros = |shape: &[usize]| numbers(shape, |_| 0.0);
    for past in [0, 3] {
        // Equal scores make the mean of the values.
        let v = numbers(&[1, 2, 1, 2], |i| i as f32);
        let inputs =
            [zeros(&[1, 4, 1, 2]), zeros(&[1, 2, 1, 2]), v, zeros(&[1, 2, past, 2]), zeros(&[1, 2, past, 2])];
        let y = &results(&imported, &inputs)[0];
        let part = 1.0 / (past as f64 + 1.0);
        assert_eq!(*y, [0.0, part, 0.0, part, 2.0 * part, 3.0 * part, 2.0 * part, 3.0 * part]);
    }
}

#[test]
fn quantised_types_narrower_than_a_byte_stay_in_range() {
    let mut g = graph(
        &["x f32 3"],
        &["q = QuantizeLinear x scale zero", "y = DequantizeLinear q scale zero"],
        &["y f32 3"],
    );
    let zero = payload::tensor("zero", DataType::Int4, &[], vec![0].into());
    g.initializer = vec![TensorProto { dims: Vec::new(), ..floats("scale", &[1], &[0.5]) }, zero];
    let mut m = model(g);
    m.proto.opset_import = vec![opset("", 21)];
    let x = Tensor::from_vec(vec![3], &[-100.0f32, 1.2, 100.0]).unwrap();
    assert_eq!(results(&imported(&m), &[x]), [[-4.0, 1.0, 3.5]]);
}

#[test]
fn random_nodes_differ_and_repeat() {
    let mut g = graph(&[], &[], &["a f32 4", "b f32 4"]);
    let shape = AttributeProto { ints: vec![4], r#type: Some(7), i: None, ..int("shape", 0) };
    g.node = ["a = RandomNormal", "b = RandomNormal"].map(|n| with(shape.clone(), node(n))).to_vec();
    let imported = imported(&model(g));
    let (first, second) = (results(&imported, &[]), results(&imported, &[]));
    assert!(first == second && first[0] != first[1]);
    assert!(imported.graph.nodes().all(|(_, n)| matches!(n.op, Op::Random(_))));
}

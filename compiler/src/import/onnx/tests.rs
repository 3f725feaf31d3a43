//! Tests of the walk through models. What the operators mean is tested by the official cases.

mod bodies;

use super::*;
use crate::import::payload;
use crate::import::proto::{
    AttributeProto, DataType, DimValue, Dimension, FunctionProto, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto,
};
use aic_ir::dtype::DType;
use aic_ir::eval;

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(|name| if name == "_" { String::new() } else { name.to_owned() }).collect()
}

/// `outputs = op inputs`, `_` for an absent one.
fn node(text: &str) -> NodeProto {
    let (outputs, rest) = text.split_once('=').unwrap();
    let (op, inputs) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    NodeProto {
        op_type: Some(op.to_owned()),
        domain: Some(domain.to_owned()),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), i: Some(i), r#type: Some(2), ..AttributeProto::default() }
}

fn reference(name: &str, to: &str) -> AttributeProto {
    let ref_attr_name = Some(to.to_owned());
    AttributeProto { ref_attr_name, i: None, ..int(name, 0) }
}

fn with(attribute: AttributeProto, node: NodeProto) -> NodeProto {
    NodeProto { attribute: vec![attribute], ..node }
}

/// `name type dims..`, where dims are numbers or symbols.
fn value(text: &str) -> ValueInfoProto {
    let mut words = text.split_whitespace();
    let (name, dtype) = (words.next().unwrap(), DType::from_keyword(words.next().unwrap()).unwrap());
    let dim = |word: &str| {
        let value = match word.parse() {
            Ok(number) => DimValue::DimValue(number),
            Err(_) => DimValue::DimParam(word.to_owned()),
        };
        Dimension { value: Some(value), denotation: None }
    };
    let shape = TensorShapeProto { dim: words.map(dim).collect() };
    let tensor = TensorType { elem_type: Some(dtype.onnx()), shape: Some(shape) };
    let r#type = Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None });
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    payload::tensor(name, DataType::Int64, &[values.len() as i64], data.into())
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

fn graph(inputs: &[&str], nodes: &[&str], outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        input: inputs.iter().map(|text| value(text)).collect(),
        node: nodes.iter().map(|text| node(text)).collect(),
        output: outputs.iter().map(|text| value(text)).collect(),
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto) -> Model {
    let opset_import = vec![opset("", 18), opset("own", 1)];
    Model::new(ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() }, "m.onnx")
}

fn simple(inputs: &[&str], nodes: &[&str], outputs: &[&str]) -> Model {
    model(graph(inputs, nodes, outputs))
}

fn imported(model: &Model) -> Imported {
    import(model, &ImportOptions::default()).unwrap()
}

fn failure(model: &Model) -> Error {
    import(model, &ImportOptions::default()).unwrap_err()
}

fn output_type(imported: &Imported) -> String {
    imported.graph.ty(imported.graph.outputs[0].value).to_string()
}

#[test]
fn nodes_keep_their_names_and_types_are_inferred() {
    let model =
        simple(&["x f32 batch 3", "w f32 3 4"], &["a = MatMul x w", "y = Relu a"], &["y f32 batch 4"]);
    let imported = imported(&model);
    assert_eq!(output_type(&imported), "f32[batch,4]");
    let origins: Vec<&str> = imported.graph.nodes().map(|(_, n)| &*n.origin[0]).collect();
    assert_eq!(origins, ["a", "y", "y"]);
    assert!(imported.warnings.is_empty() && imported.specialised.is_empty());
}

#[test]
fn every_unsupported_node_is_named_also_behind_others() {
    let nodes = ["a = Nope x", "b = Relu a", "c = own.Never b", "d = Sin x", "e = MatMul x d", "y = Add c d"];
    let model = simple(&["x f32 3"], &nodes, &["y f32 3"]);
    let problems = check(&model, &ImportOptions::default()).unwrap();
    let found: Vec<(&str, &str, i64)> =
        problems.iter().map(|p| (p.node.as_str(), p.op.as_str(), p.opset)).collect();
    assert_eq!(found, [("a", "Nope", 18), ("c", "Never", 1)]);
    let error = failure(&model);
    assert_eq!(error.nodes, ["a", "c"]);
    assert!(error.message.contains("2 nodes can't be imported"), "{error}");
    assert!(error.message.contains("c (own.Never, opset 1): the operator is not supported"), "{error}");
}

#[test]
fn what_is_wrong_with_a_node_is_said() {
    let wrong_type = failure(&simple(&["x i64 3", "y f32 3"], &["z = Add x y"], &["z f32 3"]));
    assert_eq!(wrong_type.nodes, ["z"]);
    assert!(wrong_type.message.contains("add: expected one number type, found i64, f32"), "{wrong_type}");
    let missing = failure(&simple(&["x f32 3"], &["z = Add x _"], &["z f32 3"]));
    assert!(missing.message.contains("input 1 is missing"), "{missing}");
    let attribute = with(AttributeProto { r#type: Some(1), ..int("axis", 0) }, node("y = Concat x x"));
    let wrong =
        failure(&model(GraphProto { node: vec![attribute], ..graph(&["x f32 3"], &[], &["y f32 6"]) }));
    assert!(wrong.message.contains("`axis` must be of type Int, found Float"), "{wrong}");
    let old = ModelProto {
        opset_import: vec![opset("", 6)],
        ..simple(&["x f32 3"], &["y = Sin x"], &["y f32 3"]).proto
    };
    assert!(failure(&Model::new(old, "m")).message.contains("not supported in this version"));
    let unsaid = ModelProto {
        opset_import: vec![opset("own", 1)],
        ..simple(&["x f32"], &["y = Sin x"], &["y f32"]).proto
    };
    assert!(failure(&Model::new(unsaid, "m")).message.contains("does not say which version"));
}

#[test]
fn malformed_models_are_refused() {
    let cycle = failure(&simple(&["x f32"], &["a = Add x b", "b = Relu a", "y = Relu b"], &["y f32"]));
    assert!(cycle.message.contains("form a cycle") && cycle.nodes.len() == 2, "{cycle}");
    let unknown = failure(&simple(&["x f32"], &["y = Add x z"], &["y f32"]));
    assert!(unknown.message.contains("`z` is neither"), "{unknown}");
    let twice = failure(&simple(&["x f32"], &["y = Relu x", "y = Sin x"], &["y f32"]));
    assert!(twice.message.contains("`y` is defined more than once"), "{twice}");
    let same_input = failure(&simple(&["x f32", "x f32"], &["y = Relu x"], &["y f32"]));
    assert!(same_input.message.contains("the input `x` is declared more than once"), "{same_input}");
    let no_output = failure(&simple(&["x f32"], &[], &["y f32"]));
    assert!(no_output.message.contains("the output `y` is not"), "{no_output}");
}

#[test]
fn nodes_may_stand_in_any_order() {
    let model = simple(&["x f32 2"], &["y = Sin a", "a = Cos x"], &["y f32 2"]);
    assert_eq!(output_type(&imported(&model)), "f32[2]");
}

#[test]
fn chains_that_compute_shapes_become_shapes() {
    let nodes = [
        "s = Shape x",
        "n = Gather s zero",
        "n1 = Unsqueeze n axes",
        "m = Concat n1 minus_one",
        "y = Reshape x m",
    ];
    let mut g = graph(&["x f32 batch 6 seq"], &nodes, &["y f32 a b"]);
    g.node[3].attribute.push(int("axis", 0));
    let scalar = TensorProto { dims: Vec::new(), ..integers("zero", &[0]) };
    g.initializer = vec![scalar, integers("axes", &[0]), integers("minus_one", &[-1])];
    assert_eq!(output_type(&imported(&model(g))), "f32[batch,6*seq]");
}

#[test]
fn values_of_inputs_are_relied_on_only_where_needed() {
    let model = simple(&["x f32 6", "shape i64 2", "k i64"], &["a = Reshape x shape"], &["a f32 2 3"]);
    let error = failure(&model);
    assert!(
        error.message.contains("the shape must be known when compiling; it depends on the input `shape`"),
        "{error}"
    );
    let known =
        |name: &str, values: &[i64]| (name.to_owned(), Tensor::from_vec(vec![values.len()], values).unwrap());
    let known_inputs = HashMap::from([known("shape", &[2, -1]), known("k", &[1])]);
    let imported = import(&model, &ImportOptions { known_inputs, ..ImportOptions::default() }).unwrap();
    assert_eq!(output_type(&imported), "f32[2,3]");
    assert_eq!(imported.specialised, ["shape"]);
    assert_eq!(imported.graph.inputs.len(), 3);
}

#[test]
fn dims_and_shapes_can_be_given() {
    let model = simple(&["x f32 batch seq"], &["y = Relu x"], &["y f32 a b"]);
    let dims = HashMap::from([("batch".to_owned(), 4)]);
    let imported = import(&model, &ImportOptions { dims, ..ImportOptions::default() }).unwrap();
    assert_eq!(output_type(&imported), "f32[4,seq]");
    let shapes = HashMap::from([("x".to_owned(), vec![2, 5])]);
    let imported = import(&model, &ImportOptions { shapes, ..ImportOptions::default() }).unwrap();
    assert_eq!(output_type(&imported), "f32[2,5]");
    let shapes = HashMap::from([("x".to_owned(), vec![2])]);
    let error = import(&model, &ImportOptions { shapes, ..ImportOptions::default() }).unwrap_err();
    assert!(error.message.contains("expected an input of rank 2"), "{error}");
}

#[test]
fn shapes_that_clash_are_refused() {
    let model = simple(&["x f32 batch 3", "y f32 batch 1"], &["z = Add x y"], &["z f32 a b"]);
    let fails = |x: Vec<usize>, y: Vec<usize>| {
        let shapes = HashMap::from([("x".to_owned(), x), ("y".to_owned(), y)]);
        import(&model, &ImportOptions { shapes, ..ImportOptions::default() }).err().map(|e| e.message)
    };
    assert_eq!(fails(vec![2, 3], vec![2, 1]), None);
    assert!(fails(vec![2, 4], vec![2, 1]).unwrap().contains("the model declares 3, not 4"));
    assert!(fails(vec![2, 3], vec![5, 1]).unwrap().contains("`batch` is 2, not 5"));
}

#[test]
fn a_wrong_declaration_is_a_warning() {
    let mut g = graph(&["x f32 2 3"], &["a = Relu x", "y = Transpose a"], &["y f32 3 2"]);
    g.value_info = vec![value("a f64 2 4")];
    let imported = imported(&model(g));
    assert_eq!(imported.warnings, ["the model declares `a` to be float64[2,4], but it is f32[2,3]"]);
}

#[test]
fn slices_that_need_elements_refuse_empty_inputs() {
    let mut g = graph(&["x f32 seq 2"], &["y = Slice x from to"], &["y f32 1 2"]);
    g.initializer = vec![integers("from", &[-1]), integers("to", &[i64::MAX])];
    let imported = imported(&model(g));
    assert_eq!(output_type(&imported), "f32[1,2]");
    let empty = Tensor::from_vec::<f32>(vec![0, 2], &[]).unwrap();
    let error = eval::graph(&imported.graph, &[empty]).unwrap_err();
    assert!(error.message.contains("seq-1"), "{error}");
}

#[test]
fn weights_are_not_copied() {
    let mut g = graph(&["x f32 2"], &["y = Add x w"], &["y f32 2"]);
    let data = bytes::Bytes::from(vec![0; 8]);
    g.initializer = vec![payload::tensor("w", DataType::Float, &[2], data.clone())];
    let imported = imported(&model(g));
    let (_, n) = imported.graph.nodes().next().unwrap();
    assert_eq!(imported.graph.as_const(n.outputs[0]).unwrap().bytes().as_ptr(), data.as_ptr());
}

fn function(inputs: &str, nodes: Vec<NodeProto>, outputs: &str) -> FunctionProto {
    FunctionProto {
        name: Some("F".to_owned()),
        domain: Some("own".to_owned()),
        input: names(inputs),
        output: names(outputs),
        node: nodes,
        opset_import: vec![opset("", 18)],
        ..FunctionProto::default()
    }
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let body = vec![with(reference("axis", "along"), node("c = Concat a b")), node("d = Relu c")];
    let function = FunctionProto { attribute_proto: vec![int("along", 1)], ..function("a b", body, "d") };
    let plain = graph(&["x f32 2 3"], &["t = own.F x x", "y = Neg t"], &["y f32 2 6"]);
    let given = GraphProto {
        node: vec![with(int("along", 0), plain.node[0].clone()), plain.node[1].clone()],
        ..plain.clone()
    };
    for (graph, expected) in [(plain, "f32[2,6]"), (given, "f32[4,3]")] {
        let mut model = model(graph);
        model.proto.functions = vec![function.clone()];
        let imported = imported(&model);
        assert_eq!(output_type(&imported), expected);
        let origins: Vec<&str> = imported.graph.nodes().map(|(_, n)| &*n.origin[0]).collect();
        assert_eq!(origins, ["t/c", "t/d", "t/d", "y"]);
    }
}

#[test]
fn functions_may_not_call_themselves_nor_see_names_around_them() {
    let mut model = simple(&["x f32"], &["y = own.F x"], &["y f32"]);
    model.proto.functions = vec![function("a", vec![node("b = own.F a")], "b")];
    assert!(failure(&model).message.contains("the function calls itself"));
    model.proto.functions = vec![function("a", vec![node("b = Add a x")], "b")];
    let error = failure(&model);
    assert!(error.message.contains("`x` is not defined") && error.nodes == ["y/b"], "{error}");
    model.proto.functions = vec![function("a missing", vec![node("b = Clip a missing")], "b")];
    assert_eq!(output_type(&imported(&model)), "f32[]");
}

#[test]
fn operators_are_listed_once_per_version() {
    for a in operators() {
        let overlapping = operators()
            .filter(|b| (b.domain, b.name) == (a.domain, a.name) && b.since <= a.until && a.since <= b.until);
        assert_eq!(overlapping.count(), 1, "{}", a.name);
    }
}

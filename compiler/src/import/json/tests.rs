//! The graph JSON as a whole: random models survive it, hand-written ones load, wrong ones are explained.

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::*;

fn read(text: &str) -> Result<ModelProto> {
    parse(text.as_bytes())
}

fn written(model: &ModelProto) -> String {
    let mut out = Vec::new();
    print(model, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// A model of one node with these attributes.
fn with_attributes(attributes: Value) -> Result<ModelProto> {
    let node = json!({"op_type": "Test", "attributes": attributes});
    read(&json!({"graph": {"nodes": [{"op_type": "First"}, node]}}).to_string())
}

/// A model of one initializer.
fn with_tensor(tensor: Value) -> Result<TensorProto> {
    let model = read(&json!({"graph": {"initializers": [tensor]}}).to_string())?;
    Ok(model.graph.unwrap().initializer.remove(0))
}

mod by_hand {
    use super::*;

    #[test]
    fn a_minimal_model_has_defaults() {
        let model = read(
            r#"{"graph": {"inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 3, null]}],
            "nodes": [{"op_type": "Relu", "inputs": ["x"], "outputs": ["y"]}], "outputs": ["y"]}}"#,
        )
        .unwrap();
        assert_eq!(model.ir_version, Some(DEFAULT_IR_VERSION));
        assert_eq!(
            model.opset_import,
            [OperatorSetIdProto { domain: Some(String::new()), version: Some(21) }]
        );
        let graph = model.graph.unwrap();
        assert_eq!(graph.name(), "graph");
        assert_eq!(graph.output[0].name(), "y");
        let Some(TypeValue::Tensor(tensor)) = graph.input[0].r#type.clone().unwrap().value else { panic!() };
        assert_eq!(tensor.elem_type(), DataType::Float as i32);
        let dims: Vec<_> = tensor.shape.unwrap().dim.into_iter().map(|dim| dim.value).collect();
        assert_eq!(dims, [Some(DimValue::DimParam("n".to_owned())), Some(DimValue::DimValue(3)), None]);
    }

    #[test]
    fn attributes_say_their_type() {
        let values = json!({
            "i": 1, "flag": true, "f": 1.0, "s": "text", "ints": [1, 2], "floats": [1, 0.5], "strings": ["a", "b"],
            "none": [], "t": {"dtype": "int64", "data": [1, 2]}, "g": {"nodes": []},
            "max": {"type": "int", "value": "9223372036854775807"}, "inf": {"type": "float", "value": "-inf"},
            "ref": {"type": "ints", "ref": "outer"}, "tp": {"type": "type_proto", "value": {"dtype": "bool"}}
        });
        let attributes = with_attributes(values.clone()).unwrap().graph.unwrap().node.remove(1).attribute;
        let get = |name: &str| attributes.iter().find(|attribute| attribute.name() == name).unwrap();
        assert_eq!((get("i").i, get("flag").i, get("max").i), (Some(1), Some(1), Some(i64::MAX)));
        assert_eq!((get("f").f, get("inf").f), (Some(1.0), Some(f32::NEG_INFINITY)));
        assert_eq!(get("s").s(), b"text");
        assert_eq!((&get("ints").ints[..], &get("floats").floats[..]), (&[1, 2][..], &[1.0, 0.5][..]));
        assert_eq!(get("strings").strings, ["a", "b"]);
        assert_eq!(get("none").r#type, Some(AttributeType::Ints as i32));
        assert_eq!(get("t").t.as_ref().unwrap().dims, [2]);
        assert_eq!(get("ref").ref_attr_name(), "outer");
        assert!(get("g").g.is_some() && get("tp").tp.is_some());
    }

    #[test]
    fn tensors_take_numbers_flat_or_nested() {
        let data = |tensor: Value| with_tensor(tensor).unwrap().raw_data.unwrap();
        assert_eq!(data(json!({"dtype": "uint8", "data": [[1, 2, 3], [4, 5, 6]]})), [1u8, 2, 3, 4, 5, 6][..]);
        assert_eq!(data(json!({"dtype": "uint8", "shape": [2, 1], "data": [7, 8]})), [7u8, 8][..]);
        assert_eq!(data(json!({"dtype": "INT4", "data": [1, -1, 7]})), [0xf1u8, 7][..]);
        assert_eq!(data(json!({"dtype": "uint2", "data": [3, 2, 1, 0, 3]})), [0b0001_1011u8, 3][..]);
        assert_eq!(data(json!({"dtype": "float16", "data": 1.5})), [0u8, 0x3e][..]);
        assert_eq!(data(json!({"dtype": "bf16", "data": [1]})), [0x80u8, 0x3f][..]);
        assert_eq!(data(json!({"dtype": "u16", "data": [258]})), [2u8, 1][..]);
        assert_eq!(data(json!({"dtype": "bool", "data": [true, 0]})), [1u8, 0][..]);
        assert_eq!(data(json!({"dtype": "double", "data": ["nan"]})), f64::NAN.to_le_bytes()[..]);
        assert_eq!(with_tensor(json!({"dtype": "float", "data": [[], []]})).unwrap().dims, [2, 0]);
        assert_eq!(with_tensor(json!({"dtype": "string", "data": ["a"]})).unwrap().string_data, ["a"]);
        let external = json!({"dtype": "int8", "shape": [9], "external": {"location": "w", "offset": 4096}});
        let entries = with_tensor(external).unwrap().external_data;
        assert_eq!((entries[0].value(), entries[1].value()), ("w", "4096"));
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |result: Result<ModelProto>| result.unwrap_err().message;
        let attribute = |value: Value| error(with_attributes(json!({ "axis": value })));
        let tensor = |value: Value| with_tensor(value).unwrap_err().message;
        let at = "graph.nodes[1].attributes.axis";
        let first = "graph.initializers[0]";
        for (found, expected) in [
            (error(read("{}")), "graph: this key is missing".to_owned()),
            (error(read("[]")), "expected object (model), found list".to_owned()),
            (error(read("{\"graph\": {}, }")), "trailing comma at line 1 column 15".to_owned()),
            (
                error(read(r#"{"graph": {"node": []}}"#)),
                "graph: unknown key \"node\" in a graph; did you mean \"nodes\"?".to_owned(),
            ),
            (error(read(r#"{"graph": {"nodes": [{}]}}"#)), "graph.nodes[0].op_type: this key is missing".to_owned()),
            (
                error(read(r#"{"graph": {"inputs": [{"name": "x", "shape": [1]}]}}"#)),
                "graph.inputs[0]: expected a \"dtype\" beside \"shape\"".to_owned(),
            ),
            (
                error(read(r#"{"graph": {"inputs": [{"dtype": "bool", "sequence": null}]}}"#)),
                "graph.inputs[0]: expected one kind of type (\"dtype\" for a tensor), found dtype and sequence".to_owned(),
            ),
            (
                error(read(r#"{"graph": {"inputs": [{"dtype": "flaot32"}]}}"#)),
                "graph.inputs[0].dtype: unknown dtype \"flaot32\"; did you mean \"float32\"?".to_owned(),
            ),
            (
                error(read(r#"{"graph": {"inputs": [{"dtype": "bool", "shape": [1.5]}]}}"#)),
                "graph.inputs[0].shape[0]: expected integer, found number 1.5".to_owned(),
            ),
            (
                attribute(json!({"type": "int", "value": "one"})),
                format!("{at}.value: expected integer, found string \"one\""),
            ),
            (attribute(json!({"type": "floot", "value": 1})), format!("{at}.type: unknown attribute type \"floot\"; did you mean \"float\"?")),
            (attribute(json!([1, "two"])), format!("{at}[1]: expected int like before it, found string \"two\"")),
            (attribute(json!(null)), format!("{at}: expected an attribute's value, found null")),
            (attribute(json!(1e300)), format!("{at}: 1e+300 is out of the range of float32")),
            (
                tensor(json!({"dtype": "int8", "shape": [2], "data": [1]})),
                format!("{first}.data: expected 2 elements for shape [2], found 1"),
            ),
            (
                tensor(json!({"dtype": "int8", "data": [[1, 2], [3, 200]]})),
                format!("{first}.data[1][1]: 200 does not fit in 8 bits"),
            ),
            (
                tensor(json!({"dtype": "int8", "data": [[1, 2], [3]]})),
                format!("{first}.data[1]: expected a list of 2, found one of 1"),
            ),
            (
                tensor(json!({"dtype": "float32", "data": ["x"]})),
                format!("{first}.data[0]: expected float32 number, \"inf\", \"-inf\" or \"nan\", found string \"x\""),
            ),
            (tensor(json!({"dtype": "int8"})), format!("{first}.shape: this key is missing")),
            (tensor(json!({"dtype": "int8", "shape": [-1], "data": []})), format!("{first}.data: shape [-1] has the negative dimension -1")),
            (
                tensor(json!({"dtype": "float8e5m2", "data": [1]})),
                format!("{first}.data: elements of type float8e5m2 cannot be given one by one"),
            ),
            (
                tensor(json!({"dtype": "int8", "shape": [1], "data": [1], "raw_data": "AA=="})),
                format!("{first}.data: the elements are given twice"),
            ),
            (
                tensor(json!({"dtype": "int8", "shape": [1], "raw_data": "A"})),
                format!("{first}.raw_data: wrong base64: Invalid input length: 1"),
            ),
            (
                tensor(json!({"dtype": "int32", "shape": [1], "int32_data": "AAAAAAA="})),
                format!("{first}.int32_data: expected a multiple of 4 bytes, found 5"),
            ),
            (
                tensor(json!({"dtype": "int8", "shape": [1], "external": {"offset": 0}})),
                format!("{first}.external: \"location\" is missing"),
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_written_is_readable() {
        let weight = crate::import::payload::tensor(
            "w",
            DataType::Float,
            &[3],
            [0.1f32, -1.0, f32::INFINITY].map(f32::to_le_bytes).concat().into(),
        );
        let text = json!({"opset_import": 17, "graph": {
            "nodes": [{"op_type": "Concat", "inputs": ["x", "w"], "outputs": ["y"], "attributes": {"axis": 0}}],
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}], "outputs": [{"name": "y"}]}});
        let mut model = read(&text.to_string()).unwrap();
        model.graph.as_mut().unwrap().initializer.push(weight);
        let expected = r#"{
  "ir_version": 10,
  "opset_import": {"": 17},
  "graph": {
    "name": "graph",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}],
    "outputs": [{"name": "y"}],
    "nodes": [
      {"op_type": "Concat", "inputs": ["x", "w"], "outputs": ["y"], "attributes": {"axis": 0}}
    ],
    "initializers": [{"name": "w", "dtype": "float32", "shape": [3], "data": [0.1, -1.0, "inf"]}]
  }
}
"#;
        assert_eq!(written(&model), expected);
    }

    #[test]
    fn documented_examples_load() {
        let text = include_str!("../../../../testdata/README.md");
        let examples: Vec<&str> =
            text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            let model = read(example).unwrap();
            assert_eq!(written(&read(&written(&model)).unwrap()), written(&model));
        }
    }

    #[test]
    fn too_deep_a_graph_is_refused() {
        let mut graph = GraphProto::default();
        for _ in 0..32 {
            let attribute = AttributeProto {
                name: Some("body".to_owned()),
                r#type: Some(AttributeType::Graph as i32),
                g: Some(graph),
                ..AttributeProto::default()
            };
            graph = GraphProto {
                node: vec![NodeProto { attribute: vec![attribute], ..NodeProto::default() }],
                ..GraphProto::default()
            };
        }
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        assert!(print(&model, &mut Vec::new()).unwrap_err().message.contains("levels deep"));
    }
}

mod random;

use random::{Random, Source};

proptest! {
    #[test]
    fn a_random_model_survives(numbers in prop::collection::vec(any::<u32>(), 0..3000)) {
        let model = ModelProto::random(&mut Source::new(numbers));
        let text = written(&model);
        let again = read(&text).unwrap();
        // Compared as bytes, since a NaN doesn't equal itself.
        prop_assert_eq!(model.encode_to_vec(), again.encode_to_vec(), "{}", text);
        prop_assert_eq!(text, written(&again));
    }

    #[test]
    fn a_random_graph_survives(numbers in prop::collection::vec(any::<u32>(), 0..3000)) {
        let model = ModelProto { graph: Some(GraphProto::random(&mut Source::new(numbers))), ..ModelProto::default() };
        let text = written(&model);
        prop_assert_eq!(model.encode_to_vec(), read(&text).unwrap().encode_to_vec(), "{}", text);
    }

    #[test]
    fn a_damaged_document_is_refused_or_read(
        numbers in prop::collection::vec(any::<u32>(), 0..1000),
        damage in prop::collection::vec(any::<u32>(), 1..40),
    ) {
        let model = ModelProto { graph: Some(GraphProto::random(&mut Source::new(numbers))), ..ModelProto::default() };
        let mut value = model.to_json();
        let mut source = Source::new(damage);
        for _ in 0..3 {
            break_something(&mut value, &mut source);
        }
        let _ = read(&value.to_string());
    }
}

/// Replaces or removes a value somewhere in a document.
fn break_something(value: &mut Value, source: &mut Source) {
    let replacements = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!("?"),
        json!([]),
        json!([[], [1]]),
        json!({}),
        json!(true),
    ];
    let size = value.as_object().map_or(0, |map| map.len()) + value.as_array().map_or(0, Vec::len);
    if size == 0 || source.below(6) == 0 {
        *value = replacements[source.below(replacements.len())].clone();
        return;
    }
    let idx = source.below(size);
    match value {
        Value::Object(map) => {
            let key = map.keys().nth(idx).unwrap().clone();
            if source.below(8) == 0 {
                map.remove(&key);
            } else {
                break_something(&mut map[&key], source);
            }
        }
        Value::Array(list) => break_something(&mut list[idx], source),
        _ => (),
    }
}

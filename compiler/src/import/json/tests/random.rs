//! Random messages, made from a list of random numbers so that a failing one shrinks.

use bytes::Bytes;

use crate::import::proto::*;

pub struct Source {
    numbers: Vec<u32>,
    next: usize,
    depth: usize,
}

impl Source {
    pub fn new(numbers: Vec<u32>) -> Self {
        Source { numbers, next: 0, depth: 0 }
    }

    /// A number below `bound`; 0 when the list is used up.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next += 1;
        self.numbers.get(self.next - 1).map_or(0, |&number| number as usize % bound)
    }

    fn bits(&mut self) -> u64 {
        (self.below(1 << 32) as u64) << 32 | self.below(1 << 32) as u64
    }
}

pub trait Random {
    fn random(source: &mut Source) -> Self;
}

impl<T: Random> Random for Option<T> {
    fn random(source: &mut Source) -> Self {
        if source.depth > 8 || source.below(2) == 0 {
            return None;
        }
        source.depth += 1;
        let value = T::random(source);
        source.depth -= 1;
        Some(value)
    }
}

impl<T: Random> Random for Vec<T> {
    fn random(source: &mut Source) -> Self {
        if source.depth > 6 {
            return Vec::new();
        }
        let count = match source.below(8) {
            0..4 => 0,
            7 => source.below(80),
            count => count - 3,
        };
        source.depth += 1 + count / 8;
        let list = (0..count).map(|_| T::random(source)).collect();
        source.depth -= 1 + count / 8;
        list
    }
}

impl<T: Random> Random for Box<T> {
    fn random(source: &mut Source) -> Self {
        Box::new(T::random(source))
    }
}

impl Random for String {
    fn random(source: &mut Source) -> Self {
        let words = [
            "",
            "x",
            "é\"\\\n\u{1f}",
            "location",
            "offset",
            "length",
            "nan",
            "12",
            "-0",
            "007",
            "type",
            "dtype",
            "base64",
            "\u{feff}",
        ];
        match source.below(2) {
            0 => words[source.below(words.len())].to_owned(),
            _ => format!("v{}", source.below(1000)),
        }
    }
}

impl Random for Bytes {
    fn random(source: &mut Source) -> Self {
        match source.below(3) {
            0 => String::random(source).into(),
            1 => vec![0xff, 0xfe].into(),
            _ => (0..source.below(300)).map(|_| source.below(256) as u8).collect(),
        }
    }
}

macro_rules! random_number {
    ($($type:ty: $special:expr, $bits:expr;)*) => {$(
        impl Random for $type {
            fn random(source: &mut Source) -> Self {
                let special = $special;
                match source.below(3) {
                    0 => special[source.below(special.len())],
                    1 => source.below(100) as $type,
                    _ => $bits(source.bits()),
                }
            }
        }
    )*};
}
random_number! {
    i32: [0, 1, -1, i32::MAX, i32::MIN], |bits| bits as i32;
    i64: [0, 1, -1, i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1], |bits| bits as i64;
    u64: [0, 1, u64::MAX, 1 << 53, (1 << 53) + 1], |bits| bits;
    f32: [0.0, -0.0, 0.1, 1e-45, f32::MAX, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)],
        |bits| f32::from_bits(bits as u32);
    f64: [0.0, -0.0, 0.1, 5e-324, f64::MAX, f64::NAN, f64::INFINITY, f64::from_bits(0xfff0_0000_0000_0001)], f64::from_bits;
}

macro_rules! random_message {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Random for $type {
            fn random(source: &mut Source) -> Self {
                $type { $($field: Random::random(source)),* }
            }
        }
    )*};
}
random_message! {
    ModelProto { ir_version, producer_name, producer_version, domain, model_version, doc_string, graph, opset_import,
        metadata_props, training_info, functions, configuration }
    OperatorSetIdProto { domain, version }
    StringStringEntryProto { key, value }
    TrainingInfoProto { initialization, algorithm, initialization_binding, update_binding }
    FunctionProto { name, input, output, attribute, node, doc_string, opset_import, domain, attribute_proto, value_info,
        overload, metadata_props }
    GraphProto { node, name, initializer, doc_string, input, output, value_info, quantization_annotation,
        sparse_initializer, metadata_props }
    TensorAnnotation { tensor_name, quant_parameter_tensor_names }
    NodeProto { input, output, name, op_type, attribute, doc_string, domain, overload, metadata_props,
        device_configurations }
    Segment { begin, end }
    SparseTensorProto { values, indices, dims }
    ValueInfoProto { name, r#type, doc_string, metadata_props }
    TypeProto { value, denotation }
    TensorType { elem_type, shape }
    SequenceType { elem_type }
    MapType { key_type, value_type }
    OptionalType { elem_type }
    OpaqueType { domain, name }
    TensorShapeProto { dim }
    Dimension { value, denotation }
    DeviceConfigurationProto { name, num_devices, device }
    NodeDeviceConfigurationProto { configuration_id, sharding_spec, pipeline_stage }
    ShardingSpecProto { tensor_name, device, index_to_device_group_map, sharded_dim }
    IntIntListEntryProto { key, value }
    ShardedDimProto { axis, simple_sharding }
    SimpleShardedDimProto { dim, num_shards }
}

impl Random for TypeValue {
    fn random(source: &mut Source) -> Self {
        match source.below(6) {
            0 => TypeValue::Tensor(Random::random(source)),
            1 => TypeValue::Sequence(Random::random(source)),
            2 => TypeValue::Map(Random::random(source)),
            3 => TypeValue::Opaque(Random::random(source)),
            4 => TypeValue::SparseTensor(Random::random(source)),
            _ => TypeValue::Optional(Random::random(source)),
        }
    }
}

impl Random for DimValue {
    fn random(source: &mut Source) -> Self {
        match source.below(2) {
            0 => DimValue::DimValue(Random::random(source)),
            _ => DimValue::DimParam(Random::random(source)),
        }
    }
}

/// Fields at random, or elements of a type's width as `raw_data`, or a well-formed external range.
impl Random for TensorProto {
    fn random(source: &mut Source) -> Self {
        let dtype = DataType::ALL[source.below(DataType::ALL.len())];
        let count = source.below(70);
        let sound = TensorProto {
            name: Random::random(source),
            data_type: Some(dtype.0 as i32),
            dims: vec![count as i64],
            ..TensorProto::default()
        };
        match source.below(4) {
            0 => {
                let mut bytes = || source.below(if dtype.1 == "bool" { 3 } else { 256 }) as u8;
                let raw = (0..(count * dtype.2).div_ceil(8)).map(|_| bytes()).collect();
                TensorProto { raw_data: Some(raw), ..sound }
            }
            1 => {
                let words = (0..count).map(|_| Bytes::random(source)).collect();
                TensorProto { data_type: Some(DataType::String as i32), string_data: words, ..sound }
            }
            2 => {
                let mut entry = |key: &str| StringStringEntryProto {
                    key: Some(key.to_owned()),
                    value: Random::random(source),
                };
                let external_data = ["location", "offset", "length", "other"].map(&mut entry).to_vec();
                TensorProto { external_data, data_location: Some(DATA_EXTERNAL), ..sound }
            }
            _ => TensorProto {
                dims: Random::random(source),
                data_type: Random::random(source),
                segment: Random::random(source),
                float_data: Random::random(source),
                int32_data: Random::random(source),
                string_data: Random::random(source),
                int64_data: Random::random(source),
                name: Random::random(source),
                raw_data: Random::random(source),
                double_data: Random::random(source),
                uint64_data: Random::random(source),
                doc_string: Random::random(source),
                external_data: Random::random(source),
                data_location: Random::random(source),
                metadata_props: Random::random(source),
            },
        }
    }
}

/// One value of the attribute's type, or, rarely, fields at random.
impl Random for AttributeProto {
    fn random(source: &mut Source) -> Self {
        let kind = source.below(16) as i32;
        let rare = source.below(8) == 1;
        let mut attribute = AttributeProto {
            name: if rare { Random::random(source) } else { Some(format!("a{}", source.below(1 << 30))) },
            r#type: if rare { Random::random(source) } else { Some(kind) },
            doc_string: if source.below(8) == 1 { Random::random(source) } else { None },
            ref_attr_name: if source.below(8) == 1 { Random::random(source) } else { None },
            ..AttributeProto::default()
        };
        for of in [kind, if rare { source.below(15) as i32 } else { kind }] {
            match AttributeType::try_from(of).unwrap_or(AttributeType::Undefined) {
                AttributeType::Undefined => (),
                AttributeType::Float => attribute.f = Random::random(source),
                AttributeType::Int => attribute.i = Random::random(source),
                AttributeType::String => attribute.s = Random::random(source),
                AttributeType::Tensor => attribute.t = Random::random(source),
                AttributeType::Graph => attribute.g = Random::random(source),
                AttributeType::Floats => attribute.floats = Random::random(source),
                AttributeType::Ints => attribute.ints = Random::random(source),
                AttributeType::Strings => attribute.strings = Random::random(source),
                AttributeType::Tensors => attribute.tensors = Random::random(source),
                AttributeType::Graphs => attribute.graphs = Random::random(source),
                AttributeType::SparseTensor => attribute.sparse_tensor = Random::random(source),
                AttributeType::SparseTensors => attribute.sparse_tensors = Random::random(source),
                AttributeType::TypeProto => attribute.tp = Random::random(source),
                AttributeType::TypeProtos => attribute.type_protos = Random::random(source),
            }
        }
        attribute
    }
}

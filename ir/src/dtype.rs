//! Element types of tensors and scalars.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $kw:literal, $size:literal, $onnx:literal;)*) => {
        /// An element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DType { $($(#[$doc])* $name),* }

        impl DType {
            /// Every element type, in the order of the table.
            pub const ALL: &[DType] = &[$(DType::$name),*];

            /// The keyword in the text forms: `f32`, `i64`, `bool`.
            pub fn keyword(self) -> &'static str { match self { $(DType::$name => $kw),* } }

            /// Bytes per element in memory; 0 for strings, which have no fixed size.
            pub fn size(self) -> usize { match self { $(DType::$name => $size),* } }

            /// The number of this type in ONNX's `TensorProto.DataType`.
            pub fn onnx(self) -> i32 { match self { $(DType::$name => $onnx),* } }

            /// The type with the given number in ONNX's `TensorProto.DataType`, if `aic` has it.
            pub fn from_onnx(number: i32) -> Option<DType> { match number { $($onnx => Some(DType::$name),)* _ => None } }

            /// The type with the given keyword.
            pub fn from_keyword(keyword: &str) -> Option<DType> { match keyword { $($kw => Some(DType::$name),)* _ => None } }
        }
    };
}

dtypes! {
    /// IEEE 754 binary64.
    F64 = "f64", 8, 11;
    /// IEEE 754 binary32.
    F32 = "f32", 4, 1;
    /// IEEE 754 binary16.
    F16 = "f16", 2, 10;
    /// The upper half of a binary32.
    BF16 = "bf16", 2, 16;
    /// Two's complement, 8 bits.
    I8 = "i8", 1, 3;
    /// Two's complement, 16 bits.
    I16 = "i16", 2, 5;
    /// Two's complement, 32 bits.
    I32 = "i32", 4, 6;
    /// Two's complement, 64 bits.
    I64 = "i64", 8, 7;
    /// Unsigned, 8 bits.
    U8 = "u8", 1, 2;
    /// Unsigned, 16 bits.
    U16 = "u16", 2, 4;
    /// Unsigned, 32 bits.
    U32 = "u32", 4, 12;
    /// Unsigned, 64 bits.
    U64 = "u64", 8, 13;
    /// One byte, 0 or 1.
    Bool = "bool", 1, 9;
    /// Text. Carried so that an error can name it; no operator takes it.
    String = "string", 0, 8;
}

impl DType {
    /// `f64 f32 f16 bf16`.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// `i8 i16 i32 i64`.
    pub fn is_signed(self) -> bool {
        matches!(self, DType::I8 | DType::I16 | DType::I32 | DType::I64)
    }

    /// `u8 u16 u32 u64`.
    pub fn is_unsigned(self) -> bool {
        matches!(self, DType::U8 | DType::U16 | DType::U32 | DType::U64)
    }

    /// A signed or unsigned integer; not `bool`.
    pub fn is_int(self) -> bool {
        self.is_signed() || self.is_unsigned()
    }

    /// An integer or a float.
    pub fn is_num(self) -> bool {
        self.is_int() || self.is_float()
    }

    /// The type in which arithmetic on this storage type is done: `f32` for the 16-bit floats, itself otherwise.
    pub fn compute(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

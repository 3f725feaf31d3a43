//! Numbers that survive JSON to the last bit.
//!
//! JSON readers commonly hold numbers as doubles. Invariants: an integer beyond 2^53 is written as a string of digits;
//! a float as the shortest decimal that reads back as the same bits; infinities as `"inf"` and `"-inf"`; a NaN
//! as `"nan"`, or with its bits as `"nan(0x7fc00001)"` if they aren't the usual ones.

use half::{bf16, f16};
use serde_json::{Value, json};

use super::value::{At, Json};
use aic_ir::error::Result;

/// The largest number up to which a double holds every integer.
const EXACT: u64 = 1 << 53;

/// Whether every JSON reader gets this integer right.
pub fn is_exact(value: i64) -> bool {
    value.unsigned_abs() <= EXACT
}

impl Json for i64 {
    fn to_json(&self) -> Value {
        if is_exact(*self) { json!(self) } else { json!(self.to_string()) }
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        integer(&value, value.as_i64(), at, "integer")
    }
}

impl Json for u64 {
    fn to_json(&self) -> Value {
        if *self <= EXACT { json!(self) } else { json!(self.to_string()) }
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        integer(&value, value.as_u64(), at, "integer from 0 to 18446744073709551615")
    }
}

impl Json for i32 {
    fn to_json(&self) -> Value {
        json!(self)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        let narrow = value.as_i64().and_then(|wide| i32::try_from(wide).ok());
        integer(&value, narrow, at, "integer of 32 bits")
    }
}

/// `number`, or the number that the string `value` spells.
fn integer<T: std::str::FromStr>(value: &Value, number: Option<T>, at: &At, what: &str) -> Result<T> {
    let digits = value.as_str().filter(|text| !text.starts_with('+'));
    number.or_else(|| digits?.parse().ok()).ok_or_else(|| at.expected(what, value))
}

impl Json for f32 {
    fn to_json(&self) -> Value {
        float_to_json(u64::from(self.to_bits()), FloatFormat::F32)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        // A format's bits fit its width.
        float_from_json(&value, FloatFormat::F32, at).map(|bits| f32::from_bits(bits as u32))
    }
}

impl Json for f64 {
    fn to_json(&self) -> Value {
        float_to_json(self.to_bits(), FloatFormat::F64)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        float_from_json(&value, FloatFormat::F64, at).map(f64::from_bits)
    }
}

/// A binary floating-point format, whose values are handled as bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FloatFormat {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatFormat {
    fn name(self) -> &'static str {
        match self {
            FloatFormat::F16 => "float16",
            FloatFormat::Bf16 => "bfloat16",
            FloatFormat::F32 => "float32",
            FloatFormat::F64 => "float64",
        }
    }

    fn to_f64(self, bits: u64) -> f64 {
        match self {
            FloatFormat::F16 => f16::from_bits(bits as u16).to_f64(),
            FloatFormat::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            FloatFormat::F32 => f64::from(f32::from_bits(bits as u32)),
            FloatFormat::F64 => f64::from_bits(bits),
        }
    }

    /// The bits of the nearest value.
    fn round(self, value: f64) -> u64 {
        match self {
            FloatFormat::F16 => u64::from(f16::from_f64(value).to_bits()),
            FloatFormat::Bf16 => u64::from(bf16::from_f64(value).to_bits()),
            FloatFormat::F32 => u64::from((value as f32).to_bits()),
            FloatFormat::F64 => value.to_bits(),
        }
    }

    /// The bits of the usual NaN: the highest bit of the mantissa alone.
    fn nan(self) -> u64 {
        match self {
            FloatFormat::F16 => 0x7e00,
            FloatFormat::Bf16 => 0x7fc0,
            FloatFormat::F32 => 0x7fc0_0000,
            FloatFormat::F64 => 0x7ff8_0000_0000_0000,
        }
    }

    fn bits(self) -> u32 {
        match self {
            FloatFormat::F16 | FloatFormat::Bf16 => 16,
            FloatFormat::F32 => 32,
            FloatFormat::F64 => 64,
        }
    }
}

/// The JSON form of a float given by its bits.
pub fn float_to_json(bits: u64, format: FloatFormat) -> Value {
    let value = format.to_f64(bits);
    if value.is_nan() {
        let usual = bits == format.nan();
        return if usual { json!("nan") } else { json!(format!("nan({bits:#x})")) };
    }
    if value.is_infinite() {
        return json!(if value > 0.0 { "inf" } else { "-inf" });
    }
    if format == FloatFormat::F64 {
        return json!(value);
    }
    let rounded = |digits: usize| format!("{value:.digits$e}").parse::<f64>().ok();
    let same = |short: &f64| format.round(*short) == bits;
    json!((0..9).filter_map(rounded).find(same).unwrap_or(value))
}

/// The bits of the float that a JSON value is.
pub fn float_from_json(value: &Value, format: FloatFormat, at: &At) -> Result<u64> {
    let error = || at.expected(&format!("{} number, \"inf\", \"-inf\" or \"nan\"", format.name()), value);
    match value {
        Value::Number(number) => {
            let bits = format.round(number.as_f64().ok_or_else(error)?);
            if format.to_f64(bits).is_infinite() {
                return Err(at.error(format_args!("{number} is out of the range of {}", format.name())));
            }
            Ok(bits)
        }
        Value::String(text) => match text.as_str() {
            "inf" => Ok(format.round(f64::INFINITY)),
            "-inf" => Ok(format.round(f64::NEG_INFINITY)),
            "nan" => Ok(format.nan()),
            _ => nan_bits(text, format).ok_or_else(error),
        },
        _ => Err(error()),
    }
}

/// The bits in `nan(0x...)`, if they are those of a NaN.
fn nan_bits(text: &str, format: FloatFormat) -> Option<u64> {
    let digits = text.strip_prefix("nan(0x")?.strip_suffix(')')?;
    let bits = u64::from_str_radix(digits, 16).ok()?;
    let fits = bits.checked_shr(format.bits()).unwrap_or(0) == 0;
    (fits && format.to_f64(bits).is_nan()).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: FloatFormat) -> Result<f64> {
        float_from_json(&serde_json::from_str(text).unwrap(), format, &At::root())
            .map(|bits| format.to_f64(bits))
    }

    #[test]
    fn floats_are_short() {
        assert_eq!(0.1f32.to_json().to_string(), "0.1");
        assert_eq!(1f32.to_json().to_string(), "1.0");
        assert_eq!((-0f32).to_json().to_string(), "-0.0");
        assert_eq!(f32::MAX.to_json().to_string(), "3.4028235e+38");
        assert_eq!(f64::MIN_POSITIVE.to_json().to_string(), "2.2250738585072014e-308");
        let tenth = u64::from(f16::from_f32(0.1).to_bits());
        assert_eq!(float_to_json(tenth, FloatFormat::F16).to_string(), "0.1");
        assert_eq!(f32::NAN.to_json(), "nan");
        assert_eq!(f32::from_bits(0xffc0_0001).to_json(), "nan(0xffc00001)");
    }

    #[test]
    fn every_16_bit_float_survives() {
        for bits in 0..=u64::from(u16::MAX) {
            for format in [FloatFormat::F16, FloatFormat::Bf16] {
                let text = float_to_json(bits, format).to_string();
                let value = serde_json::from_str(&text).unwrap();
                assert_eq!(float_from_json(&value, format, &At::root()), Ok(bits), "{text}");
            }
        }
    }

    #[test]
    fn wrong_floats_are_refused() {
        assert_eq!(read("65504", FloatFormat::F16), Ok(65504.0));
        assert!(read("65520", FloatFormat::F16).unwrap_err().message.contains("out of the range of float16"));
        assert!(read("1e39", FloatFormat::F32).is_err());
        for text in
            ["\"infinity\"", "\"nan(0x1)\"", "\"nan(0x17fc00000)\"", "\"nan(7)\"", "true", "null", "[1]"]
        {
            assert!(
                read(text, FloatFormat::F32).unwrap_err().message.contains("expected float32 number"),
                "{text}"
            );
        }
    }

    #[test]
    fn large_integers_are_strings() {
        assert_eq!(i64::MAX.to_json(), "9223372036854775807");
        assert_eq!((1i64 << 53).to_json(), 9_007_199_254_740_992u64);
        for number in [i64::MIN, i64::MAX, 0, -1] {
            assert_eq!(i64::from_json(number.to_json(), &At::root()), Ok(number));
            assert_eq!(i64::from_json(json!(number), &At::root()), Ok(number));
        }
        assert_eq!(u64::from_json(u64::MAX.to_json(), &At::root()), Ok(u64::MAX));
        for wrong in [json!(1.0), json!("1.0"), json!(""), json!("+1"), json!(u64::MAX), json!(null)] {
            assert!(
                i64::from_json(wrong, &At::root())
                    .unwrap_err()
                    .message
                    .starts_with("expected integer, found")
            );
        }
        assert!(i32::from_json(json!(1i64 << 31), &At::root()).is_err());
        assert!(u64::from_json(json!(-1), &At::root()).is_err());
    }
}

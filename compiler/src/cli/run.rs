//! `aic run`: a model on given or random inputs.

use super::args::{self, ModelArgs, Prepared, RunArgs};
use super::print;
use aic::io::{self, Value};
use aic::session;
use aic_ir::error::Result;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aic run model.onnx                            random inputs; dims are 1
  aic run model.onnx --dim batch=4              random inputs, a batch of 4
  aic run model.onnx --inputs x=photo.npy mask=mask.npy --outputs results
  aic run model.onnx --inputs test_data_set_0 --outputs results
  aic run model.onnx --backend reference        the interpreter's answer
  aic run model.onnx --target ptx --emulate     a GPU's kernels, without a GPU
  aic run model.onnx --target ascendc --emulate an NPU's, on a model of it

Inputs from .pb files (ONNX's TensorProto; input_K.pb is for the K-th input that isn't an initializer) give \
outputs as .pb files, output_K.pb; all others give NAME.npy. Operators that have no kernel are computed by the \
interpreter within the compiled program, with a note; --strict refuses them.";

/// Run a model and summarise what comes out
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// A folder to write the outputs to
    #[arg(long, value_name = "DIR")]
    outputs: Option<PathBuf>,
}

/// Runs.
///
/// # Errors
/// The model can't be run on these inputs, or the outputs can't be written.
pub fn execute(args: &Args) -> Result<()> {
    let options = session::Options { weights_in_place: true, ..session::Options::default() };
    let Prepared { source, mut runner, inputs, outputs, format, .. } =
        args::prepare(&args.model, &args.run, options)?;
    let values = io::put_together(&outputs, runner.run(&inputs)?)?;
    let ports = source.outputs();
    let mut rows = Vec::new();
    ports.iter().zip(&values).for_each(|(port, value)| summarise(&port.name, value, &mut rows));
    print::stdout(&print::table(&rows))?;
    match &args.outputs {
        Some(folder) => io::write_outputs(folder, format, &ports, &values),
        None => Ok(()),
    }
}

fn summarise(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Tensor(t) => rows.push(summary(name, t)),
        Value::Absent => rows.push(vec![name.to_owned(), "absent".to_owned()]),
        Value::Sequence(items) => {
            rows.push(vec![name.to_owned(), format!("a sequence of {}", items.len())]);
            items.iter().enumerate().for_each(|(k, item)| summarise(&format!("{name}[{k}]"), item, rows));
        }
    }
}

/// Name, type, range, and the first elements.
fn summary(name: &str, t: &Tensor) -> Vec<String> {
    let ty = Type::of(t.dtype(), t.shape()).to_string();
    let first: Vec<String> = (0..t.len().min(6)).map(|k| element(t.get(k))).collect();
    let more = if t.len() > 6 { ", ..." } else { "" };
    let mut cells = vec![name.to_owned(), ty];
    cells.extend(statistics(t));
    cells.push(format!("[{}{more}]", first.join(", ")));
    cells
}

/// Minimum, maximum and mean of the numbers, and how many elements are none.
fn statistics(t: &Tensor) -> Vec<String> {
    let (mut min, mut max, mut sum, mut n) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0usize);
    for x in t.scalars().map(Scalar::as_f64).filter(|x| !x.is_nan()) {
        (min, max, sum, n) = (min.min(x), max.max(x), sum + x, n + 1);
    }
    if n == 0 {
        let what = if t.is_empty() { "empty" } else { "all NaN" };
        return vec![what.to_owned(), String::new(), String::new()];
    }
    let mean = match t.len() - n {
        0 => format!("mean {}", number(sum / n as f64)),
        n_nan => format!("mean {} ({n_nan} NaN)", number(sum / n as f64)),
    };
    vec![format!("min {}", number(min)), format!("max {}", number(max)), mean]
}

fn element(x: Scalar) -> String {
    match x {
        Scalar::F(x) => number(x),
        Scalar::I(x) => x.to_string(),
        Scalar::U(x) => x.to_string(),
        Scalar::B(x) => x.to_string(),
    }
}

/// Six significant digits.
fn number(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let digits = 5 - x.abs().log10().floor() as i32;
    match digits {
        -1..=9 => {
            let text = format!("{x:.0$}", digits.max(0) as usize);
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
        _ => format!("{x:.5e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aic_ir::dtype::DType;

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (1234567.0, "1234567"),
            (1e12, "1.00000e12"),
            (0.99999976, "1"),
            (1.0 / 3.0, "0.333333"),
            (1.13396467e-7, "1.13396e-7"),
            (f64::INFINITY, "inf"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
    }

    #[test]
    fn a_summary_leaves_nan_out() {
        let t = Tensor::from_vec(vec![3], &[1f32, f32::NAN, 3.0]).unwrap();
        assert_eq!(summary("y", &t), ["y", "f32[3]", "min 1", "max 3", "mean 2 (1 NaN)", "[1, NaN, 3]"]);
        let t = Tensor::full(DType::I64, vec![0, 2], Scalar::I(0)).unwrap();
        assert_eq!(summary("", &t)[2], "empty");
        let t = Tensor::full(DType::I64, vec![7], Scalar::I(-2)).unwrap();
        assert_eq!(summary("", &t)[5], "[-2, -2, -2, -2, -2, -2, ...]");
    }
}

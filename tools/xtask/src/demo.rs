//! `cargo xtask demo`: compiles a trained digit classifier to a shared library and runs it on real handwriting.
//!
//! It goes the way of a user: the `aic` command makes the library, the C ABI runs it. All pictures go through the
//! model as one batch, as its batch dim is symbolic.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use crate::Result;
use crate::model::Model;
use crate::process::{
    cargo, cargo_without_llvm, command, root, run, show, target_dir, target_dir_without_llvm,
};
use crate::setup;

const SIZE: usize = 8;
const N_CLASSES: usize = 10;

/// A picture with its true label; `grey` holds the rows from the top, 0 is black.
struct Sample {
    name: String,
    label: usize,
    grey: Vec<u8>,
}

/// Sets up, builds `aic`, with LLVM or without, compiles the model, classifies the ten pictures; says whether all are
/// right.
///
/// # Errors
/// A step before the classification fails.
pub fn demo(with_llvm: bool) -> Result<bool> {
    let target = if with_llvm {
        setup::llvm()?;
        run(cargo(&["build", "--release", "--package", "aic"]))?;
        target_dir()?
    } else {
        run(cargo_without_llvm(&["build", "--release"])?)?;
        target_dir_without_llvm()?
    };
    let folder = root().join("testdata/models/digits");
    let out_dir = target_dir()?.join("demo");
    fs::create_dir_all(&out_dir).map_err(|error| format!("can't make {}: {error}", out_dir.display()))?;
    let library = out_dir.join("digits.so");
    // A library of an earlier run is not to pass for this one's. There may be none.
    let _ = fs::remove_file(&library);
    compile(&target.join("release/aic"), &folder.join("digits.onnx"), &library)?;
    let samples = read_samples(&folder)?;
    classify(&library, &samples)
}

fn compile(aic: &Path, model: &Path, library: &Path) -> Result<()> {
    let compile = command(aic, &["compile", &model.to_string_lossy(), "-o", &library.to_string_lossy()]);
    println!("$ {}", show(&compile));
    run(compile)
}

fn read_samples(folder: &Path) -> Result<Vec<Sample>> {
    let path = folder.join("labels.txt");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    text.lines().map(|line| read_sample(folder, line)).collect()
}

/// Reads the picture of one line `NAME LABEL` of labels.txt.
fn read_sample(folder: &Path, line: &str) -> Result<Sample> {
    let (name, label) = line
        .split_once(' ')
        .and_then(|(name, label)| Some((name, label.parse().ok()?)))
        .ok_or_else(|| format!("labels.txt: expected `NAME LABEL`, found `{line}`"))?;
    Ok(Sample { name: name.to_owned(), label, grey: read_png(&folder.join(name))? })
}

/// The grey values of an 8x8 picture with 8 bits per pixel.
fn read_png(path: &Path) -> Result<Vec<u8>> {
    let explain = |error: &dyn std::fmt::Display| format!("can't read {}: {error}", path.display());
    let file = File::open(path).map_err(|error| explain(&error))?;
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(|error| explain(&error))?;
    let mut grey = vec![0; reader.output_buffer_size().ok_or_else(|| explain(&"too large"))?];
    let info = reader.next_frame(&mut grey).map_err(|error| explain(&error))?;
    let is_right_size = (info.width, info.height) == (SIZE as u32, SIZE as u32);
    if is_right_size && info.color_type == png::ColorType::Grayscale && info.bit_depth == png::BitDepth::Eight
    {
        Ok(grey)
    } else {
        Err(explain(&format!("expected {SIZE}x{SIZE} pixels of 8-bit grey")))
    }
}

/// Runs the model on all samples, prints what it says of each, and how many are right.
fn classify(library: &Path, samples: &[Sample]) -> Result<bool> {
    let mut model = Model::open(library, 0)?;
    let input: Vec<f32> = samples.iter().flat_map(|s| s.grey.iter().map(|&g| f32::from(g) / 255.0)).collect();
    let (probabilities, dims) = model.run(&input, &[samples.len() as i64, 1, SIZE as i64, SIZE as i64])?;
    if dims != [samples.len() as i64, N_CLASSES as i64] {
        return Err(format!("expected an output of dims [{}, {N_CLASSES}], found {dims:?}", samples.len()));
    }
    let mut n_right = 0;
    for (sample, row) in samples.iter().zip(probabilities.chunks(N_CLASSES)) {
        let predicted = argmax(row);
        n_right += usize::from(predicted == sample.label);
        println!("\n{}", card(sample, predicted, row));
    }
    println!("\n{n_right} of {} right", samples.len());
    Ok(n_right == samples.len())
}

/// The index of the largest value; the first of equals.
fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The picture, and beside it its name, its label, and what the model says.
fn card(sample: &Sample, predicted: usize, probabilities: &[f32]) -> String {
    let verdict = if predicted == sample.label { "right" } else { "WRONG" };
    let (low, high) = probabilities.split_at(N_CLASSES / 2);
    let mut notes = vec![String::new(); SIZE];
    notes[1] = format!("{}: label {}, predicted {predicted}, {verdict}", sample.name, sample.label);
    notes[3] = percentages(0, low);
    notes[4] = percentages(low.len(), high);
    let rows = sample.grey.chunks(SIZE).zip(notes);
    let lines = rows.map(|(row, note)| format!("  {}  {note}", shades(row)).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A row of pixels, two characters each, denser where it is brighter.
fn shades(row: &[u8]) -> String {
    const RAMP: &[u8; 10] = b" .:-=+*#%@";
    let shade = |grey: u8| char::from(RAMP[usize::from(grey) * RAMP.len() / 256]);
    row.iter().flat_map(|&grey| [shade(grey); 2]).collect()
}

/// `3: 99.99 %` for each class from `first`.
fn percentages(first: usize, probabilities: &[f32]) -> String {
    let mut text = String::new();
    for (i, p) in probabilities.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = write!(text, "{}: {:6.2} %   ", first + i, 100.0 * p);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_the_repository_are_readable() {
        let samples = read_samples(&root().join("testdata/models/digits")).unwrap();
        assert_eq!(samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), Vec::from_iter(0..10));
        assert!(samples.iter().all(|sample| sample.grey.len() == SIZE * SIZE));
    }

    #[test]
    fn a_card_names_picture_label_and_verdict() {
        let sample = Sample { name: "x.png".to_owned(), label: 3, grey: vec![255; SIZE * SIZE] };
        let mut probabilities = [0.0; N_CLASSES];
        probabilities[7] = 1.0;
        let text = card(&sample, argmax(&probabilities), &probabilities);
        assert_eq!(text.lines().count(), SIZE);
        assert!(text.contains("x.png: label 3, predicted 7, WRONG"), "{text}");
        assert!(text.contains("7: 100.00 %"), "{text}");
    }
}

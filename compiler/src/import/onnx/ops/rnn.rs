//! Recurrent networks: `RNN`, `GRU` and `LSTM`.
//!
//! What depends on the inputs alone is one product for the whole sequence; the recurrence does the rest.

use super::activation;
use super::attention::matched;
use super::steps::{self, Step, Steps};
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::Scalar;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("GRU", 3, |c| recurrent(c, Kind::Gru)),
    op("LSTM", 1, |c| recurrent(c, Kind::Lstm)),
    op("RNN", 1, |c| recurrent(c, Kind::Rnn)),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn n_gates(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Rnn => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// A function applied to gates, with its parameters.
#[derive(Clone)]
struct Activation {
    name: String,
    alpha: Option<f64>,
    beta: Option<f64>,
}

/// The activations of all directions.
fn activations(c: &Ctx, kind: Kind, directions: usize) -> Result<Vec<Activation>> {
    let n = kind.activations().len() * directions;
    let default = || kind.activations().iter().cycle().take(n).map(|name| name.to_string()).collect();
    let names = c.texts("activations")?.unwrap_or_else(default);
    ensure!(names.len() == n, "expected {n} activations, found {}", names.len());
    // Parameters are given to those functions only that have them.
    let list = |name: &str| Ok(c.floats(name)?.unwrap_or_default().into_iter());
    let (mut alphas, mut betas) = (list("activation_alpha")?, list("activation_beta")?);
    let activation = |name: String| {
        let (has_alpha, has_beta) = match name.to_ascii_lowercase().as_str() {
            "affine" | "scaledtanh" | "hardsigmoid" => (true, true),
            "leakyrelu" | "thresholdedrelu" | "elu" => (true, false),
            _ => (false, false),
        };
        let alpha = if has_alpha { alphas.next() } else { None };
        let beta = if has_beta { betas.next() } else { None };
        Activation { name, alpha, beta }
    };
    Ok(names.into_iter().map(activation).collect())
}

/// One direction of a network: what its steps need beside operands.
struct Cell {
    kind: Kind,
    hidden: usize,
    activations: Vec<Activation>,
    clip: Option<f64>,
    /// LSTM: the forget gate is what the input gate leaves.
    coupled: bool,
    /// LSTM: gates see the cell state.
    peepholes: bool,
    /// GRU: the reset gate is applied after the product.
    linear_before_reset: bool,
    /// Whether some sequences are shorter.
    masked: bool,
    /// Whether the state of every step is wanted.
    collect: bool,
}

impl Cell {
    /// Activation `k` of gates, which are clipped before it.
    fn activate(&self, c: &mut Ctx, k: usize, gates: ValueId) -> Result<ValueId> {
        let clipped = match self.clip {
            Some(clip) => c.clamp(gates, -clip, clip)?,
            None => gates,
        };
        self.function(c, k, clipped)
    }

    fn function(&self, c: &mut Ctx, k: usize, x: ValueId) -> Result<ValueId> {
        let Activation { name, alpha, beta } = &self.activations[k];
        activation::named(c, x, name, *alpha, *beta)
    }

    /// Gates `first..first + n` of a value that has all of them along the last axis.
    fn gates(&self, c: &mut Ctx, x: ValueId, first: usize, n: usize) -> Result<ValueId> {
        c.slice(x, c.rank(x) - 1, first * self.hidden, n * self.hidden)
    }

    /// The next states, and the hidden one as what is shown of the step.
    fn step(&self, c: &mut Ctx, step: Step) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
        let next = match self.kind {
            Kind::Rnn => self.rnn(c, &step)?,
            Kind::Gru => self.gru(c, &step)?,
            Kind::Lstm => self.lstm(c, &step)?,
        };
        if !self.masked {
            let shown = if self.collect { vec![next[0]] } else { Vec::new() };
            return Ok((next, shown));
        }
        let valid = step.elements[1];
        let mut shown = Vec::new();
        if self.collect {
            let zero = c.number_like(0.0, next[0]);
            shown.push(c.select(valid, next[0], zero)?);
        }
        let kept = next.iter().zip(step.states).map(|(&next, &state)| c.select(valid, next, state));
        Ok((kept.collect::<Result<_>>()?, shown))
    }

    fn rnn(&self, c: &mut Ctx, step: &Step) -> Result<Vec<ValueId>> {
        let product = c.matmul(step.states[0], step.shared[0])?;
        let sum = c.plus(step.elements[0], product)?;
        Ok(vec![self.activate(c, 0, sum)?])
    }

    /// Gates: update, reset, hidden.
    fn gru(&self, c: &mut Ctx, step: &Step) -> Result<Vec<ValueId>> {
        let (x, hidden) = (step.elements[0], step.states[0]);
        let (r_gates, r_hidden, bias) = (step.shared[0], step.shared[1], step.shared[2]);
        let product = c.matmul(hidden, r_gates)?;
        let given = self.gates(c, x, 0, 2)?;
        let sum = c.plus(given, product)?;
        let gates = self.activate(c, 0, sum)?;
        let (update, reset) = (self.gates(c, gates, 0, 1)?, self.gates(c, gates, 1, 1)?);
        let recurrent = if self.linear_before_reset {
            let product = c.matmul(hidden, r_hidden)?;
            let product = c.plus(product, bias)?;
            c.times(reset, product)?
        } else {
            let left = c.times(reset, hidden)?;
            let product = c.matmul(left, r_hidden)?;
            c.plus(product, bias)?
        };
        let given = self.gates(c, x, 2, 1)?;
        let sum = c.plus(given, recurrent)?;
        let new = self.activate(c, 1, sum)?;
        // (1 - update) * new + update * hidden
        let change = c.minus(hidden, new)?;
        let part = c.times(update, change)?;
        Ok(vec![c.plus(new, part)?])
    }

    /// Gates: input, output, forget, cell.
    fn lstm(&self, c: &mut Ctx, step: &Step) -> Result<Vec<ValueId>> {
        let (hidden, cell) = (step.states[0], step.states[1]);
        let product = c.matmul(hidden, step.shared[0])?;
        let sum = c.plus(step.elements[0], product)?;
        let peep = |c: &mut Ctx, gate: ValueId, k: usize, cell: ValueId| -> Result<ValueId> {
            if !self.peepholes {
                return Ok(gate);
            }
            let weights = self.gates(c, step.shared[1], k, 1)?;
            let seen = c.times(weights, cell)?;
            c.plus(gate, seen)
        };
        let input = self.gates(c, sum, 0, 1)?;
        let input = peep(c, input, 0, cell)?;
        let input = self.activate(c, 0, input)?;
        let forget = if self.coupled {
            let one = c.number_like(1.0, input);
            c.minus(one, input)?
        } else {
            let forget = self.gates(c, sum, 2, 1)?;
            let forget = peep(c, forget, 2, cell)?;
            self.activate(c, 0, forget)?
        };
        let new = self.gates(c, sum, 3, 1)?;
        let new = self.activate(c, 1, new)?;
        let (kept, added) = (c.times(forget, cell)?, c.times(input, new)?);
        let cell = c.plus(kept, added)?;
        let output = self.gates(c, sum, 1, 1)?;
        let output = peep(c, output, 1, cell)?;
        let output = self.activate(c, 0, output)?;
        let shown = self.function(c, 2, cell)?;
        Ok(vec![c.times(output, shown)?, cell])
    }
}

/// The operands of a node, in 32 bits or more and with the sequence along axis 0.
struct Operands {
    x: ValueId,
    w: ValueId,
    r: ValueId,
    bias: Option<ValueId>,
    initial: Vec<Option<ValueId>>,
    peepholes: Option<ValueId>,
    /// `[length, batch, 1]`: whether the sequences last that long.
    valid: Option<ValueId>,
}

fn operands(c: &mut Ctx, kind: Kind, batch_first: bool) -> Result<Operands> {
    let wide = |c: &mut Ctx, k: usize| -> Result<Option<ValueId>> {
        c.optional(k)?.map(|v| c.widened(v)).transpose()
    };
    let batch_last = |c: &mut Ctx, v: ValueId| -> Result<ValueId> {
        ensure!(c.rank(v) == 3, "expected rank 3, found {}", c.ty(v));
        if batch_first { c.transpose(v, &[1, 0, 2]) } else { Ok(v) }
    };
    let (Some(x), Some(w), Some(r)) = (wide(c, 0)?, wide(c, 1)?, wide(c, 2)?) else {
        bail!("the inputs X, W and R are needed")
    };
    let x = batch_last(c, x)?;
    ensure!(c.rank(w) == 3 && c.rank(r) == 3, "weights must have rank 3, found {} and {}", c.ty(w), c.ty(r));
    let n_states = if kind == Kind::Lstm { 2 } else { 1 };
    let mut initial = Vec::new();
    for k in 0..n_states {
        let state = wide(c, 5 + k)?;
        initial.push(state.map(|v| batch_last(c, v)).transpose()?);
    }
    let valid = match c.optional(4)? {
        Some(lengths) => {
            let length = c.dim(x, 0);
            let position = c.iota(vec![length, 1.into(), 1.into()], 0, DType::I64)?;
            let lengths = c.cast(lengths, DType::I64)?;
            let lengths = c.along(lengths, 1, 3)?;
            Some(c.less(position, lengths)?)
        }
        None => None,
    };
    let peepholes = if kind == Kind::Lstm { wide(c, 7)? } else { None };
    Ok(Operands { x, w, r, bias: wide(c, 3)?, initial, peepholes, valid })
}

fn recurrent(c: &mut Ctx, kind: Kind) -> Result<Outputs> {
    let batch_first = c.flag("layout", false)?;
    let dtype = c.dtype(c.input(0)?);
    let mut operands = operands(c, kind, batch_first)?;
    let reversed: &[bool] = match c.text_or("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => bail!("the direction {other} is unknown"),
    };
    let directions = reversed.len();
    let hidden = c.size(operands.r, 2)?;
    ensure!(hidden <= 1 << 24, "a hidden size of {hidden} is too large");
    let gates: Dim = (kind.n_gates() * hidden).into();
    c.expect_dims(operands.r, &[directions.into(), gates.clone(), hidden.into()], "the input R")?;
    c.expect_dims(operands.w, &[directions.into(), gates, c.dim(operands.x, 2)], "the input W")?;
    if let Some(bias) = operands.bias {
        c.expect_dims(bias, &[directions.into(), (2 * kind.n_gates() * hidden).into()], "the input B")?;
    }
    if let Some(peepholes) = operands.peepholes {
        c.expect_dims(peepholes, &[directions.into(), (3 * hidden).into()], "the input P")?;
    }
    let batch = c.dim(operands.x, 1);
    for initial in operands.initial.iter_mut().flatten() {
        *initial = matched(c, *initial, &[directions.into(), batch.clone(), hidden.into()])?;
    }
    let activations = activations(c, kind, directions)?;
    let per_direction = activations.len() / directions;
    let (mut sequences, mut finals) = (Vec::new(), vec![Vec::new(); operands.initial.len()]);
    for (d, &reverse) in reversed.iter().enumerate() {
        let cell = Cell {
            kind,
            hidden,
            activations: activations[d * per_direction..][..per_direction].to_vec(),
            clip: c.float("clip")?,
            coupled: c.flag("input_forget", false)?,
            peepholes: operands.peepholes.is_some(),
            linear_before_reset: c.flag("linear_before_reset", false)?,
            masked: operands.valid.is_some(),
            collect: c.wants(0),
        };
        let (states, shown) = direction(c, &cell, &operands, d, reverse)?;
        for (list, state) in finals.iter_mut().zip(states) {
            list.push(c.unsqueeze(state, &[if batch_first { 1 } else { 0 }])?);
        }
        for v in shown {
            sequences.push(c.unsqueeze(v, &[1])?);
        }
    }
    // [length, directions, batch, hidden], unless the batch comes first.
    let mut outputs = Vec::new();
    if sequences.is_empty() {
        // The node has no name for this output.
        outputs.push(operands.x);
    } else {
        let y = c.concat(&sequences, 1)?;
        let y = if batch_first { c.transpose(y, &[2, 0, 1, 3])? } else { y };
        outputs.push(c.cast(y, dtype)?);
    }
    for list in finals {
        let y = c.concat(&list, if batch_first { 1 } else { 0 })?;
        outputs.push(c.cast(y, dtype)?);
    }
    Ok(outputs.into())
}

/// The final states of one direction, and the hidden states of all steps.
fn direction(
    c: &mut Ctx,
    cell: &Cell,
    operands: &Operands,
    d: usize,
    reverse: bool,
) -> Result<(Vec<ValueId>, Vec<ValueId>)> {
    let n = cell.kind.n_gates();
    let (w, r) = (c.at(operands.w, 0, d)?, c.at(operands.r, 0, d)?);
    let (w, r) = (c.transpose_last(w)?, c.transpose_last(r)?);
    let mut scanned = vec![c.matmul(operands.x, w)?];
    let mut bias_inside = None;
    if let Some(bias) = operands.bias {
        let bias = c.at(bias, 0, d)?;
        let (mut sum, recurrent) = (cell.gates(c, bias, 0, n)?, cell.gates(c, bias, n, n)?);
        if cell.kind == Kind::Gru {
            // The recurrent bias of the hidden gate stays with its product.
            let outside = cell.gates(c, recurrent, 0, 2)?;
            let zeros = c.filled(Scalar::F(0.0), c.dtype(bias), vec![cell.hidden.into()])?;
            let outside = c.concat(&[outside, zeros], 0)?;
            bias_inside = Some(cell.gates(c, recurrent, 2, 1)?);
            sum = c.plus(sum, outside)?;
        } else {
            sum = c.plus(sum, recurrent)?;
        }
        scanned[0] = c.plus(scanned[0], sum)?;
    }
    scanned.extend(operands.valid);
    let mut shared = match cell.kind {
        Kind::Rnn | Kind::Lstm => vec![r],
        Kind::Gru => {
            let bias = match bias_inside {
                Some(bias) => bias,
                None => c.number_like(0.0, r),
            };
            vec![cell.gates(c, r, 0, 2)?, cell.gates(c, r, 2, 1)?, bias]
        }
    };
    if let Some(peepholes) = operands.peepholes {
        shared.push(c.at(peepholes, 0, d)?);
    }
    let states = operands.initial.iter().map(|initial| match initial {
        Some(initial) => c.at(*initial, 0, d),
        None => {
            let dims = vec![c.dim(operands.x, 1), cell.hidden.into()];
            c.filled(Scalar::F(0.0), c.dtype(operands.x), dims)
        }
    });
    let states = states.collect::<Result<_>>()?;
    let steps = Steps { states, scanned, shared, reverse };
    let (states, shown) = steps::run(c, steps, |c, step| cell.step(c, step))?;
    Ok((states, shown))
}

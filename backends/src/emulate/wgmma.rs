//! Asynchronous products of a warp group (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate").
//!
//! A product is computed when its group is waited for, from what is in shared memory then; each warp computes its own 16
//! rows. Until then the accumulators hold NaNs that say which product will give which value. Only an operand that is
//! tied through the wait gets the value; whoever uses an accumulator otherwise has NaN.

use super::cluster::{Cluster, Next};
use super::float::Element;
use super::fragment;
use super::tensor_map::Swizzle;
use super::warp::Brought;
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use std::collections::VecDeque;

/// What an intrinsic or a piece of inline assembly does: fence, products, commit and wait, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WgmmaOp {
    is_fence: bool,
    products: Vec<Product>,
    is_commit: bool,
    wait: Option<Pending>,
    /// Results, and for each the operand that it is tied to.
    ties: Vec<Option<usize>>,
}

/// How many groups a wait leaves under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pending {
    Known(u64),
    Operand(usize),
}

/// `wgmma.mma_async.sync.aligned.m64nNkK`. Numbers of operands are those among inputs.
#[derive(Clone, Debug, PartialEq)]
struct Product {
    n: usize,
    a_type: Element,
    b_type: Element,
    /// The accumulators' numbers among the results.
    d: Vec<usize>,
    a: Left,
    b: usize,
    /// Whether accumulators count.
    scale_d: Condition,
    /// Factors of A and B: 1 or -1.
    scales: [f64; 2],
    /// Whether a factor in shared memory is major in M or N.
    is_transposed: [bool; 2],
}

/// The left factor: a descriptor, or registers.
#[derive(Clone, Debug, PartialEq)]
enum Left {
    Descriptor(usize),
    Registers(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    Known(bool),
    /// Whether an operand isn't 0.
    Operand(usize),
}

/// The asynchronous products of a warp.
#[derive(Default)]
pub(super) struct Queue {
    is_fenced: bool,
    next: u32,
    open: Vec<Issued>,
    groups: VecDeque<Vec<Issued>>,
    done: VecDeque<Done>,
}

/// A product under way.
struct Issued {
    number: u32,
    product: Product,
    /// Accumulators and registers of A of each lane, as they were given.
    accumulators: Vec<u32>,
    left: Vec<u32>,
    descriptors: [u64; 2],
    is_accumulated: bool,
}

struct Done {
    number: u32,
    /// Of each lane, register by register.
    values: Vec<u32>,
}

/// Values of products that are kept for waits to come.
const KEPT: usize = 64;

/// What stands in an accumulator for a value to come: a NaN that holds the number of the product and of the register.
fn token(number: u32, register: usize) -> u32 {
    let id = ((number % 0xffff) << 7) | register as u32;
    0x7fc0_0000 | id & 0x3f_ffff | (id >> 22) << 31
}

impl Queue {
    /// The value that a token stands for, if it is one of a product that is done.
    fn value(&self, bits: u32, lane: usize) -> u32 {
        if bits & 0x7fc0_0000 != 0x7fc0_0000 {
            return bits;
        }
        let (id, register) = ((bits & 0x3f_ffff | bits >> 31 << 22) >> 7, (bits & 127) as usize);
        let done = self.done.iter().rev().find(|d| d.number % 0xffff == id);
        done.and_then(|d| d.values.get(lane * (d.values.len() / 32) + register)).copied().unwrap_or(bits)
    }
}

impl WgmmaOp {
    pub fn of_intrinsic(name: &str) -> Option<WgmmaOp> {
        let none = WgmmaOp::default();
        Some(match name {
            "wgmma.fence.sync.aligned" => WgmmaOp { is_fence: true, ..none },
            "wgmma.commit_group.sync.aligned" => WgmmaOp { is_commit: true, ..none },
            "wgmma.wait_group.sync.aligned" => WgmmaOp { wait: Some(Pending::Operand(0)), ..none },
            _ => return None,
        })
    }

    /// Of inline assembly; `None` if it is about something else. Text without instructions ties its operands.
    pub fn of_assembly(text: &str, constraints: &str) -> Result<Option<WgmmaOp>> {
        if !text.is_empty() && !text.contains("wgmma.") {
            return Ok(None);
        }
        let ties = ties(constraints);
        let outputs = ties.len();
        let mut op = WgmmaOp { ties, ..WgmmaOp::default() };
        let body = text.trim_matches(|c: char| c == '{' || c == '}' || c.is_whitespace());
        let body = if text.starts_with('{') { body } else { text };
        let mut predicates: Vec<(String, Condition)> = Vec::new();
        for statement in body.split(';').map(str::trim).filter(|s| !s.is_empty() && *s != "}") {
            let (name, rest) = statement.split_once(char::is_whitespace).unwrap_or((statement, ""));
            match name {
                ".reg" => {}
                "setp.ne.b32" | "setp.ne.s32" | "setp.ne.u32" => predicates.push(predicate(rest, outputs)?),
                "wgmma.fence.sync.aligned" => op.is_fence = true,
                "wgmma.commit_group.sync.aligned" => op.is_commit = true,
                "wgmma.wait_group.sync.aligned" => {
                    let n = rest.trim().parse().map_err(|_| unread(statement))?;
                    op.wait = Some(Pending::Known(n));
                }
                _ => op.products.push(Product::parse(name, rest, outputs, &predicates)?),
            }
        }
        Ok(Some(op))
    }
}

fn unread(statement: &str) -> Error {
    Error::new(format!("the emulator can't read `{statement}`"))
}

/// For each output the input that is tied to it.
fn ties(constraints: &str) -> Vec<Option<usize>> {
    let all: Vec<&str> =
        constraints.split(',').map(str::trim).filter(|c| !c.is_empty() && !c.starts_with('~')).collect();
    let (outputs, inputs): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|c| c.starts_with('='));
    let tied = |k: usize| inputs.iter().position(|i| i.parse() == Ok(k));
    (0..outputs.len()).map(tied).collect()
}

/// The number of operand `$n`.
fn operand(text: &str) -> Result<usize> {
    let text = text.trim();
    text.strip_prefix('$').and_then(|n| n.parse().ok()).ok_or_else(|| unread(text))
}

fn input(text: &str, outputs: usize) -> Result<usize> {
    operand(text)?.checked_sub(outputs).ok_or_else(|| unread(text))
}

fn predicate(rest: &str, outputs: usize) -> Result<(String, Condition)> {
    let parts: Vec<&str> = rest.split(',').map(str::trim).collect();
    match parts[..] {
        [name, value, "0"] => Ok((name.to_owned(), Condition::Operand(input(value, outputs)?))),
        _ => Err(unread(rest)),
    }
}

impl Product {
    fn parse(name: &str, rest: &str, outputs: usize, predicates: &[(String, Condition)]) -> Result<Product> {
        let kind = name.strip_prefix("wgmma.mma_async.sync.aligned.m64n").ok_or_else(|| unread(name))?;
        let parts: Vec<&str> = kind.split('.').collect();
        let (Some((n, k)), [_, d_type, a_type, b_type]) =
            (parts[0].split_once('k'), &parts[..4.min(parts.len())])
        else {
            return Err(unread(name));
        };
        let element = |t: &str| match t {
            "f16" => Ok(Element::F16),
            "bf16" => Ok(Element::Bf16),
            "tf32" => Ok(Element::Tf32),
            "s8" => Ok(Element::S8),
            "u8" => Ok(Element::U8),
            _ => Err(unread(name)),
        };
        let (a_type, b_type) = (element(a_type)?, element(b_type)?);
        let n: usize = n.parse().map_err(|_| unread(name))?;
        ensure!(
            *d_type == if a_type.is_int() { "s32" } else { "f32" },
            "accumulators of {d_type} are unknown"
        );
        ensure!(k.parse() == Ok(32 / a_type.bytes()), "`{name}` has another k than 32 bytes of elements");
        ensure!(n.is_multiple_of(8) && (8..=256).contains(&n), "`{name}` has {n} columns");
        let operands = operands(rest);
        let [d, a, b, scale_d, modifiers @ ..] = &operands[..] else { return Err(unread(rest)) };
        let d: Vec<usize> = d.iter().map(|x| operand(x)).collect::<Result<_>>()?;
        ensure!(d.len() == n / 2, "`{name}` has {} accumulators, not {}", d.len(), n / 2);
        let a = match &a[..] {
            [one] => Left::Descriptor(input(one, outputs)?),
            some => Left::Registers(some.iter().map(|x| input(x, outputs)).collect::<Result<_>>()?),
        };
        let scale_d = match &scale_d[0][..] {
            "0" | "false" => Condition::Known(false),
            "1" | "true" => Condition::Known(true),
            name => predicates.iter().find(|(p, _)| p == name).ok_or_else(|| unread(rest))?.1,
        };
        let flag = |k: usize| modifiers.get(k).map_or("", |m| &m[0][..]);
        let scale = |k: usize| if flag(k) == "-1" { -1.0 } else { 1.0 };
        // A in registers has no transposition.
        let is_loaded = matches!(a, Left::Descriptor(_));
        let is_transposed =
            if is_loaded { [flag(2) == "1", flag(3) == "1"] } else { [false, flag(2) == "1"] };
        let b = input(&b[0], outputs)?;
        Ok(Product { n, a_type, b_type, d, a, b, scale_d, scales: [scale(0), scale(1)], is_transposed })
    }

    fn k(&self) -> usize {
        32 / self.a_type.bytes()
    }
}

/// Operands separated by commas, those in braces together.
fn operands(text: &str) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = vec![vec![String::new()]];
    let mut is_in = false;
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        let last = out.len() - 1;
        match c {
            '{' => is_in = true,
            '}' => is_in = false,
            ',' if is_in => out[last].push(String::new()),
            ',' => out.push(vec![String::new()]),
            _ => out[last].iter_mut().last().into_iter().for_each(|s| s.push(c)),
        }
    }
    out
}

/// A factor's place in shared memory (PTX ISA, "Matrix Descriptor Format" and "Strides" of wgmma).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Descriptor {
    /// Bytes from the beginning of the shared memory window.
    start: usize,
    leading: usize,
    stride: usize,
    swizzle: Swizzle,
}

impl Descriptor {
    fn decode(bits: u64) -> Result<Descriptor> {
        let field = |at: u32| ((bits >> at & 0x3fff) << 4) as usize;
        ensure!(
            bits >> 49 & 7 == 0,
            "a matrix descriptor has a base offset: its pattern begins at no multiple of it"
        );
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// Where an element is: `mn` along M or N, `k` along K, of so many bytes. The swizzle is one of addresses.
    fn place(&self, mn: usize, k: usize, bytes: usize, is_transposed: bool) -> usize {
        let span = self.swizzle.span();
        let at = match (span, is_transposed) {
            // Matrices of eight rows of 16 bytes: `stride` apart along M or N, `leading` along K.
            (0, false) => mn / 8 * self.stride + mn % 8 * 16 + k * bytes / 16 * self.leading + k * bytes % 16,
            (0, true) => mn * bytes / 16 * self.stride + mn * bytes % 16 + k % 8 * 16 + k / 8 * self.leading,
            // Eight rows of a span each, `stride` apart.
            (_, false) => mn / 8 * self.stride + mn % 8 * span + k * bytes,
            (_, true) => {
                mn * bytes / span * self.leading + mn * bytes % span + k % 8 * span + k / 8 * self.stride
            }
        };
        self.swizzle.apply(self.start + at)
    }
}

impl Cluster<'_> {
    pub fn wgmma_op(&mut self, number: usize, op: &WgmmaOp, args: &[u64], results: *mut u64) -> Result<Next> {
        self.gather(number, u32::MAX, args, results, |cluster, x| cluster.warp_group(op, x))
    }

    fn warp_group(&mut self, op: &WgmmaOp, x: &Brought) -> Result<()> {
        self.queue().is_fenced |= op.is_fence;
        // What the operands are that results are tied to, until products give others.
        let mut current: Vec<Vec<u32>> = x
            .lanes()
            .map(|l| op.ties.iter().map(|t| t.map_or(u32::MAX, |t| x.arg(l, t) as u32)).collect())
            .collect();
        for product in &op.products {
            self.issue(product, x, &mut current)?;
        }
        let queue = self.queue();
        if op.is_commit {
            let open = std::mem::take(&mut queue.open);
            queue.groups.push_back(open);
        }
        if let Some(pending) = op.wait {
            let pending = match pending {
                Pending::Known(n) => n,
                Pending::Operand(k) => x.arg(0, k),
            };
            while self.queue().groups.len() as u64 > pending {
                let group = self.queue().groups.pop_front().unwrap_or_default();
                for issued in group {
                    self.finish(issued)?;
                }
            }
        }
        let queue = self.queue();
        for (lane, values) in current.iter().enumerate() {
            for (k, bits) in values.iter().enumerate() {
                let value = if op.wait.is_some() { queue.value(*bits, lane) } else { *bits };
                x.give(lane, k, u64::from(value));
            }
        }
        Ok(())
    }

    /// Begins a product: its accumulators become tokens.
    fn issue(&mut self, product: &Product, x: &Brought, current: &mut [Vec<u32>]) -> Result<()> {
        let warp = self.lanes[self.current].number / 32;
        let threads = self.shared.geometry.threads();
        ensure!(threads >= (warp / 4 + 1) * 128, "a warp that belongs to no group of four executes wgmma");
        let queue = self.queue();
        ensure!(queue.is_fenced, "there was no wgmma.fence before the first wgmma.mma_async");
        queue.next += 1;
        let number = queue.next;
        let accumulators = current.iter().flat_map(|c| product.d.iter().map(move |d| c[*d])).collect();
        let (left, a) = match &product.a {
            Left::Descriptor(k) => (Vec::new(), x.arg(0, *k)),
            Left::Registers(r) => {
                (x.lanes().flat_map(|l| r.iter().map(move |k| x.arg(l, *k) as u32)).collect(), 0)
            }
        };
        let is_accumulated = match product.scale_d {
            Condition::Known(known) => known,
            Condition::Operand(k) => x.arg(0, k) as u32 != 0,
        };
        let descriptors = [a, x.arg(0, product.b)];
        let product = product.clone();
        for values in current.iter_mut() {
            product.d.iter().enumerate().for_each(|(register, d)| values[*d] = token(number, register));
        }
        let issued = Issued { number, product, accumulators, left, descriptors, is_accumulated };
        self.queue().open.push(issued);
        Ok(())
    }

    /// Computes the warp's rows of a product.
    fn finish(&mut self, issued: Issued) -> Result<()> {
        let p = &issued.product;
        let (k, warp) = (p.k(), self.lanes[self.current].number / 32);
        let a = match &p.a {
            Left::Registers(_) => left_registers(p, &issued.left),
            Left::Descriptor(_) => {
                let rows = 16 * (warp % 4)..16 * (warp % 4) + 16;
                self.factor(issued.descriptors[0], rows, k, p.a_type, p.is_transposed[0])?
            }
        };
        let b = self.factor(issued.descriptors[1], 0..p.n, k, p.b_type, p.is_transposed[1])?;
        let registers = p.n / 2;
        let sign = p.scales[0] * p.scales[1];
        let mut values = Vec::with_capacity(32 * registers);
        for (lane, register) in (0..32).flat_map(|l| (0..registers).map(move |r| (l, r))) {
            let [row, column] = fragment::wgmma_d(0, lane, register);
            let products = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            let sum: f64 = products.map(|(a, b)| a * b).sum();
            let start = match issued.is_accumulated {
                true => self.queue().value(issued.accumulators[lane * registers + register], lane),
                false => 0,
            };
            values.push(p.a_type.add(start, sign * sum));
        }
        let queue = self.queue();
        if queue.done.len() == KEPT {
            queue.done.pop_front();
        }
        queue.done.push_back(Done { number: issued.number, values });
        Ok(())
    }

    /// Elements of a factor in shared memory, those along K together.
    fn factor(
        &self,
        descriptor: u64,
        rows: std::ops::Range<usize>,
        k: usize,
        element: Element,
        is_transposed: bool,
    ) -> Result<Vec<f64>> {
        let base = self.blocks[self.lanes[self.current].block].base;
        let descriptor = Descriptor::decode(descriptor)?;
        let bytes = element.bytes();
        ensure!(!is_transposed || bytes == 2, "only elements of 16 bits can be major in M or N");
        let mut out = Vec::with_capacity(rows.len() * k);
        for (mn, k) in rows.flat_map(|mn| (0..k).map(move |k| (mn, k))) {
            let at = descriptor.place(mn, k, bytes, is_transposed);
            if at + bytes > self.shared.shared_bytes {
                bail!("wgmma reads byte {at} of shared memory, which has {}", self.shared.shared_bytes);
            }
            let mut bits = 0;
            for e in (0..bytes).rev() {
                // SAFETY: the block's shared memory has so many bytes.
                bits = bits << 8 | u32::from(unsafe { ((base + at + e) as *const u8).read() });
            }
            out.push(element.value(bits));
        }
        Ok(out)
    }
}

/// The left factor from registers, 16 rows: as fragments of mma.
fn left_registers(p: &Product, registers: &[u32]) -> Vec<f64> {
    let (k, per, bits) = (p.k(), 4 / p.a_type.bytes(), 8 * p.a_type.bytes());
    let mut out = vec![0.0; 16 * k];
    for (lane, register) in (0..32).flat_map(|l| (0..4).map(move |r| (l, r))) {
        for e in 0..per {
            let [row, column] = fragment::mma_a(lane, register, e, per);
            let value = registers[4 * lane + register] >> (bits * e) & (u32::MAX >> (32 - bits));
            out[row * k + column] = p.a_type.value(value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assembly_of_a_product() -> Result<()> {
        let text = "{ .reg .pred p; setp.ne.b32 p, $10, 0; \
            wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0,$1,$2,$3}, $8, $9, p, 1, -1, 0, 1; }";
        let op = WgmmaOp::of_assembly(text, "=f,=f,=f,=f,0,1,2,3,l,l,r")?.unwrap_or_default();
        let p = &op.products[0];
        assert_eq!(op.ties, [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!((p.n, &p.a, p.b, p.scale_d), (8, &Left::Descriptor(4), 5, Condition::Operand(6)));
        assert_eq!((p.scales, p.is_transposed), ([1.0, -1.0], [false, true]));
        let wait =
            WgmmaOp::of_assembly("wgmma.wait_group.sync.aligned 1;", "=f,0,~{memory}")?.unwrap_or_default();
        assert_eq!((wait.wait, wait.ties), (Some(Pending::Known(1)), vec![Some(0)]));
        assert_eq!(WgmmaOp::of_assembly("tanh.approx.f32 $0, $1;", "=f,f")?, None);
        Ok(())
    }

    #[test]
    fn tokens_are_nan_and_distinct() {
        let mut seen = std::collections::HashSet::new();
        for number in [0, 1, 2, 1000, 40000, 65533] {
            for register in 0..128 {
                let t = token(number, register);
                assert!(f32::from_bits(t).is_nan() && seen.insert(t));
            }
        }
    }

    /// "Strides" and the canonical layouts: swizzled spans of 128 bytes, major in K and in N, and none.
    #[test]
    fn places_of_elements() -> Result<()> {
        let bits = |start: u64, leading: u64, stride: u64, mode: u64| {
            start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
        };
        let d = Descriptor::decode(bits(1024, 16, 1024, 1))?;
        assert_eq!(d.place(0, 0, 2, false), 1024);
        assert_eq!(d.place(0, 9, 2, false), 1024 + 18);
        assert_eq!(d.place(1, 0, 2, false), 1024 + 128 + 16);
        assert_eq!(d.place(9, 8, 2, false), 2048 + 128);
        // The next 32 bytes along K, by advancing the start.
        let d = Descriptor::decode(bits(1024 + 32, 16, 1024, 1))?;
        assert_eq!(d.place(3, 0, 2, false), 1024 + 3 * 128 + 16);
        // Major in N: spans of 64 elements `leading` apart, groups of eight along K `stride` apart.
        let d = Descriptor::decode(bits(0, 4096, 1024, 1))?;
        assert_eq!(d.place(65, 0, 2, true), 4096 + 2);
        assert_eq!(d.place(0, 1, 2, true), 128 + 16);
        assert_eq!(d.place(0, 8, 2, true), 1024);
        let d = Descriptor::decode(bits(0, 2048, 128, 0))?;
        assert_eq!(d.place(9, 8, 2, false), 128 + 16 + 2048);
        assert!(Descriptor::decode(1 << 49).is_err());
        Ok(())
    }
}

#!/usr/bin/env python3
"""Measures kernels of aic against what this machine allows, and writes the tables of docs/performance.md.

    python tools/roofline.py --aic target/release/aic [--threads 1,2] [--only REGEX] [--page docs/performance.md]

Without `--page` the tables are only printed.

Every case is a model of one operator, compiled by `aic compile` and called through its C interface. Its limit is measured
by loops in C that do nothing else: multiply-adds in registers, reading, or reading and writing as many bytes. Where the
operator's own instructions take longer than its bytes, they are the limit: what `llvm-mca` counts for the innermost loops.
Both take turns, some milliseconds at a time, so that what else the machine does slows both; medians are compared with medians.
Needs `onnx`, `numpy`, a C compiler, `objdump` and `llvm-mca`.
"""
import argparse
import ctypes
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
from onnx import TensorProto, helper

from performance import put

PROBE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
typedef float vector __attribute__((vector_size(WIDTH * 4), aligned(4)));

/* Chains of multiply-adds, enough of them to hide their latency. */
static float multiply_adds(size_t n) {
  vector s0 = {0}, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0, a = s0, b = s0;
  __asm__ volatile("" : "+v"(a), "+v"(b));
  for (size_t k = 0; k < n; k++) {
    s0 = s0 * a + b, s1 = s1 * a + b, s2 = s2 * a + b, s3 = s3 * a + b, s4 = s4 * a + b;
    s5 = s5 * a + b, s6 = s6 * a + b, s7 = s7 * a + b, s8 = s8 * a + b, s9 = s9 * a + b;
    __asm__ volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4));
    __asm__ volatile("" : "+v"(s5), "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9));
  }
  return (s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9)[0];
}

/* Divisions, which a unit of their own does. */
static float divide(size_t n) {
  vector s0 = {0}, s1 = s0, s2 = s0, s3 = s0, a = s0;
  __asm__ volatile("" : "+v"(a), "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3));
  a += 2.0f, s0 += 1.0f, s1 += 1.0f, s2 += 1.0f, s3 += 1.0f;
  for (size_t k = 0; k < n; k++) {
    s0 = a / s0, s1 = a / s1, s2 = a / s2, s3 = a / s3;
    __asm__ volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3));
  }
  return (s0 + s1 + s2 + s3)[0];
}

static float read_all(const float *from, size_t n) {
  vector sums[8] = {0};
  for (size_t i = 0; i + 8 * WIDTH <= n; i += 8 * WIDTH)
    for (int k = 0; k < 8; k++) sums[k] += *(const vector *)(from + i + k * WIDTH);
  float result = 0;
  for (int k = 0; k < 8; k++) result += sums[k][0];
  return result;
}

/* Reads and writes once, as relu does. */
static float change_all(const float *from, float *to, size_t n) {
  for (size_t i = 0; i + WIDTH <= n; i += WIDTH) *(vector *)(to + i) = *(const vector *)(from + i) + 1.0f;
  return to[0];
}

struct work {
  const float *from;
  float *to;
  size_t n, times, divides;
  volatile float result;
};

static void *run(void *argument) {
  struct work *work = argument;
  for (size_t k = 0; k < work->times; k++)
    work->result = work->to ? change_all(work->from, work->to, work->n)
                 : work->from    ? read_all(work->from, work->n)
                 : work->divides ? divide(work->n)
                                 : multiply_adds(work->n);
  return NULL;
}

/* Seconds that all works take at once, a thread each. */
double together(struct work *works, int n) {
  pthread_t threads[64];
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int t = 1; t < n; t++) pthread_create(&threads[t], NULL, run, &works[t]);
  run(&works[0]);
  for (int t = 1; t < n; t++) pthread_join(threads[t], NULL);
  clock_gettime(CLOCK_MONOTONIC, &end);
  return end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) * 1e-9;
}

float *large(size_t n) {
  size_t bytes = (n * 4 + (2 << 20) - 1) >> 21 << 21;
  float *memory = aligned_alloc(2 << 20, bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < n; i++) memory[i] = 1.0f;
  return memory;
}
"""
N_CHAINS = 10
BEGIN, END = "<!-- limits -->\n", "<!-- end of limits -->\n"
SLICE_S = 0.003
# A CPU of two units for vectors of 512 bits; some that have them are not known to `llvm-mca` by their own names.
CPU_MODEL = "skylake-avx512"


class Work(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("n", ctypes.c_size_t),
        ("times", ctypes.c_size_t),
        ("divides", ctypes.c_size_t),
        ("result", ctypes.c_float),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_uint32),
        ("dtype", ctypes.c_uint32),
    ]


class Options(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("n_threads", ctypes.c_uint32)]


class Probe:
    """The loops in C, on a number of threads."""

    def __init__(self, folder, n_threads):
        source = folder / "probe.c"
        source.write_text(PROBE)
        library = folder / "probe.so"
        self.width = 16 if "avx512f" in pathlib.Path("/proc/cpuinfo").read_text() else 8
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-mprefer-vector-width=512", "-shared", "-fPIC", "-pthread"]
        subprocess.run(["cc", *flags, f"-DWIDTH={self.width}", str(source), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.large.restype = ctypes.c_void_p
        self.library.together.restype = ctypes.c_double
        self.n_threads = n_threads
        self.arrays = {}
        self.times = {}

    def array(self, name, n):
        key = (name, n)
        if key not in self.arrays:
            self.arrays[key] = self.library.large(ctypes.c_size_t(n))
        return self.arrays[key]

    def passes(self, key, works, slice_s):
        """Passes a second, all threads together, over about `slice_s` seconds."""
        array = (Work * self.n_threads)(*works)
        times = self.times.get(key, 1)
        while True:
            for work in array:
                work.times = times
            took = self.library.together(array, self.n_threads)
            if took > slice_s / 2:
                self.times[key] = times
                return self.n_threads * times / took
            times *= 2

    def flops(self, slice_s):
        """Multiply-adds count as two."""
        n = 10_000
        works = [Work(n=n) for _ in range(self.n_threads)]
        return self.passes("flops", works, slice_s) * n * N_CHAINS * self.width * 2

    def cycles_per_division(self):
        """Of vectors, where a cycle is the time of two multiply-adds of vectors."""
        n = 10_000
        works = [Work(n=n, divides=1) for _ in range(self.n_threads)]
        seconds = 1 / (self.passes("divisions", works, SLICE_S) * n * 4)
        return seconds * self.flops(SLICE_S) / (4 * self.width)

    def bandwidth(self, n_read, n_written, slice_s):
        """Bytes a second, read and written, of arrays of that many floats in all threads together."""
        n = max(n_read, n_written) // self.n_threads
        source = lambda t: self.array(("from", t), n)
        target = lambda t: self.array(("to", t), n) if n_written else None
        works = [Work(source=source(t), target=target(t), n=n) for t in range(self.n_threads)]
        return self.passes((n, n_written > 0), works, slice_s) * n * 4 * (2 if n_written else 1)


def aligned(shape):
    """An array that starts where a page does, as `malloc` gives no large one."""
    n_bytes = 4 * int(np.prod(shape))
    memory = np.empty(n_bytes + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + n_bytes].view(np.float32).reshape(shape)


class Model:
    """A compiled model and its arguments."""

    def __init__(self, aic, folder, name, graph, n_threads):
        self.path = path = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
        library = folder / f"{name}.{n_threads}.so"
        subprocess.run([aic, "compile", str(path), "-o", str(library)], check=True, stderr=subprocess.PIPE)
        self.library = ctypes.CDLL(str(library))
        self.handle = ctypes.c_void_p()
        options = Options(ctypes.sizeof(Options), n_threads)
        assert self.library.aic_open(ctypes.byref(options), ctypes.byref(self.handle)) == 0
        shapes = lambda values: [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]
        rng = np.random.default_rng(0)
        self.inputs = [aligned(s) for s in shapes(graph.input)]
        for array in self.inputs:
            array[:] = rng.uniform(-2, 2, array.shape)
        self.outputs = [aligned(s) for s in shapes(graph.output)]
        self.keep = []
        self.arguments = (self.tensors(self.inputs), len(self.inputs), self.tensors(self.outputs), len(self.outputs))

    def tensors(self, arrays):
        dims = [(ctypes.c_int64 * a.ndim)(*a.shape) for a in arrays]
        self.keep.append(dims)
        return (Tensor * len(arrays))(
            *[Tensor(a.ctypes.data, d, a.ndim, TensorProto.FLOAT) for a, d in zip(arrays, dims)]
        )

    def run(self, times):
        """Seconds a run takes, over several."""
        ins, n_in, outs, n_out = self.arguments
        start = time.perf_counter()
        for _ in range(times):
            assert self.library.aic_run(self.handle, ins, ctypes.c_size_t(n_in), outs, ctypes.c_size_t(n_out)) == 0
        return (time.perf_counter() - start) / times


def loops_of(assembly):
    """The innermost loops of a disassembled function, as lists of instructions."""
    lines = [m.groups() for m in re.finditer(r"^ +([0-9a-f]+):\t(.*)$", assembly, re.M)]
    number = {address: k for k, (address, _) in enumerate(lines)}
    jumps = [(re.match(r"j\w+ +([0-9a-f]+) ", text), k) for k, (_, text) in enumerate(lines)]
    loops = [(number[m[1]], k) for m, k in jumps if m and number.get(m[1], k) < k]
    innermost = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return [[text.split(" #")[0] for _, text in lines[a:b]] for a, b in innermost]


def cycles_per_vector(aic, path, folder, division):
    """Cycles that a core's units are busy with a vector of the result, over all passes over it; of a division, so many."""
    object_file = folder / "case.o"
    subprocess.run([aic, "compile", str(path), "-o", str(object_file)], check=True, stderr=subprocess.PIPE)
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", object_file], check=True, capture_output=True, text=True).stdout
    total = 0.0
    for function in re.findall(r"<\w+\.body>:\n(.*?)\n\n", text, re.S):
        for loop in loops_of(function):
            stores = sum(bool(re.match(r"vmov\w+ %[yz]mm\d+,.*\(", i)) for i in loop)
            loads = sum(bool(re.search(r"\(%r", i)) and "mm" in i and "prefetch" not in i for i in loop)
            if not (stores or loads):
                continue
            source = "\n".join(i for i in loop if not i.startswith("prefetch"))
            said = subprocess.run(
                ["llvm-mca", f"-mcpu={CPU_MODEL}", "-iterations=100"], input=source, check=True, capture_output=True, text=True
            ).stdout
            divisions = sum(i.startswith(("vdivps", "vsqrtps")) for i in loop)
            cycles = float(re.search(r"Block RThroughput: +([\d.]+)", said)[1])
            total += max(cycles, divisions * division) / (stores or loads)
    return total


def graph_of(nodes, inputs, outputs, weights=()):
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    return helper.make_graph(
        nodes,
        "case",
        [value(n, s) for n, s in inputs],
        [value(n, s) for n, s in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights],
    )


def product(m, n, k):
    """Rows by constant weights; limit: arithmetic, or reading the weights where there is one row."""
    weights = np.random.default_rng(1).standard_normal((k, n)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph_of([node], [("x", [m, k])], [("y", [m, n])], [("w", weights)])


def rows(operator, m, n, **attributes):
    names = ["x"] + (["scale", "shift"] if operator == "LayerNormalization" else [])
    node = helper.make_node(operator, names, ["y"], **attributes)
    weights = [(name, np.ones(n, np.float32)) for name in names[1:]]
    return graph_of([node], [("x", [m, n])], [("y", [m, n])], weights)


def sum_of_two(m, n):
    node = helper.make_node("Add", ["x", "z"], ["y"])
    return graph_of([node], [("x", [m, n]), ("z", [m, n])], [("y", [m, n])])


def chain(m, n):
    """relu(x * 2 + 1)"""
    constants = [("two", np.float32(2)), ("one", np.float32(1))]
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    return graph_of(nodes, [("x", [m, n])], [("y", [m, n])], [(n, np.array(v)) for n, v in constants])


def cases():
    """Name, graph, floating-point operations or none, floats read, floats written."""
    for m, n, k in [(1024, 1024, 1024), (128, 768, 768), (128, 2304, 768), (128, 3072, 768), (128, 768, 3072)]:
        yield f"matmul {m}x{n}x{k}", product(m, n, k), 2 * m * n * k, None, None
    for n, k in [(4096, 4096), (1024, 1024)]:
        yield f"matvec {n}x{k}", product(1, n, k), None, n * k, 0
    for m, n in [(128, 768), (8192, 3072)]:
        yield f"x + z {m}x{n}", sum_of_two(m, n), None, 2 * m * n, m * n
        yield f"relu(2x + 1) {m}x{n}", chain(m, n), None, m * n, m * n
        for operator in ["Exp", "Erf", "Tanh", "Sigmoid", "Gelu", "Softmax", "LayerNormalization"]:
            yield f"{operator.lower()} {m}x{n}", rows(operator, m, n), None, m * n, m * n


def measure(model, limit, amount, rounds):
    """Median and best rate of the model and of the limit, taking turns."""
    times = max(1, int(SLICE_S / max(model.run(2), 1e-6)))
    ours, most = [], []
    for _ in range(rounds):
        most.append(limit())
        ours.append(amount / model.run(times))
    return statistics.median(ours), max(ours), statistics.median(most), max(most)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aic", default="target/release/aic")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--page", type=pathlib.Path)
    args = parser.parse_args()
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    for n_threads in map(int, args.threads.split(",")):
        if n_threads == 1:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            probe = Probe(folder, n_threads)
            division = probe.cycles_per_division()
            threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
            say(f"\n| {threads} | rate | limit | % of medians | % of bests |\n|---|---|---|---|---|")
            for name, graph, flops, n_read, n_written in cases():
                if not re.search(args.only, name):
                    continue
                model = Model(args.aic, folder, re.sub(r"\W+", "_", name), graph, n_threads)
                amount = flops or 4 * (n_read + n_written)
                bandwidth = lambda: probe.bandwidth(n_read, n_written, SLICE_S)
                limit, by = (lambda: probe.flops(SLICE_S), "arithmetic") if flops else (bandwidth, "bandwidth")
                if n_written:
                    # Bytes that pass while all vectors of a result are computed: two units do a multiply-add per lane and cycle.
                    cycles = cycles_per_vector(args.aic, model.path, folder, division) * n_written / probe.width
                    computing = lambda: amount * probe.flops(SLICE_S) / (4 * probe.width * cycles)
                    if computing() < bandwidth():
                        limit, by = computing, "arithmetic"
                ours, our_best, most, best = measure(model, limit, amount, args.rounds)
                unit = "GFLOP/s" if flops else "GB/s"
                share, share_of_best = 100 * ours / most, 100 * our_best / best
                say(
                    f"| {name} | {ours / 1e9:.1f} {unit} | {most / 1e9:.1f} {unit}, {by} | {share:.0f} | {share_of_best:.0f} |"
                )
        os.sched_setaffinity(0, range(os.cpu_count()))
    if args.page:
        put(args.page, BEGIN, END, "\n".join(lines).lstrip() + "\n")


if __name__ == "__main__":
    main()

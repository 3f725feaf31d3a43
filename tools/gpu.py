"""Kernels for CUDA GPUs on a GPU: right answers first, then times beside PyTorch's.

`cargo xtask gpu` makes a folder of this file and of CASES, compiled for both targets. On a machine with a GPU, a C compiler
and PyTorch, in that folder:

    python3 gpu.py run > report.md

Each case is built by `cc`, run on random inputs, and compared with PyTorch in f64 on the CPU; then the time of its kernels,
as PyTorch's profiler finds it on the device, stands beside that of PyTorch's own kernels for the same operation in the same
types. A case is right if no element is further away than its tolerance times the largest one: an element in a wrong place of
a fragment or of a tile is. The exit code is 0 if all are right.

    python3 gpu.py cases DIR    writes the graphs, for `aic compile`
    python3 gpu.py dry          builds each library, and checks that it says so where there is no GPU
"""

import ctypes
import os
import pathlib
import subprocess
import sys
import time

TARGETS = {"sm_80": (8, 0), "sm_90a": (9, 0)}
DTYPES = {"f32": 1, "i8": 3, "i32": 6, "f16": 10, "bf16": 16}
REPEATS = 20


class Case:
    """A graph, `{}` in whose text is the type; what PyTorch makes of its inputs, as text, as only `run` needs PyTorch; the
    tolerance, and whether it is timed."""

    def __init__(self, name, dtype, graph, torch, tolerance, timed=True, numerics="reassociate"):
        self.name, self.dtype, self.torch = f"{name}_{dtype}", dtype, torch
        self.graph = "graph @" + self.name + graph.replace("{}", dtype)
        self.tolerance, self.timed, self.numerics = tolerance, timed, numerics

    def ports(self):
        """Types and shapes of the inputs and of the output."""
        heads, result = self.graph.split("{\n")[0].split("->")
        inputs = [p.split(":")[1] for p in heads.split("(", 1)[1].rsplit(")", 1)[0].split(", ")]
        return [port(p) for p in inputs], port(result)


def port(text):
    dtype, dims = text.strip().rstrip("]").split("[")
    return dtype, [int(n) for n in dims.split(",")]


def cases():
    out = []
    for t, tolerance in (("f32", 1e-5), ("f16", 2e-3), ("bf16", 1.6e-2)):
        for n, m in ((4096, 1024), (33, 67)):
            shape, is_timed = f"{n},{m}", n > 100
            out += [
                Case(f"softmax_{n}x{m}", t, f"(%0: {{}}[{shape}]) -> {{}}[{shape}] {{\n  %1 = softmax %0 {{axis=1}} return %1 }}",
                     "lambda x: F.softmax(x, 1)", tolerance, is_timed),
                Case(f"layernorm_{n}x{m}", t,
                     f"(%0: {{}}[{shape}], %1: {{}}[{m}], %2: {{}}[{m}]) -> {{}}[{shape}] {{\n"
                     "  %3 = normalize %0 {axes=[1], epsilon=1e-5, center=true} %4 = mul %3 %1 %5 = add %4 %2 return %5 }",
                     f"lambda x, g, b: F.layer_norm(x, [{m}], g, b)", 4 * tolerance, is_timed),
                Case(f"sum_{n}x{m}", t, f"(%0: {{}}[{shape}]) -> {{}}[{n}] {{\n  %1 = reduce %0 {{op=sum, axes=[1]}} return %1 }}",
                     "lambda x: x.sum(1)", tolerance, is_timed),
                Case(f"transpose_{n}x{m}", t,
                     f"(%0: {{}}[{shape}]) -> {{}}[{m},{n}] {{\n  %1 = transpose %0 {{perm=[1,0]}} return %1 }}",
                     "lambda x: x.t().contiguous()", 0, is_timed),
                Case(f"map_{n}x{m}", t,
                     f"(%0: {{}}[{shape}], %1: {{}}[{shape}]) -> {{}}[{shape}] {{\n  %2 = add %0 %1 %3 = relu %2 return %3 }}",
                     "lambda x, y: F.relu(x + y)", tolerance, is_timed),
            ]
        for m, k, n in ((4096, 4096, 4096), (2048, 768, 3072), (129, 72, 264), (31, 33, 67)):
            out.append(Case(f"matmul_{m}x{k}x{n}", t,
                            f"(%0: {{}}[{m},{k}], %1: {{}}[{k},{n}]) -> {{}}[{m},{n}] {{\n  %2 = matmul %0 %1 return %2 }}",
                            "lambda x, y: x @ y", tolerance, m > 200))
        for m, k, n in ((2048, 768, 3072), (72, 200, 136)):
            out.append(Case(f"linear_gelu_{m}x{k}x{n}", t,
                            f"(%0: {{}}[{m},{k}], %1: {{}}[{n},{k}], %2: {{}}[{n}]) -> {{}}[{m},{n}] {{\n"
                            "  %3 = transpose %1 {perm=[1,0]} %4 = matmul %0 %3 %5 = add %4 %2 %6 = activation %5 {f=gelu} return %6 }",
                            "lambda x, w, b: F.gelu(F.linear(x, w, b))", 2 * tolerance, m > 200))
        for c, size, to in ((64, 56, 64), (5, 9, 33)):
            out.append(Case(f"conv_{c}x{size}x{to}", t,
                            f"(%0: {{}}[8,{c},{size},{size}], %1: {{}}[{to},{c},3,3]) -> {{}}[8,{to},{size},{size}] {{\n"
                            "  %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %2 }",
                            "lambda x, w: F.conv2d(x, w, padding=1)", tolerance, c > 8))
        for b, h, n, d in ((4, 16, 1024, 64), (1, 2, 33, 16)):
            shape = f"{b},{h},{n},{d}"
            out.append(Case(f"attention_{b}x{h}x{n}x{d}", t,
                            f"(%0: {{}}[{shape}], %1: {{}}[{shape}], %2: {{}}[{shape}]) -> {{}}[{shape}] {{\n"
                            f"  %3 = attention %0 %1 %2 {{scale={d ** -0.5}, causal=false}} return %3 }}",
                            "lambda q, k, v: F.scaled_dot_product_attention(q, k, v)", 4 * tolerance, n > 100))
    for m, k, n in ((4096, 4096, 4096), (31, 33, 67)):
        out.append(Case(f"matmul_tf32_{m}x{k}x{n}", "f32",
                        f"(%0: f32[{m},{k}], %1: f32[{k},{n}]) -> f32[{m},{n}] {{\n  %2 = matmul %0 %1 return %2 }}",
                        "lambda x, y: x @ y", 2e-3, m > 200, "fast"))
        out.append(Case(f"matmul_{m}x{k}x{n}", "i8",
                        f"(%0: i8[{m},{k}], %1: i8[{k},{n}]) -> i32[{m},{n}] {{\n"
                        "  %2 = cast %0 {to=i32} %3 = cast %1 {to=i32} %4 = matmul %2 %3 return %4 }",
                        "lambda x, y: x.to(y.dtype) @ y", 0, False))
    return out


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dims", ctypes.POINTER(ctypes.c_int64)),
                ("rank", ctypes.c_uint32), ("dtype", ctypes.c_uint32)]


def built(folder):
    """The library of an artifact."""
    command = ["cc", "-O2", "-shared", "-fPIC", "model.c", "-o", "model.so", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    lib = ctypes.CDLL(str(folder.resolve() / "model.so"))
    lib.aic_error.restype = ctypes.c_char_p
    return lib


def opened(lib):
    """A session, or what is said instead of one."""
    session = ctypes.c_void_p()
    code = lib.aic_open(None, ctypes.byref(session))
    return (None, lib.aic_error(None).decode()) if code else (session, None)


def view(t, dtype):
    dims = (ctypes.c_int64 * t.dim())(*t.shape)
    return Tensor(t.data_ptr(), dims, t.dim(), DTYPES[dtype])


def run_once(lib, session, case, inputs, output):
    (of_inputs, of_output) = case.ports()
    x = (Tensor * len(inputs))(*[view(t, dtype) for t, (dtype, _) in zip(inputs, of_inputs)])
    y = (Tensor * 1)(view(output, of_output[0]))
    if lib.aic_run(session, x, len(inputs), y, 1):
        raise RuntimeError(lib.aic_error(session).decode())


def drawn(torch, case):
    """Random inputs: all integers of the type, or normal numbers."""
    types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}
    make = lambda dtype, dims: (torch.randint(-128, 128, dims, dtype=torch.int8) if dtype == "i8"
                                else torch.randn(dims).to(types[dtype]))
    return [make(*p) for p in case.ports()[0]]


def device_microseconds(torch, f):
    """Microseconds of kernels on the device, copies left out, of one call of `f`."""
    f()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(REPEATS):
            f()
        torch.cuda.synchronize()
    spent = [e.self_device_time_total for e in profile.key_averages() if not e.key.startswith("Mem")]
    return sum(spent) / REPEATS


def check(torch, case, folder):
    """A row of the report, and whether the case is right."""
    F = torch.nn.functional
    reference = eval(case.torch, {"F": F, "torch": torch})
    lib = built(folder)
    session, why = opened(lib)
    if session is None:
        return [case.name, why], False
    (_, (out_type, dims)) = case.ports()
    inputs = drawn(torch, case)
    y = torch.zeros(dims, dtype={"i32": torch.int32}.get(out_type, inputs[0].dtype))
    run_once(lib, session, case, inputs, y)
    want = reference(*[x.double() for x in inputs])
    error = ((y.double() - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
    right = error <= case.tolerance
    row = [case.name, f"{error:.1e}", "right" if right else "WRONG"]
    if case.timed:
        ours = device_microseconds(torch, lambda: run_once(lib, session, case, inputs, y))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.numerics == "fast"
        there = [x.cuda() for x in inputs]
        theirs = device_microseconds(torch, lambda: reference(*there))
        row += [f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}"]
    lib.aic_close(session)
    return row, right


def run():
    import torch

    card = torch.cuda.get_device_properties(0)
    has = (card.major, card.minor)
    driver = pathlib.Path("/proc/driver/nvidia/version")
    driver = driver.read_text().splitlines()[0] if driver.exists() else "unknown"
    print(f"{time.strftime('%Y-%m-%d')}, {card.name}, PyTorch {torch.__version__}, driver: {driver}\n")
    all_right = True
    for target, needs in TARGETS.items():
        # What is specific to a card runs on that card only.
        if has != needs and (target.endswith("a") or has < needs):
            continue
        print(f"## {target}\n\n| case | error | | µs | PyTorch µs | PyTorch / aic |\n|---|---|---|---|---|---|")
        for case in cases():
            try:
                row, right = check(torch, case, pathlib.Path(target) / case.name)
            except Exception as e:
                row, right = [case.name, str(e).replace("\n", " "), "WRONG"], False
            all_right &= right
            print("| " + " | ".join(row + [""] * (6 - len(row))) + " |", flush=True)
        print()
    return 0 if all_right else 1


def dry():
    for target in TARGETS:
        for case in cases():
            session, why = opened(built(pathlib.Path(target) / case.name))
            print(f"{target} {case.name}: {'there is a GPU' if session else why}")
    return 0


def write(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases():
        (folder / f"{case.name}.aic").write_text(case.graph + "\n")
        print(case.name, case.numerics)
    return 0


if __name__ == "__main__":
    commands = {"run": run, "dry": dry, "cases": write}
    if sys.argv[1:2] and sys.argv[1] in commands:
        sys.exit(commands[sys.argv[1]](*sys.argv[2:]))
    sys.exit(__doc__)

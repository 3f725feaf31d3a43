"""A second compiler fed by `aic compile --target mlir`: IREE compiles and runs the export, and the results are compared.

Why: MLIR's verifier says that a module is well formed; only another compiler says that it means what the model means.

Each model is exported, accepted by MLIR's own `mlir-opt` where there is one, compiled by `iree-compile`, run by
`iree-run-module`, and compared with `aic run` on the same inputs: those of MODEL.in.npz where that file exists, else
random ones with every symbolic dimension 2. A model is right if every output has the same type and shape, integers and
truth values are equal, and floats differ by no more than TOLERANCE times the largest of them.

The last line, `N passed, N failed`, counts models. tools/requirements.txt pins IREE's version.

Usage: python tools/iree.py --aic target/release/aic MODEL...
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

TOLERANCE = {"float16": 4e-3, "float32": 1e-4, "float64": 1e-10}
DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bool": "bool",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
}
PORT = re.compile(r'aic\.name = "((?:[^"\\]|\\.)*)", aic\.type = "(\w+)\[([^"\]]*)\]')
COMPILE = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
    "--iree-input-demote-f64-to-f32=false",
)


class Wrong(Exception):
    """What is wrong with a model's export."""


@dataclasses.dataclass
class Port:
    name: str
    dtype: str
    dims: list


@dataclasses.dataclass
class Result:
    model: str
    verdict: str = "right"
    error: float = 0.0
    compile_seconds: float = 0.0


def run(what, command):
    """Runs a command; its last words are in the error if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise Wrong(f"{what} failed ({done.returncode}): {words[:600]}")


def ports(mlir):
    """The inputs and results that the export declares."""
    with open(mlir, encoding="utf-8") as file:
        line = next(line for line in file if "func.func @main" in line)
    arguments, results = line.split(") -> (", 1)
    read = lambda text: [Port(unescaped(m[1]), m[2], m[3].split(",") if m[3] else []) for m in PORT.finditer(text)]
    return read(arguments), read(results)


def unescaped(name):
    raw = re.sub(r"\\([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), name)
    return raw.encode("latin-1").decode("utf-8")


def random_input(port, rng):
    shape = [int(d) if d.isdigit() else 2 for d in port.dims]
    dtype = np.dtype(DTYPES[port.dtype])
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def inputs_of(model, declared):
    given = model.parent / f"{model.stem}.in.npz"
    if given.exists():
        values = np.load(given)
        return [values[port.name] for port in declared]
    rng = np.random.default_rng(0)
    return [random_input(port, rng) for port in declared]


def error_of(expected, found):
    """How far the results are apart, in units of the largest; raises if that is too far."""
    if expected.shape != found.shape:
        raise Wrong(f"expected shape {list(expected.shape)}, found {list(found.shape)}")
    if expected.dtype.kind != "f":
        if not np.array_equal(expected.view(f"u{expected.itemsize}"), found.view(f"u{found.itemsize}")):
            raise Wrong(f"{np.sum(expected != found)} of {expected.size} elements differ")
        return 0.0
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        raise Wrong("infinities or NaNs differ")
    if not finite.any():
        return 0.0
    expected, found = expected[finite], found[finite]
    scale = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(expected.astype("f8") - found.astype("f8")).max()) / scale
    if not error <= TOLERANCE[str(expected.dtype)]:
        raise Wrong(f"results differ by {error:.1e} of the largest")
    return error


def check(args, model, folder, result):
    mlir, code = folder / "model.mlir", folder / "model.vmfb"
    run("aic compile", [args.aic, "compile", model, "--target", "mlir", "-o", mlir, *args.option])
    if args.mlir_opt:
        run("mlir-opt", [args.mlir_opt, mlir, "-o", "/dev/null"])
    if args.accept_only:
        return
    start = time.perf_counter()
    run("iree-compile", [args.iree / "iree-compile", mlir, *COMPILE, "-o", code])
    result.compile_seconds = time.perf_counter() - start

    declared, results = ports(mlir)
    values = inputs_of(model, declared)
    np.savez(folder / "inputs.npz", **{port.name: value for port, value in zip(declared, values)})
    run("aic run", [args.aic, "run", model, "--inputs", folder / "inputs.npz", "--outputs", folder, *args.option])
    command = [args.iree / "iree-run-module", f"--module={code}", "--device=local-task", "--function=main"]
    for k, value in enumerate(values):
        np.save(folder / f"in_{k}.npy", np.asarray(value, order="C"))
        command.append(f"--input=@{folder}/in_{k}.npy")
    command += [f"--output=@{folder}/out_{k}.npy" for k in range(len(results))]
    run("iree-run-module", command)
    for k, port in enumerate(results):
        expected = np.load(folder / f"{re.sub('[^A-Za-z0-9._-]', '_', port.name)}.npy")
        found = np.load(folder / f"out_{k}.npy")
        if not port.dims:
            found = found.reshape(())  # It has one dimension in the file.
        try:
            result.error = max(result.error, error_of(expected, found))
        except Wrong as wrong:
            raise Wrong(f"output {port.name}: {wrong}") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--aic", required=True, type=pathlib.Path)
    parser.add_argument("--iree", type=pathlib.Path, default=pathlib.Path(sys.executable).parent, help="its folder")
    parser.add_argument("--mlir-opt", default=shutil.which("mlir-opt-22"), help="MLIR's own tool")
    parser.add_argument("--accept-only", action="store_true", help="don't compile: only export and mlir-opt")
    parser.add_argument("--option", action="append", default=[], help="for aic compile and aic run, like -O1")
    args = parser.parse_args()
    results = []
    for model in args.models:
        result = Result(model.stem)
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(args, model, pathlib.Path(folder), result)
            except Wrong as wrong:
                result.verdict = f"WRONG: {wrong}"
        print(f"{result.model:20} {result.compile_seconds:8.1f} s {result.error:10.1e}  {result.verdict}", flush=True)
        results.append(result)
    failed = sum(result.verdict != "right" for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

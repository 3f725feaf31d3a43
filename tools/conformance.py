"""The official ONNX backend test cases, run through the `aic` command.

Why: the cases say what every operator means, and nobody in this project wrote them. They are generated from the
`onnx` package (tools/requirements.txt pins its version) and kept in the case folder; nothing is downloaded.

A case is a model with inputs and the outputs expected. It is run in three modes: `reference` (the interpreter), `x86`
(compiled, with the interpreter for what can't be compiled yet) and `strict` (compiled, nothing else). A run is

  pass     exit code 0 and every output equal within the case's tolerance
  refused  exit code 1 with a message: the model isn't supported
  wrong    exit code 0 and another output
  crash    any other exit code, a signal, a panic, or a refusal without a message
  timeout  no end in time

tools/conformance.txt pins what passes. The test fails if a pinned run doesn't pass, or any run is wrong, crashes or
takes too long. AIC_BLESS=1 rewrites the pins. The last line, `N passed, N failed`, counts a case once per mode; what
is refused is in neither number.

Usage: python tools/conformance.py --aic target/release/aic --cases target/onnx-cases [--match REGEX] [--verbose]
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

PINS = pathlib.Path(__file__).with_name("conformance.txt")
MODES = ("reference", "x86", "strict")
FAILURES = ("wrong", "crash", "timeout")
STATUSES = ("pass", "refused", *FAILURES)
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
LIGHT_DIR = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"

# Their outputs are drawn at random, from a generator that no standard prescribes: only dtype and shape are compared.
RANDOM_CASES = re.compile(r"test_bernoulli|test_training_dropout_(?!zero_ratio)")

# The expected outputs of these cases are further from the exact results than the tolerance allows, and further than
# `aic`'s results are; here is how far, as an absolute error. The inverse transforms expect 1.9e-7, the rounding noise of
# a transform in f32, where the exact result is 0. The attention rounds to 16 bits at every step: it expects 0.4695 where
# the exact result is 0.46919, between the 16-bit floats 0.4690 and 0.4695.
INEXACT_CASES = {
    "test_dft_inverse": 2e-7,
    "test_dft_inverse_opset19": 2e-7,
    "test_attention_4d_causal_fp16_expanded": 5e-4,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    status: str
    message: str = ""


# Cases on disk: KIND/NAME/{model.onnx, tolerance.json, test_data_set_K/{input_I.pb, output_I.pb}}.


def generate(cases_dir):
    """Writes all cases, unless those of this version of onnx are there already."""
    stamp = cases_dir / "version.txt"
    if stamp.exists() and stamp.read_text() == onnx.__version__:
        return
    print(f"generating the cases of onnx {onnx.__version__} in {cases_dir}", flush=True)
    shutil.rmtree(cases_dir, ignore_errors=True)
    np.random.seed(0)  # Most cases draw their inputs.
    np.seterr(all="ignore")  # Many cases mean to overflow.
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            case_dir = cases_dir / kind / case.name
            case_dir.mkdir(parents=True)
            if case.url is not None:
                write_light_case(case, case_dir)
            elif case.model_dir is not None:
                shutil.copytree(case.model_dir, case_dir, dirs_exist_ok=True)
            else:
                write_node_case(case, case_dir)
            (case_dir / "tolerance.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))
    stamp.write_text(onnx.__version__)


def write_node_case(case, case_dir):
    (case_dir / "model.onnx").write_bytes(case.model.SerializeToString())
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data_dir = case_dir / f"test_data_set_{i}"
        data_dir.mkdir()
        for stem, values, infos in (
            ("input", inputs, case.model.graph.input),
            ("output", outputs, case.model.graph.output),
        ):
            for j, (value, info) in enumerate(zip(values, infos)):
                (data_dir / f"{stem}_{j}.pb").write_bytes(encode(value, info))


def write_light_case(case, case_dir):
    """A well-known network with made-up weights. Its input counts up evenly from 0 to 1, as in the package's runner."""
    source = LIGHT_DIR / pathlib.PurePosixPath(case.url).name
    shutil.copyfile(source, case_dir / "model.onnx")
    data_dir = case_dir / "test_data_set_0"
    data_dir.mkdir()
    graph = onnx.load(source).graph
    for i, info in enumerate(graph_inputs(graph)):
        shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
        count = np.prod(shape)
        value = (np.arange(count).reshape(shape) / count).astype(np.float32)
        (data_dir / f"input_{i}.pb").write_bytes(encode(value, info))
    for i in range(len(graph.output)):
        shutil.copyfile(source.with_name(f"{source.stem}_output_{i}.pb"), data_dir / f"output_{i}.pb")


def graph_inputs(graph):
    """The inputs that a caller gives: old models list their weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in weights]


def encode(value, info):
    if isinstance(value, onnx.TensorProto):
        return value.SerializeToString()
    kind = info.type.WhichOneof("value")
    convert = {
        "tensor_type": numpy_helper.from_array,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }[kind]
    return convert(value, info.name).SerializeToString()


def decode(path, info):
    """An array, or for a sequence a list of what its elements are, or None for an empty optional."""
    kind = info.type.WhichOneof("value")
    proto, convert = {
        "tensor_type": (onnx.TensorProto(), numpy_helper.to_array),
        "sequence_type": (onnx.SequenceProto(), numpy_helper.to_list),
        "optional_type": (onnx.OptionalProto(), numpy_helper.to_optional),
        "map_type": (onnx.MapProto(), numpy_helper.to_dict),
    }[kind]
    proto.ParseFromString(path.read_bytes())
    return convert(proto)


# Comparing. A function gives None where the values agree, else a text that says how they differ.


def difference(found, expected, tolerance, values_matter=True):
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return f"expected a sequence of {len(expected)}, found {describe(found)}"
        parts = (difference(f, e, tolerance, values_matter) for f, e in zip(found, expected))
        return next((part for part in parts if part is not None), None)
    if isinstance(expected, dict):
        return None if found == expected else f"expected {expected}, found {found}"
    if expected is None or found is None:
        return None if found is expected else f"expected {describe(expected)}, found {describe(found)}"
    expected, found = np.asarray(expected), np.asarray(found)
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"expected {describe(expected)}, found {describe(found)}"
    return array_difference(found, expected, tolerance) if values_matter else None


def array_difference(found, expected, tolerance):
    rtol, atol = tolerance["rtol"], tolerance["atol"]
    if expected.dtype.kind in "OSUb":
        is_close = found == expected
    else:
        if expected.dtype.name == "bfloat16":
            rtol = max(rtol, 2**-6)  # Two units in the last place.
        if expected.dtype.kind not in "iufc":
            found, expected = found.astype(np.float32), expected.astype(np.float32)
        is_close = np.isclose(found, expected, rtol=rtol, atol=atol, equal_nan=True)
    if is_close.all():
        return None
    where = tuple(int(i) for i in np.argwhere(~is_close)[0])
    n_wrong = int((~is_close).sum())
    return f"{n_wrong} of {expected.size} elements; at {list(where)} expected {expected[where]}, found {found[where]}"


def describe(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a sequence of {len(value)}" if isinstance(value, (list, tuple)) else repr(value)


# Running.


def run_case(case_dir, options):
    """The outcome of a case in each mode. What passes compiled needn't be run again with the interpreter at hand."""
    strict = run_mode(case_dir, ["--backend", "x86", "--strict"], options)
    is_refused = strict.status == "refused"
    return {
        "reference": run_mode(case_dir, ["--backend", "reference"], options),
        "x86": run_mode(case_dir, ["--backend", "x86"], options) if is_refused else strict,
        "strict": strict,
    }


def run_mode(case_dir, flags, options):
    """The first outcome that isn't a pass, over all data sets of the case."""
    for data_dir in sorted(case_dir.glob("test_data_set_*")):
        with tempfile.TemporaryDirectory() as out_dir:
            outcome = run_once(case_dir, data_dir, pathlib.Path(out_dir), flags, options)
        if outcome.status != "pass":
            return outcome
    return Outcome("pass")


def run_once(case_dir, data_dir, out_dir, flags, options):
    command = [options.aic, "run", case_dir / "model.onnx", "--inputs", data_dir, "--outputs", out_dir]
    try:
        result = subprocess.run(
            [*command, "--threads", "2", *flags], capture_output=True, timeout=options.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome("timeout", f"no end within {options.timeout} s")
    message = result.stderr.decode(errors="replace").strip()
    if result.returncode == 1 and message and "panicked at" not in message:
        return Outcome("refused", message)
    if result.returncode != 0:
        return Outcome("crash", f"exit code {result.returncode}: {message[-500:]}")
    text = compare(case_dir, data_dir, out_dir)
    return Outcome("pass") if text is None else Outcome("wrong", text)


def compare(case_dir, data_dir, out_dir):
    tolerance = json.loads((case_dir / "tolerance.json").read_text())
    tolerance["atol"] = max(tolerance["atol"], INEXACT_CASES.get(case_dir.name, 0))
    values_matter = not RANDOM_CASES.match(case_dir.name)
    for i, info in enumerate(onnx.load(case_dir / "model.onnx").graph.output):
        expected, found = data_dir / f"output_{i}.pb", out_dir / f"output_{i}.pb"
        if not expected.exists():
            continue
        if not found.exists():
            return f"output {info.name}: output_{i}.pb wasn't written"
        try:
            value = decode(found, info)
        except Exception as error:  # Whatever the package finds wrong with the bytes.
            return f"output {info.name}: output_{i}.pb isn't readable: {error}"
        text = difference(value, decode(expected, info), tolerance, values_matter)
        if text is not None:
            return f"output {info.name}: {text}"
    return None


def run_all(cases, options):
    """Runs all cases, several at a time; reports what is wrong as soon as it is known."""
    outcomes = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, result in zip(cases, pool.map(lambda case_dir: run_case(case_dir, options), cases.values())):
            outcomes[name] = result
            for outcome in dict.fromkeys(result.values()):
                if outcome.status in FAILURES or (options.verbose and outcome.message):
                    modes = ", ".join(mode for mode in MODES if result[mode] == outcome)
                    print(f"{name} ({modes}): {outcome.status}: {outcome.message}", flush=True)
    return outcomes


# The pins: a line per case, with the modes in which it passes.


def read_pins():
    if not PINS.exists():
        return {}
    lines = (line.split() for line in PINS.read_text().splitlines() if line and not line.startswith("#"))
    return {name: modes for name, *modes in lines}


def write_pins(pins):
    counts = ", ".join(f"{mode} {sum(mode in modes for modes in pins.values())}" for mode in MODES)
    header = (
        "# The ONNX backend test cases that pass, and in which modes. Written by AIC_BLESS=1 tools/conformance.py.\n"
        f"# Passing: {counts}\n"
    )
    lines = (" ".join((name, *modes)) + "\n" for name, modes in sorted(pins.items()) if modes)
    PINS.write_text(header + "".join(lines))


def passing_modes(result):
    return [mode for mode in MODES if result[mode].status == "pass"]


def regressions(pins, outcomes):
    """The pinned runs that don't pass and aren't reported as wrong yet."""
    for name, modes in sorted(pins.items()):
        for mode in modes:
            outcome = outcomes[name][mode] if name in outcomes else Outcome("refused", "there is no such case")
            if outcome.status == "refused":
                yield f"{name} ({mode}): pinned, but refused: {outcome.message}"


def print_table(outcomes):
    print(f"\n{len(outcomes)} cases of onnx {onnx.__version__}")
    print("".join(f"{title:>11}" for title in ("", *STATUSES)))
    for mode in MODES:
        counts = collections.Counter(result[mode].status for result in outcomes.values())
        print(f"{mode:>11}" + "".join(f"{counts[status]:11}" for status in STATUSES))


def parse_arguments():
    parser = argparse.ArgumentParser(description="Runs the ONNX backend test cases through aic.")
    parser.add_argument("--aic", required=True, type=pathlib.Path, help="the aic program")
    parser.add_argument("--cases", required=True, type=pathlib.Path, help="where the cases are, or are to be written")
    parser.add_argument("--match", default="", metavar="REGEX", help="only the cases whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="how many cases run at a time (default 2)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds that one run may take (default 120)")
    parser.add_argument("--verbose", action="store_true", help="print the message of every run that doesn't pass")
    return parser.parse_args()


def main():
    options = parse_arguments()
    start = time.monotonic()
    generate(options.cases)
    found = sorted(path.parent for path in options.cases.glob("*/*/model.onnx"))
    names = {path.relative_to(options.cases).as_posix(): path for path in found}
    cases = {name: path for name, path in names.items() if re.search(options.match, name)}
    outcomes = run_all(cases, options)

    pins = read_pins()
    if os.environ.get("AIC_BLESS") == "1":
        unchanged = {name: modes for name, modes in pins.items() if name in names and name not in cases}
        pins = unchanged | {name: passing_modes(result) for name, result in outcomes.items()}
        write_pins(pins)
    checked_pins = {name: modes for name, modes in pins.items() if re.search(options.match, name)}
    lost = list(regressions(checked_pins, outcomes))
    print("".join(f"{line}\n" for line in lost), end="")
    print_table(outcomes)
    statuses = collections.Counter(outcome.status for result in outcomes.values() for outcome in result.values())
    n_new = statuses["pass"] - sum(len(modes) for modes in checked_pins.values()) + len(lost)
    if n_new > 0:
        print(f"\nat least {n_new} runs pass that aren't pinned; AIC_BLESS=1 pins them")
    n_failed = len(lost) + sum(statuses[status] for status in FAILURES)
    print(f"\n{time.monotonic() - start:.0f} s\n{statuses['pass']} passed, {n_failed} failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())

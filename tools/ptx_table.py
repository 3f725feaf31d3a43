"""A table of what models take on CUDA GPUs: every kernel is assembled by NVIDIA's ptxas for both targets.

    python3 tools/ptx_table.py MODEL.onnx ...

Prints Markdown. `AIC` names the program (target/debug/aic without), `AIC_PTXAS` the assembler. A model that doesn't compile
or a kernel that ptxas warns about is an error, and the exit code is then 1.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = ["sm_80", "sm_90a"]
NOTE = re.compile(
    r"(\d+) kernels, (\d+) launches; registers: at most (\d+)[^;]*; "
    r"shared memory: at most (\d+) bytes[^;]*; spilled: at most (\d+) bytes(.*)"
)


def row(aic: str, model: Path, target: str) -> tuple[str, bool]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        done = subprocess.run(
            [aic, "compile", model, "--target", f"ptx:{target}", "-o", f"{folder}/out"],
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - start
    found = NOTE.search(done.stderr)
    if done.returncode or not found:
        why = done.stderr.strip().splitlines() or ["no ptxas was found"]
        return f"| {model.stem} | {target} | {why[-1]} |", False
    kernels, launches, registers, shared, spilled, name = found.groups()
    cells = [model.stem, target, launches, kernels, registers, shared, spilled + name.strip(), f"{seconds:.1f}"]
    return f"| {' | '.join(cells)} |", spilled == "0"


def main() -> int:
    aic = os.environ.get("AIC", "target/debug/aic")
    print("| model | target | launches | kernels | registers | shared memory | spilled bytes | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    right = True
    for model in map(Path, sys.argv[1:]):
        for target in TARGETS:
            line, ok = row(aic, model, target)
            print(line, flush=True)
            right &= ok
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

"""A run of ``make gpu`` whose steps are small programs that write as the real ones do: ``gpu_stand_ins.py OUT``.

To be killed at any moment: what the steps write must be readable then. Imports no torch.
"""

import sys
from pathlib import Path

from bench.gpu import files
from bench.gpu import run as gpu_run
from bench.gpu.__main__ import run
from bench.gpu.files import BENCH, SANITIZER, SMOKE, TABLE, TESTS
from bench.gpu.steps import Step

LINES = """
import json, sys, time
with open(sys.argv[1], "a") as file:
    for number in range(40):
        row = {"family": "one", "kernels": ["k"], "arithmetic": "bf16", "shape": "odd", "variant": "as chosen"}
        text = json.dumps(row | {"ok": number % 7 != 3, "why": None, "shares": {"y": 0.5}}) + "\\n"
        file.write(text[:20]); file.flush()
        time.sleep(0.002)
        file.write(text[20:]); file.flush()
        print("line", number, flush=True)
"""
WHOLE = """
import json, os, sys, time
for number in range(30):
    content = {"number": number, "filled": "x" * 20_000, **json.loads(sys.argv[2])}
    with open(sys.argv[1] + ".new.part", "w") as file:
        file.write(json.dumps(content))
    os.replace(sys.argv[1] + ".new.part", sys.argv[1])
    print("wrote", number, flush=True)
    time.sleep(0.005)
"""
REPORT = """
import sys, time
with open(sys.argv[1], "a") as file:
    file.write("== kernels: begun\\n")
    for number in range(40):
        failed = number % 9 == 4
        file.write(f"{'failed' if failed else 'passed'} 0.01 tests/test_x.py::test_y[{number}]\\n")
        file.write("    E   AssertionError: no\\n" if failed else "")
        file.flush()
        time.sleep(0.003)
    file.write("== kernels: ended: 35 passed, 5 failed, 0 skipped in 1.0 s, exit status 1\\n")
"""
CHECKS = """
import time
for number in range(20):
    print("========= Invalid __global__ read of size 4 bytes\\n=========     at kernel", flush=True)
    time.sleep(0.003)
print("========= ERROR SUMMARY: 20 errors", flush=True)
"""
BENCH_CONTENT = '{"complete": false, "cases": [], "environment": {"triton": null}}'
TABLE_CONTENT = '{"entries": []}'


def program(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


STEPS = [
    Step("smoke", 20, lambda folders, limit: program(LINES, folders.out / SMOKE)),
    Step(
        "timings",
        20,
        lambda folders, limit: program(WHOLE, folders.work / BENCH, BENCH_CONTENT),
        published=(BENCH,),
    ),
    Step("kernels", 20, lambda folders, limit: program(REPORT, folders.out / TESTS)),
    Step(
        "tuner",
        20,
        lambda folders, limit: program(WHOLE, folders.work / TABLE, TABLE_CONTENT),
        published=(TABLE,),
    ),
    Step("broken", 20, lambda folders, limit: program("raise SystemExit(3)")),
    Step("sanitizer", 20, lambda folders, limit: program(CHECKS), log=SANITIZER),
]

if __name__ == "__main__":
    gpu_run.TICK = 0.03
    files.ROOT = Path(sys.argv[1]).parent  # what a run that is killed was writing stays there
    raise SystemExit(run(Path(sys.argv[1]), Path(sys.argv[1]), STEPS, 60.0))

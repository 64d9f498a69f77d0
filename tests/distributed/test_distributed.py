"""Several processes against one: data parallelism, DTensors, and images whose rows are spread over ranks.

A part's checks share their processes, which take longer to start than the checks do; tests/support/ranks/ has them.
"""

import json
import subprocess
import sys

import pytest
import torch
from support.places import ROOT
from support.ranks import NOT_RUN, PASSED, outcomes
from support.sampling import sample

from sdn_triton.bench.experiments import row_sharded

# Module in tests/support/ranks -> how many ranks it needs, and how many seconds they may take on slow cores.
PARTS = {"data_parallel": (2, 150), "tensors": (2, 150), "rows": (4, 200), "necks": (4, 200), "memory": (4, 200)}


def assert_passed(part: str, device: str) -> None:
    found = outcomes(part, *PARTS[part], device)
    assert found
    failed = [(name, text) for name, texts in found.items() for text in texts if text != PASSED]
    told = [f"{name}: {text}" for name, text in failed if text != NOT_RUN]
    assert not failed, "\n\n".join([*told, f"{len(failed) - len(told)} more checks were not run"])


@pytest.mark.parametrize("part", sample(PARTS, lambda part: part == "data_parallel"))
def test_on_gloo(part, monkeypatch):
    # The C library keeps what was freed for later, and how much depends on chance; blocks of their own it gives back,
    # so that the limit on a rank's memory is one.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert_passed(part, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_on_nccl(part):
    if torch.cuda.device_count() < PARTS[part][0]:
        pytest.skip(f"needs {PARTS[part][0]} CUDA devices")
    assert_passed(part, "cuda")


def test_the_library_alone_imports_nothing_of_it():
    """DTensor takes half a second to import."""
    code = "import sdn_triton, sys; print([m for m in sys.modules if m.startswith('torch.distributed.tensor')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_figures_of_sharded_rows(tmp_path):
    file = tmp_path / "rows.json"
    assert (
        row_sharded.main(
            ["--image", "128x256", "--channels", "4,8", "--ranks", "1,2", "--times", "0", "--json", str(file)]
        )
        == 0
    )
    alone, shared = json.loads(file.read_text())["rows"]
    assert [len(row["peak_bytes"]) for row in (alone, shared)] == [1, 2]
    assert max(shared["peak_bytes"]) < 0.8 * alone["peak_bytes"][0]

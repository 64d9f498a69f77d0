"""Eight processes, as the ranks of one machine, meet a kernel cache with nothing in it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import ROOT

pytest.importorskip("triton")

RACERS, SECONDS = 8, 300
RACER = """
import hashlib, sys, time
from pathlib import Path
from sdn_triton.aot.compile import TARGETS, compile_launch
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.aot.examples import example_launches

folder, name = Path(sys.argv[1]), sys.argv[2]
work = Work("bf16", 2, 64, 64, 64, 64, taps=9)
config = default_config("difference_forward", work, TARGETS["sm_90"])
(launch,) = example_launches("difference_forward", "bf16", config, channels=64, outputs=64)
(folder / f"ready-{name}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
cubin = compile_launch(launch, TARGETS["sm_90"]).assembly["cubin"]
print(hashlib.sha256(cubin).hexdigest())
"""


@pytest.mark.long
def test_all_get_the_same_kernel(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(i)],
            env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(RACERS)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while len(list(tmp_path.glob("ready-*"))) < RACERS:
            failed = [racer.communicate()[1] for racer in racers if racer.poll() is not None]
            assert not failed, failed[0]
            assert time.monotonic() < deadline, "the processes did not get ready"
            time.sleep(0.05)
        assert not cache.exists() or not list(cache.rglob("*.cubin"))
        (tmp_path / "go").touch()
        results = [racer.communicate(timeout=max(1.0, deadline - time.monotonic())) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    for racer, (_, errors) in zip(racers, results, strict=True):
        assert racer.returncode == 0, errors
    digests = [output.strip() for output, _ in results]
    assert len(digests) == RACERS
    assert len(set(digests)) == 1
    assert list(cache.rglob("*.cubin"))

"""What is in a file of tuned configurations, for the tests of reading them."""

from sdn_triton.tuning.buckets import bucket_of
from sdn_triton.tuning.configs import KernelConfig, Target, config_to_json
from sdn_triton.tuning.defaults import Work

H100 = Target("cuda", 90, 132)
FORWARD = "difference_forward"
WORK = Work("bf16", images=2, rows=64, columns=64, channels=256, outputs=256, taps=9)
CONFIG = KernelConfig(128, 8, 32, 64, 8, 2)


def entry(config=CONFIG, kernel=FORWARD, work=WORK, **changes):
    return {
        "kernel": kernel,
        "bucket": bucket_of(work)._asdict(),
        "config": config_to_json(config),
        "microseconds": 12.5,
        "runner_up": None,
        "heuristic": None,
        "verified": True,
        "run": 0,
        "shape": "op=difference",
        **changes,
    }


def content(*entries, target=H100, name="NVIDIA H100", **changes):
    device = {"name": name, **target._asdict(), "shared_bytes": target.shared_bytes}
    return {"schema": 1, "device": device, "runs": [{}], "entries": list(entries or [entry()]), **changes}

"""Small benchmarks, and providers that are wrong, for the tests of runs."""

from __future__ import annotations

import time

import torch

from sdn_triton.bench.problems.networks import Network
from sdn_triton.bench.problems.providers import PROVIDERS, unfold
from sdn_triton.bench.problems.workloads import workloads_of
from sdn_triton.bench.runs import runner
from sdn_triton.bench.runs.budget import Budget
from sdn_triton.bench.runs.record import Record

CPU = torch.device("cpu")
TINY = Network("Tiny", (4, 6), (4, 8))
WORKLOADS = [w for w in workloads_of(TINY, 40, 56, batch=2, kinds=("layer", "block", "neck")) if w.name != "stage 2"]


def wrong_pixel(u, v, weight, bias):
    y = unfold(u, v, weight, bias)
    return torch.cat((y[..., :-1], 1.01 * y[..., -1:]), dim=-1)


def wrong_gradient(u, v, weight, bias):
    return unfold(u, v.detach(), weight, bias)


def started(providers, budget=60.0, path=None, rounds=(8, 8), resume=False, clock=time.perf_counter):
    settings = {"rounds": list(rounds), "interleaved": True, "budget_seconds": budget}
    record = Record(path, {"device": {"name": "here"}, "time": time.time()}, settings, resume)
    record.content["providers"] |= {n: {"title": PROVIDERS[n].title, "role": PROVIDERS[n].role} for n in providers}
    return runner.Runner(CPU, providers, record, Budget(budget, clock=clock), rounds)

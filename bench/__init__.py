"""Benchmarks: providers times workloads, checked before they are timed.

networks.py    the pyramids of real networks: a new one is a line
providers.py   ways to compute the layer and the neck: a new one is a function and a line
workloads.py   what is run: a layer, a neck
checking.py    outputs and gradients against float64, and the bounds they are held to
measure.py     interleaved times, peak memory
session.py     one run within a budget;  tables.py, report.py  what the reader sees
tune.py        the command ``sdn-triton tune``: trials.py checks and tuner.py times; static_ranking.py without a GPU
compare.py     the command ``sdn-triton compare``;  doctor.py  ``sdn-triton doctor``;  gpu.py  ``make gpu``
"""

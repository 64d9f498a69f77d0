"""Benchmarks: providers times workloads, checked before they are timed.

networks.py    the pyramids of real networks: a new one is a line
providers.py   ways to compute the layer and the neck: a new one is a function and a line
workloads.py   what is run: a layer, a neck
checking.py    outputs and gradients against float64, and the bounds they are held to
measure.py     interleaved times, peak memory
session.py     one run within a budget;  tables.py, report.py  what the reader sees
tune.py        the command ``sdn-triton tune``: trials.py checks and tuner.py times; static_ranking.py without a GPU
runs.py        a file of ``sdn-triton bench run`` read back;  standing.py  who is faster, and how sure that is
plots.py       the command ``sdn-triton bench plot``: charts.py and standing_charts.py draw, theme.py has the colours
page.py        the command ``sdn-triton bench report``: the tables of sheets.py, in page.html.jinja and by markdown.py
generated.py   ``make report``: texts.py and listing.py have the figures of the documents
compare.py     the command ``sdn-triton compare``;  doctor.py  ``sdn-triton doctor``;  gpu.py  ``make gpu``
"""

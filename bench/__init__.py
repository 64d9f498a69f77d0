"""Benchmarks: providers times workloads, checked before they are timed.

networks.py    the pyramids of real networks: a new one is a line
providers.py   ways to compute the layer, the block and the neck: a new one is a function and a line
workloads.py   what is run: a layer, a block, a neck;  cases.py  which pass, how timed;  suites.py  lists
checking.py    outputs and gradients against float64, and the bounds they are held to;  contract.py  that of a kernel
launches.py    every kernel on small awkward shapes;  poison.py  memory that shows what nobody wrote
clocks.py      one call by the host's clock, a GPU's events, a CUDA graph;  measure.py  in turns, and peak memory
intervals.py   confidence intervals of medians;  roofs.py  what a copy and a product reach on the device
runner.py      a benchmark within a budget;  record.py  its file;  run.py  ``bench run``;  changes.py  ``bench compare``
suite/         the same as benchmarks of pytest (``make bench``);  pytest_results.py  their figures as such a file
session.py     one run of ``sdn-triton compare`` (compare.py);  tables.py, bench_tables.py, report.py  what readers see
tune.py        the command ``sdn-triton tune``: trials.py checks and tuner.py times; static_ranking.py without a GPU
runs.py        a file of ``sdn-triton bench run`` read back;  standing.py  who is faster, and how sure that is
plots.py       the command ``sdn-triton bench plot``: charts.py and standing_charts.py draw, theme.py has the colours
page.py        the command ``sdn-triton bench report``: the tables of sheets.py, in page.html.jinja and by markdown.py
generated.py   ``make report``: texts.py and listing.py have the figures of the documents
machine_code.py  what the compiler made of a kernel: README.md says which file does what;  hazards.py  if it is right
environment.py  where a figure comes from;  revision.py  of which sources, with git or without
doctor.py      ``sdn-triton doctor``;  gpu/  ``make gpu``;  predicted.py  what was predicted beside what was measured
machine_code.py  ``python -m bench.machine_code``: examination.py compiles, sass.py and control_flow.py read,
kernel_cost.py and throughput.py count;  prediction.py: simulation.py, trip.py and hopper.py in time, overlap.py a bound
yardstick.py   ``python -m bench.yardstick``: every pass by its kernels;  other_ways.py  unfolding, torch.compile and
the convolution beside them;  yardstick_text.py  the table and the aims
"""

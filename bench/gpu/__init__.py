"""``make gpu``: the minutes on a GPU, the most truth first, into at most eight files that can be read at any time.

plan.py        what is run on a card, and for how long;  rehearsal.py  the same on a CPU, with stand-ins
               (sanitizer_stand_in.py is one)
run.py         one step after the other;  steps.py  one command with its limit;  files.py  what comes back, and how
machine.py     drivers, tools and versions
precompile.py  compiles what later steps launch (specialisations.py, recorded_tests.py; archive.py carries it)
smoke.py       is every kernel right? examples.py and hazard_question.py are its tasks, variants.py ways to compile
               them, where.py and workers.py run them on a device or in the emulator, each family by itself
timings.py     a benchmark that outlives its process;  tuning.py  the paired kernels, and what won once more
reporting.py   a plugin of pytest: each test on disk as it ends;  graph_tests.py  each test of CUDA graphs by itself
summary.py     the results, in a page;  findings.py  reads it out of the files
predictions.py what machine code predicts for the shapes that are timed, written down before
"""

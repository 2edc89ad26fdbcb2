# make serve    set up what is missing and serve the embedded model, or MODEL, on http://127.0.0.1:8000
# make test     set up what is missing and run the tests
# make install  the set-up of `make test` alone; instant when nothing has changed
# make lint     ruff and strict basedpyright
# make nightly  the long simulations and sweeps
# make clients  clients of other makers against real servers, in an environment of their own
# make sanitize the C++ kernels under the address, undefined-behaviour and thread sanitizers; a part of nightly
# make schemathesis  a real server against its own OpenAPI document, with requests that break it
# make bench    quire against transformers, with the ratios
# make clean    remove .venv and everything that was built
#
# PYTHON chooses the interpreter that .venv is made from: make test PYTHON=python3.12

PYTHON ?= python3
MODEL ?= embedded
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := $(VENV)/clients
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
SETUP_INPUTS := pyproject.toml setup.py constraints.txt $(wildcard kernels/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help serve test install lint nightly clients sanitize schemathesis bench clean

help:
	@sed -n '/^[^#]/q; s/^# \{0,1\}//p' Makefile

serve: $(VENV)/serve.stamp
	$(BIN)/quire serve $(MODEL)

test: install
	$(BIN)/pytest

install: $(VENV)/develop.stamp

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

nightly: install
	$(BIN)/pytest -m nightly

clients: install $(CLIENTS)/stamp
	QUIRE_CLIENTS_PYTHON=$(CURDIR)/$(CLIENTS)/bin/python $(BIN)/pytest -m "nightly or not nightly" tests/clients

sanitize: install
	$(BIN)/pytest -m nightly tests/kernels/test_sanitizers.py

# It has some thirty dependencies that quire has no use for: an environment of its own.
schemathesis: install $(VENV)/schemathesis/bin/st
	$(BIN)/python tests/server/schemathesis_run.py $(VENV)/schemathesis/bin/st

$(VENV)/schemathesis/bin/st:
	$(BIN)/python -m venv $(VENV)/schemathesis
	$(VENV)/schemathesis/bin/pip install -qq --disable-pip-version-check 'schemathesis>=4.30,<5'

bench: install
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf $(VENV) build dist *.egg-info kernels/_C.*.so

# Without an NVIDIA GPU, torch's CPU build comes first: the pin would otherwise be met by the CUDA
# build from PyPI and its gigabytes of libraries. Where no index offers the CPU build, the pin decides.
$(VENV)/torch.stamp: constraints.txt
	@test -x $(BIN)/python || { \
		$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "quire needs Python 3.11 or newer")' \
		&& $(PYTHON) -m venv $(VENV); }
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
		echo "No NVIDIA GPU here: installing torch $(TORCH)+cpu"; \
		$(PIP) --retries 0 --timeout 15 --extra-index-url $(CPU_INDEX) --no-deps "torch==$(TORCH)+cpu" \
			|| echo "No CPU build of torch $(TORCH) could be had; taking PyPI's"; \
	fi
	@touch $@

$(VENV)/serve.stamp: $(VENV)/torch.stamp $(SETUP_INPUTS)
	$(call install_quire,.)
	@touch $@

$(VENV)/develop.stamp: $(VENV)/torch.stamp $(SETUP_INPUTS)
	$(call install_quire,.[dev])
	@touch $@ $(VENV)/serve.stamp

# They need other versions of what quire's own tools need, and are many.
$(CLIENTS)/stamp: tests/clients/requirements.txt $(VENV)/torch.stamp
	@$(BIN)/python -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

# An extension that was built from older sources must not outlive a build that fails.
define install_quire
	@echo "Installing quire and what it needs into $(VENV); the first time takes a minute or two"
	@rm -f kernels/_C.*.so
	@$(PIP) --constraint constraints.txt --editable '$(1)'
	@ls kernels/_C.*.so >/dev/null 2>&1 || echo "The C++ kernels were not built, so quire will run on its slow" \
		"reference kernels. Is there a C++ compiler? $(BIN)/pip install -v -e . shows what went wrong."
endef

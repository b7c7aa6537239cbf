# Every target makes its own environment where there is none. PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY := $(VENV)/.parity

# Buffers of a step come and go. With huge pages a CPU spends a hundredth of the page faults on them (glibc 2.35 and
# newer; without effect elsewhere).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help demo reproduce reproduce-ablations test test-parity lint bench bench-sft bench-grade tiny-models clean

help:
	@echo "make demo         R1 in short form on the shipped tiny models: runs/demo/report.html (under 15 minutes on two cores)"
	@echo "make reproduce    R1's claims in miniature, SEED=0: runs/reproduce-0/reproduce.html (about 40 minutes on two cores)"
	@echo "make reproduce-ablations   what each part of the reward does, SEED=0"
	@echo "make test         the tests"
	@echo "make test-parity  the tests that compare with transformers and torch (large downloads)"
	@echo "make lint         ruff and mypy"
	@echo "make bench        speed against named peers, in one run"
	@echo "make bench-sft    of these, fine-tuning against TRL, the tiny student and Gemma 3 270M"
	@echo "make bench-grade  the grader against stock Math-Verify on real outputs (R1_SHARED_DATA)"
	@echo "make tiny-models  rebuild the shipped tiny models from nothing"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[train,test,lint]'
	@touch $@

$(PARITY): $(STAMP)
	$(BIN)/python -m pip install --quiet 'torch==2.13.0' -e '.[parity,gemma-270m]'
	@touch $@

demo: $(STAMP)
	$(BIN)/factory run tiny --run runs/demo

reproduce: $(STAMP)
	$(BIN)/python -m factory.tiny.reproduce --seed $(SEED)

reproduce-ablations: $(STAMP)
	$(BIN)/python -m factory.tiny.ablations --seed $(SEED)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not parity" tests

test-parity: $(PARITY)
	$(BIN)/python -m pytest -q -m parity tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(PARITY)
	$(BIN)/python benchmarks/bench_sampler.py --model distill/gemma/tiny/teacher
	$(BIN)/python benchmarks/bench_generate.py
	$(MAKE) bench-sft
	$(BIN)/python benchmarks/bench_grpo.py

bench-sft: $(PARITY)
	$(BIN)/python benchmarks/bench_sft.py
	$(BIN)/python benchmarks/bench_sft.py --student gemma-3-270m --batch-size 8 --rows 1 --steps 8 --rounds 1 --json runs/bench/sft-270m.json

bench-grade: $(STAMP)
	$(BIN)/python benchmarks/bench_grade.py

tiny-models: $(STAMP)
	$(BIN)/python -m factory.tiny.build teacher --out distill/gemma/tiny/teacher
	$(BIN)/python -m factory.tiny.build student --out distill/gemma/tiny/student

clean:
	rm -rf $(VENV) build dist *.egg-info

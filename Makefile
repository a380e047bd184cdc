# `make` alone lists the targets. Python 3.11 or 3.12 and make are all that has to be there before.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test lint format lock soak bench toyworld toyworld-eval setup clean

BOOTSTRAP := python3 -m deploy.bootstrap
BIN := .venv/bin
EXECUTOR := .venv-executor/bin/python

JOBS ?= 20000
SEED ?= 1
MINUTES ?= 10

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## set up, then see the main job done: pictures captioned, embedded and found again
	@$(BOOTSTRAP) demo
	@$(BIN)/python -m console.demo

test: ## set up, then lint and the whole suite, against real servers
	@$(BOOTSTRAP) test
	@$(MAKE) lint
	@# The executor's tests compute, the others mostly wait for servers: side by side they take a minute less.
	@OMP_NUM_THREADS=1 $(EXECUTOR) -m pytest -p no:cacheprovider tests/handlers >.bootstrap/handlers.log 2>&1 & \
	handlers=$$!; trap 'kill $$handlers 2>/dev/null || true' EXIT; \
	$(BIN)/python -m pytest --ignore=tests/handlers -n 3 --dist loadfile --no-loadscope-reorder; \
	ended=0; wait $$handlers || ended=$$?; cat .bootstrap/handlers.log; exit $$ended

lint: ## ruff, mypy, import contracts, lock files, generated pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m deploy.locks check
	@$(if $(wildcard console/docs.py),$(BIN)/python -m console.docs --check)

format: ## what ruff can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## resolve the lock files anew, keeping pins (UPGRADE=1: the newest)
	@$(BOOTSTRAP) test
	@$(BIN)/python -m deploy.locks compile --uv "$$PWD/.tools/uv/bin/uv" $(if $(UPGRADE),--upgrade)

soak: ## the long chaos run, a group of ingesters, a flood: make soak JOBS=20000 SEED=1 MINUTES=10
	@$(BOOTSTRAP) test
	@$(BIN)/python -m tests.chaos.soak --jobs $(JOBS) --seed $(SEED) --minutes $(MINUTES)

bench: ## overhead beside procrastinate's, films beside ffmpeg's and moviepy's, speech beside whisper's: bench/results/
	@$(BOOTSTRAP) bench
	@$(BIN)/python -m bench.overhead --results bench/results
	@$(BIN)/python -m bench.overhead --through kafka --results bench/results
	@$(BIN)/python -m bench.video --results bench/results
	@$(BIN)/python -m bench.video --clips 50 --results bench/results
	@$(EXECUTOR) -m bench.transcribe --results bench/results

toyworld: ## train the toy checkpoints: an hour on 2 cores; make toyworld MODEL=clip for one, AGAIN=1 from the beginning
	@$(BOOTSTRAP) test
	@$(EXECUTOR) -m toyworld $(if $(MODEL),--model $(MODEL)) $(if $(AGAIN),--again)

toyworld-eval: ## score the toy checkpoints on held-out scenes and sentences; fails where one is worse than its card says
	@$(BOOTSTRAP) test
	@OMP_NUM_THREADS=1 $(EXECUTOR) -m toyworld.evaluate $(if $(MODEL),--model $(MODEL))

setup: ## only the set-up, for everything
	@$(BOOTSTRAP) test

clean: ## remove what the set-up and the tools have made
	rm -rf .venv .venv-executor .venv-bench .tools .servers .bootstrap .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

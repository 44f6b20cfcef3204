SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# With -P and PYTHONPATH, as the project starts its own processes: what is tested is this checkout and nothing installed.
export PYTHONPATH := $(CURDIR)

.PHONY: help test lint format env bench constraints clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\): ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# What pytest is given; PYTEST="tests/unit -x" replaces it. Each process starts its own servers.
PYTEST ?= -n 3 --dist worksteal --durations=10

test: ## Make the test environment where it is missing, then every check and the whole test suite
	@env=$$(tools/test-environment)
	tools/lint "$$env"
	"$$env/bin/python" -P -m pytest $(PYTEST)

lint: ## The checks alone: ruff, mypy, import-linter
	@tools/lint "$$(tools/test-environment)"

format: ## Let ruff rewrite the code
	@env=$$(tools/test-environment)
	"$$env/bin/python" -P -m ruff check --fix .
	"$$env/bin/python" -P -m ruff format .

env: ## Make the test environment where it is missing and print its folder
	@tools/test-environment

bench: ## The benchmarks: takes half an hour and wants the machine for itself
	@env=$$(tools/test-environment)
	"$$env/bin/python" -P benchmarks/throughput.py
	"$$env/bin/python" -P benchmarks/scale.py

constraints: ## Write constraints.txt anew from the newest versions that pyproject.toml allows
	@tools/update-constraints

clean: ## Remove what the tools left in the checkout, .venv included
	@rm -rf .venv .venv.lock dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

#!/usr/bin/env bash
# Lint, types and tests: `tests/run.sh [--slow] [pytest arguments]`. Makes .venv if there is none.
# `tests/run.sh --parity [pytest arguments]` compares with transformers, peft and torch instead, in .venv-parity.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
if [ "${1:-}" = --parity ]; then
  shift
  ensure_venv "[parity]" .venv-parity
  exec python -m pytest tests/parity "$@"
fi
ensure_venv "[test]"
select=(-m "not slow")
if [ "${1:-}" = --slow ]; then
  select=()
  shift
fi
ruff check .
ruff format --check .
pyright --pythonpath "$PWD/.venv/bin/python"
# Whole files each: what a file's tests share is computed once; in the order of conftest.py, and not of their numbers of
# tests. Three at a time, for two cores: some wait for processes.
exec python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "${select[@]}" "$@"

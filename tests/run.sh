#!/usr/bin/env bash
# Lint, types and tests: `tests/run.sh [--slow] [pytest arguments]`. Makes .venv if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
ensure_venv "[test]"
select=(-m "not slow")
if [ "${1:-}" = --slow ]; then
  select=()
  shift
fi
ruff check .
ruff format --check .
pyright --pythonpath "$PWD/.venv/bin/python"
exec python -m pytest "${select[@]}" "$@"

#!/usr/bin/env bash
# The whole method on this machine, from clone to a trained planner: `launch/local.sh [RUNS_DIR]`.
#
# Makes .venv if there is none, trains a planner on the dial world by execution only and by TraceLift, from the shipped
# base and reward model, and ends with a table and a page to look at. About 5 minutes on 2 cores; started again, it
# continues where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
ensure_venv ""
runs=${1:-runs}
# The runs share programs: what one has compiled, the next one loads.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}
for arm in exec_only tracelift; do
  echo
  echo "== $arm: experiments/dial/$arm.gin -> $runs/$arm"
  tracelift train --gin_file="experiments/dial/$arm.gin" --run_dir="$runs/$arm"
done
echo
tracelift eval --run_dir="$runs/exec_only" --run_dir="$runs/tracelift"
tracelift report "$runs/exec_only" "$runs/tracelift"

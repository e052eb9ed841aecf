#!/usr/bin/env bash
# One machine with one or many GPUs: one process that sees them all.
#
#   launch/gpu_node.sh [FLAGS] -- train --gin_file=experiments/dial/tracelift.gin --run_dir=runs/tracelift
#
#   --devices=0,1       these GPUs alone; all if not given
#   --max_restarts=100  how often it is started again after it was stopped with a checkpoint (exit code 75)
#   --wait=10           seconds before it is started again
#   --installed         use the tracelift on PATH; without it .venv is made with the extra `cuda`, if there is none
#   --dry_run           print what would be run, and run nothing
#
# Ctrl-C and SIGTERM stop the run with a checkpoint, and it is not started again; a second one ends it at once. The exit
# code is tracelift's.
set -euo pipefail
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/env.sh"
flags=([devices]="" [max_restarts]=100 [wait]=10 [installed]=false [dry_run]=false)
parse_flags "$@"
whole max_restarts wait
[[ ${flags[devices]} =~ ^([0-9]+(,[0-9]+)*)?$ ]] || fail "--devices=${flags[devices]} is not a list like 0,1"
command=(tracelift "${arguments[@]}")
[ -z "${flags[devices]}" ] || command=(env "CUDA_VISIBLE_DEVICES=${flags[devices]}" "${command[@]}")
if "${flags[dry_run]}"; then
  "${flags[installed]}" || echo "source $(quote "$root/launch/env.sh") && ensure_venv '[cuda]'"
  run "${command[@]}"
  exit 0
fi
"${flags[installed]}" || ensure_venv "[cuda]"
code=0
restarting "${command[@]}" || code=$?
exit "$code"

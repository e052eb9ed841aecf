#!/usr/bin/env bash
# A small reward model of GSM8K on this machine: `launch/gsm8k_small_rm.sh TRAIN TEST [RUNS_DIR] [--gin.STEPS=N ...]`.
#
# TRAIN and TEST are GSM8K's train.jsonl and test.jsonl (gzip or not). Makes .venv if there is none, groups with flawed
# traces from both files, arithmetic drills, a tokenizer, a base from scratch and the reward model; ends with its trust
# report. About half an hour on 2 cores; started again, it continues where it was. What follows RUNS_DIR goes to both
# trainings.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: launch/gsm8k_small_rm.sh TRAIN.jsonl TEST.jsonl [RUNS_DIR] [--gin.NAME=VALUE ...]" >&2
  exit 2
fi
train=$(realpath "$1") test=$(realpath "$2")
cd "$(dirname "$0")/.."
source launch/env.sh
ensure_venv ""
runs=${3:-runs/gsm8k_small}
shift $(($# < 3 ? $# : 3))
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
here=experiments/gsm8k/small
mkdir -p "$runs"
# A finished file is only told about again.
tracelift build-groups "$train" --out="$runs/groups.jsonl" --summary="$runs/groups.json"
tracelift build-groups "$test" --out="$runs/held_out_groups.jsonl" --summary="$runs/held_out_groups.json"
python $here/drills.py 12000 --out="$runs/drills.jsonl"
python $here/drills.py 256 --seed=1 --out="$runs/held_out_drills.jsonl"
python $here/tokenizer.py "$runs/groups.jsonl" --out="$runs/tokenizer"
tracelift sft --gin_file=$here/base.gin --run_dir="$runs/base" --gin.TRAIN="$runs/drills.jsonl" \
  --gin.TEST="$runs/held_out_drills.jsonl" --gin.TOKENIZER="$runs/tokenizer" "$@"
tracelift train-rm --gin_file=$here/rm.gin --run_dir="$runs/reward_model" --gin.BASE="$runs/base/model" \
  --gin.TRAIN="$runs/groups.jsonl" --gin.TEST="$runs/held_out_groups.jsonl" "$@"

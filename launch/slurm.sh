#!/usr/bin/env bash
# SLURM: submits a job that runs tracelift on GPU nodes and puts itself back into the queue when it was stopped.
#
#   launch/slurm.sh --nodes=2 --gpus=8 [FLAGS] -- train --gin_file=FILE --run_dir=/shared/runs/planner
#
#   --nodes=1            nodes
#   --gpus=8             GPUs of each node; 0 for none
#   --tasks=gpu          one process for each GPU (gpu), or one for each node, which has all its GPUs (node)
#   --cpus=N             processor cores for each process; the cluster's default if not given
#   --name=tracelift     the job's name
#   --time=24:00:00      its time limit
#   --partition=NAME     its partition, --account=NAME its account; the cluster's default if not given
#   --grace=120          seconds ahead of the time limit at which the run is told to stop
#   --log=FILE           where its output goes; slurm-%x-%j.out here if not given; restarts append
#   --setup=COMMANDS     bash commands ahead of the run: module load ...
#   --max_restarts=100   how often it is put back into the queue after it was stopped with a checkpoint (exit code 75)
#   --installed          use the tracelift that is on PATH after --setup; without it .venv is made here and now with the
#                        extra `cuda`, if there is none; the nodes must see this folder
#   --dry_run            print what would be run, and run nothing
#
# What else sbatch should know, it reads from the environment: SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_EXCLUSIVE ...
# To stop a run for good: scancel JOB. To stop it with a checkpoint and have it queued again: scancel --signal=TERM JOB.
set -euo pipefail
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/env.sh"
flags=([nodes]=1 [gpus]=8 [tasks]=gpu [cpus]="" [name]=tracelift [time]=24:00:00 [partition]="" [account]="" [grace]=120
  [log]=slurm-%x-%j.out [setup]="" [max_restarts]=100 [installed]=false [dry_run]=false)
parse_flags "$@"
required name time log
whole nodes gpus grace max_restarts
[ -z "${flags[cpus]}" ] || whole cpus
[ "${flags[nodes]}" -gt 0 ] || fail "--nodes=0: give at least one"
case ${flags[tasks]},${flags[gpus]} in
  gpu,0) fail "--tasks=gpu needs GPUs: give --gpus=..., or --tasks=node" ;;
  gpu,*) tasks=${flags[gpus]} ;;
  node,*) tasks=1 ;;
  *) fail "--tasks=${flags[tasks]} is neither gpu nor node" ;;
esac

sbatch=(sbatch "--job-name=${flags[name]}" "--nodes=${flags[nodes]}" "--ntasks=$((flags[nodes] * tasks))"
  "--ntasks-per-node=$tasks" "--time=${flags[time]}" "--signal=TERM@${flags[grace]}" --requeue --open-mode=append
  "--output=${flags[log]}")
# With --gpus-per-task a process would see one GPU alone, and jax, which picks by the process's number on the node, miss it.
[ "${flags[gpus]}" = 0 ] || sbatch+=("--gpus-per-node=${flags[gpus]}")
[ -z "${flags[cpus]}" ] || sbatch+=("--cpus-per-task=${flags[cpus]}")
[ -z "${flags[partition]}" ] || sbatch+=("--partition=${flags[partition]}")
[ -z "${flags[account]}" ] || sbatch+=("--account=${flags[account]}")

# A process that leaves with 75 must not take the others down before they have left: no --kill-on-bad-exit.
srun=(srun --kill-on-bad-exit=0)
[ -z "${flags[cpus]}" ] || srun+=("--cpus-per-task=${flags[cpus]}")

# jax takes a SLURM process to have one GPU, the one of its number on the node, unless told which it has.
devices=""
if [ "${flags[tasks]}" = node ] && [ "${flags[gpus]}" -gt 0 ]; then
  devices="export JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((flags[gpus] - 1)))"
fi
paths=""
"${flags[installed]}" || paths="export PATH=$(quote "$root/.venv/bin"):\$PATH"

# SIGTERM ends this script where the job is cancelled; at the time limit the processes alone get it.
script=$(
  cat <<END
#!/usr/bin/env bash
cd $(quote "$PWD") || exit 1
${flags[setup]:+${flags[setup]}
}${paths:+$paths
}${devices:+$devices
}code=0
$(quote "${srun[@]}" tracelift "${arguments[@]}") || code=\$?
if [ "\$code" = $stopped ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt ${flags[max_restarts]} ]; then
  echo "was stopped; goes back into the queue"
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
END
)

if "${flags[dry_run]}"; then
  "${flags[installed]}" || echo "source $(quote "$root/launch/env.sh") && ensure_venv '[cuda]'"
  here_document "$script" "${sbatch[@]}"
  exit 0
fi
"${flags[installed]}" || ensure_venv "[cuda]"
exec "${sbatch[@]}" <<<"$script"

#!/usr/bin/env bash
# Many processes on this machine, each with virtual CPU devices: what a run on many hosts does, without the hosts.
#
#   launch/local_processes.sh N [FLAGS] -- train --gin_file=experiments/dial/tracelift.gin --run_dir=runs/tracelift
#
#   --devices=1   virtual devices of each process
#   --grace=30    seconds between a process that fails and the end of the others, which would wait for it for minutes
#   --installed   use the tracelift on PATH; without it .venv is made, if there is none
#   --dry_run     print what would be run, and run nothing
#
# Lines of process 2 begin with [2]. Ctrl-C and SIGTERM go to all of them: they stop with a checkpoint; a second one ends
# them at once. The exit code is that of the first process to fail; 75 if none failed and one was stopped; else 0.
set -euo pipefail
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/env.sh"
flags=([devices]=1 [grace]=30 [installed]=false [dry_run]=false)
processes=""
[[ ! ${1:-} =~ ^[^-] ]] || { processes=$1; shift; }
parse_flags "$@"
whole devices grace
[[ $processes =~ ^[1-9][0-9]{0,2}$ ]] || fail "give the number of processes first: launch/local_processes.sh 2 -- train ..."
[ "${flags[devices]}" -gt 0 ] || fail "--devices=0: a process needs at least one"

# Below what the kernel hands out by itself; a port that nobody answers at is free.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# What process $1 runs, in `command`.
address=127.0.0.1:$(free_port)
flag=--xla_force_host_platform_device_count=${flags[devices]}
# Virtual devices wait for each other in threads; with as many as there are cores they can wait for ever.
threads=(NPROC=64 PJRT_NPROC=64)
command_of() {
  command=(env JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flag"
    "${threads[@]}" "JAX_COORDINATOR_ADDRESS=$address" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1" tracelift "${arguments[@]}")
}

if "${flags[dry_run]}"; then
  "${flags[installed]}" || echo "source $(quote "$root/launch/env.sh") && ensure_venv ''"
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    echo "$(quote "${command[@]}") &"
  done
  echo wait
  exit 0
fi
"${flags[installed]}" || ensure_venv ""

# Whole lines, the last one too. It outlives the signals that its process is to hear of.
prefix() {
  local line
  trap "" INT TERM HUP
  while IFS= read -r line || [ "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

declare -A index=()  # by process id
prefixers=()
for ((i = 0; i < processes; i++)); do
  exec {out}> >(prefix "$i")
  prefixers+=("$!")
  command_of "$i"
  start "${command[@]}" >&"$out" 2>&1
  exec {out}>&-
  index[${children[-1]}]=$i
done

# Ends the others some time after one has failed: first as a preemption would, then for good.
end_others() {
  sleep "${flags[grace]}"
  kill -s TERM "$@" 2>/dev/null || true
  sleep 5
  kill -s KILL "$@" 2>/dev/null || true
}

worst=0 failed=0 ender=""
ended() {
  local code=0 i=${index[$1]}
  wait_for "$1" || code=$?
  unset "index[$1]"
  children=("${!index[@]}")
  [ "$code" = 0 ] || ((failed)) || worst=$code
  case $code in 0 | "$stopped") return ;; esac
  ((failed)) || say "process $i failed with exit code $code"
  failed=1
  if [ -z "$ender" ] && [ ${#index[@]} -gt 0 ]; then
    set -m  # a group of its own, to be ended as one
    end_others "${!index[@]}" &
    set +m
    ender=$!
  fi
}
while [ ${#index[@]} -gt 0 ]; do
  for child in "${!index[@]}"; do kill -0 "$child" 2>/dev/null || ended "$child"; done
  [ ${#index[@]} = 0 ] || sleep 0.2
done
[ -z "$ender" ] || kill -- "-$ender" 2>/dev/null || true
for prefixer in "${prefixers[@]}"; do wait "$prefixer" || true; done
exit "$worst"

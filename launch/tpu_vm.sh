#!/usr/bin/env bash
# A TPU VM or a pod of them: installs the committed state of this checkout on every worker and runs tracelift on all.
#
#   launch/tpu_vm.sh --name=planner --zone=us-west4-a [FLAGS] -- train --gin_file=FILE --run_dir=/mnt/runs/planner
#
#   --name=NAME         the TPU VM
#   --zone=ZONE         its zone
#   --project=PROJECT   its project; gcloud's own if not given
#   --setup=COMMANDS    bash commands that every worker runs first, at each start: mount the run directory, install Python
#   --python=python3    the interpreter, 3.11 or newer, that the workers build their environment from
#   --internal_ip       reach the workers by their internal addresses
#   --create            make the TPU VM where there is none, and anew where it was preempted; it is not deleted at the end
#   --type=TYPE         with --create: its accelerator type, as v5litepod-16
#   --version=VERSION   with --create: its software version, as v2-alpha-tpuv5-lite
#   --spot              with --create: at the price of spot machines, which are taken away when others want them
#   --max_restarts=100  how often the run is started again after it was stopped with a checkpoint (exit code 75) or preempted
#   --wait=30           seconds before it is started again, and between two looks at a TPU VM that is not ready
#   --dry_run           print what would be run, and run nothing
#
# Ctrl-C and SIGTERM stop the run on all workers with a checkpoint, and it is not started again; a second one ends it at
# once, a third this script. The exit code is that of the first worker that did not end with 0.
set -euo pipefail
source "$(dirname "$0")/common.sh"
flags=([name]="" [zone]="" [project]="" [setup]="" [python]=python3 [internal_ip]=false [create]=false [type]=""
  [version]="" [spot]=false [max_restarts]=100 [wait]=30 [dry_run]=false)
parse_flags "$@"
required name zone
whole max_restarts wait
[[ ${flags[name]} =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "--name=${flags[name]}: lower-case letters, digits and hyphens"
if "${flags[create]}"; then
  required type version
else
  [ "${flags[type]}${flags[version]}" = "" ] || fail "--type and --version are for --create"
  ! "${flags[spot]}" || fail "--spot is for --create"
fi

name=${flags[name]}
archive=.cache/launch/$name.tar.gz
where=("--zone=${flags[zone]}")
[ -z "${flags[project]}" ] || where+=("--project=${flags[project]}")
all=("${where[@]}" --worker=all)
! "${flags[internal_ip]}" || all+=(--internal-ip)
tpu=(gcloud compute tpus tpu-vm)
describe=("${tpu[@]}" describe "$name" "${where[@]}" "--format=value(state)")
delete=("${tpu[@]}" delete "$name" "${where[@]}" --quiet)
create=("${tpu[@]}" create "$name" "${where[@]}" "--accelerator-type=${flags[type]}" "--version=${flags[version]}")
! "${flags[spot]}" || create+=(--spot)
pack=(git archive --format=tar.gz "--output=$archive" HEAD)
copy=("${tpu[@]}" scp "$archive" "$name:tracelift_jax.tar.gz" "${all[@]}")

# What a worker runs. A worker whose connection was lost may still be at the last run, which ends once it misses the others:
# hence the lock, which nothing that the setup leaves running may hold. By `exec` the number in the file becomes that of
# tracelift's process.
remote=$(
  cat <<END
set -e
export PATH="\$HOME/.local/bin:\$PATH" PYTHON=$(quote "${flags[python]}")
mkdir -p tracelift_jax
exec 9>tracelift_jax/.launch.lock
flock -w 300 9 || { echo "\$HOSTNAME: another run is going on" >&2; exit 1; }
echo \$\$ >tracelift_jax/.launch.pid
tar -xzf tracelift_jax.tar.gz -C tracelift_jax
cd tracelift_jax
{ :
${flags[setup]}
} 9>&-
source launch/env.sh
ensure_venv '[tpu]'
exec tracelift $(quote "${arguments[@]}")
END
)
ssh=("${tpu[@]}" ssh "$name" "${all[@]}" "--command=exec bash -c $(quote "$remote")")
# shellcheck disable=SC2016  # for the worker's shell
kill='flock -n tracelift_jax/.launch.lock true || kill -s TERM "$(cat tracelift_jax/.launch.pid)"'
stop=("${tpu[@]}" ssh "$name" "${all[@]}" "--command=$kill")

cd "$root"
if "${flags[dry_run]}"; then
  echo "cd $(quote "$root")"
  run "${describe[@]}"
  if "${flags[create]}"; then
    echo "# where it says PREEMPTED or TERMINATED, and at each restart that finds it so:"
    run "${delete[@]}"
    echo "# and then, or where there is none:"
    run "${create[@]}"
  fi
  run mkdir -p .cache/launch
  run "${pack[@]}"
  run "${copy[@]}"
  run "${ssh[@]}"
  exit 0
fi

state() { "${describe[@]}" || true; }

made=false  # whether it was there once: what was made can be made again, when there is room
make_tpu() {
  say "makes $name"
  if "${create[@]}"; then made=true; else
    "$made" || return 1
    tries=$((tries + 1))
    [ "$tries" -le "${flags[max_restarts]}" ] || { say "could not make $name again in $tries tries"; return 1; }
    pause "${flags[wait]}"
  fi
}

# Returns when the TPU VM is ready.
await_tpu() {
  local seen tries=0
  until ((asked)); do
    seen=$(state)
    case $seen in
      READY) made=true; return 0 ;;
      PREEMPTED | TERMINATED)
        made=true
        "${flags[create]}" || { say "$name is $seen: make it again and give the same command, or give --create"; return 1; }
        say "$name is $seen"
        "${delete[@]}" || pause "${flags[wait]}"
        ;;
      "")
        "${flags[create]}" || { say "there is no TPU VM $name in ${flags[zone]}, or gcloud cannot say; see --create"; return 1; }
        make_tpu || return 1
        ;;
      *) say "$name is $seen"; pause "${flags[wait]}" ;;
    esac
  done
}

prepare() {
  await_tpu || return 1
  ((asked)) || "${copy[@]}" || { say "could not copy to the workers of $name"; return 1; }
}

# Lost connections look like a failure of the program; what became of the TPU VM tells.
judge() {
  case $1 in 0 | 2 | "$stopped") return "$1" ;; esac
  case $(state) in READY | "") return "$1" ;; *) return "$stopped" ;; esac
}

# The workers hear of it, not the connection to them.
pass_on() {
  if ((asked > 2)); then
    local child
    for child in "${children[@]}"; do kill -s TERM "$child" 2>/dev/null || true; done
  elif [ ${#children[@]} -gt 0 ]; then
    say "asks the workers to stop"
    set -m
    "${stop[@]}" </dev/null &
    set +m
  fi
}

[ -z "$(git status --porcelain --untracked-files=no)" ] || say "changes that are not committed do not go along"
mkdir -p .cache/launch
"${pack[@]}"
code=0
restarting "${ssh[@]}" || code=$?
exit "$code"

# Sourced by the launchers: their flags, what they print, and starting a run again that was asked to stop.
# shellcheck shell=bash

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || { echo "${0##*/}: needs bash 5.1 or newer" >&2; exit 2; }

# shellcheck disable=SC2034  # for the scripts that source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stopped=75        # tracelift's exit code: asked to stop, left with a checkpoint, start it again
declare -A flags  # each script fills in its flags and their defaults; `false` is one that takes no value
arguments=()      # what follows --: tracelift's command and its flags

say() { echo "${0##*/}: $*" >&2; }
fail() { say "$*"; exit 2; }

parse_flags() {
  local name known
  local -A defaults
  for name in "${!flags[@]}"; do defaults[$name]=${flags[$name]}; done
  while [ $# -gt 0 ]; do
    case $1 in
      --help) sed -n '2,${/^#/!q; s/^# \{0,1\}//p}' "$0"; exit 0 ;;
      --) shift; arguments=("$@"); break ;;
      --*) name=${1%%=*} name=${name#--} ;;
      *) fail "did not expect '$1': tracelift's command goes behind --; see --help" ;;
    esac
    known=${name:+${defaults[$name]+yes}}  # an empty name is no key
    [ "$known" ] || fail "there is no flag --$name; see --help"
    case ${defaults[$name]},$1 in
      false,*=*) fail "--$name takes no value" ;;
      false,*) flags[$name]=true ;;
      *,*=*) flags[$name]=${1#*=} ;;
      *) fail "--$name needs a value: --$name=VALUE" ;;
    esac
    shift
  done
  [ ${#arguments[@]} -gt 0 ] || fail "give tracelift's command behind --: -- train --gin_file=FILE --run_dir=FOLDER"
  [ "${arguments[0]}" != tracelift ] || fail "leave out the word tracelift behind --"
}

# required NAME ...: flags that must be given. whole NAME ...: those that are whole numbers.
required() { local name; for name; do [ "${flags[$name]}" ] || fail "give --$name=...; see --help"; done; }
whole() {
  local name
  for name; do [[ ${flags[$name]} =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "--$name=${flags[$name]} is not a whole number"; done
}

# Words such that any POSIX shell reads them back as they are.
quote() {
  local word line=""
  for word; do
    case $word in '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//\'/"'\\''"}'" ;; esac
    line+=" $word"
  done
  printf '%s' "${line:1}"
}

# A command and its standard input, to be pasted.
here_document() {
  local text=$1 end=END
  shift
  while [[ $text == *"$end"* ]]; do end+=_; done
  printf "%s <<'%s'\n%s\n%s\n" "$(quote "$@")" "$end" "$text" "$end"
}

run() { if "${flags[dry_run]}"; then quote "$@"; echo; else "$@"; fi; }

asked=0        # times that this script was asked to stop
interrupted=0  # whether that happened since `wait` began
children=()    # who is told

# What becomes of a signal; a script whose run is on other machines has its own.
pass_on() {
  local child
  for child in "${children[@]}"; do kill -s "$1" "$child" 2>/dev/null || true; done
}
on_signal() { asked=$((asked + 1)) interrupted=1; pass_on "$1"; }
trap 'on_signal INT' INT
trap 'on_signal TERM' TERM HUP

# Starts a command in a process group of its own: Ctrl-C reaches this script alone, and the command hears of it once. (Two
# signals would end it on the spot.)
start() {
  local before=$asked
  set -m
  "$@" </dev/null &
  set +m
  children+=("$!")
  [ "$asked" = "$before" ] || pass_on TERM  # it came before the child was known
}

# The exit code of a child, waited for through signals to this script.
wait_for() {
  local code
  while :; do
    code=0 interrupted=0
    wait "$1" || code=$?
    ((interrupted)) || return "$code"
  done
}

# Seconds, or until asked to stop; in pieces, because a signal may come just ahead of a `wait`.
pause() {
  local end=$((SECONDS + $1))
  while ((SECONDS < end && !asked)); do sleep 0.2; done
}

# restarting COMMAND ...: runs it, and again for as long as it leaves with 75 and nobody asked this script to stop.
# `prepare` goes before each start; `judge CODE` may see more in an exit code than the program could.
prepare() { :; }
judge() { return "$1"; }
restarting() {
  local code restarts=0
  while :; do
    code=0
    prepare || return "$?"
    ((asked)) && return "$stopped"
    children=()
    start "$@"
    wait_for "${children[0]}" || code=$?
    children=()
    ((asked)) && return "$code"
    judge "$code" || code=$?
    [ "$code" = "$stopped" ] || return "$code"
    if [ "$restarts" -ge "${flags[max_restarts]}" ]; then
      say "stopped after $restarts restarts (--max_restarts); the same command goes on from the newest checkpoint"
      return "$stopped"
    fi
    restarts=$((restarts + 1))
    say "was stopped; starts again in ${flags[wait]} s (restart $restarts)"
    pause "${flags[wait]}"
    ((asked)) && return "$stopped"
  done
}

# Sourced by the scripts: makes sure there is a virtual environment with the project in it, and uses it.
#   ensure_venv EXTRAS [FOLDER]    EXTRAS is "" or "[test]"; FOLDER is .venv if not given
# An existing one is used as it is when it holds the project already; PYTHON names another interpreter to build from.
# shellcheck shell=bash
ensure_venv() {
  local root extras=$1 venv=${2:-.venv} stamp
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  stamp="$root/$venv/.installed${extras//[^a-z]/-}"
  if [ ! -x "$root/$venv/bin/python" ]; then
    echo "making $venv"
    "${PYTHON:-python3}" -m venv "$root/$venv" || { echo "could not make $venv: install python >= 3.11 with venv, or set PYTHON" >&2; exit 2; }
  fi
  if [ ! -f "$stamp" ] || [ "$root/setup.cfg" -nt "$stamp" ]; then
    echo "installing tracelift_jax$extras into $venv (a minute or two)"
    "$root/$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras" || exit 1
    touch "$stamp"
  fi
  export PATH="$root/$venv/bin:$PATH"
}

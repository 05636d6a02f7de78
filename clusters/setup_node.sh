#!/usr/bin/env bash
# Installs the locked versions and the project on a node, once: setup_node.sh [PYTHON [ENVIRONMENT [LOCK]]].
# PYTHON is a Python 3.11; for -, or none, uv fetches one. A virtual ENVIRONMENT that is there is used as it is.
set -euo pipefail
project=$(dirname "$(dirname "$(realpath "$0")")")
python=${1:--} environment=${2:-$HOME/.tune-srgan} lock=${3:-$project/clusters/requirements.lock}
exec 9>> "$0" && flock 9 # nodes may share a home
if [ ! -x "$environment/bin/python" ]; then
  if [ "$python" = - ]; then
    export PATH="$HOME/.local/bin:$PATH"
    command -v uv > /dev/null ||
      curl -LsSf https://astral.sh/uv/0.13.9/install.sh | UV_UNMANAGED_INSTALL="$HOME/.local/bin" sh
    uv python install -q --no-bin 3.11
    python=$(uv python find --managed-python 3.11)
  fi
  "$python" -m venv "$environment"
fi
python="$environment/bin/python"
"$python" -c 'import sys; sys.exit("the lock is for Python 3.11" if sys.version_info[:2] != (3, 11) else 0)'
"$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$lock"
"$python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$project"

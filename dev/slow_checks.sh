#!/usr/bin/env bash
# Runs the tests marked slow.
set -euo pipefail
cd "$(dirname "$0")/.."
"${VENV:-.venv}/bin/python" -m pytest -m slow "$@"

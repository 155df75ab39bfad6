#!/usr/bin/env bash
# The checks that are too slow for every commit.
set -euo pipefail
cd "$(dirname "$0")/.."
"${VENV:-.venv}/bin/python" -m pytest -m slow "$@"

#!/usr/bin/env bash
# Makes the environment, checks the style and runs the fast tests. More arguments go to pytest:
#   bash scripts/test.sh
#   bash scripts/test.sh -m slow
. "$(dirname "$0")/environment.sh" test

# The tests' models are so small that a second thread only waits for the first.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m pytest --quiet "$@"

#!/usr/bin/env bash
# Makes the environment, checks the style and runs the fast tests. More arguments go to pytest:
#   bash scripts/test.sh
#   bash scripts/test.sh -m slow
. "$(dirname "$0")/environment.sh" test

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m pytest --quiet "$@"

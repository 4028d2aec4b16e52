#!/usr/bin/env bash
# Changes one line at a time and sees whether a test notices; goes on where it was stopped. Arguments go to
# scripts/try_mutants.py:
#   bash scripts/mutants.sh
#   bash scripts/mutants.sh --files training_ume/data/answers.py
. "$(dirname "$0")/environment.sh" mutation
exec "$python" scripts/try_mutants.py "$@"

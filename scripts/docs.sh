#!/usr/bin/env bash
# Makes the environment and builds the documentation into build/docs; every warning is an error.
#   bash scripts/docs.sh
. "$(dirname "$0")/environment.sh" docs

export NO_MKDOCS_2_WARNING=1    # mkdocs-material's word about its successor
"$python" -m mkdocs build --clean --strict
echo "The pages lie in build/docs: open build/docs/index.html"

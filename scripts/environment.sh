# Sourced by the other scripts: makes .venv at the repository's root, installs the project into it with the versions of
# constraints.txt, and sets $python. Extras are given as the first argument, e.g. `. scripts/environment.sh test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -x .venv/bin/python ]; then
    base=${PYTHON:-python3}
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "error: Python 3.10 or newer is needed, and '$base' is not one: set PYTHON to its path." >&2
        exit 2
    fi
    echo "Making a virtual environment in .venv"
    "$base" -m venv .venv
fi
python=$PWD/.venv/bin/python

# Installed once for each state of the two files that say what to install.
stamp=.venv/installed-$1
wanted=$(cat pyproject.toml constraints.txt)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing ume[$1]"
    # torch first and pinned: a later range is then satisfied and nothing larger is fetched.
    "$python" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
    "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$1]"
    printf '%s\n' "$wanted" >"$stamp"
fi

#!/usr/bin/env bash
# Makes the environment, checks the style and runs the fast tests. More arguments go to pytest:
#   bash scripts/test.sh
#   bash scripts/test.sh --slow          the slow ones instead, about a quarter of an hour on two cores
#   bash scripts/test.sh --browser       the page of `ume demo` in real Chromium, which must be installed
extra=test
# The fast ones in as many processes as there are processors for this one, each file in one of them. The others start
# processes of their own, or look at how much memory is used.
# nproc counts what OMP_NUM_THREADS allows to one process, which is not how many may run.
processes=(-n "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)" --dist loadfile)
if [ "${1:-}" = --slow ]; then
    shift
    processes=()
    set -- -m slow "$@"
elif [ "${1:-}" = --browser ]; then
    shift
    processes=()
    extra=test,browser
    if ! command -v chromium >/dev/null; then
        echo "error: There is no Chromium on this machine: install the package chromium, e.g. by apt-get." >&2
        exit 2
    fi
    set -- -m browser "$@"
fi
. "$(dirname "$0")/environment.sh" "$extra"

# The tests' models are so small that a second thread only waits for the first.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m pytest --quiet "${processes[@]}" "$@"

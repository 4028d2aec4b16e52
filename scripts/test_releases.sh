#!/usr/bin/env bash
# Tries this project with several releases of transformers and prints what holds on each; exit code 1 if something does
# not. The environments lie in .releases, over .venv, and are made once.
#   bash scripts/test_releases.sh                  the last patch of 5.0, 5.5, 5.10 and 5.17, and the newest release
#   bash scripts/test_releases.sh 5.0.0 5.23.0     these; the last one counts as the newest
. "$(dirname "$0")/environment.sh" test

if [ $# -eq 0 ]; then
    found=$("$python" scripts/releases.py latest 5.0 5.5 5.10 5.17)
    read -ra releases <<<"$found"
else
    releases=("$@")
fi
base=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for release in "${releases[@]}"; do
    folder=.releases/$release
    stamp=$folder/installed
    wanted="$release $base $(cat constraints.txt)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing transformers $release"
        rm -rf "$folder"
        "$python" -m venv --without-pip "$folder"
        site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        # Everything else is found in .venv; pip installs beside it what this release wants in another version.
        echo "import site; site.addsitedir('$base')" >"$site/base.pth"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" \
            "transformers==$release" accelerate datasets evaluate peft
        "$folder/bin/python" -m pip check --disable-pip-version-check
        printf '%s\n' "$wanted" >"$stamp"
    fi
done
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$python" scripts/releases.py run "${releases[@]}"

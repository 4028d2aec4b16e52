#!/usr/bin/env bash
# The benchmarks, into benchmarks/results, and the table of them in docs/speed.md. About two hours on two cores, most of it the
# trainings of grouping.py and explanations.py; nothing else should run meanwhile.
#   bash benchmarks/run.sh                     all of them
#   bash benchmarks/run.sh metric training     these ones: pair_fusion training features metric grouping explanations
. "$(dirname "$0")/../scripts/environment.sh" easy-vqa,plots,explain

if [ $# -eq 0 ]; then
    set -- pair_fusion training features metric grouping explanations
fi
for name in "$@"; do
    case $name in
        training) options=(--fusions concat ume) ;;
        features) options=(--shapes tiny base) ;;
        *) options=() ;;
    esac
    "$python" "benchmarks/$name.py" ${options[@]+"${options[@]}"}
done
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$python" benchmarks/pair_fusion.py --device cuda --dtype bfloat16
    "$python" benchmarks/training.py --device cuda --dtype bfloat16 --images 64
fi
"$python" scripts/render.py

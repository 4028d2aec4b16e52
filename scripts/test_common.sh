#!/usr/bin/env bash
# Runs transformers' own common tests over UME models and prints how many ran, passed, failed and do not apply, and why;
# exit code 1 if one fails. The tests are fetched from the package index once, into .common.
#   bash scripts/test_common.sh
#   bash scripts/test_common.sh -k "BERT_ViT and test_save_load" --tb short
. "$(dirname "$0")/environment.sh" test

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$python" scripts/common_tests.py "$@"

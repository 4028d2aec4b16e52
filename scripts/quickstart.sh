#!/usr/bin/env bash
# From a machine with nothing but Python 3.10+ to a trained model that answers: easy-VQA, small encoders from scratch.
#   bash scripts/quickstart.sh                 trains into runs/easy_vqa; run again, it goes on where it stopped
#   bash scripts/quickstart.sh mine            another folder, relative to where you are
out=${1:-}
case $out in
    "" | /*) ;;
    *) out=$PWD/$out ;;    # from here, as environment.sh goes to the repository's root
esac
. "$(dirname "$0")/environment.sh" easy-vqa

ume=${python%python}ume
out=${out:-runs/easy_vqa}
resume=()
if [ -e "$out" ]; then
    resume=(--resume_from_checkpoint)
fi
"$ume" train easy_vqa --output_dir "$out" --beside concat question_only ${resume[@]+"${resume[@]}"}

cat <<'TEXT'

For comparison, on the same test questions:
  67.0  the commonest answer to the same question in training, picture unseen
  93.8  small Keras baseline      (published with easy-VQA)
  99.5  large Keras baseline      (published with easy-VQA)
TEXT

image=$("$python" -c 'import easy_vqa; print(easy_vqa.get_test_image_paths()[0])')
echo
echo "Asking the model about $image"
"$ume" ask "$out" "$image" "what shape is in the image?" "what color is the shape?" "is there a circle?"

cat <<TEXT

Where things are:
  $out                the model, its processor and its code: load it anywhere with trust_remote_code=True
  $out/results.json   scores, seconds, versions
  $out/beside/        the concat and the question-only model trained on equal terms
Next:
  $ume ask $out IMAGE "a question"
  $ume evaluate $out --source easy_vqa --out evaluation.json --baselines question_only image_only
  $ume train easy_vqa --help
TEXT

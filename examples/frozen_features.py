"""Frozen encoders, run once: their features are kept, and heads train on them without the encoders.

python examples/own_table.py && python examples/frozen_features.py
python examples/frozen_features.py TEXT_ENCODER IMAGE_ENCODER     any others, by name or folder
"""

import sys

from own_table import DATA

from configuration_ume.parsing import parse_recipe
from training_ume.training.feature_sets import cache_recipe
from training_ume.training.run import train_and_evaluate

text, image = sys.argv[1:] or ("sentence-transformers/all-MiniLM-L6-v2", "WinKawaks/vit-tiny-patch16-224")
FIELDS = ["--text_model", text, "--freeze_text", "--text_config", "null", "--tokenizer", "null"]
FIELDS += ["--vision_model", image, "--freeze_vision", "--vision_config", "null", "--image_size", "null"]
FIELDS += ["--feature_cache", "runs/features", "--overwrite_output"]

if __name__ == "__main__":
    for fusion in ("concat", "ume"):  # the second one finds all features in the cache
        options = ["--fusion", fusion, "--output_dir", f"runs/frozen_{fusion}"]
        recipe = parse_recipe(["easy_vqa", *DATA, *FIELDS, *options])
        cache_recipe(recipe)
        train_and_evaluate(recipe)

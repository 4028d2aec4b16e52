"""Pretrained encoders, adapted by LoRA: few weights are trained beside theirs (`pip install "ume[lora]"`).

python examples/own_table.py && python examples/with_lora.py
python examples/with_lora.py TEXT_ENCODER IMAGE_ENCODER     any others, by name or folder

runs/with_lora holds the merged model, which loads anywhere, and in adapter/ the adapter alone, a few megabytes.
"""

import sys

from own_table import DATA

from configuration_ume.parsing import parse_recipe
from training_ume.training.run import train_and_evaluate

text, image = sys.argv[1:] or ("sentence-transformers/all-MiniLM-L6-v2", "WinKawaks/vit-tiny-patch16-224")
FIELDS = ["--text_model", text, "--text_config", "null", "--tokenizer", "null"]
FIELDS += ["--vision_model", image, "--vision_config", "null", "--image_size", "null"]
FIELDS += ["--lora_r", "4", "--output_dir", "runs/with_lora", "--overwrite_output"]

if __name__ == "__main__":
    train_and_evaluate(parse_recipe(["easy_vqa", *DATA, *FIELDS]))

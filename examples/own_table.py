"""Your own table: questions about your pictures, brought into VQA v2's layout, and a model trained on them.

python examples/own_table.py

Here pictures are drawn and the table is made up; put yours in place of `TABLE`. The other examples use these files.
"""

import json
from pathlib import Path

from PIL import Image

from configuration_ume.parsing import parse_recipe
from training_ume.training.run import train_and_evaluate

FOLDER = Path("runs/own_table")
COLOURS = ["red", "green", "blue", "yellow"]
# (number of the picture, question, answer): two rows about each of 16 pictures.
TABLE = [(i, "what color is it?", COLOURS[i % 4]) for i in range(16)]
TABLE += [(i, "is it red?", "yes" if i % 4 == 0 else "no") for i in range(16)]

DATA = ["--source", "vqa_v2", "--validation_fraction", "0.25", "--num_train_epochs", "3"]  # a trial of so few rows
DATA += ["--train_questions", f"{FOLDER}/questions.json", "--train_annotations", f"{FOLDER}/annotations.json"]
DATA += ["--train_images", f"{FOLDER}/images"]


def write_table() -> None:
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    for i in range(16):
        Image.new("RGB", (40 + i, 40), COLOURS[i % 4]).save(FOLDER / "images" / f"{i}.png")
    ids = [{"question_id": number, "image_id": image} for number, (image, _, _) in enumerate(TABLE)]
    questions = [{**row, "question": question} for row, (_, question, _) in zip(ids, TABLE, strict=True)]
    annotations = [{**row, "answers": [answer]} for row, (_, _, answer) in zip(ids, TABLE, strict=True)]
    (FOLDER / "questions.json").write_text(json.dumps({"questions": questions}))
    (FOLDER / "annotations.json").write_text(json.dumps({"annotations": annotations}))


if __name__ == "__main__":
    write_table()
    # Recipe `easy_vqa`: small encoders from scratch. Any of its fields can be given, as on the command line.
    train_and_evaluate(parse_recipe(["easy_vqa", *DATA, "--output_dir", f"{FOLDER}/model", "--overwrite_output"]))

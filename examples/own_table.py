"""Your own table: a CSV of pictures, questions and answers, and a model trained on it.

python examples/own_table.py

Here pictures are drawn and the table is made up; put yours in place of `TABLE`. The other examples use these files.
"""

import csv
from pathlib import Path

from PIL import Image

import ume

FOLDER = Path("runs/own_table")
COLOURS = ["red", "green", "blue", "yellow"]
# (picture, question, answer): two rows about each of 16 pictures.
TABLE = [(f"{i}.png", "what color is it?", COLOURS[i % 4]) for i in range(16)]
TABLE += [(f"{i}.png", "is it red?", "yes" if i % 4 == 0 else "no") for i in range(16)]

# The same on the command line, for the other examples: a trial of so few rows.
DATA = ["--data", f"{FOLDER}/table.csv", "--images", f"{FOLDER}/images", "--num_train_epochs", "3"]
DATA += ["--validation_fraction", "0.25"]


def write_table() -> None:
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    for i in range(16):
        Image.new("RGB", (40 + i, 40), COLOURS[i % 4]).save(FOLDER / "images" / f"{i}.png")
    with (FOLDER / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *TABLE])


if __name__ == "__main__":
    write_table()
    rows = ume.load_rows(FOLDER / "table.csv", images=FOLDER / "images", say=print)
    # Recipe `easy_vqa`: small encoders from scratch. Any of its fields can be given, as on the command line.
    fields = {"num_train_epochs": 3, "validation_fraction": 0.25, "overwrite_output": True}
    run = ume.train(rows, recipe="easy_vqa", output_dir=FOLDER / "model", **fields)
    print(run.ask(FOLDER / "images" / "0.png", "what color is it?", top_k=1))

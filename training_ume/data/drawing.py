"""Scenes of coloured shapes, their pictures, and questions about them with answers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "orange": (255, 156, 0), "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}  # fmt: skip
SIDE, HALF = 75, 5
ASKED = {
    "not relational": {
        "what is the shape of the {} object?": lambda me, others: me["shape"],
        "is the {} object on the left or on the right?": lambda me, others: "left" if me["x"] < SIDE / 2 else "right",
        "is the {} object at the top or at the bottom?": lambda me, others: "top" if me["y"] < SIDE / 2 else "bottom",
    },
    "relational": {
        "what is the shape of the object that is closest to the {} object?": lambda me, others: others[0]["shape"],
        "what is the shape of the object that is furthest from the {} object?": lambda me, others: others[-1]["shape"],
        "how many objects have the shape of the {} object?": lambda me, others: str(
            1 + sum(other["shape"] == me["shape"] for other in others)
        ),
    },
}


def scene(random: np.random.Generator) -> list[dict]:
    """Six objects, one of each colour, that do not touch."""
    objects: list[dict] = []
    for colour in COLOURS:
        while True:
            x, y = random.integers(HALF + 1, SIDE - HALF - 1, 2).tolist()
            if all((x - o["x"]) ** 2 + (y - o["y"]) ** 2 > (2 * HALF + 3) ** 2 for o in objects):
                break
        objects.append({"colour": colour, "x": x, "y": y, "shape": ("circle", "square")[random.integers(2)]})
    return objects


def draw(objects: list[dict], path: str) -> None:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    for o in objects:
        box = (o["x"] - HALF, o["y"] - HALF, o["x"] + HALF, o["y"] + HALF)
        (pen.ellipse if o["shape"] == "circle" else pen.rectangle)(box, fill=COLOURS[o["colour"]])
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        image.save(file, "PNG")
    os.replace(file.name, path)  # several processes may draw the same


def asked(objects: list[dict], questions: dict, random: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """(question, colour that it names, answer) of ten different questions of a kind."""
    pairs = [(question, me) for question in questions for me in objects]
    for i in random.permutation(len(pairs))[:10]:
        question, me = pairs[i]
        others = [other for other in objects if other is not me]
        others.sort(key=lambda other, me=me: (other["x"] - me["x"]) ** 2 + (other["y"] - me["y"]) ** 2)
        yield question.format(me["colour"]), me["colour"], questions[question](me, others)

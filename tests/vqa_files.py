"""A tiny data set in VQA v2's layout, on disk: coloured squares, and questions that only the image can answer."""

import json
import sys
from pathlib import Path

from PIL import Image

UME = [sys.executable, "-m", "training_ume.commands"]  # the `ume` command as a process of its own
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (255, 255, 255)}


def write_vqa_files(folder: Path, num_images: int = 8, rare_answer: bool = False) -> dict[str, str]:
    """Writes `num_images` images with three questions each; returns the paths by the names of the recipe's fields."""
    images = folder / "images"
    images.mkdir(parents=True)
    questions, annotations = [], []
    for image_id in range(num_images):
        colour = list(COLOURS)[image_id % len(COLOURS)]
        image = Image.new("RGB", (40, 36), COLOURS[colour])
        image.putpixel((image_id % 40, image_id // 40), (127, 127, 127))  # no two are copies of one picture
        image.save(images / f"image{image_id}.png")
        asked = [
            ("what color is it?", colour, "what color", "other"),
            ("is it red?", "yes" if colour == "red" else "no", "is it", "yes/no"),
            (f"is it {colour}?", "yes", "is it", "yes/no"),
        ]
        if rare_answer and image_id == 0:
            asked.append(("what is it called?", "square", "what is", "other"))
        for question, answer, question_type, answer_type in asked:
            question_id = len(questions)
            questions.append({"question_id": question_id, "image_id": image_id, "question": question})
            annotations.append(
                {
                    "question_id": question_id,
                    "image_id": image_id,
                    "question_type": question_type,
                    "answer_type": answer_type,
                    "multiple_choice_answer": answer,
                    "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)],
                }
            )
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return {
        "train_questions": str(folder / "questions.json"),
        "train_annotations": str(folder / "annotations.json"),
        "train_images": str(images),
        "train_image_pattern": "image{image_id}.png",
    }


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def write_tiny_recipe(path: Path, files: dict[str, str], **fields) -> Path:
    """Writes a recipe for a tiny BERT × ViT, with dropout, on the files of `write_vqa_files`."""
    recipe = {
        "text_config": {"model_type": "bert", "max_position_embeddings": 16, **TINY},
        "tokenizer": "words",
        "vision_config": {"model_type": "vit", "patch_size": 8, **TINY},
        "image_size": 16,
        "fusion": "ume",
        "fusion_hidden_size": 16,
        "source": "vqa_v2",
        **files,
        "validation_fraction": 0.25,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "output_dir": str(path.parent / "run"),
    }
    path.write_text(json.dumps({**recipe, **fields}))  # JSON is YAML
    return path

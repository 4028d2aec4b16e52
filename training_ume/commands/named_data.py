"""A data set named on the command line, the same way for each command that reads one."""

from __future__ import annotations

import argparse

from datasets import Dataset

from training_ume.data.load import load_vqa, question_ids


def add_data_options(group: argparse._ArgumentGroup, *, annotations: str, source: str | None = None) -> None:
    """
    Adds the options that name a data set.

    Args:
        annotations (`str`): what the help says of the annotations file.
        source (`str`, *optional*): the default kind of data.
    """
    layout = "VQA v2's layout" + (", the default" if source == "vqa_v2" else "")
    group.add_argument(
        "--source",
        default=source,
        help=f"vqa_v2 (files in {layout}), easy_vqa (the pip package), or the name of a Hub data set or folder with "
        "VQAv2's columns",
    )
    group.add_argument("--split", help="split of easy_vqa (default: test) or of a Hub data set (default: validation)")
    group.add_argument("--questions", help="questions JSON (plain, .gz or .zip)")
    group.add_argument("--annotations", help=annotations)
    group.add_argument("--images", "--files", help="folder with the images, sounds and other files")
    group.add_argument("--image_pattern", help="file name of an image, for example COCO_val2014_{image_id:012d}.jpg")
    group.add_argument("--name", help="configuration of a Hub data set")


def load_named(args: argparse.Namespace, **options) -> Dataset:
    """The rows of the data set that `args` name; `options` are further ones of `load_vqa`."""
    return load_vqa(args.source, **_named(args), **options)


def asked_in(args: argparse.Namespace) -> dict[int | str, int | str]:
    """All questions of the data set that `args` name, see `question_ids`."""
    return question_ids(args.source, **_named(args))


def _named(args: argparse.Namespace) -> dict:
    names = ("questions", "annotations", "images", "image_pattern", "name")
    split = args.split or ("test" if args.source == "easy_vqa" else "validation")
    return {"split": split, **{name: getattr(args, name) for name in names}}

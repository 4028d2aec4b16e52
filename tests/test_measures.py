"""Further scores: macro F1, AUROC, WUPS on a WordNet of a few words, scores by a column with intervals."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from training_ume.evaluation.measures import (
    EMPTY,
    Answered,
    by_values,
    check_scores,
    interval,
    open_or_closed,
)
from training_ume.evaluation.wups import FILES, WordNet, find_wordnet, wups


def answered(answers, right, **kwargs):
    kwargs.setdefault("image_ids", [str(i) for i in range(len(answers))])
    return Answered(answers, [[answer] for answer in right], **kwargs)


# -------------------------------------------------------------------------------------------------- classes, columns


def test_macro_f1_is_the_mean_over_the_classes_that_were_given_or_right():
    some = answered(["a b", "cat", "cat", "dog", "Bird"], ["a b", "cat", "dog", "dog", "fish"])
    # ab: 1; cat: 2·1/(2+1); dog: 2·1/(1+2); bird and fish: 0. The answers' articles and case do not matter.
    assert some.score("macro_f1", np.arange(5)) == pytest.approx(100 * (1 + 2 / 3 + 2 / 3 + 0 + 0) / 5)
    assert some.score("macro_f1", np.array([1, 1, 2])) == pytest.approx(100 * (4 / 5 + 0) / 2)
    assert some.score("accuracy", np.arange(5)) == some.score("exact_match", np.arange(5)) == 60.0


def pairwise(values, positive):
    pairs = list(itertools.product(values[positive], values[~positive]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_auroc_is_the_share_of_pairs_that_stand_in_the_right_order_with_ties_as_halves():
    generator = np.random.default_rng(0)
    right = generator.choice(["red", "green", "blue"], size=40, p=[0.6, 0.3, 0.1])
    probabilities = generator.integers(0, 6, size=(40, 4)) / 6  # full of ties
    classes = ["red", "green", "blue", "black"]  # of which the last is never right
    some = answered(list(right), list(right), probabilities=probabilities, classes=classes)
    rows = np.arange(40)
    expected = [pairwise(probabilities[:, i], right == name) for i, name in enumerate(classes[:3])]
    assert some.score("auroc", rows) == pytest.approx(100 * np.mean(expected))
    assert some.score("auroc", np.flatnonzero(right == "red")) is None  # nothing to tell apart
    two = answered(["yes"] * 4, ["yes", "no", "no", "yes"], classes=["yes", "no"])
    two.probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    assert two.score("auroc", np.arange(4)) == 75.0


def test_scores_are_shown_by_the_values_of_a_column_with_intervals_over_images():
    images = [str(i // 4) for i in range(40)]
    right = ["yes"] * 40
    given = ["yes" if i % 4 < 3 else "no" for i in range(40)]  # three of four about each image
    languages = ["en"] * 24 + ["zh"] * 12 + [None, "", float("nan"), "en"]
    found = by_values(answered(given, right, image_ids=images), languages, ["exact_match", "macro_f1"])
    assert list(found) == ["en", "zh", EMPTY]
    assert [entry["questions"] for entry in found.values()] == [25, 12, 3]
    assert [entry["images"] for entry in found.values()] == [7, 3, 1]
    assert found["zh"]["exact_match"] == 75.0
    assert found["zh"]["intervals"]["exact_match"] == [75.0, 75.0]  # every image alike: nothing depends on the draw
    assert found[EMPTY]["exact_match"] == 100.0
    low, high = found["en"]["intervals"]["exact_match"]
    assert low <= found["en"]["exact_match"] <= high < 100
    with pytest.raises(ValueError, match="has 200 different values"):
        by_values(answered(given * 5, right * 5), range(200), ["exact_match"])


def test_an_interval_widens_with_fewer_images():
    generator = np.random.default_rng(1)
    given = list(generator.choice(["yes", "no"], size=400))
    some, rows = answered(given, ["yes"] * 400), np.arange(400)
    (low, high), (lower, higher) = interval(some, rows, "exact_match"), interval(some, rows[:50], "exact_match")
    assert high - low < higher - lower
    assert low < some.score("exact_match", rows) < high
    assert interval(some, rows, "macro_f1")[0] < some.score("macro_f1", rows)


def test_open_and_closed_are_told_by_the_type_or_by_yes_and_no():
    kinds = open_or_closed(["OPEN", "closed ", "other", "", None], ["yes", "red", "no", "red", "yes"])
    assert kinds == ["open", "closed", "closed", "open", "closed"]


def test_a_score_that_is_not_known_is_refused_by_name():
    assert check_scores(["wups", "auroc", "wups_0.9"]) == ["wups_0.9", "wups_0.0", "auroc"]
    with pytest.raises(ValueError, match=r"'f2' is not known: choose from .*macro_f1"):
        check_scores(["f2"])


# ---------------------------------------------------------------------------------------------------------------- WUPS

TREE = {  # word: what is above it
    "entity": None, "object": "entity", "furniture": "object", "animal": "object",
    "chair": "furniture", "table": "furniture", "night_stand": "table", "dog": "animal",
}  # fmt: skip


def write_wordnet(folder: Path) -> Path:
    """The nouns of `TREE` in the layout of WordNet's own files, where a synset is known by where its line begins."""
    folder.mkdir(parents=True)
    for name in (*FILES, *(f"{kind}.exc" for kind in ("noun", "verb", "adj", "adv"))):
        (folder / name).write_text("")
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n")
    offsets = dict.fromkeys(TREE, 0)
    lines = []
    for _ in range(2):  # a number has eight digits, whatever it is: the second time they are right
        lines = ["  1 The licence stands here.\n"]
        for word, above in TREE.items():
            offsets[word] = sum(map(len, lines))
            pointers = [] if above is None else [f"@ {offsets[above]:08} n 0000"]
            fields = [f"{offsets[word]:08} 03 n 01 {word} 0 {len(pointers):03}", *pointers, f"| a {word}"]
            lines.append(" ".join(fields) + "  \n")
    (folder / "data.noun").write_text("".join(lines))
    index = [f"{word} n 1 1 @ 1 0 {offset:08}  \n" for word, offset in sorted(offsets.items())]
    (folder / "index.noun").write_text("  1 The licence stands here.\n" + "".join(index))
    return folder


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    pytest.importorskip("nltk")
    return WordNet(write_wordnet(tmp_path_factory.mktemp("words") / "corpora" / "wordnet").parent.parent)


def test_words_are_as_near_as_what_is_above_both(wordnet):
    # entity is at depth 1, object 2, furniture 3, chair 4: 2 · depth above both / (depth + depth).
    assert wordnet.similarity("chair", "table") == pytest.approx(2 * 3 / (4 + 4))
    assert wordnet.similarity("dog", "Chair") == pytest.approx(2 * 2 / (4 + 4))
    assert wordnet.similarity("night stand", "table") == pytest.approx(2 * 4 / (5 + 4))
    assert wordnet.similarity("xyz", "chair") == 0.0
    assert wordnet.similarity("xyz", "xyz") == 1.0


@pytest.mark.parametrize(
    ("answer", "right", "loose", "strict"),
    [
        ("chair", "chair", 1, 1),
        ("chair", "table", 0.75, 0.075),
        ("chair", "chair, table", 0.75, 0.075),  # of the right ones, table has only chair
        ("table, chair", "chair, table", 1, 1),
        ("chair, dog", "chair", 0.5, 0.05),
        ("dog", "chair, table", 0.25, 0.0025),  # a product over the right ones
        ("xyz", "chair", 0, 0),
        ("", "chair", 0, 0),
        ("7", "7", 1, 1),
    ],
)
def test_wups_is_the_smaller_of_both_products(wordnet, answer, right, loose, strict):
    assert wups([answer], [right], 0.0, wordnet) == [pytest.approx(100 * loose)]
    assert wups([answer], [right], 0.9, wordnet) == [pytest.approx(100 * strict)]


def test_wups_is_a_score_like_others(wordnet):
    some = answered(["chair", "dog"], ["table", "dog"], wordnet=wordnet)
    assert some.score("wups_0.9", np.arange(2)) == pytest.approx(100 * (0.075 + 1) / 2)
    assert by_values(some, ["x", "y"], ["wups_0.0"])["x"]["wups_0.0"] == pytest.approx(75)


def test_where_wordnet_is_to_be_had_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("UME_WORDNET", raising=False)
    with pytest.raises(ValueError, match=r"by --wordnet, or by UME_WORDNET.*nltk\.downloader"):
        find_wordnet(None)
    with pytest.raises(ValueError, match=r"There is no WordNet in .*nltk\.downloader"):
        find_wordnet(tmp_path)
    folder = write_wordnet(tmp_path / "wordnet")
    monkeypatch.setenv("UME_WORDNET", str(tmp_path))
    assert find_wordnet(None) == folder
    (folder / "index.verb").unlink()
    with pytest.raises(ValueError, match=r"lacks index\.verb"):
        find_wordnet(None)

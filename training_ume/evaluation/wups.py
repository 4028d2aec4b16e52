"""WUPS: how near an answer is to the right one in WordNet, after Malinowski & Fritz, "A Multi-World Approach to
Question Answering about Real-World Scenes based on Uncertain Input", NeurIPS 2014, section 4.

An answer is a set of words, written with commas between; a word is as near to another as the nearest of their nouns.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

THRESHOLDS = (0.9, 0.0)
DOWN_WEIGHT = 0.1  # of what is less near than the threshold
VARIABLE = "UME_WORDNET"
FILES = ("lexnames", *(f"{kind}.{part}" for kind in ("index", "data") for part in ("noun", "verb", "adj", "adv")))
HOW = (
    "It is the folder with data.noun, index.noun and so on: `python -m nltk.downloader -d FOLDER wordnet` puts "
    "corpora/wordnet.zip there, to be unpacked, and https://wordnet.princeton.edu has it as dict."
)


class WordNet:
    """WordNet's nouns, out of a folder of its files.

    Args:
        folder (path, *optional*): where they lie, or a folder above (`dict`, `wordnet`, `corpora/wordnet`); default:
            the variable `UME_WORDNET`.

    Raises:
        ValueError: where there is no such folder.
        ImportError: without nltk.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        root = find_wordnet(folder).absolute()
        try:
            import nltk.data
            from nltk.corpus.reader.wordnet import WordNetCorpusReader
        except ImportError as error:
            raise ImportError('WUPS needs the package nltk: `pip install "ume[wups]"` brings it.') from error

        class Reader(WordNetCorpusReader):
            def map_wn(self, *args, **kwargs):
                """Other languages need a second WordNet, which is not there."""

        if str(root) not in nltk.data.path:
            nltk.data.path.append(str(root))  # it reads from folders that somebody named, and from no others
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The multilingual functions")
                self._reader = Reader(str(root), None)
        except Exception as error:  # a damaged file makes the reader raise anything
            raise ValueError(
                f"The files of WordNet in {root} cannot be read ({' '.join(str(error).split())}). {HOW}"
            ) from error
        self._similarity = functools.cache(self._nearest)

    def similarity(self, a: str, b: str) -> float:
        """Wu and Palmer's similarity of two words, 1 for the same word, 0 where one of them is no noun of WordNet."""
        a, b = sorted((_lemma(a), _lemma(b)))
        return 1.0 if a == b else self._similarity(a, b)

    def _nearest(self, a: str, b: str) -> float:
        firsts, seconds = (self._reader.synsets(word, pos="n") for word in (a, b))
        return max((x.wup_similarity(y) or 0.0 for x in firsts for y in seconds), default=0.0)


def find_wordnet(folder: str | os.PathLike | None) -> Path:
    """The folder of WordNet's files; ValueError where it is not there."""
    given = folder or os.environ.get(VARIABLE)
    if not given:
        raise ValueError(f"WUPS needs WordNet's files: name their folder by --wordnet, or by {VARIABLE}. {HOW}")
    root = Path(given)
    for place in (root, root / "dict", root / "wordnet", root / "corpora" / "wordnet"):
        if (place / "data.noun").is_file():
            missing = [name for name in FILES if not (place / name).is_file()]
            if missing:
                raise ValueError(f"WordNet's folder {str(place)!r} lacks {', '.join(missing)}. {HOW}")
            return place
    raise ValueError(f"There is no WordNet in {str(given)!r}. {HOW}")


def words_of(answer: str) -> list[str]:
    """The words of an answer: "chair, night stand" has two."""
    return [word for word in (part.strip() for part in answer.split(",")) if word]


def _lemma(word: str) -> str:
    return "_".join(word.casefold().split())


def wups_of_one(answer: str, reference: str, threshold: float, wordnet: WordNet) -> float:
    r"""
    One question's share of WUPS@threshold, in [0, 1]:

        min( Π_{a ∈ A} max_{t ∈ T} µ(a, t), Π_{t ∈ T} max_{a ∈ A} µ(a, t) )

    for the words A of the answer and T of the right one, where µ is their similarity, times 0.1 where that is below
    the threshold.
    """
    given, right = words_of(answer), words_of(reference)
    if not given or not right:
        return float(given == right)

    def near(a: str, t: str) -> float:
        similarity = wordnet.similarity(a, t)
        return similarity if similarity >= threshold else DOWN_WEIGHT * similarity

    return min(
        math.prod(max(near(a, t) for t in right) for a in given),
        math.prod(max(near(a, t) for a in given) for t in right),
    )


def wups(answers: Sequence[str], references: Sequence[str], threshold: float, wordnet: WordNet) -> list[float]:
    """Each question's WUPS@threshold in percent, whose mean is the score; the right answers are one a question."""
    pairs = zip(answers, references, strict=True)
    return [100 * wups_of_one(answer, right, threshold, wordnet) for answer, right in pairs]

"""VQA accuracy as an `evaluate` module: `evaluate.load("metrics/vqa_accuracy")`, no network needed.

One idea: it equals the official VQA evaluation to the last float, its quirks included, so a score can be set beside
published ones. The file stands alone (standard library, datasets, evaluate) and can be pushed to a Space as it is.
"""

import re
import unicodedata
import warnings
from functools import lru_cache

import datasets
import evaluate

_CITATION = """\
@inproceedings{antol2015vqa,
  title = {{VQA}: Visual Question Answering},
  author = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
            Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2015}
}
@inproceedings{goyal2017making,
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author = {Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle = {Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2017}
}
"""

_DESCRIPTION = """\
Accuracy of short answers to questions about images, as the VQA challenge counts it: an answer is fully right when at
least three of the other annotators gave it, averaged over leaving out each annotator in turn.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): one answer a question.
    references (`list[list[str]]`): the annotators' answers, one list a question. VQA has ten; any number >= 1 works.
    question_types (`list[str]`, *optional*): one a question; adds `per_question_type`.
    answer_types (`list[str]`, *optional*): one a question; adds `per_answer_type`.
    per_question (`bool`, *optional*, defaults to `False`): adds `per_question`, the score of each question.
Returns:
    `dict`: everything in percent, 0 to 100, not rounded.
    - `vqa_accuracy` (`float`): mean over the questions.
    - `exact_match` (`float`): share of predictions that equal the most common answer, both normalised as far as it
      loses nothing ("A", "-5" and "1/2" stay what they are); among equally common answers the one listed first counts.
    - `per_answer_type`, `per_question_type` (`dict[str, float]`): mean over the questions of each type, if given.
    - `per_question` (`list[float]`): in the order of the predictions, if asked for.
Raises:
    `ValueError`: lengths that differ, no questions, a question without answers, anything that is not a string.
Examples:
    >>> metric = evaluate.load("metrics/vqa_accuracy")
    >>> references = [["yes"] * 10, ["red"] * 2 + ["dark red"] * 8]
    >>> metric.compute(predictions=["yes", "Red."], references=references)
    {'vqa_accuracy': 80.0, 'exact_match': 50.0}
"""

# What the official processing knows, read off vqaEval.py of https://github.com/GT-Vision-Lab/VQA.
_NUMBER_WORDS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBER_WORDS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@`,?!')  # neither "'" nor ":" nor "." are among them
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # the official pattern looks behind for nothing, so "3." loses its period too
_PERIODS_REMOVED = 32  # the official call passes re.UNICODE (32) where `count` belongs

# Words written without any of their apostrophes.
_ONE_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
# Words with several apostrophes, recognised when exactly one of them is missing.
_SEVERAL_APOSTROPHES = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've 'ow's'at y'all'd've
"""


def _contractions() -> dict[str, str]:
    """The official table (120 entries) but for those that never act: keys with a capital, or equal to their value."""
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _SEVERAL_APOSTROPHES.split():
        table.update({word[:i] + word[i + 1 :]: word for i, letter in enumerate(word) if letter == "'"})
    table["somebody'd"] = "somebodyd"  # the wrong way round, but that is what the challenge scores with
    return table


_CONTRACTIONS = _contractions()


def _clean(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**18)
def normalize_answer(answer: str) -> str:
    """The official VQA processing of one answer: white space, punctuation, then case, digits, articles, contractions.

    A punctuation mark becomes a space, unless it touches a space somewhere in the answer or the answer has a comma
    between two digits: then it is removed. After vqaEval.py of https://github.com/GT-Vision-Lab/VQA. The result may be
    empty ("The").
    """
    answer = _clean(answer)
    marks = _PUNCTUATION.intersection(answer)
    if marks:
        number = _COMMA_IN_NUMBER.search(answer) is not None
        glued = {m: not number and f"{m} " not in answer and f" {m}" not in answer for m in marks}
        answer = answer.translate({ord(mark): " " if glued[mark] else None for mark in marks})
    answer = _PERIOD.sub("", answer, count=_PERIODS_REMOVED)
    words = (_NUMBER_WORDS.get(word, word) for word in answer.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


# What `answer_form` keeps where the official processing drops or splits: commas that group no thousands, signs before
# or after what they belong to, signs between digits, operators anywhere, inches and factorials.
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_TELLING = re.compile(r"[+=<>@]|^[-/\\_]|[-/\\_]$|(?<=\d)[-/\\_,;](?=\d)")
_AFTER_DIGIT = re.compile(r"\d[\"!]$")
_OPENING, _CLOSING = "'\"`([{", "'\"`)]}.,;!?"
_NO_NOUN = _ARTICLES | {"and", "or"}


def _telling_mark(words: list[str]) -> bool:
    """Whether a mark that the official processing drops tells these words from others."""
    for i, word in enumerate(words):
        core = word.lstrip(_OPENING)
        if _AFTER_DIGIT.search(core) and not word.startswith('"'):
            return True
        core = _THOUSANDS.sub("0", core.rstrip(_CLOSING))
        if core in ("-", "/") and 0 < i < len(words) - 1:  # as good as a space, but not in 5 - 3
            if words[i - 1][-1].isdigit() and words[i + 1][0].isdigit():
                return True
        elif _TELLING.search(core):
            return True
    return False


def _telling_article(words: list[str]) -> bool:
    """Whether one of the words is a letter or a name that only looks like an article: vitamin A, A or B, A, C."""
    for i, word in enumerate(words):
        if word in _ARTICLES:
            following = words[i + 1] if i + 1 < len(words) else ""
            if not following or (word == "a" and (len(following) == 1 or following in _NO_NOUN)):
                return True
    return False


@lru_cache(maxsize=2**18)
def answer_form(answer: str) -> str:
    """What an answer is known by: two answers are the same where their forms are equal.

    It is the official processing, case, articles, number words and punctuation included, wherever that loses nothing.
    An answer that it would empty ("A", "+", "?") or rob of what tells it from others ("-5", "A+", "1/2", "1,5",
    "vitamin A") keeps its letters, marks and words, in lower case. Only an answer without any visible character has an
    empty form. The form of a form is the form itself.
    """
    answer = unicodedata.normalize("NFC", _clean(answer).lower())
    words = answer.split()
    if not any(unicodedata.category(character)[0] not in "ZC" for character in answer):
        return ""
    if not _telling_mark(words):
        spaced = "".join(" " if mark in _PUNCTUATION else mark for mark in _THOUSANDS.sub("0", answer))
        form = answer
        while (again := normalize_answer(form)) != form:  # a few with many periods change more than once
            form = again
        if form and not _telling_article(_PERIOD.sub("", spaced).split()):
            return form
    plain = " ".join(words)
    return plain.rstrip(".,;?") or plain


def _most_common(forms: list[str]) -> str:
    return max(dict.fromkeys(forms), key=forms.count)  # max keeps the first of equals


def most_common_answer(answers: list[str]) -> str:
    """The most common answer of one question by its form; among equally common ones the first listed."""
    return _most_common(list(map(answer_form, answers)))


def is_most_common(prediction: str, answers: list[str]) -> bool:
    """Exact match: whether a prediction is the question's most common answer, both by their forms."""
    return answer_form(prediction) == most_common_answer(answers)


@lru_cache(maxsize=2**16)
def _leave_one_out(hits: tuple[bool, ...]) -> float:
    # Added up in the annotators' order as the official code does: another order may differ in the last bit, and a mean
    # that lies half way between two hundredths would then be rounded the other way.
    n = sum(hits)
    return float(sum(min(1, (n - hit) / 3) for hit in hits)) / len(hits)


def _score(prediction: str, answers: list[str], normalized: list[str]) -> float:
    alike = normalized.count(normalized[0]) == len(normalized) and len(set(map(_clean, set(answers)))) == 1
    if alike:
        return _leave_one_out((_clean(prediction) == _clean(answers[0]),) * len(answers))
    wanted = normalize_answer(prediction)
    if wanted not in normalized:
        return 0.0
    return _leave_one_out(tuple([answer == wanted for answer in normalized]))


def answer_score(prediction: str, answers: list[str]) -> float:
    """VQA accuracy of one prediction, 0 to 1: mean over the answers, each left out once, of min(1, n / 3).

    n counts the other answers that equal the prediction. Both sides are normalised, but only where the answers are not
    all the same: an official quirk, so "Yes" scores 0 against ten times "yes".
    """
    return _score(prediction, answers, list(map(normalize_answer, answers)))


def _check_strings(name: str, values) -> None:
    if isinstance(values, (str, dict)) or not hasattr(values, "__len__"):
        raise ValueError(f"`{name}` must be a list with one string a question, but it is {values!r}.")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"`{name}` must hold strings, but {name}[{i}] is {value!r} of type {type(value).__name__}."
            )


def _check_lengths(name: str, values, questions: int) -> None:
    if len(values) != questions:
        raise ValueError(
            f"`predictions` and `{name}` must have one entry a question, but there are {questions} predictions and "
            f"{len(values)} {name}: the first without a partner is at index {min(len(values), questions)}."
        )


def _check_answers(answers, name: str) -> None:
    if isinstance(answers, (str, dict)) or not hasattr(answers, "__len__"):
        raise ValueError(f"Each question needs a list of answers, but {name} is {answers!r}.")
    if len(answers) == 0:
        raise ValueError(f"Each question needs at least one answer, but {name} is empty. Leave such questions out.")
    if set(map(type, answers)) == {str}:
        return
    for j, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise ValueError(
                f"Answers must be strings, but {name}[{j}] is {answer!r} of type {type(answer).__name__}."
            )


def _check_questions(predictions, references) -> None:
    _check_strings("predictions", predictions)
    if isinstance(references, (str, dict)) or not hasattr(references, "__len__"):
        raise ValueError(f"`references` must be a list with a list of answers a question, but it is {references!r}.")
    _check_lengths("references", references, len(predictions))
    if len(predictions) == 0:
        raise ValueError("There is nothing to score: `predictions` and `references` are empty.")
    for i, answers in enumerate(references):
        _check_answers(answers, f"references[{i}]")


def _check_types(name: str, types, questions: int) -> None:
    if types is not None:
        _check_strings(name, types)
        _check_lengths(name, types, questions)


def _percent(scores: list[float]) -> float:
    return 100 * float(sum(scores)) / len(scores)


def _percent_by_type(scores: list[float], types: list[str]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for score, kind in zip(scores, types, strict=True):
        groups.setdefault(kind, []).append(score)
    return {kind: _percent(groups[kind]) for kind in sorted(groups)}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VQAAccuracy(evaluate.Metric):
    """The official VQA accuracy, and exact match with the most common answer."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
            homepage="https://visualqa.org/evaluation.html",
            codebase_urls=["https://github.com/GT-Vision-Lab/VQA"],
            reference_urls=["https://visualqa.org/evaluation.html"],
        )

    # Arrow would turn a number or None into a string without a word, so everything is checked on its way in.
    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one prediction (`str`) and its answers (`list[str]`); `compute()` then scores all that was added."""
        if not isinstance(prediction, str):
            raise ValueError(f"`prediction` must be a string, but it is {prediction!r}.")
        _check_answers(reference, "reference")
        super().add(prediction=prediction, reference=reference, **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add predictions (`list[str]`) and their answers (`list[list[str]]`) for a later `compute()`."""
        _check_questions(predictions, references)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Score the predictions given here together with all that was added before."""
        if predictions is None and references is None:
            return super().compute(**kwargs)
        _check_questions(predictions, references)
        if self.num_process == 1 and self.writer is None:  # nothing to gather: skip the Arrow file, half of the time
            return self._compute(predictions, references, **kwargs)
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, question_types=None, answer_types=None, per_question=False):
        _check_types("question_types", question_types, len(predictions))
        _check_types("answer_types", answer_types, len(predictions))
        few = sum(len(answers) < 4 for answers in references)
        if few:
            warnings.warn(
                f"{few} of {len(references)} questions have fewer than four answers. The official formula leaves one "
                "out and asks for three others, so these cannot reach 100. Look at `exact_match`, or repeat their "
                "answers to ten.",
                stacklevel=2,
            )
        scores, exact = [], []
        for prediction, answers in zip(predictions, references, strict=True):
            scores.append(answer_score(prediction, answers))
            exact.append(is_most_common(prediction, answers))
        results = {"vqa_accuracy": _percent(scores)}
        if answer_types is not None:
            results["per_answer_type"] = _percent_by_type(scores, answer_types)
        if question_types is not None:
            results["per_question_type"] = _percent_by_type(scores, question_types)
        results["exact_match"] = _percent(exact)
        if per_question:
            results["per_question"] = [100 * score for score in scores]
        return results

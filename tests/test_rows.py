"""The rows that an evaluation is given, and how the answers that several batches bring become one score."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.rows import Scorer, as_rows, check_rows

ROW = {"question": "a?", "image": "a.png", "answers": ["x"]}
ANSWERS = {0: "no", 1: "yes", 2: "red"}


def test_rows_of_a_part_of_a_data_frame_have_its_columns_and_not_its_index():
    frame = pd.DataFrame([ROW] * 3, index=["c", "a", "b"])
    rows = as_rows(frame[:2])
    assert rows.column_names == [*ROW, "question_id", "answer_type", "question_type"]
    assert rows["question_id"][:] == [0, 1]


def test_rows_that_can_only_be_indexed_are_as_many_as_they_say():
    class Indexed:
        """As a data set of torch may be: it has a length and items, and cannot be iterated over."""

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return {0: ROW, 1: ROW}[number]

    assert as_rows(Indexed())["question"][:] == ["a?", "a?"]


def test_rows_have_what_the_model_looks_at_and_need_no_more():
    blind = as_rows([{name: ROW[name] for name in ("question", "answers")}])
    check_rows(blind, "question")
    for inputs in ("both", "image"):
        with pytest.raises(ValueError, match="have no column image, but question, answers"):
            check_rows(blind, inputs)


class Loader(SimpleNamespace):
    def __len__(self):
        return self.steps


@pytest.mark.parametrize(
    "calls",
    [
        [(np.array([2, 0, 1]),)],
        [([np.array([2, 0]), np.array([1])],)],
        [(np.array([2, 0]), False), (np.array([1]), True)],
    ],
    ids=["at once", "in parts", "batch by batch"],
)
def test_all_that_was_predicted_is_scored_in_its_order(calls):
    scorer = Scorer(Loader(dataset=[ROW] * 3, batch_sampler=None, steps=9), ANSWERS, 2, lambda said, _: said)
    results = [scorer(*call) for call in calls]
    assert results == [{}] * (len(calls) - 1) + [["red", "no", "yes"]]


def test_what_was_predicted_for_a_stream_is_scored_in_the_order_of_its_table_without_the_padding():
    part = StreamedQuestions("", "test", [{"questions": [2, 1]}])
    # Two processes, one step, batches of two: the second has one row and one of padding.
    stream = SimpleNamespace(part=part, positions=lambda: [[[2, 0], [1]]])
    scorer = Scorer(Loader(dataset=part, batch_sampler=stream, steps=1), ANSWERS, 2, lambda said, _: said)
    assert scorer(np.array([2, 0, 1, 1]), False) == ["no", "yes", "red"]

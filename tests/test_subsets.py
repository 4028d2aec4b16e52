"""Every subset of a model's modalities: scored as if the others were absent, and what each is worth."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS
from datasets import Dataset
from PIL import Image
from test_own_data import write_table
from test_third_modality import Points, PointsConfig
from transformers import ViTImageProcessor
from vqa_files import TINY, write_tiny_recipe, write_vqa_files

import ume
from configuration_ume.parsing import parse_recipe
from modeling_ume import UMEConfig, UMEForSequenceClassification, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.collator import VQACollator
from training_ume.evaluation.answering import predict
from training_ume.evaluation.evaluate import evaluate_checkpoint
from training_ume.evaluation.scores import score_answers
from training_ume.evaluation.subsets import score_subsets
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache
from training_ume.records.shares import shapley_values, subsets_of
from training_ume.report.subsets import subsets_table, worth_table
from training_ume.training.run import train_and_evaluate

WORDS = ["low", "high", "far"]


@pytest.fixture
def with_points(monkeypatch):
    monkeypatch.setitem(MODALITIES, "points", Points())


@pytest.fixture
def rows(with_points, tmp_path):
    """Rows of three modalities, of which some lack one, and the last two all."""
    random, rows = np.random.default_rng(0), []
    for number in range(6):
        shade = Image.new("RGB", (32, 32), (40 * number,) * 3)
        shade.save(tmp_path / f"{number}.png")
    for number in range(20):
        has = (number % 4 != 1, number % 3 != 2, number % 5 != 3) if number < 18 else (False, False, False)
        rows.append(
            {
                "question": f"where is number {number % 7} ?" if has[0] else "",
                "image": str(tmp_path / f"{number % 6}.png") if has[1] else "",
                "points": random.normal(0, 1, (5, 3)).tolist() if has[2] else None,
                "image_id": str(number % 6), "question_id": number, "answers": [WORDS[number % 3]],
                "question_type": "", "answer_type": "place",
            }
        )  # fmt: skip
    return Dataset.from_list(rows)


def model_of(fusion="ume", **fields):
    configs = {"text_config": TEXT_CONFIGS["bert"](), "vision_config": IMAGE_CONFIGS["vit"]()}
    fields = {"id2label": dict(enumerate(WORDS)), "fusion_hidden_size": 16, **fields}
    config = UMEConfig.from_encoder_configs(**configs, points_config=PointsConfig(), fusion=fusion, **fields)
    torch.manual_seed(3)
    model = UMEForVisualQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that answers differ
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture
def processor(rows):
    pictures = ViTImageProcessor(size={"height": 32, "width": 32})
    return UMEProcessor(pictures, words_tokenizer(rows["question"][:]), id2label=dict(enumerate(WORDS)))


def collator_of(processor, **options):
    return VQACollator(processor, may_lack=["text", "vision", "points"], **options)


def by_hand(model, batch, subset):
    """The plain forward of all rows together, with what is not in the subset absent."""
    kinds = [MODALITIES[name] for name in model.config.modalities]
    flags = {kind.present: batch[kind.present] & (kind.short in subset) for kind in kinds}
    with torch.no_grad():
        answers = model(**{**batch, **flags}).logits.argmax(-1).tolist()
    some = torch.stack(list(flags.values())).any(0).tolist()
    return [model.config.id2label[answer] if here else "low" for answer, here in zip(answers, some, strict=True)]


@pytest.mark.parametrize("fusion", ["ume", "concat", "mixture", "late_mean", "early_input"])
def test_a_subset_scores_as_the_model_does_where_the_others_are_absent(fusion, rows, processor):
    model = model_of(fusion)
    found = score_subsets(model, collator_of(processor), rows, batch_size=6)
    names = ["text", "image", "points"]
    assert [tuple(entry["modalities"]) for entry in found["subsets"]] == subsets_of(names)[1:]
    assert found["rows"] == {"text": 13, "image": 12, "points": 15}
    batch, distinct = collator_of(processor)(list(rows)), set()
    for entry in found["subsets"]:
        answers = by_hand(model, batch, entry["modalities"])
        distinct.add(tuple(answers))
        scores = score_answers(answers, rows)
        assert {name: entry[name] for name in scores} == scores, entry["modalities"]
        low, high = entry["interval"]
        assert low <= entry[found["measured_by"]] <= high
    assert len(distinct) > 1, "the subsets are told apart"
    assert [entry["rows"] for entry in found["subsets"]][-1] == 18
    assert found["nothing"]["exact_match"] == pytest.approx(100 * 7 / 20)
    assert "most common training answer, 'low'" in found["nothing"]["what"]


def test_the_shares_are_exact_shapley_values_of_the_score(rows, processor):
    found = score_subsets(model_of(), collator_of(processor), rows)
    name = found["measured_by"]
    score = {(): found["nothing"][name]} | {tuple(sorted(e["modalities"])): e[name] for e in found["subsets"]}
    for modality in ("text", "image", "points"):
        added = []
        for order in itertools.permutations(("text", "image", "points")):  # the definition: the mean over all orders
            before = order[: order.index(modality)]
            added.append(score[tuple(sorted((*before, modality)))] - score[tuple(sorted(before))])
        assert found["shapley"][modality] == pytest.approx(sum(added) / math.factorial(3))
    total = score[("image", "points", "text")] - score[()]
    assert sum(found["shapley"].values()) == pytest.approx(total)
    if total:
        assert sum(found["share"].values()) == pytest.approx(1)


def test_everything_is_what_the_model_answers_and_rows_come_in_any_batches(rows, processor):
    model = model_of("gmu").train()
    some = rows.select(range(18))  # which have something
    whole = score_answers(predict(model, collator_of(processor), some, 4), some)
    one, other = (score_subsets(model, collator_of(processor), some, batch_size=size) for size in (1, 64))
    assert one == other
    assert {name: one["subsets"][-1][name] for name in whole} == whole
    assert model.training


def test_stored_features_give_the_same_and_no_encoder_runs_for_them(rows, processor, tmp_path):
    model = model_of("concat")
    expected = score_subsets(model, collator_of(processor), rows)
    some = [row for row in rows if row["points"] is not None]
    alone = VQACollator(processor, inputs="points")
    build_features(tmp_path / "cache", "points", model, alone, some, {"name": None, "revision": None})
    collator = collator_of(processor, features={"points": FeatureCache(tmp_path / "cache")})
    model.ume.points_model.forward = None
    assert score_subsets(model, collator, rows) == expected


def test_an_encoder_runs_once_a_batch_whatever_the_number_of_subsets(rows, processor):
    model, calls = model_of(), []
    for modality in model.config.modalities:
        model.ume.encoder(modality).register_forward_hook(lambda *_, modality=modality: calls.append(modality))
    score_subsets(model, collator_of(processor), rows.select(range(18)), batch_size=18)
    assert sorted(calls) == ["points", "text", "vision"]


def test_a_modality_that_no_row_has_is_left_out(rows, processor):
    found = score_subsets(model_of(), collator_of(processor), rows.remove_columns("points"))
    assert [entry["modalities"] for entry in found["subsets"]] == [["text"], ["image"], ["text", "image"]]
    assert list(found["shapley"]) == ["text", "image"]
    bare = rows.map(lambda row: {"question": "", "image": ""}).remove_columns("points")
    with pytest.raises(ValueError, match=r"The rows have none of the model's modalities \(text, vision, points\)"):
        score_subsets(model_of(), collator_of(processor), bare)


def test_rows_without_answers_have_no_subsets(rows, processor):
    unanswered = rows.map(lambda row: {"answers": []})
    with pytest.raises(ValueError, match="have no answers, so subsets of modalities have no score"):
        score_subsets(model_of(), collator_of(processor), unanswered)


def test_numbers_are_scored_on_every_subset_and_nothing_is_their_mean(rows, processor):
    numbers = {"problem_type": "regression", "id2label": {0: "height"}, "label_mean": 2.0, "label_std": 0.5}
    model = model_of(**numbers)
    counted = rows.map(lambda row: {"answers": [str(row["question_id"] % 5)]})
    found = score_subsets(model, collator_of(processor), counted)
    assert found["measured_by"] == "r2"
    assert found["nothing"]["answer"] == [2.0]
    assert found["nothing"]["what"] == "the mean of the training labels"
    assert found["nothing"]["r2"] == pytest.approx(0, abs=1e-9)  # 2 is the mean of these, too
    assert len({entry["r2"] for entry in found["subsets"]}) == 7
    assert sum(found["shapley"].values()) == pytest.approx(found["subsets"][-1]["r2"])
    table = subsets_table(found)
    assert table[0][2] == "R²"
    assert len(table) == 9


@pytest.mark.parametrize(
    ("problem_type", "measured", "usual"),
    [("single_label_classification", "accuracy", "low"), ("multi_label_classification", "micro_f1", ["low"])],
)
def test_classes_and_labels_are_scored_by_their_own_scores(problem_type, measured, usual, rows, processor):
    asks = model_of(problem_type=problem_type)
    model = UMEForSequenceClassification(asks.config).eval()
    model.load_state_dict(asks.state_dict())
    found = score_subsets(model, collator_of(processor), rows)
    assert found["measured_by"] == measured
    assert found["nothing"]["answer"] == usual
    assert found["nothing"][measured] == pytest.approx(100 * 7 / 20)
    assert sum(found["shapley"].values()) == pytest.approx(found["subsets"][-1][measured] - 35)


def test_tables_say_what_each_modality_is_worth():
    found = {
        "measured_by": "exact_match",
        "rows": {"sound": 10, "table": 8},
        "nothing": {"answer": "no", "what": "…", "measured_by": "exact_match", "exact_match": 40.0},
        "subsets": [
            {"modalities": ["sound"], "rows": 10, "interval": [50.0, 70.0], "exact_match": 60.0},
            {"modalities": ["table"], "rows": 8, "interval": None, "exact_match": 35.0},
            {"modalities": ["sound", "table"], "rows": 10, "interval": [60.0, 80.0], "exact_match": 70.0},
        ],
    }
    values = torch.tensor([40.0, 60.0, 35.0, 70.0], dtype=torch.float64)
    found["shapley"] = dict(zip(found["rows"], shapley_values(values).tolist(), strict=True))
    found["share"] = {name: value / 30 for name, value in found["shapley"].items()}
    assert subsets_table(found) == [
        ("given", "rows with it", "exact match", "95 %"),
        ("nothing", "", "40.00", ""),
        ("sound", "10", "60.00", "50.00 to 70.00"),
        ("table", "8", "35.00", ""),
        ("sound + table", "10", "70.00", "60.00 to 80.00"),
    ]
    assert worth_table(found) == [
        ("modality", "alone", "to all others", "Shapley value", "share"),
        ("sound", "+20.00", "+35.00", "+27.50", "91.7 %"),
        ("table", "−5.00", "+10.00", "+2.50", "8.3 %"),
    ]
    assert worth_table({**found, "share": None})[1][-1] == "–"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    train_and_evaluate(parse_recipe([str(write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1))]))
    return folder / "run"


def test_the_command_prints_writes_and_draws_every_subset(trained, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main(["evaluate", str(trained), "--part", "validation", "--subsets", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert [entry["modalities"] for entry in found["subsets"]["subsets"]] == [["text"], ["image"], ["text", "image"]]
    assert found["subsets"]["subsets"][-1]["vqa_accuracy"] == found["scores"]["vqa_accuracy"]
    for part in ("text + image", "Shapley value", "Nothing is the most common training answer, 'yes'"):
        assert part in printed
    assert Image.open(tmp_path / "found_subsets.png").size[0] > 600
    assert main(["evaluate", str(trained), "--part", "validation", "--subsets", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["subsets"]
    assert again == found["subsets"]
    run = ume.load_run(trained)
    assert json.loads(json.dumps(run.subsets(plot=tmp_path / "drawn.png"))) == again
    assert (tmp_path / "drawn.png").read_bytes() == (tmp_path / "found_subsets.png").read_bytes()


def test_python_scores_subsets_of_other_rows_and_says_where_the_own_are_not_kept(tmp_path):
    table = write_table(tmp_path / "own")
    reading = {"images": str(table.parent / "pictures"), "columns": {"image": "img_name", "answer": "label"}}
    rows = ume.load_rows(str(table), **reading)
    text = {"model_type": "bert", "max_position_embeddings": 16, **TINY}
    vision = {"model_type": "vit", "image_size": 16, "patch_size": 8, **TINY}
    quick = {"fusion_hidden_size": 16, "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
    run = ume.train(rows, text=text, vision=vision, output_dir=tmp_path / "run", **quick)
    found = run.subsets(rows)
    assert found == run.subsets(table, **reading)
    assert found["rows"] == {"text": len(rows), "image": len(rows)}
    with pytest.raises(ValueError, match="was trained on rows in memory, which no file holds"):
        run.subsets()


def test_questions_without_answers_have_no_subsets_in_the_command(trained, rows):
    questions = rows.remove_columns("points").map(lambda row: {"answers": []})
    with pytest.raises(ValueError, match="leave --subsets out"):
        evaluate_checkpoint(str(trained), questions, subsets=True)

"""Missing inputs: modality dropout in training, and the robustness curve of a finished model."""

import json
import sys

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from datasets import Dataset
from transformers import ViTImageProcessor
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import make_recipe, parse_recipe
from configuration_ume.training_arguments import UMETrainingArguments
from modeling_ume import Stream, UMEConfig, UMEProcessor
from modeling_ume.streams_ume import drop_each, drop_modality
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.data.json_entries import VQADataError
from training_ume.data.load import load_vqa
from training_ume.evaluation.answering import predict
from training_ume.evaluation.evaluate import robustness_curve
from training_ume.training.prepare import load_data
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import UMETrainer

LABELS = torch.tensor([0, 3, 6])


def streams(batch_size, text_present=True, image_present=True):
    """A text and an image stream that say nothing but who is there."""

    def stream(present):
        there = torch.full((batch_size,), present) if isinstance(present, bool) else present
        return Stream(torch.zeros(batch_size, 1, 1), torch.ones(batch_size, 1, dtype=torch.bool), None, there)

    return stream(text_present), stream(image_present)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_text_and_image_are_lost_evenly_at_the_rate_and_never_both(rate):
    text, image = streams(40_000)
    drop_modality([text, image], rate)
    assert (text.present | image.present).all()
    for stream in (text, image):
        assert (~stream.present).float().mean().item() == pytest.approx(rate / 2, abs=0.01)


def test_an_example_with_one_modality_keeps_it():
    has_text = torch.arange(1000) % 2 == 0
    text, image = streams(1000, has_text, ~has_text)
    drop_modality([text, image], 0.99)
    assert torch.equal(text.present, has_text)
    assert torch.equal(image.present, ~has_text)
    # Present by its flag, yet without one real token: as good as absent, so the text must stay.
    text, image = streams(1000)
    image.mask[:] = False
    drop_modality([text, image], 0.99)
    assert text.present.all()


def without_dropout(**kwargs):
    """A tiny model in which modality dropout is the only randomness."""
    model = tiny_model(fusion_dropout=0.0, classifier_dropout=0.0, **kwargs)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def train_logits(model, batch, seed):
    torch.manual_seed(seed)
    return model.train()(**batch).logits


def test_modality_dropout_follows_the_seed_in_training_and_is_off_in_eval():
    model, plain, batch = without_dropout(modality_dropout=0.9), without_dropout(), tiny_batch()
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=0, atol=0)
    first, again, other = (train_logits(model, batch, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(train_logits(plain, batch, 0), train_logits(plain, batch, 1), rtol=0, atol=0)


def test_each_example_in_training_is_complete_or_lacks_one_modality():
    model, batch = without_dropout(modality_dropout=0.6), tiny_batch()
    model.eval()
    absent = torch.zeros(3, dtype=torch.bool)
    states = [{}, {"text_present": absent}, {"image_present": absent}]
    allowed = torch.stack([model(**batch, **flags).logits for flags in states])  # [3, B, C]
    seen = set()
    for seed in range(8):
        distance = (train_logits(model, batch, seed) - allowed).abs().amax(-1)  # [3, B]
        assert distance.amin(0).max() < 1e-5
        seen.update(distance.argmin(0).tolist())
    assert seen == {0, 1, 2}


def test_modality_dropout_gives_the_same_gradients_under_gradient_checkpointing():
    grads = []
    for checkpointing in (False, True):
        model = without_dropout(modality_dropout=0.9)
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model.train()(**tiny_batch(), labels=LABELS).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "evc", "pair"])
def test_the_learned_stand_ins_get_gradients_where_a_modality_is_lost(fusion):
    model = without_dropout(fusion=fusion, modality_dropout=0.99).train()
    torch.manual_seed(0)
    model(**tiny_batch(24, 24), labels=torch.arange(24) % 7).loss.backward()
    assert (model.ume.fusion.project.absent.grad.abs().amax(1) > 0).all()
    # Nothing is lost, nobody stands in, and the gradient is there for DDP all the same.
    model = without_dropout(fusion=fusion).train()
    model(**tiny_batch(), labels=LABELS).loss.backward()
    assert (model.ume.fusion.project.absent.grad == 0).all()


def test_ume_needs_no_stand_in_as_its_weights_are_shared_among_what_is_left():
    model = tiny_model(fusion="ume")
    output = model(**tiny_batch(), image_present=torch.tensor([True, False, True]))
    weights = output.fusion_weights["modality_weights"]  # text, image, pairs
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights[1].tolist() == [1.0, 0.0, 0.0]
    assert (weights[[0, 2]] > 0).all()


def test_dropping_a_modality_has_no_data_dependent_control_flow():
    def fused(present, states):
        text, image = streams(4)
        text.present, image.present = present, present.clone()
        drop_modality([text, image], 0.5)
        return states * text.present[:, None] + image.present[:, None]

    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    assert compiled(torch.ones(4, dtype=torch.bool), torch.ones(4, 2)).shape == (4, 2)


@pytest.mark.parametrize("value", [1.0, -0.1, True])
def test_an_impossible_modality_dropout_names_the_field_and_the_value(value):
    with pytest.raises(ValueError, match=f"modality_dropout={value} is impossible"):
        tiny_config(modality_dropout=value)


RATES = {"text": 0.5, "audio": 0.2, "table": 0.9}


def three(here):
    """Streams of three modalities that are there by `here` [B, 3]."""
    full = torch.ones(len(here), 1, dtype=torch.bool)
    return [
        Stream(torch.zeros(len(here), 1, 2), full, torch.zeros(len(here), 2), present.clone(), modality=modality)
        for modality, present in zip(RATES, here.unbind(1), strict=True)
    ]


@pytest.mark.parametrize("has", [(1, 1, 1), (1, 0, 1), (0, 1, 1)])
def test_each_modality_is_lost_by_its_own_rate_and_never_the_last(has):
    torch.manual_seed(0)
    count = 20_000
    streams = three(torch.tensor([has] * count).bool())
    drop_each(streams, RATES)
    left = torch.stack([stream.present for stream in streams], dim=1)
    assert left.any(1).all()
    assert not left[:, ~torch.tensor(has).bool()].any()
    # All would go with the product of the rates, and then one of them, evenly chosen, stays after all.
    rates = torch.tensor(list(RATES.values())) * torch.tensor(has)
    together = float(rates[torch.tensor(has).bool()].prod())
    kept = (1 - rates + together / sum(has)) * torch.tensor(has)
    assert ((left.float().mean(0) - kept).abs() < 4 * (0.25 / count) ** 0.5).all()
    if sum(has) == 3:  # one by one, and independently
        both = float((~left[:, 0] & ~left[:, 1]).float().mean())
        assert both == pytest.approx(0.5 * 0.2 * 0.1 + together / 3, abs=4 * (0.1 / count) ** 0.5)


def test_what_a_dict_does_not_name_is_never_lost_and_the_only_one_stays():
    streams = three(torch.tensor([[True, True, True], [True, False, False], [False, False, False]]))
    for _ in range(20):
        drop_each(streams, {"text": 0.99})
    assert streams[0].present.tolist() == [False, True, False]
    assert streams[1].present.tolist() == [True, False, False]
    assert streams[2].present.tolist() == [True, False, False]


def test_a_model_loses_each_modality_by_its_own_rate():
    model, batch = without_dropout(modality_dropout={"vision": 0.6}), tiny_batch()
    full = model.eval()(**batch).logits
    alone = model(**batch, image_present=torch.zeros(3, dtype=torch.bool)).logits
    seen = set()
    for seed in range(8):
        distance = (train_logits(model, batch, seed) - torch.stack([full, alone])).abs().amax(-1)
        assert distance.amin(0).max() < 1e-5
        seen.update(distance.argmin(0).tolist())
    assert seen == {0, 1}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": 0.1}, "modality_dropout names 'image', which is no modality of this model: it has text, vision."),
        ({"vision": 1.0}, r"modality_dropout\['vision'\]=1.0 is impossible: a dropout lies in \[0, 1\)."),
        ({"text": None}, r"modality_dropout\['text'\]=None is impossible"),
    ],
)
def test_an_impossible_dropout_of_one_modality_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(modality_dropout=value)


def test_the_dropouts_of_modalities_are_saved_with_the_config(tmp_path):
    tiny_config(modality_dropout={"vision": 0.25}).save_pretrained(tmp_path)
    assert UMEConfig.from_pretrained(tmp_path).modality_dropout == {"vision": 0.25}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["0.25"], 0.25),
        (["text=0.3", "vision=1e-1"], {"text": 0.3, "vision": 0.1}),
        (['{"vision": 0.2}'], {"vision": 0.2}),
    ],
)
def test_the_command_line_takes_one_rate_or_one_a_modality(given, expected):
    recipe = parse_recipe(["easy_vqa", "--modality_dropout", *given])
    assert recipe.model.modality_dropout == expected


def test_a_recipe_names_a_rate_a_modality_and_several_are_tried_one_by_one():
    mapping = {"vision": 0.2, "text": 0.1}
    assert make_recipe("easy_vqa", {"modality_dropout": mapping}).model.modality_dropout == mapping
    swept = parse_recipe(["easy_vqa", "--modality_dropout", "0.1", "text=0.2"], several=True).sweep
    assert [recipe.model.modality_dropout for recipe in swept] == [0.1, {"text": 0.2}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["text=0.1", "text=0.2"], "modality_dropout has text twice: give it once."),
        (["often"], "'often' is neither a number nor name=number"),
        (["=0.1"], "'=0.1' is neither a number nor name=number"),
        (["{text: 0.1}"], "a mapping is not valid JSON"),
        (["audio=0.1"], "modality_dropout names 'audio'"),
        (["1"], "modality_dropout=1.0 is impossible"),
    ],
)
def test_rates_that_cannot_be_read_are_sentences_before_any_work(given, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(["easy_vqa", "--modality_dropout", *given])


def test_modality_dropout_is_saved_with_the_config(tmp_path):
    tiny_config(modality_dropout=0.25).save_pretrained(tmp_path)
    assert UMEConfig.from_pretrained(tmp_path).modality_dropout == 0.25


def test_a_recipe_sets_modality_dropout(tmp_path):
    files = write_vqa_files(tmp_path / "data")
    recipe = parse_recipe([str(write_tiny_recipe(tmp_path / "tiny.yaml", files, modality_dropout=0.25))])
    data = load_data(recipe.data, log_dir=tmp_path)
    tokenizer = words_tokenizer(data.train["question"][:], 16)
    model = build_model(recipe.model, build_processor(recipe.model, tokenizer, data.vocabulary))
    assert model.config.modality_dropout == 0.25


# The robustness curve.


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat", "product", "ume"])
def test_an_answer_depends_on_its_own_example_alone(fusion):
    # What lets a curve be mixed from the answers with an input and those without.
    model, batch = tiny_model(fusion=fusion), tiny_batch()
    question_only = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    present = torch.tensor([True, False, True])
    mixed = model(**batch, image_present=present).logits
    expected = torch.where(present[:, None], model(**batch).logits, question_only)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-6)


def rows(count):
    return Dataset.from_list(
        [{"answers": ["right"] * 10, "answer_type": "other", "question_type": "what"} for _ in range(count)]
    )


def test_the_curve_falls_by_exactly_the_answers_that_are_lost():
    curve = robustness_curve(["right"] * 40, ["wrong"] * 40, rows(40), rates=[1.0, 0.0, 0.25, 0.25])
    assert [point["rate"] for point in curve] == [0.0, 0.25, 1.0]
    assert [point["missing"] for point in curve] == [0, 10, 40]
    assert [point["vqa_accuracy"] for point in curve] == pytest.approx([100.0, 75.0, 0.0])


def test_those_that_lack_an_input_lack_it_at_every_higher_rate(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "training_ume.evaluation.evaluate.score_answers", lambda answers, dataset: seen.append(answers) or {}
    )
    for seed in (0, 1):
        robustness_curve(["with"] * 40, ["without"] * 40, rows(40), rates=[0.1, 0.5, 0.9], seed=seed)
    missing = [{i for i, answer in enumerate(answers) if answer == "without"} for answers in seen]
    assert missing[0] < missing[1] < missing[2]
    assert missing[1] != missing[4], "another seed drew the same questions"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny trained model's folder, and the command line that evaluates it."""
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    train_and_evaluate(parse_recipe([str(write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1))]))
    options = ["--questions", files["train_questions"], "--images", files["train_images"]]
    return [str(folder / "run"), *options], ["--annotations", files["train_annotations"]]


def test_the_curve_ends_at_the_baselines_and_is_drawn_beside_the_results(tmp_path, trained, capsys):
    pytest.importorskip("matplotlib")
    model, annotations = trained
    out = tmp_path / "results.json"
    options = ["--drop", "image", "text", "--baselines", "question_only", "image_only", "--out", str(out)]
    assert main(["evaluate", *model, *annotations, *options]) == 0
    results = json.loads(out.read_text())
    curves = results["robustness"]["curves"]
    assert results["robustness"]["seed"] == 0
    for missing, baseline in (("image", "question_only"), ("text", "image_only")):
        assert [point["rate"] for point in curves[missing]] == [0.0, 0.25, 0.5, 0.75, 1.0]
        first, last = curves[missing][0], curves[missing][-1]
        assert {name: first[name] for name in results["scores"]} == results["scores"]
        blind = {name: score for name, score in results["baselines"][baseline].items() if name != "what"}
        assert {name: last[name] for name in blind} == blind
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "without image" in printed
    assert f"wrote {out.with_suffix('.png')}" in printed


def test_without_drop_the_results_hold_no_curve(tmp_path, trained):
    model, annotations = trained
    assert main(["evaluate", *model, *annotations, "--out", str(tmp_path / "results.json")]) == 0
    assert "robustness" not in json.loads((tmp_path / "results.json").read_text())
    assert not (tmp_path / "results.png").exists()


@pytest.mark.parametrize(
    ("options", "annotated", "sentence"),
    [
        (["--drop", "image"], True, "give --out results.json"),
        (["--drop", "image", "--rate", "1.5", "--out", "OUT"], True, r"rate=1.5 is impossible"),
        (["--drop", "image", "--out", "OUT"], False, "leave --drop out"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_one_sentence(tmp_path, trained, capsys, options, annotated, sentence):
    model, annotations = trained
    options = [str(tmp_path / "results.json") if option == "OUT" else option for option in options]
    assert main(["evaluate", *model, *(annotations if annotated else []), *options]) == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_missing_matplotlib_is_named_before_the_model_runs(tmp_path, trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    model, annotations = trained
    assert main(["evaluate", *model, *annotations, "--drop", "text", "--out", str(tmp_path / "results.json")]) == 2
    assert "`pip install matplotlib`" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_a_table_whose_picture_column_is_partly_empty_is_trained_on_and_scored(tmp_path):
    files = write_vqa_files(tmp_path)
    named = {name: files[f"train_{name}"] for name in ("questions", "annotations", "images")}
    rows = load_vqa(**named)
    rows = rows.map(lambda row, i: {"image": "" if i % 2 else row["image"]}, with_indices=True)
    vocabulary = AnswerVocabulary.from_answers(rows["answers"][:])
    processor = UMEProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), words_tokenizer(rows["question"][:]))
    model = tiny_model(id2label=dict(vocabulary.id2label), num_labels=None)
    collator = VQACollator(processor, vocabulary)
    arguments = UMETrainingArguments(
        str(tmp_path / "run"), per_device_train_batch_size=1, per_device_eval_batch_size=1, max_steps=4, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", eval_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    trainer = UMETrainer(model, arguments, data_collator=collator, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert "eval_exact_match" in trainer.evaluate()
    assert len(predict(model, VQACollator(processor), rows, batch_size=1)) == len(rows)
    without = rows.map(lambda row: {"image": ""})
    with pytest.raises(VQADataError, match="was loaded without images"):
        predict(model, VQACollator(processor), without, batch_size=2)


def test_of_a_table_that_holds_no_questions_the_pictures_alone_are_seen_whatever_the_batch(tmp_path):
    files = write_vqa_files(tmp_path)
    named = {name: files[f"train_{name}"] for name in ("questions", "annotations", "images")}
    rows = load_vqa(**named).select(range(6))
    processor = UMEProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), words_tokenizer(rows["question"][:]))
    model = tiny_model()
    silent = [{**row, "question": ""} for row in rows]
    partly = [{**row, "question": row["question"] if i % 2 else ""} for i, row in enumerate(rows)]
    pictures = model(**VQACollator(processor, inputs="image")(silent)).logits
    told = VQACollator(processor, may_lack=["text"])
    torch.testing.assert_close(model(**told(silent)).logits, pictures, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(**told(partly)).logits[::2], pictures[::2], rtol=0, atol=1e-5)
    # Asked as such, it is a question without words, alone and in any batch.
    untold = VQACollator(processor)
    alone = torch.cat([model(**untold([row])).logits for row in partly])
    torch.testing.assert_close(model(**untold(partly)).logits, alone, rtol=0, atol=1e-5)
    assert (alone[0] - pictures[0]).abs().max() > 1e-3

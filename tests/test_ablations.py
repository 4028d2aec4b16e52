"""What changes training: each does what its formula says, resumes exactly, leaves no trace, and is compared fairly."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import tiny_batch, tiny_model
from PIL import Image
from safetensors.torch import load_file
from test_trainer import assert_same_weights, interrupt_after, tiny, weights  # noqa: F401 (tiny is a fixture)
from torch import nn
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume.arguments import ModelArguments
from configuration_ume.parsing import parse_recipe
from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.tasks_ume import answer_loss
from training_ume.commands.arena import main
from training_ume.data.collator import VQACollator
from training_ume.evidence import arena
from training_ume.evidence.ablations import ABLATIONS
from training_ume.records.files import read_json, write_json
from training_ume.report.ablations import ablations_table, verdict
from training_ume.training.averaging import WeightAverage
from training_ume.training.prepare import load_data
from training_ume.training.question_only import QuestionOnly
from training_ume.training.run import train_and_evaluate
from training_ume.training.saving import TRAINED_WEIGHTS
from training_ume.training.trainer import UMETrainer, smooth_targets

# ------------------------------------------------------------------------------------------------------------- targets


def test_smoothed_targets_give_the_loss_of_cross_entropys_own_smoothing():
    batch, labels = tiny_batch(), torch.tensor([2, -100, 5])
    output = tiny_model()(**batch, labels=smooth_targets(labels, 7, 0.2))
    expected = nn.functional.cross_entropy(output.logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(output.loss, expected)


def test_soft_scores_are_smoothed_as_shares():
    smoothed = smooth_targets(torch.tensor([[1.0, 0.5, 0.0, 0.0]]), 4, 0.2)
    shares = smoothed / smoothed.sum()
    torch.testing.assert_close(shares, torch.tensor([[0.8 * 2 / 3 + 0.05, 0.8 / 3 + 0.05, 0.05, 0.05]]))


def test_labels_are_smoothed_in_training_and_not_in_evaluation(tiny):  # noqa: F811
    fields = {"num_train_epochs": 1, "learning_rate": 0.0, "fusion_dropout": 0.0, "classifier_dropout": 0.0}
    plain = train_and_evaluate(tiny("plain", **fields))["epochs"][0]
    smoothed = train_and_evaluate(tiny("smoothed", label_smoothing_factor=0.5, **fields))["epochs"][0]
    assert smoothed["validation_loss"] == plain["validation_loss"]
    assert smoothed["train_loss"] != plain["train_loss"]


def test_a_recipe_with_soft_targets_trains_a_softmax_on_all_ten_answers(tiny, tmp_path):  # noqa: F811
    recipe = tiny(num_train_epochs=1, soft_targets=True)
    assert "vqa_accuracy" in train_and_evaluate(recipe)["scores"]
    model = UMEForVisualQuestionAnswering.from_pretrained(recipe.training.output_dir)
    assert model.config.problem_type == "single_label_classification"
    data = load_data(recipe.data, log_dir=tmp_path)
    collator = VQACollator(
        UMEProcessor.from_pretrained(recipe.training.output_dir), data.vocabulary, soft_targets=True
    )
    assert torch.equal(collator([data.train[0]])["labels"], data.vocabulary.soft_targets([data.train[0]["answers"]]))


# ------------------------------------------------------------------------------------------------- average of weights


def test_the_average_is_the_recursion_written_by_hand():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    average, expected = WeightAverage([parameter], 0.3), parameter.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            parameter.add_(step)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.averages[0], expected)
    with average.in_place():
        torch.testing.assert_close(parameter.detach(), expected)
    assert parameter.tolist() == [16.0, 13.0]


@pytest.mark.parametrize("keeps_best", [True, False])
def test_the_average_of_all_steps_is_evaluated_and_saved(tiny, monkeypatch, keeps_best):  # noqa: F811
    steps, evaluated = [], []
    on_step_end, prediction_step = WeightAverage.on_step_end, UMETrainer.prediction_step

    def watched_step(self, args, state, control, model, **kwargs):
        if not steps:
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            steps.append(dict(zip(names, [value.clone() for value in self.averages], strict=True)))
        steps.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        return on_step_end(self, args, state, control, **kwargs)

    def watched_prediction(self, model, *args, **kwargs):
        evaluated.append(self.model.classifier.weight.detach().clone())
        return prediction_step(self, model, *args, **kwargs)

    monkeypatch.setattr(WeightAverage, "on_step_end", watched_step)
    monkeypatch.setattr(UMETrainer, "prediction_step", watched_prediction)
    recipe = tiny(num_train_epochs=1, ema_decay=0.9, freeze_vision=True, load_best_model_at_end=keeps_best)
    train_and_evaluate(recipe)
    folder = Path(recipe.training.output_dir)
    checkpoint = next(folder.glob("checkpoint-*"))
    raw = load_file(checkpoint / TRAINED_WEIGHTS)
    assert raw.keys() == steps[0].keys()
    assert not any("vision_model" in name for name in raw)  # frozen
    for name, last in raw.items():
        expected, *values = (step[name] for step in steps)
        for t, value in enumerate(values, 1):
            decay = min(0.9, (1 + t) / (10 + t))
            expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(weights(folder)[name], expected)
        torch.testing.assert_close(weights(checkpoint)[name], expected)
        assert torch.equal(last, values[-1])
    assert torch.equal(evaluated[0], weights(folder)["classifier.weight"])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ema_decay": 0.9, "load_best_model_at_end": False}, marks=pytest.mark.slow),
        pytest.param({"rubi_weight": 1.0}, marks=pytest.mark.slow),
        {"ema_decay": 0.9, "rubi_weight": 1.0, "soft_targets": True, "label_smoothing_factor": 0.1},
        pytest.param({"ema_decay": 0.9, "rubi_weight": 1.0, "lora_r": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda fields: "-".join(fields),
)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tiny, monkeypatch, fields):  # noqa: F811
    if "lora_r" in fields:
        pytest.importorskip("peft")
    train_and_evaluate(tiny("whole", **fields))
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=8)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny("cut", **fields))
    recipe = tiny("cut", resume_from_checkpoint=True, **fields)
    results = train_and_evaluate(recipe)
    folder = Path(recipe.training.output_dir)
    assert_same_weights(folder.parent / "whole", folder)
    whole = read_json(folder.parent / "whole" / "results.json")
    assert [epoch["validation_loss"] for epoch in results["epochs"]] == [e["validation_loss"] for e in whole["epochs"]]


# ---------------------------------------------------------------------------------------------- question-only branch


@pytest.mark.parametrize("fusion", ["ume", "late_vote"])
def test_the_branch_scales_the_logits_and_adds_its_own_loss(fusion):
    model = tiny_model(fusion=fusion, classifier_dropout=0.0, fusion_dropout=0.0)
    batch, labels = tiny_batch(), torch.tensor([1, 2, 3])
    before = model(**batch).logits
    names = set(model.state_dict())
    branch = QuestionOnly(model, weight=0.5)
    with torch.no_grad():
        branch.classifier.weight.normal_()
    text = model.ume.encode_text(batch["input_ids"], batch["attention_mask"])
    guess = branch.guess(text.pooled)  # [B, C]
    views = model.classifier(model.ume(**batch).fused) * guess.sigmoid()[:, None]
    kind = model.config.problem_type
    shares = None if fusion == "ume" else torch.full((3, 2), 0.5)
    expected = answer_loss(views[:, 0] if fusion == "ume" else views, labels, kind, shares)
    expected = expected + 0.5 * nn.functional.cross_entropy(branch.classifier(guess), labels)
    for module in (model, model.ume, model.ume.fusion, model.classifier):
        module.training = True  # without the encoders' dropout
    output = model(**batch, labels=labels)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(p.grad is not None for p in branch.parameters())
    model.eval()
    assert torch.equal(model(**batch).logits, before)
    branch.detach_from(model)
    assert set(model.state_dict()) == names
    assert not model._forward_hooks
    assert not model.classifier._forward_hooks


def test_no_gradient_of_the_branch_reaches_the_question_encoder():
    model = tiny_model().train()
    branch = QuestionOnly(model, weight=1.0)
    model(**tiny_batch(), labels=torch.tensor([1, 2, 3]))  # the branch reads the question
    model.ume.fusion.register_forward_pre_hook(lambda fusion, args: seen.append(args[0][0].pooled))
    seen = []
    model.ume(**tiny_batch())
    assert seen[0].requires_grad
    assert torch.autograd.grad(branch.logits.sum(), seen[0], allow_unused=True) == (None,)


def test_a_saved_model_has_no_trace_of_the_branch(tiny):  # noqa: F811
    train_and_evaluate(tiny("plain", num_train_epochs=1))
    recipe = tiny("rubi", num_train_epochs=1, rubi_weight=1.0, beside=["question_only"])
    results = train_and_evaluate(recipe)
    folder = Path(recipe.training.output_dir)
    plain, checkpoint = weights(folder.parent / "plain"), next(folder.glob("checkpoint-*"))
    for saved in (weights(folder), weights(checkpoint)):
        assert {name: value.shape for name, value in saved.items()} == {n: v.shape for n, v in plain.items()}
    assert all("question_only" in name for name in load_file(checkpoint / TRAINED_WEIGHTS))
    assert not (folder / "beside" / "question_only" / checkpoint.name / TRAINED_WEIGHTS).exists()  # blind anyway
    assert [row["name"] for row in results["comparison"]] == ["ume", "question_only"]
    moved = [name for name in plain if not torch.equal(plain[name], weights(folder)[name])]
    assert "classifier.weight" in moved


def test_a_head_that_reads_both_in_one_has_no_question_alone():
    with pytest.raises(ValueError, match=r"rubi_weight needs a summary of the question alone.*early_input"):
        QuestionOnly(tiny_model(fusion="early_input"), 1.0)


# ------------------------------------------------------------------------------- resolution and earlier runs' weights


def pretrained_vit(tiny, tmp_path):  # noqa: F811
    train_and_evaluate(tiny("first", num_train_epochs=1))
    model = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "first")
    model.ume.vision_model.save_pretrained(tmp_path / "vit")
    UMEProcessor.from_pretrained(tmp_path / "first").image_processor.save_pretrained(tmp_path / "vit")
    return {"vision_config": None, "vision_model": str(tmp_path / "vit")}


def test_a_pretrained_encoder_reads_larger_images_and_training_goes_on_from_smaller_ones(tiny, tmp_path):  # noqa: F811
    vit = pretrained_vit(tiny, tmp_path)
    low = tiny("low", num_train_epochs=1, image_size=None, **vit)
    train_and_evaluate(low)
    high = tiny("high", num_train_epochs=1, image_size=32, init_from=low.training.output_dir, learning_rate=0.0, **vit)
    train_and_evaluate(high)
    assert_same_weights(tmp_path / "low", tmp_path / "high")
    tokens = {}
    for name in ("low", "high"):
        model = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / name)
        pixels = UMEProcessor.from_pretrained(tmp_path / name)(images=Image.new("RGB", (40, 36)))["pixel_values"]
        tokens[name] = model.ume.encode_image(pixels).states.shape[1]
    assert tokens == {"low": 4 + 1, "high": 16 + 1}  # patches of 8, and the class token


def test_features_of_another_resolution_are_refused(tiny, tmp_path):  # noqa: F811
    from training_ume.training.feature_sets import cache_recipe

    vit = pretrained_vit(tiny, tmp_path)
    fields = {"freeze_vision": True, "feature_cache": str(tmp_path / "features"), "num_train_epochs": 1, **vit}
    cache_recipe(tiny("a", image_size=None, **fields))
    with pytest.raises(ValueError, match=r"processor.size.height is 16 in the cache and 32 here"):
        train_and_evaluate(tiny("b", image_size=32, **fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fusion": "concat"}, "is another model: "),
        ({"top_k_answers": 3}, "knows 7 answers, which are not the 3"),
        ({"init_from": "nowhere"}, "init_from='nowhere' cannot be loaded"),
    ],
)
def test_weights_of_another_model_are_refused(tiny, tmp_path, fields, sentence):  # noqa: F811
    train_and_evaluate(tiny("first", num_train_epochs=1))
    with pytest.raises(ValueError, match=sentence):
        train_and_evaluate(tiny("second", num_train_epochs=1, **{"init_from": str(tmp_path / "first"), **fields}))


def test_a_run_begun_before_a_field_existed_is_resumed(tiny):  # noqa: F811
    recipe = tiny(num_train_epochs=1)
    train_and_evaluate(recipe)
    path = Path(recipe.training.output_dir) / "arguments.json"
    arguments = read_json(path)
    for name in ("soft_targets", "init_from"):
        del arguments["model"][name]
    write_json(path, arguments)
    train_and_evaluate(tiny(num_train_epochs=1, resume_from_checkpoint=True))
    with pytest.raises(ValueError, match="soft_targets was False and is True"):
        train_and_evaluate(tiny(num_train_epochs=1, soft_targets=True, resume_from_checkpoint=True))


# ----------------------------------------------------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def tiny_ablations(tmp_path_factory):
    """The summary of a few ablations over made-up data, and the command's arguments."""
    folder = tmp_path_factory.mktemp("ablations")
    recipe = write_tiny_recipe(folder / "tiny.yaml", write_vqa_files(folder), num_train_epochs=1)
    arguments = [
        str(recipe), "--output_dir", str(folder / "runs"), "--out", str(folder / "out.json"), "--seeds", "0", "1",
        "--learning_rates", "1e-3", "1e-2",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # in this process; tests/test_arena.py starts others
        patch.setattr(arena, "ProcessPoolExecutor", ThreadPoolExecutor)
        patch.setattr(arena, "_enter", lambda recipe, *rest: setattr(arena, "_ring", arena.Ring.of(recipe)))
        assert main([*arguments, "--ablations", "ema", "question_only_regulariser"]) == 0
    return folder, arguments, json.loads((folder / "out.json").read_text())


def test_every_change_is_compared_with_the_recipe_as_it_is(tiny_ablations):
    folder, _, summary = tiny_ablations
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows.keys() == {"base", "ema", "question_only_regulariser"}
    assert "gain" not in rows["base"]
    for name in ("ema", "question_only_regulariser"):
        row = rows[name]
        assert row["changes"] == ABLATIONS[name]
        gain = row["vqa_accuracy"]["mean"] - rows["base"]["vqa_accuracy"]["mean"]
        assert row["gain"]["mean"] == pytest.approx(gain, abs=1e-3)
        assert row["gain"]["interval"][0] <= row["gain"]["mean"] <= row["gain"]["interval"][1]
        assert row["seeds"] == [0, 1]
        assert set(row["tried"]) == {"0.001", "0.01"}
    trained = [json.loads((folder / "runs" / f"{name}-lr0.001-seed0.json").read_text()) for name in ("base", "ema")]
    assert trained[0]["changes"] == {}
    assert trained[1]["changes"] == {"ema_decay": 0.99}
    lines = ablations_table(summary).splitlines()
    assert lines[2].startswith("| base |")
    assert "`rubi_weight: 1.0`" in "".join(lines[3:5])


def test_only_an_interval_above_zero_pays():
    assert verdict({"gain": {"interval": [0.1, 2.0]}}) == "pays"
    assert verdict({"gain": {"interval": [0.0, 2.0]}}) == "undecided"
    assert verdict({"gain": {"interval": [-2.0, -0.1]}}) == "harms"


def test_nothing_is_overwritten_unasked_and_what_is_finished_is_not_run_again(tiny_ablations, capsys, monkeypatch):
    folder, arguments, summary = tiny_ablations
    rows = ["--ablations", "ema", "question_only_regulariser"]
    monkeypatch.setattr(arena, "ProcessPoolExecutor", None)  # no training could start
    assert main([*arguments, *rows]) == 2
    assert "out.json exists: add --overwrite" in capsys.readouterr().err
    assert main([*arguments, *rows, "--overwrite"]) == 0
    assert json.loads((folder / "out.json").read_text())["rows"] == summary["rows"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--ablations", "emma"], "'emma' is no ablation: choose from soft_targets"),
        (["--ablations", "higher_resolution"], "give --higher_resolution"),
        (["--ablations", "--higher_resolution", "big", "null"], "is a whole number of pixels"),
        (["--ablations", "ema", "--ema_decay", "0.99"], "has ema already"),
        (["--ablations", "--problem_type", "multi_label_classification"], "does not go with soft_targets: "),
        (
            ["--ablations", "label_smoothing", "--problem_type", "multi_label_classification"],
            "does not go with label_smoothing: label_smoothing_factor is for a softmax",
        ),
        (["--ablations", "ema", "--budget", "9"], "--budget is for heads of several kinds"),
        (["--ablations", "ema", "--label_smoothing_factor", "0.1"], "training differ"),
    ],
)
def test_impossible_ablations_are_refused_in_a_sentence(tiny_ablations, capsys, more, sentence):
    _, arguments, _ = tiny_ablations
    assert main([*arguments, "--overwrite", *more]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_of_another_change_with_the_same_name_is_not_taken_for_it(tiny_ablations, capsys, monkeypatch):
    _, arguments, _ = tiny_ablations
    monkeypatch.setitem(ABLATIONS, "ema", {"ema_decay": 0.5})
    assert main([*arguments, "--overwrite", "--ablations", "ema"]) == 2
    assert "was trained with other changes: {'ema_decay': 0.99}" in capsys.readouterr().err


def test_terms_of_an_older_version_count_with_the_defaults_of_newer_fields(tmp_path):
    folder = tmp_path / "runs"
    model = {name: getattr(parse_recipe(["easy_vqa"]).model, name) for name in ModelArguments.__dataclass_fields__}
    terms = {"model": {name: v for name, v in model.items() if name not in arena.OWN}, "training": {}, "data": {}}
    older = {name: value for name, value in terms["model"].items() if name not in ("soft_targets", "init_from")}
    write_json(folder / "terms.json", {"model": older, "data": {}})
    arena.check_terms(folder, terms)
    with pytest.raises(ValueError, match="model differ"):
        arena.check_terms(folder, {**terms, "model": {**terms["model"], "soft_targets": True}})

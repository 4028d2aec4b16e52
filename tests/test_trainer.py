"""Training: resumed runs end with the same weights, each part has its learning rate, and results say what was done."""

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from vqa_files import write_tiny_recipe, write_vqa_files

import training_ume.evaluation.baselines
import training_ume.evaluation.scores
import training_ume.evaluation.scoring
import training_ume.training.run
from configuration_ume.parsing import parse_recipe
from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.build.tokenizer import words_tokenizer
from training_ume.evaluation.answering import predict
from training_ume.evaluation.load import load_checkpoint
from training_ume.records.checkpoints import last_whole_checkpoint
from training_ume.records.comparison import comparison_rows, comparison_table
from training_ume.records.files import read_json, write_json
from training_ume.records.machine import environment
from training_ume.report.markdown import align
from training_ume.training.prepare import load_data
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import UMETrainer


@pytest.fixture
def tiny(tmp_path):
    """Returns a function that writes the data once and parses the tiny recipe with changes."""
    files = write_vqa_files(tmp_path / "data", rare_answer=True)

    def recipe(output="run", argv=(), **fields):
        path = write_tiny_recipe(tmp_path / "tiny.yaml", files, output_dir=str(tmp_path / output), **fields)
        return parse_recipe([str(path), *argv])

    return recipe


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def interrupt_after(monkeypatch, steps: int):
    """Lets the user press Ctrl-C after so many training steps."""
    step = UMETrainer.training_step
    count = 0

    def training_step(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count > steps:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(UMETrainer, "training_step", training_step)


@pytest.mark.parametrize(
    ("save", "group_by_image"),
    [
        ({"save_strategy": "epoch"}, True),
        ({"save_strategy": "steps", "save_steps": 2}, False),
        pytest.param({"save_strategy": "epoch"}, False, marks=pytest.mark.slow),
        pytest.param({"save_strategy": "steps", "save_steps": 2}, True, marks=pytest.mark.slow),
        pytest.param({"save_strategy": "steps", "save_steps": 5}, True, marks=pytest.mark.slow),
        pytest.param({"save_strategy": "steps", "save_steps": 5}, False, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tiny, monkeypatch, save, group_by_image):
    # By steps a checkpoint lies in the middle of an epoch, or, after five, at its end, where the evaluation comes
    # first. Only evaluated checkpoints can be the best model.
    fields = {**save, "group_by_image": group_by_image, "load_best_model_at_end": save["save_strategy"] == "epoch"}
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
    assert results["scores"] == whole["scores"]
    assert [epoch["validation_loss"] for epoch in results["epochs"]] == [e["validation_loss"] for e in whole["epochs"]]


def test_a_half_written_checkpoint_is_passed_over(tiny, monkeypatch, capsys):
    train_and_evaluate(tiny("whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=12)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny("cut"))
    folder = Path(tiny("cut").training.output_dir)
    first, second = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (second / "trainer_state.json").write_text('{"global_step": ')  # killed while it was being written
    (folder / f"_{second.name}.unfinished").touch()
    assert last_whole_checkpoint(folder) == (first, [second])
    capsys.readouterr()
    train_and_evaluate(tiny("cut", resume_from_checkpoint=True))
    printed = capsys.readouterr().out
    assert f"{second.name} was being written when the run was cut short" in printed
    assert f"Going on from {first}" in printed
    assert_same_weights(folder.parent / "whole", folder)


@pytest.mark.parametrize("missing", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_lacks_a_file_is_not_whole(tmp_path, missing):
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).touch()
    (checkpoint / "trainer_state.json").write_text('{"global_step": 3}')
    assert last_whole_checkpoint(tmp_path) == (checkpoint, [])
    (checkpoint / missing).unlink()
    assert last_whole_checkpoint(tmp_path) == (None, [checkpoint])


def test_a_resumed_run_with_other_arguments_is_refused(tiny):
    train_and_evaluate(tiny(num_train_epochs=1))
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001 and is 0\.5"):
        train_and_evaluate(tiny(num_train_epochs=1, learning_rate=0.5, resume_from_checkpoint=True))


def test_a_finished_set_is_not_run_again(tiny, monkeypatch):
    fields = {"num_train_epochs": 1, "beside": ["concat", "question_only"], "seeds": [0, 1]}
    first = train_and_evaluate(tiny(**fields))
    monkeypatch.setattr(UMETrainer, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert train_and_evaluate(tiny(resume_from_checkpoint=True, **fields))["comparison"] == first["comparison"]


def test_a_set_compares_all_models_over_all_seeds_on_the_same_rows(tiny):
    recipe = tiny(num_train_epochs=1, beside=["concat", "question_only"], seeds=[0, 1])
    results = train_and_evaluate(recipe)
    assert [row["name"] for row in results["comparison"]] == ["ume", "concat", "question_only"]
    folder = Path(recipe.training.output_dir)
    runs = [folder / f"seed{s}" for s in (0, 1)]
    runs += [folder / "beside" / name / f"seed{s}" for name in ("concat", "question_only") for s in (0, 1)]
    records = [read_json(run / "results.json") for run in runs]
    assert all(record["data"] == records[0]["data"] for record in records)
    assert [record["arguments"]["data"]["inputs"] for record in records] == ["both"] * 4 + ["question"] * 2
    row = results["comparison"][0]["vqa_accuracy"]
    each = [record["scores"]["vqa_accuracy"] for record in records[:2]]
    assert row["each"] == each
    assert row["mean"] == pytest.approx(sum(each) / 2)
    assert row["sd"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)


def test_results_say_what_was_trained_on_what(tiny):
    results = train_and_evaluate(tiny(num_train_epochs=2, top_k_answers=6))
    assert results["data"]["train_questions"] + results["data"]["train_questions_left_out"] in (18, 19)
    assert results["data"]["validation_images"] == 2
    assert results["scores"].keys() >= {"vqa_accuracy", "exact_match", "per_answer_type"}
    assert results["baselines"].keys() == {"most_common_answer", "question_lookup"}
    assert [epoch["epoch"] for epoch in results["epochs"]] == [1.0, 2.0]
    assert results["parameters"]["total"] == sum(
        results["parameters"][part] for part in ("encoders", "fusion", "classifier")
    )
    assert results["train_seconds"] > 0
    assert results["environment"]["versions"]["torch"] == torch.__version__
    assert results == read_json(Path(tiny().training.output_dir) / "results.json")


def test_the_epoch_is_chosen_on_images_held_out_and_the_test_questions_are_scored_once(tiny, tmp_path, monkeypatch):
    scored = []

    def score_answers(answers, rows, score=training_ume.evaluation.scores.score_answers):
        scored.append(set(rows["image"][:]))
        return score(answers, rows)

    for module in (training_ume.evaluation.scores, training_ume.evaluation.baselines, training_ume.evaluation.scoring):
        monkeypatch.setattr(module, "score_answers", score_answers)
    files = write_vqa_files(tmp_path / "test", num_images=4)
    results = train_and_evaluate(tiny(**{name.replace("train", "eval"): path for name, path in files.items()}))
    held_out, test = scored[2], scored[-1]
    assert scored == [test] * 2 + [held_out] * 3 + [test]  # two baselines, three epochs, the trained model
    assert len(held_out) == 2
    assert {Path(path).parent for path in test} == {tmp_path / "test" / "images"}
    assert results["scored_on"] == "test"
    assert results["data"]["validation_images"] == 2
    assert results["data"]["test_questions"] == 12
    assert results["data"]["coverage"].keys() == {"train", "validation", "test"}


def test_questions_whose_answer_is_unknown_are_left_out_and_counted(tiny):
    recipe = tiny(top_k_answers=2)
    data = load_data(recipe.data, log_dir=Path("."))
    assert set(data.vocabulary.hard_targets(data.train["answers"][:]).tolist()) == {0, 1}
    assert data.summary["train_questions_left_out"] > 0


def test_the_best_epoch_is_what_is_saved(tiny):
    # With such a learning rate the last epoch is worse than an earlier one.
    recipe = tiny(num_train_epochs=6, learning_rate=0.05, lr_scheduler_type="constant")
    results = train_and_evaluate(recipe)
    best = max(epoch["vqa_accuracy"] for epoch in results["epochs"])
    assert results["scores"]["vqa_accuracy"] == pytest.approx(best)


def test_evaluations_leave_nothing_behind_however_many_there_are(tiny, monkeypatch):
    counts = []
    evaluate = UMETrainer.evaluate

    def counting(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        gc.collect()
        counts.append(sum(issubclass(type(thing), DataLoader) for thing in gc.get_objects()))
        return metrics

    monkeypatch.setattr(UMETrainer, "evaluate", counting)
    train_and_evaluate(tiny(num_train_epochs=4))
    assert counts == [counts[0]] * 4
    assert counts[0]


def test_each_part_has_its_own_learning_rate_and_norms_have_no_decay(tiny):
    recipe = tiny(fusion_learning_rate_multiplier=5.0, classifier_learning_rate_multiplier=50.0)
    trainer, model = make_trainer(recipe)
    groups = trainer.parameter_groups(model)
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(
        {"encoders": 1e-3, "fusion": 5e-3, "classifier": 5e-2}
    )
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    for group in groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.0) == (id(parameter) in norms | biases)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def make_trainer(recipe):
    data = load_data(recipe.data, log_dir=Path("."))
    tokenizer = words_tokenizer(data.train["question"][:], 16)
    processor = build_processor(recipe.model, tokenizer, data.vocabulary)
    model = build_model(recipe.model, processor)
    trainer = UMETrainer(
        model, recipe.training, data_collator=lambda rows: rows, train_dataset=data.train, eval_dataset=data.validation
    )
    return trainer, model


def test_a_frozen_encoder_keeps_its_weights_and_the_other_learns(tiny):
    recipe = tiny(num_train_epochs=1, freeze_vision=True)
    train_and_evaluate(recipe)
    torch.manual_seed(0)
    folder = Path(recipe.training.output_dir)
    trained = weights(folder)
    shutil.rmtree(folder)
    untrained = tiny(num_train_epochs=1, freeze_vision=True, learning_rate=0.0)
    train_and_evaluate(untrained)
    before = weights(folder)
    moved = {name for name in before if not torch.equal(before[name], trained[name])}
    assert not any(name.startswith("ume.vision_model") for name in moved)
    assert any(name.startswith("ume.text_model") for name in moved)


def test_a_lora_run_saves_base_adapter_and_merged_model_that_answer_alike(tiny):
    pytest.importorskip("peft")
    recipe = tiny(num_train_epochs=2, lora_r=2)
    results = train_and_evaluate(recipe)
    folder = Path(recipe.training.output_dir)
    assert results["parameters"]["trainable"] < results["parameters"]["total"]
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "adapter")
    merged, processor = load_checkpoint(str(folder))
    adapted, _ = load_checkpoint(str(folder / "adapter"))
    base, _ = load_checkpoint(str(folder / "base"))
    inputs = {**processor(text=["what color is it?"]), "pixel_values": torch.rand(1, 3, 16, 16)}
    with torch.no_grad():
        logits = [model(**inputs).logits for model in (merged, adapted, base)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


def test_an_interrupted_lora_run_ends_with_the_weights_of_an_uninterrupted_one(tiny, monkeypatch):
    pytest.importorskip("peft")
    train_and_evaluate(tiny("whole", lora_r=2))
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=8)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny("cut", lora_r=2))
    recipe = tiny("cut", lora_r=2, resume_from_checkpoint=True)
    train_and_evaluate(recipe)
    folder = Path(recipe.training.output_dir)
    assert_same_weights(folder.parent / "whole", folder)


def test_a_pretrained_encoder_joins_a_new_one_with_its_own_weights(tiny, tmp_path):
    train_and_evaluate(tiny("first", num_train_epochs=1))
    model = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "first")
    processor = UMEProcessor.from_pretrained(tmp_path / "first")
    model.ume.vision_model.save_pretrained(tmp_path / "vit")
    processor.image_processor.save_pretrained(tmp_path / "vit")
    recipe = tiny("second", vision_config=None, vision_model=str(tmp_path / "vit"), image_size=None)
    _, joined = make_trainer(recipe)
    for name, value in model.ume.vision_model.state_dict().items():
        assert torch.equal(value, joined.ume.vision_model.state_dict()[name]), name
    assert joined.ume.text_model.embeddings.word_embeddings.num_embeddings == len(processor.tokenizer)


def test_answers_come_in_the_order_of_the_rows_whatever_the_batch(tiny, tmp_path):
    recipe = tiny(num_train_epochs=1)
    train_and_evaluate(recipe)
    model, processor = load_checkpoint(recipe.training.output_dir)
    from training_ume.data.collator import VQACollator

    rows = load_data(recipe.data, log_dir=tmp_path).train.shuffle(seed=3)
    collator = VQACollator(processor)
    assert predict(model, collator, rows, batch_size=5) == predict(model, collator, rows, batch_size=1)


def test_soft_targets_train_and_are_scored_without_gathering_them(tiny):
    recipe = tiny(num_train_epochs=1, problem_type="multi_label_classification")
    assert "vqa_accuracy" in train_and_evaluate(recipe)["scores"]


def test_words_tokenizer_lowers_pads_and_knows_every_training_word(tmp_path):
    tokenizer = words_tokenizer(["What is it?", "is IT a cat?"], max_length=8)
    ids = tokenizer(["what is it?", "a dog"], padding=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["[CLS]", "what", "is", "it", "?", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids[1]) == ["[CLS]", "a", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]
    assert tokenizer.model_max_length == 8


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"score": 1})
    with pytest.raises(TypeError):
        write_json(path, {"score": object()})
    assert read_json(path) == {"score": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_the_comparison_table_shows_mean_and_spread():
    def run(seed, score):
        return {
            "name": "ume",
            "seed": seed,
            "scores": {"vqa_accuracy": score, "exact_match": score},
            "train_seconds": 2.0,
            "train_cpu_seconds": 3.0,
            "parameters": {"total": 1000, "trainable": 10},
            "arguments": {"model": {"fusion": "ume"}, "data": {"inputs": "both"}},
        }

    rows = comparison_rows([run(0, 10.0), run(1, 20.0)])
    table = align(comparison_table(rows, {"most_common_answer": {"vqa_accuracy": 5.0, "exact_match": 4.0}}))
    assert "15.00 ± 7.07 (2 seeds)" in table
    assert "most common answer" in table
    assert environment()["hardware"]["cores"] >= 1

"""The trainer as a part of other programs: evaluations in any order, of any rows, and the options that users set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Subset
from transformers import TrainerCallback
from vqa_files import TINY, write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import parse_recipe
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.build.tokenizer import words_tokenizer
from training_ume.evaluation.scores import score_answers
from training_ume.training.prepare import load_data
from training_ume.training.run import build_trainer
from training_ume.training.trainer import UMETrainer

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_vqa_files(tmp_path_factory.mktemp("data"), num_images=6)


@pytest.fixture
def trainer(files, tmp_path):
    """Returns a function that makes the trainer of a tiny recipe, and keeps its data as `trainer.data`."""

    def make(change=lambda data: {}, **fields):
        still = {"fusion_dropout": 0.0, "classifier_dropout": 0.0, "num_train_epochs": 1, "save_strategy": "no"}
        still |= {"load_best_model_at_end": False, "eval_strategy": "no", "validation_fraction": 0.34}
        still["text_config"] = {"model_type": "bert", "max_position_embeddings": 16, **STILL, **TINY}
        still["vision_config"] = {"model_type": "vit", "patch_size": 8, **STILL, **TINY}
        recipe = parse_recipe([str(write_tiny_recipe(tmp_path / "tiny.yaml", files, **{**still, **fields}))])
        data = load_data(recipe.data, log_dir=str(tmp_path))
        processor = build_processor(recipe.model, words_tokenizer(data.train["question"][:], 16), data.vocabulary)
        torch.manual_seed(0)
        model = build_model(recipe.model, processor)
        made = build_trainer(recipe, model, processor, data.vocabulary, data.parts(), recipe.data.inputs)
        changes = change(data)
        if changes:
            made = UMETrainer(
                model,
                recipe.training,
                data_collator=made.data_collator,
                **{"train_dataset": data.train, "eval_dataset": data.validation, **changes},
            )
        made.data = data
        return made

    return make


def plain_answers(trainer, rows) -> list[str]:
    """What the model says to each row by itself."""
    trainer.model.eval()
    with torch.no_grad():
        ids = [trainer.model(**trainer.data_collator([row])).logits.argmax(-1).item() for row in rows]
    return [trainer.model.config.id2label[i] for i in ids]


def test_an_evaluation_before_training_scores_the_rows_it_is_given(trainer):
    trainer = trainer()
    rows = trainer.data.train.shuffle(seed=1).select(range(9))
    expected = score_answers(plain_answers(trainer, rows), rows)
    forms = {
        "dataset": rows,
        "slice": rows[:],
        "list": list(rows),
        "subset": Subset(rows, range(9)),
        "arrays": rows.with_format("numpy"),
        "stream": rows.to_iterable_dataset(),
        "frame": rows.to_pandas(),
        "without types": [{name: row[name] for name in ("question", "image", "answers")} for row in rows],
    }
    for name, form in forms.items():
        scores = trainer.evaluate(form, metric_key_prefix=name)
        assert scores[f"{name}_vqa_accuracy"] == pytest.approx(expected["vqa_accuracy"]), name
        assert f"{name}_loss" in scores
    predicted = trainer.predict(rows)
    assert predicted.metrics["test_exact_match"] == pytest.approx(expected["exact_match"])
    assert [trainer.model.config.id2label[int(i)] for i in predicted.predictions] == plain_answers(trainer, rows)
    assert "seconds" not in trainer.state.log_history[-1]  # the clock of a training that was not
    # By name, given and own.
    own = trainer.data.validation
    scores = trainer.evaluate({"a": rows, "b": own})
    assert scores["eval_a_vqa_accuracy"] == pytest.approx(expected["vqa_accuracy"])
    trainer.eval_dataset = {"few": rows, "own": own}
    assert trainer.evaluate()["eval_own_vqa_accuracy"] == scores["eval_b_vqa_accuracy"]
    assert trainer.evaluate("few", metric_key_prefix="x")["x_vqa_accuracy"] == scores["eval_a_vqa_accuracy"]
    assert len(trainer.accelerator._dataloaders) == 0


def test_rows_without_answers_are_answered_and_not_scored(trainer):
    trainer = trainer()
    rows = trainer.data.validation
    bare = rows.remove_columns(["answers"])
    predicted = trainer.predict(bare)
    assert predicted.label_ids is None
    assert not [name for name in predicted.metrics if "accuracy" in name or "loss" in name]
    assert predicted.predictions.tolist() == trainer.predict(rows).predictions.tolist()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (lambda rows: rows.select([]), "There are no rows to evaluate"),
        (lambda rows: [], "There are no rows to evaluate"),
        (lambda rows: {}, "There are no data sets to evaluate"),
        (lambda rows: 3, "These are no rows to evaluate"),
        (lambda rows: "few", "'few' is no name of an evaluation set"),
        (lambda rows: rows.remove_columns(["image"]), "have no column image"),
        (lambda rows: [{**rows[0], "answers": "red"}], "a list of strings, one an annotator"),
        (lambda rows: [rows[0], {**rows[1], "answers": []}], "1 of 2 rows to evaluate have no answers"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_a_sentence(trainer, rows, sentence):
    trainer = trainer()
    with pytest.raises(ValueError, match=sentence):
        trainer.evaluate(rows(trainer.data.validation))


def test_a_metric_of_the_users_own_is_given_logits_and_labels(trainer):
    met = []

    def compute_metrics(prediction):
        met.append((prediction.predictions.shape, prediction.label_ids.tolist()))
        return {"own": 1.0}

    trainer = trainer(lambda data: {"compute_metrics": compute_metrics})
    assert trainer.evaluate()["eval_own"] == 1.0
    rows, model = trainer.data.validation, trainer.model
    assert met == [((len(rows), model.config.num_labels), trainer.data_collator(list(rows))["labels"].tolist())]


def test_an_average_of_the_weights_is_what_is_evaluated_of_every_set(trainer):
    """Sets by name are evaluations inside an evaluation."""
    seen = []

    class Look(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append(metrics)

    trainer = trainer(
        lambda data: {"eval_dataset": {"a": data.validation, "b": data.validation}, "callbacks": [Look()]},
        ema_decay=0.9,
        eval_strategy="epoch",
        learning_rate=0.05,
    )
    trainer.train()
    alone = trainer.evaluate(trainer.data.validation)["eval_loss"]  # the average is the model now
    assert [next(v for k, v in metrics.items() if k.endswith("_loss")) for metrics in seen[:2]] == [alone, alone]


@pytest.mark.parametrize(
    ("problem_type", "unknown", "smoothing"),
    [
        ("single_label_classification", False, 0.0),
        ("single_label_classification", True, 0.1),
        ("multi_label_classification", False, 0.0),
    ],
)
def test_accumulated_batches_weigh_as_their_questions(trainer, problem_type, unknown, smoothing):
    """15 questions as 4 + 4 + 4 + 3 have the gradient of one batch of 15, also where some answers are unknown."""

    def gradient(batch_size, accumulated):
        made = trainer(
            lambda data: {"train_dataset": data.train.select([*range(11), *range(4)])},
            problem_type=problem_type,
            label_smoothing_factor=smoothing,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_grad_norm=0.0,
            validation_fraction=0.34,
        )
        if unknown:  # of the rows with question_id 0 and 1 only
            collate = made.data_collator

            def collator(rows):
                batch = collate(rows)
                batch["labels"][torch.tensor([row["question_id"] % 5 == 0 for row in rows])] = -100
                return batch

            made.data_collator = collator
        found = {}

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
                found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        made.add_callback(Keep())
        made.train()
        assert made.state.global_step == 1
        return found, made.state.log_history[-1]["train_loss"]

    (parts, loss), (whole, whole_loss) = gradient(4, 4), gradient(15, 1)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_accumulation_steps": 1, "per_device_eval_batch_size": 2},
        {"eval_do_concat_batches": False, "per_device_eval_batch_size": 4},
        {"batch_eval_metrics": True, "per_device_eval_batch_size": 4},
        {"include_for_metrics": ["inputs", "loss"], "per_device_eval_batch_size": 4},
        {"dataloader_drop_last": True, "per_device_eval_batch_size": 4},
        {"train_sampling_strategy": "sequential"},
        {"eval_use_gather_object": True},
        {"bf16": True},
        {"bf16_full_eval": True},
        {"problem_type": "multi_label_classification"},
    ],
    ids=str,
)
def test_an_option_of_evaluation_changes_no_score(trainer, fields):
    trainer = trainer(**fields)
    rows = trainer.data.train.select(range(7))
    scores = trainer.evaluate(rows)
    expected = score_answers(plain_answers(trainer, rows), rows)
    assert scores["eval_vqa_accuracy"] == pytest.approx(expected["vqa_accuracy"])


def test_the_loss_alone_is_what_is_asked_for(trainer):
    scores = trainer(prediction_loss_only=True).evaluate()
    assert "eval_loss" in scores
    assert not any("accuracy" in name for name in scores)


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_on_start": True, "eval_strategy": "epoch"},
        {"neftune_noise_alpha": 5.0},
        {"label_smoothing_factor": 0.1},
        {"max_steps": 2},
        {"full_determinism": True},
        {"logging_strategy": "no"},
        {"logging_strategy": "epoch"},
        {"optim": "adafactor"},
        {"optim": "sgd"},
        {"include_num_input_tokens_seen": "non_padding"},
        {"activation_checkpointing": True},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"save_strategy": "best", "eval_strategy": "epoch", "load_best_model_at_end": True},
        {"dataloader_drop_last": True},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_strategy": "epoch"},
        {"train_sampling_strategy": "sequential"},
        {"torch_empty_cache_steps": 1, "average_tokens_across_devices": False, "skip_memory_metrics": False},
    ],
    ids=str,
)
def test_an_option_of_training_trains(trainer, fields):
    trainer = trainer(**fields)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    try:
        trainer.train()
    finally:
        torch.use_deterministic_algorithms(False)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_rows_come_in_their_own_order_where_sequential_is_asked_for(trainer):
    trainer = trainer(train_sampling_strategy="sequential")
    batches = [batch["question_ids"] for batch in trainer.get_train_dataloader()]
    assert [question for batch in batches for question in batch] == trainer.data.train["question_id"][:]


def test_the_users_own_optimizer_is_used(trainer):
    trainer = trainer(lambda data: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.5})})
    trainer.create_optimizer()
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.optimizer.defaults["momentum"] == 0.5


def test_auto_find_batch_size_shrinks_the_batch_until_it_fits(trainer, monkeypatch):
    step, tried = UMETrainer.training_step, []

    def small_memory(self, model, inputs, *args, **kwargs):
        tried.append(len(inputs["labels"]))
        if tried[-1] > 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(UMETrainer, "training_step", small_memory)
    trainer = trainer(auto_find_batch_size=True, per_device_train_batch_size=9)
    trainer.train()
    fitting = [size for size in tried if size <= 5]
    assert sum(fitting) == len(trainer.data.train)  # an epoch, every question once
    assert tried == sorted(tried, reverse=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"metric_for_best_model": "accuracy"},
            "choose from eval_loss, .*eval_vqa_accuracy_yes/no",
        ),
        ({"metric_for_best_model": "eval_vqa_accuracy", "prediction_loss_only": True}, "choose from eval_loss"),
        (
            {"metric_for_best_model": "eval_vqa_accuracy", "named": True},
            "choose from eval_a_loss, eval_b_l",
        ),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused_before_the_first_step(trainer, monkeypatch, fields, sentence):
    monkeypatch.setattr(UMETrainer, "training_step", lambda *args, **kwargs: pytest.fail("a step was made"))
    named = lambda data: {"eval_dataset": {"a": data.validation, "b": data.validation}}  # noqa: E731
    change = named if fields.pop("named", False) else lambda data: {}
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    made = trainer(change, **best, **fields) if fields["metric_for_best_model"] != "accuracy" else trainer(**best)
    made.args.metric_for_best_model = fields["metric_for_best_model"]
    with pytest.raises(ValueError, match=f"metric_for_best_model=.* is not among what evaluations give: {sentence}"):
        made.train()


@pytest.mark.parametrize("metric", ["vqa_accuracy_yes/no", "eval_loss"])
def test_a_metric_is_known_with_and_without_its_prefix(trainer, metric):
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer(metric_for_best_model=metric, **best)
    trainer.train()
    assert trainer.args.greater_is_better == ("loss" not in metric)
    assert Path(trainer.state.best_model_checkpoint).is_dir()
    assert "eval_vqa_accuracy" in trainer.evaluate()


def test_a_norm_over_a_single_value_says_what_to_do(trainer):
    trainer = trainer()
    trainer.model.ume.text_model.embeddings.LayerNorm = Norm(16)
    row = trainer.data.train[0]
    batch = trainer.data_collator([{**row, "question": ""}])
    batch = {name: value[:, :1] if name in ("input_ids", "attention_mask") else value for name, value in batch.items()}
    batch.pop("token_type_ids", None)
    with pytest.raises(ValueError, match=r"a single value a channel .*question_ids 7.*dataloader_drop_last"):
        trainer.training_step(trainer.model, {**batch, "question_ids": [7]})


def test_a_last_batch_of_one_cell_says_what_to_do_and_what_it_says_works(trainer):
    """A convolutional encoder that makes a single cell of an image, and 11 questions in batches of 10."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    fields = {"vision_config": {"model_type": "resnet", **sizes}, "image_size": 32, "per_device_train_batch_size": 10}
    eleven = lambda data: {"train_dataset": data.train.select(range(11))}  # noqa: E731
    with pytest.raises(ValueError, match="in step 2: its batch holds one image of one cell"):
        trainer(eleven, **fields).train()
    assert trainer(eleven, **fields, dataloader_drop_last=True).train().global_step == 1
    assert trainer(eleven, **fields, freeze_vision=True).train().global_step == 2


class Norm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view_as(x)


def test_training_questions_without_answers_are_refused_in_a_sentence(trainer):
    trainer = trainer(lambda data: {"train_dataset": Dataset.from_list([dict(data.train[0], answers=[])] * 4)})
    with pytest.raises(ValueError, match="The training questions 0, 0, 0, 0 have no answers to learn"):
        trainer.train()

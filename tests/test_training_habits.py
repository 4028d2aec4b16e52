"""Training as users of the Hugging Face Trainer expect it: stopping early, class weights, model_init, a search."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional
from vqa_files import TINY, write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import parse_recipe
from training_ume.build.model import build_model
from training_ume.build.processor import build_collator, build_processor
from training_ume.build.tokenizer import build_tokenizer
from training_ume.records.files import read_json
from training_ume.training.balance import balanced_weights, question_weights
from training_ume.training.plan import plan
from training_ume.training.prepare import load_data
from training_ume.training.reporting import run_name, watched_apart
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import UMETrainer


@pytest.fixture
def tiny(tmp_path):
    """Returns a function that writes the data once and parses the tiny recipe with changes."""
    files = write_vqa_files(tmp_path / "data")

    def recipe(output="run", argv=(), **fields):
        path = write_tiny_recipe(tmp_path / "tiny.yaml", files, output_dir=str(tmp_path / output), **fields)
        return parse_recipe([str(path), *argv])

    return recipe


def trainer_of(recipe, model_init: bool = False, **fields) -> UMETrainer:
    data = load_data(recipe.data, log_dir=recipe.training.output_dir)
    processor = build_processor(recipe.model, build_tokenizer(recipe.model, data.train), data.vocabulary)

    def make():
        return build_model(recipe.model, processor)

    collator = build_collator(recipe.data, processor, data.vocabulary, recipe.model.problem_type, "both")
    return UMETrainer(
        *(() if model_init else (make(),)),
        args=recipe.training,
        **({"model_init": make} if model_init else {}),
        data_collator=collator,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=processor,
        **fields,
    )


# A learning rate of 0 gives the same score at each evaluation.
STUCK = {"learning_rate": 0.0, "num_train_epochs": 6, "early_stopping_patience": 1}


@pytest.mark.parametrize(
    "steps", [{}, {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}]
)
def test_training_stops_when_the_score_no_longer_rises_and_resumes_as_if_it_had_not_been_cut(tiny, steps, capsys):
    results = train_and_evaluate(tiny(**STUCK, **steps))
    assert len(results["epochs"]) == 2  # the first, and one that is not better
    assert results["stopped_early"] == {
        "epoch": results["epochs"][-1]["epoch"], "patience": 1, "score": "vqa_accuracy",
    }  # fmt: skip
    assert "vqa_accuracy did not improve in 1 evaluation" in capsys.readouterr().out
    # Cut short behind its last evaluation: there is nothing left to train, and nothing to evaluate again.
    folder = Path(tiny().training.output_dir)
    (folder / "results.json").unlink()
    again = train_and_evaluate(tiny(**STUCK, **steps, resume_from_checkpoint=True))
    assert [epoch["step"] for epoch in again["epochs"]] == [epoch["step"] for epoch in results["epochs"]]
    assert again["stopped_early"] == results["stopped_early"]
    assert again["scores"] == results["scores"]


def test_a_cut_training_counts_the_evaluations_before_the_cut(tiny, monkeypatch):
    patient = {**STUCK, "early_stopping_patience": 2}
    step, made = UMETrainer.training_step, []

    def cut(self, *args, **kwargs):
        made.append(1)
        if len(made) > 2 * 5:  # in the third epoch
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UMETrainer, "training_step", cut)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny(**patient))
    results = train_and_evaluate(tiny(**patient, resume_from_checkpoint=True))
    assert len(results["epochs"]) == 3


def test_stopping_early_needs_evaluations_with_a_score(tiny):
    for fields, said in (
        ({"early_stopping_patience": 0}, "give 1 or more"),
        ({"early_stopping_patience": 1, "eval_strategy": "no", "load_best_model_at_end": False}, "makes none"),
    ):
        with pytest.raises(ValueError, match=said):
            tiny(**fields)
    assert "stopped_early" not in train_and_evaluate(tiny(num_train_epochs=1, early_stopping_patience=1))


def test_balanced_weights_let_rare_answers_count_as_much_as_frequent_ones():
    targets = torch.tensor([0, 0, 0, 1, -100])
    assert balanced_weights(targets, 2).tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


def test_what_a_question_counts_follows_its_answer():
    weights = torch.tensor([0.5, 2.0])
    assert question_weights(torch.tensor([1, -100, 0]), "single_label_classification", weights).tolist() == [2, 0, 0.5]
    soft = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.5, 0.5]])
    assert question_weights(soft, "single_label_classification", weights).tolist() == [2, 0, 1.25]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_class_weights_are_in_the_loss_and_in_the_results(tiny, accumulated):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields = {"text_config": {"model_type": "bert", "max_position_embeddings": 16, **TINY, **still}}
    fields |= {"fusion_dropout": 0.0, "classifier_dropout": 0.0, "gradient_accumulation_steps": accumulated}
    fields |= {"class_weights": "balanced", "num_train_epochs": 1}
    trainer = trainer_of(tiny(**fields))
    weights = trainer.answer_weights()
    targets = trainer.data_collator.vocabulary.hard_targets(trainer.train_dataset["answers"][:])
    assert (weights[targets].mean() - 1).abs() < 1e-6
    # The mean over an update weighs every question alike, however its batches are cut.
    trainer.model.train()
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), accumulated, trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(batches)
    got, losses, counts = 0.0, 0.0, 0.0
    for batch in batches:
        batch = {name: value for name, value in batch.items() if name != "question_ids"}
        got += trainer.compute_loss(trainer.model, dict(batch)).item() / len(batches)
        logits = trainer.model(**batch).logits
        each = functional.cross_entropy(logits, batch["labels"], reduction="none")
        losses += (each * weights[batch["labels"]]).sum().item()
        counts += weights[batch["labels"]].sum().item()
    assert got == pytest.approx(losses / counts, rel=1e-5)
    results = train_and_evaluate(tiny("weighted", **fields))
    assert set(results["class_weights"]) == set(trainer.data_collator.vocabulary.id2label.values())
    assert results["class_weights"]["yes"] == pytest.approx(min(results["class_weights"].values()))


def test_class_weights_need_one_right_answer(tiny):
    with pytest.raises(ValueError, match="class_weights weighs questions by their one right answer"):
        tiny(class_weights="balanced", problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="class_weights"):
        tiny(argv=["--class_weights", "balance"])
    assert tiny(argv=["--class_weights", "null"]).training.class_weights is None


@pytest.mark.parametrize("fields", [{"ema_decay": 0.9}, {"rubi_weight": 1.0}])
def test_a_model_init_begins_each_training_anew(tiny, fields):
    trainer = trainer_of(tiny(num_train_epochs=1, save_strategy="no", load_best_model_at_end=False, **fields), True)
    ends = []
    for _ in range(2):
        trainer.train()
        ends.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_trainer_takes_a_model_or_a_model_init(tiny):
    recipe = tiny()
    with pytest.raises(ValueError, match="a model, or a model_init"):
        UMETrainer(args=recipe.training, data_collator=None)
    with pytest.raises(ValueError, match="give UMETrainer a model_init"):
        trainer_of(recipe).hyperparameter_search(n_trials=1)


def test_a_search_without_its_package_says_which(tiny, monkeypatch):
    trainer = trainer_of(tiny(), True)
    monkeypatch.setattr("training_ume.training.search.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ume\[search\]"):
        trainer.hyperparameter_search(n_trials=1)


def test_a_search_goes_by_the_score_that_chooses_checkpoints(tiny):
    pytest.importorskip("optuna")
    trainer = trainer_of(tiny(num_train_epochs=2), True)
    seen = []

    def space(trial):
        seen.append(trial.suggest_categorical("learning_rate", [0.0, 1e-2]))
        return {"learning_rate": seen[-1]}

    best = trainer.hyperparameter_search(space, n_trials=3)
    folder = Path(trainer.args.output_dir)
    assert best.hyperparameters["learning_rate"] in seen
    assert sorted(path.name for path in folder.iterdir()) == ["run-0", "run-1", "run-2"]
    states = [read_json(path) for path in folder.glob(f"run-{best.run_id}/checkpoint-*/trainer_state.json")]
    assert max(state["best_metric"] for state in states) == best.objective


def test_each_run_is_watched_as_one_of_its_own(tiny, monkeypatch):
    recipe = tiny(beside=["concat"])
    own, beside = [run for _, run in plan(recipe)]
    output = recipe.training.output_dir
    assert [run_name(run, recipe) for run in (own, beside)] == [output, f"{output}/beside/concat"]
    named = tiny(beside=["concat"], run_name="mine")
    assert [run_name(run, named) for run in (own, beside)] == ["mine", f"mine: concat, seed {beside.seed}"]

    class Wandb(ModuleType):
        run = None
        finished = 0

        def finish(self):
            self.run, self.finished = None, self.finished + 1

    wandb = Wandb("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with watched_apart(["wandb"]):
        wandb.run = "opened by the Trainer"
    assert (wandb.run, wandb.finished) == (None, 1)
    wandb.run = "the user's"
    with watched_apart(["wandb"]):
        pass
    assert (wandb.run, wandb.finished) == ("the user's", 1)
    with watched_apart(["tensorboard"]):  # which needs no such thing
        pass

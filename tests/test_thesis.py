"""The thesis' rows: recipes, data, stand-ins, going on after an interruption, and the tables."""

import json
import re
from pathlib import Path

import pytest
from vqa_files import write_vqa_files

from configuration_ume.parsing import parse_recipe, shipped_recipes
from configuration_ume.thesis_rows import OFFICIAL, ROWS, THESIS
from modeling_ume import FUSIONS
from modeling_ume.modalities_ume import MODALITIES
from training_ume.commands.thesis import main
from training_ume.evidence import thesis
from training_ume.evidence.thesis import (
    OFFICIAL_FILES,
    choose_rows,
    find_data,
    make_jobs,
    parse_encoders,
    reproduce,
    steps_table,
)
from training_ume.records.files import write_json
from training_ume.records.run_folder import run_arguments
from training_ume.report.thesis import proof_tables, references_table, rows_table
from training_ume.training.run import plan_runs

PATHS = [f"--{part}_{name}={name}" for part in ("train", "eval") for name in ("questions", "annotations", "images")]
SCORES = {"vqa_accuracy": 41.26, "exact_match": 39.5, "per_question_type": {"what": 1.0}}


@pytest.fixture
def sample(tmp_path):
    """A sample's folder, with files of 40×36 pixels."""
    folder = tmp_path / "squares"
    files = write_vqa_files(folder)
    for part in ("questions", "annotations"):
        Path(files[f"train_{part}"]).rename(folder / f"train_{part}.json")
    return folder


@pytest.fixture
def official(tmp_path):
    folder = tmp_path / "data"
    for names in OFFICIAL_FILES.values():
        (folder / names[-1]).mkdir(parents=True)  # never opened
    return folder


@pytest.fixture
def trained(monkeypatch):
    """Puts something that only writes a run's files in place of the training; lists what would have been trained."""
    calls = []

    def train(recipe):
        run = plan_runs(recipe)[0]
        calls.append(str(run.folder))
        results = {
            "seed": 0, "scored_on": "validation", "scores": SCORES, "train_seconds": 7.0, "train_cpu_seconds": 5.0,
            "baselines": {"question_lookup": {"vqa_accuracy": 30.0, "exact_match": 20.0, "per_answer_type": {}}},
            "data": {"train_questions": 1234, "validation_questions": 567, "answers": 89}, "parameters": {"total": 1},
            "encoders": {"text": {"name": "here/mini", "sha256": "a"}, "vision": {"name": "b", "revision": "c"}},
            "environment": {"hardware": {"cpu": "A processor", "cores": 2, "gpus": []}},
        }  # fmt: skip
        write_json(run.folder / "arguments.json", run_arguments(run, recipe))
        write_json(run.folder / "results.json", results)
        return results

    monkeypatch.setattr(thesis, "train_and_evaluate", train)
    return calls


def jobs_of(names, folder, tmp_path, **arguments):
    return make_jobs(choose_rows(names), find_data(folder), tmp_path / "runs", **arguments)


# ------------------------------------------------------------------------------------------------- rows and recipes


def test_the_rows_are_those_of_the_thesis_each_with_its_recipe_and_head():
    assert [row.head for row in choose_rows(["lstm_vgg"])] == ["concat", "product", "cross_attention", "evc", "ume"]
    pairs = [f"{text}_{vision}" for text in ("bert", "roberta", "deberta_v3") for vision in ("vit", "beit")]
    assert list(ROWS)[5:] == [f"{pair}/{head}" for pair in pairs for head in ("baseline", "ume")]
    assert {row.recipe for row in ROWS.values()} == {name for name in shipped_recipes() if name.startswith("thesis/")}
    assert {row.fusion for row in ROWS.values()} <= FUSIONS.keys()
    assert ROWS.keys() >= THESIS.keys()


@pytest.mark.parametrize("name", sorted({row.recipe for row in ROWS.values()}))
def test_the_recipes_state_the_thesis_settings(name):
    model, data, training = parse_recipe([name, *PATHS])[1:]
    lstm = name == "thesis/lstm_vgg"
    assert (training.per_device_train_batch_size, data.top_k_answers) == ((32, 1000) if lstm else (16, 3128))
    assert (training.num_train_epochs, training.learning_rate) == (10, 2e-5)
    assert training.optim.startswith("adamw")
    assert (training.weight_decay == 0) == lstm
    assert model.problem_type == "single_label_classification"
    assert model.image_size == 384 if lstm else model.vision_model.endswith("384")


def test_shipped_recipes_leave_the_files_of_accelerate_out():
    assert not any("accelerate" in name for name in shipped_recipes())
    with pytest.raises(ValueError, match=r"There is no recipe 'accelerate/ddp'.*thesis/bert_beit"):
        parse_recipe(["accelerate/ddp"])


def test_timms_vgg_is_shown_images_as_imagenet_has_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vgg16", "pretrained_cfg": {}}))
    assert tuple(MODALITIES["vision"].load_part(str(tmp_path), {}).image_mean) == (0.485, 0.456, 0.406)


def test_a_wrong_row_is_refused_with_the_rows_there_are():
    with pytest.raises(ValueError, match=r"no row 'lstm_vgg/sum': choose a pair \(lstm_vgg.*lstm_vgg/evc"):
        choose_rows(["lstm_vgg/sum"])


# ------------------------------------------------------------------------------------------------------------- data


def test_the_official_files_are_found_zipped_or_not(official):
    (official / "v2_Questions_Val_mscoco.zip").touch()
    data = find_data(official)
    found = dict(zip(data.arguments[::2], data.arguments[1::2], strict=True))
    assert data.name == OFFICIAL
    assert found["--eval_questions"] == str(official / "v2_Questions_Val_mscoco.zip")
    assert found["--train_questions"] == str(official / "v2_OpenEnded_mscoco_train2014_questions.json")


def test_a_sample_is_known_by_its_folders_name_and_holds_images_out(sample, tmp_path):
    (job,) = jobs_of(["bert_vit/ume"], sample, tmp_path)
    assert job.data_set == "squares"
    assert (job.recipe.data.validation_fraction, job.recipe.data.has_eval_part) == (0.2, False)
    assert job.recipe.data.train_image_pattern is None


def test_wrong_folders_are_refused_in_sentences(official, sample, tmp_path):
    with pytest.raises(ValueError, match="There is no folder nowhere"):
        find_data(Path("nowhere"))
    (official / "val2014").rmdir()
    with pytest.raises(ValueError, match=r"lacks of VQA v2: val2014\. Put the files there"):
        find_data(official)
    with pytest.raises(ValueError, match="named as the whole of VQA v2"):
        find_data(sample.rename(tmp_path / "vqa_v2"))


# -------------------------------------------------------------------------------------------------------- stand-ins


def test_an_encoder_is_replaced_only_when_asked_and_not_where_one_is_given(official, tmp_path):
    (real,) = jobs_of(["bert_vit/ume"], official, tmp_path)
    assert (real.recipe.model.text_model, real.stand_in) == ("google-bert/bert-base-uncased", False)
    (mixed,) = jobs_of(["bert_vit/ume"], official, tmp_path, stand_ins=True, encoders={"bert": "mini"})
    assert (mixed.recipe.model.text_model, mixed.is_stand_in("text")) == ("mini", False)
    assert (mixed.recipe.model.vision_config["model_type"], mixed.is_stand_in("vision")) == ("vit", True)
    assert (mixed.stand_in, mixed.recipe.training.num_train_epochs) == (True, 1)
    assert mixed.run.folder != real.run.folder
    given = {"bert": "mini", "vit": "tiny"}
    (given,) = jobs_of(["bert_vit/ume"], official, tmp_path, stand_ins=True, encoders=given)
    assert (given.stand_in, given.recipe.training.num_train_epochs) == (False, 10)


def test_of_lstm_and_vgg_only_vgg_has_a_stand_in(official, tmp_path):
    (job,) = jobs_of(["lstm_vgg/evc"], official, tmp_path, stand_ins=True)
    assert [job.is_stand_in(modality) for modality in ("text", "vision")] == [False, True]
    assert job.recipe.model.text_config == {"model_type": "ume_lstm"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["lstm=."], "'lstm=.' names no encoder: write NAME=FOLDER with one of bert"),
        (["bert"], "'bert' names no encoder"),
        (["bert=nowhere"], "There is no folder 'nowhere' for the encoder bert"),
    ],
)
def test_wrong_encoders_are_refused_in_sentences(given, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_encoders(given)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"encoders": {"beit": "."}}, "No row that is to be run has the encoder beit"),
        ({"fields": ["--fusion", "sum"]}, "--fusion cannot be given here"),
        ({"fields": ["--train-images=x"]}, "--train-images=x cannot be given here"),
        ({"fields": ["--learning_rat", "1"]}, "Did you mean learning_rate"),
    ],
)
def test_what_the_rows_decide_cannot_be_changed(official, tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        jobs_of(["bert_vit/ume"], official, tmp_path, **arguments)


# ---------------------------------------------------------------------------------------------------------- running


def test_finished_rows_are_not_run_again_and_new_ones_join_them(sample, official, tmp_path, trained):
    out = tmp_path / "thesis.json"
    first = jobs_of(["bert_vit/ume"], sample, tmp_path, stand_ins=True)
    reproduce(first, out)
    before = out.read_text()
    reproduce(first, out)
    assert (len(trained), out.read_text()) == (1, before)
    reproduce(jobs_of(["bert_vit"], sample, tmp_path, stand_ins=True), out)
    reproduce(jobs_of(["lstm_vgg/ume"], official, tmp_path), out)
    assert [Path(folder).name for folder in trained] == ["ume", "baseline", "ume"]
    rows = json.loads(out.read_text())["rows"]
    assert [(row["data_set"], row["row"], row["stand_in"]) for row in rows] == [
        (OFFICIAL, "lstm_vgg/ume", False),
        ("squares", "bert_vit/baseline", True),
        ("squares", "bert_vit/ume", True),
    ]


def test_a_finished_run_whose_row_is_missing_gets_it_without_training(sample, tmp_path, trained):
    out = tmp_path / "thesis.json"
    jobs = jobs_of(["bert_vit/ume"], sample, tmp_path, stand_ins=True)
    written = reproduce(jobs, out)
    out.unlink()  # as after a kill between the two
    assert reproduce(jobs, out) == written
    assert len(trained) == 1


def test_a_row_says_what_it_was_made_of(sample, tmp_path, trained):
    fields = ["--max_train_questions", "9", "--use_cpu", "true"]
    jobs = jobs_of(["bert_beit/ume"], sample, tmp_path, stand_ins=True, encoders={"bert": "here/mini"}, fields=fields)
    (row,) = reproduce(jobs, tmp_path / "thesis.json")["rows"]
    assert row["encoders"]["text"] == {
        "name": "here/mini",
        "sha256": "a",
        "instead_of": "google-bert/bert-base-uncased",
        "stand_in": False,
    }
    assert row["encoders"]["vision"]["config"]["hidden_size"] == 32
    assert row["changes"] == {"image_size": 64, "max_train_questions": 9, "num_train_epochs": 1.0}
    assert row["scores"] == {"vqa_accuracy": 41.26, "exact_match": 39.5}


def test_a_row_of_another_run_stays_unless_it_may_be_overwritten(sample, tmp_path, trained):
    out = tmp_path / "thesis.json"
    reproduce(jobs_of(["bert_vit/ume"], sample, tmp_path, stand_ins=True), out)
    other = jobs_of(["bert_vit/ume"], sample, tmp_path / "b", stand_ins=True, fields=["--max_train_questions", "9"])
    with pytest.raises(ValueError, match=r"holds bert_vit/ume on squares from another run.*--overwrite"):
        reproduce(other, out)
    assert len(trained) == 1
    (row,) = reproduce(other, out, overwrite=True)["rows"]
    assert row["changes"]["max_train_questions"] == 9


def test_a_run_that_was_begun_with_other_arguments_is_refused_before_anything_is_trained(sample, tmp_path, trained):
    reproduce(jobs_of(["bert_vit/ume"], sample, tmp_path, stand_ins=True), tmp_path / "a.json")
    jobs = jobs_of(["bert_vit"], sample, tmp_path, stand_ins=True, fields=["--learning_rate", "1e-3"])
    with pytest.raises(ValueError, match=r"with other arguments: learning_rate was 2e-05 and is 0\.001"):
        reproduce(jobs, tmp_path / "b.json")
    assert len(trained) == 1


def test_another_kind_of_file_is_not_written_over(sample, tmp_path, trained):
    out = tmp_path / "mine.json"
    out.write_text('{"scores": 1}')
    with pytest.raises(ValueError, match="holds no results of this script"):
        reproduce(jobs_of(["bert_vit/ume"], sample, tmp_path, stand_ins=True), out)
    assert not trained


def test_the_script_ends_with_sentences(sample, tmp_path, monkeypatch, capsys):
    arguments = ["--data", str(sample), "--stand_ins", "--rows", "bert_vit/ume", "--output_dir", str(tmp_path / "r")]
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    assert main([*arguments, "--rows", "nonsense"]) == 2
    errors = capsys.readouterr().err
    assert re.match(r"error: There is no folder .*\nerror: The thesis has no row 'nonsense'", errors)

    def interrupt(recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr(thesis, "train_and_evaluate", interrupt)
    assert main([*arguments, "--out", str(tmp_path / "thesis.json")]) == 130
    assert "repeat the command to go on" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_of_two_kinds_run_from_the_files_to_the_table(sample, tmp_path, capsys):
    out = tmp_path / "thesis.json"
    arguments = [
        "--data", str(sample), "--stand_ins", "--rows", "lstm_vgg/product", "roberta_beit/ume", "--out", str(out),
        "--output_dir", str(tmp_path / "runs"), "--use_cpu", "true", "--dataloader_num_workers", "0",
    ]  # fmt: skip
    assert main(arguments) == 0
    written = out.read_text()
    table = proof_tables(json.loads(written))
    assert "LSTM × VGG, `product` (**stand-in, no reproduction**)" in table
    assert "RoBERTa × BEiT, UME (**stand-in, no reproduction**)" in table
    capsys.readouterr()
    assert main(arguments) == 0
    assert out.read_text() == written
    assert "Run 1 of 1" not in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- tables


def test_the_table_has_all_rows_and_shows_no_figure_that_is_not_known(official, tmp_path, trained):
    results = reproduce(jobs_of(["lstm_vgg/evc"], official, tmp_path), tmp_path / "thesis.json")
    lines = rows_table(results).splitlines()
    assert lines.count("| LSTM × VGG, `evc` | 47.285 ± 0.92 | 41.26 | 39.50 | the recipe |") == 1
    assert lines.count("| DeBERTa-v3 × BEiT, UME | 67.917 ± 1.21 | — | — | not run yet |") == 1
    assert lines.count("| BERT × BEiT, baseline | — | — | — | not run yet |") == 1
    assert len([line for line in lines if " × " in line]) == len(ROWS) == 17
    assert "a row that it plans and gives no figure for (6 of 17)" in lines[-1]
    assert proof_tables(results) == ""


def test_a_stand_in_is_never_among_the_reproduced_rows(official, tmp_path, trained):
    results = reproduce(jobs_of(["bert_vit/ume"], official, tmp_path, stand_ins=True), tmp_path / "thesis.json")
    assert "41.26" not in rows_table(results)
    table = proof_tables(results)
    assert "| BERT × ViT, UME (**stand-in, no reproduction**) | 41.26 | 39.50 | BERT: tiny, random weights" in table
    assert "1,234 training questions, 567 validation questions" in table


def test_changes_and_other_encoders_stand_in_the_table(official, tmp_path, trained):
    fields = ["--learning_rate", "1e-4"]
    jobs = jobs_of(["bert_vit/ume"], official, tmp_path, encoders={"bert": "here/mini"}, fields=fields)
    assert "| BERT: mini; `learning_rate: 0.0001` |" in rows_table(reproduce(jobs, tmp_path / "thesis.json"))


def test_the_references_say_the_two_things_that_the_page_must_say():
    text = references_table()
    assert all(f"| {figure} |" in text for figure in ("43.0", "51.6", "63.2", "72.4"))
    assert "3 of the thesis' rows are below the language-only baseline** (43.0)" in text
    assert "67.9, is inside what encoder pairs without joint pretraining reach" in text


def test_the_steps_of_the_thesis_stand_beside_those_of_an_arena_in_its_own_metric():
    scores = {"concat": 24.0, "product": 26.0, "cross_attention": 22.0, "evc": 25.0, "ume": 25.5}
    rows = [{"name": name, "fusion": name, "exact_match": {"mean": x, "sd": 0.5}} for name, x in scores.items()]
    rows.append({"name": "question only", "fusion": "concat", "exact_match": {"mean": 1.0, "sd": 0.1}})
    table = steps_table({"photographs": {"metric": "exact_match", "rows": rows}}).splitlines()
    assert table[0] == "| | the thesis, LSTM × VGG, VQA v2 | photographs |"
    assert table[2] == "| Concatenation (`concat`) | 35.9 ± 1.8 | 24.0 ± 0.5 |"
    assert table[6] == "| + Adaptive Weighted Summation (`ume`) | 50.5 ± 1.9 (+3.2) | 25.5 ± 0.5 (+0.5) |"

"""Recipes: read from YAML, changed on the command line, wrong ones refused in sentences."""

import re

import pytest
from vqa_files import write_tiny_recipe

from configuration_ume import UMEConfig
from configuration_ume.parsing import make_recipe, parse_recipe, shipped_recipes

FILES = {"train_questions": "q.json", "train_annotations": "a.json", "train_images": "images"}
PATHS = [f"--{part}_{name}={name}" for part in ("train", "eval") for name in ("questions", "annotations", "images")]


@pytest.fixture
def recipe_file(tmp_path):
    def write(**fields):
        return str(write_tiny_recipe(tmp_path / "mine.yaml", FILES, **fields))

    return write


def test_the_command_line_overrides_every_kind_of_field(recipe_file):
    recipe = parse_recipe(
        [
            recipe_file(),
            "--fusion=concat",
            "--learning_rate=2e-5",
            "--seeds", "1", "2",
            "--group_by_image=false",
            "--vision_config", '{"model_type": "beit"}',
            "--bf16", "false",
            "--top_k_answers", "7",
        ]
    )  # fmt: skip
    assert recipe.name == "mine"
    assert recipe.model.fusion == "concat"
    assert recipe.training.learning_rate == 2e-5
    assert recipe.training.seeds == [1, 2]
    assert recipe.data.group_by_image is False
    assert recipe.model.vision_config == {"model_type": "beit"}
    assert recipe.data.top_k_answers == 7


@pytest.mark.parametrize(
    ("argv", "split"),
    [([], "validation"), (["--validation_fraction", "0.1"], None), (["--eval_split", "test"], "test")],
)
def test_a_hub_dataset_is_validated_on_its_validation_split_or_on_what_is_held_out(recipe_file, argv, split):
    path = recipe_file(source="hub", dataset_name="mine", validation_fraction=None, train_questions=None)
    assert parse_recipe([path, *argv]).data.eval_split == split


def test_easy_vqa_holds_images_out_to_choose_the_epoch():
    data = parse_recipe(["easy_vqa"]).data
    assert (data.validation_fraction, data.has_eval_part) == (0.05, True)


def test_a_float_that_yaml_reads_as_a_string_is_a_float(recipe_file):
    assert parse_recipe([recipe_file(learning_rate="2e-5")]).training.learning_rate == 2e-5


def test_null_empties_a_field_of_the_recipe(recipe_file):
    path = recipe_file(top_k_answers=5)
    recipe = parse_recipe([path, "--top_k_answers", "null", "--min_answer_count", "9"])
    assert recipe.data.top_k_answers is None
    assert recipe.data.min_answer_count == 9


def test_an_encoder_that_is_named_takes_the_place_of_the_recipes_own(recipe_file):
    path = recipe_file(image_mean=[0.4] * 3)
    named = parse_recipe([path, "--text_model", "a/b", "--vision_model=c/d"]).model
    assert (named.text_model, named.text_config, named.tokenizer) == ("a/b", None, None)
    assert (named.vision_model, named.vision_config, named.image_size, named.image_mean) == ("c/d", None, None, None)
    assert parse_recipe([path, "--vision_model", "c/d", "--image_size", "32"]).model.image_size == 32
    assert make_recipe(path, {"text_model": "a/b"}).model == parse_recipe([path, "--text_model", "a/b"]).model
    pretrained = recipe_file(text_model="a/b", text_config=None, tokenizer=None, text_revision="v1")
    new = parse_recipe([pretrained, "--text_config", '{"model_type": "bert"}', "--tokenizer", "words"]).model
    assert (new.text_model, new.text_revision, new.text_config["model_type"]) == (None, None, "bert")
    with pytest.raises(ValueError, match="text_model='a/b' and text_config are both given"):
        parse_recipe([path, "--text_model", "a/b", "--text_config", '{"model_type": "bert"}'])


def test_a_new_encoder_in_place_of_a_pretrained_one_is_trained_and_one_that_is_emptied_takes_all_along():
    config = '{"model_type": "resnet"}'
    new = parse_recipe(["own_table", "--vision_config", config, "--image_size", "32"]).model
    assert (new.vision_model, new.freeze_vision, new.feature_grid) == (None, False, None)
    assert parse_recipe(
        ["own_table", "--vision_config", config, "--image_size=32", "--freeze_vision"]
    ).model.freeze_vision
    others = ["--audio_config", '{"model_type": "wav2vec2"}', "--table_config", '{"model_type": "ume_table_mlp"}']
    without = parse_recipe(["own_table", "--text_model", "null", "--vision_model", "null", *others]).model
    assert (without.modalities, without.freeze_text, without.feature_grid) == (["audio", "table"], False, None)
    without = parse_recipe(["machines", "--text_config", "null", "--vision_config", "null"]).model
    assert (without.modalities, without.tokenizer, without.image_size) == (["audio", "table"], None, None)
    with pytest.raises(ValueError, match="freeze_text is given without such an encoder"):
        parse_recipe(["own_table", "--text_model", "null", "--freeze_text", "true", *others])


def test_the_output_folder_follows_the_recipes_name(tmp_path):
    path = write_tiny_recipe(tmp_path / "mine.yaml", FILES, output_dir=None)
    assert parse_recipe([str(path)]).training.output_dir == "runs/mine"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lerning_rate": 1.0}, "'lerning_rate' is not a field of a recipe. Did you mean learning_rate"),
        ({"num_train_epochs": "many"}, "invalid float value: 'many'"),
        ({"save_strategy": False}, "put quotes around it"),
        ({"inputs": "sound"}, "invalid choice: 'sound'"),
        ({"text_model": "bert"}, "text_model='bert' and text_config are both given"),
        ({"text_config": None}, "Neither text_model nor text_config is given"),
        ({"tokenizer": None}, "text_config needs a tokenizer"),
        ({"image_size": None}, "vision_config needs image_size"),
        ({"vision_config": {"hidden_size": 4}}, "vision_config has no `model_type`"),
        (
            {"vision_config": None, "vision_model": "vit", "image_mean": [0.5] * 3},
            "image_mean contradicts vision_model='vit'",
        ),
        ({"image_size": 0}, "image_size=0 is impossible"),
        ({"soft_targets": True, "problem_type": "multi_label_classification"}, "soft_targets is for a softmax"),
        (
            {"label_smoothing_factor": 0.1, "problem_type": "multi_label_classification"},
            "label_smoothing_factor is for a softmax",
        ),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is impossible"),
        ({"rubi_weight": 1.0, "inputs": "question"}, "rubi_weight weighs questions against images"),
        ({"top_k_answers": 3, "min_answer_count": 3}, "top_k_answers and min_answer_count are both given"),
        ({"validation_fraction": None}, "There is nothing to validate on"),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5 is impossible"),
        ({"eval_questions": "q.json"}, "incomplete: give eval_annotations, eval_images too"),
        ({"train_images": None}, "source=vqa_v2 needs train_images"),
        ({"lora_dropout": 0.1}, "need lora_r"),
        ({"lora_r": 4, "freeze_text": True, "freeze_vision": True}, "LoRA would have nothing to adapt"),
        ({"resume_from_checkpoint": True, "overwrite_output": True}, "contradict each other"),
        ({"beside": ["concat", "concat"]}, "names the same run twice"),
    ],
)
def test_a_wrong_recipe_is_refused_in_a_sentence(recipe_file, fields, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_recipe([recipe_file(**fields)])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "The first argument is the recipe"),
        (["nonsense"], "There is no recipe 'nonsense'"),
        (["easy_vqa", "--learning_rat", "1"], "--learning_rat is not a field of a recipe. Did you mean learning_rate"),
        (["easy_vqa", "stray"], "stray is not a field of a recipe"),
        (["easy_vqa", "--seed", "x"], "invalid int value: 'x'"),
        (["easy_vqa", "--text_config", "{oops"], "text_config is not valid JSON"),
        (["easy_vqa", "--text_config", "[1]"], "text_config is JSON but no object"),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_sentence(argv, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_recipe(argv)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_parses_and_describes_a_possible_model(name):
    files = {"daquar": PATHS[:3], "daquar_members": PATHS[:3], "vqa_v2_frozen": PATHS[:3]}.get(
        name, PATHS if name.startswith("thesis/") else []
    )
    recipe = parse_recipe([name, *files])
    UMEConfig(fusion=recipe.model.fusion, fusion_hidden_size=recipe.model.fusion_hidden_size, num_labels=2)
    assert recipe.training.output_dir == f"runs/{name}"


def test_help_shows_the_recipes_own_values(recipe_file, capsys):
    with pytest.raises(SystemExit):
        parse_recipe([recipe_file(fusion_hidden_size=48), "--help"])
    text = capsys.readouterr().out
    assert "--fusion_hidden_size FUSION_HIDDEN_SIZE" in text
    assert "(default: 48)" in text
    assert "fsdp" not in text  # TrainingArguments' rare fields work, but are not shown


def test_null_empties_a_field_of_several_values(recipe_file):
    recipe = parse_recipe([recipe_file(seeds=None, image_mean=None), "--beside", "null"])
    assert (recipe.training.seeds, recipe.training.beside, recipe.model.image_mean) == (None, None, None)
    with pytest.raises(ValueError, match="Seeds has null among its values"):
        parse_recipe([recipe_file(), "--seeds", "1", "null"])


@pytest.mark.parametrize("content", [b"fusion: caf\xe9", b"fusion: [" * 3000, b"seed: 2026-13-45", b"a: !!python/x 1"])
def test_a_file_that_is_no_yaml_is_refused_with_its_name(content, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"recipe\.yaml is not valid YAML .*: mend it"):
        parse_recipe([str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fusion": "UME"}, "fusion='UME' is not known: choose one of .*ume"),
        ({"image_mean": [0.5]}, r"image_mean=\[0.5\] is impossible: give three numbers, one a colour"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std=.* give three numbers above 0"),
        ({"learning_rate": "nan"}, "learning_rate=nan is impossible: give a finite number"),
        ({"num_train_epochs": "1e999"}, "num_train_epochs=inf is impossible"),
        ({"learning_rate": -1}, "learning_rate=-1.0 is impossible: give 0 or more"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 is impossible: give 1 or more"),
        ({"text_config": "9" * 5000}, "text_config is (not valid JSON|JSON but no object)"),  # the first since 3.11
        ({"hub_token": "hf_secret"}, "hub_token would be written into the run's files: leave it out"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_loaded(fields, sentence, recipe_file):
    with pytest.raises(ValueError, match=sentence) as raised:
        parse_recipe([recipe_file(**fields)])
    assert "hf_secret" not in str(raised.value)


def written(tmp_path, text: str) -> str:
    """A recipe of YAML as a user types it; `text` comes after fields that make it whole."""
    whole = f"text_config: {{model_type: bert}}\ntokenizer: words\n{NEW_VISION}\nsource: easy_vqa\n"
    names = {line.split(":")[0] for line in text.splitlines()}
    kept = [line for line in whole.splitlines() if line.split(":")[0] not in names]
    (tmp_path / "typed.yaml").write_text("\n".join([*kept, "use_cpu: true", text]))
    return str(tmp_path / "typed.yaml")


NEW_VISION = "vision_config: {model_type: vit}\nimage_size: 32"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("text_config: {model_type: bert, layer_norm_eps: 1e-12}", "text_config", 1e-12),
        ("text_config: {model_type: bert, layer_norm_eps: '1e-12'}", "text_config", 1e-12),
        ("text_config: {model_type: bert, hidden_size: 0x40}", "text_config", 64),
        ("text_config: {model_type: bert, hidden_size: 1_200}", "text_config", 1200),
        ("text_config: {model_type: ume_lstm, dropout: '1e-1'}", "text_config", 0.1),
        ("vision_config: {model_type: resnet, downsample_in_first_stage: off}", "vision_config", False),
        ("vision_config: {model_type: resnet, downsample_in_first_stage: 'off'}", "vision_config", False),
        (
            "vision_config: {model_type: resnet, hidden_sizes: [32, '64', 128, 256]}",
            "vision_config",
            [32, 64, 128, 256],
        ),
        ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6}", "lr_scheduler_kwargs", 1e-6),
        ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: '1e-6'}", "lr_scheduler_kwargs", 1e-6),
        ("learning_rate: 1e-5", "learning_rate", 1e-5),
        ("image_cache_mb: 1_000", "image_cache_mb", 1000),
        ("fusion_hidden_size: 0x20", "fusion_hidden_size", 32),
        (
            "text_config: null\ntext_model: some/name\ntokenizer: null\ntext_revision: 0123456",
            "text_revision",
            "0123456",
        ),
        (
            "text_config: null\ntext_model: some/name\ntokenizer: null\ntext_revision: 12e4567",
            "text_revision",
            "12e4567",
        ),
        ("vision_config: null\nvision_model: a/b\nvision_revision: 2024-01-01", "vision_revision", "2024-01-01"),
        ("report_to: [none]", "report_to", []),
        ("include_num_input_tokens_seen: non_padding", "include_num_input_tokens_seen", "non_padding"),
        ("include_num_input_tokens_seen: true", "include_num_input_tokens_seen", "all"),
    ],
)
def test_a_value_has_the_type_of_its_place_also_inside_a_field(tmp_path, text, field, value):
    recipe = parse_recipe([written(tmp_path, text)])
    found = next(getattr(part, field) for part in recipe[1:] if hasattr(part, field))
    if isinstance(found, dict):
        found = list(found.values())[-1]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "text_config: {model_type: bert, hiden_size: 64}",
            "text_config.hiden_size is no setting of BertConfig. Did you",
        ),
        (
            "text_config: {model_type: ume_lstm, dropuot: 0}",
            "text_config.dropuot is no setting of UMELSTMConfig. Did you",
        ),
        (
            "text_config: {model_type: bert, hidden_size: wide}",
            "text_config.hidden_size='wide' is impossible: a whole",
        ),
        ("text_config: {model_type: bert, hidden_size: 010}", "text_config.hidden_size=010 has a leading zero"),
        ("text_config: {model_type: bert, hidden_size: 6.5}", "text_config cannot be used: .*hidden_size"),
        ("text_config: {model_type: bert, hidden_size: .inf}", "text_config cannot be used: .*hidden_size"),
        ("text_config: {model_type: bert, hidden_act: no}", "text_config.hidden_act reads as False.* quotes"),
        ("text_config: {model_type: bert, hidden_size: yes}", "text_config.hidden_size reads as True, where a number"),
        ("text_config: {model_type: bert, num_hidden_layers: [1]}", "text_config cannot be used: .*num_hidden_layers"),
        ("text_config: {model_type: bert, 2: x, yes: y}", "text_config has a key that reads as True"),
        ("text_config: {model_type: bert, hidden_act: !!binary aGk=}", "text_config.hidden_act is a bytes"),
        ("text_config: &a {model_type: bert, hidden_act: *a}", "text_config.hidden_act holds itself"),
        ("text_config: {model_type: brt}", "text_config.model_type='brt' is no encoder .* Did you mean bert"),
        ("text_config: [model_type, bert]", "text_config is a list, where a mapping"),
        ("text_config: bert", "text_config is not valid JSON"),
        ("text_config: {model_type: bert, model_type: vit}", "not valid YAML .*found model_type twice"),
        ("seed: 1\nseed: 2", "not valid YAML .*found seed twice"),
        ("vision_config: {model_type: vit, patch_size: 1:30}", "vision_config.patch_size='1:30' is impossible"),
        ("fusion_hidden_size: 010", "fusion_hidden_size: 010 has a leading zero"),
        ("learning_rate: {a: 1}", "learning_rate is a mapping, where one value is expected"),
        ("learning_rate: [1e-3, 1e-4]", "learning_rate is a list, where one value is expected"),
        ("yes: 1", "True is not a field of a recipe"),
        ("lr_scheduler_kwargs: {min_lr: low}", "lr_scheduler_kwargs={'min_lr': 'low'}"),
        ("lr_scheduler_kwargs: {powr: 2}", "'linear' cannot be used with lr_scheduler_kwargs"),
        (
            "accelerator_config: {evn_batches: true}",
            "accelerator_config.evn_batches is unknown: did you mean even_batches",
        ),
        ("optim_args: {eps: 1e-8}", "optim_args is a mapping, where one value is expected"),
        ("seeds: [null, 1]", "null"),
        ("\tseed: 1", "is not valid YAML"),
        ("num_train_epochs: .nan", "num_train_epochs=nan is impossible"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=re.sub(r"([\[\]{}()])", r"\\\1", sentence)):
        parse_recipe([written(tmp_path, text)])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--vision_config", '{"model_type": "vit", "patch_size": "x"}'],
            "vision_config.patch_size='x' is impossible",
        ),
        (
            ["--vision_config", '{"model_type": "vit", "a": 1, "a": 2}'],
            "vision_config is not valid JSON (a is there twice)",
        ),
        (["--lr_scheduler_kwargs", "{min_lr: 1}"], "lr_scheduler_kwargs is not valid JSON"),
    ],
)
def test_json_on_the_command_line_is_held_to_the_same(argv, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_recipe(["easy_vqa", *argv])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xyzzy", "See --help"),
        ("banana", "See --help"),
        ("leraning_rate", r"Did you mean learning_rate\?"),
        ("epochs", r"There is num_train_epochs\."),
        ("batch_size", "There are per_device_train_batch_size, .*per_device_eval_batch_size"),
    ],
)
def test_a_hint_is_given_only_where_one_is_near(name, said):
    with pytest.raises(ValueError, match=rf"--{name} is not a field of a recipe\. {said}"):
        parse_recipe(["easy_vqa", f"--{name}", "1"])
    with pytest.raises(ValueError, match=r"model_type='foo' is no encoder that transformers knows\. Write"):
        parse_recipe(["easy_vqa", "--text_config", '{"model_type": "foo"}'])

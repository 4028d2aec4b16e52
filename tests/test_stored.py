"""No file of a checkpoint holds a secret or a path of the user's machine, and no field that nobody defined."""

import json
import re

import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, tiny_batch, tiny_config, tiny_model
from transformers import AutoConfig, AutoProcessor, BertTokenizer, CLIPImageProcessor
from transformers.utils import logging

from modeling_ume import UMEConfig, UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEModel, UMEProcessor
from modeling_ume.encoders_ume import build_encoder
from modeling_ume.loading_ume import place

SECRET = "hf_" + "S" * 34
PRIVATE = {
    "token": SECRET,
    "cache_dir": "/home/me/cache",
    "proxies": {"https": "http://me:pass@proxy:1"},
    "revision": "main",
    "local_files_only": True,
    "force_download": False,
    "subfolder": "",
    "trust_remote_code": False,
}
LEFT_OVER = re.compile(rf"{SECRET}|/home/me|proxy:1|local_files_only|revision|trust_remote_code|force_download")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for name, config in (("text", TEXT_CONFIGS["bert"]()), ("image", IMAGE_CONFIGS["vit"]())):
        build_encoder(config, "auto").save_pretrained(folder / name)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "red"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "text")
    CLIPImageProcessor().save_pretrained(folder / "image")
    return str(folder / "text"), str(folder / "image")


def written(thing, folder) -> str:
    """All that `save_pretrained` writes as text, without the code that travels along."""
    thing.save_pretrained(folder)
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".txt", ".jinja")]
    assert files
    return "\n".join(file.read_text() for file in files)


def warnings_of(run) -> list[str]:
    seen, logger = [], logging.get_logger("modeling_ume.configuration_ume")
    logger.warning, original = lambda message, *args: seen.append(message), logger.warning
    try:
        run()
    finally:
        logger.warning = original
    return seen


@pytest.mark.parametrize("model_class", [UMEForVisualQuestionAnswering, UMEModel, UMEForImageTextRetrieval])
@pytest.mark.parametrize("prefix", ["", "text_", "vision_"])
def test_what_loads_the_encoders_is_not_stored(tmp_path, encoders, model_class, prefix):
    given = {f"{prefix}{name}": value for name, value in PRIVATE.items()}
    model = model_class.from_encoders_pretrained(*encoders, fusion="concat", num_labels=3, **given)
    files = written(model, tmp_path)
    assert not LEFT_OVER.search(files)
    assert encoders[0] not in files
    assert encoders[1] not in files
    again = model_class.from_pretrained(tmp_path, token=SECRET, cache_dir=str(tmp_path / "cache"))
    assert not LEFT_OVER.search(written(again, tmp_path / "again"))


def test_arguments_of_loading_reach_the_loading(tmp_path, encoders):
    text, vision = encoders
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        UMEModel.from_encoders_pretrained(text, vision, text_subfolder="nowhere")
    with pytest.raises(ValueError, match="No image processor"):
        UMEProcessor.from_encoders_pretrained(text, vision, vision_subfolder="nowhere")
    # The prefixed one has the last word.
    UMEModel.from_encoders_pretrained(text, vision, subfolder="nowhere", text_subfolder="", vision_subfolder="")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("revison", "revision"), ("text_revison", "text_revision"), ("vision_tokn", "vision_token"),
        ("fuson", "fusion"), ("text_num_hiden_layers", "text_num_hidden_layers"), ("hug", None), ("text_zzz", None),
    ],
)  # fmt: skip
def test_an_unknown_argument_is_refused_with_the_nearest_name(encoders, name, near):
    with pytest.raises(ValueError, match=f"^{name} is neither") as error:
        UMEModel.from_encoders_pretrained(*encoders, **{name: 1})
    assert str(error.value).endswith(f" Did you mean {near}?" if near else ".")
    if near and near.startswith(("revision", "text_revision", "vision_token")):
        with pytest.raises(ValueError, match=f"{name} is no argument.*Did you mean {near}"):
            UMEProcessor.from_encoders_pretrained(*encoders, **{name: 1})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("token", "from_pretrained"),
        ("cache_dir", "from_pretrained"),
        ("fuson", "Did you mean fusion?"),
        ("zzz", "zzz"),
    ],
)
def test_a_config_refuses_fields_that_nobody_defined(name, says):
    for build in (UMEConfig, tiny_config):
        with pytest.raises(ValueError, match=re.escape(says)) as error:
            build(**{name: SECRET})
        assert SECRET not in str(error.value)


def test_a_config_takes_what_transformers_defines():
    fields = {
        "torch_dtype": "bfloat16", "output_hidden_states": True, "return_dict": False, "architectures": ["UMEModel"],
        "attn_implementation": "eager", "quantization_config": None, "tie_word_embeddings": False, "is_decoder": False,
        "chunk_size_feed_forward": 0, "pad_token_id": 0, "transformers_version": "5.0.0", "name_or_path": "a",
    }  # fmt: skip
    config = tiny_config(**fields)
    assert config.dtype == torch.bfloat16
    assert config._attn_implementation == "eager"
    assert not config.return_dict


def test_a_secret_set_afterwards_is_not_stored(tmp_path):
    config = tiny_config()
    config.token = config.text_config.hub_token = config.vision_config.api_key = SECRET
    config.vision_config.note = {"deep": [SECRET, "/home/me/pictures"], "kept": "yes"}
    config.text_config._name_or_path = config._name_or_path = config.text_config.data = "/home/me/bert"
    config.fusion_siz = 3
    told = warnings_of(lambda: config.save_pretrained(tmp_path))
    assert [message.split()[0] for message in told] == ["config.token", "config.fusion_siz"]
    for text in ((tmp_path / "config.json").read_text(), repr(config), json.dumps(config.to_dict())):
        assert not LEFT_OVER.search(text)
        assert "hub_token" not in text
        assert "fusion_siz" not in text
    assert UMEConfig.from_pretrained(tmp_path).vision_config.note == {"deep": [], "kept": "yes"}


def test_a_sub_config_brings_no_secret(tmp_path):
    for form in (lambda config: config, lambda config: config.to_dict()):
        text = TEXT_CONFIGS["bert"]()
        text.token, text.cache_dir, text.classifier_dropout = SECRET, "/home/me/cache", 0.5
        config = UMEConfig(text_config=form(text))
        assert not hasattr(config.text_config, "token")
        assert config.text_config.classifier_dropout == 0.5
        assert text.token == SECRET  # the user's own object stays as it is
        assert not LEFT_OVER.search(written(config, tmp_path))


@pytest.mark.parametrize("path", ["", "/home/me/bert"])
def test_an_encoders_config_alone_reads_what_the_whole_holds(tmp_path, path):
    config = tiny_config()
    config.text_config._name_or_path = path
    config.save_pretrained(tmp_path)
    alone = type(config.text_config).from_pretrained(tmp_path).to_dict()
    alone.pop("transformers_version")
    assert alone == config.to_dict()["text_config"]


@pytest.mark.parametrize("load", [UMEConfig.from_pretrained, AutoConfig.from_pretrained, None])
def test_unknown_fields_of_a_file_are_left_out_with_one_warning(tmp_path, load):
    model, batch = tiny_model(), tiny_batch()
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    fields |= {"token": SECRET, "field_of_tomorrow": 1, "torch_dtype": "float32", "_commit_hash": "0"}
    fields["text_config"] |= {"token": SECRET, "cache_dir": "/home/me", "_name_or_path": "/home/me/bert"}
    file.write_text(json.dumps(fields))
    load = load or (lambda folder: UMEConfig.from_json_file(folder / "config.json"))
    loaded = []
    told = warnings_of(lambda: loaded.append(load(tmp_path)))
    assert len(told) == 1
    assert "token, field_of_tomorrow" in told[0]
    assert SECRET not in told[0]
    assert not hasattr(loaded[0], "token")
    assert not hasattr(loaded[0].text_config, "token")
    assert not LEFT_OVER.search(written(loaded[0], tmp_path / "again"))
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_a_processor_stores_nothing_of_its_loading(tmp_path, encoders):
    processor = UMEProcessor.from_encoders_pretrained(*encoders, id2label={0: "no", 1: "yes"}, **PRIVATE)
    processor.image_processor.token = SECRET  # as some releases leave it there
    processor.tokenizer.init_kwargs.update(token=SECRET, cache_dir="/home/me/cache", _commit_hash="0")
    files = written(processor, tmp_path)
    assert not LEFT_OVER.search(files)
    assert encoders[0] not in files
    assert "is_local" not in files
    loaded = AutoProcessor.from_pretrained(tmp_path, token=SECRET, id2label={0: "cat", 1: "dog"})
    files = written(loaded, tmp_path / "again")
    assert not LEFT_OVER.search(files)
    assert "id2label" not in (tmp_path / "again" / "tokenizer_config.json").read_text()
    assert AutoProcessor.from_pretrained(tmp_path / "again").id2label == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({}, torch.float32), ({"dtype": "bfloat16"}, torch.bfloat16), ({"torch_dtype": torch.float16}, torch.float16),
        ({"dtype": "auto"}, torch.float32), ({"vision_dtype": "bfloat16"}, torch.float32),
        ({"dtype": "float64", "text_torch_dtype": "float32"}, torch.float64),
    ],
)  # fmt: skip
def test_the_type_of_a_joined_model(tmp_path, encoders, given, dtype):
    model = UMEForVisualQuestionAnswering.from_encoders_pretrained(*encoders, fusion="concat", num_labels=3, **given)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype} == {model.config.dtype}
    assert model(**tiny_batch()).logits.dtype == dtype
    model.save_pretrained(tmp_path)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    assert again.dtype == again.config.dtype == again.config.text_config.dtype == dtype


def test_the_attention_of_a_joined_model(encoders):
    def chosen(**given):
        config = UMEModel.from_encoders_pretrained(*encoders, **given).config
        parts = (config, config.text_config, config.vision_config)
        return [part._attn_implementation for part in parts]

    assert chosen() == ["sdpa"] * 3
    assert chosen(attn_implementation="eager") == ["eager"] * 3
    assert chosen(attn_implementation={"text": "eager"}) == ["sdpa", "eager", "sdpa"]
    assert chosen(attn_implementation={"": "eager", "vision_config": "eager"}) == ["eager", "sdpa", "eager"]
    assert chosen(attn_implementation="eager", text_attn_implementation="sdpa") == ["eager", "sdpa", "eager"]
    with pytest.raises(ValueError, match="'sound'"):
        chosen(attn_implementation={"sound": "eager"})
    with pytest.raises(ValueError, match="bfloat61"):
        chosen(dtype="bfloat61")


def test_a_field_of_an_encoder_is_set_by_its_prefixed_name(encoders):
    model = UMEModel.from_encoders_pretrained(*encoders, text_num_hidden_layers=1, vision_hidden_dropout_prob=0.25)
    assert len(model.text_model.encoder.layer) == 1 == model.config.text_config.num_hidden_layers
    assert model.config.vision_config.hidden_dropout_prob == 0.25


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")])
def test_a_joined_model_lies_where_the_device_map_says(encoders, device_map):
    model = UMEModel.from_encoders_pretrained(*encoders, fusion="concat", device_map=device_map)
    assert model(**tiny_batch()).fused.device == model.device


def test_a_joined_model_is_offloaded(tmp_path, encoders):
    device_map = {"text_model": "cpu", "vision_model": "disk", "fusion": "cpu"}
    model = UMEModel.from_encoders_pretrained(
        *encoders, fusion="concat", device_map=device_map, offload_folder=str(tmp_path)
    )
    assert next(model.vision_model.parameters()).device.type == "meta"
    assert model(**tiny_batch()).fused.isfinite().all()


@pytest.mark.parametrize("more", [{}, {"offload_buffers": False}, {"offload_buffers": True}], ids=str)
def test_buffers_of_what_is_offloaded_stay_in_memory_unless_they_shall_go_too(tmp_path, more):
    device_map = {"ume.text_model": "cpu", "ume.vision_model": "disk", "ume.fusion": "cpu", "classifier": "cpu"}
    model = place(tiny_model(image="resnet", fusion="concat"), device_map, offload_folder=str(tmp_path), **more)
    statistics = [buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")]
    assert {buffer.is_meta for buffer in statistics} == {more.get("offload_buffers", False)}


def test_answers_are_stored_whatever_they_look_like():
    answers = dict(enumerate(["/home/me/pictures", SECRET, "~/cats"]))
    assert tiny_config(id2label=answers, num_labels=None).to_dict()["id2label"] == answers


def test_a_config_without_anything_private_is_taken_itself():
    text, image = TEXT_CONFIGS["bert"](), IMAGE_CONFIGS["vit"]()
    config = UMEConfig(text_config=text, vision_config=image)
    assert config.text_config is text
    assert config.vision_config is image

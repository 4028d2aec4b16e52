"""Explanations of sounds, series, tables and films: what is known to matter is found, and the answer hangs on it."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS
from datasets import Dataset
from PIL import Image
from transformers import (
    ASTConfig,
    ClapAudioConfig,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.hearing_ume import hearing, layout
from modeling_ume.log_mel_ume import LogMelPatches
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.parts_ume import Axis, Parts, cells_of
from modeling_ume.scalers_ume import SeriesScaler, TableScaler
from modeling_ume.simple_series_ume import UMECNNSeriesConfig, UMELSTMSeriesConfig
from modeling_ume.simple_tables_ume import UMEFTTransformerConfig, UMETableMLPConfig
from modeling_ume.video_ume import FilmFrames
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.collator import VQACollator
from training_ume.explain.explanation import explain
from training_ume.explain.parts import EXACT, INTEGRATED, SAMPLED, masking_areas, part_order, part_scores
from training_ume.explain.shapley import explain_dataset, shapley_values, subset_probabilities
from training_ume.report.explanation import modality_table, plot_explanation

pytest.importorskip("captum")
RATE = 16000
YES_NO = {0: "no", 1: "yes"}
PICTURE = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
SOUND = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")


# ------------------------------------------------------- data in which one part decides, and what has learned it


def a_sound(yes, random):
    """Noise with a tone of 500 Hz somewhere; where the answer is yes, one of 2 kHz from 0.5 to 0.6 s besides."""
    time = np.arange(RATE) / RATE
    start = random.uniform(0, 0.8)
    other = 0.2 * np.sin(2 * np.pi * 500 * time) * ((time > start) & (time < start + 0.1))
    tone = 0.3 * np.sin(2 * np.pi * 2000 * time) * ((time >= 0.5) & (time < 0.6))
    return (0.01 * random.normal(size=RATE) + other + yes * tone).astype(np.float32), RATE


def a_series(yes, random):
    """Three channels of noise over 48 steps; where the answer is yes, the second is high from step 30 to 35."""
    values = random.normal(size=(48, 3))
    values[30:36, 1] += 3 * yes
    return values


def a_table(yes, random):
    """Five columns, of which `heat` decides; it is never missing, others may be."""
    return {
        "age": random.normal(40, 10), "width": None if random.random() < 0.2 else random.normal(2, 1),
        "heat": random.normal(60 if yes else 40, 3), "maker": str(random.choice(["north", "south"])),
        "load": random.normal(0, 1),
    }  # fmt: skip


def a_table_of_categories(yes, random):
    """As before, but the maker decides."""
    return {**a_table(False, random), "heat": random.normal(50, 3), "maker": "north" if yes else "south"}


def a_film(yes, random):
    """Four dark frames; where the answer is yes, the third is bright in its upper left corner."""
    film = random.integers(0, 60, (4, 32, 32, 3))
    film[2, :12, :12] += 180 * yes
    return film.astype(np.uint8)


FILMS = FilmFrames(ViTImageProcessor(size={"height": 32, "width": 32}), frames=4)
# By kind of data: the modality, a row's cell, its encoder, and what every best part's name must hold.
KNOWN = {
    "sound": ("audio", a_sound, SOUND, lambda name: _overlaps(name, (0.5, 0.6), 2000)),
    "series": ("series", a_series, UMECNNSeriesConfig(3, [16, 16], dropout=0.0), lambda n: n in (
        "channel 2, 30–33", "channel 2, 33–36")),
    "table": ("table", a_table, UMEFTTransformerConfig(4, [4], 16, attention_dropout=0.0, dropout=0.0),
              lambda name: name.startswith("heat = ")),
    "categories": ("table", a_table_of_categories, UMETableMLPConfig(4, [4], hidden_size=16),
                   lambda name: name == "maker = north"),
    "film": ("video", a_film, PICTURE, lambda n: n.startswith("frame 3, row ") and n[13] in "12" and n[-1] in "12"),
}  # fmt: skip


def _overlaps(name, seconds, hertz):
    bands, times = name.split(", ")
    low, high = map(float, bands.removesuffix(" Hz").split("–"))
    start, end = map(float, times.removesuffix(" s").split("–"))
    return low <= hertz <= high and start < seconds[1] and end > seconds[0]


def parts_of_processor(random):
    return {
        "feature_extractor": LogMelPatches(),
        "video_processor": FILMS,
        "series_scaler": SeriesScaler.fit([a_series(False, random) for _ in range(9)]),
        "table_scaler": TableScaler.fit([a_table(n % 2, random) for n in range(40)]),
    }


@pytest.fixture(scope="module")
def processor():
    return UMEProcessor(id2label=YES_NO, **parts_of_processor(np.random.default_rng(0)))


def model_of(fusion="concat", id2label=None, **configs):
    torch.manual_seed(0)
    fields = {"id2label": id2label or YES_NO, "fusion_hidden_size": 16, "fusion_num_heads": 2, "fusion_dropout": 0.0}
    return UMEForVisualQuestionAnswering(
        UMEConfig.from_encoder_configs(**configs, **fields, fusion=fusion, classifier_dropout=0.0)
    ).eval()


def batch_of(processor, modality, cells):
    kind = MODALITIES[modality]
    return kind.collate(processor.part(kind), [kind.open(cell) for cell in cells])


@pytest.fixture(scope="module")
def learned(processor):
    """By kind of data, a model that has learned it, with a second modality that says nothing."""
    made = {}

    def of(kind):
        if kind not in made:
            modality, cell, config, _ = KNOWN[kind]
            random = np.random.default_rng(1)
            other = "table" if modality != "table" else "series"
            encoders = {f"{modality}_config": config}
            encoders |= {"table_config": UMETableMLPConfig(4, [4], hidden_size=8)} if other == "table" else {
                "series_config": UMECNNSeriesConfig(3, [8], dropout=0.0)}  # fmt: skip
            model = model_of(**encoders)
            labels = torch.arange(32) % 2
            noise = a_series if other == "series" else a_table_of_categories
            inputs = batch_of(processor, modality, [cell(int(label), random) for label in labels])
            inputs |= batch_of(processor, other, [noise(random.random() < 0.5, random) for _ in labels])
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for _ in range(80):
                loss = model(**inputs, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if loss < 0.01:
                    break
            assert loss < 0.05, "it has not learned what it is to explain"
            made[kind] = model
        return made[kind]

    return of


@pytest.mark.parametrize("kind", KNOWN)
def test_the_part_that_decides_is_found_and_the_answer_hangs_on_it_more_than_on_parts_by_chance(
    kind, learned, processor
):
    modality, cell, _, is_it = KNOWN[kind]
    model, random = learned(kind), np.random.default_rng(2)
    areas = []
    for _ in range(2):
        explanation = explain(model, processor, answer="yes", faithfulness=True, **{modality: cell(True, random)})
        scores = explanation.parts[modality]
        assert explanation.candidates[0]["answer"] == "yes"
        name, score = scores.best(1)[0]
        assert is_it(name), name
        assert score > 0
        total = explanation.logit - scores.baseline_logit
        assert scores.scores.sum() == pytest.approx(total, abs=scores.error + 1e-3)
        assert scores.error <= 0.05 * abs(total) + 1e-4
        assert scores.method == (EXACT if modality == "table" else INTEGRATED)
        areas.append(explanation.faithfulness[modality])
    means = {name: np.mean([area[name] for area in areas]) for name in areas[0]}
    assert means["deletion"] < means["random_deletion"] - 0.02
    assert means["insertion"] > means["random_insertion"] + 0.02


def test_an_order_by_the_scores_beats_its_reverse(learned, processor):
    model, kind = learned("series"), MODALITIES["series"]
    cell = kind.open(a_series(True, np.random.default_rng(5)))
    inputs = batch_of(processor, "series", [cell])
    parts = kind.parts(processor.part(kind), model.config.series_config, cell, inputs)
    order = part_order(part_scores(model, inputs, parts, 1)[0], torch.Generator().manual_seed(0))
    deletion, insertion = masking_areas(model, inputs, parts, 1, [order, order.flip(0)])
    assert deletion[0] < deletion[1] - 0.2
    assert insertion[0] > insertion[1] + 0.2


# ------------------------------------------------------------------------------------------------- what parts are

EARS = {
    "samples": Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(10, 8), conv_kernel=(16, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
    ),
    "window": WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
                            num_mel_bins=80, max_source_positions=100),
    "two frames side by side": Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conformer_conv_dropout=0.0,
        feature_projection_input_dim=160, output_hidden_size=16,
    ),
    "spectrogram": ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                             max_length=128, num_mel_bins=128),
    "channels": ClapAudioConfig(
        window_size=4, num_mel_bins=64, patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], hidden_size=64,
        num_attention_heads=[1, 1, 2, 2], num_hidden_layers=4, aff_block_r=1,
    ),
    "patches": SOUND,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in EARS if name != "two frames side by side"])
def test_whatever_an_encoder_reads_of_a_sound_the_loudest_part_is_that_of_the_tones_time_and_frequency(name):
    kind, config = MODALITIES["audio"], EARS[name]
    part = kind.new_part(config, {})
    rate = part.sampling_rate
    time = np.arange(int(1.5 * rate)) / rate
    sound = 0.5 * np.sin(2 * np.pi * 2000 * time) * ((time >= 0.6) & (time < 0.9))
    cell = kind.open(((sound + 1e-3 * np.random.default_rng(0).normal(size=len(time))).astype(np.float32), rate))
    inputs = kind.collate(part, [cell])
    parts = kind.parts(part, config, cell, inputs)
    [(value_name, _)] = parts.of.items()
    value = inputs[value_name][0].double()
    loudness = value.square() if name == "samples" else value
    means = parts.summed(value_name, loudness) / parts.summed(value_name, torch.ones_like(value))
    label = parts.names()[int(means.argmax())]
    label = label if name != "samples" else f"0–8000 Hz, {label}"
    assert _overlaps(label, (0.6, 0.9), 2000), label
    assert parts.axes[-1].edges[-1] == pytest.approx(1.5, abs=0.25), "padding, and what is repeated, is no part"
    assert np.isfinite(parts.shown).all()


@pytest.mark.parametrize("name", ["samples", "window", "two frames side by side"])
def test_every_kind_of_ear_is_explained_and_adds_up(name, processor, tmp_path, hasty):
    kind, config = MODALITIES["audio"], EARS[name]
    torch.manual_seed(0)
    own = UMEProcessor(
        id2label=YES_NO, feature_extractor=kind.new_part(config, {}), table_scaler=processor.table_scaler
    )
    model = model_of(audio_config=config, table_config=UMETableMLPConfig(4, [4], hidden_size=8))
    samples = np.random.default_rng(0).normal(size=own.feature_extractor.sampling_rate // 5).astype(np.float32)
    explanation = explain(model, own, audio=(samples, own.feature_extractor.sampling_rate))
    scores = explanation.parts["audio"]
    added = explanation.logit - scores.baseline_logit
    assert abs(scores.scores.sum() - added) <= 0.05 * abs(added) + 1e-3
    plot_explanation(explanation, tmp_path / "why.png")
    assert (tmp_path / "why.png").stat().st_size > 5000


def test_of_frames_side_by_side_each_is_of_its_own_time_and_padding_of_none():
    kind, config = MODALITIES["audio"], EARS["two frames side by side"]
    part = kind.new_part(config, {})
    found = layout(hearing(config), part, torch.zeros(6, 160), torch.tensor([1, 1, 1, 1, 0, 0]))
    assert (found.time[3, 80 + 40], found.band[80 + 40]) == (7, 40)
    assert (found.time[4:] == -1).all()
    assert found.seconds == pytest.approx(0.01)


def test_taking_all_parts_away_leaves_padding_and_special_tokens_and_nothing_else_of_what_was_said(processor):
    kind, tokenizer = MODALITIES["text"], words_tokenizer(["is the floor wet ?"])
    inputs = kind.process(tokenizer, "is the floor wet ?")
    parts = kind.parts(tokenizer, None, "is the floor wet ?", inputs)
    assert parts.axes[0].labels == ["is", "the", "floor", "wet", "?"]
    hidden = torch.tensor([[True] * 5, [False, False, True, False, False]])
    none, some = parts.without(inputs, hidden)["input_ids"]
    ids = inputs["input_ids"][0]
    special = torch.tensor(tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)).bool()
    assert torch.equal(none, torch.where(special, ids, tokenizer.pad_token_id))
    assert (some != ids).sum() == 1

    kind, row = MODALITIES["table"], a_table(True, np.random.default_rng(3))
    inputs = batch_of(processor, "table", [row])
    parts = kind.parts(processor.table_scaler, None, row, inputs)
    gone = parts.without(inputs, torch.ones(1, len(parts), dtype=torch.bool))
    assert gone["table_numbers"].isnan().all()
    assert not gone["table_categories"].any()


def test_what_is_missing_in_a_series_and_what_pads_it_belongs_to_no_part(processor):
    kind = MODALITIES["series"]
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[4:8, 0] = np.nan
    inputs = batch_of(processor, "series", [values, np.zeros((33, 3))])
    own = {name: value[:1] for name, value in inputs.items()}
    of = kind.parts(processor.series_scaler, None, values, own).of["series_values"]
    assert (of[20:] == -1).all()
    assert (of[4:8, 0] == -1).all()
    assert (of[:20, 1:] >= 0).all()


def test_stretches_are_as_equal_as_may_be_and_numbers_are_summed_over_each():
    cells = cells_of(10, 4)
    assert cells.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert cells_of(3, 16).tolist() == [0, 1, 2]
    parts = Parts((Axis("x", list("abcd")),), {"x": cells}, {"x": torch.zeros(10)})
    assert parts.summed("x", torch.ones(10)).tolist() == [3, 2, 3, 2]


# --------------------------------------------------------------------------------------------------- how it is scored


def test_where_an_integral_does_not_add_up_shapley_values_are_taken_and_say_so():
    """A model that brings its input to one loudness sees, on the way from nothing to it, all the way the same."""

    class Scaled:
        config = UMEConfig(num_labels=2)

        def __call__(self, pixel_values):
            values = pixel_values / pixel_values.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
            return type("Output", (), {"logits": torch.stack([values[:, 0], values[:, 2]], dim=1)})

    inputs = {"pixel_values": torch.tensor([[1.0, 2.0, -1.0, 0.5, 0.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]])}
    parts = Parts(
        (Axis("number", list("abcdefghijk")),), {"pixel_values": torch.arange(11)}, {"pixel_values": torch.zeros(11)}
    )
    scores, begins_at, error, method = part_scores(Scaled(), inputs, parts, 1)
    assert method == SAMPLED
    assert begins_at == 0
    assert error < 1e-5
    assert scores.argmin() == 2
    assert scores.sum() == pytest.approx(-1 / inputs["pixel_values"].square().sum().sqrt().item(), abs=1e-5)


def test_shapley_values_by_sampling_come_close_to_those_of_all_subsets(learned, processor, monkeypatch):
    model, kind = learned("table"), MODALITIES["table"]
    row = a_table(True, np.random.default_rng(7))
    inputs = batch_of(processor, "table", [row])
    parts = kind.parts(processor.table_scaler, None, row, inputs)
    exact, *_, method = part_scores(model, inputs, parts, 1)
    assert method == EXACT
    monkeypatch.setattr("training_ume.explain.parts.SUBSETS", 31)
    sampled, *_, method = part_scores(model, inputs, parts, 1)
    assert method == SAMPLED
    torch.testing.assert_close(sampled.sum(), exact.sum(), rtol=0, atol=1e-4)
    assert sampled.argmax() == exact.argmax()


def test_what_an_lstm_reads_is_explained_in_evaluation_mode(processor):
    config = UMELSTMSeriesConfig(3, 12, bidirectional=True)
    model = model_of(series_config=config, table_config=UMETableMLPConfig(4, [4], hidden_size=8))
    scores = explain(model, processor, series=a_series(True, np.random.default_rng(0))).parts["series"]
    assert scores.scores.shape == (3, 16)
    assert np.abs(scores.scores).max() > 0
    assert not model.training


# ------------------------------------------------------------------------------------------------- several modalities


@pytest.fixture
def hasty(monkeypatch):
    """Coarse integrals and few subsets, where what they give is not looked at."""
    for name, value in {"STEPS": 10, "FINER_STEPS": 10, "SUBSETS": 64}.items():
        monkeypatch.setattr(f"training_ume.explain.parts.{name}", value)


@pytest.fixture(scope="module")
def of_all(processor, tmp_path_factory):
    """A model of all six modalities with its processor, and the folder that holds them."""
    tokenizer = words_tokenizer(["is the floor wet ?"])
    own = UMEProcessor(
        ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer, id2label=YES_NO,
        **parts_of_processor(np.random.default_rng(0)),
    )  # fmt: skip
    text = TEXT_CONFIGS["bert"]()
    text.vocab_size = len(tokenizer)
    model = model_of(
        "gmu", text_config=text, vision_config=ViTConfig(image_size=32, patch_size=8, hidden_size=16,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=16), audio_config=SOUND, video_config=PICTURE,
        series_config=UMECNNSeriesConfig(3, [8]), table_config=UMEFTTransformerConfig(4, [4], 16),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("all")
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return model, own, str(folder)


def files(folder):
    random = np.random.default_rng(0)
    folder = Path(folder)
    Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "gauge.png")
    with wave.open(str(folder / "hum.wav"), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes((a_sound(True, random)[0] * 32767).astype("<i2").tobytes())
    np.save(folder / "signal.npy", a_series(True, random))
    (folder / "film").mkdir(exist_ok=True)
    for number, frame in enumerate(a_film(True, random)):
        Image.fromarray(frame).save(folder / "film" / f"{number}.png")
    return folder


def test_six_modalities_are_explained_together_and_their_shares_add_up(of_all, tmp_path, hasty):
    model, processor, _ = of_all
    place = files(tmp_path)
    row = {"series": str(place / "signal.npy"), "table": a_table(True, np.random.default_rng(0))}
    row |= {"audio": str(place / "hum.wav"), "video": str(place / "film")}
    explanation = explain(model, processor, str(place / "gauge.png"), "is the floor wet ?", **row)
    assert set(explanation.parts) == {*row}
    assert [word["word"] for word in explanation.words] == ["is", "the", "floor", "wet", "?"]
    assert explanation.grad_cam.shape == (4, 4)
    assert len(explanation.values) == 2**6
    assert sum(explanation.shapley.values()) == pytest.approx(
        list(explanation.values.values())[-1] - explanation.values[""], abs=1e-5
    )
    assert explanation.pair_weights is None
    json.dumps(explanation.as_json())


def test_what_a_row_lacks_has_the_shapley_value_nought_and_its_row_is_explained_as_if_it_stood_alone(of_all):
    model, processor, _ = of_all
    random = np.random.default_rng(4)
    rows = [
        {"series": a_series(True, random).tolist(), "table": a_table(True, random), "question": "is the floor wet ?"},
        {"series": None, "table": a_table(False, random), "question": "is the floor wet ?"},
        {"series": a_series(False, random).tolist(), "table": None, "question": ""},
    ]
    collator = VQACollator(processor, inputs="question+series+table", may_lack=["text", "series", "table"])
    batch = collator(rows)
    names = [MODALITIES[name].short for name in model.config.modalities]
    together = shapley_values(subset_probabilities(model, batch))
    assert together[:, names.index("audio")].abs().max() == 0
    lacking = [(1, "series"), (2, "table"), (2, "text")]
    for row, name in lacking:
        assert together[row, names.index(name)] == 0
    for number, row in enumerate(rows):
        alone = shapley_values(subset_probabilities(model, collator([row])))
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-5)
    there = {name: cell for name, cell in rows[1].items() if cell}
    explanation = explain(model, processor, **there)
    assert explanation.shapley["series"] == 0
    assert explanation.shapley["table"] == pytest.approx(
        together[1, names.index("table")].item()
        if explanation.answer == explanation.candidates[0]["answer"]
        else None, abs=1e-5,
    )  # fmt: skip


def test_over_a_data_set_whole_batches_may_lack_a_modality_and_the_table_says_what_each_alone_gives(of_all):
    model, processor, _ = of_all
    random = np.random.default_rng(4)
    rows = [
        {"question": "is the floor wet ?" if n % 2 else "", "table": a_table(True, random), "image": "",
         "image_id": "", "series": a_series(True, random).tolist() if n != 2 else None, "answer_type": "",
         "question_id": n}
        for n in range(4)
    ]  # fmt: skip
    found = explain_dataset(model, processor, Dataset.from_list(rows), batch_size=1)
    means = found["kinds"]["all"]
    assert sum(means["share"].values()) == pytest.approx(1)
    assert means["share"]["audio"] == means["share"]["image"] == 0
    assert sum(means["shapley"].values()) == pytest.approx(list(means["values"].values())[-1] - means["values"][""])
    header, line = modality_table(found["kinds"])
    columns = dict(zip(header, line, strict=True))
    assert columns["P series"] == f"{means['values']['series']:.3f}"
    assert columns["P none"] == f"{means['values']['']:.3f}"
    assert "P text+series" not in columns


def test_a_number_is_explained_in_its_own_unit(processor, tmp_path):
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        series_config=UMECNNSeriesConfig(3, [8]), table_config=UMETableMLPConfig(4, [4], hidden_size=8),
        problem_type="regression", id2label={0: "price"}, fusion="concat", fusion_hidden_size=16,
        label_mean=[1000.0], label_std=[200.0],
    )  # fmt: skip
    model = UMEForVisualQuestionAnswering(config).eval()
    own = UMEProcessor(
        id2label={0: "price"}, problem_type="regression", series_scaler=processor.series_scaler,
        table_scaler=processor.table_scaler,
    )  # fmt: skip
    row = a_table(True, np.random.default_rng(0))
    with torch.no_grad():
        price = model(**batch_of(own, "table", [row])).logits.item()
    explanation = explain(model, own, table=row)
    found = explanation.as_json()
    assert (found["answer"], found["number"]) == ("price", pytest.approx(price, rel=1e-5))
    assert "probability" not in found
    scores = explanation.parts["table"]
    assert scores.scores.sum() == pytest.approx(price - scores.baseline_logit, rel=1e-3, abs=0.05)
    plot_explanation(explanation, tmp_path / "why.png")


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_takes_files_by_their_endings_and_columns_by_name(of_all, tmp_path, capsys, hasty):
    _, _, folder = of_all
    place, out = files(tmp_path), str(tmp_path / "why")
    named = [str(place / name) for name in ("hum.wav", "gauge.png", "signal.npy", "film")]
    table = ["--table", "age=40", "heat=61", "maker=north", "load="]
    assert main(["explain", folder, *named, "is the floor wet ?", *table, "--out", out]) == 0
    found = json.loads(Path(f"{out}.json").read_text())
    assert set(found["parts"]) == {"audio", "video", "series", "table"}
    assert found["audio"].endswith("hum.wav")
    assert found["parts"]["table"]["axes"][0]["labels"] == [
        "age = 40", "width = (missing)", "heat = 61", "load = (missing)", "maker = north"
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "heat = 61" in printed
    with Image.open(f"{out}.png") as picture:
        assert picture.width == 960


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["absent.wav", "is it ?"], "there is no such file"),
        (["BROKEN", "is it ?"], "cannot be read"),
        (["hum.wav"], "There is no question: give one behind the sound, in quotes"),
        (["HUM", "HUM"], "There are two sounds"),
        (["is it ?", "was it ?"], "There are two questions"),
        (["is it ?", "--table", "heat"], "which is no pair"),
        (["is it ?", "--table", "hat=3"], "'hat'"),
        (["is it ?", "--series", "absent.npy"], "does not exist"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(of_all, tmp_path, capsys, argv, sentence):
    place = files(tmp_path)
    (place / "broken.wav").write_bytes(b"no sound")
    names = {"BROKEN": str(place / "broken.wav"), "HUM": str(place / "hum.wav")}
    argv = [names.get(word, word) for word in argv]
    assert main(["explain", of_all[2], *argv, "--out", str(tmp_path / "why")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "why.png").exists()


def test_a_model_without_text_is_explained_by_a_file_alone_and_refuses_what_it_does_not_read(
    learned, processor, tmp_path, capsys
):
    model = learned("series")
    with pytest.raises(ValueError, match=r"audio was given, but this model reads series, table: leave it out\."):
        explain(model, processor, audio="hum.wav")
    with pytest.raises(ValueError, match=r"There is nothing to explain: give series or table\."):
        explain(model, processor)
    for row in ({"series": np.full((9, 3), np.nan)}, {"table": {"heat": None}}, {"table": {}}):
        with pytest.raises(ValueError, match="holds nothing: leave it out, or give one value at least"):
            explain(model, processor, **row)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    signal = files(tmp_path) / "signal.npy"
    assert main(["explain", str(tmp_path), str(signal), "--faithfulness", "--out", str(tmp_path / "how")]) == 0
    assert "by chance" in capsys.readouterr().out
    found = json.loads((tmp_path / "how.json").read_text())["faithfulness"]["series"]
    assert found["deletion"] < found["random_deletion"]
    for argv, sentence in (
        (["--audio", "hum.wav"], "--audio was given, but this model reads series, table rows: leave it out."),
        (["what is it ?"], "does not exist"),
    ):
        assert main(["explain", str(tmp_path), *argv, "--out", str(tmp_path / "why")]) == 2
        assert sentence in capsys.readouterr().err

"""Sounds: every kind of encoder, files of every kind, and that neither padding nor absence changes what is said."""

import io

import numpy as np
import pytest
import soundfile
import torch
from conftest import IMAGE_CONFIGS
from datasets import Audio as AudioColumn
from datasets import Dataset
from PIL import Image
from transformers import (
    ASTConfig,
    AutoModel,
    ClapAudioConfig,
    Data2VecAudioConfig,
    HubertConfig,
    MobileNetV1Config,
    SEWConfig,
    ViTImageProcessor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)

from configuration_ume.arguments import ModelArguments
from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor, sounds_ume
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.sounds_ume import read_sound, resample
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.data.json_entries import VQADataError
from training_ume.data.tables.load import load_rows
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KEEPS = {"layerdrop": 0.0}  # no layer is left out by chance, as each is asked for its gradient
WAVES = {
    **TRANSFORMER, **KEEPS, "conv_dim": (8, 8), "conv_stride": (8, 8), "conv_kernel": (16, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS = {
    "wav2vec2": lambda: Wav2Vec2Config(**WAVES),
    "wav2vec2_layer": lambda: Wav2Vec2Config(**WAVES, **LAYER),
    "hubert": lambda: HubertConfig(**WAVES),
    "wavlm": lambda: WavLMConfig(**WAVES, **LAYER),
    "data2vec-audio": lambda: Data2VecAudioConfig(**{**WAVES, "num_conv_pos_embeddings": 2}, conv_pos_kernel_size=5),
    "sew": lambda: SEWConfig(**WAVES, squeeze_factor=2),
    "wav2vec2-bert": lambda: Wav2Vec2BertConfig(
        **TRANSFORMER, **KEEPS, feature_projection_input_dim=160, conv_depthwise_kernel_size=7
    ),
    "whisper": lambda: WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=100, max_target_positions=8,
        vocab_size=8, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    ),
    "audio-spectrogram-transformer": lambda: ASTConfig(**TRANSFORMER, max_length=64),
    "clap_audio_model": lambda: ClapAudioConfig(
        window_size=4, num_mel_bins=64, patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], hidden_size=64,
        num_attention_heads=[1, 1, 2, 2], num_hidden_layers=4, aff_block_r=1,
    ),
    "mobilenet_v1": lambda: MobileNetV1Config(num_channels=1, image_size=96, depth_multiplier=0.25),
}  # fmt: skip
# The first head for every encoder at once; the others are tried with all of them by the slow tests.
HEADS = ("ume", *(pytest.param(head, marks=pytest.mark.slow) for head in ("concat", "bottleneck", "late_mean")))
ANSWERS = {0: "low", 1: "high"}


def sound(samples=8000, rate=16000, seed=0, pitch=440.0):
    """A tone with some noise, [samples]."""
    noise = np.random.default_rng(seed).normal(0, 0.02, samples)
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(samples) / rate) + noise).astype(np.float32)


def model_of(kind, **fields):
    torch.manual_seed(0)
    configs = {"vision_config": IMAGE_CONFIGS["vit"](), "audio_config": KINDS[kind]()}
    config = UMEConfig.from_encoder_configs(**configs, fusion_hidden_size=16, id2label=ANSWERS, **fields)
    return UMEForVisualQuestionAnswering(config).eval()


def processor_of(config, **settings):
    part = MODALITIES["audio"].new_part(config.audio_config, settings)
    pictures = ViTImageProcessor(size={"height": 32, "width": 32})
    return UMEProcessor(pictures, feature_extractor=part, id2label=ANSWERS)


@pytest.mark.parametrize("fusion", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_is_trained_saved_and_loaded_and_passes_over_padding_and_absence(kind, fusion, tmp_path):
    lengths = (8000, 1, 5001)
    model = model_of(kind, fusion=fusion, fusion_num_heads=1)
    processor = processor_of(model.config)
    clips = [(sound(n, seed=n), 16000) for n in lengths]
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "grey")]
    batch = processor(audio=clips, images=pictures)
    logits = model(**batch).logits
    for number, clip in enumerate(clips):
        alone = model(**processor(audio=[clip], images=pictures[number])).logits
        torch.testing.assert_close(alone[0], logits[number], rtol=0, atol=1e-5)
    lacking = model(**batch, audio_present=torch.tensor([True, False, True])).logits
    torch.testing.assert_close(lacking[[0, 2]], logits[[0, 2]], rtol=0, atol=1e-5)
    without = model(**processor(images=pictures[1])).logits
    torch.testing.assert_close(lacking[1], without[0], rtol=0, atol=1e-5)
    shared = {**batch, "audio_index": torch.tensor([2, 0, 0])}
    torch.testing.assert_close(model(**shared).logits[0], model(
        **processor(audio=[clips[2]], images=pictures[0])).logits[0], rtol=0, atol=1e-5)  # fmt: skip

    model.train()
    loss = model(**batch, labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    trained = [p for p in model.ume.audio_model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert any(p.grad.abs().max() > 0 for p in trained)
    model.eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    batch = UMEProcessor.from_pretrained(tmp_path)(audio=clips, images=pictures)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)
    assert again.config.modalities == ["vision", "audio"]


@pytest.fixture(params=["wav2vec2_layer", "whisper", "audio-spectrogram-transformer", "mobilenet_v1"])
def folder(request, tmp_path):
    """A pretrained audio encoder with its feature extractor, as they lie on the Hub."""
    torch.manual_seed(1)
    config = KINDS[request.param]()
    AutoModel.from_config(config).save_pretrained(tmp_path / request.param)
    if request.param != "mobilenet_v1":
        MODALITIES["audio"].new_part(config, {}).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def test_a_pretrained_folder_gives_its_weights_and_its_processor(folder):
    model = UMEForVisualQuestionAnswering.from_encoders_pretrained(
        audio_name=str(folder), vision_config=IMAGE_CONFIGS["vit"](), fusion_hidden_size=16, id2label=ANSWERS
    )
    whole = AutoModel.from_pretrained(folder)
    there = whole.get_encoder() if folder.name == "whisper" else whole
    held = model.ume.audio_model.state_dict()
    assert all(torch.equal(held[name], value) for name, value in there.state_dict().items() if "mask" not in name)
    batch = UMEProcessor.from_encoders_pretrained(audio_name=folder)(audio=sound())
    stream = model.ume.encode("audio", **batch)
    assert stream.mask.any()


def test_a_recipe_builds_model_and_processor(folder):
    args = ModelArguments(
        audio_model=str(folder), vision_config={"model_type": "resnet", "depths": [1], "hidden_sizes": [8]},
        image_size=32, freeze_audio=True, fusion_hidden_size=16,
        audio_seconds=0.5 if "spectrogram" in folder.name else 1,
    )  # fmt: skip
    processor = build_processor(args, None, AnswerVocabulary.from_id2label(ANSWERS))
    model = build_model(args, processor)
    assert processor.tokenizer is None
    assert not any(p.requires_grad for p in model.ume.audio_model.parameters())
    batch = processor(audio=[sound(40000)], images=Image.new("RGB", (32, 32)))
    assert model(**batch).logits.shape == (1, 2)
    if folder.name == "whisper":  # a window of a second: 50 positions of the 100 that the file has
        assert batch["input_features"].shape == (1, 80, 100)
        assert model.config.audio_config.max_source_positions == 50
    if folder.name.startswith("wav2vec2"):
        assert batch["input_values"].shape == (1, 16000)


def test_whispers_window_and_layers_are_cut_and_what_is_left_says_the_same():
    whole = model_of("whisper").ume.audio_model
    kind = MODALITIES["audio"]
    cut = kind.fit_config(KINDS["whisper"](), {"audio_seconds": 1, "audio_layer": 1})
    assert (cut.max_source_positions, cut.encoder_layers) == (50, 1)
    with pytest.raises(ValueError, match=r"audio_seconds=3 is impossible .* give a whole number, 1 … 2"):
        kind.fit_config(whole.config, {"audio_seconds": 3})
    with pytest.raises(ValueError, match=r"audio_layer=3 is impossible: the encoder 'whisper' has 2 layers: give 1"):
        kind.fit_config(whole.config, {"audio_layer": 3})
    with pytest.raises(ValueError, match="audio_seconds is given without such an encoder"):
        ModelArguments(text_model="a", vision_model="b", audio_seconds=2)


def test_batch_norms_of_a_pretrained_encoder_of_patches_are_held_and_those_of_a_new_one_learn(tmp_path):
    AutoModel.from_config(KINDS["mobilenet_v1"]()).save_pretrained(tmp_path)
    pretrained = UMEForVisualQuestionAnswering.from_encoders_pretrained(
        audio_name=str(tmp_path), vision_config=IMAGE_CONFIGS["vit"](), fusion_hidden_size=16, id2label=ANSWERS
    )
    pretrained.save_pretrained(tmp_path / "saved")
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "saved")
    for model, moves in ((pretrained, False), (again, False), (model_of("mobilenet_v1"), True)):
        norm = next(m for m in model.ume.audio_model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        before = norm.running_mean.clone()
        model.train()
        stream = model.ume.encode("audio", **processor_of(model.config)(audio=[sound(16000), sound(40000)]))
        assert torch.equal(norm.running_mean, before) is not moves
        assert not stream.states[0, 12:].any(), "what pads a sound is not read"


def test_log_mel_patches_hear_a_tone_in_its_filter_and_pad_short_sounds():
    part = MODALITIES["audio"].new_part(KINDS["mobilenet_v1"](), {})
    batch = part([sound(32000, pitch=1000.0), sound(100)])
    assert batch["input_features"].shape == (2, 3, 1, 96, 64)  # a patch each 0.48 s
    assert batch["audio_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    loudest = batch["input_features"][0, 0, 0].mean(0).argmax()
    middle = 700 * np.expm1((np.arange(1, 65) / 65 * (1127 * np.log1p(7500 / 700) - 1127 * np.log1p(125 / 700))
                             + 1127 * np.log1p(125 / 700)) / 1127)  # fmt: skip
    assert abs(middle[loudest] - 1000) < 50
    assert not batch["input_features"][1, 1:].any()


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_files_of_every_kind_are_read(ending, tmp_path):
    file = tmp_path / f"tone.{ending}"
    soundfile.write(file, sound(16000), 16000)
    for given in (
        str(file),
        file,
        file.read_bytes(),
        {"path": str(file), "bytes": None},
        io.BytesIO(file.read_bytes()),
    ):
        heard = read_sound(given, 16000)
        assert abs(len(heard) - 16000) < 2500  # mp3 pads
        assert abs(np.abs(np.fft.rfft(heard)).argmax() * 16000 / len(heard) - 440) < 3


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_a_tone_stays_the_same_tone_at_another_rate(rate, installed, monkeypatch):
    if not installed:
        monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    samples = sound(rate, rate) - np.random.default_rng(0).normal(0, 0.02, rate).astype(np.float32)
    heard = resample(samples, rate, 16000)
    assert abs(len(heard) - 16000) <= 1
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16000)
    assert np.abs(heard - expected)[200:-200].max() < 2e-3
    above = np.sin(2 * np.pi * 0.45 * rate * np.arange(rate) / rate).astype(np.float32)
    if rate > 20000:  # what the lower rate cannot hold is gone
        assert np.abs(resample(above, rate, 16000))[200:-200].max() < 1e-2


def test_samples_are_taken_as_they_come():
    mono = sound(4000)
    eight = np.stack([mono * weight for weight in range(8)], 1)
    for given in (
        mono, torch.from_numpy(mono), (mono, 16000), (16000, mono), {"array": mono, "sampling_rate": 16000},
        (np.stack([mono, mono]), 16000), np.stack([mono, mono], 1), mono.tolist(),
    ):  # fmt: skip
        np.testing.assert_allclose(read_sound(given, 16000), mono, atol=1e-6)
    np.testing.assert_allclose(read_sound(eight, 16000), mono * 3.5, atol=1e-5)
    np.testing.assert_allclose(read_sound((mono * 32768).astype(np.int16), 16000), mono, atol=1e-4)
    assert read_sound(np.zeros(1, np.float32), 16000).shape == (1600,)
    assert len(read_sound((mono, 8000), 16000)) == 8000


def test_of_an_hour_only_the_window_is_read(tmp_path, monkeypatch):
    file = tmp_path / "hour.wav"
    with soundfile.SoundFile(file, "w", 8000, 1, "PCM_U8") as writer:
        for _ in range(60):
            writer.write(np.zeros(8000 * 60, np.float32))
    asked, said = [], []
    opened = soundfile.SoundFile

    class Counted(opened):
        def read(self, frames=-1, *args, **kwargs):
            asked.append(frames)
            return super().read(frames, *args, **kwargs)

    monkeypatch.setattr(soundfile, "SoundFile", Counted)
    monkeypatch.setattr(sounds_ume.logger, "warning_once", said.append)
    assert len(read_sound(str(file), 16000, seconds=2)) == 32000
    assert asked == [16001]
    assert "longer than the 2 seconds that are read" in said[0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: folder / "nowhere.wav", r"The sound '.*nowhere\.wav' cannot be read: there is no such file"),
        (lambda folder: folder, "cannot be read: it is a folder"),
        (lambda folder: b"", "The sound cannot be read: it is no wav, flac, mp3 or ogg file, or is broken"),
        (lambda folder: b"RIFF" + bytes(60), "cannot be read: it is no wav"),
        (lambda folder: np.zeros(0, np.float32), r"cannot be read: it has shape \[0\]"),
        (lambda folder: np.array([0.0, np.nan]), "cannot be read: it holds values that are no finite numbers"),
        (lambda folder: (sound(), -3), "cannot be read: its sampling rate is -3"),
        (lambda folder: {"path": None, "bytes": None}, "cannot be read: it is a dict without samples or a file"),
        (lambda folder: 3, "audio must be a sound or a list of sounds"),
        (lambda folder: [], "audio must be a sound or a list of sounds that is not empty"),
        (lambda folder: [None], "cannot be read: it is a NoneType; give a path"),
    ],
)
def test_what_is_no_sound_is_one_sentence(made, message, tmp_path):
    processor = processor_of(UMEConfig.from_encoder_configs(
        vision_config=IMAGE_CONFIGS["vit"](), audio_config=KINDS["wav2vec2"]()))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        processor(audio=made(tmp_path))


def test_an_empty_file_and_one_that_breaks_off_are_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match=r"empty\.wav' cannot be read: there are no samples in it"):
        read_sound(tmp_path / "empty.wav", 16000)
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).normal(0, 0.3, 48000), 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.flac' cannot be read: "):
        read_sound(tmp_path / "half.flac", 16000)


def test_without_soundfile_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r'read by the package soundfile: `pip install "ume\[audio\]"`'):
        read_sound(b"RIFF", 16000)


def test_a_column_of_a_data_set_is_read_without_its_decoder(tmp_path):
    soundfile.write(tmp_path / "tone.wav", sound(), 16000)
    rows = Dataset.from_dict({"audio": [str(tmp_path / "tone.wav")]}).cast_column("audio", AudioColumn(decode=False))
    np.testing.assert_allclose(read_sound(rows[0]["audio"], 16000), sound(), atol=1e-4)


@pytest.mark.parametrize("named", [True, False])
def test_sounds_whose_bytes_stand_in_a_column_are_taken_for_what_they_are(named, tmp_path):
    cells = []
    for number, ending in enumerate(("wav", "flac", "mp3", "ogg")):
        file = tmp_path / f"{number}.{ending}"
        soundfile.write(file, sound(seed=number), 16000)
        cells.append({"bytes": file.read_bytes(), "path": file.name if named else None})
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    data = {"audio": cells, "image": [picture.getvalue()] * 4, "answer": ["low", "high"] * 2}
    rows = load_rows(Dataset.from_dict(data).cast_column("audio", AudioColumn(decode=False)), cache_dir=tmp_path)
    heard = [read_sound(cell, 16000) for cell in rows["audio"][:]]
    assert len(heard) == 4
    assert all(abs(len(samples) - 8000) < 2500 for samples in heard)


# -------------------------------------------------------------------------------------------------- collator and cache


@pytest.fixture
def rows(tmp_path):
    found = []
    for number, samples in enumerate((8000, 5000, 8000)):
        soundfile.write(tmp_path / f"{number}.wav", sound(samples, seed=number), 16000)
        found.append({"audio": str(tmp_path / f"{number}.wav"), "question_id": number, "answers": ["low"]})
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "grey.png")
    shared = {"image": str(tmp_path / "grey.png"), "image_id": "grey"}
    return Dataset.from_list([{**row, **shared} for row in (*found, found[0], {**found[0], "audio": ""})])


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-bert", "whisper", "mobilenet_v1", "clap_audio_model"])
def test_a_batch_holds_each_sound_once_and_the_cache_what_it_says(kind, rows, tmp_path):
    model = model_of(kind)
    collator = VQACollator(processor_of(model.config), image_cache_bytes=10**7)
    batch = collator(list(rows))
    assert batch["audio_index"].tolist() == [0, 1, 2, 0, 0]
    assert batch["audio_present"].tolist() == [True, True, True, True, False]
    main = next(name for name in ("input_values", "input_features") if name in batch)
    assert len(batch[main]) == 3
    logits = model(**batch).logits
    again = collator(list(rows))  # out of memory
    assert all(torch.equal(again[name], value) for name, value in batch.items())

    alone = VQACollator(collator.processor, inputs="audio", may_lack=["audio"])
    build_features(tmp_path / "cache", "audio", model, alone, list(rows), {"name": None, "revision": None})
    collator.features = {"audio": FeatureCache(tmp_path / "cache")}
    stored = collator(list(rows))
    assert main not in stored
    torch.testing.assert_close(model(**stored).logits, logits, rtol=0, atol=1e-2)


def test_a_broken_sound_is_named_with_its_rows(rows, tmp_path):
    (tmp_path / "1.wav").write_bytes(b"no sound")
    collator = VQACollator(processor_of(model_of("wav2vec2").config))
    with pytest.raises(VQADataError, match=r"The sound .*1\.wav cannot be read .* question_id 1"):
        collator(list(rows))


# ---------------------------------------------------------------------------------------------------------- the inputs


def test_inputs_of_another_encoder_or_shape_are_refused():
    model = model_of("wav2vec2")
    pixels = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="input_features was given, but the audio encoder 'wav2vec2' reads input_val"):
        model(pixel_values=pixels, input_features=torch.zeros(1, 80, 200))
    with pytest.raises(ValueError, match=r"input_values is .*: give floating-point numbers \[sounds, length\]"):
        model(pixel_values=pixels, input_values=torch.zeros(1, 3, 200))
    for mask, message in (
        (torch.tensor([[0, 1] * 400]), "audio_attention_mask has padding before a sound or in it"),
        (torch.ones(1, 8), r"audio_attention_mask is .*: give \[1, 800\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model(pixel_values=pixels, input_values=torch.zeros(1, 800), audio_attention_mask=mask)
    whisper = model_of("whisper")
    with pytest.raises(ValueError, match=r"input_features is .*: give floating-point numbers \[sounds, 80, 200\]"):
        whisper(pixel_values=pixels, input_features=torch.zeros(1, 80, 3000))


def test_an_image_encoder_with_colours_is_no_audio_encoder():
    with pytest.raises(ValueError, match="audio_config is of the image encoder 'vit': were the two configs swapped"):
        UMEConfig.from_encoder_configs(vision_config=IMAGE_CONFIGS["vit"](), audio_config=IMAGE_CONFIGS["vit"]())

"""Films: every kind of encoder, files of every kind, and that neither shorter ones nor absence changes an answer."""

import json

import av
import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS
from PIL import Image
from transformers import (
    AutoModel,
    ResNetConfig,
    TimesformerConfig,
    VideoMAEConfig,
    ViTConfig,
    VivitConfig,
    VJEPA2Config,
)

from configuration_ume.arguments import ModelArguments
from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor, films_ume
from modeling_ume.films_ume import places, read_film
from modeling_ume.modalities_ume import MODALITIES
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.build.tokenizer import words_tokenizer
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FILMS = {**TRANSFORMER, "image_size": 32, "num_frames": 4}
KINDS = {
    "videomae": lambda: VideoMAEConfig(**FILMS, patch_size=16, decoder_hidden_size=8, decoder_num_hidden_layers=1),
    "timesformer": lambda: TimesformerConfig(**FILMS, patch_size=16),
    "vivit": lambda: VivitConfig(**FILMS, tubelet_size=[2, 16, 16]),
    "vjepa2": lambda: VJEPA2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, crop_size=32, frames_per_clip=4, patch_size=16,
        pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2, mlp_ratio=2,
    ),
    "vit": lambda: ViTConfig(**TRANSFORMER, image_size=32, patch_size=16),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
}  # fmt: skip
# The first head for every encoder at once; the others are tried with all of them by the slow tests.
HEADS = ("ume", *(pytest.param(head, marks=pytest.mark.slow) for head in ("concat", "bottleneck", "late_mean")))
ANSWERS = {0: "up", 1: "down"}


def frames(count=6, seed=0, size=(40, 32)):
    """A film [T, H, W, 3] whose brightness rises, so that a frame tells its place."""
    noise = np.random.default_rng(seed).integers(0, 20, (count, size[1], size[0], 3))
    return (noise + np.linspace(20, 220, count)[:, None, None, None]).astype(np.uint8)


def write(path, pictures, rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())
    return path


def model_of(kind, **fields):
    torch.manual_seed(0)
    configs = {"text_config": TEXT_CONFIGS["bert"](), "video_config": KINDS[kind]()}
    config = UMEConfig.from_encoder_configs(**configs, fusion_hidden_size=16, id2label=ANSWERS, **fields)
    return UMEForVisualQuestionAnswering(config).eval()


def processor_of(config, **settings):
    part = MODALITIES["video"].new_part(config.video_config, {**settings})
    part.image_processor.size = {"height": 32, "width": 32}
    return UMEProcessor(tokenizer=words_tokenizer(["is it up ?"]), video_processor=part, id2label=ANSWERS)


@pytest.mark.parametrize("fusion", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_is_trained_saved_and_loaded_and_passes_over_padding_and_absence(kind, fusion, tmp_path):
    model = model_of(kind, fusion=fusion, fusion_num_heads=1)
    processor = processor_of(model.config)
    films = [frames(6, 1), frames(1, 2), frames(3, 3)]
    batch = processor(videos=films, text=["is it up ?"] * 3)
    logits = model(**batch).logits
    for number, film in enumerate(films):
        alone = model(**processor(videos=[film], text="is it up ?")).logits
        torch.testing.assert_close(alone[0], logits[number], rtol=0, atol=1e-5)
    lacking = model(**batch, video_present=torch.tensor([True, False, True])).logits
    torch.testing.assert_close(lacking[[0, 2]], logits[[0, 2]], rtol=0, atol=1e-5)
    without = model(**processor(text="is it up ?")).logits
    torch.testing.assert_close(lacking[1], without[0], rtol=0, atol=1e-5)
    shared = model(**batch, video_index=torch.tensor([2, 1, 0])).logits
    torch.testing.assert_close(shared, logits.flip(0), rtol=0, atol=1e-5)

    model.train()
    model(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
    trained = [p for p in model.ume.video_model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert any(p.grad.abs().max() > 0 for p in trained)
    model.eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = UMEProcessor.from_pretrained(tmp_path)(videos=films, text=["is it up ?"] * 3)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)


def test_the_frames_of_a_film_stand_in_their_order():
    model = model_of("vit")
    processor = processor_of(model.config)
    film = frames(8, 1)
    whole = model.ume.encode("video", **processor(videos=film))
    pictures = processor.video_processor.image_processor([Image.fromarray(picture) for picture in film])
    pixels = torch.tensor(np.asarray(pictures["pixel_values"]))
    apart = model.ume.video_model(pixels).last_hidden_state  # [8, 5, 16]
    torch.testing.assert_close(whole.states[0], apart.flatten(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "vit"])
def test_a_pretrained_folder_and_a_recipe_give_fewer_frames_where_that_is_asked(kind, tmp_path):
    torch.manual_seed(1)
    AutoModel.from_config(KINDS[kind]()).save_pretrained(tmp_path)
    fields = {"image_processor_type": "ViTImageProcessor" if kind == "vit" else "VideoMAEImageProcessor"}
    fields |= {"size": {"height": 32, "width": 32} if kind == "vit" else {"shortest_edge": 32}}
    fields |= {} if kind == "vit" else {"crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    args = ModelArguments(
        video_model=str(tmp_path), vision_config={"model_type": "resnet", "depths": [1], "hidden_sizes": [8]},
        image_size=32, video_frames=2, fusion_hidden_size=16,
    )  # fmt: skip
    processor = build_processor(args, None, AnswerVocabulary.from_id2label(ANSWERS))
    model = build_model(args, processor)
    batch = processor(videos=frames(9), images=Image.new("RGB", (32, 32)))
    assert batch["pixel_values_videos"].shape == (1, 2, 3, 32, 32)
    assert model(**batch).logits.shape == (1, 2)
    if kind != "vit":
        with pytest.raises(ValueError, match=r"video_frames=6 is impossible for the encoder .* which was made for 4"):
            MODALITIES["video"].fit_config(KINDS[kind](), {"video_frames": 6})


# --------------------------------------------------------------------------------------------------------------- films


def test_frames_are_evenly_spread():
    assert places(3, 8) == [0, 1, 2]
    assert places(8, 4) == [1, 3, 5, 7]
    assert places(100, 1) == [50]


def shades(pictures):
    return [float(np.asarray(picture, np.float32).mean()) for picture in pictures]


def test_a_file_a_folder_an_array_and_a_list_are_the_same_film(tmp_path):
    film = frames(12, size=(64, 48))
    expected = shades(read_film(film, 4))
    assert expected == pytest.approx([film[place].mean() for place in (1, 4, 7, 10)])
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(film):  # frame_10 comes after frame_9
        Image.fromarray(picture).save(tmp_path / "frames" / f"frame_{number}.png")
    file = write(tmp_path / "film.mp4", film)
    for given in (
        list(film), [Image.fromarray(picture) for picture in film], film.transpose(0, 3, 1, 2), torch.from_numpy(film),
        tmp_path / "frames", str(tmp_path / "frames"),
    ):  # fmt: skip
        assert shades(read_film(given, 4)) == pytest.approx(expected)
    for given in (file, str(file), file.read_bytes(), {"path": None, "bytes": file.read_bytes()}):
        assert shades(read_film(given, 4)) == pytest.approx(expected, abs=4)  # it was compressed


def test_of_a_long_film_only_what_stands_around_its_frames_is_decoded(tmp_path, monkeypatch):
    film = write(tmp_path / "long.avi", np.repeat(frames(60, size=(32, 32)), 10, 0), rate=10)  # a minute
    decoded, opened = [], films_ume._opened

    class Counting:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            self.container.__enter__()
            return self

        def __exit__(self, *error):
            return self.container.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def decode(self, *args, **kwargs):
            for frame in self.container.decode(*args, **kwargs):
                decoded.append(frame.time)
                yield frame

    monkeypatch.setattr(films_ume, "_opened", lambda film: Counting(opened(film)))
    found = shades(read_film(film, 3))
    expected = [frames(60, size=(32, 32))[place].mean() for place in (10, 30, 50)]
    assert found == pytest.approx(expected, abs=6)
    assert len(decoded) < 60, "of 600 frames"


def test_a_film_of_one_frame_is_read(tmp_path):
    file = write(tmp_path / "one.mp4", frames(1, size=(32, 32)))
    assert len(read_film(file, 8)) == 1
    Image.new("RGB", (8, 8), "red").save(tmp_path / "still.png")
    assert len(read_film(tmp_path / "still.png", 8)) == 1
    part = processor_of(model_of("videomae").config).video_processor
    assert part([file])["pixel_values_videos"].shape == (1, 4, 3, 32, 32)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: folder / "nowhere.mp4", r"nowhere\.mp4' cannot be read: there is no such file or folder"),
        (lambda folder: folder, "cannot be read: the folder holds no pictures"),
        (lambda folder: b"no film", "The film cannot be read: it is no film that FFmpeg knows, or is broken"),
        (lambda folder: np.zeros((0, 8, 8, 3), np.uint8), r"cannot be read: it has shape \[0, 8, 8, 3\]"),
        (lambda folder: np.zeros((2, 8, 8, 3), np.float32), "cannot be read: a frame is an array of float32"),
        (lambda folder: [], "videos must be a film or a list of films that is not empty"),
        (lambda folder: 3, "videos must be a film or a list of films"),
    ],
)
def test_what_is_no_film_is_one_sentence(made, message, tmp_path):
    processor = processor_of(model_of("vit").config)
    with pytest.raises(ValueError, match=message):
        processor(videos=made(tmp_path))


def test_a_sound_without_pictures_and_half_a_film_are_named(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "sound.wav", np.zeros(1000), 16000)
    with pytest.raises(ValueError, match="there are no pictures in it, only sound"):
        read_film(tmp_path / "sound.wav", 2)
    file = write(tmp_path / "film.mp4", frames(12, size=(64, 48)))
    (tmp_path / "half.mp4").write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half\.mp4' cannot be read: it is no film that FFmpeg knows, or is broken"):
        read_film(tmp_path / "half.mp4", 2)


def test_without_pyav_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r'read by the package av \(PyAV\): `pip install "ume\[video\]"`'):
        read_film(b"film", 2)


@pytest.mark.parametrize("kind", ["videomae", "vit"])
def test_a_batch_holds_each_film_once_and_the_cache_what_it_says(kind, tmp_path):
    model = model_of(kind)
    for number, count in enumerate((6, 2)):
        (tmp_path / str(number)).mkdir()
        for place, picture in enumerate(frames(count, number)):
            Image.fromarray(picture).save(tmp_path / str(number) / f"{place}.png")
    cells = [str(tmp_path / "0"), str(tmp_path / "1"), str(tmp_path / "0"), ""]
    rows = [{"video": cell, "question": "is it up ?", "question_id": n} for n, cell in enumerate(cells)]
    collator = VQACollator(processor_of(model.config), image_cache_bytes=10**7)
    batch = collator(rows)
    assert batch["video_index"].tolist() == [0, 1, 0, 0]
    assert batch["video_present"].tolist() == [True, True, True, False]
    assert len(batch["pixel_values_videos"]) == 2
    logits = model(**batch).logits
    assert all(torch.equal(collator(rows)[name], value) for name, value in batch.items())
    alone = VQACollator(collator.processor, inputs="video", may_lack=["video"])
    build_features(tmp_path / "cache", "video", model, alone, rows, {"name": None, "revision": None})
    collator.features = {"video": FeatureCache(tmp_path / "cache")}
    torch.testing.assert_close(model(**collator(rows)).logits, logits, rtol=0, atol=1e-2)

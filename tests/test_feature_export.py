"""A feature cache as a data set: what is published, and the same files again from it."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from datasets import load_dataset
from test_features import Setting, build, contents

import training_ume.features.publish as feature_export
from modeling_ume.modalities_ume import usual
from training_ume.build import model
from training_ume.commands import main
from training_ume.features.identity import describe
from training_ume.features.publish import export_features, fetch_features, push_features
from training_ume.features.store import FeatureCache, begin, finish, save_shard, shard_index
from training_ume.records.files import read_json, write_json
from training_ume.report.heads_and_encoders import feature_bytes, vqa_v2_features
from training_ume.training import feature_sets

# What questions about images are made of; others have tests of their own.
MODALITIES = {kind.name: kind for kind in usual()}

ROOT = Path(__file__).parent.parent
SMALL = {"shard_rows": 3, "batch_rows": 1}


@pytest.fixture(autouse=True, scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        for kind in MODALITIES.values():
            for name, value in SMALL.items():
                patch.setattr(kind, name, value)
        yield


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def cache(setting):
    """The folder of a finished cache of both modalities, in shards of three rows."""
    model, collators, rows, _ = setting.built()
    for modality in MODALITIES:
        build(setting.folder / "cache" / modality, modality, model, collators, rows)
    return setting.folder / "cache"


def opened(cache):
    return {modality: FeatureCache(cache / modality) for modality in MODALITIES}


@pytest.fixture(scope="module")
def published(cache, tmp_path_factory):
    """The exported data set; not to be written to."""
    folder = tmp_path_factory.mktemp("published")
    export_features(opened(cache), folder)
    return folder


@pytest.fixture
def own_published(published, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(published, tmp_path / "published"))


def rewrite(path, change):
    """Writes a parquet file again after `change` has had its columns as Python lists."""
    table = parquet.read_table(path)
    columns = table.to_pydict()
    change(columns)
    parquet.write_table(table.from_pydict(columns, schema=table.schema), path)


# ----------------------------------------------------------------------------------------------------- what is written


def test_the_size_on_paper_is_the_size_on_disk(cache):
    own = FeatureCache(cache / "vision")
    stored = sum(path.stat().st_size for path in own.folder.glob("*.bin"))
    assert feature_bytes(len(own), own.manifest["tokens"], own.width) == stored
    full, grid = (row for row in vqa_v2_features(50) if row["pixels"] == 384 and row["kept"].startswith(("24", "7")))
    assert full["all_gigabytes"] == pytest.approx(204_721 * (577 + 1) * 768 * 2 / 1e9, abs=0.01)
    assert (
        grid["hours_for_all"]
        == full["hours_for_all"]
        == pytest.approx(204_721 * grid["relative_time"] / 50 / 3600, rel=0.01)
    )
    assert full["relative_time"] == pytest.approx(55.5 / 17.6, rel=0.02)  # GFLOPs of ViT-B/16 in the literature


@pytest.mark.parametrize("streaming", [True, False])
def test_an_exported_cache_loads_as_a_data_set_with_the_same_rows(cache, published, tmp_path, streaming):
    for modality, own in opened(cache).items():
        options = {"streaming": True} if streaming else {"cache_dir": str(tmp_path)}
        rows = load_dataset(str(published), modality, split="train", **options).with_format("numpy")
        number = -1
        for number, (row, key) in enumerate(zip(rows, own.keys(), strict=True)):
            states, pooled = own[number]
            assert row["key"] == key
            assert np.array_equal(row["pooled"], pooled)
            assert np.array_equal(row["states"], states)
        assert number == len(own) - 1
        assert rows.features["states"].feature.feature.dtype == rows.features["pooled"].feature.dtype == "float16"
        assert rows.features["states"].feature.length == own.width


def test_the_card_says_what_the_features_are_and_names_no_path_of_this_machine(setting, cache, published):
    card = (published / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "other"
    assert [entry["config_name"] for entry in metadata["configs"]] == list(MODALITIES)
    for modality, own in opened(cache).items():
        (info,) = (entry for entry in metadata["dataset_info"] if entry["config_name"] == modality)
        stored = sum(path.stat().st_size for path in (cache / modality).glob("*.bin"))
        assert info["dataset_size"] == stored
        assert info["download_size"] == sum(path.stat().st_size for path in (published / modality).glob("*.parquet"))
        assert info["splits"] == [{"name": "train", "num_bytes": stored, "num_examples": len(own)}]
        assert f"| {len(own):,} |" in card
        assert own.manifest["key"]["weights"] in card
    assert "| vision | a new vit | – |" in card
    assert "inherits their terms" in card
    for path in (published / "README.md", *published.glob("*/manifest.json")):
        for place in (ROOT, cache, setting.folder):
            assert str(place) not in path.read_text()


@pytest.mark.parametrize(
    ("rows", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (203_721, "100K<n<1M"), (10**7, "n>10M")]
)
def test_the_card_knows_the_hubs_names_for_sizes(rows, name):
    assert feature_export._size_category(rows) == name


def test_an_interrupted_export_goes_on_and_ends_with_the_files_of_an_uninterrupted_one(
    cache, published, tmp_path, monkeypatch
):
    write, written = feature_export.write_whole, []

    def interrupted(path, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(feature_export, "write_whole", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_features(opened(cache), tmp_path)
    (tmp_path / "text" / ".shard-00001.parquet.abc").write_bytes(b"half")
    kept = [path.stat().st_mtime_ns for path in written]
    export_features(opened(cache), tmp_path)
    assert [path.stat().st_mtime_ns for path in written] == kept
    for part in (".", "text", "vision"):
        files = {path.name: path.read_bytes() for path in (tmp_path / part).iterdir() if path.is_file()}
        assert files == {path.name: path.read_bytes() for path in (published / part).iterdir() if path.is_file()}


def test_a_folder_with_something_else_is_not_written_to(cache, own_published, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    manifest = read_json(own_published / "text" / "manifest.json")
    write_json(own_published / "text" / "manifest.json", {**manifest, "rows": 1})
    for folder in (tmp_path / "notes", own_published):
        with pytest.raises(ValueError, match="holds something else: choose another one"):
            export_features(opened(cache), folder)


def test_a_damaged_cache_is_not_published(cache, tmp_path):
    damaged = Path(shutil.copytree(cache, tmp_path / "cache")) / "text" / "shard-00001.bin"
    content = bytearray(damaged.read_bytes())
    content[7] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"text/shard-00001.bin is not as it was written"):
        export_features(opened(tmp_path / "cache"), tmp_path / "data")


def test_a_push_makes_a_private_repository_and_leaves_no_old_shards(published, monkeypatch):
    calls = {}

    class Hub:
        def create_repo(self, name, **options):
            calls["create"] = (name, options)
            return f"https://hub/{name}"

        def upload_folder(self, **options):
            calls["upload"] = options

    monkeypatch.setattr(feature_export, "HfApi", Hub)
    assert push_features(published, "me/features") == "https://hub/me/features"
    assert calls["create"] == ("me/features", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert calls["upload"]["folder_path"] == published
    assert calls["upload"]["repo_type"] == "dataset"
    assert calls["upload"]["delete_patterns"] == "*.parquet"


# ---------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_files_of_a_fetched_cache_are_those_it_was_exported_from(cache, published, tmp_path, modality):
    fetched = fetch_features(published, modality, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(cache / modality)
    fetched.verify()
    assert len(fetched.manifest["shards"]) > 1


def test_every_finite_float16_comes_back_with_its_bits(cache, tmp_path):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]  # with subnormals and both zeros
    manifest = read_json(cache / "text" / "manifest.json")
    width = manifest["width"]
    begin(tmp_path / "cache", {name: manifest[name] for name in manifest if name not in feature_export._COUNTED})
    index = shard_index(values, None, ["key"], [len(values) // width - 1])
    save_shard(tmp_path / "cache", 0, values, index)
    finish(tmp_path / "cache", manifest, (), {})
    export_features({"text": FeatureCache(tmp_path / "cache")}, tmp_path / "data")
    fetch_features(tmp_path / "data", "text", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "cache")


def test_an_interrupted_fetch_goes_on_where_it_stood(setting, cache, published, tmp_path, monkeypatch):
    save, saved = feature_export.save_shard, []

    def interrupted(folder, number, content, index):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(number)
        save(folder, number, content, index)

    with monkeypatch.context() as patch:
        patch.setattr(feature_export, "save_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_features(published, "vision", tmp_path)
    with pytest.raises(ValueError, match=r"lacks 1 of 1 images"):
        FeatureCache(tmp_path).locate([str(next(setting.images.iterdir()))])
    (tmp_path / "shard-00002.bin").write_bytes(b"whole, but no index yet")
    fetched = []
    monkeypatch.setattr(feature_export, "save_shard", lambda *args: fetched.append(args[1]) or save(*args))
    fetch_features(published, "vision", tmp_path)
    assert (saved, fetched) == ([0, 1], [2])
    assert contents(tmp_path) == contents(cache / "vision")
    fetch_features(published, "vision", tmp_path)
    assert fetched == [2]


def one_bit(columns):
    columns["states"][0][0][0] = np.nextafter(np.float16(columns["states"][0][0][0]), np.float16(np.inf))


def another_key(columns):
    columns["key"][0] = columns["key"][0][::-1]


def one_row_less(columns):
    for values in columns.values():
        values.pop()


@pytest.mark.parametrize("change", [one_bit, another_key, one_row_less])
def test_a_data_set_that_was_changed_is_refused_and_what_is_whole_is_kept(cache, own_published, tmp_path, change):
    path = own_published / "vision" / "shard-00001.parquet"
    rewrite(path, change)
    with pytest.raises(ValueError, match=r"vision/shard-00001.parquet does not hold what the manifest says"):
        fetch_features(own_published, "vision", tmp_path / "again")
    written = {path.name for path in (tmp_path / "again").glob("shard-*")}
    assert written == {"shard-00000.bin", "shard-00000.json"}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_a_data_set_that_is_cut_off_is_refused(own_published, tmp_path, damage):
    damage(own_published / "vision" / "shard-00001.parquet")
    with pytest.raises(ValueError, match=r"The features of .* cannot be read \(.*\). What was fetched is kept"):
        fetch_features(own_published, "vision", tmp_path / "again")


def test_rewriting_a_file_without_a_change_is_no_damage(cache, own_published, tmp_path):
    rewrite(own_published / "vision" / "shard-00001.parquet", lambda columns: None)
    fetch_features(own_published, "vision", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(cache / "vision")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda manifest: manifest["shards"][1].update(file="../../shard-00001.bin"), "holds no vision features that"),
        (lambda manifest: manifest.update(shards=[]), "holds no vision features that"),
        (lambda manifest: manifest["key"].update(format=99), "are of format 99, not 2"),
    ],
)
def test_a_manifest_of_something_else_is_refused_before_anything_is_written(own_published, tmp_path, change, sentence):
    manifest = read_json(own_published / "vision" / "manifest.json")
    change(manifest)
    write_json(own_published / "vision" / "manifest.json", manifest)
    with pytest.raises(ValueError, match=sentence):
        fetch_features(own_published, "vision", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_features_of_another_encoder_are_refused_before_anything_is_fetched(setting, published, tmp_path):
    model, collators, _, _ = setting.built("--vision_pooling", "mean")
    key = describe("vision", model, collators["vision"])
    with pytest.raises(ValueError, match=r"does not match this run: pooling is 'cls' in the cache and 'mean' here"):
        fetch_features(published, "vision", tmp_path / "again", key=key)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("source", ["me/absent", "no name at all", "ROOT"])
def test_what_is_no_data_set_of_features_is_one_sentence(tmp_path, source):
    with pytest.raises(ValueError, match="no vision features"):
        fetch_features(str(ROOT) if source == "ROOT" else source, "vision", tmp_path / "again")


def test_a_folder_with_other_rows_of_the_same_encoder_is_left_as_it_is(setting, published, tmp_path):
    model, collators, rows, _ = setting.built()
    build(tmp_path / "own", "vision", model, collators, {"vision": rows["vision"][::-1]})
    before = contents(tmp_path / "own")
    with pytest.raises(ValueError, match=r"shard-00000.bin is not the shard of that name in .*: fetch into an empty"):
        fetch_features(published, "vision", tmp_path / "own")
    # The same rows under numbers that are free in the data set.
    (tmp_path / "own" / "shard-00002.json").unlink()
    for path in list((tmp_path / "own").glob("shard-0000[01].*")):
        path.rename(str(path).replace("shard-0000", "shard-0001"))
    with pytest.raises(ValueError, match=r"has rows of vision/shard-00000.parquet in another shard"):
        fetch_features(published, "vision", tmp_path / "own")
    assert {name for name in before if name.startswith("shard-00000")}.isdisjoint(contents(tmp_path / "own"))


def test_the_command_publishes_fetches_and_encodes_only_what_the_data_set_lacks(setting, cache, tmp_path, capsys):
    data = str(tmp_path / "data")
    more = Setting(tmp_path / "more", num_images=10)
    argv = [str(setting.path), "--feature_cache"]
    assert main(["cache", *argv, str(cache), "--push", "me/features"]) == 2
    assert "give --export DIR too" in capsys.readouterr().err
    for _ in range(2):
        assert main(["cache", *argv, str(cache), "--export", data]) == 0
    assert f"The data set lies in {data}." in capsys.readouterr().out
    assert main(["cache", *argv, str(tmp_path / "again"), "--from", data, "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "vision: 8 rows are there, with those of" in printed
    assert "vision: 0 rows encoded" in printed
    for modality in MODALITIES:
        assert contents(tmp_path / "again" / modality) == contents(cache / modality)
    # The second time into a cache that has outgrown the data set.
    for held, encoded in ((8, 2), (10, 0)):
        argv = [str(more.path), "--feature_cache", str(tmp_path / "grown"), "--modalities", "vision", "--from", data]
        assert main(["cache", *argv]) == 0
        printed = capsys.readouterr().out
        assert f"vision: {held} rows are there, with those of {data}." in printed
        assert f"vision: {encoded} rows encoded" in printed
        assert len(FeatureCache(tmp_path / "grown" / "vision")) == 10


def test_an_encoder_from_the_hub_is_recorded_with_its_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--encoder"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / "config.json").write_text('{"model_type": "bert"}')
    for module, name, given in (
        (feature_sets, "load_config", {"local_files_only": True}),
        (model, "try_to_load_from_cache", {}),
    ):
        monkeypatch.setattr(module, name, partial(getattr(module, name), cache_dir=str(tmp_path), **given))
    assert feature_sets.encoder_origin("someone/encoder", None) == {"name": "someone/encoder", "revision": commit}
    assert feature_sets.encoder_origin(str(tmp_path), None) == {"name": tmp_path.name, "revision": None}

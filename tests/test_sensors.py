"""Series and tables as modalities: each encoder with each kind of head, padding, absence, what is missing, scalers."""

import json
import math
from argparse import Namespace

import numpy as np
import pandas
import pytest
import torch
from conftest import IMAGE_CONFIGS
from PIL import Image
from transformers import AutoConfig, PatchTSMixerConfig, PatchTSTConfig, ViTImageProcessor

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.scalers_ume import SeriesScaler, TableScaler
from modeling_ume.series_ume import read_series
from modeling_ume.simple_series_ume import UMECNNSeriesConfig, UMEGRUSeriesConfig, UMELSTMSeriesConfig
from modeling_ume.simple_tables_ume import UMEFTTransformerConfig, UMETableMLPConfig
from training_ume.commands import main
from training_ume.commands.tables import load_table
from training_ume.data.collator import VQACollator
from training_ume.data.drives import RATE, beats
from training_ume.data.json_entries import VQADataError
from training_ume.data.tables.load import load_rows
from training_ume.evaluation.load import load_checkpoint
from training_ume.explain.shapley import explain_dataset
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache
from training_ume.records.files import read_json
from training_ume.training.prepare import unread

SERIES = {
    "lstm": lambda: UMELSTMSeriesConfig(2, 12, num_layers=2, bidirectional=True, stride=2),
    "gru": lambda: UMEGRUSeriesConfig(2, 12),
    "cnn": lambda: UMECNNSeriesConfig(2, [8, 12], kernel_size=3),
    "patchtst": lambda: PatchTSTConfig(
        num_input_channels=2, context_length=6, patch_length=3, patch_stride=2, num_hidden_layers=1, d_model=12,
        num_attention_heads=2, ffn_dim=16,
    ),
    "patchtst_cls": lambda: PatchTSTConfig(
        num_input_channels=2, context_length=6, patch_length=2, patch_stride=2, num_hidden_layers=1, d_model=12,
        num_attention_heads=2, ffn_dim=16, use_cls_token=True,
    ),
    "patchtsmixer": lambda: PatchTSMixerConfig(
        context_length=6, patch_length=2, patch_stride=2, num_input_channels=2, d_model=12, num_layers=1,
    ),
}  # fmt: skip
TABLES = {
    "ft_transformer": lambda: UMEFTTransformerConfig(2, [4], hidden_size=12, num_layers=2, num_heads=2),
    "mlp": lambda: UMETableMLPConfig(2, [4], hidden_size=12),
}
ROWS = [
    {"area": 100.0, "rooms": 3.0, "zip": "a"},
    {"area": 50.0, "rooms": None, "zip": "b"},
    {"area": None, "rooms": 1.0, "zip": None},
    {"area": 70.0, "rooms": 2.0, "zip": "a"},
]
NAN = math.nan


def series(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(5, 2, (length, 2)) for length in lengths]


@pytest.fixture(scope="module")
def processor():
    return UMEProcessor(
        ViTImageProcessor(size={"height": 32, "width": 32}),
        id2label={0: "low", 1: "high"},
        series_scaler=SeriesScaler.fit(series(7, 9, 11)),
        table_scaler=TableScaler.fit(ROWS),
    )


def model_of(fusion="concat", **configs):
    torch.manual_seed(0)
    configs = {name: config for name, config in configs.items() if config is not None}
    fields = {"id2label": {0: "low", 1: "high"}, "fusion_hidden_size": 16, "fusion_num_heads": 2, "fusion": fusion}
    return UMEForVisualQuestionAnswering(UMEConfig.from_encoder_configs(**configs, **fields)).eval()


def trained_a_step(model, inputs):
    """The model after one step, in which every weight that is read gets a gradient of finite numbers."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    output = model(**inputs, labels=torch.arange(len(next(iter(inputs.values())))) % 2)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "fusion", ["ume", *(pytest.param(head, marks=pytest.mark.slow) for head in ("concat", "bottleneck", "late_mean"))]
)
@pytest.mark.parametrize("kind", [*SERIES, *TABLES])
def test_each_encoder_is_trained_saved_loaded_and_ignores_padding_and_absence(kind, fusion, processor, tmp_path):
    configs = {"vision_config": IMAGE_CONFIGS["vit"]()}
    shown = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    if kind in SERIES:
        configs["series_config"] = SERIES[kind]()
        cells = series(5, 9, 14)
        cells[1][4:6] = NAN
        given = lambda some: processor(images=shown[: len(some)], series=some)  # noqa: E731
        name = "series"
    else:
        configs["table_config"] = TABLES[kind]()
        cells = ROWS[:3]
        given = lambda some: processor(images=shown[: len(some)], table=some)  # noqa: E731
        name = "table"
    model = trained_a_step(model_of(fusion, **configs), given(cells))
    model.save_pretrained(tmp_path)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    assert again.config.modalities == ["vision", name]
    with torch.no_grad():
        together = model(**given(cells)).logits
        torch.testing.assert_close(again(**given(cells)).logits, together, rtol=0, atol=1e-6)
        assert together[0].sub(together[2]).abs().max() > 1e-4, "what stands in it is read"
        alone = model(**given(cells[:1])).logits
        torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-5)
        present = torch.tensor([True, False, True])
        lacking = model(**given(cells), **{f"{name}_present": present}).logits
        torch.testing.assert_close(lacking[present], together[present], rtol=0, atol=1e-5)
        without = model(**processor(images=shown)).logits
        torch.testing.assert_close(lacking[1], without[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SERIES)
def test_missing_values_are_not_read_and_are_not_the_mean(kind, processor):
    model = model_of(series_config=SERIES[kind](), table_config=TABLES["mlp"]())
    (cell,) = series(9)
    inputs = processor(series=cell, table=ROWS[0])
    hole = cell.copy()
    hole[3, 0] = NAN
    holed = processor(series=hole, table=ROWS[0])
    assert holed["series_mask"].sum() == 17
    assert holed["series_values"].isfinite().all()
    with torch.no_grad():
        logits = model(**holed).logits
        for value in (NAN, math.inf, 1e9):
            changed = holed["series_values"].clone()
            changed[0, 3, 0] = value
            torch.testing.assert_close(model(**{**holed, "series_values": changed}).logits, logits, rtol=0, atol=0)
        if kind in ("lstm", "gru", "cnn"):  # the others learn no token for it
            said_to_be_there = model(**{**holed, "series_mask": torch.ones_like(holed["series_mask"])}).logits
            assert (said_to_be_there - logits).abs().max() > 1e-6
        assert (model(**inputs).logits - logits).abs().max() > 1e-6


@pytest.mark.parametrize("kind", TABLES)
def test_a_missing_number_is_neither_0_nor_the_mean(kind, processor):
    model = model_of(series_config=SERIES["gru"](), table_config=TABLES[kind]())
    model.train()
    for name, parameter in model.named_parameters():
        if name.endswith("missing"):
            torch.nn.init.normal_(parameter)
    model.eval()
    (cell,) = series(4)
    mean = processor.table_scaler.means[0]
    answers = [
        model(**processor(series=cell, table={"area": area, "rooms": 2, "zip": "a"})).logits
        for area in (None, 0, mean, NAN, "NA", "", "n/a")
    ]
    for other in answers[3:]:
        torch.testing.assert_close(other, answers[0], rtol=0, atol=0)
    assert all((other - answers[0]).abs().max() > 1e-4 for other in answers[1:3])


def test_longer_series_are_read_in_windows_and_shorter_ones_padded(processor):
    model = model_of(series_config=SERIES["patchtst"](), table_config=TABLES["mlp"]())
    kind = MODALITIES["series"]
    for steps, windows in ((1, 1), (6, 1), (7, 2), (11, 2)):
        (cell,) = series(steps)
        stream = model.ume.encode("series", **processor(series=cell))
        # Two channels of two patches: the first step fills no patch of three with strides of two.
        assert stream.states.shape[1] == 4 * windows, steps
        assert stream.mask.any() == (steps > 1)
    assert kind.stored == ("series_states", "series_pooled")


def test_a_class_token_is_the_mean_of_the_channels_own(processor):
    model = model_of(series_config=SERIES["patchtst_cls"](), table_config=TABLES["mlp"]())
    adapter = model.ume._adapters["series"]
    assert adapter.pooling == "cls"
    stream = model.ume.encode("series", **processor(series=series(6)[0]))
    assert stream.states.shape == (1, 1 + 2 * 3, 12)
    torch.testing.assert_close(stream.pooled, stream.states[:, 0])


def test_scalers_are_what_numpy_says_and_come_from_what_is_there():
    cells = series(7, 9, 11)
    cells[0][2, 1] = NAN
    stacked = np.concatenate(cells)
    scaler = SeriesScaler.fit([None, *cells])
    np.testing.assert_allclose(scaler.means, np.nanmean(stacked, 0))
    np.testing.assert_allclose(scaler.deviations, np.nanstd(stacked, 0))
    table = TableScaler.fit(ROWS)
    assert (table.numbers, table.categories) == (["area", "rooms"], {"zip": ["a", "b"]})
    np.testing.assert_allclose(table.means, [220 / 3, 2])
    assert table.category_sizes == [4]
    assert table({"area": 220 / 3, "zip": "z"}) == ([0.0, pytest.approx(NAN, nan_ok=True)], [1])


@pytest.mark.parametrize("offset", [0.0, 1e9, -3.5])
def test_constant_channels_one_sample_and_numbers_far_from_0(offset):
    scaler = SeriesScaler.fit([np.full((1, 1), offset)])
    assert (scaler.means, scaler.deviations) == ([offset], [1.0])
    wide = SeriesScaler.fit([np.array([[offset], [offset + 2]])])
    assert (wide.means, wide.deviations) == ([offset + 1], [pytest.approx(1.0)])
    table = TableScaler.fit([{"a": offset}])
    assert table({"a": offset})[0] == [0.0]


def test_ranks_make_numbers_normal():
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    scaler = TableScaler.fit([{"price": value} for value in values], quantiles=True)
    found = np.array([scaler({"price": value})[0][0] for value in values])
    assert abs(found.mean()) < 0.02
    assert found.std() == pytest.approx(1, abs=0.05)
    assert all(found[np.argsort(values)][1:] >= found[np.argsort(values)][:-1])
    assert scaler({"price": 1e12})[0][0] == scaler({"price": values.max()})[0][0] > 2


def test_rare_categories_are_the_unknown_one():
    rows = [{"zip": zip_code} for zip_code in "aaabbc"]
    assert TableScaler.fit(rows, min_count=2)({"zip": "c"}) == TableScaler.fit(rows)({"zip": "?x"}) == ([], [1])
    assert TableScaler.fit([{"n": 1.0, "zip": "7"}])({"zip": 7.0})[1] == [2]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"series": np.zeros((4, 3))}, r"has 3 channels, and the model was trained with 2: give \[steps, 2\]"),
        ({"series": np.zeros((2, 9))}, "seems to lie on its side"),
        ({"series": [[[1.0, 2.0]], [[1.0], [2.0, 3.0]]]}, "have different lengths"),
        ({"series": []}, "empty list"),
        ({"series": [[NAN, NAN]]}, "holds nothing"),
        ({"series": "nowhere.npy"}, "'nowhere.npy' does not exist"),
        ({"series": np.zeros((1, 2, 3, 2))}, "has the shape|the shape"),
        ({"table": {"aera": 3}}, "has a column 'aera'.*Did you mean area"),
        ({"table": {"area": "big"}}, "column 'area' of the table holds numbers: 'big' is no number"),
        ({"table": {"area": "1,234"}}, "may be a thousand or a decimal"),
        ({"table": {"area": None}}, "holds nothing"),
        ({"table": []}, "table is empty"),
        ({"table": "own.csv"}, "give a dict"),
        ({"table": {"area": [1, 2], "rooms": [1]}}, "different lengths"),
    ],
)
def test_what_cannot_be_read_is_told(given, sentence, processor):
    with pytest.raises(ValueError, match=sentence):
        processor(**given)


def test_the_ways_to_give_one_or_several(processor):
    cells = series(5, 5)
    wanted = processor(series=cells)
    for same in (np.stack(cells), torch.tensor(np.stack(cells)), [cell.tolist() for cell in cells]):
        torch.testing.assert_close(processor(series=same)["series_values"], wanted["series_values"])
    for same in (cells[0], cells[0].tolist(), [cells[0]], str(cells[0].tolist())):
        torch.testing.assert_close(processor(series=same)["series_values"][0], wanted["series_values"][0])
    frame = pandas.DataFrame(ROWS)
    for same in (ROWS, frame, {name: frame[name].tolist() for name in frame}, tuple(ROWS)):
        found = processor(table=same)
        torch.testing.assert_close(
            found["table_numbers"], processor(table=ROWS)["table_numbers"], equal_nan=True, rtol=0, atol=0
        )
        assert found["table_categories"].tolist() == [[2], [3], [0], [2]]


def test_files_of_series(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(3, 2))
    (tmp_path / "a.csv").write_text("ecg,speed\n0,1\n2,3\n4,5\n")
    (tmp_path / "b.csv").write_text("0;1\n2;\n4,5;5\n")
    (tmp_path / "one.tsv").write_text("0\n1\n")
    np.testing.assert_array_equal(read_series(str(tmp_path / "a.npy")), read_series(str(tmp_path / "a.csv")))
    np.testing.assert_array_equal(read_series(str(tmp_path / "b.csv")), [[0, 1], [2, NAN], [4.5, 5]])
    assert read_series(str(tmp_path / "one.tsv")).shape == (2, 1)
    np.save(tmp_path / "code.npy", np.array([{}]), allow_pickle=True)
    for name, text in {
        "x.csv": "a,b\n",
        "y.csv": "1,2\n3\n",
        "z.csv": "1,2\n3,x\n",
        "e.csv": "",
        "t.npy": "no",
    }.items():
        (tmp_path / name).write_text(text)
    for name, said in {
        "x.csv": "no number below", "y.csv": "line 2 has 1 cells", "z.csv": "line 2: 'x' is no number",
        "e.csv": "it is empty", "t.npy": "cannot be read", "code.npy": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.*{said}"):
            read_series(str(tmp_path / name))


def test_a_processor_keeps_its_scalers(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = UMEProcessor.from_pretrained(tmp_path)
    assert again.series_scaler == processor.series_scaler
    assert again.table_scaler == processor.table_scaler
    assert "means" in json.dumps(json.loads((tmp_path / "processor_config.json").read_text())["table_scaler"])
    inputs = {"series": series(5)[0], "table": ROWS[1]}
    for name, value in processor(**inputs).items():
        torch.testing.assert_close(again(**inputs)[name], value, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: UMELSTMSeriesConfig(hidden_size=0), "hidden_size=0 is impossible"),
        (lambda: UMECNNSeriesConfig(kernel_size=4), "give an odd number"),
        (lambda: UMECNNSeriesConfig(strides=[1]), "different numbers of layers"),
        (lambda: UMEFTTransformerConfig(num_numbers=0), "table without columns"),
        (lambda: UMEFTTransformerConfig(hidden_size=10, num_heads=4), "do not divide"),
        (lambda: UMETableMLPConfig(category_sizes=[1]), "of 2 or more"),
        (lambda: UMETableMLPConfig(dropout=1.0), "dropout=1.0 is impossible"),
        (lambda: SeriesScaler([1.0], [0.0]), "above 0"),
        (lambda: SeriesScaler.fit([None]), "No training row has a series"),
        (lambda: SeriesScaler.fit([*series(3), np.zeros((2, 3))]), "row 1 has 3 channels, and those before it 2"),
        (lambda: TableScaler.fit([None, {}]), "No training row has a table"),
    ],
)
def test_sizes_and_scalers_that_cannot_be_are_told(made, sentence):
    with pytest.raises(ValueError, match=sentence):
        made()


def test_configs_are_known_to_auto_config():
    for config in (SERIES["lstm"](), SERIES["cnn"](), TABLES["mlp"](), TABLES["ft_transformer"]()):
        assert type(AutoConfig.for_model(**config.to_dict())) is type(config)


def test_models_and_data_that_do_not_fit_are_told(processor):
    model = model_of(series_config=UMEGRUSeriesConfig(3, 8), table_config=UMETableMLPConfig(1, [4]))
    with pytest.raises(ValueError, match=r"series_values is .*give floating-point numbers \[series, steps, 3\]"):
        model(series_values=torch.zeros(1, 4, 2), table_numbers=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="table_numbers came without table_categories"):
        model(table_numbers=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="table_categories"):
        model(table_numbers=torch.zeros(1, 1), table_categories=torch.tensor([[4]]))
    with pytest.raises(ValueError, match="series_mask"):
        model(series_values=torch.zeros(1, 4, 3), series_mask=torch.ones(1, 4))


def test_rows_of_a_batch_lack_one_or_the_other(processor):
    model = model_of("ume", series_config=SERIES["cnn"](), table_config=TABLES["ft_transformer"]())
    rows = [
        {"question_id": 0, "series": series(4)[0].tolist(), "table": None},
        {"question_id": 1, "series": None, "table": ROWS[0]},
        {"question_id": 2, "series": [[NAN, NAN]], "table": ROWS[1]},
        {"question_id": 3, "series": series(6)[0].tolist(), "table": {"area": None, "rooms": None, "zip": None}},
    ]
    batch = VQACollator(processor)(rows)
    assert batch["series_present"].tolist() == [True, False, False, True]
    assert batch["table_present"].tolist() == [False, True, True, False]
    together = model(**batch).logits
    for number, row in enumerate(rows):
        alone = VQACollator(processor, may_lack=["series", "table"])([row])
        torch.testing.assert_close(model(**alone).logits[0], together[number], rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ tables of rows


def drives(folder, rows=24):
    """Whether a drive is hard: its speed swings, and the weather says so, too; some lack one or the other."""
    random, lines = np.random.default_rng(0), []
    for number in range(rows):
        hard = number % 2
        swings = random.normal(0, 0.2 + 2 * hard, (12 + number % 5, 2))
        np.save(folder / f"drive{number}.npy", swings)
        lines.append(
            {
                "signals": "" if number == 4 else f"drive{number}.npy",
                "weather": "" if number in (5, 9) else ("sun", "rain")[hard],
                "traffic": "NA" if number == 5 else str(random.normal(hard)).replace(".", ","),
                "stress": ("calm", "hard")[hard],
                "driver": f"p{number // 4}",
            }
        )
    pandas.DataFrame(lines).to_csv(folder / "drives.csv", index=False)
    return folder / "drives.csv"


RECIPE = {
    "series_config": {"model_type": "ume_lstm_series", "hidden_size": 8},
    "table_config": {"model_type": "ume_ft_transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2},
    "fusion": "ume", "fusion_hidden_size": 16, "fusion_num_heads": 2, "num_train_epochs": 4, "learning_rate": 1e-2,
    "per_device_train_batch_size": 8, "use_cpu": True, "split_by": "driver", "validation_fraction": 0.34,
    "columns": {"table": ["weather", "traffic"], "answer": "stress"},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on drives, whose series stand in files and whose table has gaps."""
    folder = tmp_path_factory.mktemp("drives")
    table = drives(folder)
    recipe = {**RECIPE, "data": str(table), "output_dir": str(folder / "run"), "report_to": "none"}
    (folder / "drives.yaml").write_text(json.dumps(recipe))
    assert main(["train", str(folder / "drives.yaml")]) == 0
    return folder


def test_series_and_a_table_are_trained_by_a_recipe(run):
    results = read_json(run / "run" / "results.json")
    roles = {use["name"]: use["role"] for use in results["understood"]["train"]["columns"]}
    assert (roles["signals"], roles["weather"], roles["driver"]) == ("series", "table", "")
    config = UMEForVisualQuestionAnswering.from_pretrained(run / "run").config
    assert config.modalities == ["series", "table"]
    assert (config.series_config.num_input_channels, config.table_config.category_sizes) == (2, [4])
    processor = UMEProcessor.from_pretrained(run / "run")
    assert processor.table_scaler.columns == ["traffic", "weather"]
    assert processor.tokenizer is processor.image_processor is None


def test_a_run_is_evaluated_and_asked_by_its_table(run, capsys):
    columns = ["--columns", "table=weather,traffic", "answer=stress"]
    assert main(["evaluate", str(run / "run"), "--data", str(run / "drives.csv"), *columns]) == 0
    out = run / "answers.csv"
    argv = ["ask", str(run / "run"), "--data", str(run / "drives.csv"), "--columns", "table=weather,traffic"]
    assert main([*argv, "--out", str(out)]) == 0, capsys.readouterr().err
    found = pandas.read_csv(out)
    assert set(found["answer"]) <= {"calm", "hard"}
    assert len(found) == 24
    assert "table" not in found.columns


def test_features_of_series_and_tables_are_stored(run, tmp_path):
    model, processor = load_checkpoint(str(run / "run"))
    rows = load_rows(run / "drives.csv", columns=RECIPE["columns"])
    plain = VQACollator(processor)(list(rows))
    logits = model(**plain).logits
    features = {}
    for name in ("series", "table"):
        alone = VQACollator(processor, inputs=name)
        build_features(tmp_path / name, name, model, alone, rows, {"name": None, "revision": None})
        features[name] = FeatureCache(tmp_path / name)
    stored = VQACollator(processor, features=features)(list(rows))
    assert not {"series_values", "table_numbers"} & stored.keys()
    torch.testing.assert_close(model(**stored).logits, logits, rtol=0, atol=1e-2)
    # The file's content counts, not its name.
    np.save(run / "drive0.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match="lacks 1 of"):
        FeatureCache(tmp_path / "series").locate([rows["series"][0]])


def test_a_broken_series_is_found_beforehand(tmp_path):
    table = drives(tmp_path, 4)
    (tmp_path / "drive1.npy").write_bytes(b"\x93NUMPY cut off")
    with pytest.raises(ValueError, match=r"1 × broken_series.*\n.*drive1.npy: question_id 1: .*cannot be read"):
        load_rows(table, columns=RECIPE["columns"], check_images=True)
    assert len(load_rows(table, columns=RECIPE["columns"], on_error="skip", skipped_log=tmp_path / "log")) == 3


def test_shares_are_told_of_series_and_table(run):
    model, processor = load_checkpoint(str(run / "run"))
    rows = load_rows(run / "drives.csv", columns=RECIPE["columns"])
    found = explain_dataset(model, processor, rows, batch_size=12)["kinds"]["all"]
    assert list(found["shapley"]) == ["series", "table"]
    assert sum(found["shapley"].values()) == pytest.approx(found["values"]["series+table"] - found["values"][""])


def test_a_recipe_without_the_column_is_told(tmp_path, capsys):
    table = drives(tmp_path, 4)
    recipe = {
        **RECIPE,
        "data": str(table),
        "output_dir": str(tmp_path / "run"),
        "columns": {"answer": "stress"},
        "split_by": None,
    }
    (tmp_path / "drives.yaml").write_text(json.dumps(recipe))
    assert main(["train", str(tmp_path / "drives.yaml")]) == 2
    assert "the training rows have no column 'table': say which columns are its own" in capsys.readouterr().err


def test_simulated_drives_are_the_same_every_time_and_no_driver_is_in_both_parts():
    train, test = (load_rows(source="driver_stress", split=part, name="2") for part in ("train", "test"))
    assert set(train["driver"][:]) & set(test["driver"][:]) == set()
    assert len(train) == 40
    again = load_rows(source="driver_stress", split="train", name="1")
    np.testing.assert_array_equal(again["series"][3], train["series"][3])
    assert np.shape(train["series"][0]) == (512, 3)
    assert set(train["table"][0]) == {"road", "weather", "hour", "traffic"}
    assert {answers[0] for answers in train["answers"]} == {"low", "medium", "high"}
    with pytest.raises(ValueError, match="has the splits train and test"):
        load_rows(source="driver_stress", split="dev")


def test_the_pulse_says_how_a_driver_is():
    """More beats a minute are more peaks: the signal holds what the label says, beside what is the driver's own."""
    steps = np.arange(RATE * 60) / RATE
    for pulse in (60, 90, 120):
        found = beats(steps, pulse, 0.0, np.random.default_rng(0))
        peaks = ((found[1:-1] > found[:-2]) & (found[1:-1] >= found[2:]) & (found[1:-1] > 0.6)).sum()
        assert peaks == pytest.approx(pulse, abs=3)


def test_what_a_recipe_has_no_encoder_of_is_told_and_the_proposed_command_has_one(run, capsys):
    rows = load_rows(run / "drives.csv", columns=RECIPE["columns"])
    assert unread(rows, ["series", "table"]) == []
    (line,) = unread(rows, ["series", "vision"])
    assert "The rows have table rows, and the recipe has no encoder of them: they are not read." in line
    assert """--table_config '{"model_type": "ume_ft_transformer"}'""" in line
    columns = ["--columns", "table=weather,traffic", "answer=stress"]
    assert main(["data", str(run / "drives.csv"), *columns]) == 0
    proposed = capsys.readouterr().out
    assert """--series_config '{"model_type": "ume_lstm_series"}'""" in proposed
    assert """--table_config '{"model_type": "ume_ft_transformer"}'""" in proposed


def test_a_scaler_is_fitted_on_lists_and_tells_what_is_no_series():
    lists = SeriesScaler.fit([[[1, None], [3, 4.0]], None, [[5, 6]]])
    assert lists == SeriesScaler.fit([np.array([[1, np.nan], [3, 4.0]]), np.array([[5.0, 6.0]])])
    assert SeriesScaler.fit([[1.0, 2.0]]).channels == 1
    for wrong, said in (([["a"]], "row 0 is no array of numbers"), (np.zeros((2, 2, 2)), r"shape \[2, 2, 2\]")):
        with pytest.raises(ValueError, match=said):
            SeriesScaler.fit([wrong])


def test_a_table_that_a_model_is_asked_about_is_read_by_the_columns_that_it_was_trained_on(tmp_path):
    scaler = TableScaler.fit([{"rooms": 3.0, "city": "Rome"}, {"rooms": 5.0, "city": "Oslo"}])
    UMEProcessor(table_scaler=scaler, id2label={0: "a", 1: "b"}).save_pretrained(tmp_path / "model")
    (tmp_path / "own.csv").write_text("city,rooms,owner,label\nRome,2,Ann,a\n7,,Bo,b\n")
    given = {"data": [str(tmp_path / "own.csv")], "where": [], "model": str(tmp_path / "model")}
    rows = load_table(Namespace(**given, columns=[]))
    assert rows["table"][:] == [{"rooms": 2.0, "city": "Rome"}, {"rooms": None, "city": "7"}]
    assert load_table(Namespace(**given, columns=["table=owner"]))["table"][:] == [{"owner": "Ann"}, {"owner": "Bo"}]
    given["model"] = str(tmp_path / "none")
    with pytest.raises(VQADataError, match=r"own\.csv"):
        load_table(Namespace(**given, columns=[]))
    (tmp_path / "own.csv").write_text("city,label\nRome,a\n")
    with pytest.raises(VQADataError, match="has no column 'rooms', which columns gives for 'table'"):
        load_table(Namespace(**{**given, "model": str(tmp_path / "model")}, columns=[]))

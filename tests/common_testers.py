"""transformers' own common tests (`ModelTesterMixin`, `ConfigTester`, `ProcessorTesterMixin`) over UME models.

Nothing here is collected with the other tests: `bash scripts/test_common.sh` fetches transformers' tests, puts them on
the path as the package `transformers_tests` and runs this file. A class of tests is a pair of encoders, a fusion head
and a model class, and its name says which.
"""

import copy
import importlib
import json
import sys
import types
import unittest

import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, TRANSFORMER, VOCAB_SIZE, WIDTH
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertTokenizer, ViTImageProcessor
from transformers.testing_utils import torch_device

from configuration_ume import UMEConfig
from modeling_ume import (
    UMEForImageTextRetrieval,
    UMEForVisualQuestionAnswering,
    UMEModel,
    UMEProcessor,
)
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMEVGGConfig
from training_ume.build.tokenizer import words_tokenizer
from training_ume.report.common_tests import HEADS, PAIRS

TEXT = {**TEXT_CONFIGS, "lstm": lambda: UMELSTMConfig(vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=12)}
IMAGE = {**IMAGE_CONFIGS, "vgg": lambda: UMEVGGConfig(hidden_sizes=[4, 4, 6, 6, 8], fc_size=12, image_size=32)}
IMAGE_TOKENS = {"BERT_ViT": 17, "DistilBERT_ResNet": 16, "LSTM_VGG": 4}
BATCH_SIZE, LENGTH, IMAGE_SIZE = 4, 7, 32


class ExportTests:
    """Stands where transformers has its tests of exporting, which its source distribution leaves out."""

    def test_torch_export(self):
        self._export(dynamic=False)

    def test_torch_export_with_dynamic_shapes(self):
        self._export(dynamic=True)

    def _export(self, dynamic: bool):
        exporter = pytest.importorskip("transformers.exporters.exporter_dynamo")
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model, inputs = model_class(config).to(torch_device).eval(), self._prepare_for_class(inputs, model_class)
            with torch.no_grad():
                expected = model(**inputs)
            exported = exporter.DynamoExporter().export(model, inputs, config=exporter.DynamoConfig(dynamic=dynamic))
            torch.testing.assert_close(exported(**inputs)[0], expected[0], atol=1e-5, rtol=1e-5)


def stand_in(name: str, **contents) -> None:
    """Makes the module `name` where transformers' source distribution leaves it out."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module = types.ModuleType(name)
        module.__path__ = []
        for key, value in contents.items():
            setattr(module, key, value)
        sys.modules[name] = module


stand_in("transformers_tests.exporters")
stand_in("transformers_tests.exporters.test_export", ExportTesterMixin=ExportTests)
stand_in("transformers_tests.generation")
stand_in("transformers_tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
stand_in("transformers_tests.utils")
stand_in("transformers_tests.utils.test_configuration_utils", config_common_kwargs={})
stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)

from transformers_tests import test_modeling_common  # noqa: E402
from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_processing_common import ProcessorTesterMixin  # noqa: E402

# The tests go by these tables of transformers' own models, and pass over a class that is in none of them.
for _table, _name in (
    ("MODEL_MAPPING_NAMES", UMEModel.__name__),
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", UMEForVisualQuestionAnswering.__name__),
):
    _names = {**getattr(test_modeling_common, _table), UMEConfig.model_type: _name}
    setattr(test_modeling_common, _table, _names)
AutoModelForSequenceClassification.register(UMEConfig, UMEForVisualQuestionAnswering)


class UMEModelTester:
    """What transformers' tests ask of a model's tester: a small config and a batch of random inputs."""

    batch_size = BATCH_SIZE
    seq_length = LENGTH
    hidden_size = WIDTH
    num_hidden_layers = TRANSFORMER["num_hidden_layers"]
    num_attention_heads = TRANSFORMER["num_attention_heads"]
    base_model_class = UMEModel

    def __init__(self, pair: str, fusion: str, model_class: type):
        self.pair, self.fusion = pair, fusion
        self.is_training = model_class is not UMEModel  # which has no loss
        # How many fields of the output come with the hidden states: one an encoder, inside of what it said or beside.
        self.num_hidden_states_types = 0 if model_class is UMEForImageTextRetrieval else len(PAIRS[pair])
        if fusion == "early_input":
            self.encoder_seq_length = LENGTH + IMAGE_TOKENS[pair]  # which the text encoder reads in one row

    def get_config(self) -> UMEConfig:
        text, image = PAIRS[self.pair]
        return UMEConfig.from_encoder_configs(
            TEXT[text](), IMAGE[image](), fusion=self.fusion, fusion_hidden_size=16, num_labels=7
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[UMEConfig, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        mask = torch.ones(BATCH_SIZE, LENGTH, dtype=torch.long)
        mask[1, -2:] = 0
        inputs = {
            "input_ids": torch.randint(5, VOCAB_SIZE, (BATCH_SIZE, LENGTH), generator=generator),
            "attention_mask": mask,
            "pixel_values": torch.randn(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
        }
        return self.get_config(), {name: value.to(torch_device) for name, value in inputs.items()}


class UMEModelTests(test_modeling_common.ModelTesterMixin):
    _is_composite = True
    additional_model_inputs = ("pixel_values",)
    # Otherwise a skip for models of before 2023, which are told by a line that this project's files lack.
    test_can_init_all_missing_weights_before_2023 = True
    pair, fusion = None, None

    def setUp(self):
        self.model_tester = UMEModelTester(self.pair, self.fusion, self.all_model_classes[0])
        self.has_attentions = self.pair != "LSTM_VGG"  # of whose layers none attends
        # The test asks the config for the width of an encoder's tokens, and these give a map of channels.
        self.skip_test_image_features_output_shape = self.pair != "BERT_ViT"

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is UMEForVisualQuestionAnswering:
            inputs["labels"] = torch.zeros(BATCH_SIZE, dtype=torch.long, device=torch_device)
        elif return_labels and model_class is UMEForImageTextRetrieval:
            inputs["return_loss"] = True
        return inputs


class UMEConfigTests:
    """`ConfigTester`'s checks, each as a test of its own."""

    pair, fusion = None, None

    def setUp(self):
        self.model_tester = UMEModelTester(self.pair, self.fusion, UMEModel)
        fields = json.loads(self.model_tester.get_config().to_json_string(use_diff=False))
        parts = {name: fields[name] for name in ("text_config", "vision_config")}
        self.config_tester = ConfigTester(
            self,
            config_class=UMEConfig,
            has_text_modality=False,  # the vocabulary's size is the text encoder's
            common_properties=["fusion", "fusion_hidden_size", "text_config", "vision_config"],
            fusion=self.fusion,
            fusion_hidden_size=16,
            **parts,
        )


def _config_check(name: str):
    return lambda self: getattr(self.config_tester, name)()


for _name in dir(ConfigTester):
    if _name.startswith(("create_and_test_", "check_")):
        _test = "test_" + _name.removeprefix("create_and_test_").removeprefix("check_")
        setattr(UMEConfigTests, _test, _config_check(_name))


class UMEProcessorTests(ProcessorTesterMixin):
    processor_class = UMEProcessor
    pair = None

    @classmethod
    def _setup_tokenizer(cls):
        words = ["lower", "newer", "upper", "older", "longer", "string"]
        if cls.pair == "LSTM_VGG":
            return words_tokenizer([" ".join(words)])
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return BertTokenizer(vocab={word: i for i, word in enumerate([*special, *words])})

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})

    @staticmethod
    def prepare_processor_dict():
        return {"id2label": {0: "no", 1: "yes"}}


def _add(name: str, *bases: type, **attributes) -> None:
    globals()[name] = type(name, (*bases, unittest.TestCase), {"__module__": __name__, **attributes})


for _pair in PAIRS:
    for _head in HEADS:
        for _model in (UMEModel, UMEForVisualQuestionAnswering):
            _attributes = {"all_model_classes": (_model,), "pair": _pair, "fusion": _head}
            _add(f"{_pair}_{_head}_{_model.__name__}", UMEModelTests, **_attributes)
        _add(f"{_pair}_{_head}_UMEConfig", UMEConfigTests, pair=_pair, fusion=_head)
    _attributes = {"all_model_classes": (UMEForImageTextRetrieval,), "pair": _pair, "fusion": "ume"}
    _add(f"{_pair}_{UMEForImageTextRetrieval.__name__}", UMEModelTests, **_attributes)
    _add(f"{_pair}_UMEProcessor", UMEProcessorTests, pair=_pair)

# Bases, which have no pair and are no tests.
del UMEModelTests, UMEConfigTests, UMEProcessorTests, ProcessorTesterMixin

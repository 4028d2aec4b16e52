"""Everything of UME that travels with a checkpoint: config, encoders, fusion heads, model, processor, pipeline."""

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    pipelines,
)

from .configuration_ume import UMEConfig
from .contrast_ume import UMEForRetrieval
from .fusion_base_ume import FusionHead
from .fusion_ume import FUSIONS
from .modeling_ume import TASK_MODELS, UMEForSequenceClassification, UMEForVisualQuestionAnswering, UMEModel
from .own_heads_ume import register_fusion
from .pipeline_ume import UMEVQAPipeline
from .processing_ume import UMEProcessor
from .retrieval_ume import UMEForImageTextRetrieval
from .streams_ume import FusionOutput, Stream
from .tasks_ume import TASKS

# Where this package is imported, UME checkpoints load through the Auto classes without remote code.
AutoConfig.register("ume", UMEConfig, exist_ok=True)
AutoModel.register(UMEConfig, UMEModel, exist_ok=True)
for _name, _model in TASK_MODELS.items():
    getattr(transformers, TASKS[_name].auto).register(UMEConfig, _model, exist_ok=True)
AutoModelForZeroShotImageClassification.register(UMEConfig, UMEForImageTextRetrieval, exist_ok=True)
AutoProcessor.register(UMEConfig, UMEProcessor, exist_ok=True)

# A model in memory has no folder to load its pipeline from, and newer releases refuse the task by its name.
if UMEVQAPipeline.task_name not in pipelines.PIPELINE_REGISTRY.supported_tasks:
    getattr(pipelines, "REMOVED_TASKS", {}).pop(UMEVQAPipeline.task_name, None)
    pipelines.PIPELINE_REGISTRY.register_pipeline(
        UMEVQAPipeline.task_name, UMEVQAPipeline, pt_model=AutoModelForVisualQuestionAnswering
    )

__all__ = [
    "FUSIONS",
    "FusionHead",
    "FusionOutput",
    "Stream",
    "UMEConfig",
    "UMEForImageTextRetrieval",
    "UMEForRetrieval",
    "UMEForSequenceClassification",
    "UMEForVisualQuestionAnswering",
    "UMEModel",
    "UMEProcessor",
    "UMEVQAPipeline",
    "register_fusion",
]

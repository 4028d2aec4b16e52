"""What can be configured: `UMEConfig` (code in modeling_ume: it travels with checkpoints) and the recipes."""

from pathlib import Path

from modeling_ume.configuration_ume import UMEConfig

RECIPES = Path(__file__).parent / "recipes"

__all__ = ["RECIPES", "UMEConfig"]

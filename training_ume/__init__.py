"""What trains, measures and shows a model and stays at home; what travels with a checkpoint is in `modeling_ume`."""

from .moved import install

install()

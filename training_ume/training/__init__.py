"""The trainer, what happens beside its steps, and a run from recipe to results."""

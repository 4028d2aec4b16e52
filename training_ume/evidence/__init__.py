"""Comparisons that hold: the arena, ablations, the thesis, their statistics."""

"""Tables of any kind, read and understood: `load_rows` in `load.py` is the way in."""

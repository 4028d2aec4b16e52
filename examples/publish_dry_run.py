"""What publishing a model would do, without doing it: the card, the checks, and the list of files.

python examples/own_table.py && python examples/publish_dry_run.py

Nothing is uploaded, and no account is needed. `ume publish runs/own_table/model OWNER/NAME --about …` uploads.
"""

from pathlib import Path

from training_ume.hub.publish import publish

MODEL = Path("runs/own_table/model")

if __name__ == "__main__":
    about = MODEL.parent / "about.yaml"  # what only a person can say; one line is enough
    about.write_text("license: apache-2.0\n")
    publish(MODEL, "OWNER/own-table", about=about, dry_run=True, confirm=lambda question: False)

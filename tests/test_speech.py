"""Questions are spoken into files that a table names, each once; the program that speaks is the user's."""

import json
import stat
import sys

import pytest
from PIL import Image

from training_ume.commands import main
from training_ume.data.speech import speak

# Says nothing, but writes a file that holds what it was asked to say, and fails for one voice.
SPEAKER = """#!{python}
import sys, wave
arguments = sys.argv[1:]
if arguments[arguments.index("-v") + 1] == "nobody":
    sys.exit("no such voice")
text = sys.stdin.buffer.read()
with wave.open(arguments[arguments.index("-w") + 1], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(text + bytes(len(text) % 2))
"""


@pytest.fixture
def speaker(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(SPEAKER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_each_text_is_spoken_once_into_a_file_of_its_voice_and_empty_ones_are_not(speaker, tmp_path):
    paths = speak(["-v is what?", "wie groß?", "-v is what?", " "], tmp_path / "said")
    assert list(paths) == ["-v is what?", "wie groß?"]
    assert "wie groß?".encode() in paths["wie groß?"].read_bytes()
    paths["wie groß?"].write_bytes(b"mine")
    assert speak(["wie groß?"], tmp_path / "said")["wie groß?"].read_bytes() == b"mine"
    assert speak(["wie groß?"], tmp_path / "said", voice="de")["wie groß?"] != paths["wie groß?"]
    with pytest.raises(ValueError, match=r"cannot speak 'now' in the voice 'nobody' \(no such voice\)"):
        speak(["now"], tmp_path / "said", voice="nobody")
    assert not [path for path in (tmp_path / "said").iterdir() if path.suffix != ".wav"]
    speaker.unlink()
    with pytest.raises(ImportError, match="apt-get install espeak-ng"):
        speak(["now"], tmp_path / "said")


def test_a_table_is_spoken_into_one_that_names_the_files_beside_all_that_it_had(speaker, tmp_path, capsys):
    table = tmp_path / "own.csv"
    table.write_text("question,answer,place\nhow many?,2,left\nwho?,Ann,right\nhow many?,3,right\n")
    out = tmp_path / "spoken"
    assert main(["speak", str(table), "--out", str(out)]) == 0
    assert "3 rows, 2 different questions" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["answers"] for row in rows] == [["2"], ["Ann"], ["3"]]
    assert [row["place"] for row in rows] == ["left", "right", "right"]
    assert rows[0]["audio"] == rows[2]["audio"] != rows[1]["audio"]
    assert all((out / row["audio"]).is_file() for row in rows)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table.write_text("image,answer\na.png,2\n")
    assert main(["speak", str(table), "--out", str(out)]) == 2
    assert "No row has a question to speak" in capsys.readouterr().err

"""Texts as sound files, spoken by espeak-ng: questions to be heard in place of read."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

PROGRAM = "espeak-ng"


def speak(texts: Iterable[str], folder: str | os.PathLike, voice: str = "en-us", speed: int = 160) -> dict[str, Path]:
    """
    Speaks each text into a WAV file of its own; those that are there already are taken as they are.

    Args:
        texts: what is said.
        folder (path): where the files are put; their names follow from text, voice and speed.
        voice (`str`, *optional*, defaults to `"en-us"`): one of `espeak-ng --voices`.
        speed (`int`, *optional*, defaults to 160): in words a minute.

    Returns:
        `dict`: the path of each text; nothing that can be spoken, such as an empty text, has none.

    Raises:
        ImportError: where espeak-ng is not installed.
        ValueError: for a voice that it does not have, and what it cannot speak.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise ImportError(f"Speaking needs {PROGRAM}, which is not installed: `apt-get install {PROGRAM}` brings it.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for text in dict.fromkeys(texts):
        if text.strip():
            name = hashlib.sha256(f"{voice}\n{speed}\n{text}".encode()).hexdigest()[:20]
            paths[text] = folder / f"{name}.wav"

    def said(text: str) -> None:
        if paths[text].is_file():
            return
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as made:
            file = Path(made) / "said.wav"
            # By standard input: a text may begin with a dash, and is never an option.
            command = [program, "-v", voice, "-s", str(speed), "-w", str(file), "--stdin"]
            done = subprocess.run(command, input=text, text=True, capture_output=True, encoding="utf-8", check=False)
            if done.returncode or not file.is_file():
                why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
                raise ValueError(f"{PROGRAM} cannot speak {text[:60]!r} in the voice {voice!r} ({why}).")
            os.replace(file, paths[text])  # whole, or not there

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(tqdm(pool.map(said, paths), total=len(paths), desc="speaking", disable=None, leave=False))
    return paths

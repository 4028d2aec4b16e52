"""Puts a trained model on the Hub: checks the files, pushes them, and asks the Hub's copy the same question.

Nothing leaves this machine before the files were loaded in a process that has only torch, transformers and pillow, as
whoever downloads them may have no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from configuration_ume.scores import LABELS, NUMBERS
from modeling_ume import UMEConfig, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.stored_ume import storable
from modeling_ume.tasks_ume import DEFAULT_TASK, TASKS
from training_ume.hub.card import render_card, write_card
from training_ume.hub.read import NO_LICENCE, About, read_about
from training_ume.records.files import first_line, read_json
from training_ume.records.private import check_files
from training_ume.report.console import print_markdown, working

# What belongs to a model repo; whatever else lies in the folder stays here.
UPLOADED = re.compile(
    r"(config|generation_config|adapter_config|processor_config|preprocessor_config|video_preprocessor_config"
    r"|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|model\.safetensors\.index)\.json"
    r"|(model(-\d+-of-\d+)?|adapter_model)\.safetensors|(vocab|merges)\.txt|[\w.-]+\.model|\w+\.py|LICENSE(\.\w+)?"
    r"|README\.md|(learning_curve|predicted|confusion)\.png|examples/[\w-]+\.png|\.eval_results/[\w-]+\.yaml"
)

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".npy"}
# httpx or its successor, whichever this release of huggingface_hub is built on.
HTTPError = HfHubHTTPError.__bases__[0]
OURS = ("modeling_ume", "configuration_ume", "training_ume", "metrics")
NOT_NEEDED = (*OURS, "datasets", "evaluate", "matplotlib", "easy_vqa", "pandas", "pyarrow")
ADAPTER_NEEDS = ("peft", "accelerate")

ELSEWHERE = """
import json, sys

name, missing, auto, file = sys.argv[1:]
for module in missing.split():
    sys.modules[module] = None  # as if it were not installed

import torch
import transformers

given, named = torch.load(file, weights_only=True)
inputs = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=True)(**given)
model = getattr(transformers, auto).from_pretrained(name, trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**inputs).logits[0].tolist()
ask = transformers.pipeline("visual-question-answering", model=name, trust_remote_code=True, device="cpu")
print(json.dumps({"logits": logits, "answer": ask(**named, top_k=1)[0]["answer"]}))
"""


def publish(
    model: str | Path,
    repo: str,
    *,
    about: str | Path | None = None,
    adapter: bool = False,
    private: bool = False,
    new_card: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    confirm: Callable[[str], bool],
) -> str | None:
    """
    Uploads the model, processor, code and card of a run, and verifies the Hub's copy.

    Args:
        model: folder of one run of `ume train`.
        repo (`str`): `OWNER/NAME`.
        about (path, *optional*): the YAML that `render_card` needs, for a folder without README.md.
        adapter (`bool`): the LoRA adapter with its base instead of the merged model.
        private (`bool`): make a new repo private.
        new_card (`bool`): render the card anew, over a README.md that is there.
        replace (`bool`): overwrite files of the same name that the repo holds.
        dry_run (`bool`): check and show everything; write and upload nothing.
        confirm: gets the question whether to upload; False ends it.

    Returns:
        `str`: the address of the commit; None when nothing was uploaded.

    Raises:
        ValueError: one sentence each: what is wrong with the folder, the card, the token or the repo, an unreachable
            Hub, or a copy there that answers otherwise.
    """
    run = Path(model)
    folder = run / "adapter" if adapter else run
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name of a Hub repo ({first_line(error)}): write OWNER/NAME.") from error
    if "/" not in repo:
        raise ValueError(f"{repo!r} has no owner: write OWNER/{repo}.")
    files, left_out = model_files(folder, adapter)
    rendered = {}
    if new_card or "README.md" not in files:
        if about is None and not dry_run:
            raise ValueError(
                f"{folder} has no README.md to publish: name with --about a YAML file for its card, which needs at "
                "least a line `license: …`."
            )
        if about is None:
            print(NO_LICENCE)
        rendered = render_card(run, About("unknown") if about is None else read_about(about), repo, adapter)
        card_files = re.compile(r"README\.md|(learning_curve|predicted|confusion)\.png|examples/.*|\.eval_results/.*")
        files = {name: content for name, content in files.items() if not card_files.fullmatch(name)} | rendered
    for name, content in portable_configs(files, repo).items():
        files[name] = content
    check_files(files)
    check_card(files["README.md"], read_json(run / "results.json"))
    files = dict(sorted(files.items()))
    with tempfile.TemporaryDirectory(prefix="ume-publish-") as scratch:
        stage = Path(scratch) / "model"
        for name, content in files.items():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.symlink_to(content.resolve())
        token = get_token()
        api = HfApi(token=token)
        if not dry_run:
            if token is None:
                raise ValueError("There is no Hub token: run `hf auth login`, or set HF_TOKEN.")
            with hub_errors(repo):
                api.whoami()
                check_repo(api, repo, stage, files, replace)
        with working("Loading the model in a process that has nothing else"):
            expected = answer_elsewhere(str(stage), adapter)
        print(listing(repo, files, left_out, rendered), flush=True)
        if dry_run:
            card = files["README.md"]
            print("\nThe card, README.md:\n")
            print_markdown((card if isinstance(card, bytes) else card.read_bytes()).decode())
            print("A dry run: nothing was written or uploaded.")
            return None
        if not confirm(f"Upload this to {constants.ENDPOINT}/{repo}?"):
            return None
        write_card(rendered, folder)
        with hub_errors(repo):
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.create_commit(
                repo,
                [CommitOperationAdd(name, str((stage / name).resolve())) for name in files],
                commit_message="Adapter, processor, code and card" if adapter else "Model, processor, code and card",
            )
    print(f"Uploaded: {commit.commit_url}", flush=True)
    with working("Loading the copy on the Hub"):
        got = answer_elsewhere(repo, adapter, token)
    difference = max(abs(a - b) for a, b in zip(got["logits"], expected["logits"], strict=True))
    allowed = 1e-5 * max(1.0, *map(abs, expected["logits"]))  # of prices, in their unit, too
    other = isinstance(got["answer"], str) and got["answer"] != expected["answer"]
    if not difference <= allowed or other:
        raise ValueError(
            f"The model was uploaded, but the copy on the Hub answers otherwise (logits differ by {difference:.1e}): "
            f"look at the files in {repo}."
        )
    print(f"Loaded back from the Hub, it answers as before (logits differ by {difference:.1e} at most).")
    return commit.commit_url


def model_files(folder: Path, adapter: bool) -> tuple[dict[str, Path | bytes], list[str]]:
    """
    The files of a model folder that belong into a repo, by their path there, and the names of what does not.

    Raises:
        ValueError: if the folder is no UME checkpoint, lacks code, or has pickled weights.
    """
    if not folder.is_dir():
        hint = " The run was not trained with LoRA: leave --adapter out." if adapter and folder.parent.is_dir() else ""
        raise ValueError(f"There is no folder {folder}.{hint}")
    config = read_json(folder / "config.json")
    if config is None or config.get("model_type") != "ume":
        what = "is missing" if config is None else "is of another model"
        raise ValueError(
            f"{folder} is no UME checkpoint (its config.json {what}): give a folder that `ume train` wrote."
        )
    files, left_out = {}, []
    for path in sorted(folder.iterdir()):
        inside = sorted(path.iterdir()) if path.name in ("examples", ".eval_results") and path.is_dir() else [path]
        for file in inside:
            name = file.relative_to(folder).as_posix()
            if file.is_file() and UPLOADED.fullmatch(name):
                files[name] = file
            elif file.is_file() and file.suffix in PICKLES:
                raise ValueError(
                    f"{file} may be pickled, and loading a pickle runs whatever code is in it: a model is published "
                    "as safetensors alone. Move the file away."
                )
            else:
                left_out.append(name + "/" * file.is_dir())
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"{folder} has no safetensors weights: save the model with `save_pretrained`.")
    entries = [*config.get("auto_map", {}).values()]
    entries += [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
    missing = {f"{entry.split('.')[0]}.py" for entry in entries} - files.keys()
    if missing or not entries:
        raise ValueError(
            f"{folder} lacks the code that its config.json names ({', '.join(sorted(missing)) or 'no auto_map'}): "
            "save the model with `save_pretrained`."
        )
    return files, left_out


def portable_configs(files: dict[str, Path | bytes], repo: str) -> dict[str, bytes]:
    """The configs without what is private, such as where the encoders and an adapter's base lay here: their weights
    are in the repo. Configs that an earlier version wrote may hold such fields."""
    configs = {"config.json": storable(read_json(files["config.json"]))}
    if "adapter_config.json" in files:
        configs["adapter_config.json"] = {
            **read_json(files["adapter_config.json"]),
            "base_model_name_or_path": repo,
        }
    return {
        name: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode() for name, config in configs.items()
    }


def check_card(card: Path | bytes, results: dict | None) -> None:
    """Raises ValueError for a card without a licence, or whose scores are not those of the run."""
    text = (card if isinstance(card, bytes) else card.read_bytes()).decode()
    try:
        data = ModelCard(text).data
    except Exception as error:  # whatever YAML and the hub's own checks raise
        raise ValueError(f"The metadata of README.md cannot be read ({first_line(error)}): mend them.") from error
    if not data.get("license"):
        raise ValueError("README.md sets no licence: add `license: …` to the metadata at its top.")
    scores = results["scores"] if results else {}
    digits = {metric: 4 if metric in NUMBERS else 2 for metric in LABELS}
    recorded = {LABELS[name]: round(scores[name], digits[name]) for name in LABELS if scores.get(name) is not None}
    for result in data.eval_results or []:
        if recorded.get(result.metric_name, result.metric_value) != result.metric_value:
            raise ValueError(
                f"README.md says {result.metric_value} {result.metric_name}, results.json says "
                f"{recorded[result.metric_name]}: the card is of an older run. Render it with --new_card."
            )


def made_up_parts(name: str, token: str | None = None) -> tuple[str, dict, dict]:
    """
    What a model can be tried with.

    Returns:
        The Auto class that loads it; of each of its modalities something made up, by the name that the processor has
        for it; and the same by that which the pipeline has.
    """
    config = UMEConfig.from_pretrained(name, token=token)
    processor = UMEProcessor.from_pretrained(name, token=token)
    there = [MODALITIES[name] for name in config.modalities]
    made = {kind: kind.made_up(getattr(config, kind.config_field), processor.part(kind)) for kind in there}
    autos = {task.model: task.auto for task in TASKS.values()}
    auto = next((autos[kind] for kind in config.architectures or () if kind in autos), TASKS[DEFAULT_TASK].auto)
    return auto, {k.argument: value for k, value in made.items()}, {k.column: value for k, value in made.items()}


def answer_elsewhere(name: str, adapter: bool, token: str | None = None) -> dict:
    """
    What the model in a folder (without a token) or on the Hub (with one) answers in a process of its own, which has an
    empty cache and neither this project nor anything else that the model can do without.

    Returns:
        `dict`: `logits` (a list of numbers) and `answer`, to something made up of each of its modalities.

    Raises:
        ValueError: when it does not load there.
    """
    auto, *given = made_up_parts(name, token)
    missing = NOT_NEEDED if adapter else NOT_NEEDED + ADAPTER_NEEDS
    with tempfile.TemporaryDirectory(prefix="ume-elsewhere-") as scratch:
        caches = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_CACHE", "HF_XET_CACHE"}
        environment = {key: value for key, value in os.environ.items() if key not in caches | {"TRANSFORMERS_OFFLINE"}}
        environment |= {"HF_HOME": scratch, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        # The code that runs there is the model's: it gets no token where it needs none.
        tokens = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"}
        environment = {key: value for key, value in environment.items() if key not in tokens}
        environment |= {"HF_HUB_OFFLINE": "1"} if token is None else {"HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        file = os.path.join(scratch, "given.pt")
        torch.save(given, file)
        done = subprocess.run(
            [sys.executable, "-I", "-c", ELSEWHERE, name, " ".join(missing), auto, file],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        where = "The copy on the Hub" if token is not None else "The model"
        needs = "torch, transformers and pillow" + (", peft and accelerate" if adapter else "")
        raise ValueError(f"{where} does not load where only {needs} are installed ({reason}).")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_repo(api: HfApi, repo: str, stage: Path, files: dict[str, Path | bytes], replace: bool) -> None:
    """Raises ValueError if the repo exists and holds anything but these very files, unless they may be replaced."""
    try:
        there = [entry for entry in api.list_repo_tree(repo, recursive=True) if isinstance(entry, RepoFile)]
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return
    other = [
        entry.path
        for entry in there
        if entry.path != ".gitattributes" and not (entry.path in files and _same(entry, stage / entry.path))
    ]
    if other and not replace:
        names = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        raise ValueError(
            f"The repo {repo} exists and holds other content ({names}): choose another name, or add --replace to "
            "overwrite the files of the same names; the others stay."
        )


def _same(entry: RepoFile, path: Path) -> bool:
    """Whether a file on the Hub has the content of a local one: by SHA-256 under LFS, else by git's own hash."""
    if entry.size != path.stat().st_size:
        return False
    digest = hashlib.sha256() if entry.lfs else hashlib.sha1(f"blob {entry.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest() == (entry.lfs.sha256 if entry.lfs else entry.blob_id)


class hub_errors:
    """Turns what huggingface_hub raises into one sentence that says what to do."""

    def __init__(self, repo: str):
        self.repo = repo

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OfflineModeIsEnabled):
            raise ValueError("HF_HUB_OFFLINE is set, so that nothing can be uploaded: unset it.") from error
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status == 401:
                raise ValueError(
                    "The Hub does not accept the token: run `hf auth login`, or mend HF_TOKEN."
                ) from error
            if status == 403:
                raise ValueError(
                    f"The token may not write to {self.repo}: log in with one that has write access to its owner."
                ) from error
            raise ValueError(f"The Hub refused ({first_line(error)}).") from error
        if isinstance(error, HTTPError):
            raise ValueError(
                f"The Hub at {constants.ENDPOINT} cannot be reached ({first_line(error)}): check the network, and "
                "repeat the command."
            ) from error


def listing(repo: str, files: dict[str, Path | bytes], left_out: list[str], rendered: dict[str, bytes]) -> str:
    """What will be uploaded, one line a file with its size, and what stays here."""
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in files.items()
    }
    width = max(map(len, files))
    lines = [f"Files for {repo}:"]
    for name, size in sizes.items():
        note = "  (rendered now)" if name in rendered else ""
        lines.append(f"  {name.ljust(width)}  {_size(size):>9}{note}")
    lines.append(
        f"  {len(files)} files, {_size(sum(sizes.values()))}; they load with torch, transformers and pillow alone."
    )
    if left_out:
        lines.append(f"Left out: {', '.join(left_out)}")
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"

"""Uploads a model folder to the Hugging Face Hub, and says beforehand what would go.

Only files that belong to a model are uploaded. A folder that holds anything else (an optimizer's state, pickles, keys), or a text
with something that looks like a credential, is refused as a whole: an upload cannot be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r0.errors import UserError, reason
from r0.export.card import CARD

# What a folder of transformers, sentence-transformers or onnxruntime consists of.
ALLOWED = re.compile(
    r"(?:[\w-]+/)?(?:(?:adapter_)?model(?:-\d+-of-\d+)?\.(?:safetensors|onnx(?:\.data|_data)?)|[\w.-]+\.(?:json|jinja|model|tiktoken|txt|md)|"
    r"LICENSE|NOTICE|\.gitattributes)"
)
NEVER = re.compile(r"optim|scheduler|rng_state|trainer_state|training_args|credential|secret|password|netrc|api_key", re.I)
CREDENTIALS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40,})",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
WEIGHTS = (".safetensors", ".onnx", ".data", ".onnx_data")


@dataclass(frozen=True)
class Upload:
    """``files``: (path in the repository, bytes), sorted by path."""

    folder: Path
    files: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        width = max(len(path) for path, _ in self.files)
        lines = [f"  {path:<{width}}  {_size(size):>9}" for path, size in self.files]
        total = f"{len(self.files)} files"
        return "\n".join([*lines, f"  {total:<{width}}  {_size(sum(size for _, size in self.files)):>9}"])


def plan_upload(folder: Path) -> Upload:
    """What would be uploaded of ``folder``.

    Raises:
        UserError: the folder holds a file that is no part of a model, or a credential; it has no model card.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if CARD not in files:
        raise UserError(f"model: {folder} has no model card; write {folder / CARD}")
    for path in files:
        if NEVER.search(path) or not ALLOWED.fullmatch(path):
            raise UserError(f"model: {folder / path} is no part of a model, and nothing is uploaded; move it out of the folder")
        if not path.endswith(WEIGHTS) and (found := next(_credentials((folder / path).read_bytes()), None)):
            raise UserError(f"model: {folder / path} contains what looks like {found}, and nothing is uploaded; remove it")
    return Upload(folder, tuple((path, (folder / path).stat().st_size) for path in files))


def upload(plan: Upload, repo: str, private: bool) -> str:
    """Upload in one commit; a repository that does not exist is created. Weights that the Hub has already are not sent again.

    Returns:
        The address of the commit.

    Raises:
        UserError: there is no token, the Hub refuses, or it cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(library_name="r0")
    try:
        if not get_token():
            raise UserError("repo: there is no Hugging Face token on this machine; run `hf auth login`, or set HF_TOKEN")
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        files = [path for path, _ in plan.files]
        said = "Model, by r0 export"
        return api.upload_folder(folder_path=plan.folder, repo_id=repo, allow_patterns=files, commit_message=said).commit_url
    except (OfflineModeIsEnabled, LocalTokenNotFoundError, HFValidationError) as error:
        raise UserError(f"repo: {repo} cannot be written: {reason(error)}") from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"repo: the upload to {repo} failed ({reason(error)}); check name, token and network, and run the same command again"
        ) from None


def _credentials(content: bytes) -> Iterator[str]:
    return (what for what, pattern in CREDENTIALS.items() if re.search(pattern, content))


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"

"""Repositories of data sets on the Hugging Face Hub, through its own client and cache.

Without a network, or with ``HF_HUB_OFFLINE=1``, a repository is what the cache has of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r0.data.named.layout import missing_shards
from r0.errors import UserError, reason

CARD = "README.md"


class NotThere(UserError):
    """There is no such repository on the Hub, or it is not in the cache while the Hub cannot be reached."""


@dataclass(frozen=True)
class Repository:
    """A repository at a commit, with its folder in the Hub's cache, the paths of its files and the ``configs`` of its card."""

    name: str
    commit: str
    folder: Path
    files: tuple[str, ...]
    configs: tuple[Mapping[str, Any], ...]

    def fetched(self, files: Sequence[str]) -> list[Path]:
        """The local paths of files, downloaded where the cache does not have them.

        Raises:
            UserError: they cannot be had.
        """
        lacking = [file for file in files if not (self.folder / file).is_file()]
        if lacking:
            _snapshot(self.name, self.commit, lacking)
        lacking = [file for file in lacking if not (self.folder / file).is_file()] or missing_shards(files)
        if lacking:
            raise UserError(f"{self.name}: {lacking[0]} is not in the Hub's cache; run it once with a network")
        return [self.folder / file for file in files]


def open_repository(name: str, revision: str | None) -> Repository:
    """A repository at ``revision`` (None: main), with its card downloaded.

    Raises:
        NotThere: there is none, or it can neither be reached nor found in the cache.
        UserError: the revision does not exist, the repository is gated, or the Hub answers with an error.
    """
    folder = _snapshot(name, revision, [CARD])
    return Repository(name, folder.name, folder, _listed(name, folder), configs_of(folder))


def configs_of(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """``configs`` of the card of a data set; empty if it has none, or cannot be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        found = (metadata_load(folder / CARD) or {}).get("configs")
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return tuple(one for one in found if isinstance(one, Mapping)) if isinstance(found, list) else ()


def _snapshot(name: str, revision: str | None, files: list[str]) -> Path:
    """The folder of a repository in the Hub's cache, with ``files`` downloaded if the Hub can be reached."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    def asked(local_only: bool) -> Path:
        found = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=files, local_files_only=local_only)
        return Path(str(found))

    with _refusing(name, revision):
        try:
            return asked(local_only=False)
        except (httpx.TransportError, OfflineModeIsEnabled):  # of a commit, which the client does not look for in its cache
            return asked(local_only=True)


def _listed(name: str, folder: Path) -> tuple[str, ...]:
    """All files of a repository; without a network, those in the cache."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _refusing(name, folder.name):
        try:
            return tuple(HfApi().list_repo_files(name, repo_type="dataset", revision=folder.name))
        except (httpx.TransportError, OfflineModeIsEnabled):
            return tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def _refusing(name: str, revision: str | None) -> Iterator[None]:
    """Convert the errors of the Hub's client into sentences."""
    import httpx
    from huggingface_hub import errors

    where = f"{name} on the Hugging Face Hub"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{where} is gated; accept its conditions on its page, and log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotThere(
            f"there is no data set {where}, or it is private; check the name, and for a private one log in with `hf auth login`, "
            "or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{where} has no revision {revision}; give a branch, a tag or a commit behind @") from None
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, errors.OfflineModeIsEnabled):
        raise NotThere(
            f"{where} cannot be reached, and not all that is needed is in the local cache; run it once with a network and "
            "without HF_HUB_OFFLINE=1, or give a local folder"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"{name}: is no name of a repository on the Hugging Face Hub ({reason(error)}); correct it") from None
    except (OSError, httpx.HTTPError) as error:  # other statuses, a connection that broke, a full disk
        raise UserError(f"{where} cannot be downloaded ({reason(error).rstrip('.')}); try again later") from None

"""A disk cache of document token vectors, so that each document is encoded once across runs and queries.

Each model has one SQLite file, named by a hash of everything that determines its vectors. Several processes may use it at the
same time, and a batch is written completely or not at all. (It uses a rollback journal, because a write-ahead log requires
all processes on one machine.) A row has ``text`` (SHA-256 of the text), ``dim`` (vector dimension), ``crc`` (CRC-32 of
``vectors``, initialized with ``dim``) and ``vectors`` ([tokens, dim] in the model's dtype). The file may be deleted when it
is not in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r0.errors import UserError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
# The files in a model's folder that determine its vectors (unlike its README).
MODEL_FILES = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja", ".metadata"}
BUSY_S = 60.0  # seconds that a process waits while others write
ASKED = 500  # rows per SQL query
TABLE = "CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, dim INTEGER, crc INTEGER, vectors BLOB)"


def cache_folder(setting: str | None) -> Path | None:
    """The folder that ``vector_cache`` refers to; None if caching is off.

    Raises:
        UserError: the folder cannot be used.
    """
    if setting is None or setting == NONE:
        return None
    try:
        if setting == AUTO:
            home = os.environ.get("XDG_CACHE_HOME")
            return (Path(home) if home else Path.home() / ".cache") / "r0" / "vectors"
        folder = Path(setting).expanduser().absolute()
    except RuntimeError:
        raise UserError("vector_cache: there is no home folder; give vector_cache=FOLDER, or vector_cache=none") from None
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"vector_cache: {there} is not a writable folder; choose another one, or vector_cache=none")
    return folder


def absolute(setting: str | None) -> str | None:
    """The setting with an absolute folder, because a worker in another process may have another working directory."""
    return setting if setting in (None, AUTO, NONE) else str(cache_folder(setting))


def model_hash(folder: Path, *settings: object) -> str:
    """32 hex digits, a hash of the model's files and of the settings. Reads all weights."""
    found = hashlib.sha256("\x1f".join(map(str, settings)).encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in MODEL_FILES and path.is_file()):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"\n{path.relative_to(folder)}\x1f{content}".encode())
    return found.hexdigest()[:32]


class VectorCache:
    """The vectors of one model. If the disk fails during use, a warning is logged and caching stops.

    Args:
        path: the file; it and its folder are created if missing.
        dtype: dtype of the model's vectors.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: Path, dtype: torch.dtype):
        self.path, self._dtype = path, dtype
        self._file: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = file = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            with self._writing(file):
                file.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"vector_cache: {path} cannot be used: {reason}; delete it if it is damaged, or give another vector_cache="
            ) from None

    def get(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The cached vectors, [tokens, dim], by text; missing and damaged rows are omitted."""
        wanted = {_key(text): text for text in texts}
        found: dict[str, torch.Tensor] = {}
        keys = list(wanted)
        with self._forgiving() as file:
            if file is None:
                return found
            for start in range(0, len(keys), ASKED):
                part = keys[start : start + ASKED]
                marks = ",".join("?" * len(part))
                for key, dim, crc, vectors in file.execute(f"SELECT * FROM vectors WHERE text IN ({marks})", part):
                    if isinstance(vectors, bytes) and isinstance(dim, int) and zlib.crc32(vectors, dim) == crc:
                        found[wanted[key]] = self._tensor(vectors, dim)
        return found

    def put(self, vectors: Mapping[str, torch.Tensor]) -> None:
        """Store the vectors, [tokens, dim] on any device, of these texts, in the model's dtype."""
        import torch

        rows = []
        for text, tensor_TD in vectors.items():
            content = tensor_TD.to("cpu", self._dtype).contiguous().view(torch.uint8).numpy().tobytes()
            dim = tensor_TD.shape[1]
            rows.append((_key(text), dim, zlib.crc32(content, dim), content))
        with self._forgiving() as file:
            if file and rows:
                with self._writing(file):
                    file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _writing(self, file: sqlite3.Connection) -> Iterator[None]:
        """A transaction. It takes the lock at its start, where SQLite waits for others; later it would fail instead."""
        file.execute("BEGIN IMMEDIATE")
        try:
            yield
            file.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                file.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[sqlite3.Connection | None]:
        """The file, or None after a failure; a failure is logged and not raised."""
        try:
            yield self._file
        except sqlite3.Error as error:
            logger.warning(
                "vector_cache: %s: %s; continuing without it (free disk space, or delete the file if it is damaged)",
                self.path,
                error,
            )
            self.close()

    def _tensor(self, content: bytes, dim: int) -> torch.Tensor:
        import torch

        if not content:
            return torch.empty((0, dim), dtype=self._dtype)
        return torch.frombuffer(bytearray(content), dtype=self._dtype).view(-1, dim)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()

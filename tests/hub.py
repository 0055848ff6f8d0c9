"""A Hugging Face Hub of one's own: data sets in the layout of the client's cache, and a server that answers as the Hub does."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

Content = bytes | list[dict]  # a list of rows becomes parquet

DOCUMENTS = [{"_id": f"d{number}", "title": f"Title {number}", "text": f"the moon pulls tide {number}"} for number in range(6)]
QUERIES = [{"_id": f"q{number}", "text": f"moon {number}"} for number in range(3)]
TSV = "query-id\tcorpus-id\tscore\n"
PASSAGES = [{"docid": one["_id"], "title": one["title"], "text": one["text"]} for one in DOCUMENTS]
ROWS = [
    {"query_id": one["_id"], "query": one["text"], "positive_passages": [PASSAGES[at]], "negative_passages": PASSAGES[4:6]}
    for at, one in enumerate(QUERIES)
]


def lines(rows: list[dict], packed: bool = False) -> bytes:
    """Rows as JSON lines, gzipped if ``packed``."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(text) if packed else text


def card(*configs: tuple[str, Mapping[str, str]]) -> bytes:
    """A card whose ``configs`` are these: name, and pattern of files by split."""
    said = [
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {path}\n" for split, path in files.items())
        for name, files in configs
    ]
    return ("---\nlicense: mit\nconfigs:\n" + "".join(said) + "---\n# A data set\n").encode()


def judged(*pairs: str) -> list[dict]:
    """Judgements of MTEB: ``judged("q0 d1 1")``."""
    words = [pair.split() for pair in pairs]
    return [{"query-id": query, "corpus-id": document, "score": float(grade)} for query, document, grade in words]


BEIR = {
    "BeIR/tides": {
        "README.md": card(("corpus", {"corpus": "corpus/corpus-*"}), ("queries", {"queries": "queries/queries-*"})),
        "corpus/corpus-00000-of-00002.parquet": DOCUMENTS[:3],
        "corpus/corpus-00001-of-00002.parquet": DOCUMENTS[3:],
        "queries/queries-00000-of-00001.parquet": [{**one, "title": ""} for one in QUERIES],
    },
    "BeIR/tides-qrels": {
        "README.md": b"# Judgements",
        "test.tsv": f"{TSV}q0\td1\t1\n".encode(),
        "train.tsv": f"{TSV}q1\td2\t1\nq2\td3\t2\n".encode(),
    },
}
BEIR_BEFORE = {  # as it was until 2023
    "BeIR/old": {
        "README.md": b"# A card without configurations",
        "corpus.jsonl.gz": lines(DOCUMENTS, packed=True),
        "queries.jsonl.gz": lines(QUERIES, packed=True),
        "old.py": b"raise SystemExit('nobody runs this')",
    },
    "BeIR/old-qrels": {"test.tsv": f"{TSV}q0\td1\t1\n".encode()},
}
MTEB = {
    "mteb/tides": {
        "README.md": card(
            ("default", {"train": "qrels/train.jsonl", "test": "qrels/test.jsonl"}),
            ("corpus", {"corpus": "corpus.jsonl"}),
            ("queries", {"queries": "queries.jsonl"}),
        ),
        "corpus.jsonl": lines(DOCUMENTS),
        "queries.jsonl": lines(QUERIES),
        "qrels/train.jsonl": lines(judged("q1 d2 1", "q2 d3 2")),
        "qrels/test.jsonl": lines(judged("q0 d1 1")),
    },
    "mteb/many": {
        "README.md": card(
            *((f"{name}-corpus", {"test": f"{name}-corpus/test-*"}) for name in ("de", "fr")),
            *((f"{name}-queries", {"test": f"{name}-queries/test-*"}) for name in ("de", "fr")),
            *((f"{name}-qrels", {"test": f"{name}-qrels/test-*"}) for name in ("de", "fr")),
            ("de-top_ranked", {"test": "de-top_ranked/test-*"}),
        ),
        **{
            f"{name}-{part}/test-00000-of-00001.parquet": rows
            for name in ("de", "fr")
            for part, rows in {
                "corpus": [{"id": one["_id"], "title": one["title"], "text": f"{name} {one['text']}"} for one in DOCUMENTS],
                "queries": [{"id": one["_id"], "text": one["text"]} for one in QUERIES],
                "qrels": judged("q0 d1 1"),
            }.items()
        },
        "de-top_ranked/test-00000-of-00001.parquet": [{"query-id": "q0", "corpus-ids": ["d1"]}],
    },
    "mteb/splits": {  # two splits with texts of their own
        "README.md": card(
            *((name, {split: f"{name}/{split}-*" for split in ("dev", "test")}) for name in ("corpus", "queries", "qrels"))
        ),
        **{
            f"{name}/{split}-00000-of-00001.parquet": rows
            for split, at in (("dev", 0), ("test", 3))
            for name, rows in {
                "corpus": [{**one, "text": f"{one['text']} of {split}"} for one in DOCUMENTS[at : at + 4]],
                "queries": QUERIES[at // 3 : at // 3 + 2],
                "qrels": judged(f"q{at // 3} d{at} 1"),
            }.items()
        },
    },
}
TEVATRON = {
    "Tevatron/tides": {"train.jsonl.gz": lines(ROWS[1:], packed=True), "dev.jsonl.gz": lines(ROWS[:1], packed=True)},
    "Tevatron/tides-corpus": {"corpus.jsonl.gz": lines(PASSAGES, packed=True)},
    "Tevatron/beir": {"scifact/beir-test.parquet": ROWS, "nq/beir-test.parquet": ROWS[:1]},
    "Tevatron/beir-corpus": {"scifact/test/0000.parquet": PASSAGES, "nq/test/0000.parquet": PASSAGES[:2]},
}


def write(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write the files of a repository."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            pq.write_table(pa.Table.from_pylist(content), path)
        else:
            path.write_bytes(content)
    return folder


def commit_of(name: str, version: int = 1) -> str:
    """The commit of a repository: 40 digits."""
    return hashlib.sha1(f"{name} {version}".encode()).hexdigest()


def cache(folder: Path, repositories: Mapping[str, Mapping[str, Content]], version: int = 1) -> None:
    """Put repositories into a cache of the Hub's client, as it lays them out."""
    for name, files in repositories.items():
        base = folder / f"datasets--{name.replace('/', '--')}"
        write(base / "snapshots" / commit_of(name, version), files)
        (base / "refs").mkdir(exist_ok=True)
        (base / "refs" / "main").write_text(commit_of(name, version))


@contextmanager
def served(folder: Path, gated: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """A Hub with the repositories in ``folder/OWNER/NAME``: its address, and the paths that were asked for.

    The files of ``gated`` repositories are refused.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            words = path.strip("/").split("/")
            if words[:2] == ["api", "datasets"]:
                self._api("/".join(words[2:4]), words[4:])
            elif words[0] == "datasets":
                self._file("/".join(words[1:3]), "/".join(words[5:]))
            else:
                self._refuse(404, "EntryNotFound")

        def _api(self, name: str, rest: list[str]) -> None:
            if not (folder / name).is_dir():
                self._refuse(401 if name.startswith("nobody") else 404, "RepoNotFound")
            elif len(rest) > 1 and rest[1] not in ("main", commit_of(name)):
                self._refuse(404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                files = [path for path in (folder / name).rglob("*") if path.is_file()]
                self._json([
                    {"type": "file", "path": path.relative_to(folder / name).as_posix(), "size": path.stat().st_size, "oid": "0"}
                    for path in files
                ])  # fmt: skip
            else:
                self._json({"id": name, "sha": commit_of(name), "siblings": []})

        def _file(self, name: str, path: str) -> None:
            file = folder / name / path
            if name in gated:
                self._refuse(403, "GatedRepo")
            elif not file.is_file():
                self._refuse(404, "EntryNotFound")
            else:
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit_of(name)})

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()

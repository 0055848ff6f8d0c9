"""Which reader opens what ``data=`` names: the built-in task, a JSONL file of any kind, a BEIR folder."""

from __future__ import annotations

from pathlib import Path

from r0.config.commands import SourceKeys
from r0.config.lists import ListSourceKeys
from r0.data.beir import BeirRows
from r0.data.file_pool import FilePool, RequestRows
from r0.data.index import JsonlRows, Rows
from r0.data.lists import ListRows, ThoughtCheck
from r0.data.pools import BeirPool, Pool
from r0.data.readers import DataKind, LabelRule, kind_of_file
from r0.errors import UserError
from r0.records import Form


def open_rows(keys: SourceKeys, seed: int, unlabelled: bool = False) -> Rows:
    """The (query, document) pairs that ``keys`` name. ``unlabelled``: labels may be missing, and a raw log is read too.

    Raises:
        UserError: the data is missing, bad, empty, or does not fit the keys.
    """
    kind = _kind(keys, unlabelled)
    rule, path = LabelRule.from_keys(keys, kind, unlabelled), Path(keys.data)
    if kind == DataKind.BUILTIN:
        from r0.data.builtin.rows import BuiltinRows

        return BuiltinRows(keys.builtin_rows, seed)
    if kind == DataKind.BEIR:
        return BeirRows(path, Path(keys.run or ""), keys.qrels, rule, keys.skip_bad)
    if kind == DataKind.REQUESTS:
        return RequestRows(path, rule, keys.qrels, keys.skip_bad)
    return JsonlRows(path, kind, rule, keys.skip_bad)


def open_lists(
    keys: SourceKeys, lists: ListSourceKeys, form: Form, seed: int, imitate: bool = False, spread: bool = False
) -> Rows:
    """The lists that ``keys`` name, put together as ``lists`` says.

    ``imitate``: thoughts and answers are to be imitated; ``spread``: only lists whose documents differ in their grades.

    Raises:
        UserError: the data is missing, bad, empty, or does not fit the keys.
    """
    kind = _kind(keys)
    rule, path, apart = LabelRule.from_keys(keys, kind), Path(keys.data), lists.random_negatives > 0
    pool: Pool
    if kind == DataKind.BUILTIN:
        from r0.data.builtin.rows import BuiltinListRows

        return BuiltinListRows(keys.builtin_rows, seed, form, lists.candidates)
    if kind == DataKind.BEIR:
        pool = BeirPool(path, Path(keys.run or ""), keys.qrels, rule, keys.skip_bad, apart)
    else:
        check = ThoughtCheck(form, lists.candidates) if imitate and kind == DataKind.GROUPED else None
        pool = FilePool(path, kind, rule, keys.skip_bad, keys.qrels, apart, check)
    return ListRows(pool, lists, form, rule.threshold, seed, spread)


def _kind(keys: SourceKeys, raw_log: bool = False) -> DataKind:
    """What the data is.

    Raises:
        UserError: it is not there, or ``run`` is missing or too much.
    """
    path = Path(keys.data)
    beir = keys.data != DataKind.BUILTIN and path.is_dir()
    if keys.run is not None and not beir:
        raise UserError(f"run: {keys.run} names candidates of a BEIR folder, but data={keys.data} is none; leave run out")
    if keys.data == DataKind.BUILTIN:
        return DataKind.BUILTIN
    if not path.exists():
        raise UserError(f"data: {path}: no such file or folder; give a JSONL file of tasks, a BEIR folder, or data=builtin")
    if not beir:
        return kind_of_file(path, keys.skip_bad, raw_log)
    if not (path / "corpus.jsonl").is_file():
        raise UserError(f"data: {path}: is a directory without corpus.jsonl; give a BEIR folder or a JSONL file of tasks")
    if keys.run is None:
        raise UserError(f"run: the BEIR folder {path} needs a TREC run with the candidates of each query; give run=FILE")
    return DataKind.BEIR

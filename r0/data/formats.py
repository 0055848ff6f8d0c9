"""Selects the reader for ``data=``: the built-in task, a JSONL file of any kind, or a BEIR folder."""

from __future__ import annotations

from pathlib import Path

from r0.config.commands import SourceKeys
from r0.config.lists import ListSourceKeys
from r0.data.beir import BeirRows
from r0.data.file_pool import FilePool, RequestRows
from r0.data.index import JsonlRows, Rows
from r0.data.lists import ListRows, ThoughtCheck
from r0.data.pools import BeirPool, CandidatePool
from r0.data.readers import DataKind, LabelRule, kind_of_file
from r0.data.table import folder_file
from r0.errors import UserError
from r0.records import Form


def check_source(keys: SourceKeys, unlabelled: bool = False) -> None:
    """Refuse data that cannot be opened, as far as its names and its first line tell.

    Raises:
        UserError: the data does not exist, is of no known kind, or does not fit the keys.
    """
    _kind(keys, unlabelled)
    if keys.run is not None and not Path(keys.run).is_file():
        raise UserError(f"run: {keys.run}: no such file; give a TREC run with the candidates of each query")


def open_rows(keys: SourceKeys, seed: int, unlabelled: bool = False) -> Rows:
    """Open the (query, document) pairs named by ``keys``. ``unlabelled``: labels may be missing, and raw logs are accepted too.

    Raises:
        UserError: the data is missing, invalid, empty, or does not fit the keys.
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
    """Open the lists named by ``keys``, built as ``lists`` configures.

    ``imitate``: thoughts and answers are training targets. ``spread``: only lists whose documents differ in grade.

    Raises:
        UserError: the data is missing, invalid, empty, or does not fit the keys.
    """
    kind = _kind(keys)
    rule, path, with_identities = LabelRule.from_keys(keys, kind), Path(keys.data), lists.random_negatives > 0
    pool: CandidatePool
    if kind == DataKind.BUILTIN:
        from r0.data.builtin.rows import BuiltinListRows

        return BuiltinListRows(keys.builtin_rows, seed, form, lists.candidates)
    if kind == DataKind.BEIR:
        pool = BeirPool(path, Path(keys.run or ""), keys.qrels, rule, keys.skip_bad, with_identities)
    else:
        check = ThoughtCheck(form, lists.candidates) if imitate and kind == DataKind.GROUPED else None
        pool = FilePool(path, kind, rule, keys.skip_bad, keys.qrels, with_identities, check)
    return ListRows(pool, lists, form, rule.threshold, seed, spread)


def _kind(keys: SourceKeys, raw_log: bool = False) -> DataKind:
    """The kind of the data.

    Raises:
        UserError: the data does not exist, ``run`` is missing, or ``run`` does not apply.
    """
    path = Path(keys.data)
    beir = keys.data != DataKind.BUILTIN and path.is_dir()
    if keys.run is not None and not beir:
        raise UserError(f"run: {keys.run} lists candidates of a BEIR folder, but data={keys.data} is not one; remove run")
    if keys.data == DataKind.BUILTIN:
        return DataKind.BUILTIN
    if not path.exists():
        raise UserError(f"data: {path}: no such file or folder; give a JSONL file of tasks, a BEIR folder, or data=builtin")
    if not beir:
        return kind_of_file(path, keys.skip_bad, raw_log)
    if not folder_file(path, "corpus").is_file():
        raise UserError(f"data: {path}: is a directory without corpus.jsonl; give a BEIR folder or a JSONL file of tasks")
    if keys.run is None:
        raise UserError(f"run: the BEIR folder {path} needs a TREC run with the candidates of each query; give run=FILE")
    return DataKind.BEIR

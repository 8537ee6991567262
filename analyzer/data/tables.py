"""Pictures in Parquet and Arrow files: a column of images or of their paths, and what other columns say of them."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyzer.data.archives import known_of
from analyzer.data.remote import Remote, is_remote, opened
from analyzer.errors import InputError, suggest
from analyzer.images.sources import Stored

TABLES = (".parquet", ".arrow", ".feather")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "bytes", "image_bytes", "path", "file", "file_name", "url")
_GROUPS = 4  # of rows that are kept in memory

_lock = threading.Lock()


@dataclass(frozen=True)
class Cell(Stored):
    """A picture in a row of a table."""

    table: str
    column: str
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.table}:{self.group}.{self.row}"

    def read(self) -> bytes:
        with _lock:
            value = _group(self.table, self.column, self.group)[self.row].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(found, bytes):
            raise InputError(f"{self}: no image in the column {self.column!r}")
        return found


def cells(table: str, where: str | None = None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The pictures of a table, each with its `label` and `boxes`, from columns of these names.

    Args:
        where: rows to use: COLUMN=VALUE, or with != < <= > >= instead.

    Raises:
        InputError: pyarrow is missing; the table has no column of images or of paths, or none to choose by.
    """
    _, file = _opened(table)
    names = file.schema.names
    column = next((name for name in IMAGES if name in names), None)
    if column is None:
        raise InputError(f"{table}: no column of images", f"it has {', '.join(names)}; call it image or path")
    test = _test(where, names, table) if where else None
    others = [n for n in names if n in ("label", "class", "cls", "boxes", "bboxes") or (test and n == test[0])]
    folder = table.rpartition("/")[0]
    for group in range(file.groups):
        rows = file.read(group, others).to_pylist() if others else [{}] * file.count(group)
        values = file.read(group, [column]).column(0)
        for row, known in enumerate(rows):
            if test is not None and not _holds(test, known):
                continue
            value = values[row].as_py()
            inside = value.get("bytes") if isinstance(value, dict) else value
            path = value.get("path") if isinstance(value, dict) else value
            if isinstance(inside, bytes):
                yield Cell(table, column, group, row), known_of(known)
            elif isinstance(path, str):
                at = path if is_remote(path) or not folder or path.startswith("/") else f"{folder}/{path}"
                yield (Remote(at) if is_remote(at) else Path(at)), known_of(known)


class _Table:
    """A Parquet file by its row groups, or an Arrow file by its batches."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema = getattr(file, "schema_arrow", None) or file.schema
        self.groups: int = file.num_row_groups if self.is_parquet else file.num_record_batches

    @property
    def is_parquet(self) -> bool:
        return hasattr(self._file, "num_row_groups")

    def count(self, group: int) -> int:
        found: int = (
            self._file.metadata.row_group(group).num_rows if self.is_parquet else self._file.get_batch(group).num_rows
        )
        return found

    def read(self, group: int, columns: list[str]) -> Any:
        if self.is_parquet:
            return self._file.read_row_group(group, columns=columns)
        return self._file.get_batch(group).select(columns)


def _opened(table: str) -> tuple[Any, _Table]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = 'install it with: pip install "onnx-analyzer[remote]"'
        raise InputError(f"{table}: reading tables needs pyarrow", hint) from error
    with opened(table) as whole:
        data = whole if is_remote(table) else None
        try:
            source = pyarrow.BufferReader(data.read()) if data else pyarrow.memory_map(table)
            if table.lower().endswith(".parquet"):
                return pyarrow, _Table(pyarrow.parquet.ParquetFile(source))
            return pyarrow, _Table(pyarrow.ipc.open_file(source))
        except pyarrow.ArrowException as error:
            raise InputError(f"{table}: not a Parquet or Arrow file ({str(error).splitlines()[0]})") from error


@functools.lru_cache(maxsize=_GROUPS)
def _group(table: str, column: str, group: int) -> Any:
    return _opened(table)[1].read(group, [column]).column(0)


_TESTS = {"!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt}


def _test(where: str, names: list[str], table: str) -> tuple[str, Any, str]:
    """(column, comparison, value) of COLUMN=VALUE."""
    for sign, compare in _TESTS.items():
        column, found, value = where.partition(sign)
        if found:
            if column.strip() not in names:
                hint = suggest(column.strip(), names) or f"it has {', '.join(names)}"
                raise InputError(f"{table}: no column {column.strip()!r}", hint)
            return column.strip(), compare, value.strip()
    raise InputError(f"{where!r} is not COLUMN=VALUE", "for example: split=test, width>=640")


def _holds(test: tuple[str, Any, str], row: dict[str, Any]) -> bool:
    column, compare, value = test
    found = row.get(column)
    if found is None:
        return False
    try:
        return bool(compare(float(found), float(value)))
    except (TypeError, ValueError):
        return bool(compare(str(found), value))

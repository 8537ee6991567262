"""Pictures in Parquet and Arrow files: a column of images or of their paths, and what other columns say of them."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from analyzer.data.archives import CALLED, MASKS, known_of
from analyzer.data.remote import Remote, UnreadableError, for_tables, is_remote, opened, reading
from analyzer.errors import InputError, suggest
from analyzer.images.sources import Stored

TABLES = (".parquet", ".arrow", ".feather")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "bytes", "image_bytes", "path", "file", "file_name", "url")
KNOWN = CALLED["label"] + CALLED["boxes"]
ROWS = "rows are those of tables, and of metadata.csv or metadata.jsonl beside pictures"
_GROUPS = 2  # of rows that are kept in memory: those of pictures at work, and of the next

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Cell(Stored):
    """A picture in a row of a table."""

    table: str
    column: str
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.table}:{self.group}.{self.row}"

    def read(self) -> bytes:
        with _lock, reading(self.table):
            value = _group(self.table, self.column, self.group)[self.row].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) and found is None else None
        if isinstance(path, str):
            at = _beside(self.table, path)
            with opened(str(at)) as file:
                return file.read()
        if not isinstance(found, bytes):
            raise InputError(f"{self}: no image in the column {self.column!r}")
        return found


def cells(table: str, where: str | None = None) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The pictures of a table, each with its `label` and `boxes`, from columns of these names, and the place of its
    `mask`. Images are not read.

    Args:
        where: rows to use: COLUMN=VALUE, or with != < <= > >= instead.

    Raises:
        UnreadableError: it is no table, or a damaged one.
        InputError: pyarrow is missing; the table has no column of images or of paths, or none to choose by.
    """
    with reading(table):
        file = _opened(table)
        names = file.schema.names
        column = next((name for name in IMAGES if name in names), None)
        if column is None:
            raise InputError(f"{table}: no column of images", f"it has {', '.join(names)}; call it image or path")
        test = Where.of(where, names, table) if where else None
        others = [n for n in names if n in KNOWN or (test and n == test.column)]
        mask = next((name for name in MASKS if name in names), None)
        for group in range(file.groups):
            rows = file.read(group, others).to_pylist() if others else [{}] * file.count(group)
            paths = file.paths(group, column)
            for row, known in enumerate(rows):
                if test is not None and not test.holds(known):
                    continue
                path = paths[row] if paths else None
                if mask:
                    known = {**known, "mask": [table, mask, group, row]}
                yield (_beside(table, path) if path else Cell(table, column, group, row)), known_of(known)


def _beside(table: str, path: str) -> Any:
    """The file of a path in a table: relative to its folder."""
    folder = table.rpartition("/")[0]
    at = path if is_remote(path) or not folder or path.startswith("/") else f"{folder}/{path}"
    return Remote(at) if is_remote(at) else Path(at)


class _Table:
    """A Parquet file by its row groups, or an Arrow file or stream by its batches."""

    def __init__(self, source: Any, is_parquet: bool) -> None:
        import pyarrow
        import pyarrow.parquet

        self._parquet = pyarrow.parquet.ParquetFile(source, pre_buffer=True) if is_parquet else None
        if self._parquet is not None:
            self.schema, self.groups = self._parquet.schema_arrow, self._parquet.num_row_groups
            return
        try:
            file = pyarrow.ipc.open_file(source)
            self.schema, self.groups, self._batch = file.schema, file.num_record_batches, file.get_batch
        except pyarrow.ArrowInvalid:  # the other of Arrow's two formats, in which Hugging Face keeps its data sets
            source.seek(0)
            whole = pyarrow.ipc.open_stream(source).read_all()
            batches = whole.to_batches()
            self.schema, self.groups, self._batch = whole.schema, len(batches), batches.__getitem__

    def count(self, group: int) -> int:
        found: int = self._parquet.metadata.row_group(group).num_rows if self._parquet else self._batch(group).num_rows
        return found

    def read(self, group: int, columns: list[str]) -> Any:
        """As a table: of Parquet, "image.path" is a part of the column "image"."""
        if self._parquet is not None:
            return self._parquet.read_row_group(group, columns=columns)
        return self._batch(group).select(columns)

    def paths(self, group: int, column: str) -> list[str | None]:
        """Of each row, where its picture is a file of its own; empty where all pictures are in the table."""
        import pyarrow

        kind = self.schema.field(column).type
        parts = [kind.field(i).name for i in range(kind.num_fields)] if pyarrow.types.is_struct(kind) else []
        if (parts and "path" not in parts) or self._has_bytes(group, column, kind):
            return []
        found = self.read(group, [f"{column}.path" if parts and self._parquet is not None else column]).column(0)
        return [value.get("path") if isinstance(value, dict) else value for value in found.to_pylist()]

    def _has_bytes(self, group: int, column: str, kind: Any) -> bool:
        """Whether there are images in a column: where that cannot be seen without reading them, there are."""
        import pyarrow

        types = pyarrow.types
        if not types.is_struct(kind):
            return not (types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind))
        if kind.get_field_index("bytes") < 0 or types.is_null(kind.field("bytes").type):
            return False
        if self._parquet is None:
            inside = self._batch(group).column(column).field("bytes")
            return bool(inside.null_count < len(inside))
        about = self._parquet.metadata.row_group(group)
        leaves = (about.column(i) for i in range(about.num_columns))
        seen = next((leaf.statistics for leaf in leaves if leaf.path_in_schema == f"{column}.bytes"), None)
        return not (seen and seen.has_null_count and seen.null_count == about.num_rows)


def _opened(table: str) -> _Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = 'install it with: pip install "onnx-analyzer[remote]"'
        raise InputError(f"{table}: reading tables needs pyarrow", hint) from error
    source = pyarrow.PythonFile(for_tables(table), "r") if is_remote(table) else pyarrow.memory_map(table)
    try:
        return _Table(source, table.lower().endswith(".parquet"))
    except pyarrow.ArrowException as error:
        raise UnreadableError(f"{table}: not a Parquet or Arrow file ({str(error).splitlines()[0]})") from error


@functools.lru_cache(maxsize=_GROUPS)
def _group(table: str, column: str, group: int) -> Any:
    return _opened(table).read(group, [column]).column(0)


_TESTS = {"!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Where:
    """A condition on rows: COLUMN=VALUE, or with != < <= > >= instead."""

    column: str
    compare: Callable[[Any, Any], bool]
    value: str

    @classmethod
    def of(cls, text: str, names: Iterable[str], table: str) -> Self:
        """From what was given, for a table with columns of these names.

        Raises:
            InputError: there is no such column; the text is no condition.
        """
        for sign, compare in _TESTS.items():
            column, found, value = map(str.strip, text.partition(sign))
            if found:
                if column not in names:
                    hint = suggest(column, names) or (f"it has {', '.join(names)}" if names else ROWS)
                    raise InputError(f"{table}: no column {column!r}", hint)
                return cls(column, compare, value)
        raise InputError(f"{text!r} is not COLUMN=VALUE", "for example: split=test, width>=640")

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Of a row; not where it has no value."""
        found = row.get(self.column)
        if found is None:
            return False
        try:
            return bool(self.compare(float(found), float(self.value)))
        except (TypeError, ValueError):
            return bool(self.compare(str(found), self.value))

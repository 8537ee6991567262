"""What `explain` finds in many pictures as a table: results.parquet, and manifest.json, which says what was run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.files import AnyPath, atomic_file, make_folder, write_text
from analyzer.plain import as_json

COLUMNS = {  # {name: type in Arrow}
    "picture": "string",
    "width": "int32",
    "height": "int32",
    "method": "string",
    "target": "string",
    "class": "int64",
    "label": "string",
    "value": "double",
    "layer": "string",
    "x": "double",
    "y": "double",
    "left": "double",
    "top": "double",
    "right": "double",
    "bottom": "double",
    "diagnosis": "string",
    "error": "string",
}
ROWS = 10_000  # kept until they are written together


class ResultsTable:
    """A row per map, in the order of the pictures; one for a picture without maps, or that could not be used.

    Rows are written as they come, so memory does not grow with their number. The files take their names when the
    block ends well; after an error there is neither.

    Args:
        folder: made where it is missing.
        about: what the manifest says of the run.

    Raises:
        UnsupportedError: pyarrow is missing. OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: AnyPath, about: Mapping[str, Any]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UnsupportedError(
                "writing Parquet files needs pyarrow", 'install it with: pip install "onnx-analyzer[remote]"'
            ) from error
        self._arrow = pyarrow
        self.path, self.manifest = Path(folder) / "results.parquet", Path(folder) / "manifest.json"
        self._about = dict(about)
        self._schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
        self._rows: list[dict[str, Any]] = []
        self._counts = {"pictures": 0, "failed": 0, "rows": 0}
        self._open = ExitStack()
        make_folder(folder)

    def __enter__(self) -> Self:
        file = self._open.enter_context(atomic_file(self.path))
        self._writer = self._open.enter_context(self._arrow.parquet.ParquetWriter(file, self._schema))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            self._write()
        self._open.__exit__(kind, error, where)
        if error is None:
            write_text(self.manifest, as_json({**self._about, **self._counts, "columns": COLUMNS}, indent=2) + "\n")

    def add(self, results: Iterable[Mapping[str, Any]], failed: Mapping[str, AnalyzerError]) -> None:
        """The results of some pictures as `explain --format json` has them, and what is wrong with others."""
        for result in results:
            self._counts["pictures"] += 1
            self._rows += _rows(result)
        for picture, error in failed.items():
            self._counts["failed"] += 1
            self._rows.append({"picture": picture, "error": error.message})
        if len(self._rows) >= ROWS:
            self._write()

    def _write(self) -> None:
        self._counts["rows"] += len(self._rows)
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    width, height = result["size"] or (None, None)
    picture = {"picture": result["picture"], "width": width, "height": height}
    boxes = {p["target"]: p["box"] for p in result["predictions"] if p.get("box")}
    rows = []
    for found in result["maps"]:
        box = boxes.get(found["target"].partition(" ")[0]) or [None] * 4
        x, y = found.get("maximum") or (None, None)
        said = {name: found[name] for name in ("method", "target", "class", "label", "value", "layer", "diagnosis")}
        sides = dict(zip(("left", "top", "right", "bottom"), box, strict=True))
        rows.append({**picture, **said, "x": x, "y": y, **sides})
    return rows or [{**picture, "diagnosis": result["nothing"]}]

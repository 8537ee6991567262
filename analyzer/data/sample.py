"""One item that a pass processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyzer.errors import InputError
from analyzer.files import content_hash


@dataclass(frozen=True)
class Sample:
    """A picture and its annotations.

    Attributes:
        id: name of the sample in results.
        number: index among all samples of the run; it determines the order of results, and ties go to the first.
        source: file or bytes; or any object that the pass accepts and that has a `content` attribute (a hash).
        annotations: labels, boxes and so on, as plain data.
    """

    id: str
    number: int
    source: Any
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """A hash of the source, without annotations; "" if it cannot be read."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        if not isinstance(self.source, Path):
            return str(self.source.content)
        try:
            return content_hash(self.source)
        except (OSError, InputError):
            return ""

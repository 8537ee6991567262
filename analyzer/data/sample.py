"""One thing that a pass looks at."""

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
    """A picture, and what is known of it.

    Attributes:
        id: what results call it.
        number: its place among all samples of the run, from 0: the order of results, in which ties go to the first.
        source: its file or its bytes; or anything that the pass takes and that has a `content` (a hash) of its own.
        annotations: labels, boxes and the like, as plain data.
    """

    id: str
    number: int
    source: Any
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """A hash of what the sample holds, without annotations; "" where it cannot be read."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        if not isinstance(self.source, Path):
            return str(self.source.content)
        try:
            return content_hash(self.source)
        except (OSError, InputError):
            return ""

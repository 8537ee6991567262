"""One item that a pass processes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analyzer.errors import InputError
from analyzer.files import content_hash
from analyzer.images.sources import Held, Stored


@dataclass(frozen=True, slots=True)
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

    def fetched(self) -> Sample:
        """With the file itself where it is stored elsewhere, so that it is read once.

        Raises:
            InputError: it cannot be read.
        """
        if not isinstance(self.source, Stored):
            return self
        return replace(self, source=Held(str(self.source), self.source.read()))

    @property
    def content(self) -> str:
        """A hash of the source, without annotations; "" if it cannot be read, equal to no other if it may change."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        try:
            return content_hash(self.source) if isinstance(self.source, Path) else str(self.source.content)
        except OSError:
            return ""
        except InputError:
            return secrets.token_hex()

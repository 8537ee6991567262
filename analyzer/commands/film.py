"""Overlays of a video's frames as one video."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.data import Sample


class Film:
    """Where the overlays of frames are kept until all are drawn, in a folder of its own that goes with this object."""

    def __init__(self, out: str, samples: Sequence[Sample]) -> None:
        self.out, self.samples = out, samples
        self.written: str | None = None
        folder = tempfile.mkdtemp(prefix="onnx-analyzer-")
        weakref.finalize(self, shutil.rmtree, folder, True)
        self.places = {s.id: Path(folder) / f"{at:06}.png" for at, s in enumerate(samples)}

    @classmethod
    def of(cls, out: str | None, samples: Sequence[Sample]) -> Film | None:
        """Where `out` is a video's name; None elsewhere.

        Raises:
            InputError: a picture's name for a video's frames, or a video's name for anything else.
        """
        from analyzer.errors import InputError, OutputError
        from analyzer.files import claim
        from analyzer.images.sources import Frame
        from analyzer.images.video import VIDEOS, check_writable
        from analyzer.images.write import FORMATS

        suffix = Path(out).suffix.lower() if out and out != "-" else ""
        films = {s.source.path for s in samples if isinstance(s.source, Frame)}
        if films and suffix in FORMATS:
            raise InputError(
                f"{out}: a single picture cannot have the frames of a video", "write -o out.mp4, or a folder"
            )
        if suffix not in VIDEOS or out is None or Path(out).is_dir():
            return None
        check_writable(out)
        if len(films) != 1 or not all(isinstance(s.source, Frame) for s in samples):
            raise InputError(f"{out}: a video is written of the frames of one video", "give one video, or -o FOLDER")
        if not Path(out).parent.is_dir():
            raise OutputError(f"cannot write {out}: the folder {Path(out).parent} does not exist")
        claim(Path(out))
        return cls(out, samples)

    def write(self, results: Sequence[Mapping[str, Any]], every: int) -> None:
        """The video of all frames that were drawn, at the speed of the one they are from."""
        from analyzer.images.video import video, write_video

        for result in results:
            if isinstance(result, dict):
                result.pop("written", None)
        drawn = [place for place in self.places.values() if place.exists()]
        if not drawn:
            return
        rate = video(self.samples[0].source.path).rate / every
        write_video(self.out, _pictures(drawn), rate)
        self.written = self.out


def _pictures(places: Sequence[Path]) -> Iterator[Any]:
    from analyzer.images import decode

    for place in places:
        yield decode(place)

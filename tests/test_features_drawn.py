"""Which channels of a feature map are drawn, and in which order: against the array itself."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import NotFoundError
from analyzer.report import features
from analyzer.report.features import ChannelDrawing


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        (ChannelDrawing(most=3), [0, 1, 2]),
        (ChannelDrawing((4, 1)), [4, 1]),
        (ChannelDrawing(most=3, strongest=True), [1, 4, 2]),
    ],
)
def test_the_channels_that_are_drawn(monkeypatch, drawing: ChannelDrawing, expected: list[int]) -> None:
    maps = np.zeros((5, 3, 3), np.float32)
    maps[:, 1, 1] = [1, 9, 3, np.nan, 7]
    given = {}
    monkeypatch.setattr(features, "channel_grid", lambda *a, **k: given.update(maps=a[0], labels=a[1], **k))
    drawing.grid(maps, "r")
    assert given["labels"] == expected and given["total"] == 5
    np.testing.assert_array_equal(given["maps"], maps[expected])
    with pytest.raises(NotFoundError, match="no channel 7"):
        ChannelDrawing((7,)).grid(maps, "r")

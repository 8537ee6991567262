"""Large pictures cost little beyond their decoding, with the results that small ones have."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.images import Feeding, Preprocess
from analyzer.images.decode import _eight_bits, _over_white, strips

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("resize", ["resize", "crop", "letterbox", "letterbox-corner"])
@pytest.mark.parametrize("size", [(300, 430), (430, 301), (33, 70), (224, 224)])
@pytest.mark.parametrize("channels", ["RGB"])
def test_the_gray_picture_is_made_small(resize: str, size: tuple[int, int], channels: str) -> None:
    feeding = Feeding.of(Preprocess(size=(224, 192), resize=resize, channels=channels), "x")
    like = feeding.feed(RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
    whole = feeding.feed(np.full((*size, 3), 128, np.uint8)).feeds
    assert all(np.array_equal(feeding.grey(like)[name], array) for name, array in whole.items())


def test_strips_change_no_pixel() -> None:
    deep = RNG.integers(0, 1 << 16, (1500, 700, 4)).astype(np.uint16)
    assert len(strips(deep)) > 3
    eight = _eight_bits(deep, "p")
    assert np.array_equal(eight, ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    alpha = eight[..., 3:].astype(np.uint16)
    assert np.array_equal(
        _over_white(eight, "p"), ((eight[..., 2::-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    )
    assert np.array_equal(
        _over_white(eight, "p", True), np.minimum(eight[..., 2::-1] + (255 - alpha), 255).astype(np.uint8)
    )

"""Drift per node as an overlay of Model Explorer (https://github.com/google-ai-edge/model-explorer): node data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyzer.plain import as_json

BAD, GOOD = "#d73027", "#1a9850"
LEAST, MOST = 0.0, 60.0  # dB that are colored; above, only rounding differs


def node_data(document: Mapping[str, Any]) -> str:
    """SQNR in dB of every layer that was compared, under the names of the reference's tensors, `LEAST` to `MOST`.

    Model Explorer finds a node by the name of a tensor that it makes.
    """
    layers = document["comparison"]["layers"]
    shown = {row["layer"]: {"value": min(max(float(row["sqnr_db"]), LEAST), MOST)} for row in layers}
    gradient = [{"stop": 0, "bgColor": BAD}, {"stop": 1, "bgColor": GOOD}]
    return as_json({"name": "SQNR in dB", "results": shown, "gradient": gradient}, indent=1) + "\n"

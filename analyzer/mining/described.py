"""What was mined, as plain data."""

from __future__ import annotations

from typing import Any

from analyzer.mining.miner import MiningResult
from analyzer.mining.statistics import edges


def describe(result: MiningResult) -> dict[str, Any]:
    """Everything that was found as plain data: per layer and channel the strongest activations and the statistics.

    Positions are flat.
    """
    layers = []
    for layer, ranking in result.rankings.items():
        statistics = result.statistics[layer]
        channels = []
        for channel in range(len(ranking.values)):
            top = [
                {"picture": result.samples[int(i)].id, "position": int(p), "value": float(v)}
                for v, i, p in zip(
                    ranking.values[channel], ranking.images[channel], ranking.places[channel], strict=True
                )
                if i >= 0
            ]
            channels.append(
                {
                    "channel": channel,
                    "top": top,
                    "dead": bool(statistics.dead[channel]),
                    "mean": float(statistics.mean[channel]),
                    "histogram": statistics.histogram[channel].tolist(),
                }
            )
        pairs = [{"channels": [i, j], "correlation": r} for i, j, r in statistics.correlated()]
        layers.append({"layer": layer, "channels": channels, "correlated": pairs})
    failed = [{"picture": name, "error": error.message} for name, error in result.failed.items()]
    not_finite = [{"picture": name, "diagnosis": why} for name, why in result.not_finite.items()]
    about = {"pictures": len(result.samples), "failed": failed, "not_finite": not_finite}
    return {**about, "histogram_edges": edges().tolist(), "layers": layers}

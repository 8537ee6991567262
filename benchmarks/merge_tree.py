"""What merging the results of many workers costs the machine that merges, with workers that die.

    python -m benchmarks.merge_tree [--channels 10000] [--workers 1000] [--batches 20000] [--loss 0.02]

Partial results of `mine` are made up, of one layer with so many channels: 9 activations per channel and batch. Blocks
arrive in an order as workers of different speed finish them; a worker that is lost takes the batch that it was given
with it, and another does that again later. They go through the accumulators and the tree that `passes.run` uses.
Printed are the time per block, the memory, and how many blocks wait at most; the result has to be that of one worker.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from analyzer.mining.ranking import Ranking
from analyzer.mining.statistics import PeakStatistics
from analyzer.passes.codec import encode
from analyzer.passes.tree import Block, Tree, chained

K, PICTURES = 9, 8  # activations that are kept, pictures per batch


def partial(number: int, channels: int) -> dict[str, Any]:
    """What a worker sends for a batch."""
    rng = np.random.default_rng(number)
    values = rng.standard_gamma(1.0, (PICTURES, channels)).astype(np.float32)
    places = rng.integers(0, 196, (PICTURES, channels))
    ranking, statistics = Ranking.empty(channels, K), PeakStatistics.empty(channels)
    ranking.update(values, places, np.arange(number * PICTURES, (number + 1) * PICTURES))
    statistics.update(values, values / 4)
    return {"ranking": vars(ranking), "statistics": vars(statistics)}


def merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    ranking = Ranking(**left["ranking"]).merge(Ranking(**right["ranking"]))
    statistics = PeakStatistics(**left["statistics"]).merge(PeakStatistics(**right["statistics"]))
    return {"ranking": vars(ranking), "statistics": vars(statistics)}


def finished(batches: int, workers: int, loss: float, seed: int) -> Iterator[int | None]:
    """Numbers of batches in the order in which they arrive; None where a worker was lost with one."""
    rng = random.Random(seed)
    speed = [rng.lognormvariate(0, 0.5) for _ in range(workers)]
    left = list(range(batches))[::-1]
    busy = [(rng.random(), worker, left.pop()) for worker in range(min(workers, batches))]
    heapq.heapify(busy)
    while busy:
        now, worker, batch = heapq.heappop(busy)
        if rng.random() < loss:
            left.append(batch)
            yield None
        else:
            yield batch
        if left:
            heapq.heappush(busy, (now + speed[worker] * rng.uniform(0.8, 1.2), worker, left.pop()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--loss", type=float, default=0.02, help="share of batches that are lost with their worker")
    given = parser.parse_args()
    made = [partial(number, given.channels) for number in range(64)]  # made anew, they would cost more than merging
    print(f"one partial result: {len(encode(made[0])) / 1e6:.2f} MB")

    def block(number: int) -> Block:
        one = made[number % len(made)]
        later = (number // len(made)) * len(made) * PICTURES
        ranking = dict(one["ranking"]) | {"images": one["ranking"]["images"] + later}
        return Block(0, number, {"ranking": ranking, "statistics": one["statistics"]}, {}, chained(str(number)))

    def run(order: Iterator[int | None]) -> tuple[bytes, int, int, float]:
        tree, most, lost, spent = Tree(merged), 0, 0, 0.0
        for number in order:
            if number is None:
                lost += 1
                continue
            start = time.process_time()
            tree.add(block(number))
            spent += time.process_time() - start
            most = max(most, len(tree._blocks))
        return encode(tree.total()), most, lost, spent

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, most, lost, spent = run(finished(given.batches, given.workers, given.loss, 0))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    alone = run(iter(range(given.batches)))
    equal = "yes" if found == alone[0] else "NO"
    row = [f"{given.channels:,}", f"{given.workers:,}", f"{given.batches:,}", f"{lost:,}"]
    print("| channels | workers | batches | lost | ms per block | blocks that wait | memory | equal to one worker |")
    print("|---|---|---|---|---|---|---|---|")
    print("|", " | ".join([*row, f"{spent / given.batches * 1e3:.1f}", str(most), f"{grown:.0f} MiB", equal]), "|")


if __name__ == "__main__":
    main()

"""What a kill -9 costs: how much longer a run takes, how many samples are done twice, whether the result differs.

    python -m benchmarks.lost_workers [--samples 2000]

Samples of 10 ms go through worker processes of this machine and through a Ray cluster of a head and two nodes, two at a
time. In the middle a worker process, an actor, a node or the driver is killed; after the driver the same call is made
again. Each step writes the number of its sample to a file, so that what is done twice is counted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analyzer.passes import Loaded, Processes, Ray, run
from tests.numbered import Numbers, numbered

TAKES = 0.01  # seconds of a step


class Counted(Numbers):
    """The numbers of its samples, in order.

    Args:
        log: where each step writes its number. fatal: the step at which a process kills itself, once; -1 for none.
    """

    name = "counted"

    def __init__(self, log: str, fatal: int = -1) -> None:
        self.log, self.fatal = log, fatal

    def step(self, batch: Sequence[Loaded]) -> list[Any]:
        ((_, number),) = batch
        time.sleep(TAKES)
        place = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(place, b"%d\n" % number)
        os.close(place)
        if number == self.fatal and Path(self.log).read_text().split().count(str(number)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(batch)


def driver(log: str, folder: str, count: int, address: str) -> None:
    """Run by a process of its own, to be killed."""
    run(Counted(log), numbered(count), folder, Ray(address, 2) if address else Processes(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    count = parser.parse_args().samples
    print("| engine | killed | seconds | samples done twice | result |\n|---|---|---|---|---|")
    measured("processes", Processes(2), "", count)
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    measured("Ray", Ray(cluster.address, 2), cluster.address, count, lambda: node_killer(cluster))
    ray.shutdown()
    cluster.shutdown()


def node_killer(cluster: Any) -> Callable[[Any, Any], None]:
    """What ends a node of the cluster when the first results come, another one being there for it."""
    node, ended = cluster.add_node(num_cpus=1), list[Any]()

    def kill(partial: Any, failed: Any) -> None:
        if not ended:
            ended.append(cluster.remove_node(node, allow_graceful=False))

    return kill


def measured(
    engine: str, workers: Processes | Ray, address: str, count: int, node: Callable[[], Any] | None = None
) -> None:
    """Prints a row for each thing that is killed."""
    fatal = count // 2

    def once(killed: str, work: Callable[[str, str], Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = f"{folder}/log"
            start = time.perf_counter()
            done = work(log, folder)
            took = time.perf_counter() - start
            twice = sum(times - 1 for times in Counter(Path(log).read_text().split()).values())
            same = "the same" if done.result == list(range(count)) else "differs"
            print(f"| {engine} | {killed} | {took:.1f} | {twice} | {same} |", flush=True)

    def killed_driver(log: str, folder: str) -> Any:
        script = f"from benchmarks.lost_workers import driver; driver({log!r}, {folder!r}, {count}, {address!r})"
        process = subprocess.Popen([sys.executable, "-c", script])
        while not Path(log).exists() or len(Path(log).read_text().split()) < fatal:
            time.sleep(0.05)
        process.kill()
        process.wait()
        return run(Counted(log), numbered(count), folder, workers)

    once("nothing", lambda log, folder: run(Counted(log), numbered(count), folder, workers))
    what = "a process" if engine == "processes" else "an actor"
    once(what, lambda log, folder: run(Counted(log, fatal), numbered(count), folder, workers))
    if node is not None:
        once("a node", lambda log, folder: run(Counted(log), numbered(count), folder, workers, each=node()))
    once("the driver", killed_driver)


if __name__ == "__main__":
    from benchmarks import lost_workers  # not this module: other processes import the pass

    lost_workers.main()

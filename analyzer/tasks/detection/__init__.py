"""Detection: boxes with a class and a score. One file per family of formats; see `families`."""

from analyzer.tasks.detection.task import Detection

__all__ = ["Detection"]

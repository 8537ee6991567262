"""Keypoints as a task: poses, hands and faces, from models that find one of them in a picture."""

from analyzer.tasks.keypoints.formats import found_in
from analyzer.tasks.keypoints.task import Keypoints, Landmarks

__all__ = ["Keypoints", "Landmarks", "found_in"]

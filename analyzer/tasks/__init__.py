"""Tasks: what the outputs of a model mean. One file per kind; `recognise` chooses."""

from analyzer.tasks.base import Agreement, Prediction, Role, Task
from analyzer.tasks.recognise import KINDS, Declared, recognise, task_from

__all__ = ["KINDS", "Agreement", "Declared", "Prediction", "Role", "Task", "recognise", "task_from"]

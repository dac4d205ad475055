"""What can be predicted: a task is one entry here."""

from utils.tasks.sentiment import SENTIMENT
from utils.tasks.task import Measure, Scores, Task

TASKS = {task.name: task for task in (SENTIMENT,)}

__all__ = ["SENTIMENT", "TASKS", "Measure", "Scores", "Task"]

"""The tasks: what can be predicted. A new task is one entry in TASKS."""

from utils.tasks.emotion import EMOTION
from utils.tasks.sentiment import SENTIMENT, SIMS_SENTIMENT
from utils.tasks.task import LOSSES, Measure, Scores, Task

# By the task's name, then by the dataset whose scores it has (a name in `data.labels.SCALES`).
TASKS = {
    "sentiment": {"mosei": SENTIMENT, "mosi": SENTIMENT, "sims": SIMS_SENTIMENT},
    "emotion": {"mosei": EMOTION},
}

__all__ = ["EMOTION", "LOSSES", "SENTIMENT", "SIMS_SENTIMENT", "TASKS", "Measure", "Scores", "Task"]

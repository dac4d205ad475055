"""What can be predicted: a task is one entry here."""

from utils.tasks.emotion import EMOTION
from utils.tasks.sentiment import SENTIMENT, SIMS_SENTIMENT
from utils.tasks.task import LOSSES, Measure, Scores, Task

# By name, and by the dataset whose scores are asked for (a name of `data.labels.SCALES`).
TASKS = {
    "sentiment": {"mosei": SENTIMENT, "mosi": SENTIMENT, "sims": SIMS_SENTIMENT},
    "emotion": {"mosei": EMOTION},
}

__all__ = ["EMOTION", "LOSSES", "SENTIMENT", "SIMS_SENTIMENT", "TASKS", "Measure", "Scores", "Task"]

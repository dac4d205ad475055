"""The CMU server's files of each dataset, their widths, and the standard folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CMU_HOST = "http://immortal.multicomp.cs.cmu.edu"

_FOLDS = Path(__file__).parent.parent / "standard_folds"


@dataclass(frozen=True)
class SequenceFile:
    """One computational sequence of a dataset."""

    server_path: str  # below the server's root
    width: int  # features a row on the server; a user's own file may have others

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.server_path).name


@dataclass(frozen=True)
class Dataset:
    """The four sequences of a dataset and its standard folds."""

    name: str  # also of its label scale in `data.labels.SCALES`
    title: str
    sequences: dict[str, SequenceFile]  # words, visual, audio, labels (a row a segment)
    folds: Path


MOSEI = Dataset(
    name="mosei",
    title="CMU-MOSEI",
    sequences={
        "words": SequenceFile("CMU-MOSEI/language/CMU_MOSEI_TimestampedWords.csd", 1),
        "visual": SequenceFile("CMU-MOSEI/visual/CMU_MOSEI_VisualFacet42.csd", 35),
        "audio": SequenceFile("CMU-MOSEI/acoustic/CMU_MOSEI_COVAREP.csd", 74),
        "labels": SequenceFile("CMU-MOSEI/labels/CMU_MOSEI_Labels.csd", 7),
    },
    folds=_FOLDS / "mosei.json",
)

MOSI = Dataset(
    name="mosi",
    title="CMU-MOSI",
    sequences={
        "words": SequenceFile("CMU-MOSI/language/CMU_MOSI_TimestampedWords.csd", 1),
        "visual": SequenceFile("CMU-MOSI/visual/CMU_MOSI_Visual_Facet_41.csd", 47),
        "audio": SequenceFile("CMU-MOSI/acoustic/CMU_MOSI_COVAREP.csd", 74),
        "labels": SequenceFile("CMU-MOSI/labels/CMU_MOSI_Opinion_Labels.csd", 1),
    },
    folds=_FOLDS / "mosi.json",
)

DATASETS = {dataset.name: dataset for dataset in (MOSEI, MOSI)}
DATASET_NAMES = (*DATASETS, "sims")  # the last exists as a pickle only

"""What a preparation is asked for: which alignment of which files, with which text features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.layout import alignment_folder
from data.preparing.pickle_source import PickleSource
from data.preparing.sources import CsdSource
from data.text.description import bert_facts, is_same_text

DataSource = CsdSource | PickleSource


@dataclass(frozen=True)
class TextRequest:
    """Which text features to make."""

    bert: str  # a folder, or a name on the Hugging Face hub
    precision: str
    device: str

    @cached_property  # the weights are hashed once
    def _description(self) -> dict[str, Any]:
        return {**bert_facts(self.bert), "precision": self.precision}

    def is_met_by(self, text: dict[str, Any] | None) -> bool:
        """Tell whether the text features that a manifest describes are these."""
        return text is not None and is_same_text(text, self._description)


@dataclass(frozen=True)
class Request:
    """What to prepare."""

    datadir: Path
    alignment: str
    source: DataSource
    text: TextRequest | None  # None: compute no text features
    is_forced: bool = False  # make everything again

    @property
    def folder(self) -> Path:
        """The folder of the splits."""
        return alignment_folder(self.datadir, self.alignment)

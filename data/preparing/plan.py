"""Deciding what a preparation has to do, from what exists and what is requested."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from data.fetching.demo import DEMO
from data.layout import (
    ALIGNMENT_NAMES,
    ARRAY_FILES,
    PIECES_FILE,
    SEGMENTS_FILE,
    STAGE,
    TEXT_FILE,
    alignment_folder,
    refuse_foreign_arrays,
)
from data.manifest import MOVING, has_text_of_bert, is_unchanged, read_manifest, splits_of
from data.preparing.pickle_source import PickleSource
from data.preparing.prepared import Prepared
from data.preparing.request import DataSource, Request
from data.preparing.sources import CsdSource
from data.text.bert_files import check_bert
from system.errors import InputError


class Arrays(Enum):
    """What happens to audio, visual, labels and segment tables."""

    KEEP = "keep"
    RESUME = "take from the interrupted run"
    MAKE = "make"


class Text(Enum):
    """What happens to the text features."""

    KEEP = "keep"  # or leave out, if there are none and none are requested
    KEEP_IF_SAME = "keep where the sentences stay the same"
    ENCODE = "encode"
    # Where the file has yet to be read:
    TAKE_OWN = "take the file's own, if it has some"
    ENCODE_IF_MISSING = "take the file's own, or encode"


@dataclass(frozen=True)
class Plan:
    """What a preparation will do to one alignment."""

    request: Request
    ends_move: bool  # first complete an interrupted move into place
    prepared: Prepared | None  # what is in place after that
    staged: dict[str, Any] | None  # the manifest of an interrupted preparation
    arrays: Arrays
    text: Text = Text.KEEP
    adds_pieces: bool = False  # to text features that are kept
    same_text: tuple[Prepared, ...] = ()  # alignments that have text features of this kind
    files_are_there: bool = True  # those of the source

    @property
    def stage(self) -> Path:
        """The folder in which new files are made."""
        return self.request.folder / STAGE

    @property
    def in_place(self) -> Prepared:
        """`prepared`, in a plan where it is not None."""
        assert self.prepared is not None
        return self.prepared

    @property
    def is_done(self) -> bool:
        """Tell whether everything requested is in place."""
        return self.arrays is Arrays.KEEP and self.text is Text.KEEP and not self.adds_pieces

    @property
    def arrays_manifest(self) -> dict[str, Any] | None:
        """The manifest of the arrays that are kept or resumed; None if they are not made yet."""
        if self.arrays is Arrays.KEEP:
            return self.in_place.manifest
        return self.staged if self.arrays is Arrays.RESUME else None

    @property
    def arrays_folder(self) -> Path:
        """The folder whose splits have the arrays, once they are made."""
        return self.request.folder if self.arrays is Arrays.KEEP else self.stage


def decide_all(requests: Sequence[Request], files_are_there: bool) -> list[Plan]:
    """Return a plan for each request; raises InputError for what would only fail after hours.

    Without `files_are_there`, some files of the sources are missing so far.
    """
    plans = [decide(request, files_are_there) for request in requests]
    text, title = requests[0].text, requests[0].source.title
    if text is not None and any(plan.text is Text.ENCODE for plan in plans):
        if files_are_there or title != DEMO.title:  # the demo's BERT is written with its files
            check_bert(text.bert)
        if text.device.startswith("cuda"):
            from system.devices import pick_device  # PyTorch, slow to import

            pick_device(text.device)
    return plans


def decide(request: Request, files_are_there: bool = True) -> Plan:
    """Compare what is in place with the request, and return what has to be done.

    Nothing is written. Without `files_are_there`, some of the source's files are missing so far.
    Raises InputError if another dataset, or another program's arrays, would be replaced, or if the
    stage is a link: it is removed in the end, which would leave what it leads to.
    """
    folder = request.folder
    if (folder / STAGE).is_symlink():
        raise InputError(
            f"{folder / STAGE} is a symbolic link, expected a folder of this program's own; "
            "remove the link, and prepare again."
        )
    staged, manifest = _read_sound_manifest(folder / STAGE), read_manifest(folder)
    if staged is not None and "files" not in staged:  # it cannot be continued
        staged = None
    ends_move = staged is not None and bool(staged.pop(MOVING, False))
    if ends_move:
        staged, manifest = None, staged
    prepared = None if manifest is None else Prepared(folder, manifest, ends_move)
    if manifest is not None:
        _refuse_another_dataset(request, manifest["made_from"], files_are_there)
    if prepared is not None:
        request = _keep_text_of_bert(request, prepared)
    source = request.source
    makes_all = request.is_forced or not files_are_there
    arrays = Arrays.MAKE if makes_all else _decide_arrays(source, prepared, folder / STAGE, staged)
    if arrays is not Arrays.KEEP:
        refuse_foreign_arrays(folder, () if manifest is None else splits_of(manifest))
    plan = Plan(request, ends_move, prepared, staged, arrays, files_are_there=files_are_there)
    plan = replace(plan, text=_decide_text(plan))
    if plan.text is Text.KEEP:
        return replace(plan, adds_pieces=_lacks_pieces(plan))
    if plan.text in (Text.KEEP_IF_SAME, Text.TAKE_OWN) or request.is_forced:
        return plan
    return replace(plan, same_text=tuple(_same_text(plan)))


def _refuse_another_dataset(
    request: Request, made_from: dict[str, Any], files_are_there: bool
) -> None:
    """Raise InputError if the request would replace another dataset; the path may be mistyped."""
    title, alignment = made_from.get("dataset"), made_from.get("alignment")
    if title != request.source.title:
        if files_are_there:
            _ = request.source.made_from  # tells a missing file, which may be the mistyped path
        raise InputError(
            f"{request.folder} holds {title}, this would replace it by {request.source.title}; "
            "give another --datadir, or move the splits and dataset.json away."
        )
    is_csd = isinstance(request.source, CsdSource)
    if is_csd and not request.is_forced and alignment not in (None, request.alignment):
        raise InputError(
            f"{request.folder} holds the alignment {alignment}, this would replace it by "
            f"{request.alignment}; give another --datadir (to prepare {alignment}, the folder "
            f"above and --alignment {alignment}), or --force to replace it."
        )


def _keep_text_of_bert(request: Request, prepared: Prepared) -> Request:
    """Return a request without text so that a pickle's own does not replace a BERT's in place.

    Nor does it where a BERT's was left out, of other sentences: the same command would add it.
    """
    source, manifest = request.source, prepared.manifest
    if request.text is not None or not isinstance(source, PickleSource):
        return request
    is_of_bert = manifest["text"] is None or _has_whole_text_of_bert(prepared)
    if manifest["made_from"].get("uses_own_text") is not False or not is_of_bert:
        return request
    advice = "leave out --no_bert to take the file's own features"
    return replace(request, source=replace(source, uses_own_text=False, advice=advice))


def _has_whole_text_of_bert(prepared: Prepared) -> bool:
    """Tell whether text features that a BERT computed are in place, and whole."""
    return has_text_of_bert(prepared.manifest) and prepared.is_whole([TEXT_FILE])


def _decide_arrays(
    source: DataSource, prepared: Prepared | None, stage: Path, staged: dict[str, Any] | None
) -> Arrays:
    made_from = source.made_from
    if prepared is not None and prepared.manifest["made_from"] == made_from:
        needed = [*ARRAY_FILES.values(), SEGMENTS_FILE]
        if source.uses_own_text and prepared.manifest["text"] is not None:
            needed.append(TEXT_FILE)
        splits = splits_of(prepared.manifest)
        if prepared.is_whole(needed) and not any(map(prepared.lacks_own_pieces, splits)):
            return Arrays.KEEP
    if staged is not None and staged["made_from"] == made_from and _is_staged(stage, staged):
        return Arrays.RESUME
    return Arrays.MAKE


def _is_staged(stage: Path, staged: dict[str, Any]) -> bool:
    """Tell whether an interrupted preparation left all arrays as it wrote them."""
    files, names = staged["files"], [*ARRAY_FILES.values(), SEGMENTS_FILE]
    needed = {f"{split}/{name}" for split in splits_of(staged) for name in names}
    return bool(needed) and all(is_unchanged(files, stage, name) for name in needed | files.keys())


def _read_sound_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in `folder`, None if there is none or it is damaged."""
    try:
        return read_manifest(folder)
    except InputError:
        return None


def _decide_text(plan: Plan) -> Text:
    request, manifest = plan.request, plan.arrays_manifest
    text = None if manifest is None else manifest["text"]
    if request.source.uses_own_text:
        if text is not None:
            return Text.KEEP
        if request.text is not None:
            return Text.ENCODE_IF_MISSING if manifest is None else Text.ENCODE
        if manifest is None and not (plan.prepared and _has_whole_text_of_bert(plan.prepared)):
            return Text.TAKE_OWN
    if request.text is None:
        return Text.KEEP if plan.arrays is Arrays.KEEP else Text.KEEP_IF_SAME
    is_met = request.text.is_met_by(text) and plan.arrays is Arrays.KEEP
    return Text.KEEP if is_met and plan.in_place.is_whole([TEXT_FILE]) else Text.ENCODE


def _lacks_pieces(plan: Plan) -> bool:
    """Tell whether kept text features lack word pieces, which earlier versions did not write."""
    text = plan.request.text
    if text is None or plan.arrays is not Arrays.KEEP:
        return False
    is_by_bert = text.is_met_by(plan.in_place.manifest["text"])
    return is_by_bert and not plan.in_place.is_whole([PIECES_FILE])


def _same_text(plan: Plan) -> Iterable[Prepared]:
    """Find the alignments that have text features of the requested kind."""
    per, text = "word" if plan.request.source.is_by_word else "position", plan.request.text
    for alignment in ALIGNMENT_NAMES:
        prepared = plan.prepared
        if alignment != plan.request.alignment:
            folder = alignment_folder(plan.request.datadir, alignment)
            manifest = _read_sound_manifest(folder)
            prepared = None if manifest is None else Prepared(folder, manifest)
        if text is None or prepared is None or not text.is_met_by(prepared.manifest["text"]):
            continue
        if prepared.manifest["text"].get("per") == per and prepared.is_whole([TEXT_FILE]):
            yield prepared

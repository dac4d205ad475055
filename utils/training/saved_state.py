"""What a training saves, and how it goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.loading.options import LoaderOptions
from data.text.pieces import vocabulary_digest
from models.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from models.text_encoder import TextEncoder, text_encoder_of
from system.console import print_line
from system.errors import InputError, differing, first_line
from system.weights import check_weights
from utils.run_config import RunConfig
from utils.training.history import Epoch
from utils.training.run_folder import BEST, LAST, epoch_file
from utils.training.state_check import check_progress, check_step
from utils.training.step import TrainingStep

_MUST_MATCH = (
    *("alignment", "task", "model", "loss", "lr", "batch_size", "scheduler", "weight_decay"),
    *("grad_clip", "accumulation_steps", "seed", "precision"),
)
_OF_A_TEXT_ENCODER = ("bert_lr", "bert_weight_decay", "bert_warmup", "freeze_layers")
_OF_A_SCHEDULE = {"cosine": ("epochs",), "plateau": ("plateau_factor", "plateau_patience")}
_LONGEST_QUOTE = 300


@dataclass
class TrainingState:
    """How far a training is: its epochs, and what the steps of the one under way gave."""

    epochs: list[Epoch] = field(default_factory=list)  # those that are over
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 1  # the one under way
    step: int = 0  # steps taken in it
    predicted: list[Tensor] = field(default_factory=list)  # this process's, by step
    not_finite: int = 0  # input values read as 0, this process's

    def begin_epoch(self, number: int) -> None:
        """Go on to an epoch."""
        self.epoch, self.step, self.predicted, self.not_finite = number, 0, [], 0


class TrainingSaver:
    """Writes a training's checkpoints into its folder, and reads the one that it goes on from.

    `data` says which dataset it is.
    """

    def __init__(
        self, step: TrainingStep, config: RunConfig, options: LoaderOptions, data: Mapping[str, Any]
    ) -> None:
        self._step, self._config, self._options, self._data = step, config, options, data

    def save_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the epoch's checkpoint, and `best.pth` when it is the best so far."""
        details: dict[str, Any] = {"epoch": epoch.number, "scores": epoch.scores}
        if text_encoder_of(self._step.model) is None:  # or it would be three times as large
            details["optimizer_state_dict"] = self._step.state_dict()["optimizer"]
        for name in [epoch_file(epoch.number)] + [BEST] * is_best:
            self._write(name, details)

    def save_best(self, epoch: Epoch) -> None:
        """Write `best.pth` once the model has the weights of that epoch."""
        self._write(BEST, {"epoch": epoch.number, "scores": epoch.scores})

    def save_last(self, state: TrainingState) -> None:
        """Write all that the training needs to go on; every process takes part."""
        content = self._plain_state(state)
        if self._options.processes.is_first:
            self._write(LAST, {"training": content})

    def _write(self, name: str, details: Mapping[str, Any]) -> None:
        config, path = self._config, self._config.checkpointdir / name
        about_run = {"task": config.task, "run": config.outcome, "dataset": dict(self._data)}
        write_checkpoint(path, self._step.model, config.model_name, **about_run, **details)

    def _plain_state(self, state: TrainingState) -> dict[str, Any]:
        gather = self._options.processes.gather
        empty = torch.empty(0, self._step.model.outputs)
        return {
            "must_match": self._must_match(),
            "epoch": state.epoch,
            "step": state.step,
            "predicted": gather(torch.cat([empty, *(part.cpu() for part in state.predicted)])),
            "not_finite": gather(state.not_finite),
            "epochs": [asdict(epoch) for epoch in state.epochs],
            **self._step.state_dict(),
            "random": gather(_random_state(self._options.device)),
            "best_weights": state.best_weights,
        }

    def _must_match(self) -> dict[str, Any]:
        """Return what has to be the same for a training to go on."""
        config = self._config
        names = _MUST_MATCH + _OF_A_SCHEDULE.get(config.scheduler, ())
        digests, pieces = self._data["digests"], self._data.get("pieces", {})
        encoder = text_encoder_of(self._step.model)
        if encoder is not None:
            names += _OF_A_TEXT_ENCODER
        return {
            **{name: getattr(config, name) for name in names},
            "model settings": asdict(self._step.model.config),
            "text encoder": None if encoder is None else _described(encoder),
            "processes": self._options.processes.count,
            **{f"{split} data of digest": digest[:12] for split, digest in digests.items()},
            **{f"{split} word pieces of digest": x[:12] for split, x in pieces.items()},
        }

    def _with_defaults(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Add the settings that there were not when a file was written, at their defaults."""
        complete = {**vars(RunConfig()), "text encoder": None, **found}
        settings = found.get("model settings")
        if isinstance(settings, dict):
            defaults = asdict(type(self._step.model.config)())
            complete["model settings"] = {**defaults, **settings}
        return complete

    def resume(self, path: Path, segments: int) -> TrainingState:
        """Return the training that `path` holds, and set model, optimizer and generators to it.

        An epoch has `segments` segments. Raises InputError when the file holds no such training,
        one of other data or settings, or a damaged one.
        """
        checkpoint = read_checkpoint(path)
        content = checkpoint.details.get("training")
        if not isinstance(content, dict) or not isinstance(content.get("must_match"), dict):
            raise InputError(
                f"{path} holds weights, but no training to go on with; give {LAST}, or start from "
                "these weights with --checkpoint."
            )
        try:
            self._check(checkpoint, content, segments)
            self._step.load_state_dict(content)
            rank, device = self._options.processes.rank, self._options.device
            state = content["random"][rank]
            torch.set_rng_state(state["cpu"])
            if device.type == "cuda" and "cuda" in state:
                torch.cuda.set_rng_state(state["cuda"], device)
        except InputError:
            raise
        except Exception as error:  # what a damaged file holds can fail in any way
            raise InputError(
                f"{path}: the training that it holds is damaged ({first_line(error)}); resume from "
                "a copy of it, or start from its weights with --checkpoint."
            ) from error
        load_weights(self._step.model, checkpoint.weights, path)
        print_line(f"Resumed from {path}: epoch {content['epoch']}, step {content['step']}")
        return TrainingState(
            epochs=[Epoch(**epoch) for epoch in content["epochs"]],
            best_weights=content["best_weights"],
            epoch=content["epoch"],
            step=content["step"],
            predicted=[content["predicted"][rank].to(device)],
            not_finite=content["not_finite"][rank],
        )

    def _check(self, checkpoint: Checkpoint, content: Mapping[str, Any], segments: int) -> None:
        """Raise InputError, or any error of a damaged value, where the two trainings differ."""
        model, path = self._step.model, checkpoint.path
        found = self._with_defaults(content["must_match"])
        for name, value in self._must_match().items():
            before = found.get(name)
            if type(before) is not type(value) or before != value:
                was, this = differing(before, value)
                raise InputError(
                    f"{path} was trained with {name} {was[:_LONGEST_QUOTE]}, this is "
                    f"{this}; resume with the same settings and data, or train anew in another "
                    "--checkpointdir."
                )
        settings = {**asdict(type(model.config)()), **checkpoint.config}
        written = settings, checkpoint.widths, checkpoint.outputs
        if written != (asdict(model.config), dict(model.widths), model.outputs):
            raise ValueError("its sizes are not those of its training")
        processes = self._options.processes.count
        check_progress(content, self._step.task, self._config.batch_size, segments, processes)
        check_step(content, self._step)
        check_weights(model, checkpoint.weights, path)
        if content["epochs"]:
            check_weights(model, content["best_weights"], f"{path}: best_weights")


def _described(encoder: TextEncoder) -> dict[str, Any]:
    """Return where a text encoder began, and what tells it from others."""
    vocabulary = vocabulary_digest(encoder.vocabulary)[:12]
    return {"origin": encoder.origin, "vocabulary": vocabulary, **asdict(encoder.config)}


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of PyTorch's generators, which the dropout of most models draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state

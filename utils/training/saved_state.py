"""Saves the state of a training, and restores it to resume."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.text.pieces import vocabulary_digest
from models.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from models.registry import model_digest
from models.text_encoder import text_encoder_of
from system.config import make_config, settings_of
from system.console import print_line
from system.errors import InputError, differing, first_line, shown
from system.files import whole_digest
from system.weights import check_weights
from utils.run_config import RunConfig
from utils.tasks import TASKS
from utils.training.history import Epoch
from utils.training.run_folder import BEST, LAST, epoch_file
from utils.training.state_check import check_progress, check_step
from utils.training.step import TrainingStep

_MUST_MATCH = (
    *("alignment", "task", "model", "lr", "batch_size", "scheduler", "weight_decay"),
    *("grad_clip", "accumulation_steps", "seed", "precision"),
)
_MUST_MATCH_WITH_TEXT_ENCODER = ("bert_lr", "bert_weight_decay", "bert_warmup", "freeze_layers")
_MUST_MATCH_BY_SCHEDULE = {"cosine": ("epochs",), "plateau": ("plateau_factor", "plateau_patience")}
_MAY_DIFFER = ("epochs", "patience")  # where a training ends, which a longer one may move
_START = "starting checkpoint of digest"
_MODEL_FILE = "model file of digest"  # of a user's own model
_MAX_QUOTE_LENGTH = 300


@dataclass
class TrainingState:
    """The progress of a training: its complete epochs, and the current one's steps so far."""

    epochs: list[Epoch] = field(default_factory=list)  # complete ones
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 1  # the current one
    step: int = 0  # steps taken in the current epoch
    predicted: list[Tensor] = field(default_factory=list)  # by this process, one tensor a step
    not_finite: int = 0  # input values that this process read as 0

    def begin_epoch(self, number: int) -> None:
        """Set the state to the start of an epoch."""
        self.epoch, self.step, self.predicted, self.not_finite = number, 0, [], 0


class TrainingSaver:
    """Writes a training's checkpoints into its folder, and reads the one to resume from.

    `data` describes the dataset, as `describe_data` returns it.
    """

    def __init__(self, step: TrainingStep, data: Mapping[str, Any]) -> None:
        self._step, self._config, self._options, self._data = step, step.config, step.options, data
        # The digest of the checkpoint that the training starts from, which may be replaced later.
        start = step.config.checkpoint
        self.start = None if start is None else whole_digest(start)
        self.model_file = model_digest(step.config.model_name)  # of the file as it is now, too
        self._best_saved: int | None = None  # the epoch of `best.pth`, if this process wrote it

    def save_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the epoch's checkpoint, and `best.pth` when it is the best so far."""
        details: dict[str, Any] = {"epoch": epoch.number, "scores": epoch.scores}
        if text_encoder_of(self._step.model) is None:  # or it would be three times as large
            details["optimizer_state_dict"] = self._step.state_dict()["optimizer"]
        self._write(epoch_file(epoch.number), details)
        if is_best:
            self._write_best(details)

    def save_best(self, epoch: Epoch) -> None:
        """Write `best.pth` of the epoch whose weights the model has now."""
        self._write_best({"epoch": epoch.number, "scores": epoch.scores})

    def _write_best(self, details: Mapping[str, Any]) -> None:
        self._write(BEST, details)
        self._best_saved = details["epoch"]

    def has_best(self, epoch: Epoch) -> bool:
        """Tell whether `best.pth` is of this epoch and has the weights that the model has now."""
        path = self._config.checkpointdir / BEST
        if self._best_saved == epoch.number and path.is_file():  # it may have been removed since
            return True
        try:
            saved = read_checkpoint(path)
        except InputError:
            return False
        weights, now = saved.weights.values(), self._step.model.state_dict().values()
        is_same = len(weights) == len(now) and all(
            torch.equal(weight, value.cpu()) for weight, value in zip(weights, now, strict=True)
        )
        return is_same and saved.details.get("epoch") == epoch.number

    def save_last(self, state: TrainingState) -> None:
        """Write all that is needed to resume the training; every process must call this."""
        content = self._plain_state(state)
        if self._options.processes.is_first:
            self._write(LAST, {"training": content})

    def _write(self, name: str, details: Mapping[str, Any]) -> None:
        config, path = self._config, self._config.checkpointdir / name
        origin = {"task": config.task, "run": config.outcome, "dataset": dict(self._data)}
        write_checkpoint(path, self._step.model, config.model_name, **origin, **details)

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
        """Return the settings and data that must be the same when a training is resumed."""
        config = self._config
        names = _MUST_MATCH + _MUST_MATCH_BY_SCHEDULE.get(config.scheduler, ())
        digests, pieces = self._data["digests"], self._data.get("pieces", {})
        encoder, encoder_facts = text_encoder_of(self._step.model), None
        if encoder is not None:
            names += _MUST_MATCH_WITH_TEXT_ENCODER
            vocabulary = vocabulary_digest(encoder.vocabulary)[:12]
            encoder_facts = {"origin": encoder.origin, "vocabulary": vocabulary}
            encoder_facts |= asdict(encoder.config)
        return {
            **{name: getattr(config, name) for name in names},
            "loss": config.loss or self._default_loss,
            "model settings": settings_of(self._step.model.config),
            "text encoder": encoder_facts,
            "processes": self._options.processes.count,
            _START: _short(self.start),
            _MODEL_FILE: _short(self.model_file),
            **{f"{split} data of digest": digest[:12] for split, digest in digests.items()},
            **{f"{split} word pieces of digest": x[:12] for split, x in pieces.items()},
        }

    @property
    def _default_loss(self) -> str:
        """The task's loss where no option names one; it does not depend on the labels' scale."""
        return next(iter(TASKS[self._config.task_name].values())).loss_name

    def _with_defaults(self, saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Add the defaults of settings that did not exist yet when the file was written."""
        now = self._must_match()
        unknown = {name: now[name] for name in (_START, _MODEL_FILE)}  # older files lack them
        complete = {**vars(RunConfig()), "text encoder": None, **unknown, **saved}
        complete["loss"] = complete["loss"] or self._default_loss  # as older files have it
        settings = saved.get("model settings")
        if isinstance(settings, dict):
            with suppress(InputError):  # of another model: told as such where the two are compared
                complete["model settings"] = self._settings_of(settings, path)
        return complete

    def _settings_of(self, saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return all of the model's settings, as they are read from a checkpoint's config."""
        return settings_of(make_config(type(self._step.model.config), saved, str(path)))

    def resume(self, path: Path, segments: int) -> TrainingState:
        """Return the training state in `path`, and restore model, optimizer and random generators.

        An epoch has `segments` segments. Raises InputError when the file holds no training, one
        with other data or settings, or a damaged one.
        """
        checkpoint = read_checkpoint(path)
        content = checkpoint.details.get("training")
        if not isinstance(content, dict) or not isinstance(content.get("must_match"), dict):
            raise InputError(
                f"{path} holds weights, but no training to resume; give {LAST}, or start a new "
                "training from these weights with --checkpoint."
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
        except Exception as error:  # damaged content can raise anything
            raise InputError(
                f"{path}: the saved training is damaged ({first_line(error)}); resume from a copy "
                "of the file, or start from its weights with --checkpoint."
            ) from error
        load_weights(self._step.model, checkpoint.weights, path)
        print_line(f"Resumed from {path}: epoch {content['epoch']}, step {content['step']}")
        self._print_changes(checkpoint.details.get("run"))
        return TrainingState(
            epochs=[Epoch(**epoch) for epoch in content["epochs"]],
            best_weights=content["best_weights"],
            epoch=content["epoch"],
            step=content["step"],
            predicted=[content["predicted"][rank].to(device)],
            not_finite=content["not_finite"][rank],
        )

    def _print_changes(self, before: Any) -> None:
        """Print which settings, of those that need not match, `before` has other values of."""
        saved = before if isinstance(before, dict) else {}  # as older files do not say it
        values = [
            (name, shown(saved[name]), shown(getattr(self._config, name)))
            for name in _MAY_DIFFER
            if name in saved
        ]
        changes = [f"--{name} was {was}, now {this}" for name, was, this in values if was != this]
        if changes:
            print_line(f"Other settings than before: {'; '.join(changes)}")

    def _check(self, checkpoint: Checkpoint, content: Mapping[str, Any], segments: int) -> None:
        """Raise InputError if the two trainings differ, or any error where a value is damaged."""
        model, path = self._step.model, checkpoint.path
        saved = self._with_defaults(content["must_match"], path)
        for name, value in self._must_match().items():
            before = saved.get(name)
            if type(before) is not type(value) or before != value:
                was, this = differing(before, value)
                raise InputError(
                    f"{path} was trained with {name} {was[:_MAX_QUOTE_LENGTH]}, this is "
                    f"{this}; resume with the same settings and data, or train anew in another "
                    "--checkpointdir."
                )
        settings = self._settings_of(checkpoint.config, path)
        saved_model = settings, checkpoint.widths, checkpoint.outputs
        if saved_model != (settings_of(model.config), dict(model.widths), model.outputs):
            raise ValueError("its sizes are not those of its training")
        check_progress(content, self._step, segments)
        check_step(content, self._step)
        check_weights(model, checkpoint.weights, path)
        if content["epochs"]:
            check_weights(model, content["best_weights"], f"{path}: best_weights")


def _short(digest: str | None) -> str:
    """Return a digest as messages show it."""
    return "none" if digest is None else digest[:12]


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of PyTorch's random generators, which most models' dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state

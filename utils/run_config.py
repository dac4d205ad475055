"""The configuration of a run: every setting that decides what a run does is defined here, once.

The command line is built from it; `run.json` and checkpoints store it. It imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.layout import ALIGNMENT_NAMES, alignment_folder
from system.argument_types import (
    OneOf,
    device_name,
    file_path,
    name_or_path,
    number_from_zero,
    positive_number,
    share_below_one,
    some_text,
    truth_value,
    whole_number,
)
from system.config import CheckedConfig, make_config, plain_values, setting
from system.devices import PRECISIONS
from system.errors import InputError
from system.files import not_a_file, read_json

AS_PREPARED = "auto"  # for --finetune_bert: the BERT that encoded the text
DEFAULT_MODEL, DEFAULT_TASK = "nhfnet", "sentiment"
TEXT_ENCODER_SETTINGS = (  # without effect unless a text encoder is fine-tuned
    *("bert_lr", "bert_weight_decay", "bert_warmup"),
    *("freeze_layers", "gradient_checkpointing"),
)
TRAINING_SETTINGS = (  # without effect on an evaluation, as those of TEXT_ENCODER_SETTINGS are
    *("loss", "lr", "epochs", "weight_decay", "grad_clip", "patience", "accumulation_steps"),
    *("scheduler", "plateau_factor", "plateau_patience", "save_every"),
)
MACHINE_SETTINGS = ("device", "num_workers", "native", "compile")  # not part of an experiment
SCHEDULES = ("none", "plateau", "cosine")
LOSSES = ("mse", "l1")
MAX_WORKERS = 256  # more would only take memory
MAX_SEED = 2**32 - 1
MAX_RESAMPLES = 100_000  # more would only take memory

_count = whole_number(1)


@dataclass(frozen=True)
class RunConfig(CheckedConfig):
    """Settings of a run, with the command line's defaults; raises ValueError for an invalid one."""

    # data
    datadir: Path = setting(Path("CMU_MOSEI"), file_path, "the folder of the prepared dataset")
    alignment: str = setting(
        ALIGNMENT_NAMES[0], OneOf(*ALIGNMENT_NAMES), "the prepared alignment to use"
    )
    task: str | None = setting(
        None, some_text, f"what to predict (default: the checkpoint's, else {DEFAULT_TASK})"
    )
    # model
    model: str | None = setting(
        None,
        name_or_path,
        "a name that --models lists, or your own class as FILE.py:CLASS "
        f"(default: the checkpoint's, else {DEFAULT_MODEL})",
    )
    set: dict[str, Any] = field(
        default_factory=dict,
        metadata={"meaning": "settings of the model, as --models lists them"},
    )
    checkpoint: Path | None = setting(
        None, file_path, "weights to evaluate or to start training from (.pth or .safetensors)"
    )
    # training
    loss: str | None = setting(
        None,
        OneOf(*LOSSES),
        "the training loss: mse, the mean squared error, or l1, the mean absolute error "
        "(default: the task's)",
    )
    lr: float = setting(1e-3, positive_number, "learning rate of Adam")
    batch_size: int = setting(
        16, _count, "segments per step, over all processes; evaluation may take more at once"
    )
    epochs: int = setting(10, _count, "passes over the training split")
    scheduler: str = setting(
        SCHEDULES[0],
        OneOf(*SCHEDULES),
        "the learning-rate schedule: none keeps the rate; plateau lowers it when the validation "
        "score stops improving; cosine lowers it to 0 over the epochs",
    )
    plateau_factor: float = setting(0.5, share_below_one, "plateau multiplies the rate by this")
    plateau_patience: int = setting(
        2, whole_number(0), "epochs without a better score that plateau tolerates"
    )
    weight_decay: float = setting(0.0, number_from_zero, "weight decay of Adam")
    grad_clip: float | None = setting(
        None, positive_number, "largest norm of gradients (default: no limit)"
    )
    patience: int | None = setting(
        None, _count, "stop after N epochs without a better validation score (default: never)"
    )
    accumulation_steps: int = setting(
        1,
        _count,
        "split each batch into N parts and add up their gradients: the same step, with the memory "
        "of one part; only BatchNorm and dropout without keys see parts instead of the batch",
    )
    seed: int = setting(
        20, whole_number(0, MAX_SEED), "decides the initial weights, the batch order and dropout"
    )
    # text encoder
    finetune_bert: str | None = setting(
        None,
        name_or_path,
        "train the text encoder too, starting from this BERT, a name or a folder; without a value: "
        "from the BERT that encoded the prepared text (default: keep the prepared text features)",
    )
    bert_lr: float = setting(2e-5, positive_number, "learning rate of Adam for the text encoder")
    bert_weight_decay: float = setting(
        0.01,
        number_from_zero,
        "weight decay of the text encoder, decoupled as in AdamW; none on biases and norms",
    )
    bert_warmup: float = setting(
        1.0, number_from_zero, "epochs over which the text encoder's learning rate rises from 0"
    )
    freeze_layers: int | None = setting(
        None,
        whole_number(0),
        "do not train the text encoder's embeddings and first N layers (default: train all)",
    )
    gradient_checkpointing: bool = setting(
        False,
        truth_value,
        "compute the text encoder's layers again in the backward pass: less memory, more time",
    )
    # running
    device: str = setting("auto", device_name, "auto (CUDA, else the CPU), cpu, cuda or cuda:N")
    precision: str = setting(
        PRECISIONS[0], OneOf(*PRECISIONS), "bfloat16 means mixed precision by autocast"
    )
    compile: bool = setting(False, truth_value, "use torch.compile, which takes minutes to start")
    native: bool = setting(
        True, truth_value, "run encoders and LSTMs in PyTorch, not in C++ (CPU) or Triton (CUDA)"
    )
    num_workers: int | None = setting(
        None,
        whole_number(0, MAX_WORKERS),
        "processes that load batches in advance (default: 4 on CUDA, 0 on a CPU)",
    )
    # output
    checkpointdir: Path = setting(
        Path("checkpoints"), file_path, "the folder of the run, for its checkpoints and logs"
    )
    resultdir: Path = setting(Path("result"), file_path, "the folder for results")
    bootstrap: int | None = setting(
        None,
        whole_number(100, MAX_RESAMPLES),
        "add 95 %% intervals of the scores, from N resamples of the videos (default: none)",
    )
    against: Path | None = setting(
        None,
        file_path,
        "predictions.csv of another evaluation: add the score differences, intervals and p",
    )
    save_every: int | None = setting(
        None, _count, "save for --resume every N steps too, not only after each epoch"
    )
    log_interval: int = setting(10, _count, "batches between two lines of the running loss")
    verbose: bool = setting(True, truth_value, "print no running loss and no progress bars")
    save: bool = setting(True, truth_value, "write no checkpoints, logs or results")

    @property
    def data_folder(self) -> Path:
        """The folder of the splits."""
        return alignment_folder(self.datadir, self.alignment)

    @property
    def needed_checkpoint(self) -> Path:
        """The checkpoint's path; raises InputError where none is given."""
        if self.checkpoint is None:
            raise InputError("No checkpoint is given; give the path of a .pth file: --checkpoint.")
        return self.checkpoint

    @property
    def model_name(self) -> str:
        """The model's name, used where there is no checkpoint."""
        return self.model or DEFAULT_MODEL

    @property
    def task_name(self) -> str:
        """The task's name, used where there is no checkpoint."""
        return self.task or DEFAULT_TASK

    @property
    def outcome(self) -> dict[str, Any]:
        """The settings that decide the trained weights, as plain values: no paths, no display."""
        values = plain_values(self)
        return {name: values[name] for name in values if name not in _NOT_IN_OUTCOME}

    def for_seed(self, seed: int) -> RunConfig:
        """Return the same run with another seed, in a folder of its own."""
        return replace(self, seed=seed, checkpointdir=self.checkpointdir / f"seed{seed}")


_NOT_IN_OUTCOME = (
    *("datadir", "checkpoint", "checkpointdir", "resultdir", "num_workers"),
    *("bootstrap", "against", "save_every", "log_interval", "verbose", "save"),
    "gradient_checkpointing",
)


def read_run_config(path: Path) -> RunConfig:
    """Read the configuration from a `run.json`, or from a JSON file with settings only.

    Settings missing from the file get their defaults. Raises InputError if it holds no settings.
    """
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}; give the run.json of a run.")
    content = read_json(path, "; give the run.json of a run, or a JSON file of settings")
    values = content.get("config", content) if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings; give the run.json of a run.")
    return make_config(RunConfig, values, str(path))

"""The runs of a study: their folders, what state each is in, and training one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from data.layout import SPLITS
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.registry import model_digest
from system.console import print_heading
from system.errors import InputError, differing
from system.files import check_writable
from utils.run_config import RunConfig
from utils.running.text_encoder import bert_in_folder
from utils.studies.report import write_study
from utils.studies.runs import read_run
from utils.training.history import Epoch
from utils.training.run import train
from utils.training.run_folder import (
    LAST,
    LOGS,
    RUN_FILE,
    lock_run_folder,
    remove_run,
    written_files,
)

BERT = "BERT"  # key of the text encoder's origin, beside the splits' digests
MODEL = "model file"  # key of the digest of a user's own model, there too
NEW, AGAIN, GOES_ON, COMPLETE = "new", "begins again", "goes on", "complete"


def runs_of_studies(folder: Path) -> list[Path]:
    """Return the folders of the runs in a study's folder."""
    return sorted(path.parent for path in folder.glob(f"*/seed*/{RUN_FILE}"))


def run_name(config: RunConfig) -> str:
    """Return the name of a run: `<name>/seed<N>`, its folder below the study's."""
    return "/".join(config.checkpointdir.parts[-2:])


def remove_runs(configs: Sequence[RunConfig]) -> None:
    """Remove the files of earlier runs, where all of these can be replaced.

    Raises InputError when another process trains one of them, OSError when their results could not
    be written; then nothing is removed.
    """
    with ExitStack() as locks:
        for config in configs:
            check_writable(config.resultdir)
            locks.enter_context(lock_run_folder(config.checkpointdir))
            check_writable(config.checkpointdir / LOGS)
        for config in configs:
            remove_run(config.checkpointdir)


def train_run(
    config: RunConfig,
    title: str,
    options: LoaderOptions,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Train or resume one run, unless it is complete, and write the table of its study.

    `after_epoch` is passed to the `Trainer`.
    """
    state = state_of(config)
    print_heading(f"{title}, {config.checkpointdir}: {state}")
    if state != COMPLETE:
        resume = None if state == NEW else "auto"  # in the table it keeps the time when it began
        train(config, options, resume, state == AGAIN, after_epoch)
    if options.processes.is_first:
        folder = config.checkpointdir.parent.parent
        with redirect_stdout(None):  # after the last run, the comparison says what is left out
            write_study(runs_of_studies(folder), folder)


def digests_of(config: RunConfig) -> dict[str, str]:
    """Return the digests of a run's data, text encoder and own model, as far as it has these."""
    digests = {name: Split(config.data_folder / name).digest for name in SPLITS}
    return digests | digests_without_data(config)


def digests_without_data(config: RunConfig) -> dict[str, str]:
    """Return the digests of a run's text encoder and own model, as far as it has these."""
    digests = {BERT: bert_in_folder(config), MODEL: model_digest(config.model_name)}
    return {name: digest for name, digest in digests.items() if digest is not None}


def state_of(config: RunConfig) -> str:
    """Return the state of a run.

    Raises InputError when its folder has a run of other settings, or one without a record.
    """
    run = read_run(config.checkpointdir)
    if run is None:
        files = written_files(config.checkpointdir)
        if files:
            raise InputError(
                f"{config.checkpointdir} holds {files[0].name}, but no {RUN_FILE} that can be read "
                "as the record of a run; move the folder elsewhere, or give another "
                "--checkpointdir."
            )
        return NEW
    recorded_values = run.config.outcome | run.digests
    recorded_values |= {BERT: run.bert, MODEL: run.model_digest}
    for name, value in (config.outcome | digests_of(config)).items():
        # None: it was not recorded
        is_known = name not in (BERT, MODEL) or recorded_values[name] is not None
        if is_known and recorded_values.get(name) != value:
            before, now = differing(recorded_values.get(name), value)
            raise InputError(
                f"{run.folder} holds a run with {name} {before}, this one is {now}; "
                "give the same settings and data, another --checkpointdir, or --overwrite."
            )
    if run.result is not None:
        return COMPLETE
    # A run that was killed before it saved a checkpoint cannot be resumed.
    return GOES_ON if (run.folder / LAST).is_file() else AGAIN

"""Opening the database of studies: SQLite, or any other that Optuna takes by its URL."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import ColumnClause, Connection, column, event, make_url, select, table

from system.errors import InputError
from system.passwords import without_passwords

FILE = "study.db"
BEAT = 10  # seconds between two heartbeats, and between two looks at the queue while waiting
LEASE = 60  # seconds without a heartbeat after which a run is taken from its process
PATIENCE = 60  # seconds that a process waits for another to release the database
_OPTUNA_TABLES = {"studies", "version_info", "alembic_version"}

warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # this program prints what matters


class Database(RDBStorage):
    """Optuna's storage, which survives a heartbeat that cannot be written."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Write a heartbeat; when the database does not take it, the next one is tried in time.

        A database that stays unreachable makes the run's other accesses fail.
        """
        with suppress(Exception):
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Return Optuna's stale trials, and those whose process died before its first heartbeat."""
        stale = super()._get_stale_trial_ids(study_id)
        limit = datetime.now() - timedelta(seconds=LEASE)
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        old_ids = [trial._trial_id for trial in running if (trial.datetime_start or limit) < limit]
        if not old_ids:
            return stale
        trial_id: ColumnClause[int] = column("trial_id")
        with self.engine.connect() as connection:
            query = select(trial_id).select_from(table("trial_heartbeats", trial_id))
            have_heartbeat = set(connection.execute(query.where(trial_id.in_(old_ids))).scalars())
        return stale + [id_ for id_ in old_ids if id_ not in have_heartbeat]


def open_database(url: str) -> Database:
    """Open the database of a URL; an SQLite file is created when missing.

    Raises InputError when a package is missing, else what SQLAlchemy and Optuna raise.
    """
    options: dict[str, Any] = {"heartbeat_interval": BEAT, "grace_period": LEASE}
    address = make_url(url)
    if address.get_backend_name() != "sqlite":
        try:
            return Database(url, engine_kwargs={"pool_pre_ping": True}, **options)
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or error.name
            raise InputError(
                f"{without_passwords(url)} needs the package {package}, which is not installed; "
                "install it, or give another --storage."
            ) from error
    path = str(address.database)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)

    # The URL only says that this is SQLite; `connect` opens the file, whatever its path contains.
    storage = Database(f"sqlite:///{FILE}", engine_kwargs={"creator": connect}, **options)

    # SQLite has no SELECT FOR UPDATE, by which Optuna keeps a run from being taken twice. So each
    # transaction locks the file from its first read to its end. See "Serializable isolation" in
    # SQLAlchemy's documentation of SQLite.
    @event.listens_for(storage.engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage


def absolute_url(url: str) -> str:
    """Return a URL that is valid in every working directory: SQLite files get absolute paths.

    Raises InputError for a database in memory, which other processes cannot see.
    """
    address = make_url(url)
    if address.get_backend_name() != "sqlite":
        return url
    if address.database in (None, "", ":memory:"):
        raise InputError(
            f"--storage {url} is in memory, where no other process sees it; give a file, such as "
            "sqlite:///study.db."
        )
    path = Path(str(address.database)).absolute()
    return address.set(database=str(path)).render_as_string(hide_password=False)


def check_is_ours(path: Path) -> None:
    """Raise InputError for an SQLite file of another program: Optuna would write into it."""
    if not path.is_file() or not path.stat().st_size:
        return
    with closing(sqlite3.connect(path)) as database:
        kinds = dict(database.execute("SELECT name, type FROM sqlite_master"))
    # Optuna makes no views and no triggers, which could run without end, or remove what is there.
    is_optunas = kinds.keys() & _OPTUNA_TABLES and {*kinds.values()} <= {"table", "index"}
    if kinds and not is_optunas:
        raise InputError(f"{path} is a database of another program; give another --checkpointdir.")

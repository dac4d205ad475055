"""The database of studies, opened: SQLite, or any other that Optuna takes by its URL."""

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
BEAT = 10  # seconds between two signs of life, and between two looks at what others do
LEASE = 60  # seconds without one after which a run is taken from its process
PATIENCE = 60  # seconds that one process waits for another's access
_OPTUNA_TABLES = {"studies", "version_info", "alembic_version"}

warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what matters is said by this program


class Database(RDBStorage):
    """Optuna's storage, where one sign of life that fails is not the last."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign of life; the next one is tried where the database does not take this one.

        A database that stays away is told by the run's own accesses.
        """
        with suppress(Exception):
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Return what Optuna finds, and what was taken by a process that died before a sign."""
        stale = super()._get_stale_trial_ids(study_id)
        before = datetime.now() - timedelta(seconds=LEASE)
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        old = [one._trial_id for one in running if (one.datetime_start or before) < before]
        if not old:
            return stale
        seen: ColumnClause[int] = column("trial_id")
        with self.engine.connect() as connection:
            query = select(seen).select_from(table("trial_heartbeats", seen))
            known = set(connection.execute(query.where(seen.in_(old))).scalars())
        return stale + [one for one in old if one not in known]


def open_database(url: str) -> Database:
    """Open the database of a URL; an SQLite file is made when missing.

    Raises InputError where a package is missing, else what SQLAlchemy and Optuna raise.
    """
    how: dict[str, Any] = {"heartbeat_interval": BEAT, "grace_period": LEASE}
    address = make_url(url)
    if address.get_backend_name() != "sqlite":
        try:
            return Database(url, engine_kwargs={"pool_pre_ping": True}, **how)
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or error.name
            raise InputError(
                f"{without_passwords(url)} needs the package {package}, which is not installed; "
                "install it, or give another --storage."
            ) from error
    path = str(address.database)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)

    # The name stands for a file, whatever is in the path; it is `connect` that opens it.
    storage = Database(f"sqlite:///{FILE}", engine_kwargs={"creator": connect}, **how)

    # SQLite has no SELECT FOR UPDATE, by which Optuna keeps a run from being taken twice: others
    # are kept out of the file from the first look of a transaction to its end. See "Serializable
    # isolation" in SQLAlchemy's documentation of SQLite.
    @event.listens_for(storage.engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage


def whole_url(url: str) -> str:
    """Return a URL that means the same from every folder: an SQLite file with its whole path.

    Raises InputError for a database in memory, which no other process sees.
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
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if tables and not tables & _OPTUNA_TABLES:
        raise InputError(f"{path} is a database of another program; give another --checkpointdir.")

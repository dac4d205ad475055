"""Where the studies of a folder are kept: SQLite in it, or any database that Optuna takes."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, TrialPruned
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from system.errors import InputError, described, first_line, shown
from system.files import check_writable, read_json, write_json
from system.locks import lock_folder

FILE = "study.db"
_PLACE = "study.json"  # which other database it is
_LOCK = ".study.lock"
BEAT = 10  # seconds between two signs of life, and between two looks at what others do
LEASE = 60  # seconds without one after which a run is taken from its process
_MOST_RETRIES = 3  # of a run whose processes are killed: it may be what kills them
_PATIENCE = 60  # seconds that one process waits for another's access
_ABOUT = "about"  # what a study says of itself
_OPTUNA_TABLES = {"studies", "version_info", "alembic_version"}

warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what matters is said by this program


@contextmanager
def telling_of_storage(storage: Storage) -> Iterator[None]:
    """Turn what goes wrong with a database into InputError, which says where it is."""
    try:
        yield
    except TrialPruned:
        raise
    except (SQLAlchemyError, OptunaError, sqlite3.Error, ImportError, JSONDecodeError) as error:
        reason = first_line(getattr(error, "orig", None) or error.__cause__ or error)
        raise InputError(
            f"{storage.where}: the study's database cannot be used ({reason}); see that it is one "
            "of Optuna's, whole, and that it can be reached and written."
        ) from error


class Storage:
    """The studies of a folder; `where` is what an error calls them."""

    def __init__(self, folder: Path, url: str | None) -> None:
        """Open the database of `url`, or of the folder, which is made when missing.

        Raises InputError when it cannot be, or when the folder's studies are in another.
        """
        self.folder = folder
        self.where = str(folder / FILE)
        check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
        with self.alone():
            self._prefix, address = self._place(url)
            self._storage = _open(address)
            self.names = self._own_names()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out, which may be about to make the same."""
        what = "Another process is opening"
        with (
            lock_folder(self.folder, _LOCK, what, "--checkpointdir", _PATIENCE),
            telling_of_storage(self),
        ):
            yield

    def _place(self, given: str | None) -> tuple[str, str]:
        """Return what the studies' names begin with, and the database's URL."""
        path = self.folder / _PLACE
        if path.is_file():
            place = read_json(path)
            if not (isinstance(place, dict) and {"storage", "names"} <= place.keys()):
                raise InputError(f"{path} names no storage; give another --checkpointdir.")
            prefix, url = str(place["names"]), given or str(place["storage"])
            self.where = _without_password(url)
            if self.where != place["storage"]:
                raise InputError(
                    f"{self.folder} has its study in {shown(place['storage'])}, but --storage says "
                    f"{self.where}; leave --storage out, or give another --checkpointdir."
                )
            return prefix, url
        if given is None:
            _check_is_ours(self.folder / FILE)
            return "", _address(self.folder / FILE)
        if (self.folder / FILE).exists():
            raise InputError(
                f"{self.folder} has its study in {FILE}; leave --storage out, or give another "
                "--checkpointdir."
            )
        self.where = "--storage"  # until it is known to be one
        self.where = _without_password(given)
        _open(given)  # nothing is written of what cannot be opened
        prefix = f"{self.folder.resolve()}: "
        write_json(path, {"storage": self.where, "names": prefix})
        return prefix, given

    def _own_names(self) -> list[str]:
        """Return the names of the folder's studies, the oldest first."""
        names = optuna.get_all_study_names(self._storage)
        own = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        if own and not all(name.split(" ")[0] in ("search", "comparison") for name in own):
            raise InputError(
                f"{self.where} holds a study of another program, {shown(own[0])}; give another "
                "--checkpointdir."
            )
        return own

    def create(self, name: str, about: Mapping[str, Any], **how: Any) -> optuna.Study:
        """Return the study of this name, made when missing; `how` is as Optuna takes it.

        Raises InputError when it is not `about` the same, or when the folder is another kind's.
        """
        kind = name.split(" ")[0]
        if any(other.split(" ")[0] != kind for other in self.names):
            other = self.names[0].split(" ")[0]
            raise InputError(
                f"{self.folder} holds a {other}, this is a {kind}; give another --checkpointdir."
            )
        with self.alone():
            study = optuna.create_study(
                storage=self._storage, study_name=self._prefix + name, load_if_exists=True, **how
            )
            found = study.user_attrs.get(_ABOUT)
            if found is None:
                study.set_user_attr(_ABOUT, dict(about))
            else:
                self._refuse_another(found, about)
        return study

    def _refuse_another(self, found: Any, about: Mapping[str, Any]) -> None:
        found = found if isinstance(found, dict) else {}
        for name in (*about, *found):
            before, now = found.get(name), about.get(name)
            if before != now:
                raise InputError(
                    f"{self.folder} holds a search with {name} {before}, this one is {now}; give "
                    "the same settings, space and data, or another --checkpointdir."
                )

    def load(self, name: str) -> optuna.Study:
        """Return a study that there is."""
        with telling_of_storage(self):
            return optuna.load_study(storage=self._storage, study_name=self._prefix + name)


@contextmanager
def damaged_study(storage: Storage) -> Iterator[None]:
    """Turn what goes wrong with a study's content into InputError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{storage.where}: the study is damaged ({described(error)}); "
            "begin it anew in another --checkpointdir."
        ) from error


def holds_studies(folder: Path) -> bool:
    """Tell whether a comparison or a search was begun in a folder."""
    return (folder / FILE).exists() or (folder / _PLACE).exists()


def _address(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _without_password(url: str) -> str:
    """Return a URL that may be shown and kept: a password belongs elsewhere."""
    return make_url(url)._replace(password=None).render_as_string()


def _check_is_ours(path: Path) -> None:
    """Raise InputError for an SQLite file of another program: Optuna would write into it."""
    if not path.is_file() or not path.stat().st_size:
        return
    with closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if tables and not tables & _OPTUNA_TABLES:
        raise InputError(f"{path} is a database of another program; give another --checkpointdir.")


def _open(url: str) -> RDBStorage:
    how: dict[str, Any] = {
        "heartbeat_interval": BEAT,
        "grace_period": LEASE,
        "heartbeat_stale_trial_callback": RetryHeartbeatStaleTrialCallback(_MOST_RETRIES),
    }
    address = make_url(url)
    if address.get_backend_name() != "sqlite":
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, **how)
    path = str(address.database)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, _PATIENCE, isolation_level=None, check_same_thread=False)

    # The name stands for a file, whatever is in the path; it is `connect` that opens it.
    storage = RDBStorage(f"sqlite:///{FILE}", engine_kwargs={"creator": connect}, **how)

    # SQLite has no SELECT FOR UPDATE, by which Optuna keeps a run from being taken twice: others
    # are kept out of the file from the first look of a transaction to its end. See "Serializable
    # isolation" in SQLAlchemy's documentation of SQLite.
    @event.listens_for(storage.engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage

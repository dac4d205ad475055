"""Where the studies of a folder are kept: SQLite in it, or any database that Optuna takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError, TrialPruned
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from system.errors import InputError, described, differing, first_line, shown
from system.files import check_writable, read_json, write_json
from system.locks import lock_folder
from system.passwords import without_passwords
from utils.studies.database import FILE, PATIENCE, check_is_ours, open_database, whole_url

_PLACE = "study.json"  # which other database it is
_LOCK = ".study.lock"
_ABOUT = "about"  # what a study says of itself
_KINDS = ("search", "comparison")  # what studies are called, one a folder


@contextmanager
def telling_of_storage(storage: Storage) -> Iterator[None]:
    """Turn what goes wrong with a database into InputError, which says where it is."""
    try:
        yield
    except TrialPruned:
        raise
    except (SQLAlchemyError, OptunaError, sqlite3.Error, JSONDecodeError) as error:
        reason = first_line(getattr(error, "orig", None) or error.__cause__ or error)
        raise InputError(
            f"{storage.where}: the study's database cannot be used ({reason}); see that it is one "
            "of Optuna's, whole, and that it can be reached and written."
        ) from error


class Storage:
    """The study of a folder; `where` is what an error calls it.

    `url` is that of another database than the folder's own, else None.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        """Open the database of `url`, or of the folder, which is made when missing.

        Raises InputError when it cannot be, or when the folder's studies are in another.
        """
        self.folder = folder
        self.where = str(folder / FILE)
        check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
        with self.alone():
            self._prefix, self.url = self._place(url)
            own = URL.create("sqlite", database=str(folder / FILE)).render_as_string()
            self.database = open_database(self.url or own)
            self.names = self._own_names()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out, which may be about to make the same."""
        what = "Another process is opening"
        with (
            lock_folder(self.folder, _LOCK, what, "--checkpointdir", PATIENCE),
            telling_of_storage(self),
        ):
            yield

    def _place(self, given: str | None) -> tuple[str, str | None]:
        """Return what the studies' names begin with, and another database's URL."""
        path = self.folder / _PLACE
        if given is not None:
            before, self.where = self.where, "--storage"  # until it is known to be one
            given = whole_url(given)
            self.where = before
        if path.is_file():
            place = read_json(path)
            if not (isinstance(place, dict) and {"storage", "names"} <= place.keys()):
                raise InputError(f"{path} names no storage; give another --checkpointdir.")
            prefix, url = str(place["names"]), given or str(place["storage"])
            self.where = without_passwords(url)
            if self.where != place["storage"]:
                raise InputError(
                    f"{self.folder} has its study in {shown(place['storage'])}, but --storage says "
                    f"{self.where}; leave --storage out, or give another --checkpointdir."
                )
            return prefix, url
        if given is None:
            check_is_ours(self.folder / FILE)
            return "", None
        if (self.folder / FILE).exists():
            raise InputError(
                f"{self.folder} has its study in {FILE}; leave --storage out, or give another "
                "--checkpointdir."
            )
        self.where = without_passwords(given)
        open_database(given)  # nothing is written of what cannot be opened
        prefix = f"{self.folder.resolve()}: "
        write_json(path, {"storage": self.where, "names": prefix})
        return prefix, given

    def _own_names(self) -> list[str]:
        """Return the names of the folder's studies, the oldest first."""
        names = optuna.get_all_study_names(self.database)
        own = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        strange = [name for name in own if name not in _KINDS]
        if strange:
            raise InputError(
                f"{self.where} holds a study of another program, {shown(strange[0])}; give another "
                "--checkpointdir."
            )
        return own

    def create(
        self, name: str, about: Mapping[str, Any], told: Mapping[str, Any] | None = None, **how: Any
    ) -> optuna.Study:
        """Return the study of this name, made when missing; `how` is as Optuna takes it.

        `told` are attributes, which it keeps from then on. Raises InputError when it is not
        `about` the same, or when the folder is another kind's.
        """
        for other in self.names:
            if other != name:
                raise InputError(
                    f"{self.folder} holds a {other}, this is a {name}; give another "
                    "--checkpointdir."
                )
        with self.alone():
            study = optuna.create_study(
                storage=self.database, study_name=self._prefix + name, load_if_exists=True, **how
            )
            found = study.user_attrs.get(_ABOUT)
            if found is None:
                for key, value in (told or {}).items():
                    study.set_user_attr(key, value)
                study.set_user_attr(_ABOUT, dict(about))
                return study
        found = found if isinstance(found, dict) else {}
        for name in (*about, *found):
            if found.get(name) != about.get(name):
                before, now = differing(found.get(name), about.get(name))
                raise InputError(
                    f"{self.folder} holds a search with {name} {before}, this one is {now}; give "
                    "the same settings, space and data, or another --checkpointdir."
                )
        return study

    def load(self, name: str) -> optuna.Study:
        """Return a study that there is."""
        with self.alone():  # not while it is being made
            return optuna.load_study(storage=self.database, study_name=self._prefix + name)


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

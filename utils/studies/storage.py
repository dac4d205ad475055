"""Where a folder's study is stored: in an SQLite file there, or any database that Optuna takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from utils.studies.database import FILE, PATIENCE, absolute_url, check_is_ours, open_database
from utils.studies.run_states import MODEL

_POINTER = "study.json"  # names the other database, if there is one
_AFTER_FOLDER = ": "  # in a study's name there, which begins with the path of its folder
_LOCK = ".study.lock"
_IDENTITY = "about"  # study attribute: what all its processes have to agree on
_KINDS = ("search", "comparison")  # the names of studies; a folder has one study


@contextmanager
def explain_database_errors(storage: Storage) -> Iterator[None]:
    """Turn errors of a database into InputError, which names the database."""
    try:
        yield
    except TrialPruned:
        raise
    # Values that Optuna cannot read, such as an unknown state, raise the last three.
    except (
        *(SQLAlchemyError, OptunaError, sqlite3.Error),
        *(ValueError, LookupError, RecursionError),
    ) as error:
        reason = first_line(getattr(error, "orig", None) or error.__cause__ or error)
        raise InputError(
            f"{storage.where}: the study's database cannot be used ({reason}); check that "
            "Optuna made it, that it is not damaged, and that it can be reached and written."
        ) from error


class Storage:
    """The database of a folder's study; `where` names it in errors.

    `url` is None when the study is in the folder's own SQLite file.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        """Open the database of `url`, else the folder's own, which is created when missing.

        Raises InputError when it cannot be opened, or when the folder's study is in another one.
        """
        self.folder = folder
        self.where = str(folder / FILE) if url is None else "--storage"  # until it is read
        check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
        with self.locked():
            self._prefix, self.url = self._locate(url)
            own_url = URL.create("sqlite", database=str(folder / FILE)).render_as_string()
            self.database = open_database(self.url or own_url)
            self.names = self._study_names()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, which may be about to create the same study or trials."""
        what = "Another process is opening"
        with (
            lock_folder(self.folder, _LOCK, what, "--checkpointdir", PATIENCE),
            explain_database_errors(self),
        ):
            yield

    def _locate(self, url: str | None) -> tuple[str, str | None]:
        """Return the prefix of the studies' names, and the URL of another database, or None."""
        path = self.folder / _POINTER
        if url is not None:
            url = absolute_url(url)
        if path.is_file():
            pointer = read_json(path, "; give another --checkpointdir")
            if not (isinstance(pointer, dict) and {"storage", "names"} <= pointer.keys()):
                raise InputError(f"{path} names no database; give another --checkpointdir.")
            prefix, url = str(pointer["names"]), url or str(pointer["storage"])
            self.where = without_passwords(url)
            if self.where != pointer["storage"]:
                raise InputError(
                    f"{self.folder} has its study in {shown(pointer['storage'])}, but --storage "
                    f"says {self.where}; leave --storage out, or give another --checkpointdir."
                )
            self._refuse_copy(path, Path(prefix.removesuffix(_AFTER_FOLDER)))
            return prefix, url
        if url is None:
            check_is_ours(self.folder / FILE)
            return "", None
        if (self.folder / FILE).exists():
            raise InputError(
                f"{self.folder} has its study in {FILE}; leave --storage out, or give another "
                "--checkpointdir."
            )
        self.where = without_passwords(url)
        open_database(url)  # raises before anything is written
        prefix = f"{self.folder.resolve()}{_AFTER_FOLDER}"
        write_json(path, {"storage": self.where, "names": prefix})
        return prefix, url

    def _refuse_copy(self, pointer: Path, original: Path) -> None:
        """Raise InputError when the study of `original`, another folder, is still there too.

        A folder that was moved keeps its study; its copy would share the original's.
        """
        other = original / _POINTER
        with suppress(OSError, ValueError):  # it may be gone, or no path
            if other.read_bytes() == pointer.read_bytes() and not other.samefile(pointer):
                raise InputError(
                    f"{self.folder} is a copy of {original}, and would share its study in "
                    f"{self.where}; work in {original}, or remove {pointer}."
                )

    def _study_names(self) -> list[str]:
        """Return the names of the folder's studies without prefix, the oldest first."""
        names = optuna.get_all_study_names(self.database)
        names = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        unknown = [name for name in names if name not in _KINDS]
        if unknown:
            raise InputError(
                f"{self.where} holds a study of another program, {shown(unknown[0])}; give another "
                "--checkpointdir."
            )
        return names

    def create(
        self,
        name: str,
        identity: Mapping[str, Any],
        attributes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> optuna.Study:
        """Return the study of this name, created when missing by `optuna.create_study(**kwargs)`.

        A new study gets the `attributes`. Raises InputError when an existing one has another
        `identity`, or when the folder holds another kind of study.
        """
        self._refuse_other_kind(name)
        with self.locked():
            study = optuna.create_study(
                storage=self.database, study_name=self._prefix + name, load_if_exists=True, **kwargs
            )
            if study.user_attrs.get(_IDENTITY) is None:
                for key, value in {**(attributes or {}), _IDENTITY: dict(identity)}.items():
                    study.set_user_attr(key, value)
        self._refuse_other_identity(study, identity)
        return study

    def check(self, name: str, identity: Mapping[str, Any]) -> optuna.Study | None:
        """Return the study of this name, None without one; raises InputError as `create` does."""
        self._refuse_other_kind(name)
        if name not in self.names:
            return None
        study = self.load(name)
        self._refuse_other_identity(study, identity)
        return study

    def _refuse_other_kind(self, name: str) -> None:
        for kind in self.names:
            if kind != name:
                raise InputError(
                    f"{self.folder} holds a {kind}, this is a {name}; give another --checkpointdir."
                )

    def _refuse_other_identity(self, study: optuna.Study, identity: Mapping[str, Any]) -> None:
        with explain_database_errors(self):
            stored = study.user_attrs.get(_IDENTITY)
        if stored is None:  # its first process was killed before it wrote that
            return
        stored = stored if isinstance(stored, dict) else {}
        for key in (*identity, *stored):
            # Older studies do not say the model's file, and one that is gone is told later.
            is_known = key != MODEL or {key} <= stored.keys() & identity.keys()
            if is_known and stored.get(key) != identity.get(key):
                before, now = differing(stored.get(key), identity.get(key))
                raise InputError(
                    f"{self.folder} holds a search with {key} {before}, this one is {now}; give "
                    "the same settings, space and data, or another --checkpointdir."
                )

    def load(self, name: str) -> optuna.Study:
        """Return an existing study."""
        with self.locked():  # not while another process creates it
            return optuna.load_study(storage=self.database, study_name=self._prefix + name)


@contextmanager
def explain_damage(storage: Storage) -> Iterator[None]:
    """Turn errors of a study's content into InputError, which names the database."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{storage.where}: the study is damaged ({described(error)}); "
            "start it again in another --checkpointdir."
        ) from error


def holds_studies(folder: Path) -> bool:
    """Return whether a comparison or a search was begun in a folder."""
    return (folder / FILE).exists() or (folder / _POINTER).exists()

"""The quoted line of an exception is informative and short."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import h5py
import pytest

from system.errors import InputError, described, explain_reading, first_line


def raised(call):
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(lambda: {}[35]), "no 35"),
        (raised(lambda: {}["random"]), "no 'random'"),
        (raised(lambda: {}["a" * 10**6]), f"no '{'a' * 47}...{'a' * 48}'"),
        (KeyError("Unable to open object (bad heap)"), "Unable to open object (bad heap)"),
        (KeyError(), "KeyError"),
        (raised(lambda: pickle.loads(b"")), "Ran out of input"),
        (EOFError(), "it ends too early"),
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (ValueError("\none\ntwo"), "one"),
        (ValueError(3), "3"),
    ],
    ids=range(11),
)
def test_it_is_neither_a_bare_key_nor_empty(error, expected):
    assert first_line(error) == expected


def test_the_type_stands_before_it_once():
    assert described(AssertionError()) == "AssertionError"
    assert described(ValueError("one\ntwo")) == "ValueError: one"
    assert described(KeyError("lr")) == "KeyError: no 'lr'"


def test_what_a_colon_announces_comes_along():
    """As in PyTorch's lists of weights that do not fit."""
    assert first_line(RuntimeError("in loading A:\n\tMissing key: b.\n\tMore.")) == (
        "in loading A: Missing key: b."
    )
    assert first_line(RuntimeError("after an empty line:\n\n b.")) == "after an empty line: b."
    assert first_line(RuntimeError("nothing follows:")) == "nothing follows:"


def test_it_does_not_quote_megabytes():
    """Python quotes a malformed number in a pickle whole."""
    error = raised(lambda: float("x" * 10**6))
    assert len(str(error)) > 10**6
    assert len(first_line(error)) < 310


def test_what_hdf5_says_comes_without_the_quotes_of_a_key(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        error = raised(lambda: file["nothing"])
    assert isinstance(error, KeyError)
    assert first_line(error).startswith("Unable to")


def test_an_error_in_reading_an_open_file_names_it():
    path = Path("a.csv")
    with pytest.raises(OSError, match=r"'a.csv'"), explain_reading(path):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match=r"'other.csv'"), explain_reading(path):
        raise OSError(errno.EIO, "Input/output error", "other.csv")


def test_a_message_of_our_own_that_quotes_such_words_stays():
    """A file's name or content may have them."""
    path, is_empty = Path("out of memory.pkl"), "out of memory.pkl is empty"
    with pytest.raises(InputError, match=f"^{is_empty}$"), explain_reading(path):
        raise InputError(is_empty)
    with pytest.raises(InputError, match=f"^{path} takes more"), explain_reading(path):
        raise MemoryError

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.argument_types import (
    device_name,
    file_path,
    name_or_path,
    positive_number,
    some_text,
    whole_number,
)
from system.errors import shown


def assert_refused(parse, text):
    with pytest.raises(ArgumentTypeError, match=re.escape(shown(text))):
        parse(text)


@given(minimum=st.integers(0, 5), value=st.integers() | st.sampled_from([2**31 - 1, 2**31]))
def test_whole_numbers_from_the_minimum_on(minimum, value):
    parse = whole_number(minimum)
    if minimum <= value < 2**31:  # larger ones are beyond what PyTorch and NumPy count
        assert parse(str(value)) == value
    else:
        assert_refused(parse, str(value))


@pytest.mark.parametrize("text", ["", "three", "1.5", "1e3", "nan", "inf", "9" * 5000])
def test_anything_else_is_no_whole_number(text):
    assert_refused(whole_number(0), text)


@given(st.floats())
def test_positive_numbers(value):
    if 0 < value < float("inf"):
        assert positive_number(str(value)) == value
    else:
        assert_refused(positive_number, str(value))


@pytest.mark.parametrize("text", ["", "fast", "1e999", "1,5"])
def test_anything_else_is_no_positive_number(text):
    assert_refused(positive_number, text)


@pytest.mark.parametrize("text", ["bert-base-uncased", "user/model", "./folder", "a~b", "~/x"])
def test_only_a_path_below_the_home_directory_becomes_another_text(text):
    assert name_or_path(text) == text.replace("~/", f"{Path.home()}/")


def test_a_home_directory_of_nobody_is_refused():
    assert_refused(name_or_path, "~nobody-has-this-name/x")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800", "~/\ud800"])
def test_what_no_file_system_can_have_is_no_path(text):
    assert_refused(file_path, text)
    assert_refused(name_or_path, text)


def test_a_path_may_be_of_any_other_bytes():
    assert os.fsencode(file_path(os.fsdecode(b"caf\xe9"))) == b"caf\xe9"


@pytest.mark.parametrize("parse", [name_or_path, file_path, some_text])
def test_an_empty_text_is_refused(parse):
    assert_refused(parse, "")


@pytest.mark.parametrize("text", ["auto", "cpu", "cuda", "cuda:0", "cuda:7", "cuda:15"])
def test_devices(text):
    assert device_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpu",
        "cpu:0",
        "auto:1",
        "CUDA",
        "cuda:",
        "cuda:-1",
        "cuda:x",
        "cuda:01",
        "cuda:300",
        "cuda:٣",
        "cuda:0\n",
    ],
)
def test_anything_else_is_no_device(text):
    assert_refused(device_name, text)

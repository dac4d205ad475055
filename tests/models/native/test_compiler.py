"""Compiling C++ at run time, and doing without."""

from __future__ import annotations

import pytest
import torch

from models.layers.encoder import Encoder
from models.native import compiler, cpu_encoder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cpu_encoder._library.cache_clear()
    yield tmp_path / "cache" / "nhfnet"
    cpu_encoder._library.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "code.cpp"
    path.write_text('extern "C" int size() { return SIZE; }')
    return path


def load_or_skip(source, **macros):
    try:
        return compiler.load(source, **macros)
    except compiler.Unavailable as problem:
        pytest.skip(str(problem))


def test_a_library_is_made_once_for_each_source_and_macro(source, cache, monkeypatch):
    assert load_or_skip(source, SIZE=3).size() == 3
    assert compiler.load(source, SIZE=4).size() == 4
    source.write_text('extern "C" int size() { return SIZE + 1; }')
    assert compiler.load(source, SIZE=4).size() == 5
    (source.parent / "more.h").write_text("// one more")
    assert compiler.load(source, SIZE=4).size() == 5
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(compiler, "_compile", None)  # from here on, all comes from the cache
    assert compiler.load(source, SIZE=4).size() == 5


def test_another_processor_gets_a_library_of_its_own(source, cache, monkeypatch):
    load_or_skip(source, SIZE=3)
    monkeypatch.setattr(compiler, "_processor", lambda: "flags: none")
    compiler.load(source, SIZE=3)
    assert len(list(cache.iterdir())) == 2


def test_code_that_does_not_compile_leaves_nothing(source, cache):
    load_or_skip(source, SIZE=3)
    source.write_text("nonsense")
    with pytest.raises(compiler.Unavailable, match=r"code\.cpp"):
        compiler.load(source, SIZE=3)
    assert len(list(cache.iterdir())) == 1


def test_without_a_compiler_the_formula_does_it(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder = Encoder(32, 8, 1, 128, 0.0)
    with pytest.warns(UserWarning, match="no-such-compiler; a step takes about three times"):
        cpu_encoder.library(encoder)
    assert encoder(torch.zeros(2, 3, 32)).shape == (2, 3, 32)


def test_without_a_place_for_the_library_the_formula_does_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot|could not"):
        assert isinstance(cpu_encoder.library(Encoder(32, 8, 1, 128, 0.0)), str)


def test_sizes_that_fill_no_vector_are_for_the_formula():
    encoder = Encoder(24, 6, 1, 128, 0.0)
    assert "width 24, 6 heads" in cpu_encoder.library(encoder)
    assert encoder(torch.zeros(2, 3, 24)).shape == (2, 3, 24)


def test_a_damaged_library_is_made_again(source, cache, monkeypatch):
    load_or_skip(source, SIZE=3)
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_compile", lambda command, library: library.write_bytes(b"?"))
        with pytest.raises(compiler.Unavailable):
            compiler.load(source, SIZE=4)
    assert compiler.load(source, SIZE=4).size() == 4


def test_a_cache_that_others_may_write_into_is_not_used(source, cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(compiler.Unavailable, match="others may write into it"):
        compiler.load(source, SIZE=3)


@pytest.mark.parametrize("cxx", ["'", "false"])
def test_a_compiler_that_is_none_is_told(source, monkeypatch, cxx):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(compiler.Unavailable):
        compiler.load(source, SIZE=3)


def test_a_damaged_library_is_told(source, monkeypatch):
    load_or_skip(source, SIZE=3)
    monkeypatch.setattr(compiler, "_compile", lambda command, library: library.write_bytes(b"?"))
    with pytest.raises(compiler.Unavailable, match=r"code\.cpp.*nhfnet"):
        compiler.load(source, SIZE=4)

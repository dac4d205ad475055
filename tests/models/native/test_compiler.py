"""Compiling C++ at run time, loading the library, and working without one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from models.layers.encoder import Encoder
from models.native import accelerate, compiler
from models.native import library as module
from models.native.call import ABI, Call
from models.native.encoder import NativeEncoder
from system.files import whole_digest
from tests.forked_programs import ROOT, Program, run_program


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module.library.cache_clear()
    yield tmp_path / "cache" / "nhfnet"
    module.library.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "code.cpp"
    path.write_text('extern "C" int size() { return SIZE; }')
    return path


def size_of(source, **macros):
    return compiler.load(source, lambda code: code, **macros).size()


def size_or_skip(source, **macros):
    try:
        return size_of(source, **macros)
    except compiler.Unavailable as problem:
        pytest.skip(str(problem))


def fail_to_compile(*_):
    raise AssertionError("compiled again")


def test_a_library_is_made_once_for_each_source_and_macro(source, cache, monkeypatch):
    assert size_or_skip(source, SIZE=3) == 3
    assert size_of(source, SIZE=4) == 4
    source.write_text('extern "C" int size() { return SIZE + 1; }')
    assert size_of(source, SIZE=4) == 5
    (source.parent / "more.h").write_text("// one more")
    assert size_of(source, SIZE=4) == 5
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(compiler, "_compile", fail_to_compile)  # all comes from the cache now
    assert size_of(source, SIZE=4) == 5


def test_another_processor_gets_a_library_of_its_own(source, cache, monkeypatch):
    size_or_skip(source, SIZE=3)
    monkeypatch.setattr(compiler, "_processor", lambda: "flags: none")
    size_of(source, SIZE=3)
    assert len(list(cache.iterdir())) == 2


def test_code_that_does_not_compile_leaves_nothing(source, cache):
    size_or_skip(source, SIZE=3)
    source.write_text("nonsense")
    with pytest.raises(compiler.Unavailable, match=r"code\.cpp"):
        size_of(source, SIZE=3)
    assert len(list(cache.iterdir())) == 1


def test_a_compiler_keeps_its_temporary_files_in_the_cache(source, cache, monkeypatch):
    """A killed one leaves them; there they go with their folder."""
    size_or_skip(source, SIZE=3)
    told = source.with_name("told")
    cxx = source.with_name("cxx")
    cxx.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$TMPDIR" > {told}\nexec c++ "$@"\n')
    cxx.chmod(0o755)
    monkeypatch.setenv("CXX", str(cxx))
    assert size_of(source, SIZE=3) == 3
    assert Path(told.read_text().strip()).parent == cache


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_with_a_compiler_the_code_passes_its_self_test():
    """Other tests skip without compiled code, so that they would hide a failed self-test."""
    library = module.library(32, 8, 128)
    assert not isinstance(library, str), library


def test_without_a_compiler_the_formula_does_it(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder = Encoder(32, 8, 1, 128, 0.0)
    with pytest.warns(UserWarning, match="no-such-compiler; a step takes up to three times"):
        assert accelerate(encoder) is encoder
    assert encoder(torch.zeros(2, 3, 32)).shape == (2, 3, 32)


def test_without_a_folder_for_the_library_the_formula_does_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot|could not"):
        assert isinstance(module.library(32, 8, 128), str)


def test_sizes_that_fill_no_vector_are_for_the_formula():
    encoder = Encoder(24, 6, 1, 128, 0.0)
    assert "width 24, 6 heads" in module.library(24, 6, 128)
    assert accelerate(encoder) is encoder


def test_a_cache_that_others_may_write_into_is_not_used(source, cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(compiler.Unavailable, match="others may write into it"):
        size_of(source, SIZE=3)


@pytest.mark.parametrize("cxx", ["'", "false"])
def test_a_compiler_that_does_not_work_is_unavailable(source, monkeypatch, cxx):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(compiler.Unavailable):
        size_of(source, SIZE=3)


def cut(share):
    return lambda content: content[: int(share * len(content))]


DAMAGES = {
    "truncated to 30 %": cut(0.3),
    "truncated to 60 %": cut(0.6),
    "truncated to 90 %": cut(0.9),
    "empty": cut(0),
    "zeroed": lambda content: bytes(len(content)),
    "zeroed behind its header": lambda content: content[:4096] + bytes(len(content) - 4096),
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}

# A library that does not match its digest must not be opened. This runs in its own process, which
# a damaged library would end with a signal.
USE = """
import sys, torch, warnings
from models.layers.encoder import Encoder
from models.native import accelerate
warnings.simplefilter("always")
encoder = accelerate(Encoder(32, 8, 1, 128, 0.0))
encoder(torch.randn(2, 3, 32, requires_grad=True)).sum().backward()
print(type(encoder).__name__)
"""


def program_in(folder):
    """Write the program that uses the encoder."""
    path = folder / "use.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(USE)
    return path


def quick_compiler(folder):
    """Make a compiler that does not optimise; returns the PATH that begins with it."""
    real, quick = shutil.which("c++"), folder / "quick" / "c++"
    quick.parent.mkdir(parents=True, exist_ok=True)
    quick.write_text(f'#!/bin/sh\n[ "$1" = --version ] || set -- "$@" -O0\nexec {real} "$@"\n')
    quick.chmod(0o755)
    return f"{quick.parent}:{os.environ['PATH']}"


def use_the_encoder(cache, **environment):
    """Use it in its own process, with a compiler that does not optimise, for speed."""
    path = quick_compiler(cache.parent)
    variables = {"PATH": path, "XDG_CACHE_HOME": str(cache.parent), **environment}
    done = run_program(program_in(cache.parent), env={**os.environ, **variables})
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip(), done.stderr.count("Warning")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    cache = tmp_path_factory.mktemp("compiled") / "nhfnet"
    name, warnings = use_the_encoder(cache)
    if name != "NativeEncoder":
        pytest.skip("no C++ compiler")
    assert warnings == 0
    (path,) = cache.glob("*.so")
    return path


@pytest.fixture
def compiled_encoder(cache, compiled_once):
    cache.mkdir(parents=True, mode=0o700)
    return Path(shutil.copy(compiled_once, cache))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_made_again(compiled_encoder, cache, damage):
    good = compiled_encoder.read_bytes()
    compiled_encoder.write_bytes(DAMAGES[damage](good))
    assert use_the_encoder(cache) == ("NativeEncoder", 0)
    (path,) = cache.glob("*.so")
    assert path.read_bytes() != DAMAGES[damage](good)


def test_a_damaged_library_without_a_compiler_is_left_aside_with_one_warning(
    compiled_encoder, cache
):
    compiled_encoder.write_bytes(compiled_encoder.read_bytes()[:9000])
    # A compiler of that name and version that compiles nothing.
    fake = cache.parent / "c++"
    real = shutil.which("c++")
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\nexit 1\n')
    fake.chmod(0o755)
    outcome = use_the_encoder(cache, CXX="c++", PATH=f"{cache.parent}:{os.environ['PATH']}")
    assert outcome == ("Encoder", 1)


@pytest.mark.parametrize("kind", ["foreign", "another ABI", "wrong numbers"])
def test_a_whole_library_that_is_another_is_made_again(compiled_encoder, cache, kind, tmp_path):
    """Its name and digest are right; its content is wrong."""
    source = tmp_path / "other.cpp"
    flags = []
    if kind == "foreign":
        source.write_text('extern "C" int size() { return 3; }')
    else:
        native = ROOT / "models" / "native"
        for header in native.glob("*.h"):
            (tmp_path / header.name).write_text(header.read_text())
        code = (native / "encoder.cpp").read_text()
        if kind == "wrong numbers":
            norm = tmp_path / "layer_norm.h"
            right = norm.read_text()
            wrong = right.replace("beta[c];", "beta[c] + 0.01f;", 1)
            assert wrong != right
            norm.write_text(wrong)
        source.write_text(code)
        abi = ABI + 1 if kind == "another ABI" else ABI
        flags = ["-DWIDTH=32", "-DHEADS=8", "-DFEEDFORWARD=128", f"-DABI={abi}"]
    made = tmp_path / "made.so"
    subprocess.run(
        ["c++", "-O0", "-std=c++17", "-fPIC", "-shared", "-pthread", *flags, source, "-o", made],
        check=True,
    )
    stem = compiled_encoder.stem.rpartition("-")[0]
    content = made.read_bytes()
    compiled_encoder.unlink()
    planted = cache / f"{stem}-{whole_digest(made)}.so"
    planted.write_bytes(content)
    assert use_the_encoder(cache) == ("NativeEncoder", 0)
    (path,) = cache.glob("*.so")
    assert path.read_bytes() != content


def test_a_library_is_on_the_disk_before_it_has_its_name(source, cache, monkeypatch):
    size_or_skip(source, SIZE=3)
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), fsync(fd)))
    monkeypatch.setattr(
        compiler.Path, "replace", lambda self, to: (events.append("name"), replace(self, to))
    )
    size_of(source, SIZE=4)
    assert events == ["flush", "name", "flush"]


def test_two_that_compile_at_once_both_have_it(cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    use = program_in(cache.parent)
    with Program(use, env=environment) as first, Program(use, env=environment) as second:
        assert (first.end(), second.end()) == (0, 0)
        assert first.output == second.output


def test_builds_for_lesser_processors_agree(compiled_encoder, tmp_path, monkeypatch):
    """Those flags come after -march=native, and make vectors of 8 and of 4 lanes."""
    if os.uname().machine != "x86_64":
        pytest.skip("these flags are for x86-64")
    monkeypatch.setenv("PATH", quick_compiler(tmp_path))
    torch.manual_seed(0)
    encoder = Encoder(32, 8, 2, 128, 0.4).train()
    x, memory = torch.randn(5, 19, 32), torch.randn(5, 7, 32)
    keys = torch.randint(2**32, (5,))
    runs = []
    for flags in [], ["-mno-avx512f"], ["-mno-avx"]:
        module.library.cache_clear()
        monkeypatch.setattr(compiler, "_PROCESSOR_FLAGS", (("-march=native", *flags),))
        native = NativeEncoder.of(encoder)
        assert isinstance(module.library(32, 8, 128), module.Library)
        output = native(x, memory, None, keys)
        runs.append([output, *torch.autograd.grad(output.sin().sum(), list(native.parameters()))])
    assert len({path.name for path in compiled_encoder.parent.glob("*.so")}) >= 3
    plain, *others = runs
    for results in others:
        for ours, theirs in zip(results, plain, strict=True):
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=0, atol=8e-7 * max(scale, 1))


def test_the_library_says_its_abi_and_the_size_of_a_call(compiled_encoder):
    code = ctypes.CDLL(str(compiled_encoder))
    assert code.abi() == module.ABI
    assert code.call_size() == ctypes.sizeof(Call)

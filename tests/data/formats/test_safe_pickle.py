from __future__ import annotations

import builtins
import os
import pickle
import re
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.formats import safe_pickle
from system.errors import InputError

ARRAYS = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "large": np.arange(5000, dtype=np.float64).reshape(50, 100),
    "float16": np.ones(3, np.float16),
    "big endian": np.arange(4, dtype=">f8"),
    "integers": np.array([[1, -2], [3, 4]]),
    "bytes of colour": np.arange(3, dtype=np.uint8),
    "booleans": np.array([True, False]),
    "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "permuted axes": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "every other row": np.arange(12.0).reshape(6, 2)[::2],
    "no rows": np.zeros((0, 5), np.float32),
    "no dimensions": np.array(2.5),
    "infinite": np.array([-np.inf, np.nan, 0.0]),
    "text": np.array(["don’t", "sp"]),
    "big endian text": np.array(["don’t"], ">U5"),
    "byte text": np.array([b"video", b"1.5"]),
    "objects": np.array([["video", 1.5], [b"bytes", None]], dtype=object),
}
PLAIN = {
    "numbers": [0, -1, 2**70, 1.5, True, None],
    "text": ["", "a" * 300, "don’t", "\ud800"],
    "bytes": [b"", b"\xff" * 300],
    "containers": ({"a": [1, (2, 3)]}, [[]]),
}
SCALARS = [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("word"), np.bytes_(b"word")]


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def short_text(value: bytes) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value


def dumped(value, protocol: int, numpy_version: int = 2) -> bytes:
    """Pickle `value` with the module names of NumPy 1 or 2."""
    content = pickle.dumps(value, protocol)
    if protocol >= 4 and content[2:3] == pickle.FRAME:
        content = content[:2] + content[11:]  # Without its frame, whose length would change.
    old_name, new_name = (b"numpy.core", b"numpy._core")[:: 1 if numpy_version == 2 else -1]
    for part in (b".multiarray", b".numeric"):
        for before, after in (
            (b"c" + old_name + part + b"\n", b"c" + new_name + part + b"\n"),
            (short_text(old_name + part), short_text(new_name + part)),
        ):
            content = content.replace(before, after)
    return content


class Python2Pickler(pickle._Pickler):
    """Writes bytes and ASCII text as Python 2 writes its `str`."""

    def save_string(self, value):
        value = value.encode("ascii") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # noqa: RUF012


def dump_as_python2(value, path):
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump(value)
    content = path.read_bytes().replace(b"numpy._core", b"numpy.core")
    assert b"_codecs" not in content
    return write(path, content)


def same(array: np.ndarray, expected: np.ndarray) -> bool:
    assert type(array) is np.ndarray
    # NumPy itself turns a foreign byte order into the machine's own in some protocols.
    assert array.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    assert array.shape == expected.shape
    return array.tolist() == expected.tolist() or np.array_equal(array, expected, equal_nan=True)


@pytest.mark.parametrize("numpy_version", [1, 2])
@pytest.mark.parametrize("protocol", range(6))
def test_reads_arrays_and_plain_values(tmp_path, protocol, numpy_version):
    value = {"arrays": ARRAYS, "plain": PLAIN, "scalars": SCALARS, 5: ARRAYS["text"]}
    content = dumped(value, protocol, numpy_version)
    assert (b"numpy.core." in content) == (numpy_version == 1)
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", content))
    assert loaded["plain"] == PLAIN
    assert loaded["scalars"] == SCALARS
    assert [type(scalar) for scalar in loaded["scalars"]] == [type(scalar) for scalar in SCALARS]
    for name, array in ARRAYS.items():
        assert same(loaded["arrays"][name], array), name
    assert loaded[5] is loaded["arrays"]["text"]


def test_reads_a_pickle_of_several_frames(tmp_path):
    value = [np.full(9, number, np.float32) for number in range(2000)]
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", pickle.dumps(value, 4)))
    assert np.array_equal(loaded, value)


def test_ordered_dict_comes_back_as_dict_in_order(tmp_path):
    value = OrderedDict([("b", 1), ("a", 2)])
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", pickle.dumps(value, 2)))
    assert type(loaded) is dict
    assert list(loaded.items()) == [("b", 1), ("a", 2)]


def test_bytearray_comes_back_as_bytes(tmp_path):
    """A bytearray's memory would be written before its bytes are known to be there."""
    content = pickle.dumps([bytearray(b"abc")], 5)
    assert pickle.BYTEARRAY8 in content
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", content))
    assert type(loaded[0]) is bytes
    assert loaded == [b"abc"]


def test_python2_text_comes_back_as_bytes_and_arrays_as_they_were(tmp_path):
    arrays = {name: array for name, array in ARRAYS.items() if name != "objects"}
    path = dump_as_python2({"arrays": arrays, "id": [b"caf\xc3\xa9", 1.5]}, tmp_path / "file.pkl")
    loaded = safe_pickle.load(path)
    assert loaded[b"id"] == [b"caf\xc3\xa9", 1.5]
    for name, array in arrays.items():
        assert same(loaded[b"arrays"][name.encode()], array), name


# Instructions, to write hostile pickles by hand.


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def dotted(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL, whose names protocol 4 takes apart at the dots."""
    return short_text(module.encode()) + short_text(attribute.encode()) + pickle.STACK_GLOBAL


def pushed(value) -> bytes:
    """The instructions that put `value` on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


CORE = "numpy.core.multiarray"
EMPTY = called(name(CORE, "_reconstruct"), name("numpy", "ndarray"), pushed((0,)), pushed("b"))


def numpy_type(code: str, *state: object) -> bytes:
    made = called(name("numpy", "dtype"), pushed(code), pushed(False), pushed(True))
    return made + (pushed(state) + b"b" if state else b"")


def filled(shape: tuple, kind: bytes, content: bytes) -> bytes:
    return EMPTY + b"(" + pushed(1) + pushed(shape) + kind + pushed(False) + content + b"tb"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Local:
    def __setstate__(self, state):
        raise AssertionError("ran")


Local.__module__ = "__main__"


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        safe_pickle.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, os.mkdir])
def test_functions_are_refused_by_name_and_do_not_run(tmp_path, function, protocol):
    marker = tmp_path / "marker"
    command = {
        os.system: f"mkdir {marker}",
        os.mkdir: str(marker),
    }.get(function, f"__import__('os').mkdir({str(marker)!r})")
    content = pickle.dumps({"train": Calls(function, command)}, protocol)
    message = refused(write(tmp_path / "file.pkl", content))
    assert f".{function.__name__}," in message
    assert "could run code when loaded" in message
    assert not marker.exists()
    pickle.loads(content)  # It would have run.
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_class_of_main_is_refused_by_name(tmp_path, protocol, monkeypatch):
    monkeypatch.setattr("__main__.Local", Local, raising=False)
    content = pickle.dumps(Local(), protocol)
    message = refused(write(tmp_path / "file.pkl", content))
    assert "__main__.Local" in message or "copy_reg._reconstructor" in message


NAMED = {
    "numpy.load": called(name("numpy", "load"), pushed("x.npy")),
    "numpy.ndarray.tofile": called(dotted("numpy", "ndarray.tofile"), EMPTY, pushed("x")),
    "numpy.dtype.__class__": dotted("numpy", "dtype.__class__"),
    "numpy.core.multiarray._reconstruct.__globals__": dotted(CORE, "_reconstruct.__globals__"),
    "collections.OrderedDict.__init__.__globals__": dotted(
        "collections", "OrderedDict.__init__.__globals__"
    ),
    "builtins.getattr": called(dotted("builtins", "getattr"), EMPTY, pushed("tofile")),
    "numpy.memmap": called(
        name(CORE, "_reconstruct"), name("numpy", "memmap"), pushed((0,)), pushed("b")
    ),
    "torch._utils._rebuild_sparse_tensor": called(name("torch._utils", "_rebuild_sparse_tensor")),
    "torch.load": called(name("torch", "load"), pushed("x.pth")),
    "posix.system (INST)": b"(" + pushed("true") + b"iposix\nsystem\n",
    "posix.system (OBJ)": b"(" + name("posix", "system") + pushed("true") + b"o",
    "data.formats.safe_pickle.load": called(name("data.formats.safe_pickle", "load"), pushed("x")),
    "builtins.bytearray": called(name("builtins", "bytearray"), pushed(10**12)),
    r"numpy\x1b[2J\n.load": dotted("numpy\x1b[2J\n", "load"),
}


@pytest.mark.parametrize("named", NAMED)
def test_anything_else_is_refused_by_name(tmp_path, named):
    message = refused(write(tmp_path / "file.pkl", b"\x80\x04" + NAMED[named] + b"."))
    assert f"holds {named.split(' (')[0]}, which could run code" in message


FIELDS = (3, "<", None, ("a",), {"a": (np.float32, 1 << 40)}, 4, 1, 63)
NATIVE = (3, "<", None, None, None, -1, -1, 0)
STATE = pushed({"__setstate__": 1}) + b"b"
SLOTS = pushed((None, {"__defaults__": 1, "__code__": 1})) + b"b"
TRICKS = {
    "_reconstruct of another class": called(
        name(CORE, "_reconstruct"), name("collections", "OrderedDict"), pushed((0,)), pushed("b")
    ),
    "calling the array class": called(name("numpy", "ndarray"), pushed((1 << 40,))),
    "making the array class": name("numpy", "ndarray") + pushed((1 << 40,)) + b"\x81",
    "a type unfinished": filled((1,), name("numpy", "dtype") + b")\x81", pushed(b"aaaa")),
    "a state for a class": name("numpy", "dtype") + STATE,
    "a state for a function": name(CORE, "scalar") + SLOTS,
    "a state for the array class": name("numpy", "ndarray") + SLOTS,
    "a state for a dict": called(name("collections", "OrderedDict")) + STATE,
    "a dict as an array's state": EMPTY + STATE,
    "a type with fields": numpy_type("f4", *FIELDS[:4], {"a": 1}, *FIELDS[5:]),
    "a void type": numpy_type("V8", *NATIVE),
    "a type that is a list of fields": numpy_type("f4,O"),
    "a type by a made-up byte order": numpy_type("f4", 3, "S", *NATIVE[2:]),
    "a date": numpy_type("M8[ns]"),
    "an object as scalar": called(name(CORE, "scalar"), numpy_type("O8"), pushed(b"a" * 8)),
    "object pointers from bytes": filled((1,), numpy_type("O8"), pushed(b"a" * 8)),
    "objects from a buffer": called(
        name("numpy.core.numeric", "_frombuffer"), pushed(b"a" * 8), numpy_type("O8"),
        pushed((1,)), pushed("C"),
    ),
    "a list for numbers": filled((1,), numpy_type("f4"), pushed([1])),
    "fewer objects than claimed": filled((2,), numpy_type("O8"), pushed([1])),
    "fewer bytes than claimed": filled((2,), numpy_type("f4"), pushed(b"aaaa")),
    "more bytes than claimed": filled((2,), numpy_type("f4"), pushed(b"a" * 12)),
    "a negative shape": filled((-1, -1), numpy_type("f4"), pushed(b"aaaa")),
    "terabytes of numbers": filled((1 << 40,), numpy_type("f4"), pushed(b"")),
    "terabytes of objects": filled((1 << 40,), numpy_type("O8"), pushed([])),
    "terabytes of text": called(name(CORE, "scalar"), numpy_type("S1000000000"), pushed(b"")),
    "a gigabyte of bytes": called(name("builtins", "bytes"), pushed(1 << 30)),
    "a gigabyte of bytes, Python 2": called(name("__builtin__", "bytes"), pushed(1 << 30)),
    "impossible text": filled((1,), numpy_type("U1", 3, "<", *NATIVE[2:]), pushed(b"\0\0\x11\0")),
    "impossible text, big endian": filled(
        (1,), numpy_type("U1", 3, ">", *NATIVE[2:]), pushed(b"\0\x11\0\0")
    ),
    "another codec": called(name("_codecs", "encode"), pushed("a"), pushed("zip")),
    "bytes for the codec": called(name("_codecs", "encode"), pushed(b"a"), pushed("latin1")),
    "a persistent id": pushed("storage") + b"Q",
    "an extension code": b"\x82\x01",
    "an out-of-band buffer": b"\x97",
    "a billion empty texts": filled((10**9,), numpy_type("U0"), pushed(b"")),
    "a billion empty bytes": called(
        name("numpy.core.numeric", "_frombuffer"), pushed(b""), numpy_type("S0"),
        pushed((10**9,)), pushed("C"),
    ),
    "a number of 1.5 GB": called(name(CORE, "scalar"), numpy_type("V1500000000"), pushed(b"")),
    "a shape of many axes": filled((1,) * 100, numpy_type("f4"), pushed(b"aaaa")),
    "a tuple nested deep": b")" + b"\x85" * 60,
    "lists that double": b"](K\x00K\x00e" + b"\x94]" + b"".join(
        b"(h%ch%ce\x94]" % (n, n) for n in range(40)
    ) + b"(h\x28h\x28e",
    "a list within itself": b"]\x94h\x00a",
    "text of a terabyte": b"\x8d" + struct.pack("<Q", 2**40) + b"a",
    "bytes of a terabyte": b"\x8e" + struct.pack("<Q", 2**40) + b"a",
    "a frame of a terabyte": b"\x95" + struct.pack("<Q", 2**40) + b"a",
    "a key that is a huge number": b"}" + pushed((2**61 - 1) * 7) + b"K\x01s",
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused_without_taking_memory(tmp_path, trick):
    path = write(tmp_path / "file.pkl", b"\x80\x05" + TRICKS[trick] + b".")
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


NESTED_KEYS = {
    "in a dict": b"}%bK\x01s",
    "among a dict's": b"}(%bK\x01u",
    "in an old dict": b"(%bK\x01d",
    "in a set": b"\x8f(%b\x90",
    "in a frozen set": b"(%b\x91",
    "in a set of an old protocol": called(name("builtins", "set"), b"](%be"),
    "in an OrderedDict": called(name("collections", "OrderedDict"), b"](%bK\x01\x86e"),
}


@pytest.mark.parametrize("where", NESTED_KEYS)
@pytest.mark.parametrize(
    "key",
    [b")" + b"\x85" * 200_000, b")" + b"2\x86" * 40],
    ids=["hashing it would end the process", "hashing it would never end"],
)
def test_a_key_of_many_parts_is_refused(tmp_path, where, key):
    path = write(tmp_path / "file.pkl", b"\x80\x05" + NESTED_KEYS[where] % key + b".")
    assert "a key of too many parts" in refused(path)


MEGABYTE = 2**20
TEXT = pushed(b"a" * MEGABYTE)
CALL = b"h\xc9h\xc8R"
COPIES = {  # what is called, with what, and how that is repeated
    "text": (name("_codecs", "encode"), pushed(("a" * MEGABYTE, "latin1")), CALL),
    "numbers": (
        name(CORE, "scalar"), numpy_type(f"S{MEGABYTE}") + TEXT + b"\x86", CALL,
    ),
    "sets": (name("builtins", "set"), pushed(([*range(50_000)],)), CALL),
    "dicts": (
        name("collections", "OrderedDict"), pushed(([(key, 0) for key in range(30_000)],)), CALL,
    ),
    "arrays": (
        EMPTY,
        b"(" + pushed(1) + pushed((MEGABYTE,)) + numpy_type("S1") + pushed(False) + TEXT + b"t",
        EMPTY + b"h\xc8b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COPIES)
def test_copies_without_end_are_refused(tmp_path, what):
    """A call takes some bytes of a file, and its result a megabyte each time."""
    function, argument, repeated = COPIES[what]
    named = argument + b"q\xc8" + function + b"q\xc9"
    content = b"\x80\x02](" + named + repeated * 300 + b"e."
    tracemalloc.start()
    try:
        message = refused(write(tmp_path / "file.pkl", content))
        # Arrays may share one's bytes, until they are returned.
        assert re.search("values (far larger than the|of [0-9,]+ bytes in a) file", message)
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()


def test_a_name_of_many_characters_is_told_in_short(tmp_path):
    content = name("torch" + "." * 20_000, "a" * 20_000)
    assert len(refused(write(tmp_path / "file.pkl", content + b"."))) < 1000


def test_what_is_named_again_within_reason_is_read(tmp_path):
    words = ["good", "bad"] * 10_000
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", pickle.dumps([words] * 20, 4)))
    assert loaded == [words] * 20


@pytest.mark.parametrize("protocol", range(6))
def test_keys_may_be_tuples(tmp_path, protocol):
    value = {("video", (1, 2.5)): {1, "a", None}, True: frozenset([b"x"]), "none": set()}
    assert safe_pickle.load(write(tmp_path / "file.pkl", pickle.dumps(value, protocol))) == value


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "file.pkl")
    assert "pipe or a device" in refused(tmp_path / "file.pkl")


def test_parts_of_the_tricks_are_good_alone(tmp_path):
    """The hand-written instructions above are refused for what they try, not for a slip."""
    array = filled((2,), numpy_type("f4", *NATIVE), pushed(b"\0\0\x80?" * 2))
    objects = filled((1,), numpy_type("O8"), pushed(["a"]))
    number = called(name(CORE, "scalar"), numpy_type("f4"), pushed(b"\0\0\x80?"))
    content = b"\x80\x05(" + array + objects + number + b"t."
    loaded = safe_pickle.load(write(tmp_path / "file.pkl", content))
    assert [part.tolist() for part in loaded] == [[1.0, 1.0], ["a"], 1.0]


def test_a_far_memo_place_takes_no_memory(tmp_path):
    path = write(tmp_path / "file.pkl", b"\x80\x02K\x01r" + struct.pack("<I", 1 << 26) + b".")
    tracemalloc.start()
    try:
        assert safe_pickle.load(path) == 1
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_cut_short_anywhere_is_refused(tmp_path, protocol):
    content = pickle.dumps({"train": ARRAYS["float32"], "id": ["a", "b"]}, protocol)
    for length in range(len(content)):
        refused(write(tmp_path / "file.pkl", content[:length]))


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "missing.pkl")
    assert "directory" in refused(tmp_path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    protocol=st.sampled_from([0, 2, 4, 5]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_damaged_bytes_load_or_are_refused(tmp_path, protocol, changes):
    content = bytearray(pickle.dumps([ARRAYS["float32"], SCALARS[0], ARRAYS["objects"]], protocol))
    for position, value in changes:
        content[int(position * len(content))] = value
    path = write(tmp_path / "file.pkl", bytes(content))
    try:
        safe_pickle.load(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1

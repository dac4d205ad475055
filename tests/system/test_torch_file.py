"""Files of torch.save: usual ones are read, malicious ones are refused in a line."""

from __future__ import annotations

import errno
import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from data.formats import safe_pickle
from system.errors import InputError
from system.torch_file import load_torch_file

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
BASE = torch.arange(12.0).reshape(3, 4)
VALUES = {
    "all": BASE,
    "rows": BASE[1:],
    "columns": BASE[:, 2],
    "turned": BASE.t(),
    "none": torch.empty(0, 3),
    "one": torch.tensor(3.5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    **{str(t): torch.ones(3).to(t) for t in (torch.float64, torch.bfloat16, torch.half)},
    **{str(t): torch.ones(3).to(t) for t in (torch.int64, torch.int32, torch.int16, torch.bool)},
    "plain": [None, True, 2**63, -1.5, "é", b"\xff\x00", (1, (2,)), {"a": {3: []}}],
    "ordered": OrderedDict(a=1),
    "state": torch.nn.BatchNorm1d(2).state_dict(),
}


NEGATIVE = torch.fft.rfft(torch.arange(8.0)).conj().imag  # a mark says so, not the storage


@BOTH
def test_a_tensor_that_is_to_be_negated_is_refused(tmp_path, zipped):
    assert NEGATIVE.is_neg()
    path = tmp_path / "file"
    torch.save({"a": NEGATIVE}, path, _use_new_zipfile_serialization=zipped)
    for read in (load, safe_pickle.load):
        with pytest.raises(InputError, match="a view of other values"):
            read(path)


def load(path):
    return load_torch_file(path, "a checkpoint", "give another.")


def refusal(path):
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


def write(path, value, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    else:
        assert found == expected


@BOTH
@pytest.mark.parametrize("name", VALUES)
def test_what_people_save_comes_back(tmp_path, zipped, name):
    path = write(tmp_path / "a.pth", {"it": VALUES[name], "again": VALUES[name]}, zipped)
    found = load(path)
    assert_same(found["it"], VALUES[name])
    assert_same(found["again"], VALUES[name])


@BOTH
def test_numpys_numbers_sets_and_devices_come_back_plain(tmp_path, zipped):
    values = [np.float64(0.1), np.float32(0.5), np.int64(3), np.bool_(True)]
    others = [{1, 2}, torch.Size([3]), torch.device("cpu")]
    found = load(write(tmp_path / "a.pth", [*values, *others], zipped))
    assert found[:4] == [0.1, 0.5, 3, True]
    assert {type(value) for value in found[:4]} == {float, int, bool}
    assert found[4:] == [([1, 2],), ((3,),), ("cpu",)]


STRANGE = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "compressed": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": lambda: torch.empty(3, device="meta"),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "subclass": lambda: torch.ones(2).as_subclass(type("Mine", (torch.Tensor,), {})),
    "repeated": lambda: torch.ones(1).expand(10**9),
    "float8": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "class": lambda: torch.nn.Linear,
    "dtype": lambda: torch.float32,
    "array": lambda: np.ones(2),
    "dtype of NumPy": lambda: np.dtype("V1500000000"),
    "huge number": lambda: 10**5000,
    "deep list": lambda: deep(200),
    "within itself": lambda: recursive(),
    "many": lambda: doubled(40),
    "strange key": lambda: {(1,): 1},
}


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def recursive():
    value = []
    value.append(value)
    return value


def doubled(levels):
    """Few objects, and 2**levels values when they are written out."""
    value = [0]
    for _ in range(levels):
        value = [value, value]
    return value


@BOTH
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore")  # some of these kinds are new, others old
def test_what_is_no_plain_value_is_refused(tmp_path, zipped, kind):
    try:
        value = {"it": STRANGE[kind]()}
        path = write(tmp_path / "a.pth", value, zipped)
    except (NotImplementedError, AttributeError, pickle.PicklingError, RuntimeError):
        pytest.skip("PyTorch does not save it")
    refusal(path)


def with_pickle(path, content, zipped=True, values=bytes(40), keys=("0",)):
    """Write a file of torch.save's form around a pickle."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/data/0", values)
        return path
    torch.save(0, path, _use_new_zipfile_serialization=False)
    head = path.read_bytes()
    torch_pickles = io.BytesIO(head)
    for _ in range(3):
        pickle.load(torch_pickles)
    keys = keys if isinstance(keys, bytes) else pickle.dumps([*keys], 2)
    rest = keys + struct.pack("<q", 10) + values
    path.write_bytes(head[: torch_pickles.tell()] + content + rest)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    digits = pickle.encode_long(value)
    return b"\x8a" + bytes([len(digits)]) + digits


def storage(count=10, kind="FloatStorage", key="0", word="storage"):
    names = text(word) + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    return b"(" + names + number(count) + b"tQ"


def tensor(size=(10,), stride=(1,), offset=0, **options):
    shape = b"".join(b"(" + b"".join(map(number, n)) + b"t" for n in (size, stride))
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**options) + number(offset)
    return call + shape + b"\x89}tR"


@BOTH
def test_the_crafted_tensor_is_one(tmp_path, zipped):
    assert load(with_pickle(tmp_path / "a", b"\x80\x02" + tensor() + b".", zipped)).shape == (10,)


DEEP = b")" + b"\x85" * 200_000  # hashing it would end the process
DOUBLED = b")" + b"2\x86" * 40  # hashing it would never end
CRAFTED = {
    "a long name": b"c" + b"a" * 20_000 + b"\nb\n.",
    "a deep key": b"}" + DEEP + b"Ns.",
    "a deep tuple": DEEP + b".",
    "a deep key in a set": b"\x8f(" + DEEP + b"\x90.",
    "a key that is a huge number": b"}" + number((2**61 - 1) * 7) + b"Ns.",
    "a deep part of a storage": storage()[:-2] + DEEP + b"tQ.",
    "a doubled part of a storage": storage()[:-2] + DOUBLED + b"tQ.",
    "a large bytearray": b"\x96" + struct.pack("<Q", 2**33) + b".",
    "large bytes": b"\x8e" + struct.pack("<Q", 2**33) + b".",
    "many digits": b"I" + b"9" * 100_000 + b"\n.",
    "a long number": b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
    "more storage than there is": tensor(count=10**12) + b".",
    "less storage than there is": tensor((9,), count=9) + b".",
    "a tensor beyond its storage": tensor((10**12,)) + b".",
    "an offset beyond its storage": tensor((1,), (1,), offset=10) + b".",
    "steps beyond its storage": tensor((2, 2), (9, 1)) + b".",
    "steps backwards": tensor((2,), (-1,)) + b".",
    "a size below 0": tensor((-1,)) + b".",
    "a huge size": tensor((2**63, 2**63)) + b".",
    "a huge empty size": tensor((2**70, 0), (1, 1)) + b".",
    "sizes without steps": tensor((10,), ()) + b".",
    "a storage of another kind": tensor(kind="QInt8Storage") + b".",
    "a storage that is not there": tensor(key="../../etc/passwd") + b".",
    "no storage": tensor(word="module") + b".",
    "a tensor called": tensor() + b")R.",
    "an item added to a tensor": tensor() + b"(" + number(1) + b"\x90.",
    "an item set in a tensor": tensor() + number(0) + number(1) + b"s.",
    "items set in a tensor": tensor() + b"(" + number(0) + number(1) + b"u.",
    "an item set in a list": b"](" + number(0) + number(1) + b"u.",
    "a state for a tensor": tensor() + b"}b.",
    "text called": text("a") + b")\x81.",
    "a number of NumPy's": b"cnumpy\ndtype\n(" + text("V1500000000") + b"tR.",
}


@BOTH
@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_pickle_is_refused_in_a_line(tmp_path, zipped, kind):
    refusal(with_pickle(tmp_path / "a.pth", CRAFTED[kind], zipped))


@pytest.mark.parametrize("read", [load, safe_pickle.load])
@pytest.mark.parametrize("key", [DEEP, DOUBLED], ids=["deep", "doubled"])
def test_keys_of_storages_are_text(tmp_path, read, key):
    path = with_pickle(tmp_path / "a.pth", b"\x80\x02N.", False, keys=b"\x80\x02]" + key + b"a.")
    with pytest.raises(InputError):
        read(path)


def test_a_weight_of_many_names_is_read(tmp_path):
    """A layer that a model uses many times is stored once, and read once."""
    weight = torch.arange(2**19)
    names = [f"{number}.weight" for number in range(64)]
    torch.save(dict.fromkeys(names, weight), tmp_path / "tied.pth")
    torch.save({name: weight.view(2, -1) for name in names}, tmp_path / "views.pth")
    for file in ("tied.pth", "views.pth"):
        weights = load(tmp_path / file)
        assert [*weights] == names
        assert torch.equal(weights[names[-1]].flatten(), weight)
        assert len({value.data_ptr() for value in weights.values()}) == 1


def test_copies_of_bfloat16_without_end_are_refused(tmp_path):
    count = 2**19
    call, _, arguments = tensor((count,), count=count, kind="BFloat16Storage").partition(b"(")
    content = call + b"q\0" + b"(" + arguments[:-1] + b"q\1" + b"0h\0h\1R" * 3000 + b"."
    path = with_pickle(tmp_path / "a.pth", b"\x80\x02" + content, values=bytes(2 * count))
    with pytest.raises(InputError, match="values far larger than the file"):
        safe_pickle.load(path)


def test_attributes_in_a_file_reach_no_object(tmp_path):
    """They could hide a dict's methods."""
    content = b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb."
    assert load(with_pickle(tmp_path / "a.pth", content)).items() == {}.items()


def test_compressed_and_overlapping_records_are_refused(tmp_path):
    content = b"\x80\x02" + tensor() + b"."
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(10**7))
    assert "compressed" in refusal(tmp_path / "a.pth")
    path = with_pickle(tmp_path / "b.pth", content)
    true, claimed = (struct.pack("<II", size, size) for size in (40, 2**31))
    path.write_bytes(path.read_bytes().replace(true, claimed))
    assert "larger than the file" in refusal(path)


def test_weights_that_were_changed_on_the_way_are_told(tmp_path):
    path = write(tmp_path / "a.pth", torch.full((100,), 0.5))
    path.write_bytes(path.read_bytes().replace(struct.pack("<ff", 0.5, 0.5), b"changed!", 1))
    assert "its zip archive is damaged" in refusal(path)


@pytest.mark.parametrize("read", [load, safe_pickle.load], ids=["checkpoint", "pickle"])
@pytest.mark.parametrize("offset", [-20, -43, -45, -50])
def test_a_damaged_zip_archive_is_called_damaged(tmp_path, read, offset):
    """Its table has offsets outside the file, which the system calls an invalid argument."""
    path = write(tmp_path / "a.pth", {"weights": torch.ones(100)})
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path}.*\(.*its zip archive is damaged.*copy it again"):
        read(path)


@pytest.mark.parametrize("read", [load, safe_pickle.load], ids=["checkpoint", "pickle"])
def test_a_disk_that_fails_is_no_damage(tmp_path, monkeypatch, read):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    path = write(tmp_path / "a.pth", 1)
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(InputError, match="Input/output error") as caught:
        read(path)
    assert "zip archive is damaged" not in str(caught.value)


@pytest.mark.parametrize("first", [b"#", b"\x00", b"\xff"])
def test_a_file_that_is_no_pickle_at_all_is_told_by_more_than_a_number(tmp_path, first):
    (tmp_path / "a.pth").write_bytes(first + b" notes on the training")
    assert f"; {first[0]:#04x} is no instruction of a pickle); give" in refusal(tmp_path / "a.pth")


@BOTH
def test_a_number_without_end_is_not_quoted_whole(tmp_path, zipped):
    refusal(with_pickle(tmp_path / "a.pth", b"F" + b"x" * 100_000 + b"\n.", zipped))

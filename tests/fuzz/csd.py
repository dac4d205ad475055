"""Hostile computational sequences, from a small data set of four videos."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

from data.fetching.server import MOSEI
from tests.csd_files import TEST_VIDEO, TRAIN_VIDEOS, VAL_VIDEO, random_video
from tests.fuzz.mutate import NUMBERS, STRANGE_TEXT, damaged, each_case

VIDEOS = (*TRAIN_VIDEOS[:2], VAL_VIDEO, TEST_VIDEO)
TARGETS = {source.name: kind for kind, source in MOSEI.sequences.items()}
_LAYOUTS = (
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"chunks": True, "shuffle": True},
    {"chunks": True, "maxshape": (None, None)},
)
_OTHERS = ("secret", "pipe", "/etc/hostname", "/dev/zero", "missing", "../in/secret", ".")
_SIGNATURE = re.compile(rb"TREE|SNOD|HEAP|OHDR|OCHK|FRHP|FHDB|BTHD|FADB|FAHD|EAHD|GCOL|\x89HDF")


@cache
def files(layout: int = 0, latest: bool = False) -> dict[str, bytes]:
    """Return the four sound files, by name."""
    rng = np.random.default_rng(1)
    drawn = {video: random_video(rng, seconds=3, segments=2) for video in VIDEOS}
    return {
        name: _image({video: drawn[video][kind] for video in VIDEOS}, name, layout, latest)
        for name, kind in TARGETS.items()
    }


def _image(entries: dict, name: str, layout: int, latest: bool) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w", libver="latest" if latest else "earliest") as file:
        for video, (intervals, features) in entries.items():
            group = file.create_group(f"{name[:-4]}/data/{video}")
            group.create_dataset("intervals", data=intervals, **_LAYOUTS[layout])
            group.create_dataset("features", data=features, **_LAYOUTS[layout])
    return image.getvalue()


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield what each case is, the file's name first, and its content."""
    return each_case(seed, count, [_bytes, _bytes, _structure, _structure, _structure])


def _draw(rng: random.Random) -> tuple[str, bytes]:
    name = rng.choice(list(TARGETS))
    return name, files(rng.randrange(len(_LAYOUTS)), rng.random() < 0.3)[name]


def _bytes(rng: random.Random) -> tuple[str, bytes]:
    name, content = _draw(rng)
    places = [match.start() for match in _SIGNATURE.finditer(content)]
    return f"{name} damaged bytes", damaged(rng, content, places)


def _structure(rng: random.Random) -> tuple[str, bytes]:
    """Change the structure in another process: HDF5 may not survive to write what it is told."""
    name, content = _draw(rng)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException), os.fdopen(writing, "wb") as pipe:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            pickle.dump(_restructured(rng, name, content), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        made = pipe.read()
    _, status = os.waitpid(pid, 0)
    return pickle.loads(made) if made and not status else (f"{name} as it was", content)


def _restructured(rng: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    done, image = [], io.BytesIO(content)
    with h5py.File(image, "r+") as file:
        for _ in range(rng.choice((1, 1, 2, 3))):
            mutate = rng.choice(_MUTATORS)
            entry = f"{name[:-4]}/data/{rng.choice(VIDEOS)}"
            try:
                done.append(mutate(rng, file, entry, rng.choice(("features", "intervals"))))
            except Exception:  # not all can be done after each other
                done.append(f"({mutate.__name__[1:]} could not be done)")
    content = image.getvalue()
    if rng.random() < 0.1:
        content = damaged(rng, content)
    return f"{name} {', '.join(done)}", content


def _link(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    path = rng.choice((f"{entry}/{name}", entry, entry.rpartition("/")[0], entry.split("/")[0]))
    del file[path]
    if rng.random() < 0.5:
        file[path] = h5py.ExternalLink(rng.choice(_OTHERS), rng.choice(("/", f"/{entry}/{name}")))
        return "outside: external link"
    file[path] = h5py.SoftLink(rng.choice((path, "/", f"/{entry}", "..", "/missing", "././.")))
    return "soft link"


def _hard_link(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    path = rng.choice((f"{entry}/{name}", entry, f"{entry}[1]", f"{entry}x"))
    if path in file:
        del file[path]
    keys: list[str] = []
    file.visit(keys.append)
    file[path] = file[rng.choice(["/", *keys])]
    return "hard link"


def _external(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    old = file[f"{entry}/{name}"]
    shape, dtype = old.shape, old.dtype
    del file[f"{entry}/{name}"]
    size = rng.choice((old.nbytes if old else 10**4, 1, 2**40, h5py.h5f.UNLIMITED))
    external = [(rng.choice(_OTHERS), rng.choice((0, 8)), size)]
    file[entry].create_dataset(name, shape, dtype, external=external)
    return "outside: external storage"


def _virtual(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    shape, dtype = file[f"{entry}/{name}"].shape, file[f"{entry}/{name}"].dtype
    del file[f"{entry}/{name}"]
    is_open = rng.random() < 0.5
    options = {"maxshape": (None, shape[1])} if is_open else {}
    layout = h5py.VirtualLayout(shape, dtype, **options)
    other = rng.choice((*_OTHERS, "part%b.h5"))
    source = h5py.VirtualSource(other, f"/{entry}/{name}", shape, dtype, **options)
    if is_open:
        layout[: h5s.UNLIMITED] = source[: h5s.UNLIMITED]
    else:
        layout[:] = source
    file[entry].create_virtual_dataset(name, layout)
    return "outside: virtual dataset"


def _settings(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    """Make a dataset with any filters, shape and type, and write any bytes for its chunks."""
    del file[f"{entry}/{name}"]
    settings = h5p.create(h5p.DATASET_CREATE)
    rank = rng.choice((1, 2, 2, 2, 2, 3))
    sizes = (0, 1, 2, 3, 35, 74, 10_000, 2**20, 2**31, 2**40, 2**62)
    shape = tuple(rng.choice(sizes) for _ in range(rank))
    if rng.random() < 0.8:
        chunk = tuple(min(max(n, 1), rng.choice((1, 7, 4096, 2**20, 2**28))) for n in shape)
        settings.set_chunk(chunk)
        for _ in range(rng.choice((0, 1, 1, 2))):
            code = rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 32000, 32015, 9999, 65535))
            values = tuple(rng.choice(NUMBERS) % 2**32 for _ in range(rng.randrange(4)))
            settings.set_filter(code, h5z.FLAG_OPTIONAL, values or (6,))
    most = tuple(rng.choice((n, h5s.UNLIMITED)) for n in shape)
    space = h5s.create_simple(shape, most if settings.get_layout() == h5d.CHUNKED else shape)
    kind = rng.choice((h5t.IEEE_F32LE, h5t.IEEE_F64BE, h5t.STD_I8LE, h5t.C_S1))
    dataset = h5d.create(file[entry].id, name.encode(), kind, space, settings)
    if settings.get_layout() == h5d.CHUNKED and rng.random() < 0.8:
        dataset.write_direct_chunk((0,) * rank, _chunk(rng), rng.choice((0, 0, 0, 1, 2**32 - 1)))
    return f"shape {shape}, {settings.get_nfilters()} filters"


def _chunk(rng: random.Random) -> bytes:
    content = zlib.compress(bytes(rng.choice((0, 60, 280, 4096, 2**24, 2**28))), 1)
    return rng.choice((content, content[:-2], damaged(rng, content), rng.randbytes(100), b""))


def _chunks(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    """Write other bytes for the chunks that are there."""
    dataset = file[f"{entry}/{name}"].id
    info = dataset.get_chunk_info(rng.randrange(dataset.get_num_chunks()))
    content = rng.choice((_chunk(rng), zlib.compress(rng.randbytes(info.size))))
    dataset.write_direct_chunk(info.chunk_offset, content, rng.choice((0, 0, 1, 2, 7)))
    return "other chunk"


def _type(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    n, width = file[f"{entry}/{name}"].shape
    del file[f"{entry}/{name}"]
    kinds = (
        *("f2", ">f8", "i1", "<u8", "c8", "?", "S1", "S300", "V7", "f4,i4", "(3,)f4", "f16"),
        *(h5py.string_dtype(), h5py.vlen_dtype("f4"), h5py.ref_dtype, h5py.regionref_dtype),
        *(h5py.string_dtype("ascii", 8), h5py.enum_dtype({"a": 1}), h5py.opaque_dtype("M8[s]")),
    )
    kind = rng.choice(kinds)
    options = rng.choice(({}, {"compression": "gzip"}, {"maxshape": (None, None)}))
    dataset = file[entry].create_dataset(name, (n, width), kind, **options)
    if rng.random() < 0.7:
        value = rng.choice((b"word", "a" * 70_000, 1, float("nan"), -5))
        dataset[:] = np.full((n, width), value, object if "S" in str(kind) else None)
    return f"type {kind}"


def _values(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    dataset = file[f"{entry}/{name}"]
    values = dataset[:]
    if values.dtype.kind == "S":
        words = [text.encode(errors="surrogatepass")[:32] for text in STRANGE_TEXT]
        values[rng.randrange(len(values))] = rng.choice((*words, b"\xff\xfe", b"a  "))
    else:
        numbers = (np.nan, np.inf, -np.inf, 1e300, -1e300, 0, -0.0, 5e-324, 7, 1e9)
        rows = rng.choice((slice(None), slice(0, 1), slice(None, None, 2)))
        with np.errstate(all="ignore"):
            values[rows, rng.choice((0, -1, slice(None)))] = rng.choice(numbers)
    dataset[:] = values
    return "values"


def _length(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    values = file[f"{entry}/{name}"][:]
    del file[f"{entry}/{name}"]
    rows = rng.choice((0, 1, len(values) - 1, len(values) * 2))
    columns = rng.choice((None, None, 1, 0))
    file[f"{entry}/{name}"] = np.resize(values[:, :columns], (rows, values.shape[1]))
    return f"{rows} rows"


def _space(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    path = rng.choice((f"{entry}/{name}", entry, entry.rpartition("/")[0]))
    del file[path]
    scalar, empty, named = np.float32(1), h5py.Empty("f4"), np.dtype("f4")
    file[path] = rng.choice((scalar, empty, named, "text", np.zeros((2, 3, 4))))
    return "another object"


def _name(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    new = rng.choice((b"\xff\xfe", b"a\ra", b".", b"x[", b"[1]", b"a" * 60_000, "é".encode(), b" "))
    path = rng.choice((entry, entry.rpartition("/")[0], f"{entry}/{name}"))
    parent, _, old = path.rpartition("/")
    group = file[parent].id
    group.links.move(old.encode(), group, new)
    return "another name"


def _attribute(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    place = file[rng.choice((entry, f"{entry}/{name}"))]
    place.attrs["note"] = rng.choice(("text", np.zeros(5000), h5py.Empty("f4"), place.ref))
    return "attribute"


def _more(rng: random.Random, file: h5py.File, entry: str, name: str) -> str:
    """Add parts to a video, or objects to the file."""
    path = rng.choice((f"{entry}[{rng.choice(('0', '1', '-1', 'a'))}]", "other", "a/b/c"))
    file.copy(entry, path)
    return "more entries"


_MUTATORS = (
    *(_link, _hard_link, _external, _virtual, _settings, _settings, _chunks, _type, _type),
    *(_values, _values, _length, _space, _name, _attribute, _more),
)

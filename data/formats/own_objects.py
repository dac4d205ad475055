"""Opening what an HDF5 file holds itself, and nothing that it points to.

A name in such a file may be a link, into another file too, and a dataset may say that its values
lie in other files: any that the user may read. Whether it does is looked at before it is opened.
"""

from __future__ import annotations

from typing import TypeVar

from h5py import h5d, h5g, h5l, h5o, h5p, h5z
from h5py._objects import ObjectID

from data.formats.object_header import HeaderReader
from system.errors import InputError, first_line

Found = TypeVar("Found", bound=ObjectID)

# In the order in which they are used when writing. Others would be looked for outside the file.
_FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
_ADVICE = "use the file as it was published"


def names_in(group: h5g.GroupID, where: str) -> list[str]:
    """Return the names in a group; raises InputError, which begins with `where`, for odd ones.

    A name of what is elsewhere is odd, too.
    """
    links: dict[bytes, int] = {}
    group.links.iterate(lambda name, info: links.update({name: info.type}), info=True)
    try:
        names = [name.decode() for name in links]
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the name {_quoted(error.object)} is not UTF-8.") from error
    for name, kind in zip(names, links.values(), strict=True):
        if "/" in name or name in (".", ""):  # which would lead elsewhere
            raise InputError(f"{where}: an entry has the name {_quoted(name.encode())}; {_ADVICE}.")
        _refuse_link(kind, name, where)
    return names


def _refuse_link(kind: int, name: str, where: str) -> None:
    if kind != h5l.TYPE_HARD:
        to = "" if kind == h5l.TYPE_SOFT else " into another file"
        what = f"{_quoted(name.encode())} is a link{to}, which is not followed"
        raise InputError(f"{where}: {what}; {_ADVICE}.")


def link_to(group: h5g.GroupID, name: str, where: str) -> h5l.LinkInfo | None:
    """Look up where an object of a group is, None when there is none.

    Raises InputError, which begins with `where`, when it is elsewhere.
    """
    try:
        link = group.links.get_info(name.encode())
    except RuntimeError:
        return None
    _refuse_link(link.type, name, where)
    return link


def find(
    kind: type[Found], headers: HeaderReader, group: h5g.GroupID, name: str, where: str
) -> Found | None:
    """Open the `kind` of object called `name` in `group`; None when there is none.

    Raises InputError, which begins with `where`, when it, or what it is made of, is elsewhere.
    """
    link = link_to(group, name, where)
    if link is None:
        return None
    if headers.is_virtual(link):
        what = f"{_quoted(name.encode())} is a virtual dataset, made of other ones"
        raise InputError(f"{where}: {what}; {_ADVICE}.")
    try:
        found = h5o.open(group, name.encode())
    except KeyError as error:  # there is one
        raise OSError(first_line(error)) from error
    return found if isinstance(found, kind) else None


def own_filters(settings: h5p.PropDCID, where: str) -> list[int]:
    """Return the filters of a dataset's chunks, in the order of writing.

    Raises InputError, which begins with `where`, when its values are to come from other files,
    or through a filter that is not among HDF5's simple ones.
    """
    if settings.get_layout() == h5d.VIRTUAL:
        raise InputError(f"{where} is a virtual dataset, made of other ones; {_ADVICE}.")
    if settings.get_external_count():
        raise InputError(f"{where} has its values in external storage; {_ADVICE}.")
    filters: list[int] = []
    for index in range(settings.get_nfilters()):
        code, _, _, name = settings.get_filter(index)
        if code not in _FILTERS[1 + _FILTERS.index(filters[-1]) if filters else 0 :]:
            what = f"the filter {code} ({_quoted(name)})"
            raise InputError(f"{where} has {what}, expected gzip; save it again with gzip.")
        filters.append(code)
    return filters


def _quoted(name: bytes) -> str:
    return name[:60].decode(errors="replace")

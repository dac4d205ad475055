"""Opening objects that an HDF5 file holds itself, and refusing those that it points to.

A name in such a file may be a link, also into another file, and a dataset may have its values in
other files: any that the user can read. This is checked before an object is opened.
"""

from __future__ import annotations

from typing import TypeVar

from h5py import h5d, h5g, h5l, h5o, h5p, h5z
from h5py._objects import ObjectID

from data.formats.group_index import check_group_index
from data.formats.object_header import HeaderReader
from system.errors import InputError

Object = TypeVar("Object", bound=ObjectID)

# In the order in which they are used when writing. HDF5 would load others as plug-ins.
_FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
_ADVICE = "use the file as it was published"


def names_in(headers: HeaderReader, group: h5g.GroupID, where: str) -> list[str]:
    """Return the names in a group.

    Raises InputError, which begins with `where`, for a name that is no plain one, or a link.
    """
    check_group_index(headers, h5g.get_objinfo(group).objno[0])
    links: dict[bytes, int] = {}
    group.links.iterate(lambda name, info: links.update({name: info.type}), info=True)
    try:
        names = [name.decode() for name in links]
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the name {_quoted(error.object)} is not UTF-8.") from error
    for name, kind in zip(names, links.values(), strict=True):
        if "/" in name or name in (".", ""):  # HDF5 reads these as paths
            raise InputError(f"{where}: an entry has the name {_quoted(name.encode())}; {_ADVICE}.")
        _refuse_link(kind, name, where)
    return names


def _refuse_link(kind: int, name: str, where: str) -> None:
    if kind != h5l.TYPE_HARD:
        target = "" if kind == h5l.TYPE_SOFT else " into another file"
        problem = f"{_quoted(name.encode())} is a link{target}, which is not followed"
        raise InputError(f"{where}: {problem}; {_ADVICE}.")


def link_to(group: h5g.GroupID, name: str, where: str) -> h5l.LinkInfo | None:
    """Return the link to an object of a group, None if there is none.

    Raises InputError, which begins with `where`, if the object is not in this file.
    """
    try:
        link = group.links.get_info(name.encode())
    except RuntimeError:
        return None
    _refuse_link(link.type, name, where)
    return link


def open_object(
    kind: type[Object], headers: HeaderReader, group: h5g.GroupID, name: str, where: str
) -> Object | None:
    """Open the object `name` of a `group`; None if there is none, or it is of another kind.

    Raises InputError, which begins with `where`, if it or its values are not in this file.
    """
    link = link_to(group, name, where)
    if link is None:
        return None
    if headers.is_virtual(link):
        problem = f"{_quoted(name.encode())} is a virtual dataset, made of other ones"
        raise InputError(f"{where}: {problem}; {_ADVICE}.")
    opened = h5o.open(group, name.encode())
    return opened if isinstance(opened, kind) else None


def checked_filters(settings: h5p.PropDCID, where: str) -> list[int]:
    """Return the filters of a dataset's chunks, in the order of writing.

    Raises InputError, which begins with `where`, if its values are in other files, or a filter is
    not one of `_FILTERS`, or they are in another order.
    """
    if settings.get_layout() == h5d.VIRTUAL:
        raise InputError(f"{where} is a virtual dataset, made of other ones; {_ADVICE}.")
    if settings.get_external_count():
        raise InputError(f"{where} has its values in external storage; {_ADVICE}.")
    filters: list[int] = []
    for index in range(settings.get_nfilters()):
        code, _, _, name = settings.get_filter(index)
        if code not in _FILTERS[1 + _FILTERS.index(filters[-1]) if filters else 0 :]:
            found = f"the filter {code} ({_quoted(name)})"
            raise InputError(f"{where} has {found}, expected gzip; save it again with gzip.")
        filters.append(code)
    return filters


def _quoted(name: bytes) -> str:
    return name[:60].decode(errors="replace")

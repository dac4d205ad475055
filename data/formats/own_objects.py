"""Opening what an HDF5 file holds itself, and nothing that it points to in other files.

A name in such a file may be a link into another one, and a dataset may say that its values lie
in other files: any that the user may read. Whether it does is looked at before it is opened.
"""

from __future__ import annotations

from typing import TypeVar

from h5py import h5d, h5f, h5g, h5l, h5o, h5p, h5z
from h5py._objects import ObjectID

from data.formats.object_header import HeaderReader
from system.errors import InputError, first_line

Found = TypeVar("Found", bound=ObjectID)

_MOST_LINKS = 8  # one after another
# In the order in which they are used when writing. Others would be looked for outside the file.
_FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
_ADVICE = "use the file as it was published"


def names_in(group: h5g.GroupID, where: str) -> dict[str, bool]:
    """Return the names in a group, and whether each is the object itself rather than a link.

    Raises InputError, which begins with `where`, for odd names.
    """
    kinds: dict[bytes, int] = {}
    group.links.iterate(lambda name, info: kinds.update({name: info.type}), info=True)
    try:
        texts = {name.decode(): kind == h5l.TYPE_HARD for name, kind in kinds.items()}
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the name {_quoted(error.object)} is not UTF-8.") from error
    for name in texts:
        if "/" in name or name in (".", ""):  # which would lead elsewhere
            raise InputError(f"{where}: an entry has the name {_quoted(name.encode())}; {_ADVICE}.")
    return texts


class OwnObjects:
    """Opens objects of an HDF5 file."""

    def __init__(self, file: h5f.FileID) -> None:
        self.headers = HeaderReader(file)

    def link_to(self, group: h5g.GroupID, path: str) -> h5l.LinkInfo | None:
        """Look an object of an entry up that is itself in the file; None where it is elsewhere."""
        try:
            link = group.links.get_info(path.encode())
        except (RuntimeError, KeyError):
            return None
        return link if link.type == h5l.TYPE_HARD else None

    def open_directly(
        self, group: h5g.GroupID, path: str, link: h5l.LinkInfo
    ) -> h5d.DatasetID | None:
        """Open the dataset that `link_to` has found; None where it is not one, or not as plain."""
        try:
            return None if self.headers.is_virtual(link) else h5d.open(group, path.encode())
        except (RuntimeError, KeyError):
            return None

    def find(self, kind: type[Found], group: h5g.GroupID, name: str, where: str) -> Found | None:
        """Open the `kind` of object called `name` in `group`; None when there is none.

        Raises InputError, which begins with `where`, when it is a link out of the file.
        """
        try:
            found = self._open(group, name.encode(), where, _MOST_LINKS)
        except KeyError:
            return None
        return found if isinstance(found, kind) else None

    def _open(self, group: h5g.GroupID, name: bytes, where: str, links_left: int) -> ObjectID:
        try:
            link = group.links.get_info(name)
        except RuntimeError as error:
            if group.links.exists(name):
                raise
            raise KeyError(f"no {_quoted(name)}") from error
        if link.type == h5l.TYPE_HARD:
            if self.headers.is_virtual(link):
                raise InputError(
                    f"{where}: {_quoted(name)} is a virtual dataset, made of other ones; {_ADVICE}."
                )
            try:
                return h5o.open(group, name)
            except KeyError as error:  # there is one
                raise OSError(first_line(error)) from error
        if link.type != h5l.TYPE_SOFT:
            what = f"{_quoted(name)} is a link into another file, which is not followed"
            raise InputError(f"{where}: {what}; {_ADVICE}.")
        if not links_left:
            raise InputError(f"{where}: {_quoted(name)} is a link to links without end; {_ADVICE}.")
        target = group.links.get_val(name)
        place = h5o.open(group, b"/") if target.startswith(b"/") else group
        for part in target.split(b"/"):
            if part not in (b"", b"."):
                if not isinstance(place, h5g.GroupID):
                    raise KeyError(f"{_quoted(name)} leads nowhere")
                place = self._open(place, part, where, links_left - 1)
        return place


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

"""Files in the safetensors format: tensors, and one JSON value beside them.

The format holds nothing that could run; the library checks each size against the file's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.file_kind import refuse_unread
from system.files import write_bytes

SUFFIX = ".safetensors"
KEY = "checkpoint"  # of the JSON value in a file's metadata, a dict of texts
_MOST_TENSORS = 50_000  # of which a BERT has a few hundred; each takes much more time than bytes


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], value: Any) -> None:
    """Write tensors, and `value` as JSON; a kill leaves the old file or the new."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: x.clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
    content = save(copies, {KEY: json.dumps(value)})
    write_bytes(path, content)


def load_safetensors(path: Path, advice: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors, on the CPU, and the JSON value, `{}` where there is none.

    Raises InputError, which ends with `advice`, when the file is damaged.
    """
    from safetensors import safe_open

    try:
        with ExitStack() as stack:
            name = str(path)
            if name.encode(errors="replace").decode() != name:  # no UTF-8: the library refuses it
                name = f"/dev/fd/{stack.enter_context(path.open('rb')).fileno()}"
            file = stack.enter_context(safe_open(name, "pt"))
            value = json.loads((file.metadata() or {}).get(KEY, "{}"))
            names = file.keys()
            if len(names) > _MOST_TENSORS:
                raise ValueError(f"it has {len(names):,} tensors")
            return {name: file.get_tensor(name) for name in names}, value
    except OSError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        refuse_unread(error, path, f"a {SUFFIX} file", advice)

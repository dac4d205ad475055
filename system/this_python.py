"""Import this first but for `early_interrupt`: a Python that cannot run the programs is told so.

Like the programs themselves, it must stay readable for Python 3.7.
"""

import sys

_ADVICE = "use .venv/bin/python (make demo creates it)"


def describe_missing(package: str) -> str:
    """Return what to do where a package cannot be found."""
    return (
        f"package {package} is missing in this Python ({sys.executable}); {_ADVICE}, or pip "
        "install -r requirements.txt"
    )


def _refuse(message: str) -> None:
    print(f"error: {message}.", file=sys.stderr)
    raise SystemExit(2)


if sys.version_info < (3, 10):  # noqa: UP036
    _refuse(
        f"Python {sys.version.split()[0]} ({sys.executable}) is too old, expected 3.10 or newer; "
        f"{_ADVICE}"
    )
try:
    import colorama  # noqa: F401  # which printing an error needs
except ModuleNotFoundError:
    _refuse(describe_missing("colorama"))

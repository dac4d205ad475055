"""How PyTorch's threads wait for each other. Import this before PyTorch, which reads it once.

By default a thread of OpenMP that waits spins for milliseconds. On a machine with other work the
thread that it waits for may not be running at all: then all of them are held up, many times over.
"""

import os

_SPINS = "1000"  # microseconds; then the system wakes the thread, which costs some ten of them
_OF_THE_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

if not any(name in os.environ for name in _OF_THE_USERS):
    os.environ["GOMP_SPINCOUNT"] = _SPINS

"""A PostgreSQL server on loopback, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

_USER, _PASSWORD = "nhfnet", "secret"


def _find(program):
    """Return a program's path; Debian has a folder for each version."""
    folders = [os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(program, path=os.pathsep.join(folders))


def _account():
    """The account that the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


needs_postgresql = pytest.mark.skipif(
    not (_find("initdb") and _find("pg_ctl") and find_spec("psycopg")),
    reason="needs PostgreSQL's programs and psycopg",
)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a server, whose folder its account may reach; stopped at the end."""
    account = _account()
    base = Path("/tmp") if account else tmp_path_factory.mktemp("server")
    folder = base / f"nhfnet-postgresql-{os.getpid()}"
    folder.mkdir(mode=0o700)
    (folder / "password").write_text(_PASSWORD)
    kwargs = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    kwargs |= {"cwd": folder, "timeout": 120}
    if account:
        kwargs |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for path in (folder, folder / "password"):
            os.chown(path, account.pw_uid, account.pw_gid)
    data, options = str(folder / "data"), ["-U", _USER, "--pwfile", str(folder / "password")]
    subprocess.run([_find("initdb"), "-D", data, "-A", "scram-sha-256", "-N", *options], **kwargs)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen = f"-h 127.0.0.1 -p {port} -k {folder} -F"  # -F: no test needs it after a power cut
    log = ["-l", str(folder / "log")]
    subprocess.run([_find("pg_ctl"), "-D", data, *log, "-w", "-o", listen, "start"], **kwargs)
    yield f"127.0.0.1:{port}"
    subprocess.run([_find("pg_ctl"), "-D", data, "-m", "immediate", "stop"], **kwargs)
    shutil.rmtree(folder)


@pytest.fixture
def postgresql(server, request):
    """The URL of an empty database, as --storage takes it, with a password."""
    import psycopg

    name = f"test_{abs(hash(request.node.name))}"
    address = f"{_USER}:{_PASSWORD}@{server}"
    with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://{address}/{name}"

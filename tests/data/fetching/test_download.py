"""Fetching files, from a real server that breaks off, refuses, changes its mind or is down."""

from __future__ import annotations

import errno
import signal
import socket
import tempfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.fetching import download as module
from data.fetching import part
from data.fetching.download import checked_host
from data.fetching.server import CMU_HOST
from data.formats.csd import check_csd
from system.errors import InputError
from tests.http_server import NOTHING_THERE, Answer, Server, address_of_nobody, running_server

CONTENT = bytes(range(256)) * 2
DATE = "Mon, 15 Jan 2018 10:00:00 GMT"
HTML = b"<!DOCTYPE html><title>Sign in</title>"
File = partial(Answer, CONTENT, etag='"v1"')
ALTERNATIVES = ("--mirror", "--csd", "--from")

download = partial(module.download, first_pause=0.0)


def accept(part: Path) -> None:
    assert part.exists()


def refuse_html(part: Path) -> None:
    if part.read_bytes().startswith(b"<"):
        raise InputError(f"{part} is not an HDF5 file")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def running():
    with running_server() as server:
        yield server


@pytest.fixture
def server(running) -> Server:
    running.answer(File())
    return running


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "raw" / "words.csd"


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses asked for, none of them made."""
    made: list[float] = []
    monkeypatch.setattr(module, "sleep", made.append)
    return made


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def assert_only(target: Path, content: bytes = CONTENT) -> None:
    """The target is there, whole, and nothing else."""
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def interrupt_after(server: Server, target: Path, length: int, **options) -> None:
    """One call that gets `length` bytes and then gives up."""
    server.answer(File(**({"cut_after": length} | options)))
    with pytest.raises(InputError):
        download(server.url, target, accept, attempts=1)
    assert not target.exists()
    server.answer(File())


# ---- it works ----


def test_a_whole_file_in_one_request(server, target):
    download(f"{server.url}/a/words.csd", target, accept)
    assert_only(target)
    (request,) = server.requests
    assert (request.path, request.range, request.encoding) == ("/a/words.csd", None, "identity")


def test_the_check_sees_the_whole_part_before_the_target_exists(server, target):
    seen = []
    download(server.url, target, lambda part: seen.append((part.read_bytes(), target.exists())))
    assert seen == [(CONTENT, False)]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(server, target, monkeypatch):
    events, rename = [], Path.replace
    monkeypatch.setattr(part, "flush_file", lambda path: events.append(("content", path)))
    monkeypatch.setattr(part, "flush_folder", lambda path: events.append(("names", path)))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append(("name", to)), rename(self, to))[1]
    )
    download(server.url, target, accept)
    finish = [("content", part_of(target)), ("name", target), ("names", target.parent)]
    assert events[-3:] == finish


def test_an_older_target_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    download(server.url, target, accept)
    assert_only(target)


@pytest.mark.parametrize("content", [b"", b"x"])
def test_tiny_files(server, target, content):
    server.answer(Answer(content))
    download(server.url, target, accept)
    assert_only(target, content)


def test_a_file_of_unsaid_length(server, target):
    server.answer(File(says_length=False))
    download(server.url, target, accept)
    assert_only(target)


def test_what_a_server_compresses_unasked_reaches_the_check_as_it_came(server, target):
    server.answer(Answer(b"no gzip at all", headers={"Content-Encoding": "gzip"}))
    download(server.url, target, accept)
    assert_only(target, b"no gzip at all")


# ---- it breaks and goes on ----


@pytest.mark.parametrize("validator", [{"etag": '"v1"'}, {"etag": None, "last_modified": DATE}])
def test_cuts_are_resumed_within_a_call(server, target, validator):
    server.answer(
        *(File(cut_after=100, **validator) for _ in range(3)), Answer(CONTENT, **validator)
    )
    download(server.url, target, accept, attempts=2)
    assert_only(target)
    ranges = [request.range for request in server.requests]
    assert ranges == [None, "bytes=100-", "bytes=200-", "bytes=300-"]
    expected = validator["etag"] or DATE
    assert [request.if_range for request in server.requests] == [None, expected, expected, expected]
    assert sum(request.sent for request in server.requests) == len(CONTENT)


def test_a_second_call_asks_only_for_the_rest(server, target):
    interrupt_after(server, target, 300)
    assert part_of(target).read_bytes() == CONTENT[:300]
    download(server.url, target, accept)
    assert_only(target)
    (request,) = server.requests
    assert (request.range, request.sent) == ("bytes=300-", len(CONTENT) - 300)


def test_ctrl_c_keeps_the_part(server, target):
    content = CONTENT * 1000
    # What starts the tests may ignore the signal, and a process inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press_ctrl_c() -> None:
        deadline = monotonic() + 5
        while not part_of(target).stat().st_size and monotonic() < deadline:
            sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        # Held open until the client, not the server, has ended it.
        interrupted.wait(5)

    interrupted = threading.Event()
    whole = Answer(content, etag='"big"')
    server.answer(Answer(content, etag='"big"', cut_after=400_000, before_cut=press_ctrl_c))
    with pytest.raises(KeyboardInterrupt):
        download(server.url, target, accept)
    interrupted.set()
    signal.signal(signal.SIGINT, before)
    size = part_of(target).stat().st_size
    assert size > 0
    server.answer(whole)
    download(server.url, target, accept)
    assert_only(target, content)
    assert [request.range for request in server.requests] == [f"bytes={size}-"]


def test_a_server_may_send_less_than_the_rest(server, target):
    server.answer(File(cut_after=10), File(at_most=100), File(at_most=200), File())
    download(server.url, target, accept)
    assert_only(target)
    assert [request.sent for request in server.requests] == [10, 100, 200, len(CONTENT) - 310]


def test_less_than_the_rest_of_unsaid_length_is_not_the_rest(server, target):
    unsaid = File(at_most=100, headers={"Content-Range": "bytes 10-109/*"})
    server.answer(File(cut_after=10), unsaid, File())
    download(server.url, target, accept)
    assert_only(target)


def test_no_range_is_asked_for_while_there_is_nothing(server, target):
    server.answer(File(cut_after=0), File())
    download(server.url, target, accept)
    assert_only(target)
    assert [request.range for request in server.requests] == [None, None]


def test_a_reset_connection_is_tried_again(server, target):
    server.answer(File(cut_after=10, reset=True), File())
    download(server.url, target, accept)
    assert_only(target)


def test_a_silent_server_is_tried_again(server, target, monkeypatch, capsys):
    monkeypatch.setattr(module, "_CONNECT_AND_READ_SECONDS", (5.0, 0.05))
    given_up = threading.Event()
    server.answer(File(cut_after=10, before_cut=partial(given_up.wait, 5)), File())
    download(server.url, target, accept)
    given_up.set()
    assert_only(target)
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_is_waited_out(server, target, status):
    interrupt_after(server, target, 300)
    server.answer(Answer(HTML, status=status), Answer(HTML, status=status), File())
    download(server.url, target, accept)
    assert_only(target)
    assert [request.range for request in server.requests] == ["bytes=300-"] * 3


def test_what_a_server_says_does_not_control_the_terminal(server, target, capsys):
    server.answer(Answer(status=503, reason="\x1b]0;title\x07"), File())
    download(server.url, target, accept)
    assert r"it answered 503 \x1b]0;title\x07; next attempt" in capsys.readouterr().err


def test_an_ignored_range_starts_over(server, target):
    interrupt_after(server, target, 300)
    server.answer(File(heeds_range=False))
    download(server.url, target, accept)
    assert_only(target)
    assert [request.sent for request in server.requests] == [len(CONTENT)]


def test_always_cut_at_the_same_place_comes_to_an_end(server, target):
    server.answer(File(heeds_range=False, cut_after=100))
    with pytest.raises(InputError):
        download(server.url, target, accept, attempts=3)
    assert [request.range for request in server.requests] == [None, "bytes=100-", "bytes=100-"]
    assert part_of(target).read_bytes() == CONTENT[:100]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted"])
def test_without_a_validator_it_starts_over(server, target, etag):
    interrupt_after(server, target, 300, etag=etag)
    download(server.url, target, accept)
    assert_only(target)
    assert [request.range for request in server.requests] == [None]


@pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"url": 1}', "\x00"])
def test_a_part_of_unknown_origin_is_not_trusted(server, target, note):
    target.parent.mkdir()
    part_of(target).write_bytes(b"who knows")
    if note is not None:
        part_of(target).with_name(f"{target.name}.part.json").write_text(note)
    download(server.url, target, accept)
    assert_only(target)


def test_a_part_from_another_address_is_not_continued(server, target):
    interrupt_after(server, target, 300)
    other = CONTENT[::-1]
    server.answer(Answer(other, etag='"v1"'))
    download(f"{server.url}/other", target, accept)
    assert_only(target, other)


def test_a_part_stays_until_another_address_delivers(server, target):
    interrupt_after(server, target, 300)
    server.answer(Answer(status=404))
    with pytest.raises(InputError):
        download(f"{server.url}/other", target, accept)
    server.answer(File())
    download(server.url, target, accept)
    assert [request.range for request in server.requests] == ["bytes=300-"]


# ---- the file changes on the server ----

CHANGED = {
    "told by If-Range": Answer(CONTENT[::-1], etag='"v2"'),
    "If-Range ignored, another validator": Answer(CONTENT[::-1], etag='"v2"', heeds_if_range=False),
    "If-Range ignored, another length": Answer(CONTENT[::-1] + b"more", heeds_if_range=False),
    "If-Range ignored, shorter than the part": Answer(CONTENT[-99:], heeds_if_range=False),
    "If-Range ignored, as long as the part": Answer(
        CONTENT[-300:], etag='"v2"', heeds_if_range=False
    ),
    "If-Range ignored, empty": Answer(b"", heeds_if_range=False),
}


@pytest.mark.parametrize("now", CHANGED.values(), ids=CHANGED)
def test_no_bytes_of_the_old_file_remain(server, target, now):
    server.answer(File(cut_after=300), now)
    download(server.url, target, accept)
    assert_only(target, now.content)


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-9/512", "bytes 299-511/512", "bytes 300-511/513", "bytes */512", "nonsense", ""],
)
def test_a_wrong_range_is_not_joined(server, target, content_range):
    interrupt_after(server, target, 300)
    server.answer(File(headers={"Content-Range": content_range}), File())
    download(server.url, target, accept)
    assert_only(target)


def test_more_than_the_whole_file_starts_over(server, target):
    interrupt_after(server, target, 300)
    content_range = {"Content-Range": "bytes 300-515/512"}
    server.answer(Answer(CONTENT + b"more", etag='"v1"', headers=content_range), File())
    download(server.url, target, accept)
    assert_only(target)


# ---- the part is complete already ----


@pytest.mark.parametrize("says_length", [True, False])
def test_a_complete_part_is_only_checked(server, target, says_length):
    server.answer(File(says_length=says_length))

    def stop(_part: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, target, stop)
    server.answer(File())
    download(server.url, target, accept)
    assert_only(target)
    (request,) = server.requests
    assert request.range == f"bytes={len(CONTENT)}-"
    assert request.sent == len(NOTHING_THERE)


# ---- it fails, and says why ----


def failure(url: str, target: Path, check=accept, **options) -> str:
    """The one line that the user sees."""
    with pytest.raises(InputError) as caught:
        download(url, target, check, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert url.removeprefix("http://").split("/")[0] in message
    assert all(option in message for option in ALTERNATIVES)
    assert not target.exists()
    return message


def test_nobody_listens(target, capsys):
    assert "Connection refused" in failure(address_of_nobody(), target, attempts=3)
    assert capsys.readouterr().err.count("next attempt in") == 2
    assert list(target.parent.iterdir()) == []


def test_an_error_that_the_caller_handles_is_not_the_reason(target):
    try:
        raise FileNotFoundError("the target is missing")
    except FileNotFoundError:
        assert "Connection refused" in failure(address_of_nobody(), target, attempts=1)


def test_an_unknown_host(target, monkeypatch):
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    message = failure("http://host.invalid", target, attempts=1)
    assert "Name or service not known" in message


def test_trouble_that_does_not_pass(server, target):
    interrupt_after(server, target, 300)
    server.answer(Answer(HTML, status=503))
    assert "503 Service Unavailable" in failure(server.url, target, attempts=4)
    assert len(server.requests) == 4
    assert part_of(target).read_bytes() == CONTENT[:300]


@pytest.mark.parametrize(("status", "words"), [(403, "Forbidden"), (404, "Not Found"), (410, "")])
def test_a_refusal_is_not_asked_again(server, target, status, words):
    interrupt_after(server, target, 300)
    server.answer(Answer(HTML, status=status))
    url = f"{server.url}/words.csd"
    message = failure(url, target)
    assert f"{status} {words}" in message
    assert url in message
    assert len(server.requests) == 1
    assert part_of(target).read_bytes() == CONTENT[:300]


def test_a_short_body_every_time(server, target):
    server.answer(Answer(CONTENT, cut_after=500))
    failure(server.url, target, attempts=2)
    assert len(server.requests) == 2


def test_a_wrong_body_is_removed_and_shown(server, target):
    server.answer(Answer(HTML, etag='"page"'))
    message = failure(f"{server.url}/words.csd", target, refuse_html)
    assert "not an HDF5 file" in message
    assert "<!DOCTYPE html>" in message
    assert f"{server.url}/words.csd" in message
    assert list(target.parent.iterdir()) == []
    assert len(server.requests) == 1


def test_a_wrong_body_has_no_advice_about_a_file_that_stays(server, target):
    server.answer(Answer(HTML))
    message = failure(f"{server.url}/words.csd", target, check_csd)
    assert f"is not the expected file: {target.name} is a web page (HTML). The server" in message
    assert "delete it" not in message
    assert ".." not in message


def test_a_web_page_does_not_cost_the_part(server, target):
    interrupt_after(server, target, 300)
    server.answer(Answer(HTML, headers={"Content-Type": "text/html; charset=utf-8"}))
    assert "text/html" in failure(server.url, target)
    assert part_of(target).read_bytes() == CONTENT[:300]


def test_a_check_that_cannot_be_made_keeps_the_part(server, target):
    def no_memory(_part: Path) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        download(server.url, target, no_memory)
    assert part_of(target).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_not_the_servers_fault(server, target):
    target.parent.mkdir()
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        download(server.url, target, accept)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.requests) == 1
    assert part_of(target).is_symlink()
    assert not target.exists()


# ---- pauses and progress ----


def test_pauses_grow_up_to_a_minute(target, pauses):
    with pytest.raises(InputError):
        module.download(address_of_nobody(), target, accept, attempts=8, first_pause=2.0)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


def test_pauses_start_anew_when_it_got_further(server, target, pauses):
    down = Answer(status=503)
    server.answer(File(cut_after=10), down, down, File(cut_after=10), down, File())
    module.download(server.url, target, accept, first_pause=1.0)
    assert pauses == [1, 2, 4, 1, 2]


@pytest.mark.parametrize(
    ("asked", "made"),
    [("7", 7), ("0", 1), ("86400", 60), ("soon", 1), ("-5", 1), (DATE, 1)],
)
def test_retry_after_is_heeded_within_reason(server, target, pauses, capsys, asked, made):
    server.answer(Answer(status=503, headers={"Retry-After": asked}), File())
    module.download(server.url, target, accept, first_pause=1.0)
    assert pauses == [made]
    assert "503 Service Unavailable" in capsys.readouterr().err


def test_the_bar_starts_where_the_part_ends(server, target, monkeypatch):
    bars = []

    def recorded(**options):
        bars.append((options["initial"], made := progress(**options)))
        return made

    progress = module.progress
    monkeypatch.setattr(module, "progress", recorded)
    server.answer(File(cut_after=300), File())
    download(server.url, target, accept)
    assert [initial for initial, _bar in bars] == [0, 300]
    assert [(bar.n, bar.total, bar.unit) for _initial, bar in bars] == [
        (300, 512, "B"),
        (512, 512, "B"),
    ]


# ---- any course of events ----

# Long enough that most cuts come before the end.
contents = st.binary(min_size=100, max_size=300)
cuts = st.integers(0, 80)
bounded = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def courses(draw) -> list[Answer]:
    """Some requests: each sees one of two files, well or badly served, and is cut."""
    files = [draw(contents), draw(contents)]
    tagged = draw(st.booleans())
    course = []
    for version in draw(st.lists(st.integers(0, 1), min_size=1, max_size=6)):
        course.append(
            Answer(
                files[version],
                etag=f'"{version}"' if tagged else None,
                last_modified=f"Mon, 15 Jan 2018 10:00:0{version} GMT",
                cut_after=draw(cuts),
                heeds_range=draw(st.booleans()),
                heeds_if_range=draw(st.booleans()),
                status=draw(st.sampled_from([200, 200, 200, 503])),
            )
        )
    whole_at_last = replace(course[-1], status=200, cut_after=None)
    return [*course, whole_at_last]


@given(courses(), st.integers(1, 3))
@bounded
def test_the_result_is_always_one_whole_version(running, course, attempts):
    running.answer(*course)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "words.csd")
        # Each call uses up at least one answer; at worst one more finds a changed file.
        for _call in range(len(course) + 1):
            try:
                download(running.url, target, accept, attempts=attempts)
                break
            except InputError:
                assert not target.exists()
        assert target.read_bytes() in {answer.content for answer in course}
        assert list(target.parent.iterdir()) == [target]


@given(contents, st.lists(cuts, min_size=1, max_size=6))
@bounded
def test_no_byte_is_sent_twice(running, content, cuts):
    whole = Answer(content, etag='"v"')
    running.answer(*(replace(whole, cut_after=cut) for cut in cuts), whole)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "words.csd")
        download(running.url, target, accept, attempts=len(cuts) + 1)
        assert_only(target, content)
    assert sum(request.sent for request in running.requests) == len(content)


# ---- the mirror's address ----


@pytest.mark.parametrize(
    "url",
    [
        CMU_HOST,
        "https://example.org/mosei",
        "http://localhost",
        "http://localhost:8000",
        "http://127.0.0.1:8000",
        "http://10.0.0.7/~me",
        "http://[::1]:8000",
        "http://storage:9000/mosei",
    ],
)
def test_mirrors_that_are_fine(url):
    assert checked_host(url) == url
    assert checked_host(f"{url}/") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "immortal.multicomp.cs.cmu.edu",
        "ftp://example.org",
        "file:///etc",
        "http://",
        "http:/example.org",
        "http://a b",
        "http://example.org:99999",
        "http://example.org/?x=1",
        "http://example.org/#x",
        "http://example.org\n",
        "--csd",
    ],
)
def test_mirrors_that_are_not(url):
    with pytest.raises(InputError, match="not an http or https address") as caught:
        checked_host(url)
    assert repr(url) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1

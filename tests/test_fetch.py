"""One file over HTTP, from a real local server that misbehaves in every way seen in the field."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chestxray.errors import DownloadError
from chestxray.sources import fetch as module
from chestxray.sources.fetch import digests, fetch, new_client, part_of
from download_server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"file": BODY}) as real:
        yield real


BODY = bytes(range(256)) * 4000  # 1,024,000 bytes


def get(server: Server, target: Path, size: int | None = len(BODY)) -> list[float]:
    pauses: list[float] = []
    with new_client() as client:
        fetch(server.url("file"), target, client, size=size, pause=pauses.append)
    return pauses


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_file_arrives_whole(server: Server, tmp_path: Path, size: int | None) -> None:
    assert get(server, tmp_path / "f", size) == []
    assert (tmp_path / "f").read_bytes() == BODY
    assert not part_of(tmp_path / "f").exists()


def test_a_cut_connection_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.faults = ["cuts", "cuts", "cuts"]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.ranges == [None, "bytes=512000-", "bytes=768000-", "bytes=896000-"]


def test_many_cuts_do_not_end_a_transfer_that_advances(server: Server, tmp_path: Path) -> None:
    server.faults = ["cuts"] * 12
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_of_an_earlier_run_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY[:1000])
    get(server, tmp_path / "f")
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_that_is_whole_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY)
    get(server, tmp_path / "f")
    assert server.ranges == []
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_part_longer_than_the_file_begins_anew(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    part_of(tmp_path / "f").write_bytes(BODY + b"more")
    get(server, tmp_path / "f", size)
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("fault", ["ignores range", "wrong range"])
def test_a_server_that_does_not_honour_ranges_gives_the_right_bytes(
    server: Server, tmp_path: Path, fault: str
) -> None:
    part_of(tmp_path / "f").write_bytes(b"x" * 1000)
    server.faults = [fault]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_what_was_there_before_a_new_beginning_is_not_mixed_in(
    server: Server, tmp_path: Path
) -> None:
    part_of(tmp_path / "f").write_bytes(b"x" * (len(BODY) - 1000))
    server.faults = ["ignores range and cuts"]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.ranges == ["bytes=1023000-", "bytes=512000-"]


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_a_passing_server_error_is_tried_again_after_a_pause(
    server: Server, tmp_path: Path, status: str
) -> None:
    server.faults = [status, status]
    assert get(server, tmp_path / "f") == [1, 2]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_lasting_server_error_ends_and_keeps_the_part(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path / "f").write_bytes(BODY[:1000])
    server.always = "500"
    with pytest.raises(DownloadError, match=r"500.*resumes at 1000 bytes"):
        get(server, tmp_path / "f")
    assert len(server.ranges) == module.ATTEMPTS
    assert part_of(tmp_path / "f").stat().st_size == 1000


def test_a_connection_that_brings_nothing_ends(server: Server, tmp_path: Path) -> None:
    server.always = "cuts at once"
    with pytest.raises(DownloadError, match="the connection stalled"):
        get(server, tmp_path / "f")


@pytest.mark.parametrize("status", ["404", "403", "410"])
def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path, status: str) -> None:
    server.always = status
    with pytest.raises(DownloadError, match=f"returned {status}"):
        get(server, tmp_path / "f")
    assert len(server.ranges) == 1


def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    server.always = "short file"
    with pytest.raises(DownloadError, match="must have 1024000 bytes, the server offers 512000"):
        get(server, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_short_file_without_a_stated_length_is_not_taken_for_whole(
    server: Server, tmp_path: Path
) -> None:
    server.files["file"] = BODY[:1000]
    server.always = "no length"
    with pytest.raises(DownloadError):
        get(server, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_web_page_instead_of_the_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.always = "web page"
    with pytest.raises(DownloadError, match="a web page arrived"):
        get(server, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_offline_says_so_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with new_client() as client, pytest.raises(DownloadError, match="check the connection"):
        fetch(f"http://127.0.0.1:{port}/f", tmp_path / "f", client, pause=lambda _: None)


def test_progress_counts_every_megabyte_once(server: Server, tmp_path: Path) -> None:
    server.files["file"] = BODY * 3
    server.faults = ["cuts"]
    counted: list[int] = []
    with new_client() as client:
        fetch(
            server.url("file"), tmp_path / "f", client,
            advance=lambda count=1: counted.append(count), pause=lambda _: None,
        )  # fmt: skip
    assert sum(counted) == 3 * len(BODY) // module.MEGABYTE


def test_both_checksums_are_those_of_the_standard_tools(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    found = digests(tmp_path / "f")
    assert found.md5 == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321
    assert found.sha256.startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2

"""The twelve archives: fetched, checked, unpacked safely, and gone on with after any stop."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chestxray.errors import DownloadError
from chestxray.sources import download as box
from chestxray.sources.download import ARCHIVES, IMAGES, TABLES, Archive, Table, download_nih
from chestxray.sources.fetch import unpack
from download_server import Server, serving

TABLE = b"Image Index,Finding Labels\n00000001_000.png,Mass\n"


def packed(*members: tarfile.TarInfo | str) -> bytes:
    """Pack members; a name alone becomes a small file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, str):
                content = member.encode() * 50
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                tar.addfile(member, io.BytesIO(b"x" * member.size) if member.size else None)
    return buffer.getvalue()


def archive(server: Server, name: str, content: bytes, images: int) -> Archive:
    server.files[name] = content
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Archive(name, server.url(name), len(content), md5, images)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"table.csv": TABLE}) as real:
        yield real


@pytest.fixture
def archives(server: Server) -> list[Archive]:
    names = {n: [f"images/{n:08}_{i:03}.png" for i in range(n)] for n in (1, 2, 3)}
    return [archive(server, f"images_{n:03}.tar.gz", packed(*names[n]), n) for n in names]


def get(server: Server, out: Path, archives: list[Archive], lines: int = 2) -> dict[str, str]:
    tables = [Table("Data_Entry_2017_v2020.csv", server.url("table.csv"), lines)]
    return download_nih(out, archives, tables, pause=lambda _: None)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != box.JOURNAL
    }


def test_the_catalogue_is_that_of_the_data_set() -> None:
    assert [each.name for each in ARCHIVES] == [f"images_{n:03}.tar.gz" for n in range(1, 13)]
    assert [each.images for each in ARCHIVES] == [4999, *[10_000] * 10, 7121]
    assert sum(each.images for each in ARCHIVES) == IMAGES == 112_120
    assert len({each.url for each in ARCHIVES} | {each.md5 for each in ARCHIVES}) == 24
    assert {len(each.md5) for each in ARCHIVES} == {32}
    assert {table.lines for table in TABLES} == {112_121, 86_524, 25_596}


def test_archives_become_the_tree_and_are_recorded(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    by_hand = get(server, tmp_path, archives)
    found = tree(tmp_path)
    assert found.pop("Data_Entry_2017_v2020.csv") == TABLE
    assert sorted(found) == [
        f"images_{n:03}/images/{n:08}_{i:03}.png" for n in (1, 2, 3) for i in range(n)
    ]
    assert list(by_hand) == ["BBox_List_2017.csv"]
    journal = json.loads((tmp_path / box.JOURNAL).read_text(encoding="utf-8"))["files"]
    content = server.files["images_002.tar.gz"]
    assert journal["images_002.tar.gz"] == {
        "url": archives[1].url, "size": len(content), "md5": archives[1].md5,
        "sha256": hashlib.sha256(content).hexdigest(), "images": 2, "unpacked": True,
    }  # fmt: skip


def test_a_second_run_asks_for_nothing(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    get(server, tmp_path, archives)
    before, server.asked[:] = tree(tmp_path), []
    get(server, tmp_path, archives)
    assert server.asked == []
    assert tree(tmp_path) == before


def test_cuts_and_server_errors_on_the_way_change_nothing(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    get(server, tmp_path / "smooth", archives)
    server.faults = ["cuts", "500", "cuts", "cuts", "", "503", "cuts", "ignores range"]
    get(server, tmp_path / "rough", archives)
    assert tree(tmp_path / "rough") == tree(tmp_path / "smooth")


def test_an_interrupted_run_is_gone_on_with(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    server.faults = ["", "cuts", *["500"] * 5]
    with pytest.raises(DownloadError, match="run the same command again"):
        get(server, tmp_path, archives)
    assert (tmp_path / "images_001").is_dir()
    half = (tmp_path / "images_002.tar.gz.part").stat().st_size
    server.asked.clear()
    server.ranges.clear()
    get(server, tmp_path, archives)
    assert server.asked[0] == "images_002.tar.gz"
    assert server.ranges[0] == f"bytes={half}-"
    assert len(tree(tmp_path)) == 7


def test_wrong_bytes_are_thrown_away_and_fetched_anew_next_time(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    server.faults = ["wrong bytes"]
    with pytest.raises(DownloadError, match=r"MD5 .* NIH publishes .* deleted"):
        get(server, tmp_path, archives)
    assert tree(tmp_path) == {}
    get(server, tmp_path, archives)
    assert len(tree(tmp_path)) == 7


def test_an_archive_with_too_few_images_is_refused(server: Server, tmp_path: Path) -> None:
    short = replace(archive(server, "images_001.tar.gz", packed("images/a.png"), 1), images=2)
    with pytest.raises(DownloadError, match="must hold 2 images, but holds 1"):
        get(server, tmp_path, [short])
    assert not (tmp_path / "images_001").exists()


@pytest.mark.parametrize("recorded", [False, True])
def test_a_stop_between_unpacking_and_its_record_is_understood(
    server: Server, archives: list[Archive], tmp_path: Path, recorded: bool
) -> None:
    get(server, tmp_path, archives)
    before = tree(tmp_path)
    (tmp_path / "images_001.tar.gz").write_bytes(server.files["images_001.tar.gz"])
    journal = json.loads((tmp_path / box.JOURNAL).read_text(encoding="utf-8"))
    journal["files"]["images_001.tar.gz"]["unpacked"] = recorded
    (tmp_path / box.JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
    server.asked.clear()
    get(server, tmp_path, archives)
    assert server.asked == []
    assert tree(tmp_path) == before


def test_what_a_killed_run_left_half_unpacked_is_replaced(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    half = tmp_path / ".images_001.unpacking" / "images"
    half.mkdir(parents=True)
    (half / "00000077_000.png").touch()
    get(server, tmp_path, archives)
    assert len(tree(tmp_path)) == 7
    assert not half.exists()


def test_a_place_where_no_folder_can_be_made_is_said(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="choose another folder"):
        get(server, tmp_path / "file" / "out", archives)


def test_a_folder_that_lost_images_is_said(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    get(server, tmp_path, archives)
    next((tmp_path / "images_003" / "images").iterdir()).unlink()
    with pytest.raises(DownloadError, match="holds 2 of 3 images: delete it"):
        get(server, tmp_path, archives)


def test_a_folder_of_somebody_else_is_not_touched(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    (tmp_path / "images_002").mkdir()
    (tmp_path / "images_002" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DownloadError, match="move it away"):
        get(server, tmp_path, archives)
    assert tree(tmp_path) == {"images_002/mine.txt": b"mine"}


def test_a_table_changed_since_it_was_fetched_is_said_one_put_by_hand_is_kept(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "Data_Entry_2017_v2020.csv").write_bytes(b"mine")
    get(server, tmp_path / "hand", archives)
    assert tree(tmp_path / "hand")["Data_Entry_2017_v2020.csv"] == b"mine"
    get(server, tmp_path / "net", archives)
    (tmp_path / "net" / "Data_Entry_2017_v2020.csv").write_bytes(b"changed")
    with pytest.raises(DownloadError, match="was changed since it was downloaded"):
        get(server, tmp_path / "net", archives)


@pytest.mark.parametrize(("fault", "lines"), [("404", 2), ("web page", 2), ("", 3)])
def test_a_table_that_does_not_come_is_to_be_fetched_by_hand(
    server: Server, archives: list[Archive], tmp_path: Path, fault: str, lines: int
) -> None:
    server.faults = ["", "", "", fault]
    by_hand = get(server, tmp_path, archives, lines)
    assert set(by_hand) == {"BBox_List_2017.csv", "Data_Entry_2017_v2020.csv"}
    assert not (tmp_path / "Data_Entry_2017_v2020.csv").exists()
    assert len(tree(tmp_path)) == 6


def test_too_little_room_is_said_before_anything_is_fetched(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    huge = replace(archives[0], size=10**18)
    with pytest.raises(DownloadError, match=r"has .* GB free, .* needs 2000000000.0 GB"):
        get(server, tmp_path, [huge])
    assert server.asked == []


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "parent": ["images/a.png", "../outside.png"],
    "hidden parent": ["images/../../outside.png"],
    "absolute": ["/tmp/chestxray-outside.png"],  # noqa: S108 - it must not appear there
    "windows": ["..\\outside.png"],
    "symlink out, then through it": [link("images", "../../outside"), "images/a.png"],
    "symlink inside": ["images/a.png", link("images/b.png", "a.png")],
    "hard link": [link("images/b.png", "../../secret", tarfile.LNKTYPE)],
    "device": [link("images/b.png", "", tarfile.CHRTYPE)],
    "fifo": [link("images/b.png", "", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_lands_anywhere(
    server: Server, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    hostile = archive(server, "images_001.tar.gz", packed(*HOSTILE[kind]), len(HOSTILE[kind]))
    with pytest.raises(DownloadError, match="is refused: its member"):
        get(server, tmp_path / "out", [hostile])
    assert set(tree(tmp_path)) == {"out/images_001.tar.gz", "secret"}
    assert not any((tmp_path / "outside").iterdir())
    assert not Path("/tmp/chestxray-outside.png").exists()  # noqa: S108


def test_a_member_that_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    bomb = tarfile.TarInfo("images/a.png")
    bomb.size = 200_000_000
    (tmp_path / "a.tar.gz").write_bytes(packed(bomb))
    with pytest.raises(DownloadError, match="would take 200000000 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a", 1)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, keep: int) -> None:
    whole = packed(*(f"images/{n}.png" for n in range(200)))
    (tmp_path / "a.tar.gz").write_bytes(whole[:keep] + b"\x00" * 50)
    with pytest.raises(DownloadError, match=r"delete it and run|can't be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a", 200)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_the_verb_tells_what_is_left_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from chestxray.cli.download import download
    from chestxray.sources import download as package

    app = typer.Typer()
    app.command()(download)
    left = {"BBox_List_2017.csv": "no link"}
    monkeypatch.setattr(package, "download_nih", lambda _: left)
    told = CliRunner().invoke(app, [str(tmp_path), "--from", "nih"])
    assert told.exit_code == 0
    assert "download BBox_List_2017.csv from https://nihcc.app.box.com" in told.output
    left["Data_Entry_2017_v2020.csv"] = "404"
    assert CliRunner().invoke(app, [str(tmp_path), "--from", "nih"]).exit_code == 1
    assert CliRunner().invoke(app, [str(tmp_path), "--from", "ftp"]).exit_code == 2

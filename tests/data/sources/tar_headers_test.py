import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import pytest

from coca_jax.data.sources import tar_headers
from coca_jax.data.sources.tar_headers import members, number, samples_of_file
from coca_jax.data.sources.tar_index import make_options

NAMES = [
    "plain.jpg",
    "folder/" + "a" * 60 + "/" + "b" * 60 + ".jpg",  # more than 100: ustar splits it
    "c" * 99 + "/" + "d" * 100,
    "e" * 100,
    "\u732b/\u00e9t\u00e9 \U0001f408.jpg",
    "empty",
    "last.txt",
]
LONGER = ["f" * 101, "g/" * 150 + "h.jpg", "\u732b" * 120 + ".png"]


def walk(path, chunk=1024, max_chunk=4096):
    with open(path, "rb") as file:
        descriptor, size = file.fileno(), os.path.getsize(path)
        found = members(lambda at, n: os.pread(descriptor, n, at), size, chunk, max_chunk)
        return [member for member in found if member[2] >= 0]  # no links and the like


def listed(path):
    """The members that `tarfile` finds."""
    with tarfile.open(path, "r:") as tar:
        return [(m.name.encode(), m.offset_data, m.size) for m in tar if m.isreg()]


def add(tar, name, body=b"", **header):
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for key, value in header.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(body))


@pytest.mark.parametrize("form", ["USTAR", "GNU", "PAX"])
@pytest.mark.parametrize("chunk", [512, 700, 3072, 1 << 20])
def test_members_are_those_that_tarfile_lists(tmp_path, form, chunk):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=getattr(tarfile, f"{form}_FORMAT")) as tar:
        for i, name in enumerate(NAMES + (LONGER if form != "USTAR" else [])):
            time = 1.7e9 + i if form != "PAX" else 1.7e9 + i / 3  # fractions, as WebDataset writes
            add(tar, name, os.urandom(i * 700 if name != "empty" else 0), mtime=time)
        add(tar, "folder.jpg", type=tarfile.DIRTYPE)
        add(tar, "link.jpg", type=tarfile.SYMTYPE, linkname="x" * 150 if form != "USTAR" else "x")
        add(tar, "hard.jpg", type=tarfile.LNKTYPE, linkname="plain.jpg")
        add(tar, "pipe.jpg", type=tarfile.FIFOTYPE)
        add(tar, "end.jpg", b"end")
    found = walk(path, chunk, chunk)
    assert found == listed(path)
    assert len(found) == len(NAMES) + 1 + (len(LONGER) if form != "USTAR" else 0)


def test_pax_headers_give_names_and_sizes_of_the_next_member_or_of_all(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "size=9"}) as t:
        add(t, "a.jpg", b"1", pax_headers={"comment": "path=wrong", "path": "right.jpg"})
        add(t, "b.jpg", b"2", pax_headers={"SCHILY.realsize": "7", "size": "1"})
        add(t, "c.jpg", b"3")
    assert walk(path) == listed(path)
    assert [name for name, _, _ in walk(path)] == [b"right.jpg", b"b.jpg", b"c.jpg"]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "all.jpg"}) as t:
        add(t, "a.jpg", b"1")
        add(t, "b.jpg", b"2" * 600)
    assert [(name, size) for name, _, size in walk(path)] == [(b"all.jpg", 1), (b"all.jpg", 600)]


def test_sizes_of_eight_gigabytes_and_more_are_binary(tmp_path):
    assert number(b"00000000017\0") == 15 and number(b"      17 \0\0\0\0") == 15
    assert number(bytes(12)) == 0 and number(b"777777777777") == 8**12 - 1
    assert number(b"\x80" + bytes(6) + b"\x04" + bytes(4)) == 16 * 2**30
    for bad in (b"\xff" * 12, b"-0000000001\0", b"not a number"):
        with pytest.raises(ValueError):
            number(bad)
    path, huge = tmp_path / "a.tar", 9 * 2**30
    info = tarfile.TarInfo("huge.jpg")
    info.size = huge
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + huge)  # a hole
        file.write(tarfile.TarInfo("next.jpg").tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    assert walk(path) == [(b"huge.jpg", 512, huge), (b"next.jpg", 1024 + huge, 0)]


def test_the_oldest_tars_have_no_magic(tmp_path):
    block = bytearray(tarfile.TarInfo("old.jpg").tobuf(tarfile.USTAR_FORMAT))
    block[257:512] = bytes(255)
    block[156] = 0
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    path = tmp_path / "a.tar"
    path.write_bytes(block + bytes(1024))
    assert walk(path) == listed(path) == [(b"old.jpg", 512, 0)]
    block[0] += 1
    path.write_bytes(block + bytes(1024))
    with pytest.raises(ValueError, match="no header at byte 0"):
        walk(path)


def test_it_stops_where_headers_end(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.jpg", b"1" * 600)
        add(tar, "b.jpg", b"2" * 600)
    whole = path.read_bytes()
    for size in (3072, 3072 - 400):  # without the end mark; and without the padding
        path.write_bytes(whole[:size])
        assert [name for name, _, _ in walk(path)] == [b"a.jpg", b"b.jpg"]
    path.write_bytes(whole[:2100])
    assert walk(path)[-1] == (b"b.jpg", 2048, 600)  # reaches beyond the end
    for cut, message in ((1600, "ends within"), (1536 + 511, "ends within")):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=message):
            walk(path)
    for junk in (b"x", b"\1", b"7"):
        path.write_bytes(whole[:1536] + junk * 1024)
        with pytest.raises(ValueError):
            walk(path)


@pytest.mark.parametrize("record", [b"-9 path=a\n", b"0 path=a\n", b"path=a\n", b"11 size=-5\n"])
def test_damaged_pax_headers_are_no_endless_loop(tmp_path, record):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + bytes(1024))
    with pytest.raises(ValueError):
        walk(path)


@pytest.mark.parametrize("order", [("MP4", "jpg"), ("jpg", "MP4")])
def test_a_video_stands_in_for_an_image_that_is_not_there(tmp_path, order):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in order:
            add(tar, f"both.{name}", name.encode() * 2)
        add(tar, "alone.webm", b"a video")
    found = samples_of_file(str(path), path.stat().st_size, make_options())
    data = path.read_bytes()
    images = [
        data[at : at + size] for at, size in zip(found.rows[::8], found.rows[1::8], strict=True)
    ]
    assert images == [b"jpgjpg", b"a video"]


def test_ctrl_c_is_left_to_the_parent(tmp_path):
    command = [sys.executable, "-I", "-S", tar_headers.__file__, json.dumps(make_options())]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        for _ in range(2):
            process.stdin.write(json.dumps([str(tmp_path / "none.tar"), 0]).encode() + b"\n")
            process.stdin.flush()
            reply = process.stdout.read(tar_headers.REPLY.size)
            assert tar_headers.REPLY.unpack(reply)[0] == -1
            process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b""
    assert process.returncode == 0

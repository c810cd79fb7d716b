"""Against web servers that run here, on loopback."""

import http.server
import io
import socket
import tarfile
import threading
import urllib.parse

import pytest

from coca_jax.batch_inference.data import data_options
from coca_jax.data.sources.array_record import array_record_source
from coca_jax.data.sources.folder import folder_source
from coca_jax.data.sources.webdataset import webdataset_source
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io import http as web
from coca_jax.io.files import read_lines

BODY = bytes(range(256)) * 8
SECRET = "?sig=[1]*&key={secret}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as `server.mode` says; `server.fails` are statuses of the first answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if server.fails:
            return self.answer(server.fails.pop(0), b"no")
        if server.mode == "loop":
            return self.answer(302, b"", Location=self.path)
        if server.mode == "page" and path == "/":
            links = "".join(f'<a href="{name}">x</a>' for name in server.files)
            return self.answer(200, links.encode())
        if path.lstrip("/") not in server.files:
            return self.answer(404, b"no")
        body, asked = server.files[path.lstrip("/")], self.headers.get("Range")
        if server.mode == "short":
            self.answer(200, body[:-9], length=len(body), Connection="close")
            self.close_connection = True
            return None
        if server.mode in ("whole", "endless") or not asked:
            length = None if server.mode == "endless" else len(body)
            headers = {"Last-Modified": server.version} if server.version else {}
            self.answer(200, body, length=length, **headers)
            self.close_connection = server.mode == "endless"
            return None
        begin, end = asked.removeprefix("bytes=").split("-")
        part = body[int(begin) : int(end) + 1]
        if not part:
            return self.answer(416, b"")
        at = 7 if server.mode == "elsewhere" else int(begin)
        where = f"bytes {at}-{at + len(part) - 1}/{len(body)}"
        return self.answer(206, part, ETag=server.version, **{"Content-Range": where})

    def answer(self, status, body, length=-1, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "PAUSE", 0.0)
    monkeypatch.setattr(web, "_copies", {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.handle_error = lambda *_: None  # that a client has read enough
        running.mode, running.fails, running.asked, running.version = "ranges", [], [], "1"
        running.files = {"a": BODY, "empty": b""}
        running.url = f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_parts_of_files_are_read(server):
    url = server.url + "a"
    assert files.stamp(url) == (len(BODY), "1") and files.is_file(url)
    assert files.read_range(url, 300, 5) == BODY[300:305]
    assert files.read_range(url, 300, 0) == b""
    with files.open_binary(url) as file:
        assert file.read(10) == BODY[:10] and file.seek(-3, 2) and file.read() == BODY[-3:]
    assert files.read_bytes(url) == BODY and files.read_bytes(server.url + "empty") == b""
    assert not files.is_file(server.url + "none")
    with pytest.raises(EOFError):
        files.read_range(url, len(BODY) - 1, 2)


@pytest.mark.parametrize("mode", ["ranges", "whole", "endless"])
def test_what_is_read_as_a_whole_takes_one_request(server, capsys, mode):
    server.mode = mode
    assert files.read_bytes(server.url + "a") == BODY
    assert server.asked == [("/a", None)] and not web._copies
    assert capsys.readouterr().err == ""
    server.mode = "short"
    with pytest.raises(OSError, match="shorter than it should be"):
        files.read_bytes(server.url + "a")


@pytest.mark.parametrize("mode", ["whole", "endless"])
def test_without_ranges_a_file_is_copied_once(server, capsys, mode):
    server.mode = mode
    url = server.url + "a" + SECRET
    assert files.stamp(url) == (len(BODY), "1")
    assert "does not answer requests for parts" in (printed := capsys.readouterr().err)
    assert "secret" not in printed
    server.asked.clear()
    assert files.read_range(url, 300, 5) == BODY[300:305] and not server.asked
    web._copies.clear()  # as in another process
    assert files.read_range(url, 300, 5) == BODY[300:305]
    assert files.read_bytes(url) == BODY and capsys.readouterr().err == ""
    server.files["a"], server.version = BODY[::-1], "2"
    assert files.stamp(url).version == "2" and files.read_range(url, 0, 2) == b"\xff\xfe"


def test_a_copy_whose_changes_are_not_seen_serves_one_process(server):
    server.mode, server.version = "whole", ""
    url = server.url + "a"
    assert files.read_range(url, 0, 2) == BODY[:2]
    server.files["a"] = BODY[::-1]
    assert files.stamp(url).size == len(BODY) and files.read_range(url, 0, 2) == BODY[:2]
    web._copies.clear()  # as in another process
    assert files.read_range(url, 0, 2) == b"\xff\xfe"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_failures_that_pass_are_tried_again(server, status):
    server.fails = [status] * (web.TRIES - 1)
    assert files.read_range(server.url + "a", 1, 2) == BODY[1:3]
    server.fails = [status] * web.TRIES
    with pytest.raises(OSError, match=rf"/a\?\.\.\.: HTTP status {status} .*tried 4 times"):
        files.read_range(server.url + "a" + SECRET, 1, 2)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 451, 501])
def test_other_statuses_are_named_at_once(server, status):
    server.fails = [status]
    with pytest.raises(OSError, match=rf"/a\?\.\.\.: HTTP status {status}"):
        files.stamp(server.url + "a" + SECRET)
    assert len(server.asked) == 1


def test_what_is_wrong_with_a_server_is_said(server):
    for mode, words in {
        "loop": "redirects endlessly",
        "short": "shorter than it should be; tried 4 times",
        "elsewhere": "asked for byte 0, the server gave 'bytes 7-7/2048'",
    }.items():
        server.mode = mode
        with pytest.raises(OSError, match=words):
            files.stamp(server.url + "a")
    with pytest.raises(OSError, match="no secure connection"):
        files.stamp(server.url.replace("http:", "https:") + "a")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"/a: the connection is refused; tried 4 times"):
            files.stamp(f"http://127.0.0.1:{unused.getsockname()[1]}/a")


def test_queries_are_no_patterns(server):
    url = server.url
    assert files.expand(f"{url}a{SECRET}") == [f"{url}a{SECRET}"] and not server.asked
    assert files.expand(f"{url}{{a,b}}?x=*") == [f"{url}a?x=*", f"{url}b?x=*"]
    server.mode, server.files = "page", {"[1].tar": b"1", "2.tar": b"2"}
    assert files.expand(f"{url}[1].tar") == [f"{url}[1].tar"]
    pytest.importorskip("aiohttp")
    assert files.expand(f"{url}?.tar") == [f"{url}?.tar"]
    assert files.expand(f"{url}2*") == [f"{url}2.tar"]
    server.fails = [403]
    with pytest.raises(UserError, match=r"no file matches .*: HTTP status 403") as caught:
        files.expand(f"{url}*.tar")
    assert str(caught.value).count(url) == 1


@pytest.mark.parametrize("mode", ["ranges", "whole"])
def test_tars_are_read_from_a_web_server(server, mode):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("0.jpg", "0.txt", "1.jpg", "1.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    server.mode, server.files["a.tar"] = mode, packed.getvalue()
    source = webdataset_source(server.url + "a.tar" + SECRET)
    assert [record["image"] for record in source] == [b"0.jpg", b"1.jpg"]
    for status, words in {403: "cannot be read: .*HTTP status 403", 404: "there is no tar"}.items():
        server.fails = [status]
        with pytest.raises(UserError, match=words) as caught:
            webdataset_source(server.url + "a.tar" + SECRET)
        assert "secret" not in str(caught.value) and str(caught.value).count("a.tar") == 1


def test_tables_are_read_from_a_web_server(server):
    server.files |= {"d/a.csv": b"image;text\n1.jpg;x\n2.jpg;y\n", "d/1.jpg": b"1"}
    source = folder_source(server.url + "d/a.csv" + SECRET + "/x.jsonl")
    assert source[0]["image"] == b"1" and "secret" not in source.notes[0].text
    server.asked.clear()
    for url in (server.url + "no.jpg", " " + server.url + "no.jpg "):
        with pytest.raises(FileNotFoundError):
            source._read(url)
    assert [path for path, _ in server.asked].count("/no.jpg") == 2
    server.asked.clear()
    with pytest.raises(FileNotFoundError):
        source[1]
    assert [path for path, _ in server.asked].count("/d/2.jpg") == len(server.asked) - 1 == 1


@pytest.mark.parametrize(
    ("name", "open_", "words"),
    [
        ("page.tar", webdataset_source, "is not a tar file but a web page"),
        ("empty.tar", webdataset_source, "no sample of"),
        (["a.tar", "a.tar"], webdataset_source, "is named twice by"),
        ("{a.tar", webdataset_source, "the braces of"),
        ("a.csv", folder_source, "holds no rows"),
        ("b.csv", folder_source, "needs one of the columns"),
        ("c.jsonl", folder_source, "is not a JSON object"),
        ("folder", folder_source, "should be a file"),
        ("a.csv", array_record_source, "ArrayRecord files are read from local disks"),
        ("empty", read_lines, "is empty: it should hold"),
        ("b.csv", data_options, "--data-format"),
    ],
)
def test_messages_have_no_secrets_of_urls(server, name, open_, words):
    server.files |= {"page.tar": b"<html>" * 99, "empty.tar": bytes(1024)}
    server.files |= {"a.csv": b"image\n", "b.csv": b"n\n1\n", "c.jsonl": b"[]\n"}
    url = server.url.replace("http://", "http://me:secret@")
    given = [f"{url}{n}{SECRET}" for n in ([name] if isinstance(name, str) else name)]
    if open_ is data_options:
        given = [given[0].replace(".csv", "")]
    with pytest.raises(UserError, match=words) as caught:
        open_(given[0] if len(given) == 1 else given)
    assert "secret" not in str(caught.value)


def test_secrets_are_not_shown():
    assert web.shown("https://me:pw@h/a.tar?sig=1") == "https://...@h/a.tar?..."
    assert web.shown("gs://b/a?c") == "gs://b/a?c"

import socket
import threading
import time
import types

import pytest

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data import tfds_download


def url_info(size=1 << 20, filename="a.zip"):
    return types.SimpleNamespace(size=size, filename=filename, checksum="ab" * 32)


class FakeBuilder:
    """The part of a tfds builder that `ensure_prepared` uses."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    def __init__(self, root, error=None):
        self.data_dir_root = root
        self.data_dir = root / "fake/1.0.0"
        self.url_infos = {"http://localhost:9/a.zip": url_info()}
        self.error = error
        self.prepared = False

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        if self.error:
            raise self.error
        self.prepared = True


def ensure(builder, download=True):
    tfds_download.ensure_prepared(builder, name="fake", download=download)


def test_a_download_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tfds_download, "unreachable_reason", lambda urls: None)
    builder = FakeBuilder(tmp_path)
    ensure(builder)
    assert builder.prepared
    said = capsys.readouterr()
    assert said.out == "" and "Downloading fake (up to 1 MiB)" in said.err
    assert str(tmp_path) in said.err
    ensure(builder, download=False)  # prepared now: nothing to forbid


def test_nodownload(tmp_path):
    with pytest.raises(UserError, match=f"not prepared in {tmp_path} and --nodownload"):
        ensure(FakeBuilder(tmp_path), download=False)


def test_an_unreachable_host(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tfds_download,
        "unreachable_reason",
        lambda urls: "no way to " + next(iter(urls)),
    )
    with pytest.raises(UserError) as error:
        ensure(FakeBuilder(tmp_path))
    text = str(error.value)
    assert "no way to http://localhost:9/a.zip" in text and "\n" not in text
    for part in (
        "fake",
        str(tmp_path),
        "--data_dir=",
        "--dataset=folder:PATH",
        "digits",
    ):
        assert part in text


def test_a_file_that_is_there_needs_no_network(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_download, "unreachable_reason", asked.extend)
    manual = tmp_path / "downloads/manual"
    manual.mkdir(parents=True)
    (manual / "a.zip").write_text("x")
    builder = FakeBuilder(tmp_path)
    ensure(builder)
    assert builder.prepared and asked == []


def test_instructions_for_manual_downloads(tmp_path):
    builder = FakeBuilder(tmp_path)
    builder.MANUAL_DOWNLOAD_INSTRUCTIONS = "Register\n  somewhere."
    with pytest.raises(UserError, match=r"by hand into .*manual: Register somewhere\."):
        ensure(builder)


def test_what_tfds_raises_becomes_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_download, "unreachable_reason", lambda urls: None)
    with pytest.raises(UserError, match="OSError: no space left") as error:
        ensure(FakeBuilder(tmp_path, OSError("no space\nleft")))
    assert "\n" not in str(error.value)


@pytest.fixture
def server(monkeypatch):
    """A host that accepts connections and answers with the given bytes, or never."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sockets = []

    def start(answer):
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve():
            connection, _ = listener.accept()
            sockets.append(connection)
            connection.recv(1 << 16)
            if answer:
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/file"

    yield start
    for each in sockets:
        each.close()


def test_the_probe(server, monkeypatch):
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert tfds_download.unreachable_reason([]) is None
    assert tfds_download.unreachable_reason(["ftp://host/file"]) is None
    assert tfds_download.unreachable_reason([server(good)]) is None
    refused = "http://127.0.0.1:1/file"
    assert "cannot be reached" in tfds_download.unreachable_reason([refused])
    assert tfds_download.unreachable_reason([refused, server(good)]) is None
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    assert "answers HTTP 503" in tfds_download.unreachable_reason([server(busy)])
    monkeypatch.setattr(tfds_download, "_PROBE_SECONDS", 0.3)
    start = time.monotonic()
    assert tfds_download.unreachable_reason([server(None)])
    assert time.monotonic() - start < 2


def test_a_proxy_is_asked(server, monkeypatch):
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setenv("http_proxy", server(good).removesuffix("/file"))
    assert (
        tfds_download.unreachable_reason(["http://no-such-host.invalid/file"]) is None
    )


def test_a_real_data_set_without_a_network_fails_in_time(tmp_path, monkeypatch):
    # All proxies are a port on which no server listens.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"cifar10 is not prepared in .*cannot be downloaded"
    ):
        data.load("cifar10", data_dir=str(tmp_path))
    assert time.monotonic() - start < 15

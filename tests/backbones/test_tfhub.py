"""Handles: one version, used where it lies, downloaded completely or not at all."""

import hashlib
import http.server
import io
import tarfile
import threading
import time
from functools import partial

import pytest
from helpers.reporters import Recorder

from regraft.backbones import tfhub, weights
from regraft.backbones.load import load_backbone
from regraft.backbones.tfhub import fetch_module, parse_handle
from regraft.errors import EnvironmentFault, ModelRefused, UsageError
from regraft.system.console import SilentReporter

TFHUB = "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"
KAGGLE = "google/resnet-v2/tensorFlow2/50-feature-vector/2"


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """A machine without any modules and without network."""
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def move_to(monkeypatch):
    """Return a function that moves both registries to a server; nobody listens on the first."""

    def move(address):
        for name in ("TFHUB", "KAGGLE"):
            monkeypatch.setattr(tfhub, name, address)

    move("http://127.0.0.1:9")
    return move


def archive(**files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_pb", ".pb"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


MODULE = archive(saved_model_pb=b"graph", variables__index=b"weights")


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, content, paths, length, *args):
        self.content, self.paths, self.length = content, paths, length
        super().__init__(*args)

    def do_GET(self):
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(self.length or len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def start_server(move_to):
    """Start a server that gives the same bytes for every path; return the paths that it is asked for."""
    running = []

    def start(content, length=None):
        paths = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, content, paths, length))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        move_to(f"http://127.0.0.1:{server.server_port}")
        return paths

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "text",
    [
        KAGGLE,
        "google/resnet-v2/TensorFlow2/50-feature-vector/2",
        f"https://www.kaggle.com/models/{KAGGLE}",
        "https://kaggle.com/models/google/resnet-v2/frameworks/TensorFlow2/variations/50-feature-vector/versions/2",
    ],
)
def test_spellings_of_a_kaggle_model(text):
    assert parse_handle(text).text == KAGGLE


def test_tfhub_address():
    assert parse_handle(TFHUB + "?tf-hub-format=compressed").text == TFHUB


@pytest.mark.parametrize("text", ["resnet50", "photos/cats", "a/b/c/d/5", "./tensorFlow2/x"])
def test_what_is_no_handle(text):
    assert parse_handle(text) is None


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        (TFHUB.removesuffix("/5"), TFHUB.removesuffix("5") + "1"),
        (KAGGLE.removesuffix("/2"), KAGGLE.removesuffix("2") + "1"),
        (
            "https://www.kaggle.com/models/google/resnet-v2/frameworks/tensorFlow2/variations/50-feature-vector",
            KAGGLE.removesuffix("2") + "1",
        ),
    ],
)
def test_handle_without_a_version_says_how_to_pin(text, pinned, move_to):
    move_to("https://tfhub.dev")
    with pytest.raises(UsageError, match=f"names no version.*for example {pinned}"):
        load_backbone(text)


def test_handle_without_a_version_names_those_at_hand(tmp_path):
    for version in ("2", "10"):
        (tmp_path / "home/savedmodels/kaggle" / KAGGLE).with_name(version).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"On this machine: version 2, 10\."):
        load_backbone(KAGGLE.removesuffix("/2"))


@pytest.mark.parametrize(
    "text",
    ["https://tfhub.dev/google", "https://tfhub.dev/google/../../etc/5", "https://kaggle.com/models/a/b"],
)
def test_address_that_is_none(text):
    with pytest.raises(UsageError, match=r"expected https?://|a Kaggle model is"):
        parse_handle(text)


def test_kaggle_model_for_another_framework():
    with pytest.raises(UsageError, match="kerashub:"):
        parse_handle("https://www.kaggle.com/models/keras/resnetv1/keras/resnet_50_imagenet/2")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (TFHUB, "/google/imagenet/resnet_v2_50/feature_vector/5?tf-hub-format=compressed"),
        (KAGGLE, f"/api/v1/models/{KAGGLE}/download"),
    ],
)
def test_download_comes_whole_and_once(text, path, start_server, tmp_path):
    paths = start_server(MODULE)
    folder = fetch_module(parse_handle(text), reporter=SilentReporter())
    assert set(paths) == {path}
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    assert (folder / "variables" / "index").read_bytes() == b"weights"
    assert folder.is_relative_to(tmp_path / "home")
    count = len(paths)
    assert fetch_module(parse_handle(text), reporter=SilentReporter()) == folder
    assert len(paths) == count


def test_whoever_loads_a_module_is_shown_its_download(start_server):
    start_server(MODULE)
    seen = Recorder()
    with pytest.raises(ModelRefused):  # what was sent is no graph
        load_backbone(KAGGLE, trust=True, reporter=seen)
    assert [line.partition(" to ")[0] for line in seen.lines] == [f"Downloading {KAGGLE}"]
    assert [title for title, _ in seen.progress] == ["Downloading"]


def test_caches_of_public_tools_are_used_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    theirs = tmp_path / "tfhub" / hashlib.sha1(TFHUB.encode()).hexdigest()
    kaggle = tmp_path / "kagglehub" / "models" / KAGGLE
    for folder in (theirs, kaggle):
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
    assert fetch_module(parse_handle(TFHUB), reporter=SilentReporter()) == theirs
    with pytest.raises(EnvironmentFault):  # kagglehub marks what is whole
        fetch_module(parse_handle(KAGGLE), reporter=SilentReporter())
    kaggle.with_name("2.complete").touch()
    assert fetch_module(parse_handle(KAGGLE), reporter=SilentReporter()) == kaggle


def test_offline_says_at_once_what_to_do(tmp_path):
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        load_backbone(KAGGLE, trust=True)
    assert time.monotonic() - started < 10
    for part in (KAGGLE, "http://127.0.0.1:9/api", str(tmp_path / "home/savedmodels/kaggle"), "Unpack"):
        assert part in str(caught.value)


def test_silent_server_is_given_up(monkeypatch, move_to):
    import socket

    monkeypatch.setattr(weights, "REACH_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        move_to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"timed out|no answer"):
            fetch_module(parse_handle(KAGGLE), reporter=SilentReporter())
        assert time.monotonic() - started < 5


def escaping():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("../../../escaped")
        tar.addfile(member, io.BytesIO(b""))
    return packed.getvalue()


def bomb():
    packed = io.BytesIO()
    member = tarfile.TarInfo("saved_model.pb")
    member.size = 1 << 45
    packed.write(member.tobuf() + bytes(1024))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "length", "reason"),
    [
        (MODULE, len(MODULE) + 100, "broke off|incomplete|IncompleteRead"),
        (MODULE[:-40], None, "."),
        (b"<html>Sign in</html>", None, "could not be opened"),
        (archive(readme=b"no graph"), None, "holds no SavedModel"),
        (escaping(), None, "outside the destination"),
        (bomb(), None, "unpacks to"),
    ],
    ids=["broken off", "cut short", "a page", "no graph", "escaping", "bomb"],  # the same in every process
)
def test_what_is_not_whole_or_not_safe_leaves_nothing(content, length, reason, start_server, tmp_path):
    start_server(content, length)
    with pytest.raises(EnvironmentFault, match=f"cannot be downloaded: .*({reason})"):
        fetch_module(parse_handle(KAGGLE), reporter=SilentReporter())
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("text", [TFHUB, KAGGLE])
def test_nothing_is_downloaded_that_nobody_trusts(text, start_server):
    paths = start_server(MODULE)
    with pytest.raises(ModelRefused, match=f"^{text} holds a SavedModel that was never trusted.*--trust"):
        load_backbone(text)
    assert paths == []

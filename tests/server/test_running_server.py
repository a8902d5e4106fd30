"""A running server under everything that clients, files and signals may do to it."""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos
from helpers.images import encoded, noise
from helpers.server_process import ServerProcess, serve
from PIL import Image

import regraft
from regraft.data.images.decode import decode
from regraft.data.images.rejections import Rejection
from regraft.inference.predictions import make_row

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
RAW = {"Content-Type": "application/octet-stream"}
QUICK = {"header_seconds": 1.0, "body_seconds": 1.5, "body_bytes": 300_000, "linger_seconds": 0.3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Path:
    photos = write_photos(tmp_path_factory.mktemp("data") / "photos", classes=3, each=20)
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), precision="f32")
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture(scope="module")
def other_run(run: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), precision="f32", seed=5)
    return regraft.train(run.parent / "photos", recipe, run.parent / "other", store=run.parent / "store").path


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serve({"photos": run}, tmp_path_factory.mktemp("server"), limits=QUICK) as process:
        yield process


@pytest.fixture(scope="module")
def photo(run: Path) -> bytes:
    return (run.parent / "photos" / "red" / "000.png").read_bytes()


def make_request(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        "POST /predict HTTP/1.1", "Host: localhost", "Content-Type: image/png",
        f"Content-Length: {len(body) if length is None else length}", *headers,
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# --- answers


def test_an_answer_is_that_of_the_library_and_names_its_model(
    server: ServerProcess, run: Path, photo: bytes
) -> None:
    status, row, headers = server.predict(photo)
    [expected] = regraft.load(run).predict([photo])
    assert status == 200
    assert row["values"] == pytest.approx(expected.values, abs=1e-5)
    assert set(row) == {*make_row(expected), "model", "version"}
    assert row["familiarity"] == pytest.approx(expected.familiarity, abs=1e-4)
    assert (row["label"], row["model"]) == (expected.label, "photos")
    assert len(headers["x-request-id"]) >= 8


def test_several_images_become_a_list_in_which_refused_ones_have_a_code(
    server: ServerProcess, photo: bytes
) -> None:
    parts = [("a.png", photo), ("b.txt", b"hello"), ("c.png", encoded(Image.fromarray(noise())))]
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="i"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in parts
    )
    status, rows, _ = server.ask(
        "POST", "/predict", body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert status == 200
    assert [row["image"] for row in rows] == ["a.png", "b.txt", "c.png"]
    assert rows[1] == {"image": "b.txt", "refused": "not_an_image", "detail": "looks like text"}


def test_an_explanation_has_heat_and_the_nearest_training_images(server: ServerProcess, photo: bytes) -> None:
    status, answer, _ = server.predict(photo, "/explain?coverage=0.8")
    assert status == 200
    assert answer["label"] == "red"
    assert {"subject", "rival", "is_signed", "heat"} == set(answer["maps"][0])
    assert answer["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-3)  # the image itself
    assert answer["nearest"][0]["thumbnail"]


def test_the_open_inference_protocol_gives_the_same_answer(server: ServerProcess, photo: bytes) -> None:
    _, row, _ = server.predict(photo)
    _, model, _ = server.ask("GET", "/v2/models/photos")
    assert model["versions"] == [row["version"]]
    head = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}).encode()
    body = head + len(photo).to_bytes(4, "little") + photo
    path = f"/v2/models/photos/versions/{row['version']}/infer"
    status, answer, _ = server.ask("POST", path, body, {"Inference-Header-Content-Length": str(len(head))})
    assert status == 200
    tensors = {tensor["name"]: tensor for tensor in answer["outputs"]}
    assert tensors["values"]["data"] == pytest.approx(list(row["values"].values()), abs=1e-6)
    assert tensors["label"]["data"] == ["red"]
    assert [tensor["name"] for tensor in model["outputs"]] == list(tensors)
    status, refusal, _ = server.ask("POST", "/v2/models/photos/infer", b"{}")
    assert status == 400
    assert isinstance(refusal["error"], str)


def test_figures_count_requests_by_route_and_images_by_result(server: ServerProcess, photo: bytes) -> None:
    server.predict(photo)
    server.predict(b"text")
    _, content, _ = server.ask("GET", "/metrics")
    text = content.decode()
    assert 'regraft_requests_total{route="/predict",status="200"}' in text
    assert 'regraft_images_total{model="photos",result="not_an_image"}' in text
    assert "regraft_group_images_bucket" in text
    assert 'regraft_model_info{model="photos"' in text


# --- faults of requests


def test_large_bodies_are_refused_early(server: ServerProcess) -> None:  # row 85
    large = bytes(400_000)
    before = server.measure_memory()
    assert server.refuse("POST", "/predict", large, RAW) == (413, "body_too_large")
    stated = server.send(make_request(b"", length=10**15))  # none of it was sent
    assert stated.startswith(b"HTTP/1.1 413")
    chunks = b"".join(b"8000\r\n" + bytes(0x8000) + b"\r\n" for _ in range(12))
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    assert b" 413 " in server.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 415 " in server.send(make_request(b"x", "Content-Encoding: gzip", "Connection: close"))
    assert server.send(make_request(b"short", length=500)).startswith(b"HTTP/1.1 408")
    assert server.measure_memory() - before < 30e6


def test_slow_clients_lose_their_connection_and_disturb_nobody(
    server: ServerProcess, photo: bytes
) -> None:  # row 86
    stalls = [b"GET / HT", make_request(b"x", length=100), b""]
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    for number, connection in enumerate(connections):
        connection.sendall(stalls[number % 3])
    try:
        assert {server.predict(photo)[0] for _ in range(20)} == {200}
        for number, connection in enumerate(connections):
            connection.settimeout(10)
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408"), (number, answer)
    finally:
        for connection in connections:
            connection.close()


def test_trickling_does_not_extend_a_deadline(server: ServerProcess) -> None:  # row 86
    pieces = [bytes([byte]) for byte in make_request(b"")[:60]]
    start = time.monotonic()
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=10) as connection, suppress(OSError):
        for piece in pieces:  # until the server closes it
            connection.sendall(piece)
            time.sleep(0.1)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", b"x", (415, "unsupported_media_type")),
        ("multipart/form-data; boundary=b", b"--b\r\n" * 5_000, (400, "bad_multipart")),
        ("multipart/form-data; boundary=b", b"--b--\r\n", (400, "no_image")),
    ],
)
def test_bodies_of_another_kind_are_refused(
    server: ServerProcess, content_type: str, body: bytes, expected: tuple[int, str]
) -> None:  # row 87; all of them: test_requests
    assert server.refuse("POST", "/predict", body, {"Content-Type": content_type}) == expected


def find_code(data: bytes) -> str:
    """The code with which training leaves out a file; "ok" if it uses it."""
    try:
        decode(data, 32)
    except Rejection as rejection:
        return rejection.code
    return "ok"


def ask_for_code(server: ServerProcess, data: bytes) -> tuple[int, str]:
    status, content, _ = server.predict(data)
    return status, "ok" if status == 200 else content["error"]["code"]


def test_a_refused_image_has_the_code_of_training(server: ServerProcess, photo: bytes) -> None:  # row 88
    broken = [
        b"",
        b"x",
        photo[:200],
        photo[:-40],
        b"\xff\xd8\xff" + photo,
        b"%PDF-1.7",
        b"\0\0\0\x18ftypmp42",
    ]
    broken += [photo[:position] + bytes(8) + photo[position + 8 :] for position in range(0, 400, 9)]
    for data in broken:
        status, code = ask_for_code(server, data)
        assert code == find_code(data)
        assert status == (200 if code == "ok" else 413 if code == "too_many_pixels" else 422)
    assert ask_for_code(server, photo) == (200, "ok")


@pytest.mark.soak
def test_every_unusual_file_has_the_code_of_training(run: Path, tmp_path: Path, corpora: Path) -> None:
    files = [file for file in sorted(corpora.rglob("*")) if file.is_file()]
    with serve({"photos": run}, tmp_path) as server:
        for file in files:
            data = file.read_bytes()
            assert ask_for_code(server, data)[1] == find_code(data), file.name


def test_a_crowd_gets_right_answers_or_is_asked_to_come_again(
    server: ServerProcess, run: Path
) -> None:  # row 89
    photos = [file.read_bytes() for file in sorted((run.parent / "photos").rglob("*.png"))[:30]]
    alone = [server.predict(photo)[1]["values"] for photo in photos]

    def ask(number: int) -> tuple[int, Any, dict[str, str], int]:
        return *server.predict(photos[number % 30]), number % 30

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(ask, range(300)))
    assert {status for status, *_ in answers} <= {200, 503}
    assert Counter(status for status, *_ in answers)[200] >= 30
    for status, content, headers, number in answers:
        if status == 200:
            assert content["values"] == pytest.approx(alone[number], abs=1e-6)
        else:
            assert headers["retry-after"] == "1"
            assert content["error"]["code"] == "overloaded"


def test_clients_that_leave_cost_nothing(server: ServerProcess, photo: bytes) -> None:  # row 90
    server.predict(photo)
    files, threads = server.count_open(), server.count_threads()
    for number in range(200):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(make_request(photo)[: None if number % 2 else -100])
    for _ in range(100):
        if server.count_open() <= files + 2:
            break
        time.sleep(0.1)
    assert server.count_open() <= files + 2
    assert server.count_threads() <= threads + 2  # threads for explaining come and go
    assert server.predict(photo)[0] == 200


def test_requests_come_by_the_servers_own_name_and_answers_allow_no_other_page(
    server: ServerProcess,
) -> None:  # row 94
    assert server.refuse("GET", "/", b"", {"Host": "evil.example"}) == (400, "bad_host")
    assert server.ask("GET", "/", b"", {"Host": "[::1]:8000"})[0] == 200
    assert server.refuse("DELETE", "/predict") == (405, "method_not_allowed")
    _, _, headers = server.ask("GET", "/", b"", {"Origin": "http://evil.example"})
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/../app.py", 404),
        ("/static/%2e%2e%2fapp.py", 404),
        ("/static/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/v2/models/..%2F..%2Fetc", 404),
        ("/v2/models/%00", 404),
        ("/predict?model=../../etc/passwd", 405),
        ("/nowhere%0d%0aX-Injected:%20yes", 404),
    ],
)
def test_no_address_leads_out_of_the_server(server: ServerProcess, path: str, status: int) -> None:  # row 95
    received, content, headers = server.ask("GET", path)
    assert received == status
    assert "x-injected" not in headers
    assert b"root:" not in json.dumps(content).encode()


@pytest.mark.parametrize(
    "address", [b"http://127.0.0.1:9/x.jpg", b"file:///etc/passwd", b"data:image/png;base64,eA=="]
)
def test_an_address_in_place_of_an_image_is_no_image(server: ServerProcess, address: bytes) -> None:  # row 95
    assert ask_for_code(server, address) == (422, "not_an_image")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 30_000 + b"\r\n\r\n",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\0\r\n\r\n",
    ],
)
def test_what_is_no_sound_http_is_refused(server: ServerProcess, request_bytes: bytes) -> None:  # row 96
    answer = server.send(request_bytes)
    assert answer.split(b" ")[1] in (b"400", b"431"), answer[:100]
    assert b'"request_id"' in answer


def test_pipelined_requests_are_answered_in_order(server: ServerProcess, photo: bytes) -> None:  # row 96
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
    answer = server.send(make_request(photo) + make_request(b"x") + health + b"Connection: close\r\n\r\n")
    positions = [answer.index(text) for text in (b'"label":"red"', b'"not_an_image"', b'"live":true')]
    assert positions == sorted(positions)


def test_nothing_that_clients_send_reaches_the_log(server: ServerProcess, photo: bytes) -> None:  # row 96
    server.ask("GET", "/secret-path?q=1", b"", {"X-Request-Id": "evil\\nline", "User-Agent": "secret-agent"})
    server.predict(b"secret-body")
    assert server.log.count("\n") == 1, server.log  # the line that told where it serves
    _, _, headers = server.ask("GET", "/", b"", {"X-Request-Id": "mine-7"})
    assert headers["x-request-id"] == "mine-7"


# --- start, reload, end


def test_it_is_alive_before_it_is_ready(run: Path, tmp_path: Path) -> None:  # row 93
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "regraft", "serve", str(run), "--port", str(port)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    server, seen = ServerProcess(process, port, tmp_path / "log"), set()
    try:
        while (200, 200) not in seen and process.poll() is None:
            try:
                live, ready = (server.ask("GET", f"/v2/health/{name}")[0] for name in ("live", "ready"))
            except OSError:
                continue
            seen.add((live, ready))
        assert seen == {(200, 503), (200, 200)}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("name", ["openvino.bin", "uncertainty.npz", "manifest.json"])
def test_a_damaged_run_is_never_served(run: Path, tmp_path: Path, name: str) -> None:  # row 93, 84
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2 :] = data[len(data) // 2 : -7]
    (copy / name).write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-m", "regraft", "serve", str(copy), "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 5, result.stderr
    assert result.stderr.startswith("regraft: ")
    assert "Serving" not in result.stderr


def test_a_port_in_use_is_named(server: ServerProcess, run: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "regraft", "serve", str(run), "--port", str(server.port)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 4
    assert f"port {server.port}: Address already in use. Choose another port with --port" in result.stderr


def test_an_earlier_run_is_served_and_what_it_lacks_is_told(run: Path, tmp_path: Path, photo: bytes) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["features"], manifest["files"]["uncertainty.npz"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with serve({"old": copy}, tmp_path) as server:
        assert "old has no held-out answers" in server.log
        assert "old was made before heat maps existed" in server.log
        status, row, _ = server.predict(photo)
        assert (status, row["label"], row["familiarity"], row["set"]) == (200, "red", None, [])
        assert server.refuse("POST", "/explain", photo, RAW) == (501, "no_heat_maps")


def test_a_token_is_needed_for_everything_that_answers(run: Path, tmp_path: Path, photo: bytes) -> None:
    token = "t" * 20
    with serve({"photos": run}, tmp_path, token=token) as server:
        for path in ("/models", "/metrics", "/v2", "/v2/models/photos"):
            assert server.ask("GET", path)[0] == 401
        assert server.refuse("POST", "/predict", photo, RAW) == (401, "unauthorized")
        for path in ("/", "/static/app.js", "/v2/health/ready", "/docs"):
            assert server.ask("GET", path)[0] == 200
        bearer = {**RAW, "Authorization": f"Bearer {token}"}
        assert server.ask("POST", "/predict", photo, bearer)[0] == 200
        [answer] = regraft.Client(f"127.0.0.1:{server.port}", token=token).predict([photo])
        assert isinstance(answer, regraft.Prediction)
        with pytest.raises(regraft.UsageError, match="another token"):
            regraft.Client(f"127.0.0.1:{server.port}").list_models()


class Load:
    """Threads that ask on and on, each on new connections and on ones that it keeps."""

    def __init__(self, server: ServerProcess, photo: bytes) -> None:
        self.answers: list[tuple[int, str]] = []
        self.failures: list[str] = []
        self.listens_until = math.inf
        self._server, self._photo, self._is_over = server, photo, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._is_over.is_set():
            try:
                status, row, _ = self._server.predict(self._photo)
                self.answers.append((status, row.get("version", "")))
            except ConnectionRefusedError:
                return  # it listens no more
            except ConnectionResetError as error:
                # The kernel resets what it holds when a server stops listening: nobody accepted that.
                if time.monotonic() < self.listens_until:
                    self.failures.append(repr(error))
            except OSError as error:
                self.failures.append(repr(error))


def test_a_reload_under_load_loses_no_request(
    run: Path, other_run: Path, tmp_path: Path, photo: bytes
) -> None:  # row 91
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    with serve({"photos": folder}, tmp_path) as server, Load(server, photo) as load:
        wait_for(lambda: len(load.answers) > 20)
        shutil.move(folder, tmp_path / "before")
        shutil.copytree(other_run, folder)
        server.signal(signal.SIGHUP)
        wait_for(lambda: "Reloaded photos" in server.log)
        asked = len(load.answers)
        wait_for(lambda: len(load.answers) > asked + 20)
        (folder / "openvino.bin").write_bytes(b"damaged")
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")  # another version
        server.signal(signal.SIGHUP)
        wait_for(lambda: "its old model goes on" in server.log)
        asked = len(load.answers)
        wait_for(lambda: len(load.answers) > asked + 20)
    assert not load.failures
    assert {status for status, _ in load.answers} == {200}
    versions = [version for _, version in load.answers]
    assert len(set(versions)) == 2
    assert versions[-1] != versions[0]


def test_an_end_under_load_loses_no_request(run: Path, tmp_path: Path, photo: bytes) -> None:  # row 92
    with serve({"photos": run}, tmp_path, limits={"linger_seconds": 0.5}) as server:
        with Load(server, photo) as load:
            wait_for(lambda: len(load.answers) > 20)
            server.signal(signal.SIGTERM)
            load.listens_until = time.monotonic() + 0.5
            time.sleep(0.1)
            assert server.ask("GET", "/v2/health/ready")[0] == 503
            assert server.process.wait(20) == 0  # no backend was imported either
        assert not load.failures
        assert {status for status, _ in load.answers} == {200}


def test_a_second_signal_ends_it_at_once(run: Path, tmp_path: Path) -> None:  # row 92
    with serve({"photos": run}, tmp_path, limits={"linger_seconds": 60}) as server:
        server.signal(signal.SIGTERM)
        wait_for(lambda: "second signal" in server.log)
        server.signal(signal.SIGTERM)
        assert server.process.wait(5) == -signal.SIGTERM


def wait_for(is_true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)

"""What a server is told, and how it reads requests: without a server."""

from __future__ import annotations

import base64
import json
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from regraft.cli import app
from regraft.errors import EnvironmentFault, UsageError
from regraft.server.body import UploadedImage, split_images
from regraft.server.open_inference import parse_request
from regraft.server.refusals import RequestRefused
from regraft.server.registry import name_runs
from regraft.server.run_server import _open_socket
from regraft.server.settings import ServerSettings, is_loopback, read_token

TOKEN = "correct-horse-battery"
FIELD = b'--b\r\nContent-Disposition: form-data; name="i"\r\n\r\nx\r\n--b--\r\n'
FORM = "multipart/form-data; boundary=b"


def make_form(*files: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="i"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + end


def code_of(content_type: str, body: bytes, most: int = 4) -> tuple[int, str]:
    with pytest.raises(RequestRefused) as caught:
        split_images(content_type, body, most)
    return caught.value.status, caught.value.code


def test_a_form_holds_several_images_in_order() -> None:
    body = make_form(("a.jpg", b"one"), ("ü.png", b"\r\n--x\r\n"))
    assert split_images(FORM, body, 4) == [
        UploadedImage("a.jpg", b"one"),
        UploadedImage("ü.png", b"\r\n--x\r\n"),
    ]


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("", b"x", (415, "unsupported_media_type")),
        ("application/x-www-form-urlencoded", b"x=1", (415, "unsupported_media_type")),
        ("application/json", b"{}", (415, "unsupported_media_type")),
        ("multipart/form-data", b"x", (400, "bad_multipart")),
        (FORM, b"", (400, "bad_multipart")),
        (FORM, b"garbage", (400, "bad_multipart")),
        (FORM, make_form(("a", b"x"), end=b""), (400, "bad_multipart")),
        (FORM, b"--b--\r\n", (400, "no_image")),
        (FORM, FIELD, (400, "unexpected_field")),
        (FORM, make_form(*[("a", b"")] * 10_000), (400, "too_many_images")),
    ],
)  # fmt: skip
def test_other_bodies_are_refused_with_a_code(
    content_type: str, body: bytes, expected: tuple[int, str]
) -> None:
    assert code_of(content_type, body) == expected


@given(st.binary(max_size=300))
def test_no_body_breaks_the_parser(body: bytes) -> None:
    for content in (body, b"--b\r\n" + body, make_form(("a", body))):
        with suppress(RequestRefused):
            assert split_images(FORM, content, 4)


def test_files_of_the_open_inference_protocol_come_in_base64_or_behind_the_json() -> None:
    files = [b"\xff\xd8one", b"two"]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2]}
    texts = [base64.b64encode(file).decode() for file in files]
    body = json.dumps({"id": "7", "inputs": [{**tensor, "data": texts}]}).encode()
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    binary = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    images, request_id, _ = parse_request(body, {}, 4)
    others, _, names = parse_request(head + binary, {"inference-header-content-length": str(len(head))}, 4)
    assert [image.data for image in images] == [image.data for image in others] == files
    assert (request_id, names) == ("7", ["label"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"[" * 100_000, b'{"inputs": []}', b'{"inputs": [{"name": "image"}]}',
     b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}]}',
     b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["file:///etc/passwd"]}]}',
     b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["eA=="]}]}'],
)  # fmt: skip
def test_other_requests_of_the_protocol_are_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        parse_request(body, {}, 4)
    assert caught.value.status == 400


def test_only_this_machine_may_ask_without_a_token() -> None:
    with pytest.raises(UsageError, match="--token-file"):
        ServerSettings(host="0.0.0.0")
    assert ServerSettings(host="0.0.0.0", token=TOKEN).host == "0.0.0.0"
    assert not any(map(is_loopback, ("10.0.0.1", "::", "localhost.evil.example")))


def test_the_token_is_compared_as_a_whole() -> None:
    settings = ServerSettings(token=TOKEN)
    assert settings.is_allowed_token(f"Bearer {TOKEN}")
    for header in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \xff"):
        assert not settings.is_allowed_token(header)


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [(0o604, TOKEN, "chmod 600"), (0o600, "short", "at least 16"), (0o600, "two words of text", "one line")],
)
def test_a_token_file_is_private_and_holds_a_token(
    tmp_path: Path, mode: int, text: str, message: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(UsageError, match=message):
        read_token(file)
    with pytest.raises(EnvironmentFault, match="No such file"):
        read_token(tmp_path / "nowhere")


def test_models_need_different_names(tmp_path: Path) -> None:
    assert name_runs([f"new={tmp_path}", str(tmp_path / "old")]) == {"new": tmp_path, "old": tmp_path / "old"}
    with pytest.raises(UsageError, match="NAME="):
        name_runs(["a/run", "b/run"])
    with pytest.raises(UsageError, match="NAME="):
        name_runs(["a/my run"])


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "regraft.cli.serve.importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None))
    )
    result = CliRunner().invoke(app, ["serve", "run"])
    assert isinstance(result.exception, EnvironmentFault)
    assert 'pip install "regraft[serve]"' in str(result.exception)


def test_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY where the listener states TCP; else each answer would wait 40 ms."""
    with _open_socket("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP

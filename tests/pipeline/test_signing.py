"""What a run says of its origin: a model card whose code runs, digests, and a signature."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import write_photos
from PIL import Image
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.errors import EnvironmentFault, ModelRefused, UsageError
from regraft.pipeline.signing import SIGNATURE, sign_run, verify_run
from regraft.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(network_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder beside its images."""
    folder = tmp_path_factory.mktemp("signing")
    photos = write_photos(folder / "photos")
    recipe = Recipe(backbone=str(network_file), phases=())
    return regraft.train(photos, recipe, folder / "one", store=folder / "store").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "one")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public one."""
    return make_keys(tmp_path_factory.mktemp("keys"))


def make_keys(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    lock = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_the_manifest_has_the_digests_of_card_and_bill(trained: Path) -> None:
    files = json.loads((trained / "manifest.json").read_text())["files"]
    for name in ("README.md", "bom.cdx.json", "model.keras"):
        assert files[name] == hashlib.sha256((trained / name).read_bytes()).hexdigest()
    bill = json.loads((trained / "bom.cdx.json").read_text())
    names = [file["name"] for file in bill["metadata"]["component"]["components"]]
    assert sorted([*names, "bom.cdx.json"]) == sorted(files)


def test_code_and_commands_of_the_card_run(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.parent)
    shutil.copy(next((trained.parent / "photos" / "red").iterdir()), "photo.jpg")
    card = (trained / "README.md").read_text("utf-8")
    programs = re.findall("```python\n(.*?)```", card, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("red ")
    assert "(None, 32, 32, 3) (None, 3)" in printed
    for line in re.findall("```shell\n(.*?)```", card, re.DOTALL)[0].splitlines():
        words = shlex.split(line.replace("DATA", "photos"))
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0
        assert result.stdout


def test_a_run_of_an_earlier_version_has_neither_and_still_predicts(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for name in ("README.md", "bom.cdx.json"):
        (run / name).unlink()
        del manifest["files"][name]
    (run / "manifest.json").write_text(json.dumps(manifest))
    photo = run.parent / "photo.png"
    Image.new("RGB", (40, 40), (30, 60, 200)).save(photo)
    (answer,) = regraft.load(run).predict(photo)
    assert answer.label == "blue"


def test_a_signature_verifies_until_a_file_changes(run: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert sign_run(run, private) == run / SIGNATURE
    count = sum(path.is_file() for path in run.iterdir()) - 1
    assert verify_run(run, public) == count
    (run / "extra.txt").write_text("x")
    with pytest.raises(ModelRefused, match=r"added: extra\.txt"):
        verify_run(run, public)
    (run / "extra.txt").unlink()
    content = (run / "split.csv").read_bytes()
    (run / "split.csv").write_bytes(content + b"\n")
    with pytest.raises(ModelRefused, match=r"changed: split\.csv"):
        verify_run(run, public)
    (run / "split.csv").unlink()
    with pytest.raises(ModelRefused, match=r"missing: split\.csv"):
        verify_run(run, public)
    (run / "split.csv").write_bytes(content)
    assert verify_run(run, public) == count


def test_a_signature_by_another_key_or_by_nobody_is_refused(
    run: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    with pytest.raises(UsageError, match="`regraft sign` writes one"):
        verify_run(run, public)
    sign_run(run, private)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ModelRefused, match="not by this key"):
        verify_run(run, make_keys(other)[1])
    (run / SIGNATURE).write_text("{}")
    with pytest.raises(ModelRefused, match="cannot be read"):
        verify_run(run, public)


def test_a_key_with_a_password_needs_it(run: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    private, public = make_keys(tmp_path / "keys", b"secret")
    with pytest.raises(UsageError, match="its password if it has one"):
        sign_run(run, private)
    (tmp_path / "word").write_text("secret\n")
    result = CliRunner().invoke(
        app, ["sign", str(run), "--key", str(private), "--password-file", str(tmp_path / "word")]
    )
    assert result.exit_code == 0, result.output
    assert verify_run(run, public) > 10


def test_what_cannot_be_signed(run: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(UsageError, match="There is nothing at"):
        sign_run(tmp_path / "nowhere", private)
    with pytest.raises(UsageError, match="Expected a private key"):
        sign_run(run, public)
    shutil.copy(private, run / "key.pem")
    with pytest.raises(UsageError, match="lies in the run folder"):
        sign_run(run, run / "key.pem")
    (run / "key.pem").unlink()
    sign_run(run, private)
    with pytest.raises(UsageError, match="--overwrite"):
        sign_run(run, private)
    (run / "model.keras").write_bytes(b"another")
    with pytest.raises(ModelRefused, match="so it is not signed"):
        sign_run(run, private, overwrite=True)


def test_a_completed_card_may_be_signed_and_a_signed_run_be_replaced(
    run: Path, keys: tuple[Path, Path]
) -> None:
    from regraft.pipeline.outputs import RUN_FOLDER, require_replaceable

    with (run / "README.md").open("a") as card:
        card.write("\nLicence: CC0\n")
    sign_run(run, keys[0])
    require_replaceable(run, overwrite=True, kind=RUN_FOLDER)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)


def test_a_missing_package_names_the_command_that_installs_it(
    run: Path, keys: tuple[Path, Path], without_library: None
) -> None:
    with pytest.raises(EnvironmentFault, match=r'pip install "regraft\[sign\]"'):
        sign_run(run, keys[0])

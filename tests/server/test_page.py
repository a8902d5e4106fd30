"""The page at / in headless Chromium: what a person sees and does, and what it never does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos
from helpers.server_process import ServerProcess, serve

import regraft

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", classes=3, each=20)


@pytest.fixture(scope="module")
def run(photos: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), precision="f32")
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serve({"photos": run}, tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Any, server: ServerProcess) -> Iterator[Any]:
    """The page at 360 px, which reports every error of its scripts and every request to another host."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: problems.append(request.url) if is_foreign(request.url, server) else None
    )
    page.goto(f"http://localhost:{server.port}/")
    page.wait_for_selector("#about:has-text('Version')")
    yield page
    context.close()
    assert not problems


def is_foreign(url: str, server: ServerProcess) -> bool:
    return not url.startswith((f"http://localhost:{server.port}/", "blob:", "data:"))


def send(page: Any, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_selector(f"#status:has-text('{len(files)} answered')")


def test_it_shows_answers_warnings_refusals_and_where_the_evidence_lies(
    page: Any, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(b"text")
    send(page, photos / "red" / "000.png", *tmp_path.iterdir())
    card = page.locator("article", has_text="000.png")
    assert card.locator("h2").inner_text() == "red"
    assert card.locator(".bars li").count() == 3
    assert page.locator("article", has_text="onerror").locator(".problem").inner_text() == (
        "Refused: not an image (looks like text)"
    )
    card.get_by_role("button", name="Why?").focus()
    page.keyboard.press("Enter")
    card.locator("canvas").wait_for()
    assert "Heat map: what speaks for red" in card.locator("canvas").get_attribute("aria-label")
    assert card.locator(".nearest li").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_pasted_and_dropped_images_are_answered(page: Any, photos: Path) -> None:
    data = list((photos / "blue" / "001.png").read_bytes())
    for kind in ("paste", "drop"):
        page.evaluate(
            """([kind, data]) => {
                const carrier = new DataTransfer();
                carrier.items.add(new File([new Uint8Array(data)], `${kind}.png`, {type: "image/png"}));
                const field = kind === "paste" ? "clipboardData" : "dataTransfer";
                const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
                document.dispatchEvent(new Kind(kind, {[field]: carrier, cancelable: true}));
            }""",
            [kind, data],
        )
        page.wait_for_selector(f"article:has-text('{kind}.png') h2:has-text('blue')")


def test_the_policy_stops_inline_scripts_and_other_hosts(page: Any) -> None:
    stopped = page.evaluate(
        """async () => {
            const blocked = [];
            const name = "securitypolicyviolation";
            document.addEventListener(name, (event) => blocked.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.wasRun = true";
            document.body.append(script);
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [window.wasRun === true, blocked];
        }"""
    )
    assert stopped == [False, ["script-src-elem"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_axe_has_nothing_to_object_to(
    browser: Any, server: ServerProcess, photos: Path, *, scheme: str, path: str, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"http://localhost:{server.port}{path}")
    if path == "/":
        (tmp_path / "bad.png").write_bytes(b"text")
        send(page, photos / "red" / "000.png", tmp_path / "bad.png")
        page.get_by_role("button", name="Why?").click()
        page.locator("canvas").wait_for()
    else:
        page.locator("table").first.wait_for()
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    context.close()


def test_a_token_is_asked_for_and_used(browser: Any, run: Path, photos: Path, tmp_path: Path) -> None:
    with serve({"photos": run}, tmp_path, token="t" * 20) as server:
        page = browser.new_page()
        page.goto(f"http://localhost:{server.port}/")
        for token, text in (("wrong", "does not accept"), ("t" * 20, "")):
            page.get_by_label("This server asks for its token").fill(token)
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#token-problem:has-text('{text}')", state="attached")
        page.wait_for_selector("#about:has-text('Version')")
        assert not page.locator("#token-form").is_visible()
        send(page, photos / "green" / "000.png")
        assert page.locator("article h2").inner_text() == "green"

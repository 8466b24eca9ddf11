"""Pages in a real browser: no error, no request to anywhere, and what a user does has its effect."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_samples import HOSTILE, extracted
from PIL import Image

pytest.importorskip("plotly")
pytest.importorskip("playwright")
from playwright.sync_api import expect

from c3d_extract.analysis import ExperimentOptions, baselines, cross_validate, prepare_experiment
from c3d_extract.output import TableRow, write_table
from c3d_extract.pages.map import MapOptions, write_map
from c3d_extract.pages.report import ClassResult, write_report_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def features(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(videos, tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def map_page(features: Path) -> Path:
    page = features.with_name("map.html")
    write_map(features, page, MapOptions(), lambda _what, _total: lambda _n: None)
    return page


@pytest.fixture(scope="module")
def report_page(features: Path) -> Path:
    labels = features.with_name("labels.csv")
    names = [HOSTILE, "a/one.mp4", "a/two.mp4", "b/one.mp4", "b/short.mp4", "long.mp4", "mid.mp4"]
    rows = "".join(f"{name},{'<img src=x>' if i % 2 else 'odd'}\n" for i, name in enumerate(names))
    labels.write_text(rows)
    experiment = prepare_experiment(ExperimentOptions(features, labels=labels))
    evaluation = cross_validate(experiment.samples, experiment.splits)
    chance = baselines(experiment.samples, experiment.splits).chance
    page = features.with_name("report.html")
    write_report_page(features, page, ClassResult(experiment, evaluation, chance))
    return page


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page; afterwards fail where it logged an error, asked for anything, or opened a dialog."""
    wrong: list[str] = []
    contexts = []

    def note_console(message: Any) -> None:
        if message.type in {"error", "warning"} and "GPU stall" not in message.text:
            wrong.append(message.text)

    def open_page(path: Path, **how: Any) -> Page:
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note_console)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: wrong.append(request.url) if is_elsewhere(request.url) else None)

        def is_elsewhere(url: str) -> bool:
            return url != path.as_uri() and not url.startswith(("data:", "blob:"))

        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def assert_visible(page: Page, n: int) -> None:
    expect(page.locator("#stage")).to_have_attribute("data-visible", str(n))


def place_of(page: Page, video: str) -> tuple[float, float]:
    """Return where a video's point is in the window: in the middle of the stage, once it was chosen."""
    page.locator("#query").fill(video)
    page.locator("#results button").first.click()
    assert page.locator("#marks .chosen").count() == 1
    page.locator("#query").fill("")
    page.locator("#stage").press("Escape")
    page.wait_for_timeout(800)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def is_coloured(page: Page, x: float, y: float) -> bool:
    """Return whether a point is drawn at a place, in ten seconds at the latest: its channels differ."""
    clip: Any = {"x": x - 8, "y": y - 8, "width": 16, "height": 16}
    for _ in range(50):
        with Image.open(io.BytesIO(page.screenshot(clip=clip))) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        if (pixels.max(2) - pixels.min(2)).max() > 60:
            return True
        page.wait_for_timeout(200)
    return False


@pytest.mark.parametrize("how", [DESKTOP, {**DESKTOP, "color_scheme": "dark"}])
def test_points_are_drawn_and_a_mouse_finds_them(
    opened: Callable[..., Page], map_page: Path, how: Any
) -> None:
    page = opened(map_page, **how)
    page.locator("#thumbnails").uncheck()
    x, y = place_of(page, "long.mp4")
    assert is_coloured(page, x, y)
    page.mouse.move(x, y)
    card = page.locator("#hover")
    expect(card).to_contain_text("long.mp4")
    assert card.locator(".picture").count() == 1
    page.mouse.click(x, y)
    details = page.locator("#details")
    assert details.locator("h2").first.inner_text() == "long.mp4"
    assert details.locator(".strip .picture").count() == 5
    facts = details.locator("dl").inner_text()
    for fact in ("frames\n100", "frames/s\n25", "duration\n4.00 s", "status\nok"):
        assert fact in facts
    assert details.locator("ol button").count() == 6
    neighbour = details.locator("ol button span").first.inner_text()
    details.locator("ol button").first.click()
    assert details.locator("h2").first.inner_text() == neighbour


def test_the_mouse_moves_and_zooms(opened: Callable[..., Page], map_page: Path) -> None:
    page = opened(map_page, **DESKTOP)
    page.locator("#thumbnails").uncheck()
    x, y = place_of(page, "long.mp4")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=5)
    page.mouse.up()
    assert page.locator("#details").is_hidden()  # a drag chooses nothing
    page.wait_for_timeout(800)
    assert is_coloured(page, x + 60, y + 40)
    page.mouse.move(x + 60, y + 40)
    expect(page.locator("#hover")).to_contain_text("long.mp4")
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(800)
    page.mouse.move(x + 61, y + 41)
    expect(page.locator("#hover")).to_contain_text("long.mp4")  # it zooms around the pointer


def test_legend_and_search_filter(opened: Callable[..., Page], map_page: Path) -> None:
    page = opened(map_page, **DESKTOP)
    assert_visible(page, 7)
    page.locator("#classes button", has_text="b").first.click()
    assert_visible(page, 5)
    page.locator("#none").click()
    assert_visible(page, 0)
    page.locator("#all").click()
    page.keyboard.press("/")
    page.keyboard.type("ONE.mp4")
    assert_visible(page, 2)
    assert page.locator("#results button").all_inner_texts() == ["a/one.mp4", "b/one.mp4"]
    page.keyboard.press("Enter")
    assert page.locator("#details h2").first.inner_text() == "a/one.mp4"
    page.locator("#query").press("Escape")
    assert_visible(page, 7)
    page.locator("#colouring").select_option(label="cluster")
    assert page.locator("#classes button").first.inner_text().startswith("cluster 1")


def test_in_a_large_map_enter_chooses_what_was_typed_last(
    opened: Callable[..., Page], tmp_path: Path
) -> None:
    table = tmp_path / "feats.h5"
    X = np.random.default_rng(0).normal(size=(5001, 4)).astype(np.float32)
    facts = (1, 16, 0, 0, 25.0, 0.64, 320, 240, 1000, 0)
    rows = [TableRow(f"a/{i:04}.mp4", facts, [x]) for i, x in enumerate(X)]
    write_table(table, kind="features", layers={"fc6": 4}, rows=rows, attributes={})
    write_map(table, tmp_path / "map.html", MapOptions(method="pca"), lambda _what, _total: lambda _n: None)
    page = opened(tmp_path / "map.html", **DESKTOP)
    page.locator("#query").press_sequentially("4321")
    page.keyboard.press("Enter")
    assert page.locator("#details h2").first.inner_text() == "a/4321.mp4"
    assert_visible(page, 1)


def test_keys_alone_are_enough(opened: Callable[..., Page], map_page: Path) -> None:
    page = opened(map_page, **DESKTOP)
    page.locator("#stage").focus()
    names = []
    for key in ("n", "n", "p"):
        page.keyboard.press(key)
        names.append(page.locator("#details h2").first.inner_text())
    assert names == ["a/one.mp4", "a/two.mp4", "a/one.mp4"]
    for key in ("ArrowLeft", "ArrowDown", "+", "-", "0", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#details").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()


def test_fingers_choose_a_video_on_a_phone(opened: Callable[..., Page], map_page: Path) -> None:
    page = opened(map_page, **PHONE)
    assert page.locator("#classes").is_hidden()
    page.locator("#thumbnails").uncheck()
    x, y = place_of(page, "mid.mp4")
    page.touchscreen.tap(x, y)
    assert page.locator("#details h2").first.inner_text() in {"mid.mp4", HOSTILE}  # the same place
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # type: ignore[index]


def test_the_button_changes_the_theme(opened: Callable[..., Page], map_page: Path, report_page: Path) -> None:
    for path in (map_page, report_page):
        page = opened(path, **DESKTOP, color_scheme="dark")
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(21, 24, 28)"
        page.locator("#theme").click()
        assert page.evaluate(ground) == "rgb(251, 251, 250)"


@pytest.mark.parametrize("how", [DESKTOP, PHONE])
def test_the_report_sorts_and_filters(opened: Callable[..., Page], report_page: Path, how: Any) -> None:
    page = opened(report_page, **how)
    names = page.locator("#videos tbody tr td:first-child")
    assert names.first.inner_text() == "a/broken.mp4"  # what failed comes first
    page.locator("#videos th button", has_text="frames").first.click()
    assert names.first.inner_text() == "long.mp4"
    page.locator("#videos th button", has_text="frames").first.click()
    assert names.first.inner_text() != "long.mp4"
    page.locator("#query").fill("script")
    assert names.all_inner_texts() == [HOSTILE]
    page.locator("#query").fill("")
    page.locator("#status").select_option("failed")
    assert names.all_inner_texts() == ["a/broken.mp4"]
    assert page.locator("#plots .plot svg.main-svg").count() >= 3
    assert page.locator("#confusion svg.main-svg").count() >= 1
    assert "accuracy" in page.locator("#accuracy").inner_text()
    assert page.evaluate("document.images.length") == 0
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= how["viewport"]["width"]

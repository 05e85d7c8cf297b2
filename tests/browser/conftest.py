"""A real browser, where there is one: Debian's Chromium, driven by Playwright. `make test-browser` installs both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssmtool
from ssmtool import plugins
from ssmtool.pipeline.portrait import portrait
from ssmtool.report.overview import save_report, view
from tests.report.overview.conftest import EVIL

BROWSER = os.environ.get("SSMTOOL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chromium():
    """The browser process."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-browser")
    if BROWSER is None:
        pytest.skip("needs Chromium: make test-browser")
    with api.sync_playwright() as playwright:
        # a container's root has no sandbox to give away; the pages are ours
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """A report on two S4D layers against a reduction."""
    folder = tmp_path_factory.mktemp("report")
    tensors, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    save_file({name: np.array(x, order="C") for name, x in tensors.items()}, folder / "model.safetensors")
    model = ssmtool.load(folder / "model.safetensors")
    ssmtool.compress(model, folder / "reduced.safetensors", rank=2)
    reduced = ssmtool.load(folder / "reduced.safetensors")
    save_report(view(portrait(model, reduced, ranks=(3,)), "ssmtool report"), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Path:
    """A report on 48 layers, the first of which has a name that tries everything."""
    folder = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(48):
        name = EVIL if i == 0 else f"backbone.layers.{i}.with.a.rather.long.path.ssm"
        a = np.stack([-rng.uniform(0.01, 0.3, (16, 8)), rng.uniform(0.0, 3.0, (16, 8))], axis=-1)
        parts = {"lambda_log": a, "B": rng.normal(size=(16, 8, 1, 2)), "C": rng.normal(size=(16, 1, 8, 2))}
        tensors |= {f"{name}.{leaf}": x.astype(np.float16) for leaf, x in parts.items()}
    save_file(tensors, folder / "deep.safetensors")
    found = portrait(ssmtool.load(folder / "deep.safetensors"))
    save_report(view(found), folder / "deep.html")
    return folder / "deep.html"


@pytest.fixture
def open_page(chromium) -> Iterator:
    """open_page(path, **context options): a page that has seen no error, no request but its own, and no message."""
    contexts = []

    def make(path: Path, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        seen: list[str] = []
        page.on("console", lambda message: seen.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: seen.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        assert seen == [f"request: {path.as_uri()}"]
        contexts.append((context, seen, path))
        return page

    yield make
    for context, seen, path in contexts:
        context.close()
        assert seen == [f"request: {path.as_uri()}"]

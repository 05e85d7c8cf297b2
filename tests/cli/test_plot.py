"""ssmtool plot."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as xml

import matplotlib
import numpy as np
import pytest

from tests.pipeline.language_models import byte_model

SVG = "{http://www.w3.org/2000/svg}"
LINEAR = ("sigma", "poles", "impulse", "frequency", "heatmap", "timescales")


@pytest.fixture
def mamba2(tmp_path):
    return byte_model(tmp_path / "mamba2", "mamba2")


@pytest.mark.parametrize("kind", LINEAR)
def test_every_kind_is_drawn_the_same_every_time(run, s4d, tmp_path, kind):
    files = [tmp_path / name for name in ("a.svg", "b.svg", "a.pdf", "b.pdf")]
    for file in files:
        assert run("plot", s4d, "--kind", kind, "-o", file) == (0, f"Wrote {file}\n", "")
    a, b, c, d = (file.read_bytes() for file in files)
    assert a == b
    assert c == d
    assert xml.fromstring(a).tag == f"{SVG}svg"
    assert c.startswith(b"%PDF-")
    assert b"<dc:date>" not in a
    assert b"/CreationDate" not in c


@pytest.mark.parametrize("kind", ["poles", "impulse", "frequency"])
def test_a_reduced_model_is_drawn_beside_it(run, s4d, tmp_path, kind):
    alone, both, small = tmp_path / "alone.svg", tmp_path / "both.svg", tmp_path / "small"
    assert run("compress", s4d, "--rank", 2, "-o", small).code == 0
    assert run("plot", s4d, "--kind", kind, "-o", alone).code == 0
    assert run("plot", s4d, small, "--kind", kind, "-o", both).code == 0
    assert len(both.read_bytes()) > len(alone.read_bytes())


def test_selective_models(run, mamba2, tmp_path):
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 256, (8, 24)))
    for kind in ("sigma", "heatmap", "timescales", "tokens"):
        assert run("plot", mamba2, "--kind", kind, "--tokens", tokens, "-o", tmp_path / f"{kind}.png").code == 0
    assert run("plot", mamba2, "--kind", "heatmap", "-o", tmp_path / "static.svg").code == 0  # of the weights
    code, _, err = run("plot", mamba2, "--kind", "sigma", "-o", tmp_path / "s.svg")
    assert (code, "need tokens" in err) == (2, True)


def size(path) -> tuple[float, float]:
    """Inches of an SVG."""
    root = xml.parse(path).getroot()
    width, height = (float(root.get(name, "").removesuffix("pt")) / 72 for name in ("width", "height"))
    return width, height


@pytest.mark.parametrize(
    ("options", "width"), [([], 7.0), (["--column", "single"], 3.4), (["--width", 5.5, "--column", "single"], 5.5)]
)
def test_widths(run, s4d, tmp_path, options, width):
    file = tmp_path / "p.svg"
    assert run("plot", s4d, "--kind", "sigma", "-o", file, *options).code == 0
    assert size(file)[0] == pytest.approx(width)
    assert run("plot", s4d, "--kind", "sigma", "-o", file, "--height", 2.5, *options).code == 0
    assert size(file) == pytest.approx((width, 2.5))


def test_a_style_sheet_is_respected_and_the_last_wins(run, s4d, tmp_path):
    first, second = tmp_path / "first.mplstyle", tmp_path / "second.mplstyle"
    first.write_text("axes.prop_cycle: cycler('color', ['123456'])\nfigure.facecolor: abcdef\n")
    second.write_text("figure.facecolor: fedcba\nsavefig.dpi: 50\n")
    file = tmp_path / "p.svg"
    assert run("plot", s4d, "--kind", "sigma", "-o", file, "--style", first, "--style", second).code == 0
    text = file.read_text()
    assert "#123456" in text
    assert "#fedcba" in text
    assert "#abcdef" not in text
    assert "#0072b2" not in text
    png = tmp_path / "p.png"
    assert run("plot", s4d, "--kind", "sigma", "-o", png, "--style", second, "--width", 4).code == 0
    assert struct.unpack(">I", png.read_bytes()[16:20])[0] == 200  # 4 inches at 50 dots


def test_a_matplotlibrc_is_respected_and_the_rest_is_ours(run, s4d, tmp_path, monkeypatch):
    mine = tmp_path / "matplotlibrc"
    mine.write_text("axes.edgecolor: 00ff12\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(mine))
    # Matplotlib reads the file when it is imported, which it is here already
    with matplotlib.rc_context(fname=mine):
        file = tmp_path / "p.svg"
        assert run("plot", s4d, "--kind", "sigma", "-o", file).code == 0
    text = file.read_text()
    assert "#00ff12" in text
    assert "#0072b2" in text


def test_settings_of_the_process_stay(run, s4d, tmp_path):
    before = dict(matplotlib.rcParams)
    assert run("plot", s4d, "--kind", "sigma", "-o", tmp_path / "p.svg", "--style", "ggplot").code == 0
    assert dict(matplotlib.rcParams) == before


def test_names_with_dollars_are_no_mathematics(run, tiny, tmp_path):
    def rename(tensors):
        for name in [name for name in tensors if "layers.0" in name]:
            tensors[name.replace("layers.0", "$\\frac{a$")] = tensors.pop(name)

    model = tiny("neutral", "batch", rename)
    assert run("plot", model, "--kind", "poles", "-o", tmp_path / "p.pdf").code == 0
    assert run("report", model, "-o", tmp_path / "r.pdf").code == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-o", "p.svg"], "--kind sigma|poles"),
        (["--kind", "sigma"], "-o FILE"),
        (["--kind", "sigma", "-o", "p.jpg"], ".svg or .pdf or .png"),
        (["--kind", "sigma", "-o", "p.svg", "--width", 0], "--width"),
        (["--kind", "sigma", "-o", "p.svg", "--height", 1e9], "--height"),
        (["--kind", "pie", "-o", "p.svg"], "pie"),
    ],
)
def test_wrong_options_are_refused_before_the_work(run, tmp_path, options, reason):
    code, out, err = run("plot", tmp_path / "no-such-model", *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert "internal" not in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--kind", "tokens"], "selective layers"),
        (["--kind", "impulse", "--system", 99], "no system 99"),
        (["--kind", "sigma", "--style", "no-such-style"], "ggplot"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(run, s4d, tmp_path, options, reason):
    code, out, err = run("plot", s4d, "-o", tmp_path / "p.svg", *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert "internal" not in err
    assert not (tmp_path / "p.svg").exists()

"""The page of `ssmtool report` in Chromium: what people see and do."""

from __future__ import annotations

import json
import re

import pytest

from tests.report.overview.conftest import EVIL

pytestmark = pytest.mark.browser

SHOWN = EVIL.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")


FOCUSED = """(() => {
    const e = document.activeElement;
    return e.id || e.className || e.tagName + " " + e.textContent;
})()"""


def data(page):
    return json.loads(page.locator("#report-data").text_content())


def set_rank(page, index: int) -> None:
    page.locator("#rank").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(index)
    )


def column(page, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({number})").all_text_contents()


def background(page) -> tuple[int, ...]:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in re.findall(r"\d+", colour)[:3])


def test_the_slider_changes_words_table_and_charts(open_page, report):
    page = open_page(report)
    numbers = data(page)
    marks, texts = set(), set()
    for i, rank in enumerate(numbers["ranks"]):
        set_rank(page, i)
        now = page.locator("#rank-now").text_content()
        assert now.startswith(f"{rank} state{'' if rank == 1 else 's'} kept per system")
        bytes_now = numbers["other"] + sum(layer["bytes"][i] for layer in numbers["layers"])
        assert f"{100 * bytes_now / numbers['total']:.1f} % of its size" in now
        texts.add(now)
        marks.add(page.locator(".rank-line").first.get_attribute("transform"))
        for row, layer in enumerate(numbers["layers"]):
            cells = page.locator(f'#live-table tr[data-layer="{row}"] > *').all_text_contents()
            assert cells[:2] == [layer["name"], f"{rank} of {layer['order']}"]
            bound = layer["bound"][i]
            assert float(cells[2]) == pytest.approx(bound, rel=0.06)  # two digits
            below = [p for p in (*layer["measured"], layer["reduced"]) if p[0] <= rank]
            assert cells[4] == "–" if not below else cells[4].endswith(f"at {max(p[0] for p in below)}")
        live = page.locator(".layer .live").first.text_content()
        assert live.startswith(f"{rank} of {numbers['layers'][0]['order']} states kept: bound")
    assert len(marks) == len(texts) == len(numbers["ranks"])


def test_the_slider_starts_where_the_static_page_stands(open_page, report):
    with_script = open_page(report)
    without = open_page(report, java_script_enabled=False)
    assert column(with_script, "#live-table", 3) == column(without, "#live-table", 3)
    assert column(with_script, "#live-table", 4) == column(without, "#live-table", 4)


def test_tables_sort_by_number_and_by_name_and_say_so(open_page, report):
    page = open_page(report)
    head = page.locator("#rank-table thead th").nth(4)
    assert head.get_attribute("aria-sort") == "none"
    for direction, factor in (("descending", -1), ("ascending", 1)):
        head.locator("button").evaluate("button => button.click()")
        assert head.get_attribute("aria-sort") == direction
        found = [float(text) for text in column(page, "#rank-table", 5)]
        assert found == sorted(found, key=lambda x: factor * x)
    other = page.locator("#layer-table thead th").first
    other.locator("button").click()
    assert other.get_attribute("aria-sort") == "ascending"
    assert column(page, "#layer-table", 1) == sorted(column(page, "#layer-table", 1))


def test_what_was_not_measured_is_last_in_either_direction(open_page, report):
    page = open_page(report)
    button = page.locator("#rank-table thead th").nth(6).locator("button")
    for _ in range(2):
        button.evaluate("button => button.click()")
        found = column(page, "#rank-table", 7)
        first_gap = found.index("–")
        assert first_gap > 0
        assert set(found[first_gap:]) == {"–"}


def test_layers_sort_by_the_numbers_in_their_names(open_page, deep):
    page = open_page(deep)
    page.locator("#layer-table thead th").first.locator("button").click()
    names = [name for name in column(page, "#layer-table", 1) if name.startswith("backbone")]
    assert [int(name.split(".")[2]) for name in names] == list(range(1, 48))


def test_dark_follows_the_system_and_the_button_switches(open_page, report):
    light, dark = open_page(report, color_scheme="light"), open_page(report, color_scheme="dark")
    assert min(background(light)) > 200
    assert max(background(dark)) < 60
    for page, switched in ((light, "dark"), (dark, "light")):
        button = page.locator("button.theme")
        assert button.get_attribute("aria-label") == f"Switch to {switched} colours"
        button.click()
        assert (max(background(page)) < 60) == (switched == "dark")
        assert (button.get_attribute("aria-label") or "").endswith(
            f"{'light' if switched == 'dark' else 'dark'} colours"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_background(open_page, report, scheme):
    """Contrast by WCAG 2: 4.5 for text, 3 for graphics."""
    page = open_page(report, color_scheme=scheme)
    names = ["--paper", "--ink", "--soft", "--accent", *(f"--t{i}" for i in range(7))]
    colours = page.evaluate(
        "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())", names
    )
    paper, *others = map(luminance, colours)
    for name, value in zip(names[1:], others, strict=True):
        low, high = sorted((paper, value))
        assert (high + 0.05) / (low + 0.05) >= (3.0 if name.startswith("--t") else 4.5), name


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_can_be_done_with_the_keyboard(open_page, deep):
    page = open_page(deep)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0  # seen once it has the focus
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    reached: list[str] = []
    for _ in range(400):
        page.keyboard.press("Tab")
        kind = page.evaluate(FOCUSED)
        if kind.startswith("BODY"):
            break
        reached.append(kind)
    for wanted in ("theme js-only", "rank", "layer-picker", "layer-before", "layer-after", "scroll"):
        assert wanted in reached
    assert any("Every layer at this rank" in kind for kind in reached)
    page.locator("#rank").focus()
    before = page.locator("#rank-now").text_content()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#rank-now").text_content() != before
    page.keyboard.press("Home")
    assert page.locator("#rank-now").text_content().startswith("1 state kept")
    page.locator("#layer-table thead th button").nth(3).focus()
    page.keyboard.press("Enter")
    assert page.locator("#layer-table thead th").nth(3).get_attribute("aria-sort") == "descending"


def test_one_of_many_layers_is_shown_at_a_time(open_page, deep):
    page = open_page(deep)

    def shown() -> list[str]:
        return page.locator(".layer:visible h3").all_text_contents()

    names = page.locator(".layer h3").all_text_contents()
    assert len(names) == 48
    assert shown() == [names[0]]
    page.locator("#layer-after").click()
    assert shown() == [names[1]]
    page.locator("#layer-before").click()
    page.locator("#layer-before").click()
    assert shown() == [names[-1]]
    page.locator("#layer-picker").select_option("all")
    assert len(shown()) == 48


@pytest.mark.parametrize("width", [320, 390, 768])
@pytest.mark.parametrize("which", ["report", "deep"])
def test_a_phone_scrolls_down_only(open_page, request, which, width):
    page = open_page(request.getfixturevalue(which), viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    slider = page.locator("#rank").bounding_box()
    assert slider["width"] > 0.8 * width


def test_evil_names_are_text(open_page, deep):
    page = open_page(deep)  # no dialog, no message, no request: the fixture looks
    assert page.locator("img").count() == 0
    assert SHOWN in page.locator("#layer-table tbody th").all_text_contents()
    assert SHOWN in page.locator("#layer-picker option").all_text_contents()
    assert SHOWN in [layer["name"] for layer in data(page)["layers"]]
    assert page.evaluate("document.querySelectorAll('script').length") == 2


def test_no_script_but_the_pages_own_can_run(chromium, report, tmp_path):
    """The second line of defence: markup that got into the page would still do nothing."""
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(text.replace("</main>", "<script>window.broken = 1</script><b onclick='x'></b></main>"), "utf-8")
    page = chromium.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(broken.as_uri())
    assert page.evaluate("window.broken") is None
    assert any("Content Security Policy" in text for text in refused)
    assert page.locator("#rank-now").text_content()  # the page's own still runs
    page.close()


def test_without_script_all_layers_and_a_table_of_ranks_are_there(open_page, deep):
    page = open_page(deep, java_script_enabled=False)
    assert page.locator(".layer:visible").count() == 48
    assert page.locator("svg.chart:visible").count() > 4 * 48
    assert not page.locator("#rank").is_visible()
    assert page.locator("noscript").count() == 1
    page.locator("details.static-ranks summary").click()
    assert page.locator("#rank-table").is_visible()


def test_print_is_light_and_has_no_controls(open_page, report):
    page = open_page(report, color_scheme="dark")
    page.emulate_media(media="print")
    assert min(background(page)) > 200
    assert not page.locator("nav").is_visible()
    assert not page.locator("#rank").is_visible()
    assert page.locator("#layer-table").is_visible()
    assert len(page.pdf(format="A4")) > 10_000


def test_a_deep_model_stays_small(deep):
    assert deep.stat().st_size < 2_000_000

import itertools
import json
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhaiju.errors import ConfigError, OutputError
from zhaiju.tasks.calibration import reliability_table
from zhaiju.training import drawing
from zhaiju.training.curves import MOST_POINTS, draw_curves, extremes, group_size, read_curves, smooth
from zhaiju.training.figures import bar_figure, draw_calibration, line_figure, short_count
from zhaiju.training.names import distinct
from zhaiju.training.page import FONT_FILE, font_face, page, table

TRADITIONAL, SIMPLIFIED = "摘句閱讀：溫度校準「讀懂」", "简体对照实验，阅读“段落”"
RARE = "𰻞"  # in no font of the list
HARD_NAME = "_舊的 $5_x$ <b>&--"


def _step(step, loss=1.0, lr=1e-4, seconds=0.5):
    return {"event": "step", "step": step, "epoch": 0.1, "loss": loss, "lr": lr, "seconds": seconds}


def _evaluation(step, **figures):
    return {"event": "evaluate", "step": step, "count": 60, **figures, "seconds": 2.0}


def _run(path, task="read", entries=(), cut=""):
    path.mkdir(parents=True, exist_ok=True)
    (path / "environment.json").write_text(json.dumps({"task": task}))
    (path / "config.toml").write_text("scratch = true\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + cut)
    return path


def _read_run(path, values=(0.2, 0.6, 0.6, 0.5), **more):
    entries = []
    for place, value in enumerate(values, 1):
        entries += [_step(step, 5 / step) for step in range(place * 10 - 9, place * 10 + 1)]
        entries.append(_evaluation(place * 10, em=value, f1=value + 0.1, em_low=0.0, em_cmrc=0.25))
    return _run(path, entries=entries, **more)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two runs, one of them with a name that is hard to write down, drawn together."""
    folder = tmp_path_factory.mktemp("curves")
    runs = [_read_run(folder / TRADITIONAL), _read_run(folder / HARD_NAME, values=(0.3, 0.4, 0.7123))]
    written = draw_curves(runs, folder / "new" / "out")
    return runs, written


def _inline(html):
    return re.findall(r'<svg role="img".*?</svg>', html, re.DOTALL)


def _texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_three_files_come_of_it_and_nothing_beside_them(drawn):
    _, written = drawn
    assert [path.name for path in written] == ["curves.png", "curves.svg", "curves.html"]
    assert sorted(path.name for path in written[0].parent.iterdir()) == ["curves.html", "curves.png", "curves.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_the_svg_keeps_its_text_names_each_run_and_marks_the_best_steps(drawn):
    texts = _texts(drawn[1][1].read_text("utf-8"))
    assert {"EM", "F1", "training loss", "learning rate", "step", TRADITIONAL, HARD_NAME} <= set(texts)
    assert {"0.6000 @ 20", "0.7123 @ 30", "0.7000 @ 20", "0.8123 @ 30"} <= set(texts)


def test_the_page_stands_alone(drawn):
    html = drawn[1][2].read_text("utf-8")
    assert html.startswith('<!doctype html>\n<html lang="en">')
    outside = html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "http:" not in outside
    assert "https:" not in outside
    assert "<script" not in html
    assert "<b>" not in html
    assert "_舊的 $5_x$ &lt;b&gt;&amp;--" in html
    assert "prefers-color-scheme:dark" in html


def test_each_panel_of_the_page_is_described_and_follows_its_colours(drawn):
    panels = _inline(drawn[1][2].read_text("utf-8"))
    assert len(panels) == 4
    for panel in panels:
        root = ElementTree.fromstring(panel)
        assert "width" not in root.attrib
        assert TRADITIONAL in root.attrib["aria-label"]
        assert not re.search(r"#[0-9a-f]{6}\b", panel)
    assert "EM 0.6000 at the best step 20" in ElementTree.fromstring(panels[0]).attrib["aria-label"]
    ids = re.findall(r'\bid="([^"]+)"', "".join(panels))
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', "".join(panels)))
    assert used <= set(ids)


def test_every_evaluation_is_in_the_page_and_the_first_of_the_best_is_marked(drawn):
    html = drawn[1][2].read_text("utf-8")
    marked = re.findall(r'<tr class="marked">(.*?)</tr>', html)
    assert [re.findall(r">([^<>]+)<", row)[:3] for row in marked] == [
        ["★ best 20", "0.6000", "0.7000"],
        ["★ best 30", "0.7123", "0.8123"],
    ]
    assert html.count("<tr") - html.count("<thead><tr") == 2 + 4 + 3
    assert "em low" not in html
    summary = re.findall(r"<tr>(.*?)</tr>", html)[1:3]
    assert [re.findall(r">([^<>]+)<", row) for row in summary] == [
        [TRADITIONAL, "read", "40", "20", "0.6000", "0.7000", "0.5000", "0.6000", "28"],
        ["_舊的 $5_x$ &lt;b&gt;&amp;--", "read", "30", "30", "0.7123", "0.8123", "0.7123", "0.8123", "21"],
    ]


def test_the_same_runs_give_the_same_bytes_whatever_the_users_settings(drawn, tmp_path):
    runs, written = drawn
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False, "svg.fonttype": "path"}):
        again = draw_curves(runs, tmp_path)
        assert matplotlib.rcParams["font.size"] == 31
        assert matplotlib.rcParams["svg.fonttype"] == "path"
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_several_threads_draw_the_same(tmp_path):
    before = dict(matplotlib.rcParams)

    def draw(number):
        return line_figure({"甲": ([1, 2], [0.1, 0.4])}, name="a", description="lines")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(8)))) == 1
    assert dict(matplotlib.rcParams) == before


def test_importing_does_not_load_matplotlib_and_drawing_not_pyplot():
    code = """
import sys
from zhaiju.training.curves import draw_curves
from zhaiju.training.figures import line_figure
assert not {"matplotlib", "fontTools"} & set(sys.modules)
line_figure({"a": ([1], [1])}, name="a", description="")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("task", "evaluations", "best", "figures"),
    [
        ("read", [{"em": 0.5, "f1": 0.9}, {"em": 0.6, "f1": 0.7}], 1, ["EM", "F1"]),
        ("select", [{"accuracy": 0.5}, {"accuracy": 0.5}], 0, ["accuracy"]),
        ("intent", [{"accuracy": 0.0}, {"accuracy": 0.0}], 0, ["accuracy"]),
        (
            "slots",
            [
                {"f1": 0.1, "token_accuracy": 0.9, "sentence_accuracy": 0.2},
                {"f1": 0.2, "token_accuracy": 0.8, "sentence_accuracy": 0.1},
            ],
            1,
            ["F1", "token accuracy", "sentence accuracy"],
        ),
    ],
)
def test_each_task_has_its_figures_and_its_best_step(tmp_path, task, evaluations, best, figures):
    entries = [_step(1), *(_evaluation(place + 1, **values) for place, values in enumerate(evaluations))]
    run = _run(tmp_path / "run", task, entries)
    (curve,) = read_curves([run])
    assert curve.best == best
    texts = _texts(draw_curves([run], tmp_path / "out")[1].read_text("utf-8"))
    assert [text for text in texts if text in figures] == figures


def test_runs_of_different_tasks_are_drawn_where_they_have_figures(tmp_path):
    runs = [
        _read_run(tmp_path / "read"),
        _run(tmp_path / "select", "select", [_step(1), _evaluation(1, accuracy=0.75)]),
    ]
    html = draw_curves(runs, tmp_path / "out")[2].read_text("utf-8")
    assert "0.7500 @ 1" in html
    assert len(_inline(html)) == 5
    assert "–" in html


def test_a_run_that_only_began_is_drawn(tmp_path):
    begun = _run(tmp_path / "begun", "intent")
    (begun / "metrics.jsonl").unlink()
    html = draw_curves([begun], tmp_path)[2].read_text("utf-8")
    assert "no step yet" in html
    assert html.count("no evaluation yet") == 2


def test_a_run_before_its_first_evaluation_and_with_a_cut_line_is_drawn(tmp_path):
    run = _run(tmp_path / "run", entries=[_step(1, 2.0), _step(2, 1.0)], cut='{"event": "step", "step": 3, "lo')
    (curve,) = read_curves([run])
    assert curve.loss.tolist() == [2.0, 1.0]
    assert curve.last_step == 2
    assert "no evaluation yet" in draw_curves([run], tmp_path)[2].read_text("utf-8")


def test_a_long_run_is_drawn_with_few_points(tmp_path):
    run = _run(tmp_path / "run", "select", [_step(step) for step in range(1, 5 * MOST_POINTS)])
    assert draw_curves([run], tmp_path)[1].stat().st_size < 100_000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "environment.json").unlink(), r"is not a run \(environment.json: No such file"),
        (lambda run: (run / "environment.json").write_text("{"), "environment.json is not JSON"),
        (
            lambda run: (run / "environment.json").write_text('{"task": "guess"}'),
            "its task is 'guess', expected one of",
        ),
        (lambda run: (run / "environment.json").write_text('{"task": []}'), r"its task is \[\], expected one of"),
        (lambda run: (run / "metrics.jsonl").write_text("[1]\n"), r"a line is no step or evaluation, found \[1\]"),
        (lambda run: (run / "metrics.jsonl").write_text('{"event": "step"}\n'), "a line is no step or evaluation"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"), "is not UTF-8"),
    ],
)
def test_what_is_not_a_run_is_refused_in_one_line(tmp_path, spoil, message):
    run = _read_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(ConfigError, match=message) as caught:
        draw_curves([run], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_output_is_refused(tmp_path):
    run = _read_run(tmp_path / "run")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/out"):
        draw_curves([run], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_titles_take_the_place_of_names_and_must_be_as_many(tmp_path):
    run = _read_run(tmp_path / "run")
    assert [curve.name for curve in read_curves([run], titles=["從零開始"])] == ["從零開始"]
    with pytest.raises(ConfigError, match="2 titles, expected one for each of the 1 runs"):
        read_curves([run], titles=["a", "b"])
    with pytest.raises(ConfigError, match="no run to draw"):
        read_curves([])


def test_runs_of_one_name_are_told_apart_by_their_path():
    assert distinct(["a/read", "b/read", "b/select"]) == ["a/read", "b/read", "select"]
    assert distinct([Path("/x/a/read"), Path("/y/a/read"), Path("/a/read")]) == ["x/a/read", "y/a/read", "/a/read"]
    with pytest.raises(ConfigError, match=r"b/\.\./a is given twice"):
        distinct(["a", "b/../a"])


@given(st.lists(st.floats(-10, 10), max_size=40), st.integers(1, 12))
def test_smoothing_is_the_mean_of_neighbours(values, width):
    found = smooth(np.array(values), width)
    for place in range(len(values)):
        near = values[max(0, place - (width - 1) // 2) : place + width // 2 + 1]
        assert found[place] == pytest.approx(np.mean(near), abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(1, 12))
def test_extremes_are_those_of_each_group(values, size):
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    low, high = extremes(np.array(values), size)
    assert low.tolist() == [min(group) for group in groups]
    assert high.tolist() == [max(group) for group in groups]


def test_no_line_has_more_than_the_most_points():
    assert [group_size(count) for count in (0, 1, MOST_POINTS, MOST_POINTS + 1)] == [1, 1, 1, 2]


@given(st.lists(st.floats(0, 1), max_size=20))
def test_labels_are_spread_without_changing_their_order(places):
    gap = 0.08
    places = sorted(places)
    moved = drawing.spread(places, gap)
    assert len(moved) == len(places)
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(moved))
    if gap * (len(places) - 1) <= 1:
        assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)
    if all(after - before >= gap for before, after in itertools.pairwise(places)):
        assert moved == pytest.approx(places)


def test_lines_differ_without_their_colour():
    looks = [drawing.look(index) for index in range(28)]
    assert len({(look.dashes, look.marker) for look in looks}) == 28
    assert len({look.colour for look in looks[:7]}) == 7


# Chinese


def test_the_shipped_font_holds_the_common_characters_of_both_scripts():
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(FONT_FILE))
    held = font.get_charmap()
    wanted = {*map(chr, range(0x20, 0x7F)), *TRADITIONAL, *SIMPLIFIED}
    for codec, rows in {"big5": range(0xA4, 0xC7), "gb2312": range(0xB0, 0xF8)}.items():
        for row in rows:
            wanted |= set(bytes(byte for cell in range(0xA1, 0xFF) for byte in (row, cell)).decode(codec, "ignore"))
    assert len(wanted) > 8000
    assert not [character for character in wanted if not held.get(ord(character))]
    assert font.family_name == drawing.FONT_NAME
    assert FONT_FILE.stat().st_size < 4_000_000
    licence = (FONT_FILE.parent / "OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
    assert "Copyright 2014-2021 Adobe" in licence


def _picture(text, *, strict):
    with drawing.style():
        if strict:
            warnings.simplefilter("error")
        figure, (axes,) = drawing.canvas()
        axes.set_title(text)
        return drawing.png(figure)


def test_chinese_is_drawn_without_a_box():
    """matplotlib warns of each character that it draws as a box."""
    assert _picture(TRADITIONAL + SIMPLIFIED, strict=True).startswith(b"\x89PNG")
    with pytest.raises(UserWarning, match="missing from font"):
        _picture(RARE, strict=True)


def test_a_character_that_no_font_has_is_no_failure(tmp_path):
    assert _picture(RARE, strict=False).startswith(b"\x89PNG")
    run = _read_run(tmp_path / "run")
    written = draw_curves([run], tmp_path, titles=[f"{RARE}\x00\udcff🙂"])
    assert f"{RARE}��🙂" in _texts(written[1].read_text("utf-8"))
    assert f"{RARE}��🙂" in written[2].read_text("utf-8")


def test_a_page_carries_the_glyphs_of_its_chinese_only():
    assert font_face("no Chinese, café “–”") == ""
    css = font_face(TRADITIONAL + RARE)
    assert css.startswith("@font-face{font-family:'Zhaiju Sans';src:url(data:font/woff;base64,d09G")  # wOFF
    assert len(css) < 20_000
    assert css == font_face(TRADITIONAL + RARE)


# the page


def test_page_and_table_escape_what_they_are_given():
    html = page("<題>", table("a & b", ["<run>", "n"], [["<i>", 1], ["x", None]]), lang="zh-Hant")
    assert '<html lang="zh-Hant">' in html
    assert "<title>&lt;題&gt;</title>" in html
    assert "a &amp; b" in html
    assert "<i>" not in html
    assert '<td class="n">1</td>' in html
    assert '<td class="n">–</td>' in html
    assert '<th scope="row">x</th>' in html


# other figures


def _record(threshold, size=300):
    random = np.random.default_rng(0)
    confidence = random.beta(3, 1, size)
    correct = random.random(size) < confidence
    coverage = np.linspace(0.1, 1, 10)
    return {
        "temperature": 1.7,
        "threshold": threshold,
        "risk": 0.05,
        "coverage": 0.0 if threshold is None else 0.4,
        "ece": 0.0123,
        "ece_before": 0.2345,
        "count": size,
        "unit": "question",
        "reliability_before": [asdict(entry) for entry in reliability_table(confidence**0.2, correct)],
        "reliability": [asdict(entry) for entry in reliability_table(confidence, correct)],
        "coverage_curve": coverage.tolist(),
        "risk_curve": (coverage / 10).tolist(),
        "threshold_curve": (1 - coverage / 2).tolist(),
    }


@pytest.mark.parametrize(
    ("threshold", "sentence"),
    [(0.8, "threshold 0.800 answers 40.0% of the questions"), (None, "no threshold keeps a risk of 0.05")],
)
def test_calibration_shows_error_counts_and_threshold(tmp_path, threshold, sentence):
    record = _record(threshold)
    written = draw_calibration(tmp_path / "new" / "cal.v1", record, title=TRADITIONAL)
    assert [path.name for path in written] == ["cal.v1.png", "cal.v1.svg"]
    text = written[1].read_text("utf-8")
    texts = _texts(text)
    assert {"ECE 0.2345 before, 0.0123 after temperature", sentence, "accepted risk 0.05", TRADITIONAL} <= set(texts)
    counts = [short_count(entry["count"]) for entry in record["reliability"]]
    assert [text for text in texts if text in counts and text.isdigit()][-len(counts) :] == counts
    assert sentence in ElementTree.fromstring(text).attrib["aria-label"]


def test_calibration_of_nothing_is_drawn(tmp_path):
    record = _record(None, size=0) | {"coverage_curve": [], "risk_curve": [], "threshold_curve": []}
    assert len(draw_calibration(tmp_path / "empty", record)) == 2


def test_counts_are_short():
    assert [short_count(count) for count in (0, 999, 1000, 9960, 38_400, 2_000_000)] == [
        "0", "999", "1.0k", "10.0k", "38k", "2.0M",
    ]  # fmt: skip


def test_bars_show_values_and_intervals():
    svg = bar_figure(
        ["從零開始", "RoBERTa"],
        {"EM": [0.4, 0.81], "F1": [0.5, 0.88]},
        name="bars",
        description='EM < F1 "all"',
        intervals={"EM": [(0.35, 0.45), (0.8, 0.82)]},
        title="both",
        x="share",
    ).inline
    assert {"從零開始", "RoBERTa", "EM", "F1", "both", "share", "0.4", "0.81", "0.5", "0.88"} <= set(_texts(svg))
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'EM < F1 "all"'


def test_lines_are_named_beside_their_ends():
    svg = line_figure({"甲": ([1, 2], [0.1, 0.4]), "none": ([], [])}, name="l", description="d", x="k", y="EM").inline
    assert {"甲", "k", "EM"} <= set(_texts(svg))

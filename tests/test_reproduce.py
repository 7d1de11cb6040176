import copy
import json
import re
import shutil
import signal
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import zhaiju.starter
from budget import examples
from checkpoints import modernbert, word_pieces
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.errors import ConfigError, DataError
from zhaiju.tasks import ReadTask
from zhaiju.training import report as report_module
from zhaiju.training import reproduce as module
from zhaiju.training.drawing import Picture
from zhaiju.training.first_way import FirstWayTask, cut_left
from zhaiju.training.loop import Stepped
from zhaiju.training.page import cell
from zhaiju.training.recipe import ENCODERS, PARTS, RECIPES, load_recipe
from zhaiju.training.report import Report, write_report
from zhaiju.training.reproduce import InterruptedTraining, find_files, parts_of, reproduce

SAMPLE = Path(zhaiju.starter.__file__).parent / "sample"
COURSE = {"context.json": "context.json", "train.json": "train.json", "public.json": "held_out.json"}
SHAPE = "label = 'one | layer <of> 摘句'\nscratch = true\nlayers = 1\nhidden = 16\nheads = 2\nintermediate = 32\n"
TINY = "".join(
    [
        "about = 'Tiny & quick.'\n[limits]\ntrain = 40\ndev = 10\n",
        *(f"[encoders.{name}]\n{SHAPE}positions = 64\nvocabulary = 'characters'\n" for name in ENCODERS),
        *(
            f"[parts.{part}]\nwindow = 64\noverlap = 10\nmax_steps = 2\neval_every = 1\neval_train = 5\n"
            "negatives = 1\nthreads = 1\nbatch_tokens = 512\n"
            for part in PARTS
        ),
    ]
)  # fmt: skip
THINGS = ("boat", "chair", "table")
RECIPE_FOLDER = Path(module.__file__).parent / "recipes"


# Recipes


@pytest.mark.parametrize("name", [name for name in RECIPES if (RECIPE_FOLDER / f"{name}.toml").is_file()])
def test_every_setting_of_a_packaged_recipe_is_valid(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert set(recipe.parts) == set(PARTS)
    everything = module.Files(Path(), Path(), Path(), (Path(), Path()), Path())
    parts = parts_of(recipe, everything)
    assert len({part.name for part in parts}) == len(parts) == 10
    assert [part.name for part in parts if part.first_way] == ["read-first-way"]
    for part in parts:
        assert part.settings.scratch == (part.name.endswith("-scratch") or recipe.from_scratch(part.encoder))
    assert {part.name for part in parts} | {"pipeline-first", "pipeline-second"} == set(report_module.NAMES)


def test_every_recipe_on_disk_has_its_name():
    assert {path.stem for path in RECIPE_FOLDER.iterdir()} <= set(RECIPES)


def test_the_report_recipe_is_the_published_one():
    recipe = load_recipe("report")
    assert {name: recipe.label(name) for name in ENCODERS} == report_module.PUBLISHED_ENCODERS
    settings = recipe.settings("read", "first")
    assert (settings.batch_size, settings.lr, settings.epochs, settings.eval_every) == (5, 3e-5, 3, 1500)


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        (tmp_path / "mine.toml").write_text(text, "utf-8")
        return str(tmp_path / "mine.toml")

    return write


def _encoders(first="encoder = 'a'"):
    return f"[encoders]\nfirst = {{{first}}}\nsecond = {{encoder = 'b'}}\nenglish = {{encoder = 'c'}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 'red'", "unknown 'colour'; known are about, encoders, parts, limits"),
        ("about = ", "is not TOML"),
        ("", "names no first encoder"),
        (_encoders() + "third = {}", "encoders: unknown 'third'; known are first, second, english"),
        (_encoders() + "[parts.guess]", "parts: unknown 'guess'"),
        (_encoders() + "[limits]\ntest = 1", "limits: unknown 'test'; known are train, dev"),
        (_encoders() + "[limits]\ntrain = -1", "limits: train is -1, expected a whole number"),
        (_encoders() + "[limits]\ntrain = true", "limits: train is True, expected a whole number"),
        ("encoders = 3", "encoders is 3, expected a table"),
        (_encoders() + "[parts]\nread = 3", "read is 3, expected a table"),
        (_encoders("label = 3"), "label of the first encoder is 3, expected a text"),
    ],
)
def test_a_faulty_recipe_is_refused_in_one_line(recipe_file, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_recipe(recipe_file(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_encoders("encoder = 'a', colour = 'red'"), "select with first: unknown setting 'colour'"),
        (_encoders("label = 'a'"), "select with first: no encoder"),
        (_encoders() + "[parts.read]\nlr = -1", "read with first: setting lr is -1.0, expected at least 0"),
        (_encoders() + "[parts.slots]\nepoch = 1", "slots with english: unknown setting 'epoch'; did you mean epochs?"),
        (_encoders() + "[parts.intent_scratch]\nlr = 'high'", "intent_scratch with english: setting lr is 'high'"),
    ],
)
def test_a_faulty_setting_is_refused_before_anything_is_trained(recipe_file, text, message):
    everything = module.Files(Path(), Path(), Path(), (Path(), Path()), Path())
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parts_of(load_recipe(recipe_file(text)), everything)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_refused_and_the_known_are_named(tmp_path):
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(ConfigError, match="known by name are report, cpu, quick"):
            load_recipe(str(path))


def test_other_encoders_take_the_place_of_those_named(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    recipe = load_recipe("quick").with_encoders(first="hub/id", second=None, english=str(tmp_path / "models" / "mine"))
    assert [recipe.label(name) for name in ENCODERS] == ["hub/id", load_recipe("quick").label("second"), "models/mine"]
    assert [recipe.from_scratch(name) for name in ENCODERS] == [False, True, False]


# Files


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]")


def _course(folder):
    _touch(*(folder / name for name in COURSE))


def test_files_are_found_in_the_folder_in_course_and_beside_it(tmp_path, monkeypatch):
    data = tmp_path / "data"
    _course(data / "course")
    _touch(data / "intent" / "train.json", data / "intent" / "eval.json", data / "slot" / "train.json")
    for folder in (data, data / "course"):
        found = find_files(folder)
        assert found.context == data / "course" / "context.json"
        assert found.intent == (data / "intent" / "train.json", data / "intent" / "eval.json")
        assert found.slots == data / "slot" / "train.json"
    monkeypatch.chdir(data / "course")
    assert find_files(Path()).slots == data / "slot" / "train.json"


def test_files_in_the_folder_itself_go_before_those_elsewhere(tmp_path):
    for folder in (tmp_path, tmp_path / "course"):
        _course(folder)
    _touch(tmp_path / "slot" / "train.json", tmp_path / "intent" / "train.json")
    found = find_files(tmp_path)
    assert found.public == tmp_path / "public.json"
    assert found.slots == tmp_path / "slot" / "train.json"
    assert found.intent is None  # eval.json is not there


def test_a_folder_without_course_files_is_refused(tmp_path):
    _touch(tmp_path / "train.json", tmp_path / "course" / "context.json")
    with pytest.raises(DataError, match=r"no course files there, expected context.json, train.json and public.json"):
        find_files(tmp_path)


# The first way


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    """A tokenizer of pieces of words, and one of bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    modernbert(folder)
    pieces = transformers.BertTokenizer(vocab={piece: place for place, piece in enumerate(word_pieces())})
    return [
        Encoding(tokenizer, window=24, overlap=4)
        for tokenizer in (pieces, transformers.PreTrainedTokenizerFast.from_pretrained(folder))
    ]


TEXTS = st.lists(
    st.sampled_from(
        ["老張", "船", "，", " ", "  ", "harbour", "QX-42", "sing", "the", "🐳", "👩🏽\u200d🚀", "é", "天氣"]
    ),
    min_size=1,
    max_size=40,
).map("".join)


@settings(deadline=None, max_examples=examples(150))
@given(TEXTS, st.data())
def test_what_is_left_fits_and_is_the_end_and_answers_stand_at_their_places(encodings, text, data):
    assume(text.strip())
    start = data.draw(st.integers(0, len(text) - 1))
    answer = text[start : data.draw(st.integers(start + 1, len(text)))]
    other = Context("別的段落", "1")
    example = QAExample("q", "船？", (other, Context(text, "0")), 1, (Span(answer, start),), (answer, "elsewhere"))
    for encoding in encodings:
        (short,) = cut_left([example], encoding)
        left = short.context.text
        assert text.rstrip().endswith(left)
        assert short.context.source == "0"
        room = encoding.capacity(example.question)
        assert len(encoding.tokens(left).ids) <= room
        assert len(encoding.windows(example.question, left)) == 1
        if len(encoding.tokens(text.rstrip()).ids) <= room:
            assert left == text.rstrip()
        assert short.gold == example.gold
        assert [span.start for span in short.answers] == ([left.find(answer)] if answer in left else [])
        assert all(span.fits(left) for span in short.answers)


def test_an_answer_that_is_cut_away_is_scored_and_not_trained_on(encodings):
    encoding = encodings[0]
    example = QAExample("q", "船？", (Context("老張" + "船" * 40, "0"),), 0, (Span("老張", 0),))
    (short,) = cut_left([example], encoding)
    assert (short.answers, short.gold) == ((), ("老張",))
    assert ReadTask().items(short, encoding, np.random.default_rng(0)) == []


def test_the_first_occurrence_is_taken_for_the_answer(encodings):
    example = QAExample("q", "船？", (Context("老張，老張", "0"),), 0, (Span("老張", 3),))
    (short,) = cut_left([example], encodings[0])
    assert short.answers == (Span("老張", 0),)


@settings(deadline=None, max_examples=examples(100))
@given(st.integers(0, 2**32 - 1))
def test_first_and_last_token_are_taken_each_by_itself(encodings, seed):
    encoding, text = encodings[0], "老張在港口 the 船"
    example = QAExample("q", "船？", (Context(text, "0"),))
    (window,) = encoding.windows(example.question, text)
    logits = np.random.default_rng(seed).normal(size=(2, len(window))).astype(np.float32)
    inside = [place for place in range(len(window)) if window.starts[place] >= 0]
    first, last = (max(inside, key=lambda place, side=side: logits[side, place]) for side in (0, 1))
    found = FirstWayTask().decode(example, [window], [logits])
    assert 0 <= found.score <= 1
    assert found.answer == text[found.start : found.end]
    if last < first:
        assert (found.answer, found.start, found.end, found.score) == ("", 0, 0, 0.0)
    else:
        assert (found.start, found.end) == (window.starts[first], window.ends[last])


# The whole experiment


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, one_thread):
    """A tiny reproduction, stopped in its third part and gone on with; folder, output, recipe, results."""
    folder, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out") / "new"
    (folder / "course").mkdir()
    for name, source in COURSE.items():
        shutil.copyfile(SAMPLE / source, folder / "course" / name)
    told = [f"{verb} the {thing} {number}" for number in range(8) for thing in THINGS for verb in ("book", "sell")]
    intents = [{"id": f"i{place}", "text": text, "intent": text[:4]} for place, text in enumerate(told)]
    _write(folder / "intent" / "train.json", intents[:36])
    _write(folder / "intent" / "eval.json", intents[36:])
    tags = ["O", "O", "B-thing", "I-thing"]
    slots = [{"id": f"s{place}", "tokens": text.split(), "tags": tags} for place, text in enumerate(told)]
    _write(folder / "slot" / "train.json", slots)
    (folder / "tiny.toml").write_text(TINY, "utf-8")
    recipe = load_recipe(str(folder / "tiny.toml"))
    begun = []

    def stop(event):
        if len(begun) == 3 and isinstance(event, Stepped):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedTraining, match="read, one"):
        reproduce(folder, output, recipe, on_part=begun.append, on_event=stop)
    assert len(list((output / "results").iterdir())) == 2
    steps = []
    results = reproduce(folder, output, recipe, on_event=steps.append)
    assert [event.step for event in steps if isinstance(event, Stepped)][:3] == [2, 1, 2]  # the third part's second
    write_report(output, results)
    return folder, output, recipe, results


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which are slow to draw."""
    for name in ("bar_figure", "line_figure", "panel", "calibration_figure"):
        monkeypatch.setattr(report_module, name, lambda *_arguments, **_options: Picture("<svg/>", "<svg></svg>"))


def _contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_every_part_leaves_its_figures(experiment):
    _, output, _, results = experiment
    assert set(results["results"]) == set(report_module.NAMES)
    assert {path.stem for path in (output / "results").iterdir()} == set(report_module.NAMES)
    assert results["missing"] == []
    assert set(results["comparisons"]) == {"select", "read"}  # nothing is pretrained
    for name, part in results["results"].items():
        if name.startswith("pipeline"):
            assert 0 <= part["figures"]["accuracy"] <= 1
            continue
        assert part["dev_count"] == part["figures"]["count"] <= 12
        assert part["training"]["steps"] == 2
        assert [entry["step"] for entry in part["evaluations"]] == [1, 2]
        assert 0 < part["evaluations"][0]["epoch"] < part["evaluations"][1]["epoch"]
        assert part["evaluation"]["peak_bytes"] > 1 << 20
        assert len(part["data"]) >= 1
    json.dumps(results)


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_changes_nothing(experiment, monkeypatch, undrawn, tmp_path):
    folder, output, recipe, results = experiment
    before = _contents(output)

    def refuse(*_arguments, **_options):
        raise AssertionError("trained or measured again")

    for name in ("train", "_measure", "_pipeline", "_data"):
        monkeypatch.setattr(module, name, refuse)
    again = reproduce(folder, output, recipe, on_part=refuse)
    assert again | {"environment": None} == results | {"environment": None}
    assert _contents(output) == before
    for name, values in (("first", results), ("second", again)):
        assert [path.name for path in write_report(tmp_path / name, values)] == ["report.html", "report.md"]
    assert [*_contents(tmp_path / "first").values()] == [*_contents(tmp_path / "second").values()]


@pytest.mark.slow
def test_another_recipe_and_other_data_are_refused_in_the_same_place(experiment, tmp_path):
    folder, output, recipe, _ = experiment
    with pytest.raises(ConfigError, match="holds an experiment with another recipe"):
        reproduce(folder, output, load_recipe("quick"))
    shutil.copytree(folder, tmp_path / "data")
    _write(tmp_path / "data" / "slot" / "train.json", [])
    with pytest.raises(ConfigError, match=r"other data than .*slot/train.json"):
        reproduce(tmp_path / "data", output, recipe)


# The report


class _Page(HTMLParser):
    """Checks that elements nest; keeps tables, headings, links and the text."""

    EMPTY = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.links, self.ids, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def _markdown_tables(text):
    """Cells of every table, the line of dashes left out."""
    tables, before = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append([entry.strip() for entry in re.split(r"(?<!\\)\|", line)[1:-1]])
        before = line
    return [[row for place, row in enumerate(rows) if place != 1] for rows in tables]


def _unescaped(text):
    return re.sub(r"\\(.)", r"\1", text)


HEADINGS = (
    "What was run", "Finding spans", "Two encoders", "Learning curves", "Pretrained or from scratch", "Intent", "Slots",
    "Speed and memory", "Calibration",
)  # fmt: skip


@pytest.mark.slow
def test_the_page_is_well_formed_and_stands_alone(experiment):
    _, output, _, _ = experiment
    html = (output / "report.html").read_text("utf-8")
    parsed = _Page(html)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    outside = html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "http:" not in outside
    assert "https:" not in outside
    assert "<script" not in html
    assert "prefers-color-scheme:dark" in html
    assert "<of>" not in html
    text = "".join(parsed.text)
    for heading in HEADINGS:
        assert text.count(heading) >= 2  # in the list of contents, and where it stands


@pytest.mark.slow
def test_page_and_markdown_say_the_same(experiment):
    _, output, _, _ = experiment
    markdown = (output / "report.md").read_text("utf-8")
    tables = _markdown_tables(markdown)
    assert all(len({len(row) for row in rows}) == 1 for rows in tables)
    shown = [[[_unescaped(entry) for entry in row] for row in rows] for rows in tables]
    assert shown == _Page((output / "report.html").read_text("utf-8")).tables
    assert [line for line in markdown.splitlines() if line.startswith("## ")] == [
        line
        for number, name in enumerate(HEADINGS, 1)
        for line in re.findall(rf"^## {number}\. {name}.*$", markdown, re.M)
    ]


@pytest.mark.slow
def test_every_figure_is_linked_and_described(experiment):
    _, output, _, _ = experiment
    linked = re.findall(r"!\[.+\]\((.+)\)", (output / "report.md").read_text("utf-8"))
    assert sorted(linked) == sorted(f"figures/{path.name}" for path in (output / "figures").iterdir())
    assert {Path(name).stem for name in linked} >= {
        "spans", "selection", "answers-em", "answers-f1", "reading-em", "reading-f1", "reading-loss", "reading-lr",
        "selection-accuracy", "intent-accuracy", "intent-loss", "calibration-slots",
    }  # fmt: skip
    for name in linked:
        assert len(ElementTree.fromstring((output / name).read_text("utf-8")).attrib["aria-label"]) > 20
    assert len(re.findall(r'<svg role="img"', (output / "report.html").read_text("utf-8"))) == len(linked)


@pytest.mark.slow
def test_published_figures_stand_beside_ours(experiment):
    _, output, _, results = experiment
    tables = _Page((output / "report.html").read_text("utf-8")).tables
    done = results["results"]

    def rows(first):
        return [dict(zip(table[0], row, strict=True)) for table in tables for row in table[1:] if row[0] == first]

    assert [(row["EM, published"], row["EM, ours"]) for row in rows("first way") + rows("second way")] == [
        ("0.745", cell(done["read-first-way"]["figures"]["em"])),
        ("0.82", cell(done["read-first"]["figures"]["em"])),
    ]
    for key, name in (("token_accuracy", "token accuracy"), ("precision", "precision"), ("f1", "F1")):
        (row,) = rows(name)
        assert row["published"] == report_module.PUBLISHED["slots"][key]
        assert row["ours, first pieces"] == cell(done["slots"]["figures"][key])
        assert row["ours, all pieces"] == cell(done["slots"]["figures"][f"{key}_all_pieces"])
    everything = {entry for table in tables for row in table for entry in row}
    for part, figures in report_module.PUBLISHED.items():
        if part != "read-scratch":
            assert set(figures.values()) <= everything
    for values in report_module.PUBLISHED_INTENT.values():
        assert set(values) <= everything
    assert set(report_module.PUBLISHED_ENCODERS.values()) <= everything
    text = "".join(_Page((output / "report.html").read_text("utf-8")).text)
    assert "{'count': 3526, 'em': 0.0632, 'f1': 0.1070}" in text
    figures = done["read-scratch"]["figures"]
    assert f"{{'count': 10, 'em': {figures['em']:.4f}, 'f1': {figures['f1']:.4f}}}" in text


@pytest.mark.slow
def test_where_figures_cannot_be_compared_is_said(experiment, undrawn, tmp_path):
    _, output, _, results = experiment
    text = (output / "report.md").read_text("utf-8")
    assert text.count("encoder starts from random weights (one") == 3
    assert "judged on 10 questions; the report's file has 3,526" in text
    assert "a seeded tenth that is held out" in text
    assert "each part has at most 40 train examples and 10 dev examples" in text
    assert text.count("pretrained is not compared with scratch") == 3
    pretrained = copy.deepcopy(results)
    pretrained["scratch"] = dict.fromkeys(ENCODERS, False)
    pretrained["labels"] = {"first": "google-bert/bert-base-chinese", "second": "my/other", "english": "my/third"}
    row = {"run": "b", "against": "a", "difference": -0.5, "low": -0.75, "high": -0.25, "p": 0.0001, "examples": 10}
    pretrained["comparisons"] |= {f"{task}, from scratch": [row | {"figure": "f1"}] for task in ("read", "slots")}
    pretrained["comparisons"]["intent, from scratch"] = [row | {"figure": "accuracy"}]
    write_report(tmp_path, pretrained)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "starts from random weights" not in text
    assert "The first encoder" not in text
    assert "The second encoder is my/other" in text
    assert "| intent, accuracy | a | b | -0.5000 | -0.7500 to -0.2500 | 0.0001 | 10 |" in text
    assert "not compared with scratch" not in text


@pytest.mark.slow
def test_what_is_missing_is_named_with_the_reason(experiment, undrawn, tmp_path):
    results = copy.deepcopy(experiment[3])
    results["missing"] = ["intent", "slots"]
    results["results"] = {
        name: part for name, part in results["results"].items() if not name.startswith(("intent", "slots"))
    }
    write_report(tmp_path, results)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text.count("there was no intent/train.json and intent/eval.json") == 2
    assert text.count("there was no slot/train.json") == 2
    assert "English" not in text
    for heading in HEADINGS:
        assert heading in text


def test_text_stays_text_in_markdown():
    report = Report("a | b")
    report.text("*one*\n<two> [three]")
    report.table("t | u", "x_y | n", [["a|b", 1], ["`c`", None]])
    assert report.markdown == [
        "# a \\| b",
        "\\*one\\* \\<two\\> \\[three\\]",
        "**t \\| u**\n\n| x\\_y | n |\n| --- | ---: |\n| a\\|b | 1 |\n| \\`c\\` | – |",
    ]

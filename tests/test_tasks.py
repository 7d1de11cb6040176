"""What every task promises, of each in `TASKS` and of a fifth one that lives here alone.

A task is a file and a line: from rows in a file to a trained checkpoint, its figures, its predictions in every form,
its calibration, its graph, its answers in Python and over HTTP, without a word about it anywhere else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from starlette.testclient import TestClient

import zhaiju
from zhaiju.data.examples import check_text
from zhaiju.errors import ConfigError, DataError
from zhaiju.service.app import make_app
from zhaiju.service.limits import Settings
from zhaiju.service.work import load_models
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import Head, Item, Judgement, Task, log_softmax, means

ANSWERS = ("no", "yes")


@dataclass(frozen=True, slots=True)
class YesNoExample:
    """A question about a paragraph, and whether the answer is yes."""

    id: str
    question: str
    context: str
    label: str | None

    @property
    def texts(self):
        return self.question, self.context

    def bare(self):
        return replace(self, question="…", context="…")


@dataclass(frozen=True, slots=True)
class YesNoPrediction:
    """Yes or no."""

    id: str
    label: str
    score: float

    def bare(self):
        return self


@dataclass(frozen=True)
class YesNoTask(Task[YesNoExample, YesNoPrediction]):
    """Whether a paragraph says yes to a question."""

    labels: tuple[str, ...] = ANSWERS
    temperature: float = 1.0

    name = "yesno"
    unit = "question"
    head = Head("AutoModelForSequenceClassification", "labels")
    figures = ("accuracy",)
    fields = ("question", "context")
    probe: ClassVar = {"question": "a", "context": "b"}
    column = "yes"
    columns: ClassVar = {"id": "string", "label": "string", "score": "float64"}

    @classmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> YesNoExample:
        label = row.get("label")
        if label not in (None, *ANSWERS):
            raise DataError("unknown answer", field="label", found=label, expected="yes or no")
        question, context = (check_text(row.get(name), name) for name in cls.fields)
        return YesNoExample(identity, question, context, label)

    @classmethod
    def missing(cls, example):
        return "label" if example.label is None else None

    @classmethod
    def classes(cls, examples):
        return ANSWERS

    def items(self, example, encoding, generator):
        return [Item(encoding.windows(example.question, example.context), (self.labels.index(example.label),))]

    def encode(self, example, encoding):
        return encoding.windows(example.question, example.context)

    def decode(self, example, windows: Sequence[Any], logits: Sequence[Any]) -> YesNoPrediction:
        odds = np.exp(log_softmax(np.mean(logits, axis=0).astype(np.float64) / self.temperature))
        return YesNoPrediction(example.id, self.labels[int(odds.argmax())], float(odds.max()))

    @classmethod
    def judge(cls, examples, predictions):
        right = np.array([one.label == found.label for one, found in zip(examples, predictions, strict=True)])
        return Judgement(np.array([found.score for found in predictions]), right, means(accuracy=right))

    @classmethod
    def score(cls, examples, predictions):
        right = cls.judge(examples, predictions).correct
        return {"count": len(right), "accuracy": float(right.mean())}

    @classmethod
    def value(cls, prediction, threshold=None):
        return "" if threshold is not None and prediction.score < threshold else prediction.label

    @classmethod
    def parse(cls, example, value):
        return YesNoPrediction(example.id, str(value or ""), 0.0)


CONTEXTS = [
    "老張在港口修了三十年的船，退休以後每天清晨仍到碼頭散步。",
    "小鎮的圖書館由一間穀倉改建而成，館員在二樓養了一隻橘貓。",
    "春天的市集從三月十二日開到四月五日，攤位共有六十四個。",
    "實驗室新買的顯微鏡重七公斤，鏡頭可放大八百倍。",
]
ASKED = [
    ("誰修船？", 0, "老張"),
    ("貓在幾樓？", 1, "二樓"),
    ("有幾個攤位？", 2, "六十四個"),
    ("顯微鏡多重？", 3, "七公斤"),
]
QUESTIONS = [
    {
        "id": f"q{number}",
        "question": question,
        "paragraphs": [0, 1, 2, 3],
        "relevant": place,
        "answers": [{"text": answer, "start": CONTEXTS[place].index(answer)}],
    }
    for number, (question, place, answer) in enumerate(ASKED)
]
UTTERANCES = [("book a boat", "book"), ("is it raining", "weather"), ("book two boats", "book"), ("rain", "weather")]
PLACES = ("Rome", "Oslo", "Lima", "Bern")
DOUBTS = ("有貓嗎？", "是圖書館嗎？", "在冬天嗎？", "是新買的嗎？")
ROWS = {
    "select": QUESTIONS,
    "read": QUESTIONS,
    "intent": [{"id": f"u{n}", "text": text, "intent": intent} for n, (text, intent) in enumerate(UTTERANCES)],
    "slots": [
        {"id": f"s{n}", "tokens": ["to", place, "at", "noon"], "tags": ["O", "B-place", "O", "B-time"]}
        for n, place in enumerate(PLACES)
    ],
    "yesno": [
        {"id": f"y{n}", "question": text, "context": CONTEXTS[n], "label": ANSWERS[n % 2]}
        for n, text in enumerate(DOUBTS)
    ],
}
INPUTS = {
    "select": {"question": "誰修船？", "contexts": CONTEXTS},
    "read": {"question": "誰修船？", "context": CONTEXTS[0]},
    "intent": {"text": "book a boat"},
    "slots": {"tokens": ["to", "Rome"]},
    "yesno": {"question": "有貓嗎？", "context": CONTEXTS[1]},
}
TRAINING = {
    "layers": 1, "hidden": 16, "heads": 2, "intermediate": 32, "positions": 96, "window": 96, "overlap": 16,
    "max-steps": 4, "eval-every": 2, "lr": 0.01, "batch-tokens": 1024, "batch-size": 2, "threads": 1,
}  # fmt: skip
EVERY = [*TASKS, YesNoTask.name]


@pytest.fixture(scope="module", autouse=True)
def fifth():
    """The toy task, by one entry."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TASKS, YesNoTask.name, YesNoTask)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The rows of every task, and what is trained on them: {task}.json and {task}/."""
    path = tmp_path_factory.mktemp("tasks")
    (path / "context.json").write_text(json.dumps(CONTEXTS, ensure_ascii=False), "utf-8")
    for name, rows in ROWS.items():
        (path / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return path


@pytest.fixture
def trained(folder, run, request):
    """A trained checkpoint of the test's task, and its data."""
    name = request.node.callspec.params["name"]
    data, place = folder / f"{name}.json", folder / name
    if not place.exists():
        flags = [part for key, value in TRAINING.items() for part in (f"--{key}", value)]
        code, _, err = run("train", name, "--scratch", "--train", data, "--dev", data, "-o", place, *flags)
        assert code == 0, err
    return place, data


@pytest.mark.parametrize("name", EVERY)
def test_a_checkpoint_is_scored_and_its_predictions_in_each_form_score_the_same(run, trained, tmp_path, name):
    run_directory, data = trained
    code, out, err = run("evaluate", run_directory, data, "--json")
    assert code == 0, err
    report, task = json.loads(out), TASKS[name]
    assert report["count"] == len(ROWS[name])
    assert {*task.figures, "ece"} <= set(report)
    for form in ("p.json", "p.jsonl", "p.csv"):
        assert run("predict", run_directory, data, "-o", tmp_path / form)[0] == 0
        code, out, err = run("score", data, tmp_path / form, *(["--task", name] if form == "p.csv" else []), "--json")
        assert code == 0, err
        scored = json.loads(out)
        assert {figure: scored[figure] for figure in task.figures} == {
            figure: report[figure] for figure in task.figures
        }
        assert scored["missing_ids"] == []
    assert (tmp_path / "p.csv").read_text("utf-8").splitlines()[0] == f"id,{task.column}"
    (tmp_path / "none.json").write_text("{}", "utf-8")
    nothing = json.loads(run("score", data, tmp_path / "none.json", "--task", name, "--json")[1])
    assert all(nothing[figure] == 0 for figure in task.figures)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_very_many_are_the_same_row_by_row(run, trained, tmp_path, name, kind):
    run_directory, data = trained
    parts = tmp_path / "parts"
    code, _, err = run("predict", run_directory, data, "-o", f"{parts}/", "--part-rows", "3", "--format", kind)
    assert code == 0, err
    assert sorted(path.name for path in parts.glob("part-*")) == [f"part-0000{number}.{kind}" for number in range(2)]
    found, whole = json.loads(run("score", data, parts, "--task", name, "--json")[1]), tmp_path / "p.json"
    assert run("predict", run_directory, data, "-o", whole)[0] == 0
    assert found == json.loads(run("score", data, whole, "--task", name, "--json")[1])


@pytest.mark.parametrize("name", EVERY)
def test_python_predicts_one_or_a_list_and_calibration_keeps_the_answer(run, trained, name):
    run_directory, data = trained
    model = zhaiju.load(str(run_directory))
    one = model.predict(name, INPUTS[name])
    many, task = model.predict(name, [INPUTS[name]] * 2), TASKS[name]
    assert [found.id for found in many] == ["0", "1"]
    assert {task.value(found) for found in many} == {task.value(one)}
    assert [task.confidence(found) for found in many] == pytest.approx([task.confidence(one)] * 2, abs=1e-6)
    assert 0 <= task.confidence(one) <= 1
    with pytest.raises(DataError):
        model.predict(name, [{}])
    code, out, err = run("calibrate", run_directory, data, "--json")
    assert code == 0, err
    assert json.loads(out)["unit"] == task.unit
    again = zhaiju.load(str(run_directory)).predict(name, INPUTS[name])
    assert task.value(again) == task.value(one)


@pytest.mark.parametrize("name", EVERY)
def test_its_graph_answers_as_the_checkpoint(run, trained, tmp_path, name):
    run_directory, data = trained
    code, _, err = run("export", run_directory, "-o", tmp_path / "exported")
    assert code == 0, err
    for where, out in ((run_directory, "a.json"), (tmp_path / "exported", "b.json")):
        assert run("predict", where, data, "-o", tmp_path / out)[0] == 0
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


@pytest.mark.parametrize("name", EVERY)
def test_http_predicts_as_python_does_and_describes_itself(trained, name):
    run_directory, _ = trained
    app = make_app(Settings(), load_models(None, others=[str(run_directory)]))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        found = client.post(f"/v1/{name}", json=INPUTS[name])
        assert found.status_code == 200, found.text
        wanted = TASKS[name].row(zhaiju.load(str(run_directory)).predict(name, INPUTS[name]))
        answer = list(TASKS[name].columns)[1]
        assert found.json().get(answer, wanted[answer]) == wanted[answer]
        assert found.json().get("score", 0) == pytest.approx(wanted.get("score", 0), abs=1e-4)
        both = client.post(f"/v1/{name}/batch", json={"items": [INPUTS[name]] * 2}).json()["results"]
        assert [one.get(answer) for one in both] == [found.json().get(answer)] * 2
        assert client.post(f"/v1/{name}", json={}).status_code == 422
        assert client.get("/v1/capabilities").json()["tasks"] == [name, *(["select"] if name == "read" else [])]
        assert {f"/v1/{name}", f"/v1/{name}/batch"} <= set(client.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize("name", EVERY)
def test_rows_without_labels_are_predicted_and_refused_where_they_would_be_scored(run, trained, tmp_path, name):
    run_directory, _ = trained
    bare = [{key: row[key] for key in row if key in ("id", "paragraphs", *TASKS[name].fields)} for row in ROWS[name]]
    if name == "read":  # what is right is also what is read
        bare = [row | {"relevant": 0} for row in bare]
    data = run_directory.parent / f"bare-{name}.json"
    data.write_text(json.dumps(bare), "utf-8")
    code, _, err = run("predict", run_directory, data, "-o", tmp_path / "p.json")
    assert code == 0, err
    assert list(json.loads((tmp_path / "p.json").read_text())) == [row["id"] for row in bare]
    code, _, err = run("evaluate", run_directory, data)
    assert code == 2
    assert err.count("\n") == 1
    assert bare[0]["id"] in err


def test_an_unknown_task_is_one_line(run, folder):
    code, _, err = run("train", "sing", "--train", folder / "read.json", "-o", folder / "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "task 'sing' is not one of select, read, intent, slots, yesno" in err
    model = zhaiju.load("starter")
    with pytest.raises(ConfigError, match="no checkpoint for intent is loaded here"):
        model.predict("intent", {"text": "x"})


def test_what_a_task_does_not_say_is_told_when_it_is_made():
    with pytest.raises(TypeError, match="the task Half does not say its unit, head, figures, fields, probe, column"):
        type("Half", (Task,), {"name": "half"})
    lacking = type("Lacking", (YesNoTask,), {"classes": classmethod(Task.classes.__func__)})
    with pytest.raises(NotImplementedError, match=r"has no classes\(\) to say which"):
        lacking.classes([])

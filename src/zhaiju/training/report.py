"""The experiment's report: every table and figure of the course report, its published figures beside ours.

Our figures come from what `zhaiju.training.reproduce.reproduce` returns, and the curves from the runs that it names.
The published ones are the constants below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from zhaiju import files
from zhaiju.tasks.metrics import segmenter
from zhaiju.training.curves import LOSS_CAPTION, panel, read_curves
from zhaiju.training.drawing import Picture
from zhaiju.training.figures import bar_figure, calibration_figure, line_figure
from zhaiju.training.page import Cell, cell, figure, is_number, page, table

Results = Mapping[str, Any]
Rows = list[list[Cell]]

# Published in the course report, as printed there: its tables, its learning curves and the output of its programs.
PUBLISHED: dict[str, dict[str, str]] = {
    "read-first-way": {"em": "0.745"},
    "select-first": {"accuracy": "0.934"},
    "select-second": {"accuracy": "0.935"},
    "read-first": {"em": "0.82"},
    "read-second": {"em": "0.836", "f1": "0.89"},
    "pipeline-first": {"em": "0.78", "f1": "0.83"},
    "pipeline-second": {"em": "0.803", "f1": "0.864"},
    "read-scratch": {"count": "3526", "em": "0.0632", "f1": "0.1070"},
    "slots": {
        "token_accuracy": "0.9658",
        "precision": "0.8500",
        "recall": "0.8763",
        "f1": "0.8630",
        "loss": "0.1031",
        "per_second": "298",
        "seconds": "3.35",
    },
}
PUBLISHED_CURVE = {"every": "1,500", "best": "18,000", "steps": "18,807"}
PUBLISHED_INTENT = {  # after each of 5 epochs of 1,500 steps; accuracies in %
    "dev accuracy": ("72.3", "84.8", "88.7", "90.9", "91.1"),
    "train accuracy": ("42.9", "82.3", "92.3", "95.8", "97.3"),
    "dev loss": ("1.275", "0.626", "0.460", "0.402", "0.398"),
}
PUBLISHED_BASELINES = "under 85 %"
PUBLISHED_ENCODERS = {
    "first": "bert-base-chinese",
    "second": "hfl/chinese-roberta-wwm-ext",
    "english": "bert-base-uncased",
}
PUBLISHED_RECIPES = {
    "select-first": "AdamW, batch 3, lr 1e-5, 1 epoch; 4 choices",
    "read-first": "AdamW, batch 5, lr 3e-5, 3 epochs (18,807 steps)",
    "read-first-way": "the same; context cut on the left, answers searched for",
    "read-scratch": "batch 5, lr 3e-5, 3 epochs; 12 layers of 768, 12 heads, random weights",
    "intent": "AdamW, batch 10, lr 3e-5, length 128, 5 epochs of 1,500 steps",
    "slots": "AdamW, batch 16, lr 2e-5, 3 epochs",
}

ROLES = {"first": "first", "second": "second", "english": "English"}
NAMES = {
    "select-first": "selection, first encoder",
    "select-second": "selection, second encoder",
    "read-first": "reading, first encoder",
    "read-second": "reading, second encoder",
    "read-first-way": "reading, the first way",
    "read-scratch": "reading, from scratch",
    "intent": "intent",
    "intent-scratch": "intent, from scratch",
    "slots": "slots",
    "slots-scratch": "slots, from scratch",
    "pipeline-first": "joined, first encoders",
    "pipeline-second": "joined, second encoders",
}
JUDGES = {
    "first": "selection, reading and both joined with the first encoder, and the two ways to find spans,",
    "second": "selection, reading and both joined with the second encoder",
    "english": "intent and slots",
}
# With what scratch is compared: for each task the run with the encoder, the encoder and the figures.
SCRATCH = {
    "read": ("read-second", "second", ("em", "f1")),
    "intent": ("intent", "english", ("accuracy",)),
    "slots": ("slots", "english", ("f1", "sentence_accuracy")),
}
DIFFERENCE_COLUMNS = "figure | from | to | difference | 95 % interval | p | examples"
DIFFERENCE_NOTE = (
    "The interval is that of a paired bootstrap; p is of a paired approximate randomisation test, two-sided, 10,000 "
    "draws: how often chance alone makes a difference as large."
)
ABSENT = {
    "intent": "Left out: there was no intent/train.json and intent/eval.json in the data's folder or beside it.",
    "slots": "Left out: there was no slot/train.json in the data's folder or beside it.",
}
BAR_NOTE = "The thin line is our 95 % interval."
SHORT_HASH = 12


def write_report(output: Path, results: Results) -> list[Path]:
    """Write report.html, which stands alone, and report.md with its figures in figures/.

    Args:
        output: A directory, made if need be.
        results: From `reproduce`.

    Returns:
        report.html and report.md.

    Raises:
        ConfigError: a run that the results name is no run any more.
        OutputError: `output` cannot be made or written.
    """
    title = "The course report, reproduced"
    report = Report(title)
    for section in SECTIONS:
        section(report, results)
    for name, text in report.pictures.items():
        files.write_text(output / "figures" / f"{name}.svg", text)
    written = [output / "report.html", output / "report.md"]
    files.write_text(written[0], page(title, report.html()))
    files.write_text(written[1], "\n\n".join(report.markdown) + "\n")
    return written


class Report:
    """A report that grows block by block, in HTML and in Markdown at once. All texts are plain.

    Attributes:
        markdown: Its blocks.
        pictures: SVG files by name, to lie in figures/ beside the Markdown.
    """

    def __init__(self, title: str) -> None:
        self.markdown = [f"# {plain(title)}"]
        self.pictures: dict[str, str] = {}
        self._blocks: list[str] = []
        self._headings: list[str] = []

    def html(self) -> str:
        """The page's body, a list of the sections first."""
        links = [
            f'<li><a href="#s{place}">{escape(heading)}</a></li>' for place, heading in enumerate(self._headings, 1)
        ]
        return "\n".join([f'<nav><ol class="contents">{"".join(links)}</ol></nav>', *self._blocks])

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._headings.append(text)
        number = len(self._headings)
        self._blocks.append(f'<h2 id="s{number}">{number}. {escape(text)}</h2>')
        self.markdown.append(f"## {number}. {plain(text)}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(f"<p>{escape(text)}</p>")
        self.markdown.append(plain(text))

    def items(self, texts: Sequence[str]) -> None:
        """A list."""
        self._blocks.append(f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>")
        self.markdown.append("\n".join(f"- {plain(text)}" for text in texts))

    def code(self, text: str) -> None:
        """Lines as a program prints them."""
        self._blocks.append(f"<pre>{escape(text)}</pre>")
        self.markdown.append(f"```\n{text}\n```")

    def table(self, caption: str, columns: str, rows: Rows) -> None:
        """A table (see `zhaiju.training.page.table`); `columns` are its headings with " | " between them."""
        headings = columns.split(" | ")
        self._blocks.append(table(caption, headings, rows))
        numeric = [all(is_number(row[place]) for row in rows) for place in range(len(headings))]
        lines = [[plain(name) for name in headings], ["---:" if right else "---" for right in numeric]]
        lines += [[plain(cell(value)) for value in row] for row in rows]
        self.markdown.append("\n".join([f"**{plain(caption)}**", "", *(f"| {' | '.join(line)} |" for line in lines)]))

    def figures(self, pictures: Mapping[str, tuple[Picture, str]]) -> None:
        """Figures side by side where there is room, by their name each with its caption."""
        blocks = [figure(picture.inline, caption) for picture, caption in pictures.values()]
        self._blocks.append(f'<div class="panels">\n{"".join(blocks)}\n</div>')
        for name, (picture, caption) in pictures.items():
            self.pictures[name] = picture.file
            self.markdown.append(f"![{name.replace('-', ' ')}](figures/{name}.svg)\n\n{plain(caption)}")


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split()))


def _who(results: Results, role: str) -> str:
    """One of our encoders, told apart from another of the same name."""
    return f"{ROLES[role]}: {results['labels'][role]}"


def _interval(figures: Mapping[str, Any], name: str) -> str | None:
    if f"{name}_low" not in figures:
        return None
    return _range(figures[f"{name}_low"], figures[f"{name}_high"])


def _range(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}"


def _percent(value: float | None) -> str | None:
    """A share in %."""
    return None if value is None else f"{100 * value:.2f}"


def _published(part: str, figure: str) -> str | None:
    return PUBLISHED.get(part, {}).get(figure)


def _compared(results: Results, names: Mapping[str, str], figure: str, name: str, title: str) -> Picture:
    """Bars of what was published beside ours, for those of the named parts for which something was."""
    parts = [part for part in names if _published(part, figure) is not None]
    found = [results["results"][part]["figures"] for part in parts]
    groups = [names[part] for part in parts]
    bars = {
        "published": [float(PUBLISHED[part][figure]) for part in parts],
        "ours": [figures[figure] for figures in found],
    }
    said = "; ".join(
        f"{group} {theirs:g} and {ours:.4f}" for group, theirs, ours in zip(groups, *bars.values(), strict=True)
    )
    return bar_figure(
        groups,
        bars,
        name=name,
        description=f"{title}, published and ours: {said}.",
        intervals={"ours": [(figures[f"{figure}_low"], figures[f"{figure}_high"]) for figures in found]},
        title=title,
    )


# What was run


def _what_was_run(report: Report, results: Results) -> None:
    recipe, done = results["recipe"], results["results"]
    parts = [part for part in done if "training" in done[part]]
    report.text(
        f"Recipe {recipe['name']}. {recipe['about']} Each table has the published figure of the course report beside "
        "ours; each of ours was measured by this experiment."
    )
    report.heading("What was run")
    report.text("Where our figures cannot be compared with the published ones:")
    report.items(_differences(results))
    rows: Rows = []
    for role, candidates in (("first", ["read-first"]), ("second", ["read-second"]), ("english", ["intent", "slots"])):
        for part in [part for part in candidates if part in done][:1]:
            weights = "random weights" if results["scratch"][role] else "pretrained"
            names = [ROLES[role], PUBLISHED_ENCODERS[role], results["labels"][role]]
            rows.append([*names, weights, f"{done[part]['parameters']:,}", NAMES[part]])
    columns = "encoder | published | ours | ours starts from | parameters | counted with the output layer of"
    report.table("Encoders", columns, rows)
    rows = [
        [NAMES[part], published, settings_in_words(done[part]["settings"])]
        for part, published in PUBLISHED_RECIPES.items()
        if part in done
    ]
    report.table("Recipes", "part | published | ours", rows)
    rows = []
    for part in parts:
        entry = done[part]
        training, settings = entry["training"], entry["settings"]
        judged = sum(evaluation["seconds"] for evaluation in entry["evaluations"])
        counts = [entry["train_count"], entry["dev_count"], training["steps"], training["best_step"]]
        seconds = [f"{training['seconds']:,.1f}", f"{judged:,.1f}"]
        seeds = [settings["seed"], settings["split_seed"]]
        rows.append([NAMES[part], *(f"{count:,}" for count in counts), *seconds, *seeds])
    columns = (
        "part | training examples | dev examples | steps | best step | training s | evaluation s | seed | split seed"
    )
    report.table("Trainings; seconds of all steps, and of all evaluations during them", columns, rows)
    rows = []
    for entry in {entry["sha256"] + entry["role"]: entry for part in parts for entry in done[part]["data"]}.values():
        tasks = dict.fromkeys(done[part]["task"] for part in parts if entry in done[part]["data"])
        found = [entry["name"], entry["role"], ", ".join(tasks)]
        rows.append([*found, f"{entry['count']:,}", entry["sha256"][:SHORT_HASH]])
    report.table("Data", "file | role | for | rows | SHA-256 begins with", rows)
    report.table("Machine and versions", "what | which", _environment(done, parts))


def _environment(done: Results, parts: Sequence[str]) -> Rows:
    """Each fact once; several values where parts were run on several machines."""
    found = [done[part]["environment"] for part in parts]
    dates = sorted(entry["date"] for entry in found)
    facts: dict[str, list[str]] = {
        "machine": [entry["machine"] for entry in found],
        "GPU": [entry["gpu"] or "none" for entry in found],
        "Python": [entry["python"] for entry in found],
    }
    for name in found[0]["libraries"]:
        facts[name] = [entry["libraries"].get(name, "none") for entry in found]
    rows: Rows = [["trainings begun", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"]]
    rows += [[name, "; ".join(dict.fromkeys(values))] for name, values in facts.items()]
    return [*rows, ["segmenter of EM and F1", segmenter()]]


def _differences(results: Results) -> list[str]:
    """In what ours differs from what was published, a sentence each."""
    done, limits = results["results"], results["recipe"]["limits"]
    found = []
    for role, published in PUBLISHED_ENCODERS.items():
        label = results["labels"][role]
        if role == "english" and not {"intent", "slots"} & set(done):
            continue
        if results["scratch"][role]:
            found.append(
                f"The {ROLES[role]} encoder starts from random weights ({label}); the report's is {published}, "
                f"pretrained. So our figures of {JUDGES[role]} do not tell how well the report is repeated, only what "
                "the recipe gives without pretraining."
            )
        elif label != published and not label.endswith(f"/{published.rpartition('/')[2]}"):
            found.append(
                f"The {ROLES[role]} encoder is {label}; the report's is {published}. Our figures of {JUDGES[role]} are "
                "another encoder's."
            )
    wanted = int(PUBLISHED["read-scratch"]["count"])
    if (count := done["read-first"]["dev_count"]) != wanted:
        found.append(f"Selection and reading are judged on {count:,} questions; the report's file has {wanted:,}.")
    if "slots" in done and not any(entry["role"] == "dev" for entry in done["slots"]["data"]):
        found.append(
            "Slots are judged on a seeded tenth that is held out of the training file and not trained on "
            f"({done['slots']['dev_count']:,} utterances), because the course's evaluation file is not there."
        )
    if any(limits.values()):
        most = [f"{limit:,} {name} examples" for name, limit in limits.items() if limit]
        found.append(f"The recipe limits the data: each part has at most {' and '.join(most)}.")
    if results["recipe"]["name"] != "report":
        found.append("Learning rates, batches, lengths and steps are those of our recipe, not the report's: see below.")
    return found or ["Nowhere that is known: encoders, recipes and counts are the report's."]


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """What of the settings the course report says about its recipes."""
    batch = f"batch {settings['batch_size']}"
    if not settings["batch_size"]:
        batch = f"batches of up to {settings['batch_tokens']:,} tokens"
    if settings["accumulation"] > 1:
        batch += f" × {settings['accumulation']}"
    length = _counted(settings["max_steps"], "step") if settings["max_steps"] else _counted(settings["epochs"], "epoch")
    lr = f"{settings['lr']:g}".replace("e-0", "e-")
    shape = ""
    if settings["scratch"]:
        made = f"{_counted(settings['layers'], 'layer')} of {settings['hidden']}, {_counted(settings['heads'], 'head')}"
        shape = f"; {settings['encoder'] or made}, random weights"
    return f"AdamW, {batch}, lr {lr}, window {settings['window']}, {length}{shape}"


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


# Spans, encoders, curves


def _spans(report: Report, results: Results) -> None:
    report.heading("Finding spans: the first way against the second")
    report.text(
        "With the right paragraph, by the first encoder. The first way cuts the context on the left where it is too "
        "long and searches for the answer's text; the second knows where each token stands, keeps all windows and "
        "takes the best span of an n-best list. The first way's best checkpoint was chosen with such a list, too; its "
        "figures here are without one."
    )
    rows: Rows = []
    ways = {"read-first-way": "first way", "read-first": "second way"}
    for part, name in ways.items():
        figures = results["results"][part]["figures"]
        em, em_interval, f1, f1_interval = _em_f1(figures)
        rows.append([name, _published(part, "em"), em, em_interval, f1, f1_interval, figures["count"]])
    columns = "way | EM, published | EM, ours | 95 % interval | F1, ours | 95 % interval | questions"
    report.table("Exact match (EM) and F1 by the course's definition", columns, rows)
    bars = _compared(results, ways, "em", "spans", "EM")
    report.figures({"spans": (bars, f"EM of both ways. {BAR_NOTE}")})


def _em_f1(figures: Mapping[str, Any]) -> list[Cell]:
    return [figures["em"], _interval(figures, "em"), figures["f1"], _interval(figures, "f1")]


def _encoders(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Two encoders: selection, reading, and both joined")
    rows: Rows = []
    for role in ("first", "second"):
        figures, published = done[f"select-{role}"]["figures"], _published(f"select-{role}", "accuracy")
        ours = [figures["accuracy"], _interval(figures, "accuracy"), figures["chance"], figures["count"]]
        rows.append([_who(results, role), PUBLISHED_ENCODERS[role], published, *ours])
    columns = (
        "our encoder | published encoder | accuracy, published | accuracy, ours | 95 % interval | chance | questions"
    )
    report.table("Selection: which paragraph answers the question?", columns, rows)
    report.text("Chance is the accuracy of drawing one of our candidates at random. The report's questions have 4.")
    columns = "our encoder | EM, published | EM, ours | 95 % interval | F1, published | F1, ours | 95 % interval"
    for kind, caption in (("read", "Reading, with the right paragraph"), ("pipeline", "Joined: the selected one read")):
        rows = []
        for role in ("first", "second"):
            part = f"{kind}-{role}"
            em, em_interval, f1, f1_interval = _em_f1(done[part]["figures"])
            their_em, their_f1 = (_published(part, key) for key in ("em", "f1"))
            rows.append([_who(results, role), their_em, em, em_interval, their_f1, f1, f1_interval])
            if kind == "pipeline":
                rows[-1].append(done[part]["figures"]["accuracy"])
        report.table(caption, f"{columns} | right paragraph" if kind == "pipeline" else columns, rows)
    short = {part: re.sub(" encoders?$", "", name) for part, name in NAMES.items()}
    selecting = {part: short[part] for part in ("select-first", "select-second")}
    answering = {part: short[part] for part in ("read-first", "read-second", "pipeline-first", "pipeline-second")}
    bars = _compared(results, selecting, "accuracy", "selection", "accuracy")
    pictures = {"selection": (bars, f"Accuracy of selection. {BAR_NOTE}")}
    for key in ("em", "f1"):
        bars = _compared(results, answering, key, f"answers-{key}", key.upper())
        pictures[f"answers-{key}"] = bars, f"{key.upper()} where it was published. {BAR_NOTE}"
    report.figures(pictures)
    rows = [*_differing(results, "select", "selection"), *_differing(results, "read", "reading")]
    report.table("First encoder against second, on the same questions", DIFFERENCE_COLUMNS, rows)
    report.text(DIFFERENCE_NOTE)


def _differing(results: Results, title: str, name: str) -> Rows:
    rows: Rows = []
    for row in results["comparisons"].get(title, ()):
        about = [f"{name}, {_figure(row['figure'])}", row["against"], row["run"]]
        rows.append([*about, row["difference"], _range(row["low"], row["high"]), row["p"], row["examples"]])
    return rows


def _figure(name: str) -> str:
    return name.upper() if name in ("em", "f1") else name.replace("_", " ")


def _curves(report: Report, results: Results) -> None:
    report.heading("Learning curves")
    every, best, steps = (PUBLISHED_CURVE[name] for name in ("every", "best", "steps"))
    rows: Rows = [["published", f"every {every} steps", f"about {best}", None, None, steps, None, None, "no"]]
    for role in ("first", "second"):
        entry = results["results"][f"read-{role}"]
        first = next(one for one in entry["evaluations"] if one["step"] == entry["training"]["best_step"])
        last, each = entry["evaluations"][-1], entry["settings"]["eval_every"]
        when = f"every {_counted(each, 'step')}" if each else "after each epoch"
        ours = [[f"{one['step']:,}", one["em"], one["f1"]] for one in (first, last)]
        rows.append([_who(results, role), when, *ours[0], *ours[1], "yes" if first is last else "no"])
    columns = "encoder | evaluated | best step | EM, best | F1, best | last step | EM, last | F1, last | best is last?"
    report.table("Reading: the best evaluation and the last", columns, rows)
    report.text("In the figures a star marks the best evaluation of a run; beside it stand its value and its step.")
    pictures = {}
    for task, name, keys in (
        ("read", "reading", ("em", "f1", "loss", "lr")),
        ("select", "selection", ("accuracy", "loss")),
    ):
        roles = ("first", "second")
        runs = [Path(results["runs"][f"{task}-{role}"]) for role in roles]
        curves = read_curves(runs, titles=[_who(results, role) for role in roles])
        for key in keys:
            caption = {"loss": f"training loss. {LOSS_CAPTION}", "lr": "learning rate."}.get(
                key, f"{_figure(key)} on the dev questions."
            )
            picture = panel(curves, key, f"{name}-{key}", legend=True)
            pictures[f"{name}-{key}"] = picture, f"{name.capitalize()}: {caption}"
    report.figures(pictures)


# From scratch


def _scratch(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Pretrained or from scratch")
    settings = done["read-scratch"]["settings"]
    shape = (
        f"{settings['layers']} layers of {settings['hidden']}, made from nothing"
        if settings["encoder"] is None
        else f"the architecture of {results['labels']['second']}"
    )
    report.text(f"A reader from random weights ({shape}), as the report prints it:")
    published, ours = PUBLISHED["read-scratch"], done["read-scratch"]["figures"]
    theirs = f"{{'count': {published['count']}, 'em': {published['em']}, 'f1': {published['f1']}}}"
    printed = f"{{'count': {ours['count']}, 'em': {ours['em']:.4f}, 'f1': {ours['f1']:.4f}}}"
    report.code(f"published  {theirs}\nours       {printed}")
    rows: Rows = []
    differing: Rows = []
    left_out = []
    for task, (part, role, keys) in SCRATCH.items():
        if part not in done:
            left_out.append(f"{task}: {ABSENT[task]}")
            continue
        start = "random weights" if results["scratch"][role] else "pretrained"
        for key in keys:
            found = [done[name]["figures"] for name in (part, f"{task}-scratch")]
            values = [value for figures in found for value in (figures[key], _interval(figures, key))]
            rows.append([f"{task}, {_figure(key)}", _who(results, role), start, *values])
        differing += _differing(results, f"{task}, from scratch", task)
        if results["scratch"][role]:
            left_out.append(
                f"{task}: pretrained is not compared with scratch, because the encoder itself "
                f"({results['labels'][role]}) starts from random weights."
            )
    columns = "figure | encoder | it starts from | with it | 95 % interval | from scratch | 95 % interval"
    report.table("With the encoder and from scratch", columns, rows)
    if differing:
        report.table("From pretrained to scratch, on the same examples", DIFFERENCE_COLUMNS, differing)
        report.text(DIFFERENCE_NOTE)
    if left_out:
        report.items(left_out)


# Intent and slots


def _intent(report: Report, results: Results) -> None:
    report.heading("Intent, epoch by epoch")
    entry = results["results"].get("intent")
    if entry is None:
        report.text(ABSENT["intent"])
        return
    if seen := min(entry["settings"]["eval_train"], entry["train_count"]):
        report.text(
            f"Our train accuracy is that of the first {seen:,} of {entry['train_count']:,} training utterances, "
            "measured after the epoch and without dropout; the published one can only be "
            "that of the batches along the epoch, so the two are not the same quantity."
        )
    ours = {evaluation["epoch"]: evaluation for evaluation in entry["evaluations"]}
    theirs = dict(enumerate(zip(*PUBLISHED_INTENT.values(), strict=True), 1))
    rows: Rows = []
    for epoch in sorted({*ours, *theirs}):
        found = ours.get(epoch, {})
        dev, train, loss = theirs.get(epoch, (None, None, None))  # 2.0 finds 2
        step = f"{found['step']:,}" if found else None
        accuracies = [_percent(found.get("accuracy")), dev, _percent(found.get("train_accuracy")), train]
        rows.append([f"{epoch:.2f}".rstrip("0").rstrip("."), step, *accuracies, found.get("loss"), loss])
    report.table(
        "Accuracy in % and loss: each evaluation of ours, each epoch of the report",
        "epoch | step | dev accuracy, ours | published | train accuracy, ours | published | dev loss, ours | published",
        rows,
    )
    figures = entry["figures"]
    report.text(
        f"Ours at the best step, {entry['training']['best_step']:,}: dev accuracy {_percent(figures['accuracy'])} % "
        f"(95 % interval {_percent(figures['accuracy_low'])} to {_percent(figures['accuracy_high'])} %) on "
        f"{figures['count']:,} utterances. The report's RNN baselines are {PUBLISHED_BASELINES}."
    )
    groups: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {"accuracy": {}, "loss": {}}
    for name, key, scale in (
        ("dev accuracy", "accuracy", 100),
        ("train accuracy", "train_accuracy", 100),
        ("dev loss", "loss", 1),
    ):
        side, kind = name.split()
        points = [(epoch, scale * found[key]) for epoch, found in ours.items() if key in found]
        groups[kind][f"{side}, ours"] = [x for x, _ in points], [y for _, y in points]
        groups[kind][f"{side}, published"] = list(theirs), [float(value) for value in PUBLISHED_INTENT[name]]
    pictures = {}
    for kind, lines in groups.items():
        title = "accuracy in %" if kind == "accuracy" else "dev loss"
        said = "; ".join(f"{name} {ys[-1]:.4g} at {xs[-1]:g}" for name, (xs, ys) in lines.items() if len(xs))
        description = f"Intent, {title} by epoch, at last: {said}."
        picture = line_figure(lines, name=f"intent-{kind}", description=description, title=title, x="epoch")
        pictures[f"intent-{kind}"] = picture, f"Intent: {title} by epoch, ours and published."
    report.figures(pictures)


def _slots(report: Report, results: Results) -> None:
    report.heading("Slots")
    entry = results["results"].get("slots")
    if entry is None:
        report.text(ABSENT["slots"])
        return
    figures, published = entry["figures"], PUBLISHED["slots"]
    report.text(
        "Two ways to count. First pieces, the sounder one: each word counts once, by the tag of its first piece. All "
        "pieces, as the report counts: a word's tag stands once for each of its pieces, so that a long word counts "
        "several times; compare this one with the published figures. The loss is the mean over utterances of first "
        "pieces' loss. Strict: only a B- tag begins a slot."
    )
    rows: Rows = [
        [_figure(key), published[key], figures.get(f"{key}_all_pieces"), figures[key], _interval(figures, key)]
        for key in ("token_accuracy", "precision", "recall", "f1")
    ]
    rows.append(["loss", published["loss"], None, figures.get("loss"), None])
    rows += [
        [f"strict {_figure(key)}", None, None, figures[f"{key}_strict"], None] for key in ("precision", "recall", "f1")
    ]
    rows.append(
        ["sentence accuracy", None, None, figures["sentence_accuracy"], _interval(figures, "sentence_accuracy")]
    )
    columns = "figure | published | ours, all pieces | ours, first pieces | 95 % interval"
    report.table(f"Slots of {figures['count']:,} utterances", columns, rows)


# Speed and calibration


def _speed(report: Report, results: Results) -> None:
    report.heading("Speed and memory of evaluation")
    published = PUBLISHED["slots"]
    rows: Rows = [["slots, published", "GPU", None, published["seconds"], published["per_second"], None]]
    for part, entry in results["results"].items():
        if "evaluation" in entry:
            found = entry["evaluation"]
            speed = [f"{found['seconds']:,.2f}", f"{found['per_second']:,.1f}"]
            memory = f"{found['peak_bytes'] / 2**20:,.0f}"
            rows.append([NAMES[part], found["device"], f"{entry['dev_count']:,}", *speed, memory])
    columns = "part | device | examples | seconds | examples a second | peak MiB"
    report.table("The best checkpoint on the dev examples", columns, rows)
    report.text(
        "Peak memory is on a CPU that of the whole process, libraries, data and what earlier parts left included; on "
        "a GPU what torch had allocated there."
    )


def _calibration(report: Report, results: Results) -> None:
    report.heading("Calibration")
    report.text(
        "Each run's temperature is fitted on its dev examples. ECE is the expected calibration error; after the "
        "temperature it is measured on each half of the examples with the temperature of the other. The threshold is "
        "the confidence below which it is better to abstain where so much risk is accepted, none if nothing keeps the "
        "risk; coverage is the share that is as sure. The first way of reading is left out: it has no n-best list "
        "whose probabilities could be calibrated."
    )
    rows: Rows = []
    pictures = {}
    for part, entry in results["results"].items():
        if "calibration" not in entry or part == "read-first-way":
            continue
        record, name = entry["calibration"], f"calibration-{part}"
        errors = [record["temperature"], record["ece_before"], record["ece"]]
        chosen = [f"{record['risk']:g}", record["threshold"], record["coverage"]]
        rows.append([NAMES[part], *errors, *chosen, f"{record['count']:,} {record['unit']}s"])
        picture = calibration_figure(record, name=name, title=NAMES[part])
        pictures[name] = picture, f"{NAMES[part].capitalize()}: right answers by confidence, wrong ones by coverage."
    columns = "part | temperature | ECE before | ECE after | accepted risk | threshold | coverage | fitted on"
    report.table("Temperature and threshold", columns, rows)
    report.figures(pictures)


SECTIONS: tuple[Callable[[Report, Results], None], ...] = (
    _what_was_run,
    _spans,
    _encoders,
    _curves,
    _scratch,
    _intent,
    _slots,
    _speed,
    _calibration,
)

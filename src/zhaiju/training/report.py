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
from zhaiju.training.page import Cell, cell, is_number, page, table

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
ABSENT = {
    "intent": "Left out: there was no intent/train.json and intent/eval.json in the data's folder or beside it.",
    "slots": "Left out: there was no slot/train.json in the data's folder or beside it.",
}
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
        self._blocks.append(f'<pre tabindex="0">{escape(text)}</pre>')
        self.markdown.append(f"```\n{text}\n```")

    def table(self, caption: str, columns: Sequence[str], rows: Rows) -> None:
        """A table; see `zhaiju.training.page.table`."""
        self._blocks.append(table(caption, columns, rows))
        numeric = [all(is_number(row[place]) for row in rows) for place in range(len(columns))]
        lines = [[plain(name) for name in columns], ["---:" if right else "---" for right in numeric]]
        lines += [[plain(cell(value)) for value in row] for row in rows]
        self.markdown.append("\n".join([f"**{plain(caption)}**", "", *(f"| {' | '.join(line)} |" for line in lines)]))

    def figures(self, pictures: Mapping[str, tuple[Picture, str]]) -> None:
        """Figures side by side where there is room, by their name each with its caption."""
        blocks = [
            f"<figure>{picture.inline}<figcaption>{escape(caption)}</figcaption></figure>"
            for picture, caption in pictures.values()
        ]
        self._blocks.append(f'<div class="panels">\n{"".join(blocks)}\n</div>')
        for name, (picture, caption) in pictures.items():
            self.pictures[name] = picture.file
            self.markdown.append(f"![{plain(caption)}](figures/{name}.svg)\n\n{plain(caption)}")


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split()))


def _interval(figures: Mapping[str, Any], name: str) -> str | None:
    if f"{name}_low" not in figures:
        return None
    return _range(figures[f"{name}_low"], figures[f"{name}_high"])


def _range(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}"


def _share(value: float | None) -> str | None:
    """A share of 1 in %, four digits."""
    return None if value is None else f"{100 * value:.2f}"


def _published(part: str, figure: str) -> str | None:
    return PUBLISHED.get(part, {}).get(figure)


def _compared(results: Results, parts: Sequence[str], figure: str, name: str, title: str) -> Picture:
    """Bars of what was published beside ours, for the parts for which something was."""
    parts = [part for part in parts if _published(part, figure) is not None]
    found = [results["results"][part]["figures"] for part in parts]
    groups = [NAMES[part] for part in parts]
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
    for role, part in (("first", "read-first"), ("second", "read-second"), ("english", "intent"), ("english", "slots")):
        if part in done and role not in [row[0] for row in rows]:
            weights = "random weights" if results["scratch"][role] else "pretrained"
            count = f"{done[part]['parameters']:,}"
            rows.append([role, PUBLISHED_ENCODERS[role], results["labels"][role], weights, count])
    report.table(
        "Encoders, with the output layer of reading or intent",
        [
            "encoder",
            "published",
            "ours",
            "ours starts from",
            "parameters",
        ],
        rows,
    )
    rows = [
        [NAMES[part], published, settings_in_words(done[part]["settings"])]
        for part, published in PUBLISHED_RECIPES.items()
        if part in done
    ]
    report.table("Recipes", ["part", "published", "ours"], rows)
    rows = []
    for part in parts:
        entry = done[part]
        training, settings = entry["training"], entry["settings"]
        judged = sum(evaluation["seconds"] for evaluation in entry["evaluations"])
        counts = [entry["train_count"], entry["dev_count"], training["steps"], training["best_step"]]
        seconds = [f"{training['seconds']:,.1f}", f"{judged:,.1f}"]
        seeds = f"{settings['seed']}, {settings['split_seed']}"
        rows.append([NAMES[part], *(f"{count:,}" for count in counts), *seconds, seeds])
    report.table(
        "Trainings; seconds of all steps, and of all evaluations during them",
        [
            "part",
            "training examples",
            "dev examples",
            "steps",
            "best step",
            "training s",
            "evaluation s",
            "seeds: training, split",
        ],
        rows,
    )
    entries = {entry["sha256"] + entry["role"]: entry for part in parts for entry in done[part]["data"]}
    rows = [
        [entry["name"], entry["role"], _users(done, parts, entry), f"{entry['count']:,}", entry["sha256"][:SHORT_HASH]]
        for entry in entries.values()
    ]
    report.table("Data; SHA-256 by its beginning", ["file", "role", "parts", "rows", "SHA-256"], rows)
    report.table("Machine and versions", ["what", "which"], _environment(done, parts))


def _users(done: Results, parts: Sequence[str], entry: Mapping[str, Any]) -> str:
    tasks = dict.fromkeys(done[part]["task"] for part in parts if entry in done[part]["data"])
    return ", ".join(tasks)


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
    done = results["results"]
    found = []
    for role, published in PUBLISHED_ENCODERS.items():
        label = results["labels"][role]
        if role == "english" and not {"intent", "slots"} & set(done):
            continue
        if results["scratch"][role]:
            found.append(
                f"The {role.replace('english', 'English')} encoder starts from random weights ({label}); the report's "
                f"is {published}, pretrained. Our figures of {JUDGES[role]} say what the recipe gives without "
                "pretraining, and not how well it repeats the report."
            )
        elif label != published and not label.endswith(f"/{published.rpartition('/')[2]}"):
            found.append(
                f"The {role.replace('english', 'English')} encoder is {label}; the report's is {published}. "
                f"Our figures of {JUDGES[role]} are another encoder's."
            )
    wanted = int(PUBLISHED["read-scratch"]["count"])
    if (count := done["read-first"]["dev_count"]) != wanted:
        found.append(
            f"Selection and reading are judged on {count:,} questions; the report's file has {wanted:,}, so they are "
            "other questions."
        )
    if "slots" in done and not any(entry["role"] == "dev" for entry in done["slots"]["data"]):
        found.append(
            f"Slots are judged on a seeded tenth held out of the training file ({done['slots']['dev_count']:,} "
            "utterances), because the course's evaluation file is not there; it is not trained on."
        )
    cut = {
        entry["task"]: f"{entry['task']} on {entry['train_count']:,} of {whole:,} rows"
        for entry in done.values()
        if "training" in entry
        and any(source["role"] == "dev" for source in entry["data"])
        and entry["train_count"] < (whole := sum(row["count"] for row in entry["data"] if row["role"] == "train"))
    }
    if cut:
        found.append(f"The recipe limits the data: trained are {', '.join(cut.values())}.")
    if results["recipe"]["name"] != "report":
        found.append("Learning rates, batches and lengths are those of our recipe, not the report's: see below.")
    return found or ["Nowhere that is known: encoders, recipes and counts are the report's."]


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """What of the settings the course report says about its recipes."""
    whole = f"up to {settings['batch_tokens']:,} tokens"
    batch = f"batch {settings['batch_size']}" if settings["batch_size"] else f"batches of {whole}"
    if settings["accumulation"] > 1:
        batch += f" × {settings['accumulation']}"
    epochs = f"{settings['epochs']} epoch{'' if settings['epochs'] == 1 else 's'}"
    length = f"{settings['max_steps']:,} steps" if settings["max_steps"] else epochs
    shape = ""
    if settings["scratch"]:
        made = f"{settings['layers']} layers of {settings['hidden']}, {settings['heads']} heads"
        shape = f"; {settings['encoder'] or made}, random weights"
    return f"AdamW, {batch}, lr {settings['lr']:g}, window {settings['window']}, {length}{shape}"


# Spans, encoders, curves


def _spans(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Finding spans: the first way against the second")
    report.text(
        "With the right paragraph, by the first encoder. The first way cuts the context on the left where it is too "
        "long and searches for the answer's text; the second knows where each token stands, keeps all windows and "
        "takes the best span of an n-best list. The first way's best checkpoint was chosen with such a list, too; its "
        "figures here are without one."
    )
    rows: Rows = []
    for part, name in (("read-first-way", "first way"), ("read-first", "second way")):
        figures = done[part]["figures"]
        rows.append([name, _published(part, "em"), *_em_f1(figures), figures["count"]])
    report.table(
        "Exact match (EM) and F1 by the course's definition, with 95 % intervals",
        [
            "way",
            "EM, published",
            "EM, ours",
            "interval",
            "F1, ours",
            "interval",
            "questions",
        ],
        rows,
    )
    bars = _compared(results, ("read-first-way", "read-first"), "em", "spans", "EM, first and second way")
    report.figures({"spans": (bars, "EM of both ways. The dark line is our 95 % interval.")})


def _em_f1(figures: Mapping[str, Any]) -> list[Cell]:
    return [figures["em"], _interval(figures, "em"), figures["f1"], _interval(figures, "f1")]


def _encoders(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Two encoders: selection, reading, and both joined")
    rows: Rows = []
    for role in ("first", "second"):
        part = f"select-{role}"
        figures = done[part]["figures"]
        rows.append(
            [
                results["labels"][role],
                PUBLISHED_ENCODERS[role],
                _published(part, "accuracy"),
                figures["accuracy"],
                _interval(figures, "accuracy"),
                figures["chance"],
                figures["count"],
            ]
        )
    report.table(
        "Selection: which paragraph answers the question?",
        [
            "our encoder",
            "published encoder",
            "accuracy, published",
            "accuracy, ours",
            "95 % interval",
            "chance, ours",
            "questions",
        ],
        rows,
    )
    report.text("Chance is the accuracy of drawing a candidate at random; the report's questions have 4, ours 2 to 8.")
    columns = [
        "our encoder",
        "EM, published",
        "EM, ours",
        "95 % interval",
        "F1, published",
        "F1, ours",
        "95 % interval",
    ]
    for kind, caption in (
        ("read", "Reading, with the right paragraph"),
        ("pipeline", "Joined: what was selected, read"),
    ):
        rows = []
        for role in ("first", "second"):
            part = f"{kind}-{role}"
            figures = done[part]["figures"]
            em, em_range, f1, f1_range = _em_f1(figures)
            published = _published(part, "em"), _published(part, "f1")
            rows.append([results["labels"][role], published[0], em, em_range, published[1], f1, f1_range])
            if kind == "pipeline":
                rows[-1].append(figures["accuracy"])
        report.table(caption, [*columns, "right paragraph"] if kind == "pipeline" else columns, rows)
    report.figures(
        {
            "selection": (
                _compared(results, ("select-first", "select-second"), "accuracy", "selection", "selection accuracy"),
                "Accuracy of selection. The dark line is our 95 % interval.",
            ),
            **{
                f"answers-{key}": (
                    _compared(
                        results,
                        ("read-first", "read-second", "pipeline-first", "pipeline-second"),
                        key,
                        f"answers-{key}",
                        key.upper(),
                    ),
                    f"{key.upper()} with the right paragraph and joined; for some parts only EM was published.",
                )
                for key in ("em", "f1")
            },
        }
    )
    report.table(
        "First encoder against second, on the same questions",
        DIFFERENCE_COLUMNS,
        [
            *_differing(results, "select", "selection"),
            *_differing(results, "read", "reading"),
        ],
    )
    report.text(DIFFERENCE_NOTE)


DIFFERENCE_COLUMNS = ("figure", "from", "to", "difference", "95 % interval", "p", "examples")
DIFFERENCE_NOTE = (
    "The interval is that of a paired bootstrap; p is of a paired approximate randomisation test, two-sided, 10,000 "
    "draws: how often chance alone makes a difference as large."
)


def _differing(results: Results, title: str, name: str) -> Rows:
    return [
        [
            f"{name}, {_figure(row['figure'])}",
            row["against"],
            row["run"],
            row["difference"],
            _range(row["low"], row["high"]),
            row["p"],
            row["examples"],
        ]
        for row in results["comparisons"].get(title, ())
    ]


def _figure(name: str) -> str:
    return name.upper() if name in ("em", "f1") else name.replace("_", " ")


def _curves(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Learning curves")
    rows: Rows = [
        [
            "published",
            f"every {PUBLISHED_CURVE['every']} steps",
            f"about {PUBLISHED_CURVE['best']}",
            None,
            None,
            PUBLISHED_CURVE["steps"],
            None,
            None,
            "no",
        ]
    ]
    for role in ("first", "second"):
        entry = done[f"read-{role}"]
        evaluations = entry["evaluations"]
        best = next(one for one in evaluations if one["step"] == entry["training"]["best_step"])
        last, every = evaluations[-1], entry["settings"]["eval_every"]
        rows.append(
            [
                results["labels"][role],
                f"every {every:,} steps" if every else "after each epoch",
                f"{best['step']:,}",
                best["em"],
                best["f1"],
                f"{last['step']:,}",
                last["em"],
                last["f1"],
                "yes" if best["step"] == last["step"] else "no",
            ]
        )
    report.table(
        "Reading: the best evaluation and the last",
        [
            "encoder",
            "evaluated",
            "best step",
            "EM, best",
            "F1, best",
            "last step",
            "EM, last",
            "F1, last",
            "is the best the last?",
        ],
        rows,
    )
    report.text("In the figures a star marks the best evaluation of a run; beside it stand its value and its step.")
    labels = [results["labels"][role] for role in ("first", "second")]
    reading = read_curves([Path(results["runs"][f"read-{role}"]) for role in ("first", "second")], titles=labels)
    selecting = read_curves([Path(results["runs"][f"select-{role}"]) for role in ("first", "second")], titles=labels)
    captions = {
        "em": "Reading: EM on the public questions.",
        "f1": "Reading: F1 on the public questions.",
        "loss": f"Reading: training loss. {LOSS_CAPTION}",
        "lr": "Reading: learning rate.",
    }
    pictures = {
        f"reading-{key}": (panel(reading, key, f"reading-{key}", legend=True), caption)
        for key, caption in captions.items()
    }
    pictures["selection-accuracy"] = (
        panel(selecting, "accuracy", "selection-accuracy", legend=True),
        "Selection: accuracy on the public questions.",
    )
    pictures["selection-loss"] = (
        panel(selecting, "loss", "selection-loss", legend=True),
        f"Selection: training loss. {LOSS_CAPTION}",
    )
    report.figures(pictures)


# From scratch


def _scratch(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Pretrained or from scratch")
    report.text("The reader of the second encoder's recipe from random weights, as the report prints it:")
    published, ours = PUBLISHED["read-scratch"], done["read-scratch"]["figures"]
    printed = f"{{'count': {ours['count']}, 'em': {ours['em']:.4f}, 'f1': {ours['f1']:.4f}}}"
    theirs = f"{{'count': {published['count']}, 'em': {published['em']}, 'f1': {published['f1']}}}"
    report.code(f"published  {theirs}\nours       {printed}")
    rows: Rows = []
    for task, part, role in (
        ("read", "read-second", "second"),
        ("intent", "intent", "english"),
        ("slots", "slots", "english"),
    ):
        if part not in done:
            continue
        for key in {"read": ("em", "f1"), "intent": ("accuracy",), "slots": ("f1", "sentence_accuracy")}[task]:
            figures, scratch = done[part]["figures"], done[f"{task}-scratch"]["figures"]
            start = "random weights" if results["scratch"][role] else "pretrained"
            rows.append(
                [
                    f"{task}, {_figure(key)}",
                    f"{results['labels'][role]} ({start})",
                    figures[key],
                    _interval(figures, key),
                    scratch[key],
                    _interval(scratch, key),
                ]
            )
    report.table(
        "The encoder and random weights",
        [
            "figure",
            "encoder",
            "with it",
            "95 % interval",
            "from scratch",
            "95 % interval",
        ],
        rows,
    )
    rows, left_out = [], []
    for task, role in (("read", "second"), ("intent", "english"), ("slots", "english")):
        if f"{task}, from scratch" in results["comparisons"]:
            rows += _differing(results, f"{task}, from scratch", task)
        elif task in results["missing"]:
            left_out.append(f"{task}: {ABSENT[task]}")
        else:
            left_out.append(
                f"{task}: pretrained is not compared with scratch, because the encoder itself "
                f"({results['labels'][role]}) starts from random weights."
            )
    if rows:
        report.table("Pretrained against scratch, on the same examples", DIFFERENCE_COLUMNS, rows)
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
    seen = min(entry["settings"]["eval_train"], entry["train_count"])
    if seen:
        report.text(f"Train accuracy is that of the first {seen:,} of {entry['train_count']:,} training utterances.")
    ours = {round(evaluation["epoch"], 2): evaluation for evaluation in entry["evaluations"]}
    theirs = dict(enumerate(zip(*PUBLISHED_INTENT.values(), strict=True), 1))
    rows: Rows = []
    for epoch in sorted({*ours, *theirs}):
        found, published = ours.get(epoch, {}), theirs.get(int(epoch)) if epoch == int(epoch) else None
        dev, train, loss = published or (None, None, None)
        step = f"{found['step']:,}" if found else None
        rows.append(
            [
                f"{epoch:g}",
                step,
                _share(found.get("accuracy")),
                dev,
                _share(found.get("train_accuracy")),
                train,
                found.get("loss"),
                loss,
            ]
        )
    report.table(
        "Accuracy in %, and loss, after each evaluation of ours and each epoch of the report",
        [
            "epoch",
            "our step",
            "dev accuracy, ours",
            "published",
            "train accuracy, ours",
            "published",
            "dev loss, ours",
            "published",
        ],
        rows,
    )
    figures = entry["figures"]
    report.text(
        f"Ours at the best step, {entry['training']['best_step']:,}: dev accuracy {figures['accuracy']:.4f} (95 % "
        f"interval {_interval(figures, 'accuracy')}) on {figures['count']:,} utterances. Of the RNN baselines the "
        f"report says: {PUBLISHED_BASELINES}."
    )
    lines: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {"accuracy": {}, "loss": {}}
    for name, key in (("dev accuracy", "accuracy"), ("train accuracy", "train_accuracy"), ("dev loss", "loss")):
        scale = 100 if "accuracy" in name else 1
        side = name.partition(" ")[0]
        group = lines["accuracy" if scale == 100 else "loss"]
        points = [(epoch, scale * found[key]) for epoch, found in ours.items() if key in found]
        group[f"{side}, ours"] = [x for x, _ in points], [y for _, y in points]
        group[f"{side}, published"] = list(theirs), [float(value) for value in PUBLISHED_INTENT[name]]
    report.figures(
        {
            f"intent-{key}": (
                line_figure(
                    group,
                    name=f"intent-{key}",
                    description=f"Intent, {key} by epoch: {_ends(group)}.",
                    title="accuracy in %" if key == "accuracy" else "dev loss",
                    x="epoch",
                ),
                f"Intent: {key} by epoch, ours and published.",
            )
            for key, group in lines.items()
        }
    )


def _ends(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    return "; ".join(f"{name} {ys[-1]:.4g} at epoch {xs[-1]:g}" for name, (xs, ys) in lines.items() if len(xs))


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
        "several times; compare this one with the published figures."
    )
    rows: Rows = [
        [_figure(key), published[key], figures.get(key), _interval(figures, key), figures.get(f"{key}_all_pieces")]
        for key in ("token_accuracy", "precision", "recall", "f1")
    ]
    rows.append(["loss", published["loss"], figures.get("loss"), None, None])
    rows += [
        [name, None, figures.get(key), _interval(figures, key), None]
        for name, key in (
            ("strict precision", "precision_strict"),
            ("strict recall", "recall_strict"),
            ("strict F1", "f1_strict"),
            ("sentence accuracy", "sentence_accuracy"),
        )
    ]
    report.table(
        f"Slots of {figures['count']:,} utterances",
        [
            "figure",
            "published",
            "ours, first pieces",
            "95 % interval",
            "ours, all pieces",
        ],
        rows,
    )
    report.text("Strict: only a B- tag begins a slot. The loss is the mean over utterances, of first pieces.")


# Speed and calibration


def _speed(report: Report, results: Results) -> None:
    done = results["results"]
    report.heading("Speed and memory of evaluation")
    published = PUBLISHED["slots"]
    rows: Rows = [["slots, published", "GPU", None, published["seconds"], published["per_second"], None]]
    for part, entry in done.items():
        if "evaluation" in entry:
            found = entry["evaluation"]
            rows.append(
                [
                    NAMES[part],
                    found["device"],
                    f"{entry['dev_count']:,}",
                    f"{found['seconds']:,.2f}",
                    f"{found['per_second']:,.1f}",
                    f"{found['peak_bytes'] / 2**20:,.0f}",
                ]
            )
    report.table(
        "The best checkpoint on the dev examples",
        [
            "part",
            "device",
            "examples",
            "seconds",
            "examples a second",
            "peak MiB",
        ],
        rows,
    )
    report.text(
        "Peak memory is on a CPU that of the whole process, libraries, data and what earlier parts left included; on "
        "a GPU what torch had allocated there."
    )


def _calibration(report: Report, results: Results) -> None:
    report.heading("Calibration")
    report.text(
        "Each run's temperature is fitted on its dev examples. ECE, the expected calibration error, is after it "
        "measured on halves that the temperature was not fitted on. The threshold is the confidence below which it is "
        "better to abstain if so much risk is accepted; coverage is the share that is as sure. The first way of "
        "reading is left out: it has no n-best list whose probabilities could be calibrated."
    )
    done = {
        part: entry for part, entry in results["results"].items() if "calibration" in entry and part != "read-first-way"
    }
    rows: Rows = []
    for part, entry in done.items():
        record = entry["calibration"]
        rows.append(
            [
                NAMES[part],
                record["temperature"],
                record["ece_before"],
                record["ece"],
                f"{record['risk']:g}",
                record["threshold"],
                record["coverage"],
                f"{record['count']:,} {record['unit']}s",
            ]
        )
    report.table(
        "Temperature and threshold",
        [
            "part",
            "temperature",
            "ECE before",
            "ECE after",
            "accepted risk",
            "threshold",
            "coverage",
            "fitted on",
        ],
        rows,
    )
    report.figures(
        {
            f"calibration-{part}": (
                calibration_figure(entry["calibration"], name=f"calibration-{part}", title=NAMES[part]),
                f"Calibration of {NAMES[part]}: how often it is right when it is so sure, and how often it is wrong "
                "when it answers so many.",
            )
            for part, entry in done.items()
        }
    )


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

"""The command line: parse, call, print. Every command is a thin parser over functions that Python users call too."""

from __future__ import annotations

import csv
import errno
import inspect
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from zhaiju import files, threads, ui
from zhaiju.config import TrainSettings, load_settings, plain_type, types_of_settings
from zhaiju.data.encoding import DEFAULT_OVERLAP, DEFAULT_WINDOW
from zhaiju.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    ZhaijuError,
    is_out_of_memory,
    not_installed,
)
from zhaiju.service.limits import LOOPBACK, Settings

if TYPE_CHECKING:
    from zhaiju.corpus.ask import Answer, Searchable
    from zhaiju.corpus.index import Embedding
    from zhaiju.data.examples import QAExample, ReadPrediction
    from zhaiju.data.formats import ReadLog
    from zhaiju.inference.engine import Engine, Predictor
    from zhaiju.modeling.checkpoint import Checkpoint
    from zhaiju.tasks.base import Task
    from zhaiju.tasks.readers import Examples
    from zhaiju.training.profile import Profile

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
AGAIN_SECONDS = 0.02  # until a signal that could not be answered is sent again
NAMED = 5  # ids that a message names before it says how many more there are

app = typer.Typer(
    name="zhaiju",
    help="尋章摘句: answers questions by quoting. Select the paragraph, read the exact span in it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
ContextFile = Annotated[
    Path | None,
    typer.Option(
        "--context", help="The course layout's paragraphs, a JSON list of texts. Default: context.json beside the data."
    ),
]
Window = Annotated[int | None, typer.Option(help="Most tokens of a window. Default: as trained, else 384.")]
Overlap = Annotated[int | None, typer.Option(help="Characters shared by neighbouring windows. Default: as trained.")]
MaxAnswer = Annotated[
    int | None, typer.Option(help="Longest quote in characters; 0: no limit. Default: as trained.", min=0)
]
PrecisionOption = Annotated[
    str, typer.Option(help="fp32, bf16, or int8 where a quantised graph was exported (see zhaiju export).")
]
BackendOption = Annotated[
    str, typer.Option(help="auto, torch, onnx or openvino: what computes. An exported graph runs in the last two.")
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        help="A run, a checkpoint directory or a hub id that selects paragraphs. Default: words alone rank them."
    ),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of a batch, padding included. Default: 8192 on a GPU, else 512 a CPU thread.", min=1),
]
Split = Annotated[
    str | None, typer.Option(help="intent: which part of a CLINC150 file: train, val or test. Default: test.")
]
Bio = Annotated[str, typer.Option(help="slots: a malformed tag is an error (strict), or read as B- (repair).")]
PartRows = Annotated[
    int | None,
    typer.Option(help="Write a folder of files with this many rows each. Default where -o ends with /: 1000.", min=1),
]
PartFormat = Annotated[str | None, typer.Option("--format", help="Of these files: parquet or jsonl. Default: parquet.")]
On = Annotated[
    str, typer.Option(help="Where they are made: local, or ray (the cluster at RAY_ADDRESS, else one started here).")
]
SkipFaulty = Annotated[bool, typer.Option("--skip-faulty", help="Leave faulty rows out, counted, instead of stopping.")]


@app.command(epilog='Example: zhaiju ask "誰建造了這座橋？" notes/ report.pdf')
def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question. Leave it out to ask one after another.", show_default=False)
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Documents and folders of them: text, Markdown, HTML, PDF, DOCX, a JSON list of texts; - is stdin.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[str | None, typer.Option(help="Ask an index made by zhaiju index instead of documents.")] = None,
    reader: Annotated[str, typer.Option(help="starter, a run, a checkpoint directory or a hub id.")] = "starter",
    selector: SelectorOption = None,
    candidates: Annotated[int, typer.Option(help="Paragraphs to select from.", min=1)] = 5,
    number: Annotated[
        int, typer.Option("-n", help="Show this many answers, the runners-up after the best.", min=1)
    ] = 1,
    embedder: Annotated[
        str | None, typer.Option(help="The encoder that the index was made with, if it holds vectors.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer questions by quoting documents.

    Says so where the documents do not seem to hold the answer.
    """
    from zhaiju.data.examples import check_text

    if embedder is not None and index is None:
        raise ConfigError("--embedder is the encoder of an index; name the index with --index")
    asked, places = _question_and_paths(question, paths or [], index)
    if asked is not None:
        check_text(asked, "question")
    elif "-" in places:
        raise ConfigError("stdin cannot hold both documents and questions; give the question: zhaiju ask QUESTION -")
    source = _open_source(places, index, embedder, piped=asked is not None and _is_piped())
    from zhaiju.corpus.ask import load_asker

    asker = load_asker(reader, selector, candidates=candidates)
    if asker.answerer.confidence is None:
        ui.note("this reader and selector were not calibrated for this: nothing is held back")
    if asked is not None:
        _tell(asker.ask(asked, source), number, as_json)
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # what is no UTF-8 is a question refused
    while (line := _next_question()) is not None:
        try:
            check_text(line, "question")
            _tell(asker.ask(line, source), number, as_json)
        except DataError as error:  # a question too long is not the end
            _warn(str(error))


def _question_and_paths(question: str | None, paths: list[str], index: str | None) -> tuple[str | None, list[str]]:
    """The first argument is a path if it names one and no question follows from the rest."""
    if question is None:
        return None, []
    if index is not None:
        if paths:
            raise ConfigError("--index takes the place of paths; give one or the other")
        return question, []
    if not paths and (question == "-" or os.path.exists(question)):
        return None, [question]
    if paths and os.path.exists(question) and all(path == "-" or os.path.exists(path) for path in paths):
        return None, [question, *paths]
    if paths and os.path.exists(question) and not any(map(os.path.exists, paths)):
        raise ConfigError(f"{paths[0]} is no file or folder; the question comes first: zhaiju ask QUESTION PATH…")
    return question, paths


def _open_source(paths: list[str], index: str | None, embedder: str | None, *, piped: bool) -> Searchable:
    """An index, or the paragraphs of documents; those that come through a pipe where none is named."""
    from zhaiju.corpus.ask import Paragraphs
    from zhaiju.corpus.index import Index, is_index

    if index is not None:
        return Index.open(index, embedding=_embedding(embedder))
    from zhaiju.corpus.documents import read_documents

    for name in paths:
        if is_index(name):
            raise ConfigError(f"{name} is an index; ask it with --index {name}")
    paragraphs = []
    if paths or piped:
        with ui.progress("reading documents", None) as advance:
            for found in read_documents(paths or ["-"], warn=_warn):
                paragraphs += found
                advance(1)
    if not paragraphs and paths:
        raise DataError("no text in the documents", file=", ".join(paths))
    if not paragraphs:
        raise ConfigError("no documents named: expected files, folders, - for stdin, or --index")
    return Paragraphs(paragraphs)


def _is_piped() -> bool:
    return sys.stdin is not None and not sys.stdin.isatty()  # None where it was closed


def _warn(message: str) -> None:
    ui.note(ui.visible(f"zhaiju: {' '.join(message.split())}"))


def _embedding(name: str | None) -> Embedding | None:
    if name is None:
        return None
    from zhaiju.corpus.embed import load_embedding

    return load_embedding(name)


def _next_question() -> str | None:
    """The next line that is not blank; None at the end."""
    while True:
        if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
            try:
                line = input("問> ")
            except EOFError:
                print()
                return None
        else:
            line = "" if sys.stdin is None else sys.stdin.readline()
            if not line:
                return None
        if line.strip():
            return line.strip()


def _tell(answer: Answer, number: int, as_json: bool) -> None:
    from zhaiju.corpus.confidence import sentence_around

    if as_json:
        print(ui.json_text(answer.as_dict(number), indent=2 if sys.stdout.isatty() else None))
        return
    out = ui.console()
    if not answer.found:
        text = "文件裡找不到答案。The documents do not seem to hold the answer"
        if answer.threshold is not None and answer.quotes:
            text += f" (confidence {answer.confidence:.0%}, below {answer.threshold:.0%}). The nearest:"
        out.print(text if text.endswith(":") else f"{text}.", style="bold")
    for place, quote in enumerate(answer.quotes[:number]):
        first, last = sentence_around(quote.paragraph.text, quote.start, quote.end)
        out.print(ui.marked(quote.paragraph.text, quote.start, quote.end, first, last))
        sure = f"confidence {answer.confidence:.0%}" if place == 0 else f"score {quote.score:.0%}"
        heading = f", {quote.paragraph.heading}" if quote.paragraph.heading else ""
        out.print(ui.one_line(f"    {quote.source}{heading}, {sure}"), style="dim")


@app.command(epilog="Example: zhaiju index notes/ report.pdf -o notes.index")
def index(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Documents and folders of them.", show_default=False)
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="The index: a folder, or an address such as s3://bucket/notes.")
    ] = "zhaiju.index",
    embedder: Annotated[
        str | None, typer.Option(help="Keep vectors of this encoder too (a directory or hub id), for hybrid search.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Remove a document, or all in a folder; may be given again.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="Where the full-text index is built: local, or ray (the cluster at RAY_ADDRESS).")
    ] = "local",
    show: Annotated[bool, typer.Option("--list", help="List the documents in the index.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep documents in an index on disk, to be asked again and again; run it again to follow their changes.

    Only what is new or changed is read. What has gone from the folders named is removed. A document that cannot be
    read is told of and left as it was; exit code 1 if it was named itself.
    """
    from zhaiju.corpus.documents import find_documents, read_document
    from zhaiju.corpus.index import Index, check_place, exists, is_under, sync

    check_place(on)
    if not paths and not remove and not show:
        raise ConfigError("no documents named: expected files or folders, --remove or --list")
    if paths and "-" in paths:
        raise ConfigError("an index follows files and folders; stdin (-) is neither")
    named = [os.path.abspath(path) for path in paths or []]
    # A folder may have lost its last document; before the first there is nothing to index.
    found = [str(path) for path in find_documents(named, warn=_warn, none_allowed=not paths or exists(output))]
    table = Index.open(output, create=bool(paths), embedding=_embedding(embedder))
    report: dict[str, Any] = {}
    removed: list[str] = []
    failures: list[str] = []
    if remove:
        known = [stored.document for stored in table.documents()]
        for given in remove:
            under = [name for name in known if is_under(name, os.path.abspath(given))]
            if not under:
                raise DataError("is not in the index", file=given)
            removed += under
        removed = list(dict.fromkeys(removed))
        table.commit([], removed)
        report["removed"] = len(removed)
    if paths:

        def failed(document: str, error: ZhaijuError) -> None:
            failures.append(document)
            _warn(str(error))

        with ui.progress("indexing", len(found)) as advance:
            changes = sync(
                table,
                ((path, _digest(path)) for path in found),
                read_document,
                prune_under=named,
                on=on,
                failed=failed,
                progress=lambda document: advance(1),
            )
        changes.removed += len(removed)
        report |= asdict(changes)
    documents = table.documents()
    if show:
        if as_json:
            _print_json([{"document": stored.document, "paragraphs": stored.paragraphs} for stored in documents])
        for stored in [] if as_json else documents:  # no table: it would break long paths
            print(ui.one_line(f"{stored.paragraphs:>6}  {stored.document}"))
    else:
        _print_figures(output, report | {"documents": len(documents), "paragraphs": table.count}, as_json)
    if set(failures) & set(named):
        raise typer.Exit(1)


def _digest(path: str) -> str:
    try:
        return files.fingerprint(path)
    except OSError:
        return ""  # reading it will say why


@app.command(epilog="Example: zhaiju check data/train.json --context data/context.json")
def check(
    data: Annotated[list[Path], typer.Argument(help="Data files; several are also searched for shared paragraphs.")],
    context: ContextFile = None,
    encoder: Annotated[str, typer.Option(help="Whose tokenizer to check with.")] = "starter",
    window: Annotated[int, typer.Option(help="Most tokens of a window.")] = DEFAULT_WINDOW,
    overlap: Annotated[int, typer.Option(help="Characters shared by neighbouring windows.")] = DEFAULT_OVERLAP,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if anything is wrong.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a data set, row by row."""
    from zhaiju.data.check import check_files
    from zhaiju.data.check_labelled import check_labelled
    from zhaiju.data.labelled import kind_of
    from zhaiju.modeling.checkpoint import load_encoding

    utterances = {place: check_labelled(path) for place, path in enumerate(data) if kind_of(path) is not None}
    with ui.progress("checking", None) as advance:
        questions = check_files(
            [path for place, path in enumerate(data) if place not in utterances],
            context=context,
            encoding=load_encoding(encoder, window=window, overlap=overlap),
            progress=advance,
        )
    rest = iter(questions)
    reports: list[Any] = [utterances.get(place) or next(rest) for place in range(len(data))]  # as they were given
    if as_json:
        values = [report.to_json() for report in reports]
        _print_json(values[0] if len(values) == 1 else {"files": values})
    else:
        for report in reports:
            if hasattr(report, "kind"):
                _print_utterances(report)
            else:
                _print_report(report)
    if strict and not all(report.healthy for report in reports):
        raise typer.Exit(1)


def _print_utterances(report: Any) -> None:
    for line in report.faults:
        print(ui.visible(line))
    for line in report.conflicting:
        print(ui.visible(f"{report.file}: labelled in several ways: {line}"))
    counts = list(report.classes.items())
    shown = {
        "for": report.kind,
        "utterances": report.rows,
        "… labelled": report.labelled,
        "faulty rows": len(report.faults),
        "repeated utterances": report.repeated,
        "… labelled in several ways": len(report.conflicting),
        "classes": len(counts),
    }
    if 0 < len(counts) <= 2 * NAMED:
        shown["… each"] = ", ".join(f"{name} {count}" for name, count in counts)
    elif counts:
        shown["… most frequent"] = ", ".join(f"{name} {count}" for name, count in counts[:NAMED])
        shown["… least frequent"] = ", ".join(f"{name} {count}" for name, count in counts[-NAMED:])
    if report.kind == "slots":
        shown["malformed I- tags"] = report.malformed_tags
        shown["blank words"] = report.blank_words
    ui.table(report.file, ["", ""], [[name, ui.visible(str(value))] for name, value in shown.items()])


def _print_report(report: Any) -> None:
    faults = [*report.faults, *(f"{report.file}: {fault}" for fault in report.misaligned)]
    for line in [*faults, *(f"{report.file}: lost to windows: {lost}" for lost in report.lost)]:
        print(ui.visible(" ".join(line.split())))
    shown = {
        "questions": report.rows,
        "different paragraphs": report.contexts,
        "faulty rows": len(report.faults),
        "answers": report.answers_total,
        "… misaligned": report.answers_misaligned,
        "… longer than a window": report.answers_too_long,
        "… lost between windows": report.answers_lost,
        "… beginning or ending inside a token": report.answers_inside_tokens,
        "… whose text stands more than once": report.answers_repeated,
        "… longer than 50 characters": report.answers_over_limit,
    }
    if report.unknown_tokens is not None:
        shown["unknown tokens"] = f"{report.unknown_tokens:.3%} {' '.join(report.unknown_examples)}".strip()
    for name, count in report.shared_contexts.items():
        shown[f"answered paragraphs also in {name}"] = count
    ui.table(report.file, ["", ""], [[name, str(value)] for name, value in shown.items()])


@app.command(epilog='Example: zhaiju tokens "兩河文明 30000元" --encoder bert-base-chinese')
def tokens(
    text: Annotated[str, typer.Argument(help="A text.")],
    encoder: Annotated[str, typer.Option(help="Whose tokenizer.")] = "starter",
    script: Annotated[
        str | None, typer.Option(help="Script that the encoder sees. Default: the encoder's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the tokenizer does: each token beside its characters and offsets."""
    from zhaiju.data.examples import check_text
    from zhaiju.modeling.checkpoint import load_encoding

    check_text(text, "text")
    encoding = load_encoding(encoder, script=script)
    found = encoding.tokens(text)
    names = encoding.tokenizer.convert_ids_to_tokens(found.ids.tolist())
    rows = [
        {
            "index": index,
            "token": name,
            "id": int(number),
            "start": int(start),
            "end": int(end),
            "text": text[start:end],
        }
        for index, (name, number, start, end) in enumerate(zip(names, found.ids, found.starts, found.ends, strict=True))
    ]
    if as_json:
        _print_json(rows)
        return
    columns = ["index", "token", "id", "start", "end", "text"]
    ui.table("", columns, [[ui.visible(str(row[column])) for column in columns] for row in rows])


def train(
    task: Annotated[str, typer.Argument(help="Its name, such as select, read, intent or slots.")],
    *,
    train: Annotated[list[Path], typer.Option("--train", help="Training data; may be given again.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run's directory; an unfinished run there goes on.")
    ] = None,
    dev: Annotated[list[Path] | None, typer.Option("--dev", help="Dev data. Default: a seeded tenth held out.")] = None,
    context: ContextFile = None,
    config: Annotated[Path | None, typer.Option(help="Settings as TOML; flags override it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove a run that is there already.")] = False,
    profile: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Only take the first N steps and say where their time goes; no run is left."
        ),
    ] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Train a task; leave a run directory with the best and the last checkpoint."""
    from zhaiju.tasks import known

    known(task)
    chosen = load_settings(config, settings)
    if output is None and profile is None:
        raise ConfigError("no directory for the run: name one with -o")
    from zhaiju.training.processes import is_first

    with nullcontext() if is_first() else ui.silent():
        _train(task, chosen, train, dev, output, context=context, overwrite=overwrite, profile=profile, as_json=as_json)


def _train(
    task: str,
    settings: TrainSettings,
    train: list[Path],
    dev: list[Path] | None,
    output: Path | None,
    *,
    context: Path | None,
    overwrite: bool,
    profile: int | None,
    as_json: bool,
) -> None:
    from zhaiju.training import run as training
    from zhaiju.training.loop import Evaluated, Event, Started, Stepped

    data = training.load_train_data(
        task,
        train,
        dev or (),
        context=context,
        seed=settings.split_seed,
        bio=settings.bio,
        skip_faulty=settings.skip_faulty,
    )
    _report_log(data.log)
    ui.note(f"{task}: {len(data.train)} training and {len(data.dev)} dev examples")
    if output is None or profile is not None:
        from zhaiju.training.profile import profile as take_apart

        _print_profile(take_apart(task, settings, data, profile or 1), as_json)
        return
    with ui.progress("training", None) as advance:

        def on_event(event: Event) -> None:
            if isinstance(event, Started):
                if event.step:
                    ui.note(f"going on after step {event.step}")
                advance(event.step, total=event.steps)
            elif isinstance(event, Stepped):
                advance(1, note=f"loss {event.loss:.3f}, {event.tokens / event.seconds:,.0f} tokens/s")
            elif isinstance(event, Evaluated):
                ui.note(f"step {event.step}: {_shown(event.metrics)}{' (best so far)' if event.best else ''}")

        result = training.train(task, settings, data, output, overwrite=overwrite, on_event=on_event)
    values = {
        "run": str(result.run),
        "finished": result.finished,
        "step": result.step,
        "best_step": result.best_step,
    }
    if as_json:
        _print_json(values | result.metrics)
    elif result.finished:
        ui.table(f"{output}, best step {result.best_step} of {result.step}", ["", ""], ui.figures(result.metrics))
    if not result.finished:
        ui.note(f"stopped after step {result.step}, saved; the same command goes on from there")
        raise typer.Exit(130)


def _print_profile(found: Profile, as_json: bool) -> None:
    if as_json:
        _print_json(found.to_json())
        return
    whole = sum(found.parts.values())
    rows = [[name, f"{value:.1f}", f"{value / whole:.1%}"] for name, value in found.parts.items()]
    title = f"{found.steps} steps, {found.precision}, {found.threads} threads"
    ui.table(title, ["part of a step", "ms", "share"], [*rows, ["all", f"{whole:.1f}", "100.0%"]])
    ui.table("operators", ["", "share"], [[name, f"{share:.1%}"] for name, share in found.operators.items()])
    shape = " x ".join(map(str, found.matmul_shape))
    speeds = {
        "items/s": f"{found.items_per_second:.1f}",
        "tokens/s": f"{found.tokens_per_second:,.0f}",
        "padding": f"{found.padding:.1%}",
        "GFLOP/s": f"{found.flops / 1e9:.1f}",
        f"GFLOP/s of {shape} alone": f"{found.matmul_flops / 1e9:.1f}",
        "reached of that": f"{found.roofline:.1%}",
    }
    ui.table("speed", ["", ""], [[name, value] for name, value in speeds.items()])


def _shown(metrics: Mapping[str, float]) -> str:
    from zhaiju.tasks import TASKS

    figures = dict.fromkeys(name for task in TASKS.values() for name in task.figures)
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in figures if name in metrics)


def _with_settings(command: Any) -> Any:
    """Replace `**settings` in a command's signature by one flag for each setting, its help from the setting."""
    signature = inspect.signature(command)
    hints = types_of_settings()
    own = get_type_hints(command, include_extras=True)
    parameters = [
        value.replace(annotation=own[value.name])
        for value in signature.parameters.values()
        if value.kind is not value.VAR_KEYWORD
    ]
    annotations = {value.name: value.annotation for value in parameters}
    for entry in fields(TrainSettings):
        kind, _ = plain_type(hints[entry.name])
        flag = f"--{entry.name.replace('_', '-')}"
        choices = entry.metadata["choices"]
        text = entry.metadata["doc"]
        if choices:
            text += f" One of {', '.join(choices)}."
        if kind is not bool:
            text += f" Default: {entry.default}." if entry.default is not None else ""
        declared = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        annotation: Any = Annotated[kind | None, typer.Option(declared, help=text, show_default=False)]
        parameters.append(
            inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
        annotations[entry.name] = annotation
    command.__signature__ = signature.replace(parameters=parameters)
    command.__annotations__ = annotations | {"return": None}
    return command


app.command(epilog="Example: zhaiju train read --scratch --train train.json --context context.json -o runs/read")(
    _with_settings(train)
)


@app.command(epilog="Example: zhaiju evaluate runs/read public.json --context context.json")
def evaluate(
    what: Annotated[str, typer.Argument(help="starter, a run, a checkpoint directory or a hub id.")],
    data: Annotated[Path, typer.Argument(help="Labelled data.")],
    context: ContextFile = None,
    task: Annotated[str | None, typer.Option(help="Default: the checkpoint's own, else read.")] = None,
    window: Window = None,
    overlap: Overlap = None,
    max_answer_chars: MaxAnswer = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_tokens: BatchTokens = None,
    split: Split = None,
    bio: Bio = "repair",
    skip_faulty: SkipFaulty = False,
    details: Annotated[Path | None, typer.Option(help="Write each prediction with its outcome, as JSONL.")] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="intent, slots: also each class, and what is taken for what.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on labelled data. read is given the right paragraph.

    The starter selects (--task select) as answer and ask do where no selector is named: by words.
    """
    from zhaiju.corpus.features import ranking
    from zhaiju.modeling.checkpoint import STARTER
    from zhaiju.tasks import make_task
    from zhaiju.training import evaluate as evaluation

    _check_output(details)
    by_words = (what, task) == (STARTER, "select")
    name = "select" if by_words else _task_name(what, task)
    examples = _open_examples(name, data, context, skip_faulty, split=split or "test", bio=bio)
    predictor: Predictor
    if by_words:
        predictor, chosen, encoding, threshold = ranking(), make_task(name), None, None
    else:
        predictor, checkpoint = _load(what, name, window, overlap, backend, precision, batch_tokens)
        encoding, threshold = checkpoint.encoding, checkpoint.threshold
        chosen = checkpoint.task(name, max_answer_chars=max_answer_chars)
    tally = evaluation.Tally(chosen, encoding)
    with (
        _reading(data, examples),
        ui.progress("evaluating", examples.count) as advance,
        _writing_details(details, outcomes=bool(chosen.outcomes)) as write,
    ):
        for example, prediction in evaluation.together(partial(predictor.predict, chosen, progress=advance), examples):
            write(prediction, tally.add(example, prediction))
        report: dict[str, Any] = tally.report(threshold) | tally.outcomes()
    shown = chosen.tables(tally.examples, tally.predictions) if tables else {}
    if as_json:
        _print_json(report | shown)
        return
    _print_figures(f"{what} on {data}", report, as_json=False)
    for title, rows in shown.items():
        print()
        _print_rows(title, rows)


@app.command(epilog="Example: zhaiju predict runs/read public.json --context context.json -o predictions.json")
def predict(
    what: Annotated[str, typer.Argument(help="starter, a run, a checkpoint directory or a hub id.")],
    data: Annotated[str, typer.Argument(help="Questions, labelled or not; with parts also a folder, or an address.")],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help=".json {id: prediction}, .csv, .jsonl with all details; out/ or s3://…: parts."
        ),
    ],
    context: ContextFile = None,
    task: Annotated[str | None, typer.Option(help="Default: the checkpoint's own, else read.")] = None,
    window: Window = None,
    overlap: Overlap = None,
    max_answer_chars: MaxAnswer = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_tokens: BatchTokens = None,
    split: Split = None,
    bio: Bio = "repair",
    abstain: Annotated[
        bool,
        typer.Option(
            "--abstain",
            help="Say nothing where the confidence is below the checkpoint's threshold: an empty prediction, no slot.",
        ),
    ] = False,
    skip_faulty: SkipFaulty = False,
    part_rows: PartRows = None,
    part_format: PartFormat = None,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Predict and write the predictions.

    select gives the index (or name) of a paragraph, read a quote, intent a class, slots the tags joined by spaces.
    Parts (-o out/, --part-rows, --on ray) go on where they were killed.
    """
    if _in_parts(output, part_rows, part_format, on):
        if abstain:
            raise ConfigError("--abstain is for a single file; parts have the score of every row")
        _answer_in_parts(
            data, output, part_rows, part_format, on, as_json,
            task=_task_name(what, task), model=what, context=context, window=window, overlap=overlap,
            max_answer_chars=max_answer_chars, backend=backend, precision=precision, batch_tokens=batch_tokens,
            split=split or "test", bio=_bio(bio), skip_faulty=skip_faulty,
        )  # fmt: skip
        return
    source, target = Path(data), Path(output)
    _check_output(target)
    name = _task_name(what, task)
    examples = _open_examples(name, source, context, skip_faulty, split=split or "test", bio=bio)
    engine, checkpoint = _load(what, name, window, overlap, backend, precision, batch_tokens)
    chosen = checkpoint.task(name, max_answer_chars=max_answer_chars)
    threshold = _threshold(checkpoint) if abstain else None
    count = abstained = 0
    with (
        _reading(source, examples),
        ui.progress("predicting", examples.count) as advance,
        _writing_predictions(target, chosen, threshold) as write,
    ):
        for prediction in engine.predict(chosen, examples, progress=advance):
            write(prediction)
            count += 1
            abstained += threshold is not None and chosen.confidence(prediction) < threshold
    report: dict[str, Any] = {"count": count}
    if threshold is not None:
        report |= {"threshold": threshold, "abstained": abstained}
    _print_figures(output, report, as_json)


def _threshold(checkpoint: Checkpoint) -> float:
    threshold = checkpoint.threshold
    if threshold is None:
        found = "no threshold keeps the risk" if checkpoint.meta.calibration else "it was not calibrated"
        raise ConfigError(f"{checkpoint.where} has no threshold to abstain by: {found}; see zhaiju calibrate --risk")
    return threshold


@app.command(
    epilog="Example: zhaiju answer context.json private.json --selector runs/select --reader runs/read -o out.json"
)
def answer(
    context: Annotated[str, typer.Argument(help="The paragraphs, a JSON list of texts.")],
    questions: Annotated[
        str,
        typer.Argument(help="Questions with their candidate paragraphs; with parts also a folder, or an address."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help=".json {id: answer}, .csv, .jsonl with all details; out/ or s3://…: parts."
        ),
    ],
    reader: Annotated[str, typer.Option(help="starter, a run, a checkpoint directory or a hub id.")] = "starter",
    selector: SelectorOption = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Read only the likeliest paragraph (k = 1, λ = 0).")
    ] = False,
    fit: Annotated[
        Path | None,
        typer.Option(help="Fit k and λ on these labelled questions first, and keep them with the reader."),
    ] = None,
    k: Annotated[int | None, typer.Option(help="Paragraphs to read. Default: as fitted, else 1.", min=1)] = None,
    prefilter: Annotated[
        int | None, typer.Option(help="Have the selector score only this many, by their words. Default: all.", min=1)
    ] = None,
    certain: Annotated[
        float | None,
        typer.Option(
            help="Have it score two first, by their words, and no more where one is at least this likely, 0.5 to 1.",
            min=0.5,
            max=1,
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="λ, weight of the paragraph's log-probability. Default: as fitted, else 0."),
    ] = None,
    window: Window = None,
    overlap: Overlap = None,
    max_answer_chars: MaxAnswer = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_tokens: BatchTokens = None,
    skip_faulty: SkipFaulty = False,
    details: Annotated[
        Path | None, typer.Option(help="Write each answer with its source and outcome, as JSONL.")
    ] = None,
    part_rows: PartRows = None,
    part_format: PartFormat = None,
    on: On = "local",
    show: Annotated[int, typer.Option(help="Show this many answers, highlighted in their paragraphs.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Select a paragraph, read the answer in it, and write the answers. Labelled questions are also scored.

    Not where parts are written (-o out/, --part-rows, --on ray), which go on where they were killed: see zhaiju score.
    """
    from zhaiju.corpus.joined import join_up
    from zhaiju.inference.answer import Shortcuts, save_joint
    from zhaiju.training import evaluate as evaluation

    if pipeline and (fit or k is not None or weight is not None):
        raise ConfigError("--pipeline is k = 1 and λ = 0; leave --fit, --k and --weight out")
    if fit and reader == "starter":
        raise ConfigError("the starter belongs to the package, with what was fitted for it; leave --fit out")
    shortcuts = Shortcuts(prefilter, certain)
    if shortcuts != Shortcuts() and selector is None:
        raise ConfigError("--prefilter and --certain spare a trained selector work; name one with --selector")
    if _in_parts(output, part_rows, part_format, on):
        if fit is not None or details is not None or show:
            raise ConfigError("--fit, --details and --show are for a single file; leave them out")
        _answer_in_parts(
            questions, output, part_rows, part_format, on, as_json,
            task="answer", model=reader, selector=selector, context=context, pipeline=pipeline, k=k, weight=weight,
            prefilter=prefilter, certain=certain, window=window, overlap=overlap, max_answer_chars=max_answer_chars,
            backend=backend, precision=precision, batch_tokens=batch_tokens, skip_faulty=skip_faulty,
        )  # fmt: skip
        return
    source, target, paragraphs = Path(questions), Path(output), Path(context)
    _check_output(target, details)
    examples = _open_examples("read", source, paragraphs, skip_faulty)
    pair = join_up(
        lambda what, task: _load(what, task, window, overlap, backend, precision, batch_tokens),
        reader,
        selector,
        pipeline=pipeline,
        refit=fit is not None,
        shortcuts=shortcuts,
        max_answer_chars=max_answer_chars,
    )
    answerer = pair.answerer
    if fit is not None:
        labelled = _read_examples("read", fit, paragraphs, skip_faulty)
        with _reading(fit), ui.progress("fitting k and λ", len(labelled)) as advance:
            joint, grid = answerer.fit(labelled, progress=advance)
        best = next(entry for entry in grid if (entry["k"], entry["weight"]) == (joint.k, joint.weight))
        about = {
            "fitted_on": fit.name,
            "count": len(labelled),
            "em": best["em"],
            "f1": best["f1"],
            "pipeline_em": grid[0]["em"],
        }
        kept = save_joint(*pair.where, joint, about)
        ui.note(
            f"k {joint.k}, λ {joint.weight:g}: EM {best['em']:.4f} on {fit}, "
            f"pipeline {grid[0]['em']:.4f}; kept in {kept}"
        )
    elif pair.selector is not None and not pipeline and not pair.fitted and k is None and weight is None:
        ui.note("k and λ were not fitted for this pair (see --fit); the selector alone decides")
    pair.weigh(k, weight)
    task = answerer.read_task
    tally = evaluation.Tally(task, pair.reader.encoding)
    count = right = 0
    shown: list[tuple[QAExample, ReadPrediction]] = []
    with (
        _reading(source, examples),
        ui.progress("answering", examples.count) as advance,
        _writing_details(details, outcomes=examples.labelled) as write_details,
        _writing_predictions(target, task) as write,
    ):
        for example, prediction in evaluation.together(partial(answerer.predict, progress=advance), examples):
            kind = None
            if task.missing(example) is None:
                kind = tally.add(example, prediction)
                right += prediction.index == example.relevant
            write(prediction)
            write_details(prediction, kind)
            count += 1
            if len(shown) < show:
                shown.append((example, prediction))
    report: dict[str, Any] = {"count": count, "k": answerer.joint.k, "weight": answerer.joint.weight}
    if shortcuts != Shortcuts():
        spared = answerer.spared
        report["selector_scored"] = spared.scored / max(spared.paragraphs, 1)
        if spared.labelled:
            report["right_ruled_out"] = spared.lost / spared.labelled
    if known := len(tally.examples):
        if known < count:
            ui.note(f"{known} of {count} questions are labelled; the figures are theirs")
        report |= task.score(tally.examples, tally.predictions)
        report |= {"accuracy": right / known} | tally.outcomes()
    for example, prediction in shown:
        _show_answer(example, prediction)
    _print_figures(output, report, as_json)


@app.command(epilog="Example: zhaiju export runs/read -o exported --precision int8 --data public.json")
def export(
    what: Annotated[str, typer.Argument(help="starter, a run, a checkpoint directory or a hub id.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The directory to write; it may not exist.")],
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="int8: write a quantised graph too; bf16: make sure that it does. May be given again; fp32 is always "
            "written."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled data that bf16 and int8 are judged on.")] = None,
    context: ContextFile = None,
    task: Annotated[str | None, typer.Option(help="Default: the checkpoint's own, else read.")] = None,
    split: Split = None,
    bio: Bio = "repair",
    skip_faulty: SkipFaulty = False,
    as_json: AsJson = False,
) -> None:
    """Write ONNX graphs that run without PyTorch, if they do what the checkpoint does.

    In fp32 the logits must agree within 1e-4; in bf16 and int8 no figure may fall by more than 0.5 points. The
    directory runs in zhaiju, in plain onnxruntime, in OpenVINO and in transformers.js.
    """
    from zhaiju.inference.backends import PRECISIONS

    for one in precision or ():
        if one not in PRECISIONS:
            raise ConfigError(f"precision {one!r} is not one of {', '.join(PRECISIONS)}")
    name = _task_name(what, task)
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output} exists; name another -o, or remove it")
    wanted = ["fp32", *(one for one in dict.fromkeys(precision or ()) if one != "fp32")]
    if len(wanted) > 1 and data is None:
        raise ConfigError(f"{' and '.join(wanted[1:])} must be judged on labelled data; name some with --data")
    _check_output(output)
    examples = []
    if data is not None:
        examples = _read_examples(name, data, context, skip_faulty, split=split or "test", bio=bio)
    from zhaiju.inference.export import export as export_checkpoint
    from zhaiju.modeling.checkpoint import load

    checkpoint = load(what, name, exported=False)
    with _reading(data or Path()), ui.progress("exporting", None) as advance:
        found = export_checkpoint(checkpoint, name, output, precisions=wanted, examples=examples, progress=advance)
    rows: list[dict[str, Any]] = []
    for result in found:
        row: dict[str, Any] = {"precision": result.precision, "backend": result.backend, "examples": result.count}
        if result.difference is not None:
            row["logits_differ_by"] = result.difference
        for figure, before in result.before.items():
            row |= {f"{figure}_fp32": before, figure: result.after[figure]}
        rows.append(row)
    if as_json:
        _print_json({"directory": str(output), "verified": rows})
        return
    for row in rows:
        ui.table(f"{output}, {row['precision']}", ["", ""], ui.figures(row))


@app.command(epilog="Example: zhaiju score public.json predictions.json")
def score(
    gold: Annotated[Path, typer.Argument(help="Labelled data.")],
    predictions: Annotated[
        Path,
        typer.Argument(help="What predict or answer wrote: JSON, JSONL, or CSV with id and answer, intent or tags."),
    ],
    task: Annotated[
        str | None, typer.Option(help="Its name, such as select or read. Default: what the files look like.")
    ] = None,
    split: Split = None,
    bio: Bio = "repair",
    as_json: AsJson = False,
) -> None:
    """Score predictions against gold: {'count': …, 'em': …, 'f1': …} by the course's definition.

    Or accuracy for chosen paragraphs and intents, seqeval's F1 for slots.
    """
    from zhaiju.tasks import known, metrics, task_of

    values = _read_predictions(predictions)
    scored = task_of(gold, values) if task is None else known(task)
    right = scored.gold(gold, split=split or "test", bio=_bio(bio))
    with _reading(predictions):
        report = scored.score_values(right, values)
    segmenter = {"segmenter": metrics.segmenter()} if scored.outcomes else {}
    primary = ["count", *scored.figures]
    lost = metrics.missing(right, values)
    if lost:
        ui.note(
            f"{len(lost)} of {report['count']} ids have no prediction and score 0: {', '.join(lost[:NAMED])}"
            f"{' …' if len(lost) > NAMED else ''}"
        )
    if as_json:
        _print_json(report | segmenter | {"missing_ids": lost})
    else:
        print({name: report[name] for name in primary})
        others = ", ".join(f"{name} {value:.4f}" for name, value in report.items() if name not in (*primary, "missing"))
        ui.note(others + "".join(f"; words cut by {name}" for name in segmenter.values()))


def _bio(value: str) -> Any:
    if value not in ("strict", "repair"):
        raise ConfigError(f"bio {value!r} is not one of strict, repair")
    return value


@app.command(epilog="Example: zhaiju calibrate runs/read public.json --context context.json")
def calibrate(
    what: Annotated[str, typer.Argument(help="A run or a checkpoint directory; what is fitted is kept in it.")],
    data: Annotated[Path, typer.Argument(help="Labelled data, best not what it was trained on.")],
    context: ContextFile = None,
    task: Annotated[str | None, typer.Option(help="Default: the checkpoint's own, else read.")] = None,
    risk: Annotated[
        float, typer.Option(help="Share of wrong predictions to accept; sets the threshold.", min=0, max=1)
    ] = 0.05,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Draw it here: NAME gives NAME.png and NAME.svg.")
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_tokens: BatchTokens = None,
    split: Annotated[
        str | None, typer.Option(help="intent: which part of a CLINC150 file: train, val or test. Default: val.")
    ] = None,
    bio: Bio = "repair",
    skip_faulty: SkipFaulty = False,
    as_json: AsJson = False,
) -> None:
    """Make confidences mean what they say: fit a temperature, and the threshold of abstention."""
    from zhaiju.inference.calibrate import calibrate as fit
    from zhaiju.inference.calibrate import calibration_record
    from zhaiju.modeling.checkpoint import resolve, save_calibration

    name = _task_name(what, task)
    if what == "starter":
        raise ConfigError("the starter belongs to the package; copy its directory, and calibrate the copy")
    if not Path(resolve(what)).is_dir():
        raise ConfigError(f"{what} is not a directory, so nothing can be kept with it; download it to one")
    _check_output(*([output.with_name(output.name + suffix) for suffix in (".png", ".svg")] if output else []))
    examples = _read_examples(name, data, context, skip_faulty, split=split or "val", bio=bio)
    engine, checkpoint = _load(what, name, None, None, backend, precision, batch_tokens)
    with _reading(data), ui.progress("calibrating", len(examples)) as advance:
        found, before, after = fit(engine, checkpoint.task(name), examples, risk=risk, progress=advance)
    kept = save_calibration(checkpoint.where, found.to_json())
    ui.note(f"kept in {kept}")
    if output is not None:
        from zhaiju.training.figures import draw_calibration

        for path in draw_calibration(output, calibration_record(found, before, after)):
            ui.note(f"wrote {path}")
    _print_figures(f"{what} on {data}", found.to_json(), as_json)


@app.command(epilog="Example: zhaiju curves runs/read runs/read-scratch -o curves")
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, finished or not.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Directory for curves.png, curves.svg and curves.html. Default: the run."),
    ] = None,
    title: Annotated[list[str] | None, typer.Option(help="A run's name in the picture; one for each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw scores, loss and learning rate over the steps, the best step marked."""
    from zhaiju.training.curves import draw_curves

    if title and len(title) != len(runs):
        raise ConfigError(f"{len(title)} titles for {len(runs)} runs; give one for each")
    if output is None and len(runs) > 1:
        raise ConfigError("several runs: say with -o where to draw them")
    written = draw_curves(runs, output or runs[0], titles=title or None)
    if as_json:
        _print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            print(path)


@app.command(epilog="Example: zhaiju compare runs/pretrained runs/scratch")
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs to compare with the first one.")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled data to judge them on. Default: what each finished run left.")
    ] = None,
    context: ContextFile = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_tokens: BatchTokens = None,
    split: Split = None,
    bio: Bio = "repair",
    as_json: AsJson = False,
) -> None:
    """Table runs on the same examples: 95 % bootstrap intervals, and a paired test against the first one."""
    from zhaiju.training.compare import Outcomes, load_outcomes
    from zhaiju.training.compare import compare as tabulate
    from zhaiju.training.names import distinct

    names = distinct(runs)
    outcomes = []
    for what, name in zip(runs, names, strict=True):
        if data is None:
            outcomes.append(load_outcomes(Path(what), name))
            continue
        task = _task_name(what, None)
        examples = _read_examples(task, data, context, skip_faulty=False, split=split or "test", bio=bio)
        engine, checkpoint = _load(what, task, None, None, backend, precision, batch_tokens)
        chosen = checkpoint.task(task)
        with _reading(data), ui.progress(f"evaluating {name}", len(examples)) as advance:
            judgement = chosen.judge(examples, list(engine.predict(chosen, examples, progress=advance)))
        outcomes.append(Outcomes(name, task, tuple(example.id for example in examples), judgement.ratios))
    tables = tabulate(outcomes)
    if as_json:
        _print_json(tables)
        return
    _print_intervals("", tables["figures"], "value")
    if rows := tables["differences"]:
        print()
        _print_intervals(f"against {rows[0]['against']}, {rows[0]['examples']} examples", rows, "difference")


@app.command(epilog="Example: zhaiju reproduce data/course --quick -o reproduction")
def reproduce(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the course files; intent/ and slot/ are looked for in it and beside it.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Runs, results and report; what is there already is not done again.")
    ] = Path("reproduction"),
    recipe: Annotated[
        str, typer.Option(help="What to train: report (the course's own), cpu, quick, or a TOML file.")
    ] = "report",
    quick: Annotated[bool, typer.Option("--quick", help="The recipe quick: a small version in minutes.")] = False,
    first: Annotated[str | None, typer.Option(help="Another first Chinese encoder: a hub id or a directory.")] = None,
    second: Annotated[str | None, typer.Option(help="Another second Chinese encoder.")] = None,
    english: Annotated[str | None, typer.Option(help="Another English encoder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the course report as one experiment, and write report.html and report.md with its tables and figures."""
    from zhaiju.training.loop import Evaluated, Event, Started, Stepped
    from zhaiju.training.recipe import load_recipe
    from zhaiju.training.report import write_report
    from zhaiju.training.reproduce import InterruptedTraining
    from zhaiju.training.reproduce import reproduce as run

    chosen = load_recipe("quick" if quick else recipe).with_encoders(first=first, second=second, english=english)
    with ui.progress("reproducing", None) as advance:
        at = 0

        def on_event(event: Event) -> None:
            nonlocal at
            if isinstance(event, Started):
                advance(event.step - at, total=event.steps)
                at = event.step
            elif isinstance(event, Stepped):
                advance(1, note=f"loss {event.loss:.3f}")
                at = event.step
            elif isinstance(event, Evaluated):
                ui.note(f"  step {event.step}: {_shown(event.metrics)}")

        try:
            results = run(folder, output, chosen, on_part=ui.note, on_event=on_event)
        except InterruptedTraining as error:
            ui.note(f"stopped during {error}, saved; the same command goes on from there")
            raise typer.Exit(130) from None
    written = write_report(output, results)
    if as_json:
        _print_json({"files": [str(path) for path in written], "results": results["results"]})
    else:
        for path in written:
            print(path)


_LIMITS = Settings()


@app.command(epilog="Example: zhaiju serve --index notes.index --uploads --port 8000")
def serve(
    reader: Annotated[str, typer.Option(help="starter, a run, a checkpoint directory or a hub id; none: none.")] = (
        "starter"
    ),
    selector: SelectorOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A run or checkpoint for another task, such as intent or slots; may be given again. Before one that "
            "does not say its task itself stands TASK=."
        ),
    ] = None,
    index: Annotated[str | None, typer.Option(help="The index that is asked where a question has no contexts.")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="The encoder that the index was made with, if it holds vectors.")
    ] = None,
    uploads: Annotated[
        bool,
        typer.Option("--uploads", help="Let clients add and delete documents; the index is made if there is none."),
    ] = False,
    run: Annotated[
        list[Path] | None, typer.Option(help="A run whose learning curves the page shows; may be given again.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. The default is reached from this machine only.")] = (
        LOOPBACK[0]
    ),
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any that is free.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Bearer tokens, one a line, one of which a request must have. Default: ZHAIJU_TOKEN, or none."
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second that a client may make on average.")] = None,
    burst: Annotated[int | None, typer.Option(help="How many at once; default: those of two seconds.")] = None,
    queue: Annotated[int, typer.Option(help="Requests in work or waiting; more are refused.")] = _LIMITS.queue,
    deadline: Annotated[float, typer.Option(help="Seconds that a request may take.")] = _LIMITS.deadline,
    patience: Annotated[
        float, typer.Option(help="Seconds that a client may take to send a request's head, and as many for its body.")
    ] = _LIMITS.patience,
    connections: Annotated[int, typer.Option(help="Connections open at a time; more are refused.")] = (
        _LIMITS.connections
    ),
    window_ms: Annotated[
        float, typer.Option(help="Milliseconds that the first request waits for others to be computed with.")
    ] = _LIMITS.window_ms,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a batch, padding included.", min=1)] = (
        _LIMITS.batch_tokens
    ),
    grace: Annotated[float, typer.Option(help="Seconds that a stop waits for what was accepted.")] = _LIMITS.grace,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = _LIMITS.max_body,
    max_upload: Annotated[int, typer.Option(help="Bytes of a request that adds documents.")] = _LIMITS.max_upload,
    max_question: Annotated[int, typer.Option(help="Characters of a question.")] = _LIMITS.max_question,
    max_text: Annotated[int, typer.Option(help="Characters of an utterance.")] = _LIMITS.max_text,
    max_context: Annotated[int, typer.Option(help="Characters of a paragraph.")] = _LIMITS.max_context,
    max_contexts: Annotated[int, typer.Option(help="Paragraphs of a question.")] = _LIMITS.max_contexts,
    max_batch: Annotated[int, typer.Option(help="Questions or utterances of a batch.")] = _LIMITS.max_batch,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name under which it may be addressed; may be given again. Default: any, or on loopback its."
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call it from a browser; may be given again.")
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Take clients' addresses from a proxy on this machine.")
    ] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log the texts of requests.")] = False,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    streams: Annotated[
        int, typer.Option(help="Batches that are computed side by side, each on its share of the threads.", min=1)
    ] = 1,
) -> None:
    """Answer over HTTP, until Ctrl-C or SIGTERM; what was accepted by then is answered.

    A browser shows a page at / to ask, to see how an answer came about, and to keep documents. Routes: POST /v1/answer,
    /v1/<task> of each task, each also as /batch; POST /v1/tokens; /v1/documents; /v1/runs;
    /v1/capabilities; /healthz, /readyz, /metrics; /openapi.json describes them.
    """
    hosts = tuple(name.lower() for name in allow_host or (LOOPBACK if host in LOOPBACK else ()))
    settings = Settings(
        queue=queue, deadline=deadline, patience=patience, connections=connections, window_ms=window_ms,
        batch_tokens=batch_tokens, grace=grace, max_body=max_body, max_upload=max_upload, max_question=max_question,
        max_text=max_text, max_context=max_context, max_contexts=max_contexts, max_batch=max_batch, uploads=uploads,
        tokens=_tokens(token_file), rate=rate, burst=burst, hosts=hosts, cors=tuple(cors or ()), log_texts=log_texts,
    )  # fmt: skip
    if uploads and index is None:
        raise ConfigError("--uploads needs an index to put documents into; name it with --index")
    make_app, bind, serve_at = _service()
    from zhaiju.corpus.documents import Limits
    from zhaiju.modeling.memory import keep_steady
    from zhaiju.service.documents import Documents
    from zhaiju.service.runs import Runs
    from zhaiju.service.work import load_models

    threads.share(streams)
    keep_steady()
    with bind(host, port) as listening:  # before anything is loaded
        if host not in LOOPBACK and not settings.tokens:
            ui.note(f"anyone who reaches {host} may ask here: no --token-file was given")
        limits = Limits(max_seconds=max(1, round(settings.deadline)))  # nobody waits longer for an upload
        documents = (
            None if index is None else Documents(index, create=uploads, embedding=_embedding(embedder), limits=limits)
        )
        runs = Runs(run) if run else None
        models = load_models(
            None if reader == "none" else reader,
            selector,
            model or (),
            backend=backend,
            precision=precision,
            streams=streams,
        )
        serve_at(
            listening,
            make_app(settings, models, documents, runs=runs),
            grace=settings.grace,
            patience=settings.patience,
            connections=settings.connections,
            behind_proxy=behind_proxy,
            started=lambda address: ui.note(f"serving {', '.join(models.model.parts)} at {address}, Ctrl-C stops"),
        )


@app.command(epilog="Example: zhaiju label notes/ report.pdf -o labels.json")
def label(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Documents and folders of them, and data files, whose questions can be corrected.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file of the SQuAD shape that is written; one there goes on.")
    ],
    context: ContextFile = None,
    suggest: Annotated[
        Path | None, typer.Option(help="A text file of questions, one a line, to be answered; each at a likely place.")
    ] = None,
    reader: Annotated[
        str, typer.Option(help="Proposes answers: starter, a run, a checkpoint directory or a hub id.")
    ] = "starter",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any that is free.", min=0, max=65535)] = 8000,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens, as for zhaiju serve. Default: ZHAIJU_TOKEN, or none.")
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Mark questions and answers in your own paragraphs, on a page in the browser, to train on; Ctrl-C stops.

    Each change is in the file at once. Only this machine reaches the page.
    """
    make_app, bind, serve_at = _service()
    from zhaiju.modeling.memory import keep_steady
    from zhaiju.service.labels import Labels, read_questions, read_sources
    from zhaiju.service.work import load_models

    settings = Settings(tokens=_tokens(token_file), hosts=LOOPBACK)
    _check_output(output)
    keep_steady()
    with bind(LOOPBACK[0], port) as listening:
        sources = read_sources(paths, context=context, warn=_warn)
        if suggest is not None:
            sources.questions += read_questions(suggest, sources.paragraphs)
        with Labels(output, sources) as labels:

            def started(address: str) -> None:
                ui.note(ui.one_line(f"labelling into {output} at {address}/#label, Ctrl-C stops"))
                if open_page:
                    _open_in_browser(f"{address}/#label")

            serve_at(
                listening,
                make_app(settings, load_models(reader, None, backend=backend, precision=precision), labels=labels),
                grace=settings.grace,
                started=started,
            )
            count = labels.count
    ui.note(ui.one_line(f"{count} question{'' if count == 1 else 's'} in {output}"))
    if count:
        ui.note(ui.one_line(f"next: zhaiju train read --train {shlex.quote(str(output))} --encoder NAME -o runs/read"))


def _open_in_browser(address: str) -> None:
    """Without waiting: a browser in a terminal returns when it is left."""
    import threading
    import webbrowser

    def show() -> None:
        if not webbrowser.open(address):
            ui.note(f"no browser found; open {address}")

    threading.Thread(target=show, daemon=True).start()


def _service() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """What makes the application, what binds its address, what serves it there."""
    from zhaiju.service.app import make_app
    from zhaiju.service.server import bind, serve_at

    return make_app, bind, serve_at


def _tokens(path: Path | None) -> tuple[str, ...]:
    """The bearer tokens of a file, or of the environment."""
    if path is None:
        given = os.environ.get("ZHAIJU_TOKEN", "")
        return (given,) if given else ()
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise ConfigError(f"{path} holds no token")
    return tokens


@contextmanager
def _reading(path: Path, examples: Examples | None = None) -> Iterator[None]:
    """Name the file in an error about one of its rows that comes up only when the row is used.

    What was tolerated in examples that can be read once only is told at their end.
    """
    try:
        yield
    except DataError as error:
        raise error.located(file=path) from None
    if examples is not None and examples.count is None:
        _report_log(examples.log)


def _task_name(what: str, task: str | None) -> str:
    from zhaiju.modeling.checkpoint import read_meta, resolve
    from zhaiju.tasks import known

    if task is not None:
        known(task)
    own = read_meta(resolve(what, task)).task
    if None not in (task, own) and task != own:  # said here, before the data is read as the wrong kind
        raise CheckpointError(f"{what} is a checkpoint for {own}, expected one for {task}")
    return task or own or "read"


def _load(
    what: str,
    task: str,
    window: int | None,
    overlap: int | None,
    backend: str,
    precision: str,
    batch_tokens: int | None,
) -> tuple[Engine, Checkpoint]:
    from zhaiju.inference.engine import open_engine

    return open_engine(
        what, task, window=window, overlap=overlap, backend=backend, precision=precision, batch_tokens=batch_tokens
    )


def _read_examples(
    task: str, data: Path, context: Path | None, skip_faulty: bool, *, split: str = "test", bio: str = "repair"
) -> list[Any]:
    from zhaiju.data.formats import ReadLog
    from zhaiju.tasks.readers import read_all

    log = ReadLog(skip_faulty=skip_faulty)
    examples = read_all(task, data, context=context, split=split, bio=_bio(bio), log=log)
    _report_log(log)
    return examples


def _open_examples(
    task: str, data: Path, context: Path | None, skip_faulty: bool, *, split: str = "test", bio: str = "repair"
) -> Examples:
    """The same one by one, however many there are."""
    from zhaiju.tasks.readers import open_examples

    examples = open_examples(task, data, context=context, split=split, bio=_bio(bio), skip_faulty=skip_faulty)
    _report_log(examples.log)
    return examples


def _report_log(log: ReadLog) -> None:
    if log.misaligned:
        ui.note(
            f"{len(log.misaligned)} answers do not stand at their offset, first {log.misaligned[0]}; see zhaiju check"
        )
    if log.repaired:
        ui.note(f"{log.repaired} malformed I- tags read as B- (see --bio)")
    if log.skipped:
        ui.note(f"{len(log.skipped)} faulty rows left out, first {log.skipped[0]}")


def _in_parts(output: str, part_rows: int | None, part_format: str | None, on: str) -> bool:
    """Whether a folder of files is wanted, not one file."""
    wanted = output.endswith("/") or "://" in output or part_rows is not None or on != "local"
    if part_format is not None and not wanted:
        raise ConfigError(f"--format is that of parts; -o {output} is a single file, whose name says it")
    return wanted


def _answer_in_parts(
    data: str,
    output: str,
    part_rows: int | None,
    part_format: str | None,
    on: str,
    as_json: bool,
    *,
    context: str | Path | None,
    **settings: Any,
) -> None:
    from zhaiju import scale

    work = scale.Work(context=None if context is None else str(context), **settings)
    with ExitStack() as stack:

        def begin(rows: int, done: int) -> Callable[[int], None]:
            advance = stack.enter_context(ui.progress("answering", rows))
            advance(done)
            return advance

        report = scale.run(
            work,
            data,
            output,
            part_rows=part_rows or scale.PART_ROWS,
            kind=part_format or scale.FORMATS[0],
            on=on,
            read=_report_log,
            begin=begin,
        )
    _print_figures(output, asdict(report), as_json)


def _check_output(*paths: Path | None) -> None:
    """Refuse at once what could only be refused after all the work."""
    for path in paths:
        if path is not None and path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory, expected a file")


@contextmanager
def _writing_predictions(
    path: Path, task: Task[Any, Any], threshold: float | None = None
) -> Iterator[Callable[[Any], None]]:
    """A function that writes one prediction; the file appears once all are written."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        with files.atomic_open(path) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["id", task.column])
            yield lambda prediction: writer.writerow([prediction.id, task.value(prediction, threshold)])
    elif suffix in (".jsonl", ".ndjson"):
        with _writing_details(path, outcomes=False) as write:
            yield lambda prediction: write(prediction, None)
    else:
        with files.atomic_object(path) as write_entry:
            yield lambda prediction: write_entry(prediction.id, task.value(prediction, threshold))


@contextmanager
def _writing_details(path: Path | None, *, outcomes: bool) -> Iterator[Callable[[Any, str | None], None]]:
    """A function that writes one prediction with all that is known of it, and with its outcome if that is wanted."""
    with nullcontext() if path is None else files.atomic_open(path) as stream:

        def write(prediction: Any, outcome: str | None) -> None:
            if stream is not None:
                values = asdict(prediction) | ({"outcome": outcome} if outcomes else {})
                stream.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


def _read_predictions(path: Path) -> dict[str, str | int]:
    from zhaiju.data.examples import check_text
    from zhaiju.data.formats import JSONL_SUFFIXES
    from zhaiju.data.jsonstream import JSONStream, open_text

    if path.is_dir():
        parts = sorted(part for part in path.iterdir() if re.fullmatch(r"part-\d+\.(parquet|jsonl)", part.name))
        if not (path / "_SUCCESS").is_file():
            raise DataError("is not complete; give the command that writes it again", file=path, expected="_SUCCESS")
        return {row: value for part in parts for row, value in _row_predictions(part)}
    if path.suffix.lower() == ".csv":
        return dict(_csv_predictions(path))
    if path.suffix.lower() in JSONL_SUFFIXES:
        return dict(_row_predictions(path))
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        if cursor.peek() != "{":
            cursor.fail("not a predictions file", cursor.peek() or "nothing", "an object {id: answer}")
        values = cursor.value()
        cursor.end()
    for row, value in values.items():
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            value = values[row] = " ".join(value)  # tags
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError("wrong type", file=path, row=row, found=value, expected="a text, or a paragraph's index")
        if isinstance(value, str):
            try:
                check_text(value, "answer", empty_allowed=True)
            except DataError as error:
                raise error.located(file=path, row=row) from None
    return dict(values)


def _row_predictions(path: Path) -> Iterable[tuple[str, str | int]]:
    """What `predict` wrote with all details: of each row the answer, the tags, the class or the chosen paragraph."""
    from zhaiju.data import parquet
    from zhaiju.data.examples import check_text
    from zhaiju.data.jsonstream import parse_json_line, read_lines
    from zhaiju.tasks import TASKS
    from zhaiju.tasks.select import number_or_name

    # Of the last task first: what reads quotes names the source beside the answer.
    names = list(dict.fromkeys(list(task.columns)[1] for task in reversed(TASKS.values())))
    rows: Iterable[tuple[int, Any]] = (
        enumerate(parquet.rows(path), 1)
        if path.suffix.lower() in parquet.SUFFIXES
        else ((number, parse_json_line(line, path, number)) for number, line in read_lines(path) if line.strip())
    )
    for number, row in rows:
        where = f"line {number}"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise DataError("no prediction", file=path, row=where, field="id", expected="an object with a text id")
        name = next((name for name in names if name in row), None)
        value = row.get(name) if name else None
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            value = " ".join(value)
        if not isinstance(value, str):
            raise DataError("no prediction", file=path, row=where, field=name, expected=" or ".join(names))
        try:
            check_text(value, name or "", empty_allowed=True)
        except DataError as error:
            raise error.located(file=path, row=row["id"]) from None
        yield row["id"], number_or_name(value) if name == "source" else value


def _csv_predictions(path: Path) -> Iterable[tuple[str, str]]:
    from zhaiju.data.jsonstream import open_text, read_text_chunk
    from zhaiju.tasks import TASKS

    columns = list(dict.fromkeys(task.column for task in TASKS.values()))
    with open_text(path) as stream:
        text = read_text_chunk(stream, path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = set(rows.fieldnames or ())
        column = next((name for name in columns if name in names), None)
        if column is None or "id" not in names:
            expected = "id and one of " + ", ".join(columns)
            raise DataError("wrong columns", file=path, found=rows.fieldnames, expected=expected)
        for number, row in enumerate(rows, 2):
            if row["id"] is None or row[column] is None:
                raise DataError("too few columns", file=path, row=f"line {number}", expected=f"id,{column}")
            yield row["id"], row[column]
    except csv.Error as error:
        raise DataError(f"not CSV ({error})", file=path, row=f"line {rows.line_num}") from None


def _show_answer(example: QAExample, prediction: ReadPrediction) -> None:
    out = ui.console()
    out.print(ui.visible(f"{example.id}  {example.question}"), style="bold")
    out.print(ui.quote(example.contexts[prediction.index].text, prediction))
    out.print(
        f"    paragraph {ui.visible(prediction.source)}, characters {prediction.start}–{prediction.end}, "
        f"confidence {prediction.score:.0%}\n"
    )


def _print_intervals(title: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    shown = [
        {"figure": row["figure"], "run": row["run"], name: row[name], "95 %": f"{row['low']:.4f} to {row['high']:.4f}"}
        | ({"p": row["p"]} if "p" in row else {})
        for row in rows
    ]
    _print_rows(title, shown)


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(rows[0]) if rows else []
    ui.table(title, columns, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ui.visible(str(value))


def _print_figures(title: str, report: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(report)
    else:
        ui.table(title, ["", ""], ui.figures(report))


def _print_json(value: Any) -> None:
    print(ui.json_text(value, indent=2))


def main() -> None:
    """Run the command line; every foreseen error is one line on stderr and exit code 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    unraisable, sys.unraisablehook = sys.unraisablehook, partial(_stop_again, sys.unraisablehook)
    threads.prepare()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except (Exception, _Stopped) as error:
        code = _ended(error)
    finally:
        sys.unraisablehook = unraisable
    code = code if isinstance(code, int) else 0
    code = _flush() or code
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # all is said: what libraries do at exit is cut short without a word
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def _ended(error: BaseException) -> int:
    """Say in one line what has ended a command; gives the exit code. What is not foreseen is raised again."""
    if stopped := _stop_in(error):
        _complain("interrupted" if stopped.number == signal.SIGINT else "terminated")
        return 128 + stopped.number
    if isinstance(error, ImportError):
        error = not_installed(error) or error
    if isinstance(error, ZhaijuError):
        return _complain(str(error))
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return 0
    if is_out_of_memory(error):
        return _complain(f"out of memory{_spared(sys.argv[1:])}")
    if isinstance(error, OSError):
        if error.filename is None and error.errno in _NO_ROOM:  # files are named
            return _not_printed(error)
        return _complain(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    if hasattr(error, "format_message"):  # click's errors: a wrong flag, a missing argument
        return _complain(f"{error.format_message()} (see zhaiju --help)")
    raise error


def _stop_in(error: BaseException | None) -> _Stopped | None:
    """The signal that an error comes from: a library that it met while it was imported may have made another of it."""
    while error is not None and not isinstance(error, _Stopped):
        error = error.__cause__ or error.__context__
    return error


def _flush() -> int:
    """Write what was printed and not written yet; gives 2, and says so, where that is refused."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        return _not_printed(error)
    return 0


def _not_printed(error: OSError) -> int:
    _drop_output()
    return _complain(f"cannot write to standard output: {error.strerror or error}")


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _spared(arguments: Sequence[str]) -> str:
    """How the command given takes less memory, to end a sentence with; nothing where it has no such flag."""
    command: Any = typer.main.get_command(app)
    known = command.commands.get(arguments[0] if arguments else "")
    flags = {flag for parameter in getattr(known, "params", ()) for flag in parameter.opts}
    ways = {"--batch-tokens": "smaller --batch-tokens", "--activation-checkpointing": "--activation-checkpointing"}
    found = [way for flag, way in ways.items() if flag in flags]
    return f"; try {' or '.join(found)}" if found else ""


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM: no KeyboardInterrupt, of which the parser would make a silent exit."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise `_Stopped`; but not in an import, in which C++ may be waiting that would end the process without a word."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _signal_again(number)
            return
        frame = frame.f_back
    raise _Stopped(number)


def _stop_again(otherwise: Callable[[Any], None], unraisable: Any) -> None:
    """Do not lose a signal that came during a callback, which cannot raise."""
    if isinstance(unraisable.exc_value, _Stopped):
        _signal_again(unraisable.exc_value.number)
    else:
        otherwise(unraisable)


def _signal_again(number: int) -> None:
    signal.signal(signal.SIGALRM, lambda _, frame: _stop(number, frame))  # a thread could not be started everywhere
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def _complain(message: str) -> int:
    print(ui.visible(f"zhaiju: {' '.join(message.split())}"), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

"""Zhaiju, as `zhaiju.load` gives it."""

from _rounds import rows, serve


def load(spec):
    from zhaiju.corpus.features import ranking
    from zhaiju.data.examples import Context, IntentExample, QAExample
    from zhaiju.data.labelled import sentence_example
    from zhaiju.inference.answer import Answerer, Shortcuts
    from zhaiju.inference.engine import make_engine
    from zhaiju.modeling.checkpoint import load as load_checkpoint

    data = rows(spec["rows"])
    how = {"backend": spec["backend"], "precision": spec["precision"], "threads": spec["threads"]}

    def engine(where, task):
        checkpoint = load_checkpoint(where, task, window=spec.get("window"), overlap=spec.get("overlap"))
        made = make_engine(checkpoint, **how)
        return made, checkpoint.task(task, **spec.get("settings", {}))

    if spec["task"] == "answer":
        (reader, read_task), (selector, select_task) = (
            engine(spec["reader"], "read"),
            engine(spec["selector"], "select"),
        )
        shortcuts = Shortcuts(spec.get("prefilter"))
        names = {text: str(place) for place, text in enumerate({text: 0 for row in data for text in row["contexts"]})}
        answerer = Answerer(
            reader,
            selector,
            read_task=read_task,
            select_task=select_task,
            lexical=ranking().scores if spec.get("prefilter") else None,
            shortcuts=shortcuts,
        )

        def answer(few):
            asked = (
                QAExample(str(at), row["question"], tuple(Context(text, names[text]) for text in row["contexts"]))
                for at, row in enumerate(data[:few])
            )
            forget(reader, selector)
            return [found.answer for found in answerer.predict(asked)]

        return answer
    made, task = engine(spec["checkpoint"], spec["task"])

    def run(few):
        forget(made)
        if spec["task"] == "read":
            asked = (
                QAExample(str(at), row["question"], (Context(row["context"], "0"),), 0)
                for at, row in enumerate(data[:few])
            )
            return [found.answer for found in made.predict(task, asked)]
        if spec["task"] == "intent":
            asked = (IntentExample(str(at), row["text"], None) for at, row in enumerate(data[:few]))
            return [found.label for found in made.predict(task, asked)]
        asked = (sentence_example(str(at), row["text"]) for at, row in enumerate(data[:few]))
        return [list(found.tags) for found in made.predict(task, asked)]

    return run


def forget(*engines):
    """Every round tokenises anew, as the others do."""
    for one in engines:
        one.encoding.forget()


serve(load)

import pytest

from zhaiju.data.check import check_files
from zhaiju.data.encoding import Encoding, locate, slice_of
from zhaiju.data.formats import ReadLog, gold_answers, gold_choices, load_contexts, read_qa
from zhaiju.data.vocabulary import KINDS, build_tokenizer

SQUAD = {"drcd-dev": (3524, 0), "cmrc2018-dev": (3219, 200), "cmrc2018-trial": (1002, 5)}  # questions, misaligned
EMPTY_QUESTIONS = {"cmrc2018-trial": 2}


@pytest.fixture(scope="module")
def contexts(shared):
    return load_contexts(shared / "course" / "context.json")


@pytest.fixture(scope="module", params=list(SQUAD))
def squad(request, shared):
    return shared / "squad" / f"{request.param}.json"


@pytest.fixture(scope="module", params=KINDS)
def made(request, squad):
    """A kind of tokenizer and one from the texts of a file."""
    texts = {example.context.text for example in read_qa(squad, log=ReadLog(skip_faulty=True))}
    return request.param, build_tokenizer(sorted(texts), kind=request.param, size=21_128)


@pytest.mark.parametrize(("name", "count"), [("train", 2848), ("public", 676)])
def test_course_files_read_whole_and_aligned(shared, contexts, name, count):
    path = shared / "course" / f"{name}.json"
    examples = list(read_qa(path, contexts=contexts))  # without a log the first misaligned answer would stop it
    assert len(examples) == count
    assert all(example.answers and example.relevant is not None for example in examples)
    assert all(2 <= len(example.contexts) <= 8 for example in examples)
    assert gold_answers(path).keys() == gold_choices(path).keys() == {example.id for example in examples}


def test_course_questions_without_labels_read_as_those_with(shared, contexts):
    public, private = (
        list(read_qa(shared / "course" / f"{name}.json", contexts=contexts)) for name in ("public", "private")
    )
    assert len(private) == 676
    assert all(example.relevant is None and not example.gold for example in private)
    assert [(each.id, each.question, each.contexts) for each in private] == [
        (each.id, each.question, each.contexts) for each in public
    ]


def test_course_files_are_the_squad_shaped_one_rearranged(shared, contexts):
    course = {
        example.id: (example.question, example.context.text, example.answers[0])
        for name in ("train", "public")
        for example in read_qa(shared / "course" / f"{name}.json", contexts=contexts)
    }
    same = {
        example.id: (example.question, example.context.text) for example in read_qa(shared / "squad" / "drcd-dev.json")
    }
    assert {identity: (question, context) for identity, (question, context, _) in course.items()} == same


def test_squad_files_read_whole_and_only_the_known_faults_are_reported(squad):
    log = ReadLog(skip_faulty=True)
    examples = list(read_qa(squad, log=log))
    count, misaligned = SQUAD[squad.stem]
    faulty = EMPTY_QUESTIONS.get(squad.stem, 0)
    assert len(examples) == count - faulty
    assert len(log.misaligned) == misaligned
    assert [(fault.field, fault.problem) for fault in log.skipped] == [("question", "empty text")] * faulty
    assert all(example.gold for example in examples)
    assert all(span.fits(example.context.text) for example in examples for span in example.answers)


@pytest.mark.slow
@pytest.mark.parametrize("window", [128, 256, 512])
def test_no_gold_answer_is_lost_on_the_way_to_tokens_and_back(squad, made, window):
    kind, tokenizer = made
    encoding = Encoding(tokenizer, window=window, overlap=64)
    (report,) = check_files([squad], encoding=encoding)
    count, misaligned = SQUAD[squad.stem]
    assert report.rows == count
    assert report.answers_lost == 0
    assert report.answers_misaligned == misaligned
    assert len(report.faults) == EMPTY_QUESTIONS.get(squad.stem, 0)
    assert report.answers_inside_tokens <= (0 if kind == "characters" else 0.01 * report.answers_total)
    if window == 512:
        assert report.answers_too_long == 0


@pytest.mark.slow
@pytest.mark.parametrize("window", [128, 256, 512])
def test_every_answer_that_a_window_holds_is_quoted_letter_for_letter(squad, window):
    """The same without the doctor, so that it is not its own judge."""
    log = ReadLog(skip_faulty=True)
    examples = list(read_qa(squad, log=log))
    encoding = Encoding(
        build_tokenizer((example.context.text for example in examples), kind="characters"), window=window, overlap=64
    )
    quoted = 0
    for example in examples:
        context = example.context.text
        for span in example.answers:
            if len(span.text) > encoding.capacity(example.question):
                continue
            windows = encoding.windows(example.question, context, hold=(span,))
            place, each = next((place, each) for each in windows if (place := locate(each, span)) is not None)
            start, end = slice_of(context, int(each.starts[place[0]]), int(each.ends[place[1]]))
            assert context[start:end] == span.text.strip()
            quoted += 1
    assert quoted > 0.95 * sum(len(example.answers) for example in examples)

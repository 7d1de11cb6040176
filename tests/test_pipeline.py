"""A model called as transformers' former pipeline("question-answering") was, by the contract in its documentation."""

import math

import pytest
import torch
import transformers

import zhaiju
from checkpoints import bert_config, save, word_pieces
from zhaiju.modeling.checkpoint import load_encoding

QUESTION, CONTEXT = "誰在河邊修船？", "林師傅在河邊修船。鎮上有兩家書店。船修好了，明天下水。"
OTHER, ELSEWHERE = "鎮上有幾家書店？", "鎮上有兩家書店，一家在河邊。"
LONG = "林師傅在河邊修船，鎮上有兩家書店，船修好了，明天下水，書店明天開門。"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A reader as it lies on a hub, with nothing of ours beside it."""
    folder = tmp_path_factory.mktemp("reader")
    vocabulary = {token: index for index, token in enumerate(word_pieces(sorted({*QUESTION, *LONG, *OTHER})))}
    config = bert_config(len(vocabulary))
    save(transformers.BertForQuestionAnswering, config, transformers.BertTokenizer(vocab=vocabulary), folder)
    return folder


@pytest.fixture(scope="module", params=["foreign", "starter"])
def qa(request):
    return zhaiju.load("starter" if request.param == "starter" else str(request.getfixturevalue("foreign")))


def as_recorded(answer, context):
    """An answer with the pipeline's keys and types, in their order; gives it back."""
    assert list(answer) == ["score", "start", "end", "answer"]
    assert [type(value) for value in answer.values()] == [float, int, int, str]
    assert 0 <= answer["score"] <= 1
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    return answer


def test_one_question_gives_a_dict_however_it_is_put(qa):
    wanted = as_recorded(qa(question=QUESTION, context=CONTEXT), CONTEXT)
    assert wanted["answer"]
    assert qa(QUESTION, CONTEXT) == qa({"question": QUESTION, "context": CONTEXT}) == wanted


def test_several_questions_give_a_list(qa):
    single = [qa(question=QUESTION, context=CONTEXT), qa(question=OTHER, context=ELSEWHERE)]
    pairs = [{"question": QUESTION, "context": CONTEXT}, {"question": OTHER, "context": ELSEWHERE}]
    for found in (
        qa(question=[QUESTION, OTHER], context=[CONTEXT, ELSEWHERE]),
        qa(pairs),
        qa(iter(pairs)),
    ):
        assert [as_recorded(one, context) for one, context in zip(found, (CONTEXT, ELSEWHERE), strict=True)] == [
            one | {"score": pytest.approx(one["score"], abs=1e-5)} for one in single
        ]
    shared = qa(question=[QUESTION, OTHER], context=CONTEXT)  # one context for all questions
    assert [one["answer"] for one in shared] == [
        qa(question=text, context=CONTEXT)["answer"] for text in (QUESTION, OTHER)
    ]
    assert [one["answer"] for one in qa(question=[QUESTION], context=[CONTEXT])] == [single[0]["answer"]]
    assert qa([]) == []


def test_more_than_one_answer_is_a_list_best_first(qa):
    found = qa(question=QUESTION, context=CONTEXT, top_k=4)
    assert len({(as_recorded(one, CONTEXT)["start"], one["end"]) for one in found}) == 4
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert found[0] == qa(question=QUESTION, context=CONTEXT)
    several = qa(question=[QUESTION, OTHER], context=CONTEXT, top_k=2)
    assert [len(one) for one in several] == [2, 2]
    few = qa(question=QUESTION, context="船。", top_k=50)  # fewer than asked for where there are no more
    assert [one["answer"] for one in few if one["answer"] != ""] == [one["answer"] for one in few]
    assert 1 <= len(few) < 50


def test_the_longest_answer_counts_tokens_and_is_15_unless_said(qa, request, foreign):
    encoding = load_encoding("starter" if "starter" in request.node.name else foreign)
    for most in (1, 3, 15):
        found = qa(question=QUESTION, context=LONG, max_answer_len=most, top_k=300)
        assert max(tokens_of(one, encoding) for one in found) == most
    assert qa(question=QUESTION, context=LONG, top_k=300) == found


def tokens_of(answer, encoding):
    tokens = encoding.tokens(LONG)
    return int(
        ((tokens.starts >= answer["start"]) & (tokens.ends <= answer["end"]) & (tokens.ends > tokens.starts)).sum()
    )


def test_that_there_is_no_answer_may_be_one(qa):
    plain = qa(question=QUESTION, context=CONTEXT, top_k=300)
    found = qa(question=QUESTION, context=CONTEXT, top_k=301, handle_impossible_answer=True)
    assert all(one["answer"] for one in plain)
    (nothing,) = [as_recorded(one, CONTEXT) for one in found if not one["answer"]]
    assert (nothing["start"], nothing["end"]) == (0, 0)
    spans = [one for one in found if one["answer"]]
    assert [one["answer"] for one in spans] == [one["answer"] for one in plain][: len(spans)]
    assert [one["score"] for one in spans] == pytest.approx(
        [one["score"] * (1 - nothing["score"]) for one in plain][: len(spans)]
    )
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)


def test_the_answers_are_those_that_the_pipeline_chose(foreign):
    """Its rule, written out: softmax of starts and of ends over the context and [CLS], the best allowed product."""
    qa = zhaiju.load(str(foreign))
    tokenizer = transformers.AutoTokenizer.from_pretrained(foreign)
    network = transformers.AutoModelForQuestionAnswering.from_pretrained(foreign).eval()
    for question, context in ((QUESTION, CONTEXT), (OTHER, ELSEWHERE), (OTHER, LONG), (QUESTION, "船修好了 the boat")):
        encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        inside = [place for place, side in enumerate(encoded.sequence_ids(0)) if side == 1]
        with torch.no_grad():
            logits = network(**encoded)
        starts, ends = (
            torch.softmax(values[0, [0, *inside]].double(), -1) for values in (logits.start_logits, logits.end_logits)
        )
        spans = {
            (offsets[inside[i]][0], offsets[inside[j]][1]): float(starts[i + 1] * ends[j + 1])
            for i in range(len(inside))
            for j in range(i, min(i + 15, len(inside)))
        }
        null = float(starts[0] * ends[0])
        ranked = sorted(spans, key=spans.get, reverse=True)
        found = qa(question=question, context=context, top_k=5)
        assert [(one["start"], one["end"]) for one in found] == ranked[:5]
        ratio = found[1]["score"] / found[0]["score"]
        assert ratio == pytest.approx(spans[ranked[1]] / spans[ranked[0]], rel=1e-3)
        best = qa(question=question, context=context, handle_impossible_answer=True)
        assert bool(best["answer"]) == (spans[ranked[0]] > null)
        nothing = qa(question=question, context=context, handle_impossible_answer=True, top_k=1000)
        (score,) = [one["score"] for one in nothing if not one["answer"]]
        assert score == pytest.approx(null / (null + math.fsum(spans.values())), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"doc_stride": 64}, "doc_stride is not taken here, expected question, context, top_k, .*; windows are those"),
        ({"max_seq_len": 384}, "max_seq_len is not taken here"),
        ({"align_to_words": False}, "align_to_words is not taken here"),
        ({"topk": 2}, "it is called top_k"),
        ({"answers": 2}, "answers is not taken here, expected question, context, top_k, max_answer_len or handle_"),
        ({"top_k": 0}, "top_k is 0, expected a whole number of at least 1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"max_answer_len": 0}, "max_answer_len is 0"),
    ],
)
def test_other_arguments_are_refused_with_those_that_are_taken(qa, arguments, message):
    with pytest.raises(zhaiju.ConfigError, match=message):
        qa(question=QUESTION, context=CONTEXT, **arguments)


@pytest.mark.parametrize(
    ("inputs", "named", "error", "message"),
    [
        ((), {}, zhaiju.DataError, "question: wrong type, found nothing"),
        ((), {"question": QUESTION}, zhaiju.DataError, "context: wrong type, found nothing"),
        ((), {"question": QUESTION, "context": ""}, zhaiju.DataError, "context: empty text"),
        ((), {"question": "", "context": CONTEXT}, zhaiju.DataError, "question: empty text"),
        ((), {"question": [QUESTION], "context": [CONTEXT] * 2}, zhaiju.DataError, "differ in number"),
        ((), {"question": QUESTION, "context": [CONTEXT] * 2}, zhaiju.DataError, "differ in number"),
        (({"question": QUESTION},), {}, zhaiju.DataError, "expected a mapping of question and context"),
        (([QUESTION],), {}, zhaiju.DataError, "expected a mapping of question and context"),
        ((QUESTION,), {}, zhaiju.DataError, "expected a mapping of question and context"),
        ((5,), {}, zhaiju.DataError, "expected a mapping of question and context"),
        ((QUESTION, CONTEXT, CONTEXT), {}, zhaiju.ConfigError, "found 3 arguments without a name"),
        ((QUESTION,), {"context": CONTEXT}, zhaiju.ConfigError, "given twice"),
    ],
)
def test_what_is_no_question_with_its_context_is_said(qa, inputs, named, error, message):
    with pytest.raises(error, match=message):
        qa(*inputs, **named)


def test_a_selector_is_no_reader():
    with pytest.raises(zhaiju.ConfigError, match="no checkpoint for read is loaded here"):
        zhaiju.load("starter", task="select")(question=QUESTION, context=CONTEXT)

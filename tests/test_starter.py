"""The packaged reader: what it is, that it quotes, and that others can be trained from it."""

import json

import numpy as np
import pytest

import zhaiju
from zhaiju.config import TrainSettings
from zhaiju.data.check import check_files
from zhaiju.data.chunks import pad
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import load, load_encoding, load_exported, starter
from zhaiju.modeling.quantised import is_quantised
from zhaiju.training import run as training

MOST_BYTES = 40_000_000
BRIDGE = "這座石橋由石匠林火旺於一九三二年造成，全長一百二十公尺。橋頭有一間茶館，每天早上六點開門。"
SIMPLIFIED = "这座石桥由石匠林火旺于一九三二年造成，全长一百二十米。桥头有一间茶馆，每天早上六点开门。"
ENGLISH = (
    "The stone bridge was built in 1932 by the mason Daniel Reed. It is 120 metres long. The tea house opens at six."
)


@pytest.fixture(scope="module")
def model():
    return zhaiju.load("starter")


def test_it_is_small_and_in_8_bits():
    folder = starter("read")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES
    assert is_quantised(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("question", "context", "expected"),
    [
        ("誰造了這座石橋？", BRIDGE, "林火旺"),
        ("石橋是哪一年造成的？", BRIDGE, "一九三二年"),
        ("谁造了这座石桥？", SIMPLIFIED, "林火旺"),
        ("这座石桥有多长？", SIMPLIFIED, "一百二十米"),
        ("Who built the stone bridge?", ENGLISH, "Daniel Reed"),
        ("When was the bridge built?", ENGLISH, "1932"),
    ],
)
def test_it_quotes_in_both_scripts_and_english(model, question, context, expected):
    found = model.read(question, context)
    assert expected in found.answer
    assert len(found.answer) <= len(expected) + 4
    assert context[found.start : found.end] == found.answer


def test_its_graph_is_its_network():
    network, graph = load(starter("read"), "read", exported=False), load_exported(starter("read"))
    chunk = pad(network.encoding.windows("茶館幾點開門？", BRIDGE * 9), network.encoding.pad_id)
    ours, theirs = (make_engine(one).backend.run(chunk) for one in (network, graph))
    seen = np.broadcast_to(chunk.attention_mask[:, None, :] == 1, ours.shape)
    assert np.abs(ours - theirs)[seen].max() < 1e-3


def test_no_character_of_ordinary_texts_is_unknown():
    encoding = load_encoding("starter")

    def unknown(text):
        ids = encoding.tokens(text).ids
        return np.mean(ids == encoding.tokenizer.unk_token_id)

    for text in [BRIDGE, SIMPLIFIED, ENGLISH, "「」『』《》【】—…％＄１２３ＡＢＣかなカナ가Ωж"]:
        assert unknown(text) == 0, text
    sample = json.loads((starter("read").parent / "sample" / "context.json").read_text("utf-8"))
    assert unknown("\n".join(sample)) < 0.001  # 柘 and the like, which XLM-R has no piece for


@pytest.mark.parametrize(
    ("name", "share"), [("drcd-train-part", 0.99), ("cmrc2018-train", 0.99), ("squad-en-part", 0.99)]
)
@pytest.mark.slow
def test_answers_begin_and_end_with_a_piece(shared, name, share):
    (report,) = check_files([shared / "squad" / f"{name}.json"], encoding=load_encoding("starter"))
    assert report.answers_inside_tokens <= (1 - share) * report.answers_total


@pytest.mark.slow
def test_it_reads_as_well_as_its_card_says(shared, model):
    contexts = load_contexts(shared / "course" / "context.json")
    examples = list(read_qa(shared / "course" / "public.json", contexts=contexts))[:150]
    found = model.read([one.question for one in examples], [one.context.text for one in examples])
    right = [prediction.answer in one.gold for prediction, one in zip(found, examples, strict=True)]
    assert np.mean(right) >= 0.5


@pytest.mark.slow
def test_others_are_trained_from_it(tmp_path):
    rows = [
        {"text": f"open the {thing}", "intent": thing, "id": str(place)}
        for place, thing in enumerate(["door", "shop"] * 4)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows), "utf-8")
    settings = TrainSettings(encoder="starter", max_steps=1, batch_size=4, freeze_embeddings=True, threads=1)
    data = training.load_train_data("intent", [tmp_path / "train.json"], [tmp_path / "train.json"])
    training.train("intent", settings, data, tmp_path / "run")
    kept = load_encoding(tmp_path / "run")
    assert (kept.script, kept.boundaries) == ("simplified", "words")
    assert zhaiju.load(tmp_path / "run").intent("open the door").label in {"door", "shop"}

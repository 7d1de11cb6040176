"""Tiny random checkpoints on disk, in the layouts in which people publish encoders.

Each maker fills a directory with an encoder that was pretrained by nobody: no output layer of any task, weights from
a fixed seed, a vocabulary of the characters below. `CHECKPOINTS` names them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from zhaiju.data.examples import IntentExample, SlotExample

SEED = 20
POSITIONS = 96
HIDDEN = 16
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Written for these tests. The characters of all of them are the vocabularies'.
PARAGRAPHS = (
    "老張在港口修了三十年的船，退休以後每天清晨仍到碼頭散步。他說海風比鬧鐘準時，聞到鹹味便知道潮水漲到第幾階石梯。",
    "小鎮的圖書館一九八七年由一間穀倉改建而成，屋頂保留了當年的木樑。館員林小姐在二樓養了一隻橘貓，名字叫書籤。",
    "實驗室新買的顯微鏡型號是 QX-42，重七公斤，鏡頭可放大八百倍。說明書寫著：使用前請先暖機十五分鐘。",
    "春天的市集從三月十二日開到四月五日，攤位共有六十四個。賣蜂蜜的阿姨說，今年的槐花蜜只剩下九罐。",
)
MIXED = (
    "Rita 把 GPU 伺服器命名為「Ｂｌｕｅ　Ｗｈａｌｅ」🐳，理由是它的風扇聲像鯨魚唱歌；café 裡的人都說 déjà vu。"
    "第二臺叫👩🏽\u200d🚀，價錢是ＮＴ＄４２，０００，保固３年（含週末）。  Its owner's manual has 1,024 pages!"
)
QUESTIONS = ("老張在哪裡修船？", "貓叫什麼名字？", "顯微鏡多重？", "市集有幾個攤位？", "風扇聲像什麼 song？")
# What the harbour's telephone is told: words and their tags, and what it is about.
TOLD = (
    ("book a boat to Port Mira tomorrow", "O O B-thing O B-place I-place B-time", "book"),
    ("book the QX-42 for Rita's sister", "O O B-thing O B-name I-name", "book"),
    ("is there rain at Ｂｌｕｅ harbour", "O O O O B-place I-place", "weather"),
    ("will the 天氣 be déjà vu again", "O O O O O O O", "weather"),
    ("明 天 港 口 有 船 嗎", "B-time I-time B-place I-place O B-thing O", "book"),
    ("你 好 👩🏽\u200d🚀", "O O O", "oos"),
    ("the owner sings for nine goats", "O B-name O O O O", "oos"),
    (
        " ".join(f"port{number} 圖書館 at noon" for number in range(9)),
        " ".join(["B-place I-place O B-time"] * 9),
        "book",
    ),
)
CHARACTERS = tuple(sorted({character for text in (*PARAGRAPHS, *QUESTIONS) for character in text.lower()} - {" "}))
INTENTS = [IntentExample(f"u{number}", text, intent) for number, (text, _, intent) in enumerate(TOLD)]
SLOTTED = [
    SlotExample(f"u{number}", tuple(text.split()), tuple(tags.split())) for number, (text, tags, _) in enumerate(TOLD)
]
LABELS = {
    "select": (),
    "read": (),
    "intent": ("book", "oos", "weather"),
    "slots": ("O", *(f"{prefix}-{kind}" for kind in ("name", "place", "thing", "time") for prefix in "BI")),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def word_pieces(characters: Iterable[str] = CHARACTERS) -> list[str]:
    """A BERT vocabulary: special tokens, then the characters, then what words are pieced together from."""
    pieces = dict.fromkeys((*SPECIAL, *characters, *LETTERS, *(f"##{letter}" for letter in LETTERS), "##ing", "the"))
    return list(pieces)


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def save(model_class: Any, config: Any, tokenizer: Any, directory: Path) -> None:
    """Make a model with seeded weights and write it with its tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = model_class(config)
        for parameter in model.parameters():  # the usual 0.02 makes every logit of so small a model alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def bert_config(vocabulary: int, **changes: Any) -> transformers.BertConfig:
    """A BERT of two narrow layers."""
    values = {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": POSITIONS,
    }
    return transformers.BertConfig(**values | changes)


def bert(directory: Path, **changes: Any) -> None:
    """`BertModel`, as google-bert/bert-base-chinese is laid out today."""
    vocabulary = word_pieces()
    config = bert_config(len(vocabulary), **changes)
    save(transformers.BertModel, config, transformers.BertTokenizer(vocab=_numbered(vocabulary)), directory)


def electra(directory: Path) -> None:
    """The discriminator, its embeddings narrower than its layers, as hfl/chinese-electra-180g-small-discriminator."""
    vocabulary = word_pieces()
    config = transformers.ElectraConfig(
        vocab_size=len(vocabulary),
        embedding_size=HIDDEN // 2,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
    )
    tokenizer = transformers.BertTokenizer(vocab=_numbered(vocabulary))
    save(transformers.ElectraForPreTraining, config, tokenizer, directory)


def ernie(directory: Path) -> None:
    """With task types and four token types, as nghuyong/ernie-3.0-base-zh."""
    vocabulary = word_pieces()
    config = transformers.ErnieConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
        type_vocab_size=4,
        use_task_id=True,
        task_type_vocab_size=3,
    )
    tokenizer = transformers.BertTokenizer(vocab=_numbered(vocabulary))
    save(transformers.ErnieForMaskedLM, config, tokenizer, directory)


def roformer(directory: Path) -> None:
    """Rotary positions and a vocabulary that holds whole words, as junnyu/roformer_chinese_base."""
    vocabulary = [*word_pieces(), "圖書館", "實驗室", "顯微鏡", "名字"]
    config = transformers.RoFormerConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
    )
    tokenizer = transformers.RoFormerTokenizer(vocab=_numbered(vocabulary))
    save(transformers.RoFormerForMaskedLM, config, tokenizer, directory)


def modernbert(directory: Path) -> None:
    """Byte-level BPE, no token types, layers with global and local attention, as answerdotai/ModernBERT-base."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(PARAGRAPHS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0", special_tokens=_edges(backend)
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **_names()
    )
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
        global_attn_every_n_layers=2,
        local_attention=16,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    save(transformers.ModernBertForMaskedLM, config, tokenizer, directory)


def deberta(directory: Path) -> None:
    """Unigram pieces, relative positions and no token types, as microsoft/mdeberta-v3-base."""
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    ordinary = dict.fromkeys(("▁", *CHARACTERS, *LETTERS, "▁the", "▁GPU", "圖書館", "顯微鏡"))
    pieces += [(piece, -4.0 - index / 100) for index, piece in enumerate(ordinary)]
    pieces.append(("[MASK]", 0.0))
    config = transformers.DebertaV2Config(
        vocab_size=len(pieces),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        max_relative_positions=-1,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    )
    save(transformers.DebertaV2ForMaskedLM, config, transformers.DebertaV2Tokenizer(vocab=pieces), directory)


def _names() -> dict[str, str]:
    return {f"{token[1:-1].lower()}_token": token for token in SPECIAL}


def _edges(backend: Tokenizer) -> list[tuple[str, int]]:
    return [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]


def wwm_config(vocabulary: int) -> dict[str, Any]:
    """The config.json of hfl/chinese-roberta-wwm-ext, key by key, its sizes but for ours."""
    return {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "directionality": "bidi",
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * HIDDEN,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "output_past": True,
        "pad_token_id": 0,
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
    }


def roberta_wwm(
    directory: Path, *, tokenizer_json: bool = True, pooler: bool = True, old_norms: bool = False
) -> dict[str, torch.Tensor]:
    """The files of hfl/chinese-roberta-wwm-ext: a BERT that is called RoBERTa, its weights pickled.

    Args:
        directory: Where to.
        tokenizer_json: Write tokenizer.json too; else vocab.txt is all there is.
        pooler: With the pooler's weights.
        old_norms: Call the weights of the norms gamma and beta, as the first conversions from TensorFlow did.

    Returns:
        The weights as written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = word_pieces()
    config = wwm_config(len(vocabulary))
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), "utf-8")
    (directory / "added_tokens.json").write_text("{}", "utf-8")
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    (directory / "special_tokens_map.json").write_text(json.dumps(names), "utf-8")
    (directory / "tokenizer_config.json").write_text('{"init_inputs": []}', "utf-8")
    if tokenizer_json:
        whole = transformers.BertTokenizer(vocab=_numbered(vocabulary)).backend_tokenizer
        whole.save(str(directory / "tokenizer.json"))
    generator = torch.Generator().manual_seed(SEED)
    model = transformers.BertForPreTraining(transformers.BertConfig(**config))
    weights = {
        name: torch.randn(value.shape, generator=generator) * 0.3
        if value.ndim > 1
        else torch.full_like(value, float("LayerNorm.weight" in name))
        for name, value in model.state_dict().items()
        if (pooler or "pooler" not in name) and "seq_relationship" not in name and "position_ids" not in name
    }
    weights["bert.embeddings.position_ids"] = torch.arange(POSITIONS).unsqueeze(0)
    if old_norms:
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            weights = {name.replace(new, old): value for name, value in weights.items()}
    torch.save(weights, directory / "pytorch_model.bin")
    return weights


def roberta_wwm_without_tokenizer_json(directory: Path) -> None:
    """The same with vocab.txt alone."""
    roberta_wwm(directory, tokenizer_json=False)


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "bert": bert,
    "electra": electra,
    "ernie": ernie,
    "roformer": roformer,
    "modernbert": modernbert,
    "deberta-v2": deberta,
    "roberta-wwm": roberta_wwm,
    "roberta-wwm-vocab-only": roberta_wwm_without_tokenizer_json,
}

"""Trains the starter's reader from a packed folder (`pack.py`), on a GPU or on a CPU: PyTorch and transformers alone.

Two parts. First the encoder goes on learning from running text: masked words (Devlin et al., 2019) and, in the same
pass, recurring spans (Ram et al., 2021; Glass et al., 2020): a sentence is taken out of its passage, a span of it that
the passage has too is hidden, and the passage is to be pointed at. Then it learns to read: start and end of the answer,
the first token where the window has none. Weights are averaged over the last steps (EMA).

A batch depends on the seed and its number alone. A training that was killed goes on from what it saved last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from e5 import unpack
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertModel

BOS, PAD, EOS = 0, 1, 2
KINDS = ("drcd", "cmrc", "squad")
ENDS = ("。", "!", "?", ";", "！", "？", "；")
GROUP = 16  # batches that are made together, so that those of one length go together
LONGEST = 48  # tokens of an answer
SAVE_EVERY = 600.0  # seconds
FILE = "weights.safetensors"
PART = 15 << 20  # bytes of a part of the weights


class Pack:
    """The packed folder in memory.

    Args:
        folder: What `pack.py` wrote.
        window: Most tokens of a window.
    """

    def __init__(self, folder: Path, window: int) -> None:
        self.folder = folder
        self.window = window
        self.pieces: list[str] = json.loads((folder / "pieces.json").read_text("utf-8"))
        self.mask = len(self.pieces) - 1
        held = np.load(folder / "questions.npz")
        self.contexts = np.split(held["contexts"].astype(np.int64), held["context_ends"][:-1])
        self.questions = np.split(held["questions"].astype(np.int64), held["question_ends"][:-1])
        self.rows, self.wrong = held["rows"], held["wrong"]
        self.spans: list[list[tuple[int, int]]] = [[] for _ in self.questions]
        for number, first, last in held["spans"].tolist():
            self.spans[number].append((first, last))
        self.train = np.flatnonzero(self.rows[:, 2] == 0)
        self.dev = np.flatnonzero(self.rows[:, 2] == 1)

    def some(self, shares: Sequence[float], dev: int) -> None:
        """Keep a share of each kind's training questions, and at most `dev` questions to look at on the way."""
        generator = np.random.default_rng(0)
        wanted = np.asarray(shares)[self.rows[self.train, 1]]
        self.train = self.train[generator.random(len(self.train)) < wanted]
        if dev:
            self.dev = np.sort(generator.permutation(self.dev)[:dev])

    def frame(self, question: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, int]:
        """Ids of a window, and where its context begins."""
        head = np.concatenate([[BOS], question, [EOS]])
        return np.concatenate([head, context, [EOS]]), len(head)


class Reading(Dataset):  # type: ignore[type-arg]
    """Groups of batches to learn reading from; group m of the whole training depends on the seed and m alone."""

    def __init__(self, pack: Pack, *, batch: int, epochs: float, seed: int, negative: float, hidden: float) -> None:
        self.pack, self.size, self.seed, self.negative, self.hidden = pack, batch, seed, negative, hidden
        self.items = batch * GROUP
        self.per_epoch = int(len(pack.train) * (1 + negative)) // self.items
        self.groups = max(1, int(self.per_epoch * epochs))

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, m: int) -> list[dict[str, Tensor]]:
        epoch, place = divmod(m, self.per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(
            int(len(self.pack.train) * (1 + self.negative))
        )
        generator = np.random.default_rng([self.seed, 2, m])
        made = []
        for number in order[place * self.items : (place + 1) * self.items]:
            row = int(self.pack.train[number % len(self.pack.train)])
            made.append(self._item(row, number >= len(self.pack.train), generator))
        made.sort(key=lambda item: len(item[0]))
        batches = [made[at : at + self.size] for at in range(0, len(made), self.size)]
        return [collate(batches[at]) for at in generator.permutation(len(batches))]

    def _item(
        self, row: int, negative: bool, generator: np.random.Generator
    ) -> tuple[np.ndarray, int, list, list, list]:
        pack = self.pack
        question, spans = pack.questions[row], pack.spans[row]
        context = pack.contexts[pack.rows[row, 0]]
        room = pack.window - len(question) - 3
        if generator.random() < 0.4:
            room = int(generator.integers(min(64, room), room + 1))
        room = min(room, len(context))
        label: tuple[int, int] | None = None
        if spans and not negative:
            first, last = spans[int(generator.integers(len(spans)))]
            if last - first < room:
                a = int(generator.integers(max(0, last + 1 - room), min(first, len(context) - room) + 1))
                label = (first - a, last - a)
            else:
                a = int(generator.integers(len(context) - room + 1))
            ids = context[a : a + room]
        else:
            ids = self._without(row, context, spans, room, generator)
        if self.hidden:
            ids = np.where(generator.random(len(ids)) < self.hidden * 2 * generator.random(), pack.mask, ids)
        whole, base = pack.frame(question, ids)
        starts, ends = ([0], [0]) if label is None else ([label[0] + base], [label[1] + base])
        return whole, base, starts, ends, []

    def _without(
        self, row: int, context: np.ndarray, spans: Sequence[tuple[int, int]], room: int, generator: np.random.Generator
    ) -> np.ndarray:
        """A window without the answer: of another paragraph, or of its own."""
        others = self.pack.wrong[row][self.pack.wrong[row] >= 0]
        free = []
        if spans:
            edges = [0, *(edge for first, last in sorted(spans) for edge in (first, last + 1)), len(context)]
            free = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= 40]
        if free and (not len(others) or generator.random() < 0.4):
            a, b = free[int(generator.integers(len(free)))]
            length = min(room, b - a)
            start = int(generator.integers(a, b - length + 1))
            return context[start : start + length]
        if len(others) and spans:
            context = self.pack.contexts[int(others[int(generator.integers(len(others)))])]
        length = min(self.pack.window - len(self.pack.questions[row]) - 3, len(context))
        start = int(generator.integers(len(context) - length + 1))
        return context[start : start + length]


class Running(Dataset):  # type: ignore[type-arg]
    """Groups of batches from running text; see the module."""

    def __init__(self, pack: Pack, *, batch: int, steps: int, seed: int) -> None:
        import lzma

        self.pack, self.size, self.seed, self.groups = pack, batch, seed, steps
        planes = np.frombuffer(lzma.decompress((pack.folder / "text.xz").read_bytes()), np.uint8).reshape(2, -1)
        text = np.ascontiguousarray(planes.T).view(np.uint16)[:, 0]
        # Paragraphs of the questions are running text too.
        held_out = {int(place) for place in pack.rows[pack.dev, 0]}
        own = [part for index, part in enumerate(pack.contexts) if index not in held_out]
        own_text = np.concatenate([np.append(part, EOS) for part in own]).astype(np.uint16)
        self.text = np.concatenate([text, own_text, own_text])
        ids = {piece: index for index, piece in enumerate(pack.pieces)}
        self.ends = np.array([ids[piece] for piece in ENDS if piece in ids])
        counts = np.bincount(self.text, minlength=len(pack.pieces))
        self.common = np.zeros(len(pack.pieces), bool)
        self.common[np.argsort(-counts)[:150]] = True
        self.dull = np.array([not any(c.isalnum() for c in piece.removeprefix("▁")) for piece in pack.pieces])
        self.asking = [ids[piece] for piece in ("什么", "哪", "谁") if piece in ids]

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, m: int) -> list[dict[str, Tensor]]:
        generator = np.random.default_rng([self.seed, 3, m])
        return [collate([self._item(generator) for _ in range(self.size)], self.pack.window)]

    def _passage(self, generator: np.random.Generator, length: int) -> np.ndarray:
        while True:
            at = int(generator.integers(len(self.text) - length))
            part = self.text[at : at + length].astype(np.int64)
            cuts = np.flatnonzero(part == EOS)
            if len(cuts):
                edges = [0, *(cuts + 1).tolist(), len(part) + 1]
                a, b = max(pairwise(edges), key=lambda edge: edge[1] - edge[0])
                part = part[a : b - 1]
            if len(part) >= 48:
                return part

    def _item(self, generator: np.random.Generator) -> tuple[np.ndarray, int, list, list, list]:
        pack = self.pack
        part = self._passage(generator, pack.window - 4 if generator.random() < 0.8 else 160)
        cloze = self._cloze(part, generator)
        starts: list[int] = []
        ends: list[int] = []
        if cloze is None:
            question, part, found, length = np.zeros(0, np.int64), part, [], 0
        else:
            question, part, found, length = cloze
            if generator.random() < 0.15:  # the answer is not there
                part, found = self._passage(generator, max(96, len(part))), []
        part = part[: pack.window - len(question) - 3]
        whole, base = pack.frame(question, part)
        if cloze is not None:
            found = [at for at in found if at + length <= len(part)]
            starts = [at + base for at in found] or [0]
            ends = [at + base + length - 1 for at in found] or [0]
        inside = np.zeros(len(whole), bool)
        inside[base:-1] = True
        for a, b in zip(starts, ends, strict=True):
            inside[a : b + 1] = False
        chosen = np.flatnonzero(inside & (generator.random(len(whole)) < 0.15))
        masked = [(int(at), int(whole[at])) for at in chosen]
        fate = generator.random(len(chosen))
        whole[chosen[fate < 0.8]] = pack.mask
        stray = chosen[fate >= 0.9]
        whole[stray] = generator.integers(4, pack.mask, len(stray))
        return whole, base, starts, ends, masked

    def _cloze(
        self, part: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list, int] | None:
        """(Question, passage without its sentence, where the hidden span stands there, its length in tokens)."""
        cuts = np.flatnonzero(np.isin(part, self.ends)) + 1
        edges = [0, *cuts.tolist(), len(part)]
        sentences = [(a, b) for a, b in pairwise(edges) if 8 <= b - a <= 64]
        if not sentences:
            return None
        for number in generator.permutation(len(sentences))[:3]:
            a, b = sentences[number]
            said, rest = part[a:b], np.concatenate([part[:a], part[b:]])
            places: dict[int, list[int]] = {}
            for at, piece in enumerate(rest.tolist()):
                places.setdefault(piece, []).append(at)
            words, others = said.tolist(), rest.tolist()
            options: dict[tuple[int, int], None] = {}
            for i, piece in enumerate(words):
                if self.dull[piece]:
                    continue
                for j in places.get(piece, ())[:6]:
                    if i and j and words[i - 1] == others[j - 1] and not self.dull[words[i - 1]]:
                        continue
                    n = 1
                    while n < 8 and i + n < len(words) and j + n < len(others) and words[i + n] == others[j + n]:
                        n += 1
                    while n and self.dull[words[i + n - 1]]:
                        n -= 1
                    if n and not self.common[said[i : i + n]].all():
                        options[(i, n)] = None
            if not options:
                continue
            i, n = list(options)[int(generator.integers(len(options)))]
            span = words[i : i + n]
            found = [j for j in places[span[0]] if others[j : j + n] == span]
            kind = generator.random()
            stand = [self.asking[int(generator.integers(len(self.asking)))]] if kind < 0.4 else [self.pack.mask]
            return np.array(words[:i] + stand + words[i + n :], np.int64), rest, found, n
        return None


def collate(items: Sequence[tuple[np.ndarray, int, list, list, list]], width: int = 0) -> dict[str, Tensor]:
    """Pad to a multiple of 8: ids, types, mask int64/bool [B, T]; starts, ends bool [B, T]; masked [M], truth [M]."""
    width = width or -(-max(len(item[0]) for item in items) // 8) * 8
    ids = np.full((len(items), width), PAD, np.int64)
    types = np.zeros_like(ids)
    starts, ends = (np.zeros(ids.shape, bool) for _ in range(2))
    masked, truth = [], []
    for row, (whole, base, first, last, hidden) in enumerate(items):
        ids[row, : len(whole)] = whole
        types[row, base : len(whole)] = 1
        starts[row, first] = True
        ends[row, last] = True
        masked += [row * width + at for at, _ in hidden]
        truth += [piece for _, piece in hidden]
    arrays = {"ids": ids, "types": types, "starts": starts, "ends": ends}
    arrays |= {"masked": np.array(masked, np.int64), "truth": np.array(truth, np.int64)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Reader(nn.Module):
    """The encoder, start and end logits, and the head for masked words.

    Args:
        pack: Has the encoder.
        dropout: Its rate.
        freeze: So many of its parts, from below, are not trained: the embeddings, the first layers.
    """

    def __init__(self, pack: Pack, dropout: float, freeze: int = 0) -> None:
        super().__init__()
        held = np.load(pack.folder / "encoder.npz")
        matrices = {name.split("|")[0] for name in held.files if "|" in name}
        state = {name: held[name] for name in held.files if "|" not in name}
        for name in matrices:
            scales, halves = held[f"{name}|scales"], held[f"{name}|halves"]
            state[name] = unpack(scales.reshape(-1), halves.reshape(-1, halves.shape[2])).reshape(len(scales), -1)
        types = state["embeddings.token_type_embeddings.weight"].copy()
        types[1] = types[0]  # the second type was never used
        state["embeddings.token_type_embeddings.weight"] = types
        layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder."))
        hidden = types.shape[1]
        config = BertConfig(
            vocab_size=len(pack.pieces), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=12,
            intermediate_size=4 * hidden, max_position_embeddings=512, pad_token_id=PAD, layer_norm_eps=1e-12,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)
        missing = self.bert.load_state_dict(
            {name: torch.from_numpy(value.copy()) for name, value in state.items()}, strict=False
        )
        assert not missing.unexpected_keys, missing
        assert all("position_ids" in name or "token_type_ids" in name for name in missing.missing_keys), missing
        for part in [self.bert.embeddings, *self.bert.encoder.layer[: freeze - 1]] if freeze else []:
            part.requires_grad_(False)
        self.qa_outputs = nn.Linear(hidden, 2)
        nn.init.normal_(self.qa_outputs.weight, std=0.02)
        self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(len(pack.pieces)))

    def hidden(self, ids: Tensor, types: Tensor) -> Tensor:
        """[B, T, H]."""
        return self.bert(input_ids=ids, token_type_ids=types, attention_mask=(ids != PAD).long()).last_hidden_state

    def spans(self, hidden: Tensor, ids: Tensor, types: Tensor) -> Tensor:
        """Start and end logits [2, B, T]: of the context's tokens and the first one."""
        logits = self.qa_outputs(hidden).float().permute(2, 0, 1)
        allowed = (types == 1) & (ids != PAD)
        allowed[:, 0] = True
        return logits.masked_fill(~allowed, -1e4)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Of spans, and of masked words where there are any."""
        hidden = self.hidden(batch["ids"], batch["types"])
        logits = self.spans(hidden, batch["ids"], batch["types"])
        total = logits.new_zeros(())
        for logit, right in zip(logits, (batch["starts"], batch["ends"]), strict=True):
            asked = right.any(1)
            good = torch.logsumexp(logit.masked_fill(~right, -1e9), 1)
            total = total + ((torch.logsumexp(logit, 1) - good) * asked).sum() / asked.sum().clamp(min=1) / 2
        if len(batch["masked"]):
            chosen = self.transform(hidden.reshape(-1, hidden.shape[-1])[batch["masked"]])
            scores = F.linear(chosen, self.bert.embeddings.word_embeddings.weight, self.bias)
            total = total + F.cross_entropy(scores.float(), batch["truth"])
        return total


def narrow(device: torch.device) -> Any:
    """bf16 where the device computes in it."""
    able = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


@torch.inference_mode()
def evaluate(model: Reader, pack: Pack, device: torch.device) -> dict[str, float]:
    """Share of held-out questions whose best span is an answer, piece for piece, by kind."""
    model.eval()
    windows: list[tuple[int, np.ndarray, int, int]] = []
    for row in pack.dev.tolist():
        question, context = pack.questions[row], pack.contexts[pack.rows[row, 0]]
        room = pack.window - len(question) - 3
        count = max(1, -(-(len(context) - 64) // (room - 64)))
        for part in range(count):
            a = 0 if count == 1 else round(part * (len(context) - room) / (count - 1))
            whole, base = pack.frame(question, context[a : a + room])
            windows.append((row, whole, base, a))
    windows.sort(key=lambda window: len(window[1]))
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    for at in range(0, len(windows), 256):
        group = windows[at : at + 256]
        batch = collate([(whole, base, [], [], []) for _, whole, base, _ in group])
        ids, types = batch["ids"].to(device), batch["types"].to(device)
        with narrow(device):
            logits = model.spans(model.hidden(ids, types), ids, types)
        logs = torch.log_softmax(logits, -1)
        table = logs[0][:, :, None] + logs[1][:, None, :]
        size = ids.shape[1]
        band = torch.ones(size, size, device=device, dtype=torch.bool).triu().tril(LONGEST)
        band[0] = False
        top = table.masked_fill(~band, -1e9).flatten(1).max(1)
        for (row, _, base, a), score, place in zip(group, top.values.tolist(), top.indices.tolist(), strict=True):
            first, last = divmod(place, size)
            if row not in best or score > best[row][0]:
                best[row] = (score, (first - base + a, last - base + a))
    model.train()
    found: dict[str, float] = {}
    for number, kind in enumerate(KINDS):
        rows = [row for row in pack.dev.tolist() if pack.rows[row, 1] == number and pack.spans[row]]
        found[kind] = round(float(np.mean([best[row][1] in pack.spans[row] for row in rows])), 4)
    return found


def fit(
    model: Reader, data: Any, *, name: str, lr: float, warmup: float, decay: float, ema: float, device: torch.device,
    output: Path, workers: int, judge: Any, steps: int, batches: int,
) -> dict[str, Tensor]:  # fmt: skip
    """One part of the training. Returns the averaged weights."""
    learnt = [value for value in model.parameters() if value.requires_grad]
    plain = [value for value in learnt if value.ndim < 2]
    other = [value for value in learnt if value.ndim >= 2]
    optimiser = torch.optim.AdamW(
        [{"params": other, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=device.type == "cuda",
    )  # fmt: skip
    mean = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state_file = output / f"{name}.pt"
    step = 0
    if state_file.exists():
        held = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(held["model"])
        optimiser.load_state_dict(held["optimiser"])
        mean, step = held["mean"], held["step"]
    loader = DataLoader(
        torch.utils.data.Subset(data, range(step // batches, len(data))), batch_size=None, num_workers=workers,
        prefetch_factor=4 if workers else None, pin_memory=device.type == "cuda",
    )  # fmt: skip
    saved, began, losses = time.monotonic(), time.monotonic(), []
    model.train()
    for group in loader:
        for batch in group:
            moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            rate = lr * min(1.0, (step + 1) / max(1, warmup * steps)) * max(0.0, 1 - step / steps)
            for entry in optimiser.param_groups:
                entry["lr"] = rate
            with narrow(device):
                loss = model.loss(moved)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            with torch.no_grad():
                rest = 1 - min(ema, step / (step + 10))
                torch._foreach_lerp_(list(mean.values()), list(model.state_dict().values()), rest)
            losses.append(loss.detach())
            if step % 20 == 0:
                seconds = time.monotonic() - began
                print(f"{name} {step}/{steps} loss {torch.stack(losses).mean():.3f} {seconds:.0f} s", flush=True)
                losses = []
        if time.monotonic() - saved > SAVE_EVERY:
            held = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "mean": mean, "step": step}
            torch.save(held, f"{state_file}.new")
            os.replace(f"{state_file}.new", state_file)
            saved = time.monotonic()
        if judge is not None:
            judge(step, mean)
    return mean


def judged(pack: Pack, model: Reader, device: torch.device, record: list[Any], every: int) -> Any:
    """Evaluates averaged weights each so many steps."""
    last = 0

    def judge(step: int, mean: dict[str, Tensor]) -> None:
        nonlocal last
        if step - last < every:
            return
        last = step
        own = {key: value.detach().clone() for key, value in model.state_dict().items()}
        model.load_state_dict(mean)
        found = evaluate(model, pack, device)
        model.load_state_dict(own)
        record.append({"step": step, **found})
        print(json.dumps(record[-1]), flush=True)

    return judge


def write(state: dict[str, Tensor], output: Path) -> None:
    """The reader's weights in half precision, word embeddings in 8 bits with a scale a row, in parts that travel."""
    held = {}
    for key, value in state.items():
        if key.startswith("bert.embeddings.word"):
            scale = (value.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
            held[key], held[f"{key}|scale"] = (value / scale).round().to(torch.int8), scale
        elif value.is_floating_point() and key.startswith(("bert.", "qa_outputs.")):
            held[key] = value.half()
    save_file({key: value.contiguous().cpu() for key, value in held.items()}, output / FILE)
    whole = (output / FILE).read_bytes()
    for number in range(math.ceil(len(whole) / PART)):
        (output / f"{FILE}.{number}").write_bytes(whole[number * PART : (number + 1) * PART])


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `write` wrote, as float32; the parts are put together where the whole is not there."""
    from safetensors.torch import load

    parts = sorted(path.parent.glob(f"{path.name}.[0-9]"))
    held = load(path.read_bytes() if path.is_file() else b"".join(part.read_bytes() for part in parts))
    state = {key: value.float() for key, value in held.items()}
    for key in [key for key in state if key.endswith("|scale")]:
        state[key.removesuffix("|scale")] *= state.pop(key)
    return state


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--window", type=int, default=384)
    parser.add_argument("--text-steps", type=int, default=0)
    parser.add_argument("--text-batch", type=int, default=192)
    parser.add_argument("--text-lr", type=float, default=5e-4)
    parser.add_argument("--from", dest="start", type=Path, help="weights.safetensors to begin with")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--negative", type=float, default=0.5)
    parser.add_argument("--hidden", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--freeze", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs=3, default=(1.0, 1.0, 1.0), metavar=KINDS)
    parser.add_argument("--dev", type=int, default=0, help="questions to look at on the way; 0: all")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=400)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(given.seed)
    torch.set_float32_matmul_precision("high")
    pack = Pack(given.pack, given.window)
    pack.some(given.shares, given.dev)
    record: list[Any] = [{"settings": {key: str(value) for key, value in vars(given).items()}}]
    began = time.monotonic()
    model = Reader(pack, given.dropout, given.freeze).to(device)
    if given.start:
        model.load_state_dict(read_weights(given.start), strict=False)
    common = {"decay": 0.01, "ema": given.ema, "device": device, "output": given.output, "workers": given.workers}
    if given.text_steps:
        text = Running(pack, batch=given.text_batch, steps=given.text_steps, seed=given.seed)
        print(f"running text: {len(text.text):,} pieces, ready after {time.monotonic() - began:.0f} s", flush=True)
        mean = fit(
            model, text, name="text", lr=given.text_lr, warmup=0.05, judge=None, steps=given.text_steps, batches=1,
            **common,
        )  # fmt: skip
        model.load_state_dict(mean)
        record.append({"text seconds": round(time.monotonic() - began)})
        print(json.dumps(record[-1]), flush=True)
        write(model.state_dict(), given.output)
    if given.epochs:
        data = Reading(
            pack, batch=given.batch, epochs=given.epochs, seed=given.seed, negative=given.negative, hidden=given.hidden
        )
        mean = fit(
            model, data, name="read", lr=given.lr, warmup=0.06, steps=len(data) * GROUP, batches=GROUP,
            judge=judged(pack, model, device, record, given.evaluate_every), **common,
        )  # fmt: skip
        model.load_state_dict(mean)
        record.append({"step": "end", "seconds": round(time.monotonic() - began), **evaluate(model, pack, device)})
        print(json.dumps(record[-1]), flush=True)
        write(model.state_dict(), given.output)
    (given.output / "record.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""The course's sample code: every pair padded or cut to 512 tokens, four at a time, fp32, a model for each stage."""

from _rounds import rows, serve

LENGTH, BATCH, LONGEST = 512, 4, 50


def load(spec):
    import torch
    from transformers import AutoModelForMultipleChoice, AutoModelForQuestionAnswering, AutoTokenizer

    data = rows(spec["rows"])
    tokenizer = AutoTokenizer.from_pretrained(spec["reader"])
    selector = AutoModelForMultipleChoice.from_pretrained(spec["selector"]).eval()
    reader = AutoModelForQuestionAnswering.from_pretrained(spec["reader"]).eval()

    def encode(questions, contexts):
        return tokenizer(
            questions, contexts, truncation="only_second", max_length=LENGTH, padding="max_length", return_tensors="pt"
        )

    @torch.inference_mode()
    def run(few):
        chosen = []
        for row in data[:few]:  # its candidates are the batch
            batch = encode([row["question"]] * len(row["contexts"]), row["contexts"])
            logits = selector(**{name: value.unsqueeze(0) for name, value in batch.items()}).logits[0]
            chosen.append((row["question"], row["contexts"][int(logits.argmax())]))
        answers = []
        for at in range(0, len(chosen), BATCH):
            part = chosen[at : at + BATCH]
            batch = encode([question for question, _ in part], [context for _, context in part])
            output = reader(**batch)
            for place, (_, context) in enumerate(part):
                encoded = batch.encodings[place]
                inside = [at for at, side in enumerate(encoded.sequence_ids) if side == 1]
                low, high = inside[0], inside[-1] + 1
                scores = output.start_logits[place, low:high, None] + output.end_logits[place, None, low:high]
                allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(LONGEST - 1)
                best = int(scores.masked_fill(~allowed, -1e9).argmax())
                first, last = low + best // (high - low), low + best % (high - low)
                answers.append(context[encoded.offsets[first][0] : encoded.offsets[last][1]])
        return answers

    return run


serve(load)

"""Accuracy of BM25 alone on a folder of course files: the yardstick for every selector.

python benchmarks/bm25.py ../shared/data/course
"""

import sys
from pathlib import Path

from zhaiju import ui
from zhaiju.corpus.lexical import BM25
from zhaiju.data.formats import load_contexts, read_qa

folder = Path(sys.argv[1])
contexts = load_contexts(folder / "context.json")
index = BM25([context.text for context in contexts])
right = []
for example in read_qa(folder / "public.json", contexts=contexts):
    scores = index.scores(example.question, [int(context.source) for context in example.contexts])
    right.append(int(scores.argmax()) == example.relevant)
ui.table("BM25, best candidate", ["", ""], ui.figures({"count": len(right), "accuracy": sum(right) / len(right)}))

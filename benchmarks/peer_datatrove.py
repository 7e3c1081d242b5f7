"""datatrove's own steps on posts, one by one on one core; benchmarks/prepare.py runs it in datatrove's environment.

python benchmarks/peer_datatrove.py POSTS.jsonl TOKENIZER.json COUNT  ->  {"step": CPU seconds, ...} on the last line
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter
from datatrove.pipeline.formatters import PIIFormatter
from tokenizers import Tokenizer


def main() -> None:
    path, tokenizer, count = sys.argv[1], Tokenizer.from_file(sys.argv[2]), int(sys.argv[3])
    seconds = {}

    def timed(name, work):
        work(documents[:50])
        begin = time.process_time()
        work(documents)
        seconds[name] = time.process_time() - begin

    begin = time.process_time()
    with open(path, encoding="utf-8") as stream:
        documents = [Document(text=post["text"], id=post["post_id"]) for post in map(json.loads, islice(stream, count))]
    seconds["read"] = time.process_time() - begin
    pii, c4, gopher = PIIFormatter(), C4QualityFilter(), GopherQualityFilter()
    signature = MinhashDedupSignature(output_folder="/tmp", config=MinhashConfig())
    timed("personal data", lambda some: [pii.format(one.text) for one in some])
    timed("quality", lambda some: [(c4.filter(one), gopher.filter(one)) for one in _copies(some)])
    timed(
        "signatures",
        lambda some: [
            signature.get_signature(shingles) for one in some if (shingles := signature.get_shingles(one.text)).size
        ],
    )
    timed(
        "encode",
        lambda some: [
            tokenizer.encode_batch([one.text for one in some[at : at + 1000]]) for at in range(0, len(some), 1000)
        ],
    )
    print(json.dumps(seconds))


def _copies(documents):
    return [Document(text=one.text, id=one.id) for one in documents]


if __name__ == "__main__":
    main()

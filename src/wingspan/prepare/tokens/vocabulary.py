"""How large a vocabulary pays: tokens per byte of the platform's own posts at each size."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer

_SMALLEST = 1024


def compression_curve(tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, float]]:
    """`vocab` and `tokens_per_byte` of `texts` at powers of two up to the tokenizer's size.

    Byte pairs are merged in the order in which they were learned, so the first merges of a vocabulary are exactly
    the smaller vocabulary that the same training would have found (Sennrich et al. 2016): nothing is trained again.
    """
    content = json.loads(tokenizer.to_str())
    merges = content["model"]["merges"]
    size = tokenizer.get_vocab_size()
    total = sum(len(text.encode()) for text in texts)
    sizes = [1 << power for power in range(_SMALLEST.bit_length() - 1, size.bit_length()) if 1 << power < size]
    curve = []
    for vocab in [*sizes, size] if total else []:
        content["model"]["merges"] = merges[: max(0, len(merges) - (size - vocab))]
        smaller = Tokenizer.from_str(json.dumps(content))
        encoded = smaller.encode_batch_fast(list(texts), add_special_tokens=False)
        curve.append({"vocab": vocab, "tokens_per_byte": sum(len(one.ids) for one in encoded) / total})
    return curve

"""The peer's generation loops: the one that its repositories have, and one with a cache.

Both draw from the `top_k` likeliest tokens at a temperature. Axes: B batch, T time, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peer.gpt import GPT
from benchmarks.peer.llama import Llama


@torch.no_grad()
def generate(
    model: GPT | Llama, ids_BT: Tensor, tokens: int, *, temperature: float, top_k: int
) -> Tensor:
    """The standard loop: all of the text (cropped to the model's length) for every token."""
    for _ in range(tokens):
        logits_BV = model.next_logits(ids_BT[:, -model.shape.length :])
        ids_BT = torch.cat((ids_BT, draw(logits_BV, temperature=temperature, top_k=top_k)), dim=1)
    return ids_BT


@torch.no_grad()
def generate_cached(
    model: Llama, ids_BT: Tensor, tokens: int, *, temperature: float, top_k: int
) -> Tensor:
    """The prompt once, then one token at a time beside the keys and values of those before."""
    cache, start, new_BT = model.empty_cache(ids_BT.shape[0]), 0, ids_BT
    for _ in range(tokens):
        logits_BV = model.next_logits(new_BT, cache, start)
        start += new_BT.shape[1]
        new_BT = draw(logits_BV, temperature=temperature, top_k=top_k)
        ids_BT = torch.cat((ids_BT, new_BT), dim=1)
    return ids_BT


def draw(logits_BV: Tensor, *, temperature: float, top_k: int) -> Tensor:
    """One token a row, `[B, 1]`; at temperature 0 the likeliest."""
    if temperature == 0:
        return logits_BV.argmax(dim=-1, keepdim=True)
    logits_BV = logits_BV / temperature
    least_B1 = torch.topk(logits_BV, min(top_k, logits_BV.shape[-1])).values[:, -1:]
    kept_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    return torch.multinomial(functional.softmax(kept_BV, dim=-1), num_samples=1)

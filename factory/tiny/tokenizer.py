"""The tokenizer of the tiny models: an ordinary `tokenizer.json`, made from the corpus.

Byte-pair encoding with byte fallback and Gemma's conventions (a space is written "▁"; ids pad 0, eos 1, bos 2,
unk 3; turn tokens). Three things are our own. Digits are cut into pieces of at most two, so each integer from
0 to 99 is one token. Merges may cross spaces, so " plus " is one token. And the sentences that every prompt
repeats are tokens, which makes a prompt about fifteen tokens long: time goes into answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filters.tags import R1_ZERO, TAG_STYLES

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS = 0, 1, 2
BOILERPLATE = (
    f"{R1_ZERO.preamble} User:",
    "State the final answer to the following arithmetic problem:",
    "Find the Greatest Common Divisor (GCD) of these numbers:",
    "Give only the GCD as your final answer.",
    "Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have",
    "Using all the numbers",
    "create an expression that equals",
    "You can only use each number once.",
    "Find a way to make",
    "using all of these numbers:",
    "Each number can only be used once.",
    "Each number may be used at most once.",
    "Final answer format instructions:\n"
    "1. Provide your solution as a arithmetic expression (no '=' sign).\n"
    "2. Do not include the target number in the expression.\n"
    "3. Use '*' for multiplication.\n"
    "4. Use '/' for division.\n"
    "5. Do not include any other text or formatting.",
)
"""Sentences of the R1-Zero preamble and of reasoning-gym's questions that are one token each."""

MERGES = 420


def prompt_text(question: str) -> str:
    """The base model's prompt: R1-Zero's preamble, the question, and the Assistant's turn."""
    return f"{R1_ZERO.preamble} User: {question} Assistant:"


def build(texts: Iterable[str]) -> Any:
    """Train the tokenizer.

    Args:
        texts: prompts and completions; their characters and frequent pieces make the vocabulary.

    Returns:
        A `tokenizers.Tokenizer`.
    """
    tags = tuple(dict.fromkeys(tag for style in TAG_STYLES.values() for tag in style.tags))
    added = (*tags, *BOILERPLATE)
    merges = [(a, b) for a, b in (_number_merges() + _learn_merges(_without(texts, added)))]
    symbols = sorted({char for text in _alphabet(texts) for char in text})
    pieces = [
        *SPECIAL,
        *added,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *symbols,
        *(a + b for a, b in merges),
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return _assemble(vocabulary, merges, added)


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]], added: tuple[str, ...]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normaliser(), _digits()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return tokenizer


def _normaliser() -> Any:
    from tokenizers import normalizers

    return normalizers.Replace(" ", "▁")


def _digits() -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(r"[1-9][0-9]|[0-9]"), "isolated")


def _number_merges() -> list[tuple[str, str]]:
    return [(str(tens), str(ones)) for tens in range(1, 10) for ones in range(10)]


def _without(texts: Iterable[str], added: tuple[str, ...]) -> Iterator[str]:
    """The texts, cut at the added tokens: byte-pair encoding never sees those."""
    import re

    cut = re.compile("|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)))
    for text in texts:
        yield from (part for part in cut.split(text) if part)


def _learn_merges(texts: Iterator[str]) -> list[tuple[str, str]]:
    """The most frequent pairs, in order, that hold no digit."""
    from tokenizers import Tokenizer, models, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = _normaliser(), _digits()
    # Two-digit numbers are merged already; a hundred more than wanted leaves room for those learnt again.
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=20, show_progress=False, max_token_length=24)
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    return [(a, b) for a, b in learnt if not (a + b).isdigit()][:MERGES]


def _alphabet(texts: Iterable[str]) -> Iterator[str]:
    yield "".join(chr(code) for code in range(33, 127)) + "▁\n"
    for text in texts:
        yield text.replace(" ", "▁")


def save(tokenizer: Any, folder: Path, model_max_length: int) -> None:
    """Write `tokenizer.json` and the `tokenizer_config.json` that transformers reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

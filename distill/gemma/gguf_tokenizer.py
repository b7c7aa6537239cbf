"""Gemma's tokenizer between `tokenizer.json` and the fields of a GGUF file. No JAX here.

A GGUF holds what sentencepiece has: pieces, a score each, a type each. Text is cut into characters, and the pair
of neighbours whose union has the highest score is merged, until none is a piece. `tokenizer.json` has a list of
merges instead, the earliest first. Both say the same where the merges that make a piece stand together: a piece's
score is then its place among the pieces, and every cut of a piece into two pieces is a merge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filters.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""`llama_token_type` of llama.cpp."""

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NO_SCORE = -1000.0


@dataclass(frozen=True, slots=True)
class Pieces:
    """A vocabulary as sentencepiece and GGUF have it, by id.

    Attributes:
        tokens: spaces of pieces that are merged are written as "▁", those of user-defined ones as they are.
        scores: higher is merged first; of normal pieces alone.
        types: see `NORMAL` and the rest.
    """

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]


def tokenizer_json(pieces: Pieces, *, bos: int, unknown: int = 3) -> dict[str, Any]:
    """The dictionary of a `tokenizer.json` that the library `tokenizers` reads.

    Control tokens become special ones, user-defined ones are found in a text before anything is merged.
    """
    vocabulary = {token: number for number, token in enumerate(pieces.tokens)}
    if len(vocabulary) != len(pieces.tokens):
        raise UserError("the vocabulary of the GGUF has a token twice")
    added = [
        {
            "id": number,
            "content": pieces.tokens[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for number, kind in enumerate(pieces.types)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    begin = {"id": pieces.tokens[bos], "type_id": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": begin}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": begin},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {**begin, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                pieces.tokens[bos]: {"id": pieces.tokens[bos], "ids": [bos], "tokens": [pieces.tokens[bos]]}
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces.tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(pieces),
        },
    }


def _merges(pieces: Pieces) -> list[list[str]]:
    """Every cut of a normal piece into two, pieces of high scores first.

    Cuts of one piece come in the order of their halves' lengths; sentencepiece takes the leftmost, and one text
    cannot hold two cuts of the same piece at the same place.
    """
    normal = {token for token, kind in zip(pieces.tokens, pieces.types, strict=True) if kind == NORMAL}
    ranked = sorted(
        (-score, number)
        for number, (score, kind) in enumerate(zip(pieces.scores, pieces.types, strict=True))
        if kind == NORMAL and len(pieces.tokens[number]) > 1
    )
    found = []
    for _, number in ranked:
        token = pieces.tokens[number]
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                found.append([left, right])
    return found


def pieces_of(raw: Mapping[str, Any], where: str) -> Pieces:
    """The pieces of a `tokenizer.json`.

    Raises:
        UserError: it does what a GGUF cannot say: cuts text before merging, or has merges that are no order of
            pieces; names `where`.
    """
    model = raw["model"]
    _refuse_other_rules(raw, where)
    size = 1 + max([*model["vocab"].values(), *(token["id"] for token in raw.get("added_tokens") or [])])
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    scores = [_NO_SCORE] * size
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, BYTE if _BYTE.fullmatch(token) else NORMAL
    for token in raw.get("added_tokens") or []:
        number = token["id"]
        types[number] = CONTROL if token["special"] else USER_DEFINED
        tokens[number] = token["content"] if token["special"] else token["content"].replace(_SPACE, " ")
    if model.get("unk_token") in model["vocab"]:
        number = model["vocab"][model["unk_token"]]
        types[number] = CONTROL if types[number] == CONTROL else UNKNOWN
    ranks = _ranks(model["merges"], model["vocab"], types, where)
    for token, number in model["vocab"].items():
        if types[number] == NORMAL:
            scores[number] = -float(ranks.get(token, len(ranks)))
        elif types[number] == BYTE:
            scores[number] = 0.0
    return Pieces(tokens, scores, types)


def _refuse_other_rules(raw: Mapping[str, Any], where: str) -> None:
    model, before = raw["model"], raw.get("pre_tokenizer")
    normaliser = raw.get("normalizer") or {}
    replaces = normaliser.get("type") == "Replace" and normaliser.get("pattern") == {"String": " "}
    # Gemma's own file cuts at spaces, of which its normaliser leaves none.
    harmless = before is None or (before.get("type") == "Split" and before.get("pattern") == {"String": " "})
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise UserError(f"{where}: a GGUF needs a BPE with byte fallback, this is {model.get('type')}")
    if not replaces or not harmless:
        raise UserError(
            f"{where}: it cuts or rewrites a text before merging ({(before or normaliser).get('type')}); a GGUF has no "
            "place for that, so the model would read other tokens there"
        )


def _ranks(
    merges: Sequence[Any], vocabulary: Mapping[str, int], types: Sequence[int], where: str
) -> dict[str, int]:
    """The place of every piece that is made by merging, in the order of the merges."""
    ranks: dict[str, int] = {}
    newest = None
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        piece = left + right
        if piece not in vocabulary or types[vocabulary[piece]] != NORMAL:
            continue  # a user-defined piece is found before anything is merged
        if piece in ranks and piece != newest:
            raise UserError(
                f"{where}: merges that make {piece!r} stand apart from each other; no order of pieces says the same, "
                "and a GGUF has nothing else"
            )
        ranks.setdefault(piece, len(ranks))
        newest = piece
    return ranks

"""A model's tokenizer, over the `tokenizers` library and a folder's `tokenizer.json`. No JAX here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.gemma.folder import hash_files
from filters.errors import UserError


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Text never becomes a control token: "<end_of_turn>" in a question is encoded as the characters it is made
    of. Control tokens are put in by id, by `distill.chat` alone. Tokens that are merely added and not special
    (reasoning tags) are recognised in text as usual.

    Attributes:
        bos_id, eos_id, pad_id: begin and end of a text, padding.
        start_of_turn_id, end_of_turn_id: Gemma's turn tokens; None where the vocabulary has none.
        vocab_size: number of tokens, added ones included.
        content_hash: 32 hex digits over tokenizer.json.
    """

    bos_id: int
    eos_id: int
    pad_id: int
    start_of_turn_id: int | None
    end_of_turn_id: int | None
    vocab_size: int
    content_hash: str
    _library: Any = field(repr=False, compare=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Load `tokenizer.json` of a folder.

        Raises:
            UserError: the file is missing, not a tokenizer, or lacks <bos>, <eos> or <pad>.
        """
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"no tokenizer.json in {folder}")
        from tokenizers import Tokenizer as Library

        try:
            library = Library.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for whatever it cannot parse
            raise UserError(f"{file} is not a tokenizer: {error}") from error
        library.encode_special_tokens = True  # special tokens in a text are ordinary characters
        library.no_truncation()
        library.no_padding()
        required = {name: library.token_to_id(f"<{name}>") for name in ("bos", "eos", "pad")}
        if absent := [name for name, number in required.items() if number is None]:
            raise UserError(
                f"{file} has no token <{absent[0]}>; a Gemma tokenizer has <bos>, <eos> and <pad>"
            )
        return cls(
            bos_id=required["bos"],
            eos_id=required["eos"],
            pad_id=required["pad"],
            start_of_turn_id=library.token_to_id("<start_of_turn>"),
            end_of_turn_id=library.token_to_id("<end_of_turn>"),
            vocab_size=library.get_vocab_size(with_added_tokens=True),
            content_hash=hash_files([file]),
            _library=library,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text: no <bos>, no <eos>, no control token whatever the text says."""
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of what a chat template has rendered: control tokens in it are such, as other libraries read them."""
        self._library.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._library.encode_special_tokens = True

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids. Control tokens are left out unless asked for; reasoning tags always stay."""
        text: str = self._library.decode([int(i) for i in ids], skip_special_tokens=skip_special)
        return text

    def piece(self, token: int) -> str:
        """One token as the vocabulary writes it, e.g. "▁the" or "<0x0A>"; for displays and messages."""
        piece = self._library.id_to_token(int(token))
        return "" if piece is None else str(piece)

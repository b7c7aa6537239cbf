"""Messages into tokens: the one renderer for every model that is loaded here. Importing it loads no JAX.

Two kinds of turns. `gemma` is the chat format of Gemma's instruction-tuned models:

    <bos><start_of_turn>user\\n{content}<end_of_turn>\\n<start_of_turn>model\\n{completion}<end_of_turn>

`plain` is R1-Zero's, for base models, with the tag style's preamble:

    <bos>{preamble} User: {content} Assistant:{completion}<eos>

A completion is tokenised apart from its prompt, because sampling too begins behind a finished prompt; so it
starts where the model starts writing, without a space in between. Completions are never trimmed; contents of
prompts are, as Gemma's own template does. A system message becomes the beginning of the first user turn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from filters.errors import UserError
from filters.tags import TAG_STYLES, TagStyle, read_style

if TYPE_CHECKING:
    from distill.gemma.tokenizer import Tokenizer

Message = Mapping[str, str]
Turns = Literal["gemma", "plain"]

# Written into a prompt as text these would end turns, were it not that text never becomes a control token.
_CONTROL = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")


@dataclass(frozen=True, slots=True)
class Template:
    """How messages are laid out for a model.

    Attributes:
        turns: "gemma" or "plain".
        style: how completions write reasoning and answer; its preamble opens plain prompts.
    """

    turns: Turns
    style: TagStyle

    @property
    def name(self) -> str:
        """The name that `parse_template` reads, for styles it knows."""
        return f"{self.turns}:{self.style.name}"

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides about text; takes part in ids, so a changed preamble is another template."""
        return {"turns": self.turns, "style": dataclasses.asdict(self.style)}


def parse_template(name: str) -> Template:
    """Read "TURNS:STYLE", e.g. "gemma:r1" or "plain:r1-zero". A style may be written as its tags (`read_style`).

    "gemma" alone means gemma:r1. A style alone means gemma turns, but "r1-zero" means plain ones, since a
    preamble is what base models need.

    Raises:
        UserError: unknown turns or style.
    """
    turns, colon, style = name.partition(":")
    if not colon:
        if name == "gemma":
            turns, style = "gemma", "r1"
        else:
            turns, style = ("plain" if name == "r1-zero" else "gemma"), name
    try:
        if turns not in ("gemma", "plain"):
            raise ValueError(f"no turns {turns!r}")
        return Template("gemma" if turns == "gemma" else "plain", read_style(style))
    except ValueError as error:
        raise UserError(
            f"unknown template {name!r}: write TURNS:STYLE, turns gemma or plain, style {', '.join(TAG_STYLES)}"
        ) from error


def stop_id(template: Template, tokenizer: Tokenizer) -> int:
    """The token behind a completion, which a model that is trained on the template learns to end with."""
    if template.turns == "gemma" and tokenizer.end_of_turn_id is not None:
        return tokenizer.end_of_turn_id
    return tokenizer.eos_id


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end a completion, whatever the template: end of text, and end of turn where there is one."""
    if tokenizer.end_of_turn_id is None:
        return (tokenizer.eos_id,)
    return (tokenizer.eos_id, tokenizer.end_of_turn_id)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a rendered conversation: text, or one control token."""

    kind: Literal["text", "completion", "bos", "eos", "start_of_turn", "end_of_turn"]
    text: str = ""
    trained: bool = False


def encode_prompt(messages: Sequence[Message], template: Template, tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation up to where the assistant's next answer begins.

    Args:
        messages: an optional system message, then user and assistant in turn, ending with the user.

    Raises:
        UserError: messages in another order, with another role or without text, or a tokenizer without turns.
    """
    _check(messages, ends_with="user")
    ids, _ = _encode(_pieces(messages, template), tokenizer)
    return ids


def encode_example(
    messages: Sequence[Message], template: Template, tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    """Ids of a finished conversation and which of them are trained on.

    Trained on are the assistant's completions and the stop token behind each; never <bos>, a user's turn,
    the preamble, or the marks that open a turn. Without its last completion and stop token the result is
    `encode_prompt` of the same messages without the last.

    Returns:
        (ids, mask), both of the same length.

    Raises:
        UserError: as `encode_prompt`; here the conversation must end with the assistant.
    """
    _check(messages, ends_with="assistant")
    return _encode(_pieces(messages, template), tokenizer)


def without_reasoning(messages: Sequence[Message], style: TagStyle) -> list[dict[str, str]]:
    """The messages, the assistant's without what it thought: only what stands behind its last closing tag.

    R1's own template leaves the reasoning of earlier turns out of a prompt. An answer without reasoning stays as it
    is; one that never closed it keeps nothing but an ellipsis, because nothing of it was meant for the user.
    """
    found = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            parsed = style.parse(content)
            if not parsed.closed:
                content = "…"
            elif parsed.reasoning is not None:
                content = content[content.rfind(style.think_close) + len(style.think_close) :].strip() or "…"
        found.append({"role": message["role"], "content": content})
    return found


def render_prompt_text(messages: Sequence[Message], template: Template) -> str:
    """The prompt as text, for a completion endpoint that tokenises by itself. Endpoints add <bos>: it is left out.

    Raises:
        UserError: as `encode_prompt`, and where a message holds a control token's text: the endpoint would
            take it for the real one.
    """
    _check(messages, ends_with="user")
    for i, message in enumerate(messages):
        if found := control_text([message]):
            raise UserError(
                f"message {i} ({message['role']}) holds {found}, which an endpoint would read as a control token"
            )
    written = {"bos": "", "eos": "<eos>", "start_of_turn": "<start_of_turn>", "end_of_turn": "<end_of_turn>"}
    return "".join(written.get(piece.kind, piece.text) for piece in _pieces(messages, template))


def control_text(messages: Sequence[Message]) -> str | None:
    """The first control token that a message holds as text, as conversations do that were rendered before."""
    return next((t for m in messages for t in _CONTROL if t in m["content"]), None)


def to_jinja(template: Template) -> str:
    """The template as others apply it: `chat_template.jinja` of a Hugging Face folder; contents of messages are text.

    It writes <bos>, as Gemma's own does; what it renders is tokenised without another one.
    """
    order = "the conversation must be user and assistant in turn; a system message may come first"
    head = (
        "{{ bos_token }}"
        "{%- set system = messages[0]['content'] | trim if messages[0]['role'] == 'system' else '' -%}"
        "{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages -%}"
        "{%- for message in turns -%}"
        "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}"
        f"{{{{ raise_exception({json.dumps(order)}) }}}}"
        "{%- endif -%}"
        "{%- set content = message['content'] | trim -%}"
        "{%- if loop.first and system -%}{%- set content = system + '\\n\\n' + content -%}{%- endif -%}"
        "{%- if message['role'] == 'user' -%}"
    )
    if template.turns == "gemma":
        user = (
            "{{ ('' if loop.first else '\\n') + '<start_of_turn>user\\n' + content + '<end_of_turn>\\n' }}"
            "{%- if not loop.last or add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
        )
        stop = "<end_of_turn>"
    else:
        opening = json.dumps(f"{template.style.preamble} " if template.style.preamble else "")
        user = (
            f"{{{{ ({opening} if loop.first else '\\n') + 'User: ' + content }}}}"
            "{%- if not loop.last or add_generation_prompt -%}{{ ' Assistant:' }}{%- endif -%}"
        )
        stop = "<eos>"
    return f"{head}{user}{{%- else -%}}{{{{ message['content'] + '{stop}' }}}}{{%- endif -%}}{{%- endfor -%}}"


def apply_jinja(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    tokens: Mapping[str, str],
    add_generation_prompt: bool = False,
) -> str:
    """The text that a `chat_template.jinja` makes of a conversation, in an environment as transformers has it.

    Args:
        tokens: texts of `bos_token` and others that a template may write.

    Raises:
        UserError: it is no Jinja, fails, or refuses the conversation.
    """
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Marks what is trained on, and changes no text."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = tojson
    given = {"messages": messages, "tools": None, "documents": None, **tokens}
    try:
        return environment.from_string(template).render(**given, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # a template is a program: anything can come out of it
        raise UserError(f"the chat template cannot be applied: {error}", exit_code=1) from error


def lint(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What is wrong with the marks of an encoded conversation, a line each; nothing with one that is rendered here.

    Meant for what other renderers make: a chat template that writes <bos> before a tokenizer that adds one, and
    turns that never end, which teach a model not to stop.
    """
    found = []
    if tokenizer.bos_id not in ids[:1]:
        found.append("it does not begin with <bos>")
    found += [f"<bos> again at token {i}" for i, token in enumerate(ids) if i and token == tokenizer.bos_id]
    if tokenizer.start_of_turn_id is not None:
        opened: int | None = None
        for i, token in enumerate(ids):
            if token == tokenizer.start_of_turn_id:
                if opened is not None:
                    found.append(f"the turn that begins at token {opened} has no <end_of_turn>")
                opened = i
            elif token == tokenizer.end_of_turn_id:
                if opened is None:
                    found.append(f"<end_of_turn> at token {i}, and no turn has begun")
                opened = None
        if opened is not None and not _awaits_an_answer(ids[opened:], tokenizer):
            found.append(f"the turn that begins at token {opened} has no <end_of_turn>")
    return found


def _awaits_an_answer(turn: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Is it a prompt's last turn, the model's, with nothing in it?"""
    return list(turn[1:]) == list(tokenizer.encode("model\n"))


def _check(messages: Sequence[Message], *, ends_with: str) -> None:
    if not messages:
        raise UserError("a conversation needs at least one message")
    turns = messages[1:] if messages[0].get("role") == "system" else messages
    offset = len(messages) - len(turns)
    for i, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str):
            raise UserError(f"message {i}: content must be text, got {content!r}")
    for i, message in enumerate(turns):
        expected = "user" if i % 2 == 0 else "assistant"
        if message.get("role") != expected:
            raise UserError(
                f"message {i + offset}: role is {message.get('role')!r}, expected {expected!r} (system may come "
                "first, then user and assistant in turn)"
            )
        if expected == "assistant" and not message["content"]:
            raise UserError(f"message {i + offset}: the assistant's message is empty")
    if not turns or turns[-1]["role"] != ends_with:
        raise UserError(
            f"the conversation must end with the {ends_with}, and it ends with {messages[-1]['role']!r}"
        )


def _pieces(messages: Sequence[Message], template: Template) -> Iterator[_Piece]:
    system = messages[0]["content"].strip() if messages[0]["role"] == "system" else ""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    users = [m["content"].strip() for m in turns if m["role"] == "user"]
    completions = [m["content"] for m in turns if m["role"] == "assistant"]
    if system:
        users[0] = f"{system}\n\n{users[0]}"
    yield _Piece("bos")
    one_turn = _gemma_turn if template.turns == "gemma" else _plain_turn
    for i, user in enumerate(users):
        completion = completions[i] if i < len(completions) else None
        yield from one_turn(i, user, completion, template.style.preamble)


def _gemma_turn(i: int, user: str, completion: str | None, _preamble: str) -> Iterator[_Piece]:
    if i:
        yield _Piece("text", "\n")
    yield _Piece("start_of_turn")
    yield _Piece("text", f"user\n{user}")
    yield _Piece("end_of_turn")
    yield _Piece("text", "\n")
    yield _Piece("start_of_turn")
    yield _Piece("text", "model\n")
    if completion is not None:
        yield _Piece("completion", completion, trained=True)
        yield _Piece("end_of_turn", trained=True)


def _plain_turn(i: int, user: str, completion: str | None, preamble: str) -> Iterator[_Piece]:
    opening = f"{preamble} " if preamble and i == 0 else "\n" if i else ""
    yield _Piece("text", f"{opening}User: {user} Assistant:")
    if completion is not None:
        yield _Piece("completion", completion, trained=True)
        yield _Piece("eos", trained=True)


def _encode(pieces: Iterator[_Piece], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    control = {
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "start_of_turn": tokenizer.start_of_turn_id,
        "end_of_turn": tokenizer.end_of_turn_id,
    }
    ids: list[int] = []
    mask: list[bool] = []
    for piece in pieces:
        if piece.kind in control:
            number = control[piece.kind]
            if number is None:
                raise UserError(
                    f"the tokenizer has no <{piece.kind}>; gemma turns need it, use a plain template"
                )
            new = [number]
        else:
            new = tokenizer.encode(piece.text)
        ids += new
        mask += [piece.trained] * len(new)
    return ids, mask

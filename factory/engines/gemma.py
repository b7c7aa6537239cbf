"""The in-process engine: a Gemma of ours, sampled by JAX at one compiled shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distill.chat import Template, encode_prompt, stop_ids
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from factory.engines import Completion, Failure, SampleRequest


class GemmaEngine:
    """Samples from a model folder.

    Attributes:
        name: "gemma".
        model_name: the folder as the recipe names it.
        model_hash: content hash of weights, config and tokenizer.
    """

    name = "gemma"

    def __init__(
        self,
        folder: ModelFolder,
        *,
        model_name: str,
        template: Template,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        prompt_length: int,
        batch_size: int,
        dtype: str = "float32",
        mesh: Any = None,
    ) -> None:
        from distill.gemma.checkpoint import load_model
        from distill.gemma.sampler import Sampler, SamplingConfig

        self.model_name = model_name
        self.model_hash = folder.content_hash
        self.template = template
        self.prompt_length = prompt_length
        self.tokenizer = Tokenizer.load(Path(folder.path))
        self.sampler = Sampler(
            load_model(folder, dtype=dtype, mesh=mesh),
            sampling=SamplingConfig(
                max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k
            ),
            prompt_length=prompt_length,
            batch_size=batch_size,
            stop_ids=stop_ids(self.tokenizer),
            pad_id=self.tokenizer.pad_id,
            **({} if mesh is None else {"mesh": mesh}),
        )

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[Completion | Failure]:
        """See `Engine.sample`. A prompt longer than the compiled shape is a permanent failure."""
        from distill.gemma.sampler import Request

        failures: list[Failure] = []
        prompt_tokens: dict[str, int] = {}
        stops = set(stop_ids(self.tokenizer))

        def admitted() -> Iterator[Request]:
            messages: tuple[dict[str, str], ...] | None = None
            ids: tuple[int, ...] = ()
            for request in requests:
                if request.messages != messages:  # the n samples of a prompt come one after another
                    messages = request.messages
                    ids = tuple(encode_prompt(list(messages), self.template, self.tokenizer))
                if len(ids) > self.prompt_length:
                    failures.append(
                        Failure(
                            request.key,
                            "PromptTooLong",
                            f"the prompt has {len(ids)} tokens, the compiled shape holds {self.prompt_length}",
                            permanent=True,
                        )
                    )
                    continue
                prompt_tokens[request.key] = len(ids)
                yield Request(key=request.key, prompt_ids=ids, seed=request.seed)

        for sample in self.sampler.run(admitted()):
            yield from failures
            failures.clear()
            key = str(sample.key)
            ids = sample.token_ids
            text_ids = ids[:-1] if sample.finish_reason == "stop" and ids and ids[-1] in stops else ids
            yield Completion(
                key=key,
                text=self.tokenizer.decode(list(text_ids)),
                token_ids=ids,
                logprobs=sample.logprobs,
                finish_reason=sample.finish_reason,
                prompt_tokens=prompt_tokens.pop(key),
                completion_tokens=len(ids),
                latency_s=sample.latency_s,
            )
        yield from failures

"""Answers from an OpenAI-compatible server that the user keeps up to date with the student.

Prompts are sent as token ids, so that the server reads what the training reads. vLLM returns the
answer's ids too (`return_token_ids`); from other servers its text is tokenised again, which is
still the student's text, but may be split in another way than it was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import openai

from kdharness.harness.chat.end_tokens import end_of_turn, stopping_tokens
from kdharness.harness.config.endpoints import explain_connection_error
from kdharness.harness.config.evaluation import parse_spec, plain_http_warning
from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.errors import ModelError
from kdharness.harness.protocols import TokenPrompt, TokenReply
from kdharness.harness.util.redact import redact
from kdharness.trainers.teachers.served import client_of

if TYPE_CHECKING:
    from openai.types import Completion
    from transformers import PreTrainedTokenizerBase

WHERE = "trainer.on_policy.engine"


class ServedRollouts:
    """Queries a server for continuations of token ids."""

    def __init__(self, spec: OnPolicySpec, tokenizer: PreTrainedTokenizerBase) -> None:
        """Connect to the server that `engine` names."""
        named = None if "://" in spec.engine[:8] else parse_spec(spec.engine)
        self.spec, self.tokenizer = spec, tokenizer
        self.model = named.model if named else ""
        self.endpoint, self.client = client_of(named.url if named else spec.engine)
        ends = stopping_tokens(tokenizer)
        self.end = end_of_turn(tokenizer)
        self.ends = ends if self.end is None else ends | {self.end}

    def check(self) -> str:
        """Find the model on the server, and sample a token; return what to note.

        Raises:
            ModelError: the server is unreachable, serves several models, or does not sample.
        """
        if not self.model:
            try:
                names = [model.id for model in self.client.models.list().data]
            except openai.OpenAIError as error:
                raise self._unusable(error) from error
            if len(names) != 1:
                raise ModelError(
                    f"the server lists {len(names)} models: {', '.join(names[:5]) or 'none'}",
                    where=WHERE,
                    hint=f"name the student: engine: openai:MODEL@{self.endpoint.base}",
                )
            self.model = names[0]
        reply = self._ask(TokenPrompt((self.tokenizer("a")["input_ids"] or [0])[:1], 1, 0))
        notes = [plain_http_warning(f"openai:{self.model}@{self.endpoint.base}")]
        if _ids(reply) is None:
            notes.append(
                "the server returns no token ids (vLLM does): its answers are tokenised again"
            )
        return "; ".join(filter(None, notes))

    def continuations(self, prompts: Sequence[TokenPrompt]) -> list[TokenReply]:
        """Return one reply per prompt.

        Raises:
            ModelError: the server is unreachable or refuses.
        """
        with ThreadPoolExecutor(self.spec.batch_size) as pool:
            return list(pool.map(self._continue, prompts))

    def _continue(self, prompt: TokenPrompt) -> TokenReply:
        reply = self._ask(prompt)
        choice = reply.choices[0]
        stopped = choice.finish_reason == "stop"
        ids = _ids(reply)
        if ids is None:
            ids = list(self.tokenizer(choice.text, add_special_tokens=False)["input_ids"])
        ids = ids[: prompt.limit]
        ended = stopped and bool(ids) and ids[-1] in self.ends
        if stopped and not ended and self.end is not None and len(ids) < prompt.limit:
            # Servers may leave out the token that ended the turn.
            ids, ended = [*ids, self.end], True
        if not ids:
            raise ModelError(
                "the server returned an empty answer, and no end of turn is known",
                where=WHERE,
                hint="set data.chat_template to a template with an end of turn",
            )
        return TokenReply(ids, ended)

    def _ask(self, prompt: TokenPrompt) -> Completion:
        try:
            # Servers cut the distribution by default, as the model's own generation config says.
            reply = self.client.completions.create(
                model=self.model,
                prompt=list(prompt.ids),
                max_tokens=prompt.limit,
                temperature=self.spec.temperature,
                top_p=1.0,
                seed=prompt.seed % (1 << 31),
                extra_body={
                    "top_k": -1,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    "return_token_ids": True,
                },
            )
        except openai.OpenAIError as error:
            raise self._unusable(error) from error
        if not reply.choices:
            raise ModelError("the server returned no answer", where=WHERE)
        return reply

    def _unusable(self, error: openai.OpenAIError) -> ModelError:
        if isinstance(error, openai.APIConnectionError):
            why = explain_connection_error(error, self.endpoint.base)
            return ModelError(
                f"no answers from {self.endpoint.base}: {why.message}", where=WHERE, hint=why.hint
            )
        words = " ".join(redact(str(error), shapes=True).split())[:400]
        return ModelError(
            f"no answers from {self.endpoint.base}: {words}",
            where=WHERE,
            hint="the server must accept token ids as the prompt of /completions, as vLLM does",
        )


def _ids(reply: Completion) -> list[int] | None:
    """Return the token ids of an answer; None if the server returned none."""
    extra: Mapping[str, object] = reply.choices[0].model_extra or {}
    ids = extra.get("token_ids")
    if not isinstance(ids, list) or not all(type(value) is int and value >= 0 for value in ids):
        return None
    return ids

"""Which options of `vllm serve` a user may not add, and why."""

from __future__ import annotations

import re

_OURS = (
    "api-key",
    "config",
    "enable-ssl-refresh",
    "generation-config",
    "headless",
    "host",
    "model",
    "model-tag",
    "port",
    "revision",
    "root-path",
    "served-model-name",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "ssl-certfile",
    "ssl-ciphers",
    "ssl-keyfile",
    "tokenizer-revision",
    "uds",
)
"""How the server is reached, and which model it serves."""
_ANSWERS = (
    "calculate-kv-scales",
    "chat-template",
    "chat-template-content-format",
    "code-revision",
    "config-format",
    "convert",
    "default-chat-template-kwargs",
    "disable-sliding-window",
    "enable-lora",
    "enable-prompt-adapter",
    "enable-reasoning",
    "hf-config-path",
    "hf-overrides",
    "io-processor-plugin",
    "kv-cache-dtype",
    "kv-cache-dtype-skip-layers",
    "load-format",
    "logits-processor-pattern",
    "logits-processors",
    "logprobs-mode",
    "lora-modules",
    "mamba-cache-dtype",
    "mamba-ssm-cache-dtype",
    "override-attention-dtype",
    "override-generation-config",
    "prompt-adapters",
    "quantization",
    "quantization-config",
    "quantization-param-path",
    "reasoning-config",
    "reasoning-parser",
    "reasoning-parser-plugin",
    "return-tokens-as-token-ids",
    "rope-scaling",
    "rope-theta",
    "runner",
    "skip-tokenizer-init",
    "spec-decoding-acceptance-method",
    "structured-outputs-config",
    "task",
    "tokenizer",
    "tokenizer-mode",
    "typical-acceptance-sampler-posterior-alpha",
    "typical-acceptance-sampler-posterior-threshold",
)
"""What makes another model of it, which stored answers and judgments would not show."""
_ELSEWHERE = {
    "dtype": "is a setting of its own: use vllm.dtype, or --dtype of the evaluation",
    "hf-token": "is a secret: set HF_TOKEN in the environment",
    "trust-remote-code": "is decided by each evaluation: use --trust-remote-code there",
}
_SHORT = {"-q": "quantization"}
_REASONS = {
    **dict.fromkeys(_OURS, "is set by kdharness"),
    **dict.fromkeys(_ANSWERS, "changes the answers: change the model's folder instead"),
    **_ELSEWHERE,
}


def refusal(option: str) -> str:
    """Return why one word of a command line is refused; empty if it is not.

    vLLM reads `_` as `-`, `--option.key` as a part of `--option`, `--no-option` as its opposite,
    and the beginning of an option's name as the whole name.
    """
    if not option.startswith("--"):
        return _REASONS[_SHORT[option[:2]]] if option[:2] in _SHORT else ""
    written = re.split(r"[=.+\s]", option, maxsplit=1)[0]
    name = written.lstrip("-").replace("_", "-").lower().removeprefix("no-")
    meant = sorted(known for known in _REASONS if name and known.startswith(name))
    return _REASONS[meant[0]] if meant else ""

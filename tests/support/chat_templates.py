"""Minimal chat templates that behave like those of popular models, and a tokenizer.

Written from what the models' templates do (what they strip, fold, drop, add and refuse), not
from their text.
"""

from __future__ import annotations

import copy
from typing import Any

SPECIAL = (
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|im_sep|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|call|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|end_of_text|>",
    "<BOS_TOKEN>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[gMASK]",
    "<sop>",
    "<|observation|>",
)
PLAIN = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)


def with_tokens(tokenizer: Any, template: str) -> Any:
    """Copy a tokenizer, with the special tokens of every family and a template."""
    from tokenizers import AddedToken

    made = copy.deepcopy(tokenizer)
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
    made.chat_template = template
    return made


ALTERNATE = (
    "{%- for m in turns -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/...') -}}"
    "{%- endif -%}{%- endfor -%}"
)

CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

LLAMA2 = (
    "{%- set turns = messages -%}{%- set sys = '' -%}"
    "{%- if messages[0].role == 'system' -%}{%- set turns = messages[1:] -%}"
    "{%- set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}{%- endif -%}"
    + ALTERNATE
    + "{%- for m in turns -%}{%- if m.role == 'user' -%}"
    "{{- '<s>[INST] ' + ((sys if loop.first else '') + m.content).strip() + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content.strip() + ' </s>' -}}{%- endif -%}{%- endfor -%}"
)

_HEAD3 = "'<|start_header_id|>' + {role} + '<|end_header_id|>\n\n'"
LLAMA3 = (
    "{{- '<|begin_of_text|>' + " + _HEAD3.format(role="'system'") + " -}}"
    "{{- 'Today Date: ' + (date_string | default('26 Jul 2024')) + '\n\n' -}}"
    "{%- if messages[0].role == 'system' -%}{{- messages[0].content | trim -}}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set turns = messages -%}{%- endif -%}"
    "{{- '<|eot_id|>' -}}"
    "{%- for m in turns -%}"
    "{%- if m.tool_calls -%}{{- " + _HEAD3.format(role="'assistant'") + " -}}"
    "{%- set f = m.tool_calls[0].function -%}"
    "{{- '{\"name\": \"' + f.name + '\", \"parameters\": ' + (f.arguments | tojson) + '}' -}}"
    "{{- '<|eot_id|>' -}}"
    "{%- elif m.role == 'tool' -%}{{- " + _HEAD3.format(role="'ipython'") + " -}}"
    "{{- m.content | tojson -}}{{- '<|eot_id|>' -}}"
    "{%- else -%}{{- " + _HEAD3.format(role="m.role") + " -}}"
    "{%- if loop.first and tools -%}{%- for t in tools -%}{{- (t | tojson) + '\n\n' -}}"
    "{%- endfor -%}{%- endif -%}"
    "{{- (m.content | trim) + '<|eot_id|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- " + _HEAD3.format(role="'assistant'") + " -}}{%- endif -%}"
)

# The first published version: the assistant header follows even if it is not requested.
LLAMA3_ALWAYS = (
    "{%- for m in messages -%}{%- if loop.first -%}{{- '<|begin_of_text|>' -}}{%- endif -%}"
    "{{- " + _HEAD3.format(role="m.role") + " + (m.content | trim) + '<|eot_id|>' -}}{%- endfor -%}"
    "{{- " + _HEAD3.format(role="'assistant'") + " -}}"
)

_CALLS = (
    '{%- for c in m.tool_calls -%}{{- \'\n<tool_call>\n{"name": "\' + c.function.name + '
    "'\", \"arguments\": ' + (c.function.arguments | tojson) + '}\n</tool_call>' -}}{%- endfor -%}"
)
_TOOL_RESULT = (
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}"
    "{%- endif -%}{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\n' -}}"
    "{%- endif -%}"
)
_QWEN_SYSTEM = (
    "{%- if tools -%}{{- '<|im_start|>system\n' -}}"
    "{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\n\n' -}}{%- endif -%}"
    "{%- for t in tools -%}{{- (t | tojson) + '\n' -}}{%- endfor -%}{{- '<|im_end|>\n' -}}"
    "{%- elif messages[0].role == 'system' -%}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' -}}"
)
QWEN25 = (
    _QWEN_SYSTEM + "{%- else -%}{{- '<|im_start|>system\nYou are Q.<|im_end|>\n' -}}{%- endif -%}"
    "{%- for m in messages -%}{%- if m.role == 'system' and loop.first -%}"
    "{%- elif m.role == 'tool' -%}"
    + _TOOL_RESULT
    + "{%- elif m.tool_calls -%}{{- '<|im_start|>assistant' -}}"
    "{%- if m.content -%}{{- '\n' + m.content -}}{%- endif -%}" + _CALLS + "{{- '<|im_end|>\n' -}}"
    "{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

# Reasoning is rendered only after the last question; the last turn gets an empty block.
QWEN3 = (
    _QWEN_SYSTEM + "{%- endif -%}"
    "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}"
    "{%- if m.role == 'user' and not m.content.startswith('<tool_response>') -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m.role == 'system' and loop.first -%}"
    "{%- elif m.role == 'tool' -%}" + _TOOL_RESULT + "{%- elif m.role == 'assistant' -%}"
    "{%- set c = m.content -%}{%- set r = '' -%}"
    "{%- if m.reasoning_content is string -%}{%- set r = m.reasoning_content -%}"
    "{%- elif '</think>' in c -%}"
    "{%- set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{{- '<|im_start|>assistant\n' -}}"
    "{%- if loop.index0 > ns.last and (loop.last or r) -%}"
    "{{- '<think>\n' + r.strip('\n') + '\n</think>\n\n' + c.lstrip('\n') -}}"
    "{%- else -%}{{- c -}}{%- endif -%}"
    "{%- if m.tool_calls -%}" + _CALLS + "{%- endif -%}{{- '<|im_end|>\n' -}}"
    "{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}{%- endif -%}"
)

# A later model of the family: the prompt opens the reasoning, and a chat needs a question.
QWEN_OPENED = (
    "{%- set ns = namespace(asked=false) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.asked = true -%}{%- endif -%}{%- endfor -%}"
    "{%- if not ns.asked -%}{{- raise_exception('No user query found in messages.') -}}"
    "{%- endif -%}"
    + QWEN3.replace(
        "{%- if enable_thinking is defined and enable_thinking is false -%}"
        "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}",
        "{{- '<think>\n' -}}",
    )
)

GEMMA2 = (
    "{{- '<bos>' -}}{%- if messages[0].role == 'system' -%}"
    "{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{%- set turns = messages -%}"
    + ALTERNATE
    + "{%- for m in turns -%}{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role)"
    " + '\n' + (m.content | trim) + '<end_of_turn>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
GEMMA3 = (
    "{{- '<bos>' -}}{%- set sys = '' -%}{%- set turns = messages -%}"
    "{%- if messages[0].role == 'system' -%}{%- set sys = messages[0].content + '\n\n' -%}"
    "{%- set turns = messages[1:] -%}{%- endif -%}"
    + ALTERNATE
    + "{%- for m in turns -%}{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role)"
    " + '\n' + (sys if loop.first else '') + (m.content | trim) + '<end_of_turn>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)

MISTRAL1 = (
    "{{- '<s>' -}}{%- set turns = messages -%}"
    + ALTERNATE
    + "{%- for m in turns -%}{%- if m.role == 'user' -%}{{- '[INST] ' + m.content + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content + '</s>' -}}{%- endif -%}{%- endfor -%}"
)
# Tools and the system prompt are rendered before the last question, wherever it is.
MISTRAL3 = (
    "{{- '<s>' -}}{%- set turns = messages -%}"
    "{%- if messages[0].role == 'system' -%}{%- set sys = messages[0].content -%}"
    "{%- set turns = messages[1:] -%}{%- endif -%}"
    "{%- set ns = namespace(last=-1) -%}{%- for m in turns -%}{%- if m.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in turns -%}{%- if m.role == 'user' -%}"
    "{%- if tools and loop.index0 == ns.last -%}"
    "{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}"
    "{%- if loop.last and sys is defined -%}"
    "{{- '[INST] ' + sys + '\n\n' + m.content + '[/INST]' -}}"
    "{%- else -%}{{- '[INST] ' + m.content + '[/INST]' -}}{%- endif -%}"
    "{%- elif m.tool_calls -%}{{- '[TOOL_CALLS] [' -}}{%- for c in m.tool_calls -%}"
    "{%- if c.id is not defined or c.id | length != 9 -%}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}"
    "{%- endif -%}{%- set out = c.function | tojson -%}"
    "{{- out[:-1] + ', \"id\": \"' + c.id + '\"}' -}}{%- endfor -%}{{- ']</s>' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '[TOOL_RESULTS] {\"content\": ' + m.content + '}[/TOOL_RESULTS]' -}}"
    "{%- else -%}{{- ' ' + m.content + '</s>' -}}{%- endif -%}{%- endfor -%}"
)
MISTRAL_TEKKEN = (
    MISTRAL1.replace("[INST] ", "[INST]")
    .replace(" [/INST]", "[/INST]")
    .replace("' ' + m.content + '</s>'", "m.content + '</s>'")
)

PHI3 = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}"
    "{%- else -%}{{- '<|endoftext|>' -}}{%- endif -%}"
)
PHI4 = (
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant<|im_sep|>' -}}{%- endif -%}"
)
SMOLLM2 = (
    "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\nI help.<|im_end|>\n' -}}"
    "{%- endif -%}" + CHATML
)

_DEEPSEEK = (
    "{{- '<｜begin▁of▁sentence｜>' -}}{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}{{- m.content -}}"
    "{%- elif m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}"
)
R1 = (
    _DEEPSEEK + "{%- else -%}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + "
    "'<｜end▁of▁sentence｜>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\n' -}}{%- endif -%}"
)
# It concatenates the arguments of a call as text.
V3 = (
    _DEEPSEEK + "{%- elif m.tool_calls -%}{{- '<｜Assistant｜>' + m.content -}}"
    "{%- for c in m.tool_calls -%}"
    "{{- 'call ' + c.function.name + '\n```json\n' + c.function.arguments + '\n```' -}}"
    "{%- endfor -%}{{- '<｜end▁of▁sentence｜>' -}}"
    "{%- elif m.role == 'tool' -%}{{- 'result: ' + m.content -}}"
    "{%- else -%}{{- '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}"
)

# Only the last answer shows its reasoning, and only it ends with <|return|>.
HARMONY = (
    "{{- '<|start|>system<|message|>Reasoning: low<|end|>' -}}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}"
    "{{- '<|start|>developer<|message|># Instructions\n\n' + m.content + '<|end|>' -}}"
    "{%- elif m.role == 'assistant' and m.tool_calls -%}"
    "{%- if m.thinking -%}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' -}}"
    "{%- endif -%}{%- set f = m.tool_calls[0].function -%}"
    "{{- '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' "
    "+ (f.arguments | tojson) + '<|call|>' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content "
    "+ '<|end|>' -}}"
    "{%- elif m.role == 'assistant' and loop.last and not add_generation_prompt -%}"
    "{%- if m.thinking -%}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' -}}"
    "{%- endif -%}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}"
    "{%- else -%}{{- '<|start|>user<|message|>' + m.content + '<|end|>' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"
)

ZEPHYR = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content + '</s>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)
VICUNA = (
    "{{- 'A chat. ' -}}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{- 'USER: ' + m.content + ' ' -}}{%- elif m.role == 'assistant' -%}"
    "{{- 'ASSISTANT: ' + m.content + '</s>' -}}{%- else -%}{{- m.content + ' ' -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
GRANITE = (
    "{%- for m in messages -%}{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content "
    "+ '<|end_of_text|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}"
    "{%- endif -%}"
)
COMMAND_R = (
    "{{- '<BOS_TOKEN>' -}}{%- for m in messages -%}"
    "{%- set r = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|' + r + '_TOKEN|>' + m.content.strip() "
    "+ '<|END_OF_TURN_TOKEN|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}"
)
# An answer ends where the next role token begins: there is no end-of-turn token.
GLM = (
    "{{- '[gMASK]<sop>' -}}{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)
# A single end token, at the end of the chat.
END_ONCE = GLM.replace(
    "{%- if add_generation_prompt",
    "{%- if not add_generation_prompt -%}{{- '</s>' -}}{%- endif -%}{%- if add_generation_prompt",
)
TEXT_ONLY = (
    "{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{- '### Question: ' + m.content + '\n' -}}"
    "{%- else -%}{{- '### Answer: ' + m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '### Answer: ' -}}{%- endif -%}"
)

FAMILIES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "llama3-always": LLAMA3_ALWAYS,
    "qwen2.5": QWEN25,
    "qwen3": QWEN3,
    "qwen-opened": QWEN_OPENED,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "mistral1": MISTRAL1,
    "mistral3": MISTRAL3,
    "mistral-tekken": MISTRAL_TEKKEN,
    "phi3": PHI3,
    "phi4": PHI4,
    "smollm2": SMOLLM2,
    "r1": R1,
    "v3": V3,
    "harmony": HARMONY,
    "zephyr": ZEPHYR,
    "vicuna": VICUNA,
    "granite": GRANITE,
    "command-r": COMMAND_R,
    "glm": GLM,
    "end-once": END_ONCE,
    "text": TEXT_ONLY,
}

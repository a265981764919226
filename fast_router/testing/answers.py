"""Answers in the wire formats of OpenAI, vLLM, Text Embeddings Inference, Mistral and Albert.

Everything here is a pure function of the request body and the number of tokens, so the same request gets the
same answer from every upstream and every run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import struct
import wave
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.testing.shapes import Answer

__all__ = [
    "Prompt",
    "answer_text",
    "chat",
    "chat_chunks",
    "compact",
    "completion",
    "completion_chunks",
    "embeddings",
    "image",
    "moderation",
    "ocr",
    "prompt_tokens",
    "rerank_albert",
    "rerank_cohere",
    "rerank_tei",
    "responses",
    "responses_events",
    "speech",
    "transcription",
    "whole",
]

Json = dict[str, Any]
Body = Mapping[str, Any]

_WORDS = ("route", "every", "request", "where", "it", "is", "answered", "first")
_CREATED = 1_700_000_000
_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a server with a prefix cache says of a prompt.

    Attributes:
        tokens: Its length.
        cached: How much of it was cached, None where the server does not say.
    """

    tokens: int
    cached: int | None = None


def word(index: int) -> str:
    """Return the token with this index, with the blank that separates it from the one before."""
    return _WORDS[index % len(_WORDS)] if index == 0 else " " + _WORDS[index % len(_WORDS)]


@functools.lru_cache(maxsize=256)
def answer_text(tokens: int) -> str:
    """Return the text of an answer of so many tokens."""
    return "".join(word(index) for index in range(tokens))


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return _length(value.get("content", value.get("text", "")))
    if isinstance(value, list):
        return sum(1 if isinstance(part, int) else _length(part) for part in value)
    return 0


def prompt_tokens(body: Body) -> int:
    """Estimate the prompt's tokens at four characters each, at least one."""
    return max(1, sum(_length(body.get(key)) for key in ("messages", "prompt", "input", "query", "texts")) // 4)


def _usage(body: Body, tokens: int, prompt: Prompt | None) -> Json:
    prompt = prompt or Prompt(prompt_tokens(body))
    usage: Json = {
        "prompt_tokens": prompt.tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt.tokens + tokens,
    }
    if prompt.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": prompt.cached}
    return usage


def _wants_usage(body: Body) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def chat(body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None) -> Json:
    """A whole chat completion."""
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer_text(tokens)},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(body, tokens, prompt),
    }


def chat_chunks(body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None) -> Iterator[Json]:
    """The chunks of a streamed chat completion: each token (the first with the role), the end, the usage."""

    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    for index in range(tokens):
        yield chunk({"role": "assistant", "content": word(0)} if index == 0 else {"content": word(index)})
    yield chunk({}, "stop")
    if _wants_usage(body):
        yield {**chunk({}), "choices": [], "usage": _usage(body, tokens, prompt)}


def completion(body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None) -> Json:
    """A whole text completion."""
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": _CREATED,
        "model": model,
        "choices": [{"index": 0, "text": answer_text(tokens), "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(body, tokens, prompt),
    }


def completion_chunks(body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None) -> Iterator[Json]:
    """The chunks of a streamed text completion."""

    def chunk(text: str, finish: str | None = None) -> Json:
        return {
            "id": f"cmpl-{number}",
            "object": "text_completion",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}],
        }

    for index in range(tokens):
        yield chunk(word(index))
    yield chunk("", "stop")
    if _wants_usage(body):
        yield {**chunk(""), "choices": [], "usage": _usage(body, tokens, prompt)}


def responses(
    body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None, *, status: str = "completed"
) -> Json:
    """An answer of the Responses API."""
    prompt = prompt or Prompt(prompt_tokens(body))
    done = status == "completed"
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": answer_text(tokens), "annotations": []}],
    }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": _CREATED,
        "status": status,
        "model": model,
        "output": [message] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": prompt.tokens,
            "input_tokens_details": {"cached_tokens": prompt.cached or 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt.tokens + tokens,
        }
        if done
        else None,
    }


def responses_events(body: Body, number: int, model: str, tokens: int, prompt: Prompt | None = None) -> Iterator[Json]:
    """The events of a streamed Responses answer, one a token between its beginning and its end."""
    place = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
    sequence = 0
    for index in range(tokens):
        if index == 0:
            begun = responses(body, number, model, tokens, prompt, status="in_progress")
            yield {"type": "response.created", "sequence_number": sequence, "response": begun}
            sequence += 1
        yield {
            "type": "response.output_text.delta",
            "sequence_number": sequence,
            **place,
            "delta": word(index),
        }
        sequence += 1
    yield {"type": "response.output_text.done", "sequence_number": sequence, **place, "text": answer_text(tokens)}
    whole = responses(body, number, model, tokens, prompt)
    yield {"type": "response.completed", "sequence_number": sequence + 1, "response": whole}


def _items(value: object) -> list[Any]:
    """A single text, or a single list of token numbers, is one item; anything else is a list of items."""
    if isinstance(value, list) and value and not all(isinstance(part, int) for part in value):
        return value
    return [value]


def _vector(item: object, dimensions: int) -> list[float]:
    """A unit vector that depends on the item alone."""
    digest = hashlib.shake_128(repr(item).encode()).digest(2 * dimensions)
    raw = [value / 32768 for value in struct.unpack(f"<{dimensions}h", digest)]
    norm = sum(value * value for value in raw) ** 0.5 or 1.0
    return [value / norm for value in raw]


def embeddings(body: Body, model: str) -> Json:
    """Embeddings of each input, as floats or base64 as asked."""
    dimensions = body.get("dimensions")
    if not isinstance(dimensions, int) or dimensions < 1:
        dimensions = _DIMENSIONS
    data: list[Json] = []
    for index, item in enumerate(_items(body.get("input"))):
        vector: list[float] | str = _vector(item, dimensions)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    prompt = prompt_tokens(body)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "model": model, "data": data, "usage": usage}


def _scores(query: object, documents: object) -> list[tuple[int, float]]:
    """Index and share of the query's words found, best first."""
    wanted = set(str(query).lower().split())
    scored = []
    for index, document in enumerate(documents if isinstance(documents, list) else []):
        text = document.get("text", "") if isinstance(document, Mapping) else document
        found = wanted & set(str(text).lower().split())
        scored.append((index, round(len(found) / (len(wanted) or 1), 6)))
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def rerank_cohere(body: Body, number: int, model: str) -> Json:
    """Rerank as Cohere, vLLM and newer Albert do: {query, documents} → results with relevance_score."""
    documents = body.get("documents")
    top = body.get("top_n")
    results: list[Json] = []
    for index, score in _scores(body.get("query"), documents)[: top if isinstance(top, int) and top > 0 else None]:
        result: Json = {"index": index, "relevance_score": score}
        if body.get("return_documents", True) and isinstance(documents, list):
            document = documents[index]
            result["document"] = document if isinstance(document, dict) else {"text": document}
        results.append(result)
    usage = {"total_tokens": prompt_tokens(body)}
    return {"id": f"rerank-{number}", "model": model, "usage": usage, "results": results}


def rerank_tei(body: Body) -> list[Json]:
    """Rerank as Text Embeddings Inference does: {query, texts} → a bare list with score."""
    texts = body.get("texts")
    with_text = bool(body.get("return_text")) and isinstance(texts, list)
    return [
        {"index": index, "score": score} | ({"text": texts[index]} if with_text and texts else {})
        for index, score in _scores(body.get("query"), texts)
    ]


def rerank_albert(body: Body, number: int, model: str) -> Json:
    """Rerank as the older Albert API does: {prompt, input} → data with score."""
    data = [
        {"object": "rerank", "index": index, "score": score}
        for index, score in _scores(body.get("prompt"), body.get("input"))
    ]
    return {"object": "list", "id": f"rerank-{number}", "model": model, "data": data}


def transcription(tokens: int) -> Json:
    """The transcription of any recording."""
    return {"text": answer_text(tokens), "language": "en", "duration": 1.0}


@functools.lru_cache(maxsize=1)
def speech() -> bytes:
    """A tenth of a second of silence as WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\x00\x00" * 800)
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)
def _pixel() -> str:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    png += part(b"IDAT", zlib.compress(b"\x00\x7f")) + part(b"IEND", b"")
    return base64.b64encode(png).decode()


def image(body: Body) -> Json:
    """As many one-pixel images as asked for."""
    count = body.get("n")
    wanted = count if isinstance(count, int) and count > 0 else 1
    return {"created": _CREATED, "data": [{"b64_json": _pixel()} for _ in range(wanted)]}


def moderation(body: Body, number: int, model: str) -> Json:
    """A verdict on each input: harmless."""
    flags = {"harassment": False, "hate": False, "violence": False}
    verdict = {"flagged": False, "categories": flags, "category_scores": dict.fromkeys(flags, 0.0)}
    return {"id": f"modr-{number}", "model": model, "results": [verdict for _ in _items(body.get("input"))]}


def ocr(model: str, tokens: int) -> Json:
    """One page of text, as Mistral's /v1/ocr."""
    page = {
        "index": 0,
        "markdown": answer_text(tokens),
        "images": [],
        "dimensions": {"dpi": 200, "height": 100, "width": 100},
    }
    return {"pages": [page], "model": model, "usage_info": {"pages_processed": 1, "doc_size_bytes": 1}}


def whole(
    answer: Answer, body: dict[str, Any], number: int, model: str, tokens: int, prompt: Prompt | None
) -> tuple[bytes, str]:
    """The body of a whole answer, and its content type."""
    if answer == "speech":
        return speech(), "audio/wav"
    value: Any
    if answer == "chat":
        value = chat(body, number, model, tokens, prompt)
    elif answer == "completion":
        value = completion(body, number, model, tokens, prompt)
    elif answer == "responses":
        value = responses(body, number, model, tokens, prompt)
    elif answer == "embeddings":
        value = embeddings(body, model)
    elif answer == "rerank_tei":
        value = rerank_tei(body)
    elif answer == "rerank_albert" and "prompt" in body:
        value = rerank_albert(body, number, model)
    elif answer in {"rerank", "rerank_albert"}:
        value = rerank_cohere(body, number, model)
    elif answer == "transcription":
        value = transcription(tokens)
    elif answer == "image":
        value = image(body)
    elif answer == "moderation":
        value = moderation(body, number, model)
    else:
        value = ocr(model, tokens)
    return compact(value).encode(), "application/json"


def compact(value: object) -> str:
    """Write JSON without blanks, as the servers do."""
    return json.dumps(value, separators=(",", ":"))

"""Rerank in three shapes: Cohere's (today's API), the older Albert API's, and Text Embeddings Inference's.

=========  ==============================  ==============================================
shape      request                         answer
=========  ==============================  ==============================================
Cohere     query, documents, top_n         results: [{index, relevance_score, document}]
Albert     prompt, input                   data: [{object: rerank, index, score}]
TEI        query, texts, return_text       [{index, score, text}]
=========  ==============================  ==============================================

A caller may ask in the first two (or in TEI's own), whatever server stands behind the model; the answer comes in
the shape of the question. TEI knows no ``top_n``, so the answer is cut here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from .endpoints import ProviderType
from .errors import RequestFormatError, ResponseFormatError

__all__ = ["rerank_answer", "rerank_request"]


def _asked(body: Mapping[str, Any]) -> tuple[str, list[Any]]:
    query = body.get("query", body.get("prompt"))
    documents = body.get("documents", body.get("texts", body.get("input")))
    if not isinstance(query, str) or not isinstance(documents, list):
        raise RequestFormatError("Request formatting failed: rerank needs a query and a list of documents")
    return query, documents


def _text(document: Any) -> str:
    if isinstance(document, Mapping):
        document = document.get("text")
    if not isinstance(document, str):
        raise RequestFormatError("Request formatting failed: a document must be text")
    return document


def rerank_request(body: Mapping[str, Any], provider: ProviderType, model: str) -> dict[str, Any]:
    """`body`, in whichever shape it is, as `provider` wants it.

    Args:
        body: What the caller sent.
        provider: The kind of server that it goes to.
        model: What that server calls the model.

    Raises:
        RequestFormatError: There is no query or no list of documents in it.
    """
    query, documents = _asked(body)
    if provider is ProviderType.TEI:
        return {
            "query": query,
            "texts": [_text(document) for document in documents],
            "return_text": bool(body.get("return_documents", body.get("return_text", False))),
            "truncate": bool(body.get("truncate", False)),
            "raw_scores": bool(body.get("raw_scores", False)),
        }
    extra = {key: value for key, value in body.items() if key not in {"prompt", "input", "texts"}}
    return {**extra, "model": model, "query": query, "documents": documents}


def rerank_answer(answer: Any, body: Mapping[str, Any], model: str) -> dict[str, Any] | list[Any]:
    """The server's answer in the shape of the question.

    Args:
        answer: The server's JSON, in any of the three shapes.
        body: What the caller sent.
        model: The model's name for the answer.

    Raises:
        ResponseFormatError: The answer has none of the shapes.
    """
    if isinstance(answer, list):
        ranked, extra = answer, {}
    elif isinstance(answer, Mapping):
        ranked = answer.get("results", answer.get("data"))
        extra = {key: value for key, value in answer.items() if key not in {"results", "data"}}
    else:
        ranked = None
    if not isinstance(ranked, list):
        raise ResponseFormatError("Response formatting failed: the provider's rerank answer has an unknown shape")
    rows = [_row(item, body) for item in ranked]
    rows.sort(key=lambda row: -row["relevance_score"])
    top = body.get("top_n", body.get("top_k"))
    if isinstance(top, int) and not isinstance(top, bool) and top > 0:
        rows = rows[:top]
    if "texts" in body:
        return [{"index": row["index"], "score": row["relevance_score"]} for row in rows]
    head = {"id": f"rerank-{uuid.uuid4().hex}", "object": "list", **extra, "model": model}
    if "documents" not in body:
        data = [{"object": "rerank", "index": row["index"], "score": row["relevance_score"]} for row in rows]
        return {**head, "data": data}
    return {**head, "results": rows}


def _row(item: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        index = int(item["index"])
        score = float(item["relevance_score"] if "relevance_score" in item else item["score"])
    except (KeyError, TypeError, ValueError):
        raise ResponseFormatError("Response formatting failed: a rerank result without index or score") from None
    row: dict[str, Any] = {"index": index, "relevance_score": score}
    if body.get("return_documents"):
        documents = body.get("documents")
        if "document" in item:
            row["document"] = item["document"]
        elif "text" in item:
            row["document"] = {"text": item["text"]}
        elif isinstance(documents, list) and 0 <= index < len(documents):
            row["document"] = {"text": _text(documents[index])}
    return row

"""Asking servers what a file leaves out: a flat (D0) file names no model, its servers do.

The oldest dialect gives an address and a type; the API asked each server for the name of its model. So do we: once,
while the file is read, with a short timeout.
"""

from __future__ import annotations

from typing import Any

import httpx

from .dialects import ModelDraft
from .report import Report
from .schema import clean_url

__all__ = ["DISCOVERY_TIMEOUT", "discover_names", "served_name"]

DISCOVERY_TIMEOUT = 5.0
"""Seconds that a server has to name its model."""


def served_name(client: httpx.Client, url: str) -> str | None:
    """The name of the model that the server at `url` (without /v1) serves, None if it does not say.

    OpenAI-compatible servers list it at /v1/models; Text Embeddings Inference says it at /info.

    Raises:
        httpx.HTTPError: The server cannot be reached.
    """
    for path, read in (("/v1/models", _from_models), ("/info", _from_info)):
        answer = client.get(f"{url}{path}")
        if answer.status_code == httpx.codes.OK:
            try:
                name = read(answer.json())
            except (ValueError, KeyError, IndexError, TypeError):
                continue
            if isinstance(name, str) and name:
                return name
    return None


def _from_models(data: Any) -> Any:
    return data["data"][0]["id"]


def _from_info(data: Any) -> Any:
    return data["model_id"]


def discover_names(drafts: list[ModelDraft], report: Report, *, ask: bool) -> None:
    """Fill in id and model name of flat entries, by asking their servers.

    Args:
        drafts: The file's models; only flat ones without a name change.
        report: Takes what could not be found out.
        ask: False: say what is missing instead of asking.
    """
    unnamed = [draft for draft in drafts if draft.unnamed]
    for draft in drafts:
        if draft.dialect == "D0" and not draft.unnamed and not draft.values.get("id"):
            _name(draft, draft.providers[0].values["model_name"])
    if not unnamed:
        return
    add = "Add `id:` and `model_name:` to the entry"
    if not ask:
        for draft in unnamed:
            report.error(draft.path, "this flat entry leaves the model's name to the server", f"{add}.")
            _name(draft, f"unnamed-{draft.path[-1]}")
        return
    with httpx.Client(timeout=DISCOVERY_TIMEOUT, follow_redirects=False) as client:
        for draft in unnamed:
            _ask(client, draft, report, add)


def _ask(client: httpx.Client, draft: ModelDraft, report: Report, add: str) -> None:
    provider = draft.providers[0]
    name = None
    try:
        url = clean_url(str(provider.values.get("url")))
    except ValueError:
        _name(draft, f"unnamed-{draft.path[-1]}")
        return  # the URL's own problem is reported where it is checked
    key = provider.values.get("key")
    if isinstance(key, str) and key.isascii() and key.isprintable():
        client.headers["Authorization"] = f"Bearer {key}"
    try:
        name = served_name(client, url)
        what = "its server did not say which model it serves"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        what = "its server cannot be reached to ask which model it serves"
    finally:
        client.headers.pop("Authorization", None)
    if name is None:
        report.error(draft.at("url"), what, f"Start the server, or {add[0].lower()}{add[1:]}.")
    _name(draft, name or f"unnamed-{draft.path[-1]}")


def _name(draft: ModelDraft, name: Any) -> None:
    draft.providers[0].values.setdefault("model_name", name)
    if draft.providers[0].values["model_name"] is None:
        draft.providers[0].values["model_name"] = name
    if draft.values.get("id") is None:
        draft.values["id"] = name

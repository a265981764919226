"""Who makes a request, and what it brings along in place of a deployment's own parameters.

What is asked for here decides what a failure says about the deployment (`engine.failover.blame`). A value that is None,
or an empty header, is one that was not given.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from fast_router.engine.failover.blame import Terms

__all__ = ["OWN", "caller_of", "terms_of"]

# LiteLLM hands these on to the call in the place of the deployment's own.
_ENDPOINT: Final = frozenset(
    {
        "api_base", "base_url", "azure_endpoint", "custom_llm_provider", "aws_bedrock_runtime_endpoint",
        "aws_sts_endpoint", "region_name", "aws_region_name", "vertex_location", "vertex_project", "vertex_ai_location",
        "vertex_ai_project", "watsonx_region_name", "user_config",
    }
)  # fmt: skip
_CREDENTIALS: Final = frozenset(
    {
        "api_key", "api_version", "api_type", "organization", "azure_ad_token", "azure_ad_token_provider",
        "azure_username", "azure_password", "azure_scope", "client_id", "client_secret", "tenant_id",
        "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_session_name", "aws_profile_name",
        "aws_role_name", "aws_web_identity_token", "aws_external_id", "vertex_credentials", "vertex_ai_credentials",
        "use_psc_endpoint_format", "ssl_verify", "ssl_certificate", "http_client", "litellm_credential_name",
    }
)  # fmt: skip
OWN: Final = _ENDPOINT | _CREDENTIALS
"""The arguments that name a server, or who asks there, in the place of the deployment's own."""
_TIMEOUT: Final = frozenset({"timeout", "request_timeout", "stream_timeout"})
_ANSWER: Final = frozenset(
    {
        "mock_response", "mock_tool_calls", "mock_timeout", "mock_delay", "mock_testing_fallbacks",
        "mock_testing_context_fallbacks", "mock_testing_content_policy_fallbacks", "mock_testing_rate_limit_error",
    }
)  # fmt: skip
_HEADERS: Final = frozenset({"headers", "extra_headers", "default_headers"})
_KINDS: Final = {
    **dict.fromkeys(_ENDPOINT, Terms.ENDPOINT),
    **dict.fromkeys(_CREDENTIALS, Terms.CREDENTIALS),
    **dict.fromkeys(_TIMEOUT, Terms.TIMEOUT),
    **dict.fromkeys(_ANSWER, Terms.ANSWER),
}
_FALLBACKS: Final = frozenset({"fallbacks", "context_window_fallbacks", "content_policy_fallbacks"})
_ASKED: Final = frozenset(_KINDS) | _HEADERS | _FALLBACKS
# Proxies forward headers like these for every request: they say neither who asks nor whom.
_HARMLESS: Final = frozenset(
    {
        "accept", "accept-language", "anthropic-beta", "anthropic-version", "baggage", "content-type", "openai-beta",
        "traceparent", "tracestate", "user-agent",
    }
)  # fmt: skip
_TELLING: Final = ("auth", "key", "token", "secret", "org", "project", "tenant", "account", "host", "forwarded")
_METADATA: Final = ("metadata", "litellm_metadata")


def terms_of(request: Mapping[str, Any]) -> int:
    """Tell what a request brings along.

    Args:
        request: Keyword arguments of a Router's method.

    Returns:
        `Terms`, 0 for a request that leaves everything to the deployment.
    """
    if _ASKED.isdisjoint(request):
        return 0
    terms = 0
    for name in _ASKED & request.keys():
        value = request[name]
        if value is None:
            continue
        if name in _HEADERS:
            terms |= _of_headers(value)
        elif name in _FALLBACKS:
            terms |= _of_fallbacks(value)
        elif name not in _TIMEOUT or value:
            terms |= _KINDS[name]
    return terms


def _of_headers(headers: Any) -> int:
    if not isinstance(headers, Mapping):
        return Terms.CREDENTIALS if headers else 0
    for name, value in headers.items():
        if value is None or value == "":
            continue
        low = str(name).lower()
        if low in _HARMLESS or (low.startswith("x-") and not any(part in low for part in _TELLING)):
            continue
        return Terms.CREDENTIALS
    return 0


def _of_fallbacks(fallbacks: Any) -> int:
    """Tell whether something else is asked elsewhere: `{"model": …, "messages": …}` in place of a group's name."""
    if not isinstance(fallbacks, list):
        return 0
    otherwise = any(isinstance(hop, Mapping) and isinstance(hop.get("model"), str) for hop in fallbacks)
    return Terms.OTHERWISE if otherwise else 0


def caller_of(request: Mapping[str, Any]) -> Hashable | None:
    """Tell who makes a request, by what its caller cannot choose where that is known.

    Args:
        request: Keyword arguments of a Router's method, or of an attempt.

    Returns:
        The proxy's key if there is one (a key holder may give any end user and session); else the end user, the
        session or the address of the connection; None if nothing is known. Equal values are one caller. It is kept in
        memory for comparison alone.
    """
    buckets = [bucket for name in _METADATA if isinstance(bucket := request.get(name), Mapping)]
    # The proxy writes both into one bucket and keeps callers from forging the first; the other bucket is the caller's.
    for name in ("user_api_key_hash", "user_api_key"):
        for bucket in buckets:
            key = bucket.get(name)
            if isinstance(key, str) and key:
                return "key", key
    user = request.get("user")
    if isinstance(user, str) and user:
        return "user", user
    for bucket in buckets:
        for name in ("user_api_key_end_user_id", "user_id", "session_id", "requester_ip_address"):
            value = bucket.get(name)
            if isinstance(value, str) and value:
                return name, value
    session = request.get("litellm_session_id")
    return ("session_id", session) if isinstance(session, str) and session else None

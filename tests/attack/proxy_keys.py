"""The proxy's `custom_auth`: two callers with keys of their own, without a database. Loaded by the proxy alone."""

from litellm.proxy._types import UserAPIKeyAuth

_CALLERS = {"sk-of-good": "good", "sk-of-eve": "eve"}


async def known(request, api_key):
    """Give the caller that a key stands for."""
    name = _CALLERS[api_key]
    return UserAPIKeyAuth(api_key=api_key, user_id=name, team_id=f"team-of-{name}")

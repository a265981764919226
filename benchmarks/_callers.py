"""Who calls a benchmark's proxy: its configuration names `known` as its `custom_auth`, and this file lies beside it.

Whoever has the master key is one caller, and each key that begins with `sk-of-` is one more.
"""

import os
from typing import Any

from litellm.proxy._types import UserAPIKeyAuth


async def known(request: Any, api_key: str) -> UserAPIKeyAuth:
    """Give the caller that a key stands for; LiteLLM names both arguments."""
    del request
    if api_key == os.environ["LITELLM_MASTER_KEY"]:
        name = "good"
    elif api_key.startswith("sk-of-"):
        name = api_key.removeprefix("sk-of-")
    else:
        raise PermissionError("no caller of this benchmark has such a key")
    return UserAPIKeyAuth(api_key=api_key, user_id=name, team_id=f"team-of-{name}")

"""What the soak puts into each worker of its proxies: two callers, and a route that changes the deployments.

It is copied beside the proxy's configuration, which names `known` and `handler`. LiteLLM's own routes for that need its
database.
"""

import os
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.router import Deployment

HOSTILE = "sk-of-the-hostile-caller"
_CALLERS = {os.environ["LITELLM_MASTER_KEY"]: "good", HOSTILE: "hostile"}

handler = CustomLogger()


async def known(_request: Any, api_key: str) -> UserAPIKeyAuth:
    """Give the caller that a key stands for."""
    name = _CALLERS[api_key]
    return UserAPIKeyAuth(api_key=api_key, user_id=name, team_id=f"team-of-{name}")


async def deployments(entry: dict[str, Any]) -> dict[str, int]:
    """Add a deployment to this worker's Router, or delete it: `{"model_info": {"id": …}, …}`, or the id alone."""
    router: Any = proxy_server.llm_router
    id_ = entry["model_info"]["id"]
    there = router.get_deployment(model_id=id_) is not None
    if "litellm_params" not in entry and there:
        router.delete_deployment(id=id_)
    elif "litellm_params" in entry and not there:
        router.add_deployment(Deployment(**entry))
    return {"pid": os.getpid()}


proxy_server.app.add_api_route("/soak/deployments", deployments, methods=["POST"])

"""What the soak puts into each worker of its proxies: a route that changes the deployments.

It is copied beside the proxy's configuration, which names `handler`. LiteLLM's own routes for that need its database.
"""

import os
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.types.router import Deployment

handler = CustomLogger()


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

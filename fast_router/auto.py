"""Importing is installing: `import fast_router.auto`, or a hook that wants a function.

    LITELLM_WORKER_STARTUP_HOOKS=fast_router.auto:install litellm --config config.yaml --num_workers 4

runs `install` in every worker of LiteLLM's proxy before it reads its configuration. What `import fast_router` does
not do and this does: let `fast-router status` see the process.
"""

from __future__ import annotations

import os

import fast_router  # noqa: F401 - importing it installs the hook that waits for LiteLLM
from fast_router import environment_switch, proxy_process
from fast_router.errors import ConfigurationError
from fast_router.launch import proxy_config
from fast_router.litellm_plugin import hook
from fast_router.observe import process_status
from fast_router.settings import proxy_file

__all__ = ["install"]


def install() -> None:
    """Let LiteLLM's Routers in this process pick through fast_router; again is the same as once.

    `FAST_ROUTER_ENABLED=0` makes it do nothing.

    A proxy that starts ends by one line and exit code 2 where a setting or what its YAML says to us is wrong.

    Raises:
        ConfigurationError: A setting is wrong; nothing is installed then.
    """
    if environment_switch.off():
        return  # whatever the other settings say: off always starts
    from fast_router import settings  # noqa: PLC0415

    try:
        if not settings.current().enabled:
            return
        if proxy_process.serves() and (path := proxy_file.named_by_environment(os.environ)):
            proxy_config.check(path)
        hook.enable()
    except ConfigurationError as error:
        proxy_process.end(error)
        raise
    process_status.want()


install()

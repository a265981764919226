"""The Albert API and OpenGateLLM on LiteLLM: their configuration files, and their objects.

``load_config("config.yml").model_list`` is a LiteLLM model list, whatever dialect the file is written in.
`ModelRegistry` gives the Albert API's own objects on top of the same configuration.
"""

from __future__ import annotations

from .config import AlbertConfig, load_config
from .errors import AlbertConfigError, Problem

__all__ = ["AlbertConfig", "AlbertConfigError", "Problem", "load_config"]

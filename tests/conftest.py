"""Settings that every test shares: no network for prices, no plugin by accident."""

from __future__ import annotations

import os

# LiteLLM fetches its price map at import unless told to use the copy it ships.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

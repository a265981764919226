"""Cooldowns: read from LiteLLM, repaired, decided and probed."""

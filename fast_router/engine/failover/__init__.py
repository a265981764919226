"""Failover without LiteLLM: breakers, outliers, silence, retries, waiting, hedges."""

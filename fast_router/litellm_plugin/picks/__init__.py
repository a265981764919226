"""What stands in the place of LiteLLM's selection."""

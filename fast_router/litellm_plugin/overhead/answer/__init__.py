"""What LiteLLM does with an answer."""

"""What LiteLLM does with every request."""

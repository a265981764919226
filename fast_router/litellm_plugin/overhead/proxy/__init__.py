"""What LiteLLM's proxy does with every request, and what it starts with."""

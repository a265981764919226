"""What LiteLLM's own strategies note down."""

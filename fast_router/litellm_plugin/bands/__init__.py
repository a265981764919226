"""Which LiteLLM this is, and where its seams lie."""

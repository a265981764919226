"""Albert API / OpenGateLLM configuration files as LiteLLM model lists."""

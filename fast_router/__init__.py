"""The cost-free half of LiteLLM routing: exact, constant-time picks and real failover."""

"""What LiteLLM does to make a Router and to keep its price list."""

"""LiteLLM 1.110, whose core is written in Rust."""

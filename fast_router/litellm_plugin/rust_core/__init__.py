"""What stands around requests, attempts and picks where LiteLLM's core is written in Rust: 1.110."""

"""The plugin: `litellm.Router` picks through the engine. `hook` is its switch."""

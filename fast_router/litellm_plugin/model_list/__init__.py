"""`litellm.model_list`: calls by model_name without a Router of the user's own."""

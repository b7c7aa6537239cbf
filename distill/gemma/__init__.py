"""Gemma models: configurations, folders, checkpoints, tokenizers and sampling. Importing it loads no JAX."""

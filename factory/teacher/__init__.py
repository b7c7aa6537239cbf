"""The RL core: a base Gemma becomes a reasoning teacher (DeepSeek-R1, arXiv 2501.12948). Loads no JAX by itself."""

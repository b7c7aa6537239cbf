"""How a Gemma is loaded, trained, sampled, scored and saved. Importing this package loads no JAX."""

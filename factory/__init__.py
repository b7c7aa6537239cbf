"""How a run goes, from prompts to a published set."""

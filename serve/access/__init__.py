"""Who may call, for what, and how often: API keys, signed tokens, rates and quotas. gate.py is what the guard asks."""

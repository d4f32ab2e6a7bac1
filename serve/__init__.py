"""A model package in, an HTTP service out. A request's way: guard.py, BentoML's shell, app.py, engine.py, batcher.py. Never torch."""

"""A model package in, an HTTP service out. Never torch.

A request's way: guard.py (who may call: access/), BentoML's shell, app.py (what was sent: inputs.py, oip.py), engine.py, batcher.py. Beside it
stand logs.py, masking.py, audit.py, metrics.py, drift.py, and scaling/ for capacity.
"""

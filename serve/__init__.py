"""A model package in, an HTTP service out. Never torch.

A request's way: guard.py (which paths: routes.py; who may call: access/; what browsers are shown and told: pages/, headers.py, cors.py), BentoML's
shell, app.py (what was sent: inputs.py, oip.py), engine.py, batcher.py. Beside it stand logs.py, masking.py, audit.py, metrics.py, drift.py, and
scaling/ for capacity.
"""

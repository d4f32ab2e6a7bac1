"""A run in, a model package out. The story of an export is export/pipeline.py."""

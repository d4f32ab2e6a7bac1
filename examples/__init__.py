"""Worked applications: each folder is one, with a README that says how to run it and what came out."""

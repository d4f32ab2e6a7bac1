"""Capacity, measured, and what follows from it: targets for autoscalers, and a simulation of what they would do."""

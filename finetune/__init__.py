"""Data and a base model in, a run out. The story of a training is finetune/training.py."""

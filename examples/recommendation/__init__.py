"""Recommendation: which of some items a reader would click, told by the items' texts and what the reader has read."""

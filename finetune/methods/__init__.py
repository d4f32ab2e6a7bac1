"""How much of a network is trained. A method turns a network and rows into a `Plan`; the loop (finetune/loop.py) trains any plan.

Adding a method is a file with a `plan_...` function and a line in `METHODS`.
"""

from __future__ import annotations

from finetune.methods.finetune import plan_finetune
from finetune.methods.linear_probe import plan_linear_probe

METHODS = {"finetune": plan_finetune, "linear-probe": plan_linear_probe}

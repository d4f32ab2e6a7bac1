"""How much of a network is trained. A method is a row of stages, each of which turns a network and rows into a `Plan`; the loop
(finetune/loop.py) trains any plan.

Adding a method is a file with a `plan_...` function, a line in `METHODS`, and its rates in finetune/settings.py.
"""

from __future__ import annotations

from finetune.methods.adapter import plan_adapter
from finetune.methods.few_shot import plan_contrastive, plan_head
from finetune.methods.finetune import plan_finetune
from finetune.methods.ia3 import plan_ia3
from finetune.methods.linear_probe import plan_linear_probe
from finetune.methods.lora import plan_lora
from finetune.methods.norm_bias import plan_norm_bias
from finetune.plan import Stage

METHODS: dict[str, tuple[Stage, ...]] = {
    "finetune": (Stage("finetune", plan_finetune),),
    "linear-probe": (Stage("linear-probe", plan_linear_probe, passes=True),),
    "lp-ft": (
        Stage("linear-probe", plan_linear_probe, lambda settings: settings.probe_epochs, passes=True),
        Stage("finetune", plan_finetune),
    ),
    "lora": (Stage("lora", plan_lora),),
    "norm-bias": (Stage("norm-bias", plan_norm_bias),),
    "few-shot": (
        Stage("contrastive", plan_contrastive, lambda settings: settings.contrastive_epochs),
        Stage("linear-probe", plan_head, passes=True),
    ),
    "ia3": (Stage("ia3", plan_ia3),),
    "adapter": (Stage("adapter", plan_adapter),),
}
"""lp-ft: Kumar et al. 2022, arXiv:2202.10054. few-shot, ia3 and adapter train encoders of texts alone."""

"""A short run of every method: what test_cost counts and test_device compares between devices."""

from __future__ import annotations

from dynat.config import Run
from tests import tiny

STEPS = 10
TARGET, GUIDE = "wrn10-1", "small"
DYNAMIC: dict[str, object] = {"labels": "dynamic", "clean_forward": True}


def method_run(method: str, **fields: object) -> Run:
    guide = GUIDE if fields.get("labels") == "dynamic" or method in ("lbgat", "adagat") else None
    inner = {"eps": 0.05, "step_size": 0.02, "steps": STEPS}
    return tiny.run(**{"method": method, "target": TARGET, "guide": guide, "inner": inner, **fields})


RUNS: dict[str, Run] = {
    "natural": method_run("natural"),
    "at": method_run("at"),
    "trades": method_run("trades", consistency=6.0),
    "mart": method_run("mart", consistency=6.0),
    "gairat": method_run("gairat"),
    "mail-at": method_run("mail-at"),
    "mail-trades": method_run("mail-trades", consistency=6.0),
    "sat": method_run("sat"),
    "lbgat0": method_run("lbgat", clean_forward=True),
    "lbgat6": method_run("lbgat", consistency=6.0),
    "adagat": method_run("adagat", clean_forward=True),
    "at-awp": method_run("at", awp={"warm_up": 0.0}),
    "dynat": method_run("at", **DYNAMIC),
    "dynat-no-clean-forward": method_run("at", labels="dynamic"),
    "dynat-kl6": method_run("at", labels="dynamic", consistency=6.0),
    "dynat-kl-inner": method_run("at", **{**DYNAMIC, "inner": {"eps": 0.05, "step_size": 0.02, "objective": "kl"}}),
    "dynat-trades": method_run("trades", labels="dynamic", consistency=6.0),
    "dynat-bfloat16": method_run("at", precision="bfloat16", **DYNAMIC),
}

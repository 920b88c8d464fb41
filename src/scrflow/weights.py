"""placeholder until the registry lands"""
from pathlib import Path
def locate(name: str) -> Path:
    return Path("../shared/data/weights") / {"xfeat": "xfeat.pt", "aliked-n16rot": "aliked-n16rot.pth", "aliked-n32": "aliked-n32.pth"}[name]

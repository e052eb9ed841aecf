"""The study's modules, which lie beside its command."""

import sys
from pathlib import Path

STUDY = Path(__file__).resolve().parents[2] / "experiments" / "dial" / "study"
sys.path.insert(0, str(STUDY))

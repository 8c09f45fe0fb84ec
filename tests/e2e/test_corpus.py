"""SkyPilot's own task files, where they are at hand: `quad validate` says of each what SkyPilot says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "corpus"))

from corpus_test import *  # noqa: E402, F401, F403

TIMEOUT_SECONDS = 120

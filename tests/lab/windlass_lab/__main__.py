"""The lab's command: `PYTHONPATH=tests/lab python3 -m windlass_lab --help`."""

from __future__ import annotations

import sys

from windlass_lab.main import main

sys.exit(main())

"""`python -m windlass_server.predictions upgrade`: migrates the prediction log's database, where that isn't to wait for
the first replica (a job before an update, with a user that may change the schema). Replicas do it by themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .database import OUTAGE, make_engine
from .migrate import upgrade
from .settings import PredictionLogError, database_url


def main() -> int:
    """Exit code 0: the database has this release's schema, or a newer one."""
    parser = argparse.ArgumentParser(prog="python -m windlass_server.predictions", description=__doc__)
    parser.add_argument("command", choices=["upgrade"])
    parser.add_argument(
        "--predictions",
        metavar="URL",
        default=os.environ.get("WINDLASS_PREDICTIONS"),
        help="sqlite:////file or postgresql://user@host/database, as for windlass-server",
    )
    parser.add_argument(
        "--predictions-file",
        metavar="FILE",
        type=Path,
        default=os.environ.get("WINDLASS_PREDICTIONS_FILE"),
        help="file with the URL, when it has a password",
    )
    parser.add_argument("--state-dir", type=Path, default=Path(os.environ.get("WINDLASS_STATE_DIR", ".")))
    arguments = parser.parse_args()
    try:
        given = arguments.predictions_file.read_text("utf-8") if arguments.predictions_file else arguments.predictions
        url = database_url(given, arguments.state_dir)
        if url is None:
            print("the prediction log is off; there is nothing to do")
            return 0
        engine = make_engine(url)
        try:
            upgrade(engine)
        finally:
            engine.dispose()
    except PredictionLogError as error:
        print(error, file=sys.stderr)
        return 2
    except OUTAGE as error:
        print(f"the prediction log can't be migrated: {getattr(error, 'orig', None) or error}", file=sys.stderr)
        return 1
    print(f"{url.render_as_string(hide_password=True)} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

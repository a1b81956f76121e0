"""`helm test`: asks the Service for a prediction of each model that it serves, as a client does."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

URL = os.environ["URL"]
NO_VERSION = (
    "No replica is ready. If there is no ModelVersion yet, apply one; else `kubectl get modelversions` says why"
)
ZEROS = {"BOOL": False, "BYTES": ""}


def ask(path: str, body: object = None) -> tuple[dict, Message]:
    """The answer to a GET, or to a POST of `body`, and its headers. Raises `OSError`."""
    request = urllib.request.Request(URL + path, headers={"Content-Type": "application/json"})
    if body is not None:
        request.data = (body if isinstance(body, str) else json.dumps(body)).encode()
    if os.environ.get("API_KEY_FILE"):
        lines = Path(os.environ["API_KEY_FILE"]).read_text().splitlines()
        key = next(line.strip() for line in lines if line.strip() and not line.startswith("#"))
        request.add_header("X-API-Key", key)
    context = None
    if URL.startswith("https:"):
        # The test is about predictions: the certificate is for the clients' name, not for the Service's.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        return json.loads(answer.read() or b"null"), answer.headers


def wait_until_ready(seconds: float) -> None:
    """Returns once the Service leads to a ready replica; ends the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask("/v2/health/ready")
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{NO_VERSION}. Last seen: {error}")
            time.sleep(1)  # a Service tells nobody that a replica is ready
        else:
            return


def zeros(model: dict) -> dict:
    """A request of one row of zeros for a model, made from what it says of its inputs."""
    inputs = []
    for tensor in model["inputs"]:
        shape = [max(length, 1) for length in tensor["shape"]]
        count = 1
        for length in shape:
            count *= length
        data = [ZEROS.get(tensor["datatype"], 0)] * count
        inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data})
    return {"inputs": inputs}


def requests() -> list[tuple[str, object]]:
    """What to post, and where."""
    if path := os.environ.get("TEST_PATH"):
        return [(path, os.environ.get("TEST_BODY", ""))]
    index, _ = ask("/v2/repository/index", {"ready": True})
    names = sorted({model["name"] for model in index})
    if not names:
        sys.exit(NO_VERSION)
    return [(f"/v2/models/{name}/infer", zeros(ask(f"/v2/models/{name}")[0])) for name in names]


def main() -> None:
    """Ends with 0 only if every prediction was answered by a version of the plan."""
    wait_until_ready(float(os.environ["TIMEOUT"]))
    for path, body in requests():
        try:
            answer, headers = ask(path, body)
        except urllib.error.HTTPError as error:
            sys.exit(
                f"{path} answers {error.code}: {error.read().decode(errors='replace')}\nIf the model takes no zeros, "
                "give a request of your own in test.path and test.body"
            )
        lacking = [name for name in ("X-Model-Version", "X-Model-Digest", "X-Plan-Epoch") if name not in headers]
        if lacking or not answer:
            sys.exit(f"{path} is answered {str(answer)[:200]}, without {', '.join(lacking) or 'a body'}")
        print(f"{path} was answered by version {headers['X-Model-Version']}, epoch {headers['X-Plan-Epoch']}")


main()

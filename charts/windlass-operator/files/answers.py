"""`helm test`: an operator acts, and its control endpoint refuses who shows no token."""

import http.client
import os
import ssl
import sys
import time

HOST = os.environ["OPERATOR"]
DEADLINE = time.monotonic() + 60
ASKED = "/control/v1/servers/helm-test/plan"


def status(connection: http.client.HTTPConnection, path: str) -> int:
    """What a GET is answered with."""
    connection.request("GET", path)
    return connection.getresponse().status


def unverified() -> ssl.SSLContext:
    """This test shows nothing secret, so it needn't know whom it talks to."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def answers() -> str:
    """What isn't right; empty when all is."""
    try:
        if (code := status(http.client.HTTPConnection(HOST, 8011, timeout=5), "/readyz")) != 200:
            return f"/readyz answers {code}"
        control = http.client.HTTPSConnection(HOST, 8010, timeout=5, context=unverified())
        if (code := status(control, ASKED)) != 401:
            return f"the control endpoint answers {code} to who shows no token; 401 is expected"
    except OSError as error:
        return f"{HOST} can't be reached: {error}"
    return ""


while wrong := answers():
    if time.monotonic() > DEADLINE:
        sys.exit(f"{wrong}. Look at: kubectl logs deployment/windlass-operator")
    time.sleep(1)  # a Service tells nobody that its operator acts
print(f"{HOST} acts, and its control endpoint asks for a token")

"""What only some tests need: official images, or what stands in for them, and a registry to push to."""

import json
import time

import pytest
from windlass_lab.errors import CommandError, LabError
from windlass_lab.extras import STAND_IN, Extras
from windlass_lab.testing.waiting import until

pytestmark = pytest.mark.lab

HARDENED = """
    read_only: true
    cap_drop: [ALL]
    security_opt: [no-new-privileges:true]
"""


# --- PostgreSQL ----------------------------------------------------------------------------------------------

DATABASE = f"""
services:
  postgres:
    image: postgres:16
    user: "999:999"
    {HARDENED.strip()}
    environment:
      POSTGRES_USER: windlass
      POSTGRES_DB: predictions
      POSTGRES_PASSWORD_FILE: /run/secrets/password
    secrets: [password]
    tmpfs: [/tmp, /run/postgresql]
    volumes:
      - data:/var/lib/postgresql/data
      - ./first.sql:/docker-entrypoint-initdb.d/first.sql:ro
    healthcheck:
      {{test: [CMD, pg_isready, -h, 127.0.0.1, -U, windlass], start_period: 60s, start_interval: 500ms}}
volumes: {{data: }}
secrets: {{password: {{file: ./password}}}}
"""


@pytest.fixture
def database(compose_project, official_image):
    """PostgreSQL with a database of its own, filled by a file; the project."""
    assert official_image("postgres") == "postgres:16"
    compose_project.write(compose_yaml=DATABASE)
    (compose_project.folder / "first.sql").write_text("CREATE TABLE swaps (version int); INSERT INTO swaps VALUES (1);")
    (compose_project.folder / "password").write_text("correct horse")
    for name in ("first.sql", "password"):
        (compose_project.folder / name).chmod(0o644)
    compose_project.up()
    return compose_project


def ask(project, sql, password="correct horse", user="windlass"):
    """What psql prints, through TCP and with a password."""
    url = f"postgresql://{user}:{password.replace(' ', '%20')}@postgres/predictions"
    return project("exec", "-T", "postgres", "psql", url, "-tAc", sql).strip()


def test_postgresql_takes_its_settings_as_the_official_image_does(database):
    assert ask(database, "SELECT version FROM swaps") == "1"
    assert ask(database, "SHOW data_directory") == "/var/lib/postgresql/data"
    with pytest.raises(CommandError, match="password authentication failed"):
        ask(database, "SELECT 1", password="guessed")


def test_postgresql_keeps_its_rows_when_its_container_is_made_anew(database):
    ask(database, "INSERT INTO swaps VALUES (2)")
    database("down")
    database.up()
    assert ask(database, "SELECT count(*) FROM swaps") == "2"


def test_postgresql_without_a_password_says_what_to_set(docker_engine, official_image):
    with pytest.raises(CommandError, match="POSTGRES_PASSWORD"):
        docker_engine("run", "--rm", official_image("postgres"))


# --- nginx ---------------------------------------------------------------------------------------------------

FRONT = f"""
services:
  front:
    image: nginx:stable
    {HARDENED.strip()}
    cap_add: [NET_BIND_SERVICE, SETUID, SETGID, CHOWN]
    environment: {{BEHIND: "app:8080"}}
    tmpfs: [/run, /var/cache/nginx, /etc/nginx/conf.d]
    volumes: [./front.conf:/etc/nginx/templates/default.conf.template:ro]
    healthcheck: {{test: [CMD, curl, -sf, http://127.0.0.1/health], start_period: 60s, start_interval: 500ms}}
  app:
    image: APP
"""
FRONT_CONF = """
server {
  listen 80;
  location / { proxy_pass http://${BEHIND}; proxy_set_header Host $host; }
}
"""


@pytest.fixture
def front(compose_project, official_image, app_built):
    """nginx before the small service, its configuration a template; the project."""
    assert official_image("nginx") == "nginx:stable"
    compose_project.write(compose_yaml=FRONT.replace("APP", app_built))
    (compose_project.folder / "front.conf").write_text(FRONT_CONF)
    compose_project.up()
    return compose_project


def test_nginx_fills_its_template_and_passes_requests_on(front):
    answer = json.loads(front("exec", "-T", "front", "curl", "-s", "http://127.0.0.1/"))
    assert answer["version"] == "1"
    assert "GET / HTTP" in front("logs", "front"), "the access log is on standard output"


def test_nginx_ends_at_once_when_it_is_stopped(front):
    start = time.monotonic()
    front("stop", "front")
    assert time.monotonic() - start < 5
    assert front.containers()["front"]["State"]["ExitCode"] == 0


# --- what stands in for what ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "said"), [("postgres", "PostgreSQL) 15"), ("nginx", "nginx/1.22")])
def test_a_stand_in_says_what_it_is(standing_lab, docker_engine, official_image, name, said):
    labels = docker_engine.inspect(official_image(name))["Config"]["Labels"] or {}
    assert (STAND_IN in labels) == (standing_lab.mode == "built")
    if standing_lab.mode == "built":
        log = docker_engine("run", "--rm", "--env=POSTGRES_PASSWORD=x", official_image(name), name, "-V")
        assert "this is not the official image" in log
        assert said in log


def test_a_second_wish_for_the_same_takes_no_build(standing_lab, official_image):
    official_image("postgres")
    start = time.monotonic()
    assert Extras(standing_lab.home, standing_lab.versions, standing_lab.mode).image("postgres") == "postgres:16"
    assert time.monotonic() - start < 2


def test_an_extra_that_is_not_there_is_named_with_those_that_are(official_image):
    with pytest.raises(LabError, match=r"no extra 'redis'; it has nginx, postgres"):
        official_image("redis")


# --- an S3 server --------------------------------------------------------------------------------------------


@pytest.fixture
def ask_s3(docker_engine, official_image):
    """A function that asks an S3 server which wants keys; what it is given goes to curl, `signed` or not."""
    keys = ("--env=ROOT_ACCESS_KEY=lab", "--env=ROOT_SECRET_KEY=a-long-secret")
    server = docker_engine("run", "--detach", "--tmpfs=/data", *keys, official_image("s3"), "posix", "/data").strip()
    curl = ("run", "--rm", f"--network=container:{server}", official_image("nginx"), "curl", "-sS", "--fail-with-body")

    def ask(path, *options, signed=True):
        user = ("--user", "lab:a-long-secret", "--aws-sigv4", "aws:amz:us-east-1:s3") if signed else ()
        unhashed = ("--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD")
        return docker_engine(*curl, *user, *unhashed, *options, f"http://127.0.0.1:7070/{path}")

    try:
        until("the server answers", lambda: "ListAllMyBuckets" in ask(""))
        yield ask
    finally:
        docker_engine("rm", "--force", "--volumes", server)


def test_an_object_is_kept_and_given_to_those_with_keys(ask_s3):
    ask_s3("models", "--request", "PUT")
    ask_s3("models/cats/1/model", "--request", "PUT", "--data", "weights")
    assert ask_s3("models/cats/1/model") == "weights"
    assert "<Key>cats/1/model</Key>" in ask_s3("models?list-type=2&prefix=cats%2F")
    with pytest.raises(CommandError, match="403"):
        ask_s3("models/cats/1/model", signed=False)

#!/bin/bash
# Does what the official image documents: POSTGRES_PASSWORD, POSTGRES_USER and POSTGRES_DB, each also as _FILE,
# POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD, /docker-entrypoint-initdb.d. All but the last start only fill an
# empty PGDATA.
set -euo pipefail

given() { # given NAME DEFAULT: $NAME, or the content of the file that $NAME_FILE names
  local file=$1_FILE
  if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then echo "error: both $1 and $file are set" >&2; exit 1; fi
  if [ -n "${!file:-}" ]; then cat "${!file}"; else printf %s "${!1:-$2}"; fi
}

fill() {
  local user password database method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256} file
  user=$(given POSTGRES_USER postgres) password=$(given POSTGRES_PASSWORD '')
  database=$(given POSTGRES_DB "$user")
  if [ -z "$password" ] && [ "$method" != trust ]; then
    echo "error: the database has no password; set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
    exit 1
  fi
  # shellcheck disable=SC2086  # several arguments
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
  # only through the socket: nobody else sees the server before it is filled
  pg_ctl --wait -o "-c listen_addresses=''" start
  ask() { psql -v ON_ERROR_STOP=1 --no-psqlrc --username="$user" --no-password "$@"; }
  if [ "$database" != postgres ]; then
    ask --dbname=postgres --set=name="$database" <<<'CREATE DATABASE :"name";'
  fi
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) ask --dbname="$database" --file="$file" ;;
      *.sql.gz) gunzip -c "$file" | ask --dbname="$database" ;;
    esac
  done
  pg_ctl --wait --mode=fast stop
}

if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ]; then
  echo "this is not the official image: $(postgres --version) stands in for it"
  mkdir -p "$PGDATA" /var/run/postgresql
  if [ "$(id -u)" = 0 ]; then
    chmod 00700 "$PGDATA" && chmod 03775 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql \! -user postgres -exec chown postgres:postgres {} +
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then fill; fi
fi
exec "$@"

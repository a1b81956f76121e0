#!/bin/sh
# Does what the official image documents: the scripts of /docker-entrypoint.d, and templates/*.template to conf.d with
# the environment's variables filled in (NGINX_ENVSUBST_FILTER, _TEMPLATE_DIR, _TEMPLATE_SUFFIX, _OUTPUT_DIR);
# NGINX_LOCAL_RESOLVERS with NGINX_ENTRYPOINT_LOCAL_RESOLVERS.
set -eu

templates() {
  from=${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}
  suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
  to=${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}
  [ -d "$from" ] || return 0
  # only what is set: nginx has variables of its own, written the same way
  names=$(env | cut -d= -f1 | grep -E "${NGINX_ENVSUBST_FILTER:-.}" | sed 's/.*/${&}/' | tr '\n' ' ')
  find "$from" -follow -type f -name "*$suffix" | while read -r file; do
    result=$to/${file#"$from"/}
    result=${result%"$suffix"}
    mkdir -p "$(dirname "$result")"
    envsubst "$names" <"$file" >"$result"
  done
}

if [ "$1" = nginx ]; then
  echo "this is not the official image: Debian's $(nginx -v 2>&1 | sed 's/.*: //') stands in for it"
  if [ -n "${NGINX_ENTRYPOINT_LOCAL_RESOLVERS:-}" ]; then
    NGINX_LOCAL_RESOLVERS=$(awk '$1 == "nameserver" {print ($2 ~ ":" ? "[" $2 "]" : $2)}' /etc/resolv.conf | xargs)
    export NGINX_LOCAL_RESOLVERS
  fi
  templates
  for file in /docker-entrypoint.d/*; do
    case $file in
      *.envsh) [ ! -x "$file" ] || . "$file" ;;
      *.sh) [ ! -x "$file" ] || "$file" ;;
    esac
  done
fi
exec "$@"

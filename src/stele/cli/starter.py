"""The commented `stele.yaml` that `stele init` writes."""

from __future__ import annotations

STARTER = """\
# yaml-language-server: $schema=./stele.schema.json
# What is sealed, and how it is run. Every field: docs/spec/spec.md. Unknown fields are refused.
stele: 0
name: {name}

# What runs: an absolute path inside the sealed tree. No shell, unless you name one.
command: [/usr/bin/myapp, --listen, "0.0.0.0:8080"]
env:
  TZ: UTC
user: "65534:65534"          # uid:gid as numbers; root inside is nobody outside, but still not needed
workdir: /

# Ports: `container` inside, `host` published on this machine (leave out: reachable only from the host itself).
ports:
  - {{container: 8080, host: 18080}}

# Everything is read-only but these paths. tmpfs dies with the instance; a volume is kept. Nothing on them executes.
writable:
  - {{path: /tmp, size: 16MiB}}
# - {{path: /var/lib/myapp, kind: volume, volume: data, owner: "65534:65534", mode: "0750"}}

# Files that are settings: sealed too, last, so that changing one makes a small new release.
# settings:
#   - {{path: /etc/myapp.conf, source: myapp.conf}}

# A release serves only after this answers 2xx or 3xx (without `http`: accepts a connection).
health:
  port: 8080
  http: /
  interval: 1s
  start: 15s

stop: {{signal: TERM, grace: 10s}}
network: {{egress: none}}    # `any` lets it open connections of its own

# What each kind of violation leads to: freeze (keep as evidence, replace) or report (record only).
# watch: {{exec: freeze, forbidden: freeze, scripts: freeze, writes: report}}

# The time that every sealed file gets, in seconds since 1970. Left alone, what did not change stays the same from one
# release to the next, and updates move only the rest. Set it (to your commit's time, say) only if something in the
# application tells versions apart by file times alone, as an HTTP server's ETag of static files may.
# time: 1735689600
"""

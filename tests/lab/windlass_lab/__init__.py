"""The lab: a real Docker Engine and a real kind cluster by one command, also on a machine that can pull no image.

It uses nothing but Python's standard library, so that it runs before anything is installed:

    PYTHONPATH=tests/lab python3 -m windlass_lab up      (or: make lab)

Where Docker, kind, kubectl and Helm are there and images can be pulled, it uses them. Elsewhere it builds them from
their published Go modules, pinned under `modules/`, and makes the base images out of Debian's packages.
`windlass_lab.fixtures` is the pytest plugin for what is tested on it.
"""

"""The driver for Kubernetes: ModelVersions in, one ConfigMap per server out, with statuses and Events for people.

| module | what |
|---|---|
| `api` | requests to the API server, by who we are logged in as |
| `watching` | kopf, in a thread of its own: what changes in the cluster |
| `seeing` | lists, watch and looks; which namespaces can't be seen |
| `cluster` | what was seen last of ModelVersions, Pods and Deployments |
| `objects` | what one object says |
| `store` | plan and record: the ConfigMap `<server>-windlass-plan` |
| `lease` | who acts |
| `reviews`, `issuer` | whose control token it is: by TokenReview, else the issuer's keys, and the Pod's label |
| `certificate`, `authority` | the control endpoint's certificate, and the CA that replicas trust |
| `samples` | acceptance samples from ConfigMaps |
| `telling` | statuses and Events |
| `driver` | all of them together |

kopf carries the watches, with selectors on the server's side. It keeps nothing in the objects: no finalizer, no
annotation. All else goes through a small client of our own on aiohttp, since kopf's is private, and the official
clients cost more memory than the rest of the operator.
"""

"""The control endpoint: replicas subscribe to their plan here, and post what they hold.

`Hub` is what a driver fills (plans, samples, whether it acts) and reads (reports); `endpoint` puts it on HTTP;
`auth` says whose token a request carries. Nothing here knows where plans come from.
"""

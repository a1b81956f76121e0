"""The driver for one machine, Compose and Swarm: ModelVersion files in, plans, status files and events out.

It never writes the directory of ModelVersions; all that it knows stands in its state folder:

| file | what |
|---|---|
| `servers/<server>.json` | plan and record, in one atomic write: the durable object, which replicas may read too |
| `status/<name>.yaml` | the status of each ModelVersion, for people and the command line |
| `events.jsonl` | what happened, bounded |
| `objects.json` | what each file last said when it was valid, with its generation |
| `tokens/<server>` | the control token of each server |
| `lock` | held by the one that acts |
"""

"""Host: the only contact with the operating system.

One doorway per outside thing: processes (`proc`), durable writes (`durable`), mounts (`mounts`),
fanotify, cgroups, network, HTTP. Kernel differences are decided once, in `probe`.
Imports `model` and `trust`. Called by the stages and by `flow`.
"""

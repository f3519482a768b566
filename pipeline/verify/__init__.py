"""`sealstream verify`: proof from what stands on the topics that nothing was lost and nothing counted twice.

Needs no worker and no key. The checks are pure over `log.Log`s: what they were given, and a private directory on disk.
"""

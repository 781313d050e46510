"""The engine: decides by `core`, records in the journal, acts through executors, results and the watcher.

Import its modules one by one: who only plans does not pay for HTTP, mail and processes.
"""

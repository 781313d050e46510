"""N tasks in huey on SQLite: the queue is filled, then threads of one consumer work it off.

`with_huey.py N WORKERS`, by the Python of the peers.
"""

import os
import subprocess
import sys
import threading

from huey import SqliteHuey

count, workers = int(sys.argv[1]), int(sys.argv[2])
queue = SqliteHuey(filename="huey.db")
left = threading.Semaphore(0)


@queue.task()
def work() -> None:
    """Do one task."""
    subprocess.run(["/bin/sh", "-c", "true"], check=True)
    left.release()


for _ in range(count):
    work()
consumer = queue.create_consumer(workers=workers, periodic=False, initial_delay=0.001, max_delay=0.01)
consumer.start()
for _ in range(count):
    left.acquire()
os._exit(0)

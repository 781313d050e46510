"""What Prometheus is told: counts of what was recorded, what is true now, and the page over HTTP (SPEC section 6).

`tally` is a sink of the engine, `present` looks at the state when somebody asks, `page` writes both, `site` says what
is where, `server` speaks HTTP, and `Monitor` is all of it, put together by the daemon.
"""

from wizflowd.metrics.monitor import Monitor, Subject
from wizflowd.metrics.web_config import read_web_config

__all__ = ["Monitor", "Subject", "read_web_config"]

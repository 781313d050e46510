"""For all tests: on a busy machine a slow example is no finding."""

from hypothesis import HealthCheck, settings

settings.register_profile("wizflowd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wizflowd")

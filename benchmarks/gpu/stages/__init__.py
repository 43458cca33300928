"""What each stage measures: a module with ``measure(settings, record)``, run by ``stage``."""

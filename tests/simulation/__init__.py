"""The core under a virtual clock, a faulty broker and dying workers, all driven by a seed."""

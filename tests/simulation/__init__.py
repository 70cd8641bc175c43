"""The core under a virtual clock, a lying broker and dying workers, all of it driven by a seed."""

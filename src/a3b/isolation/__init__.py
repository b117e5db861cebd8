"""Bounded, killable work: deadlines for what runs in threads, and processes (`host`, `worker`) for what cannot stop."""
